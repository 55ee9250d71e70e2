"""TokenEndpoint against the certified oidc-provider, which we did not write: we cannot both be wrong the same way."""

from __future__ import annotations

import json
import secrets
import time
from typing import TYPE_CHECKING, Any

import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.standins.oidc_provider import OidcProvider, client
from tokenbroker.config import IssuerConfig
from tokenbroker.errors import CredentialRejected, IssuerError, IssuerMisconfigured
from tokenbroker.issuers.token_endpoint import TokenEndpoint
from tokenbroker.model import Credentials, Instant, IssuerAnswer, Secret

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

pytestmark = [pytest.mark.node, pytest.mark.asyncio(loop_scope="module")]

ASCII = "p@ss+wo%rd/&= x, long enough"  # oidc-provider takes only ASCII by Basic
UMLAUT = "p@ss+wo%rd/&= xü, long enough"
API = "https://api.example"
SHARED = "p@ss+wo%rd/&= x, long enough for SHA-512, which is a lot longer than most secrets"
RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())

# Counted from the start of the request, so that what is left of the second in the JWT's whole-second `iat` is not.
TTL: Any = pytest.approx(299, abs=1.01)


class RealClock:
    def now(self) -> Instant:
        return Instant(time.time(), time.monotonic())

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


def signer(client_id: str, key: Any, algorithm: str) -> dict[str, Any]:
    public = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return client(
        client_id,
        token_endpoint_auth_method="private_key_jwt",
        token_endpoint_auth_signing_alg=algorithm,
        jwks={"keys": [{**public, "kid": "k1", "use": "sig", "alg": algorithm}]},
    )


CLIENTS = [
    client("basic", ASCII, owner="o@example.com", agent_type="interactive"),
    client("umlaut", ASCII, utf8_secret=UMLAUT, scope="search:read search:write"),
    signer("rs256", RSA_KEY, "RS256"),
    signer("ps256", RSA_KEY, "PS256"),
    signer("es256", EC_KEY, "ES256"),
    *(
        client(
            f"hs{bits}",
            SHARED,
            token_endpoint_auth_method="client_secret_jwt",
            token_endpoint_auth_signing_alg=f"HS{bits}",
        )
        for bits in (256, 384, 512)
    ),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def idp() -> AsyncIterator[OidcProvider]:
    """One provider for the whole file: it takes most of a second to start."""
    async with OidcProvider.start(clients=CLIENTS, ttl=300) as provider:
        yield provider


async def ask(
    idp: OidcProvider,
    credentials: Credentials,
    *,
    scopes: tuple[str, ...] = ("search:read",),
    resource: str | None = API,
    times: int = 1,
    jti: Callable[[], str] = secrets.token_urlsafe,
    **config: Any,
) -> IssuerAnswer:
    issuer = IssuerConfig("main", **({"url": idp.issuer} | config))
    endpoint = TokenEndpoint(issuer, clock=RealClock(), env={}, jti=jti)
    try:
        for _ in range(times):
            answer = await endpoint.issue(credentials, scopes=scopes, audience=None, resource=resource, extra={})
    finally:
        await endpoint.close()
    return answer


def pem(key: PrivateKeyTypes) -> Secret:
    return Secret(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


def secret(client_id: str, text: str, method: str = "basic", **more: Any) -> Credentials:
    return Credentials(client_id, auth=f"client_secret_{method}", client_secret=Secret(text), **more)


@pytest.mark.parametrize(
    "credentials",
    [
        pytest.param(secret("basic", ASCII), id="special characters by Basic, encoded by RFC 6749"),
        pytest.param(secret("basic", ASCII, "post"), id="special characters in the body"),
        pytest.param(secret("umlaut", UMLAUT, "post"), id="an umlaut in the body"),
    ],
)
async def test_a_secret_of_any_characters_gets_a_token(idp: OidcProvider, credentials: Credentials) -> None:
    answer = await ask(idp, credentials)
    assert (answer.token_type, answer.lifetime, answer.scope) == ("Bearer", TTL, ("search:read",))


async def test_the_token_is_a_jwt_for_the_resource_with_its_owner(idp: OidcProvider) -> None:
    """The audience comes from the resource indicator (RFC 8707), and the claims can be checked."""
    claims = (await ask(idp, secret("basic", ASCII))).claims
    assert claims is not None
    named = {name: claims[name] for name in ("iss", "aud", "scope", "owner", "agent_type", "client_id")}
    assert named == {
        "iss": idp.issuer,
        "aud": API,
        "scope": "search:read",
        "owner": "o@example.com",
        "agent_type": "interactive",
        "client_id": "basic",
    }


async def test_without_a_resource_the_token_is_opaque(idp: OidcProvider) -> None:
    answer = await ask(idp, secret("basic", ASCII), resource=None, scopes=(), introspection="never")
    assert answer.claims is None


async def test_the_token_endpoint_can_be_configured(idp: OidcProvider) -> None:
    assert (await ask(idp, secret("basic", ASCII), url=None, token_endpoint=idp.token_endpoint)).lifetime == TTL


async def test_a_final_slash_is_another_issuer(idp: OidcProvider) -> None:
    with pytest.raises(IssuerMisconfigured, match="calls itself") as raised:
        await ask(idp, secret("basic", ASCII), url=f"{idp.issuer}/")
    assert f'url = "{idp.issuer}"' in str(raised.value.hint)


async def test_raw_basic_is_refused_with_the_way_out(idp: OidcProvider) -> None:
    with pytest.raises(IssuerMisconfigured, match="invalid_request") as raised:
        await ask(idp, secret("basic", ASCII, basic_encoding="raw"))
    assert 'basic_encoding = "rfc6749"' in str(raised.value.hint)


@pytest.mark.parametrize(
    ("credentials", "asked", "kind", "code"),
    [
        pytest.param(secret("basic", "wrong"), {}, CredentialRejected, "invalid_client", id="a wrong secret"),
        pytest.param(secret("nobody", ASCII), {}, CredentialRejected, "invalid_client", id="an unknown client"),
        pytest.param(
            secret("basic", ASCII),
            {"scopes": ("search:write",)},
            IssuerMisconfigured,
            "invalid_scope",
            id="scope not granted",
        ),
        pytest.param(
            secret("basic", ASCII),
            {"resource": "https://no.example"},
            IssuerMisconfigured,
            "invalid_target",
            id="wrong target",
        ),
    ],
)
async def test_refusals(
    idp: OidcProvider, credentials: Credentials, asked: dict[str, Any], kind: type[IssuerError], code: str
) -> None:
    with pytest.raises(kind, match=code) as raised:
        await ask(idp, credentials, **asked)
    assert type(raised.value) is kind


async def test_a_wrong_target_is_named_with_its_key(idp: OidcProvider) -> None:
    with pytest.raises(IssuerMisconfigured) as raised:
        await ask(idp, secret("basic", ASCII), resource="https://no.example")
    assert "check resource = 'https://no.example' in the profile" in str(raised.value.hint)


async def test_a_scope_that_the_server_does_not_know_is_dropped_and_we_see_it(idp: OidcProvider) -> None:
    """The server answers 200 with less than asked; the answer says so, for the broker to refuse."""
    answer = await ask(idp, secret("basic", ASCII), scopes=("no:such", "search:read"))
    assert answer.scope == ("search:read",)


@pytest.mark.parametrize(
    ("client_id", "key", "config"),
    [
        pytest.param("rs256", RSA_KEY, {}, id="RS256"),
        pytest.param("ps256", RSA_KEY, {"assertion_alg": "PS256"}, id="PS256"),
        pytest.param("es256", EC_KEY, {}, id="ES256"),
        pytest.param("es256", EC_KEY, {"assertion_audience": "token_endpoint"}, id="for the token endpoint"),
        pytest.param("es256", EC_KEY, {"assertion_header": "x5t"}, id="named by x5t"),
        pytest.param("rs256", RSA_KEY, {"assertion_header": "x5t#S256"}, id="named by x5t#S256"),
        pytest.param("es256", EC_KEY, {"assertion_ttl": 30.0}, id="for half a minute"),
    ],
)
async def test_a_signed_assertion_gets_a_token_twice(
    idp: OidcProvider, client_id: str, key: PrivateKeyTypes, config: dict[str, Any]
) -> None:
    """Twice, because the server refuses an assertion whose jti it has seen."""
    credentials = Credentials(client_id, auth="private_key_jwt", private_key=pem(key), key_id="k1")
    assert (await ask(idp, credentials, times=2, **config)).lifetime == TTL


@pytest.mark.parametrize("bits", [256, 384, 512])
async def test_a_secret_that_signs_gets_a_token_twice(idp: OidcProvider, bits: int) -> None:
    credentials = Credentials(f"hs{bits}", auth="client_secret_jwt", client_secret=Secret(SHARED))
    assert (await ask(idp, credentials, times=2, assertion_alg=f"HS{bits}")).lifetime == TTL


async def test_a_literal_audience_is_sent_as_it_is(idp: OidcProvider) -> None:
    credentials = Credentials("es256", auth="private_key_jwt", private_key=pem(EC_KEY))
    assert (await ask(idp, credentials, assertion_audience=f"{idp.issuer}/token")).lifetime == TTL


async def test_a_used_jti_is_rejected(idp: OidcProvider) -> None:
    """So that the tests that ask twice prove that each assertion has one of its own."""
    credentials = Credentials("es256", auth="private_key_jwt", private_key=pem(EC_KEY))
    with pytest.raises(CredentialRejected, match="invalid_client"):
        await ask(idp, credentials, times=2, jti=lambda: "always the same")


async def test_a_jwk_and_a_key_file_get_tokens(idp: OidcProvider) -> None:
    """The key id comes from them: the server looks the key up by it."""
    jwk = jwt.get_algorithm_by_name("RS256").to_jwk(RSA_KEY, as_dict=True)
    file = {"type": "application", "keyId": "k1", "key": pem(RSA_KEY).reveal(), "clientId": "rs256"}
    for key in ({**jwk, "kid": "k1"}, file):
        credentials = Credentials("rs256", auth="private_key_jwt", private_key=Secret(json.dumps(key)))
        assert (await ask(idp, credentials)).lifetime == TTL


async def test_an_assertion_for_someone_else_is_rejected(idp: OidcProvider) -> None:
    credentials = Credentials("es256", auth="private_key_jwt", private_key=pem(EC_KEY))
    with pytest.raises(CredentialRejected, match="invalid_client"):
        await ask(idp, credentials, assertion_audience="https://other.example")


async def test_an_assertion_by_another_key_is_rejected(idp: OidcProvider) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(CredentialRejected, match="invalid_client"):
        await ask(idp, Credentials("es256", auth="private_key_jwt", private_key=pem(other)))
