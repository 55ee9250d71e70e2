"""A new user's configuration against an issuer that others wrote and certified: the printed token is what was asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.e2e.rig import API, OWNER, Background, Rig
from tests.standins.oidc_provider import OidcProvider, client

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.node

HOSTILE = "a+b%2F/c&d=e f, long enough"  # every character that a form, a URL or Basic could damage
UMLAUT = "ü+ö%/&= ß, long enough"
KEY = ec.generate_private_key(ec.SECP256R1())
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
CONFIGURATION = """\
version = 1

[vault]
backend = "op"
account = "my.1password.com"

[issuers.main]
url = "{issuer}"

[clients.post]
issuer = "main"
agent_type = "interactive"
owner = "{owner}"
client_id = "op://Agents/post/username"
client_secret = "op://Agents/post/credential"

[clients.umlaut]
issuer = "main"
agent_type = "interactive"
owner = "{owner}"
client_id = "op://Agents/umlaut/username"
client_secret = "op://Agents/umlaut/credential"

[clients.basic]
issuer = "main"
agent_type = "autonomous"
owner = "{owner}"
client_id = "basic"
client_secret = "op://Agents/basic/credential"
auth = "client_secret_basic"

[clients.signed]
issuer = "main"
agent_type = "autonomous"
owner = "{owner}"
client_id = "signed"
private_key = "op://Agents/signed/private key"
key_id = "k1"
auth = "private_key_jwt"

[profiles.post]
clients = ["post"]
resource = "{api}"
scopes = ["search:read"]

[profiles.umlaut]
clients = ["umlaut"]
resource = "{api}"
scopes = ["search:read", "search:write"]

[profiles.basic]
clients = ["basic"]
resource = "{api}"
scopes = ["search:read"]

[profiles.signed]
clients = ["signed"]
resource = "{api}"
scopes = ["search:write"]

[[rules]]
profile = "[pu]*"
decide = "allow"
treat_as = "interactive"

[[rules]]
profile = "*"
decide = "allow"
treat_as = "autonomous"
"""


@dataclass(frozen=True)
class Setup:
    """A running daemon and its issuer."""

    rig: Rig
    idp: OidcProvider


def registrations() -> list[dict[str, Any]]:
    """Return the four clients as the issuer knows them."""
    both = "search:read search:write"
    public = jwt.get_algorithm_by_name("ES256").to_jwk(KEY.public_key(), as_dict=True)
    return [
        client("post", HOSTILE, owner=OWNER, agent_type="interactive"),
        client("umlaut", HOSTILE, utf8_secret=UMLAUT, scope=both, owner=OWNER, agent_type="interactive"),
        client("basic", HOSTILE, owner=OWNER, agent_type="autonomous"),
        client(
            "signed",
            scope=both,
            owner=OWNER,
            agent_type="autonomous",
            token_endpoint_auth_method="private_key_jwt",
            token_endpoint_auth_signing_alg="ES256",
            jwks={"keys": [{**public, "kid": "k1", "use": "sig", "alg": "ES256"}]},
        ),
    ]


@pytest.fixture(scope="module")
def setup(beside: Background) -> Iterator[Setup]:
    """One issuer and one daemon: one unlock serves all of these tests, whatever their order."""
    idp = beside.enter(OidcProvider.start(clients=registrations()))
    with Rig() as rig:
        rig.op.add_item("Agents", "post", {"username": "post", "credential": HOSTILE})
        rig.op.add_item("Agents", "umlaut", {"username": "umlaut", "credential": UMLAUT})
        rig.op.add_item("Agents", "basic", {"credential": HOSTILE})
        rig.op.add_item("Agents", "signed", {"private key": PEM})
        rig.configure(CONFIGURATION.format(issuer=idp.issuer, owner=OWNER, api=API))
        with rig.serve():
            assert rig.broker("unlock").out == "unlocked: op, 6 secrets in memory\n"
            yield Setup(rig, idp)
        assert rig.op.prompts() == 1
        assert rig.op.leaks() == []


@pytest.mark.parametrize(
    ("profile", "agent_type", "scope"),
    [
        pytest.param("post", "interactive", "search:read", id="a secret of special characters in the body"),
        pytest.param("umlaut", "interactive", "search:read search:write", id="a secret beyond ASCII in the body"),
        pytest.param("basic", "autonomous", "search:read", id="a secret of special characters by Basic"),
        pytest.param("signed", "autonomous", "search:write", id="a signed assertion instead of a secret"),
    ],
)
def test_printed_token_verifies_and_says_what_the_profile_asked(
    setup: Setup, profile: str, agent_type: str, scope: str
) -> None:
    """Signature by the issuer's published keys; audience, scopes, owner and agent type as config.toml has them."""
    token = setup.rig.token(profile).token
    key = jwt.PyJWKClient(f"{setup.idp.issuer}/jwks").get_signing_key_from_jwt(token)
    claims = jwt.decode(token, key, ["ES256"], audience=API, issuer=setup.idp.issuer)
    assert (claims["client_id"], claims["scope"]) == (profile, scope)
    assert (claims["owner"], claims["agent_type"]) == (OWNER, agent_type)


def test_fewer_scopes_than_the_profile_has_are_a_token_of_their_own(setup: Setup) -> None:
    token = setup.rig.token("umlaut", "--scope", "search:write").token
    assert jwt.decode(token, options={"verify_signature": False})["scope"] == "search:write"
