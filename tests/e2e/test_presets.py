"""Each preset as its user meets it: `broker init` asks, what it wrote works, and the doctor says what is broken.

Each product is played by the second issuer, and everything but its address is as `broker init --preset` wrote it. The
daemon is a process of its own; the commands run in this one, which saves most of the time.
"""

from __future__ import annotations

import datetime as dt
import io
import json
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.e2e.rig import API, OWNER, Rig
from tests.e2e.standard import configuration
from tests.standins.second_issuer import Client, Installation, Quota, SecondIssuer, jose
from tokenbroker import cli
from tokenbroker.config.presets import PRESETS
from tokenbroker_client import cli as token_cli

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.e2e.rig import Background

DAY = dt.timedelta(days=1)
SECRET = "p@ss+wo%rd/&= x"
PROJECT = "urn:zitadel:iam:org:project:id:42:aud"
CLOUD = "https://www.googleapis.com/auth/cloud-platform"
ROBOT = "robot@project.iam.gserviceaccount.com"
DEFAULTS = {"backend": "", "account": "", "vault": "Agents"}
USE = {"agent_type": "autonomous", "owner": OWNER, "profile": "", "program": "", "confirmation": ""}


@cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def pem() -> str:
    return rsa_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def jwk() -> dict[str, Any]:
    return dict(jose.to_jwk(rsa_key().public_key(), kid="k1"))


@dataclass(frozen=True)
class Case:
    """One product: who is registered there, what its user answers, and the fault that it is known for."""

    preset: str
    client: Callable[[], Client]
    target: dict[str, str]
    """Answers about the issuer and what the token is for; `ISSUER` stands for the issuer's address."""
    credential: dict[str, str]
    breaks: Callable[[SecondIssuer, Client], object]
    says: str
    """What the doctor then says; `…` stands for anything."""
    hint: str
    written: tuple[str, ...] = ()
    """Lines that the file has because of an answer, beside those that every file has."""
    fields: dict[str, str] = field(default_factory=dict)
    checked: str = "its signature and claims are right"


def secret_client(client_id: str = "agent", **more: Any) -> Callable[[], Client]:
    return lambda: Client(client_id, [SECRET], **{"agent_type": "autonomous", "owner": OWNER, **more})


def keyed_client(client_id: str = "agent", **more: Any) -> Callable[[], Client]:
    return lambda: Client(client_id, keys=[jwk()], **{"agent_type": "autonomous", "owner": OWNER, **more})


def certified_client() -> Client:
    """Return a client with an RSA certificate of its own, as Entra wants it."""
    name, now = x509.Name.from_rfc4514_string("CN=agent"), dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(rsa_key().public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - DAY).not_valid_after(now + DAY)
    certificate = builder.sign(rsa_key(), hashes.SHA256())
    return Client(
        "agent",
        auth="private_key_jwt",
        certificates=[certificate],
        scopes=("Search.Read",),
        audiences=("api://app",),
        agent_type="autonomous",
        owner=OWNER,
    )


def other_secret(_: SecondIssuer, client: Client) -> None:
    client.secrets = ["another"]


def expired_secret(_: SecondIssuer, client: Client) -> None:
    client.secrets, client.expired_secrets = [], [SECRET]


def other_key(_: SecondIssuer, client: Client) -> None:
    client.keys = [jose.to_jwk(rsa.generate_private_key(65537, 2048).public_key(), kid="k1")]


def quota_spent(issuer: SecondIssuer, _: Client) -> None:
    issuer.quota = Quota(remaining=0)


def disabled(_: SecondIssuer, client: Client) -> None:
    client.enabled = False


def unknown(issuer: SecondIssuer, client: Client) -> None:
    del issuer.clients[client.id]


def other_audience(_: SecondIssuer, client: Client) -> None:
    client.audiences = ("https://elsewhere.example",)


def no_scopes(_: SecondIssuer, client: Client) -> None:
    client.scopes = ("other",)


def other_method(_: SecondIssuer, client: Client) -> None:
    client.auth = "client_secret_post"


def suspended(issuer: SecondIssuer, _: Client) -> None:
    issuer.installations[7].suspended = True


BY_SECRET = {"client_id": "", "client_secret": ""}
BY_KEY = {"client_id": "", "private_key": "", "key_id": "k1"}
READ = {"scopes": "search:read"}
ROTATED = "put the new one there, then `broker unlock`"
BASIC = "client_secret_basic"

CASES = [
    Case(
        "auth0",
        secret_client(scopes=("search:read",), audiences=(API,)),
        {"url": "ISSUER", "method": "", "audience": API, "organization": "", **READ},
        BY_SECRET,
        quota_spent,
        "all 10 of per_hour are used up, more in 60 min",
        "quota",
    ),
    Case(
        "auth0",
        secret_client(scopes=("search:read",), audiences=(API,)),
        {"url": "ISSUER", "method": "", "audience": API, "organization": "", **READ},
        BY_SECRET,
        other_audience,
        "denied access: access_denied (Client is not authorized to access this API)",
        f"authorise this application for the API '{API}' and its scopes at the issuer",
    ),
    Case(
        "okta",
        secret_client(scopes=("search:read",), auth=BASIC),
        {"url": "ISSUER", "method": "", **READ},
        BY_SECRET,
        no_scopes,
        "refused the request: invalid_scope (One or more scopes are not configured for the authorization server)",
        "grant the scopes to this client at the issuer, or correct scopes in the profile (asked: search:read)",
    ),
    Case(
        "okta",
        keyed_client(scopes=("search:read",), auth="private_key_jwt"),
        {"url": "ISSUER", "method": "private_key_jwt", **READ},
        BY_KEY,
        other_key,
        "refused the client: invalid_client",
        ROTATED,
        ('auth = "private_key_jwt"', 'key_id = "k1"'),
        {"private key": pem()},
    ),
    Case(
        "entra",
        secret_client(scopes=("Search.Read",), audiences=("api://app",)),
        {"url": "ISSUER", "method": "", "scopes": "api://app/.default"},
        BY_SECRET,
        expired_secret,
        "says that the client's secret has expired: invalid_client (AADSTS7000222: ",
        "make a new secret at the issuer and put it in the vault, then `broker unlock`",
    ),
    Case(
        "entra",
        certified_client,
        {"url": "ISSUER", "method": "private_key_jwt", "scopes": "api://app/.default"},
        {"client_id": "", "certificate": "", "private_key": ""},
        unknown,
        "does not know the client: unauthorized_client (AADSTS700016: Application was not found in the directory",
        "check client_id in [clients], and the tenant in [issuers.main] url",
        ('auth = "private_key_jwt"',),
        {"private key": pem()},
    ),
    Case(
        "keycloak",
        secret_client(scopes=("search:read",), auth=BASIC),
        {"url": "ISSUER", "method": "", **READ},
        BY_SECRET,
        other_secret,
        "refused the client: unauthorized_client (Invalid client or Invalid client credentials)",
        ROTATED,
    ),
    Case(
        "cognito",
        secret_client(scopes=("api/read",), auth=BASIC),
        {"url": "ISSUER", "token_endpoint": "", "method": "", "scopes": "api/read"},
        BY_SECRET,
        other_secret,
        "refused the client: invalid_client",
        ROTATED,
        ('token_endpoint = "ENDPOINT"',),
    ),
    Case(
        "pingone",
        secret_client(scopes=("search:read",), auth=BASIC),
        {"url": "ISSUER", "method": "", **READ},
        BY_SECRET,
        other_method,
        "refused the client: invalid_client",
        ROTATED,
    ),
    Case(
        "google",
        keyed_client(ROBOT, scopes=(CLOUD,), auth="none"),
        {"scopes": CLOUD},
        {"client_id": ROBOT, "private_key": ""},
        disabled,
        "refused the client: invalid_grant (Invalid grant: account not found)",
        ROTATED,
        (f'client_id = "{ROBOT}"', 'private_key = "op://Agents/ITEM/key.json"'),
        checked="it is opaque, so that only the API can tell what it holds",
    ),
    Case(
        "github-app",
        keyed_client("Iv1.app", auth="none"),
        {"url": "ISSUER", "scopes": "contents:read", "repositories": "one"},
        {"client_id": "Iv1.app", "installation": "7", "private_key": ""},
        suspended,
        "denies installation 7: 403 (This installation has been suspended)",
        "look at the app under the settings of whoever installed it",
        ('installation = "7"', 'repositories = ["one"]'),
        {"private key": pem()},
        checked="it is opaque, so that only the API can tell what it holds",
    ),
    Case(
        "zitadel",
        secret_client(auth=BASIC, scopes=("openid",)),
        {"url": "ISSUER", "method": "", "scopes": f"openid {PROJECT}"},
        BY_SECRET,
        disabled,
        "refused the client: invalid_client",
        ROTATED,
    ),
    Case(
        "zitadel",
        keyed_client("1234", auth="none", scopes=("openid",)),
        {"url": "ISSUER", "method": "jwt-bearer", "scopes": f"openid {PROJECT}"},
        {"client_id": "1234", "private_key": ""},
        other_key,
        "refused the client: invalid_grant",
        ROTATED,
        ('grant = "jwt-bearer"', 'client_id = "1234"'),
    ),
    Case(
        "workos",
        secret_client(scopes=("search:read",)),
        {"url": "ISSUER", **READ},
        BY_SECRET,
        disabled,
        "refused the client: invalid_client",
        ROTATED,
    ),
    Case(
        "stytch",
        secret_client(scopes=("search:read",), auth=BASIC),
        {"url": "ISSUER", **READ},
        BY_SECRET,
        other_secret,
        "refused the client: invalid_client",
        ROTATED,
    ),
    Case(
        "descope",
        secret_client(scopes=("search:read",), audiences=(API,)),
        {"url": "ISSUER", "resource": API, **READ},
        BY_SECRET,
        other_audience,
        "refused the request: invalid_target",
        f"check resource = '{API}' in the profile, and that the issuer lets this client have it",
    ),
    Case(
        "hydra",
        secret_client(scopes=("search:read",), audiences=(API,), auth=BASIC),
        {"url": "ISSUER", "method": "", "audience": API, **READ},
        BY_SECRET,
        other_audience,
        "refused the request: invalid_target",
        f"check audience = '{API}' in the profile, and that the issuer lets this client have it",
        checked="the issuer confirms what it holds",
    ),
    Case(
        "oidc",
        secret_client(scopes=("search:read",), audiences=(API,)),
        {"url": "ISSUER", "method": "", "audience": API, **READ},
        BY_SECRET,
        no_scopes,
        "refused the request: invalid_scope",
        "grant the scopes to this client at the issuer, or correct scopes in the profile (asked: search:read)",
    ),
]


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """A user whose daemon runs for all of these tests, on a configuration that nobody needs."""
    with Rig() as made:
        made.op.person("approve", delay=0.0)
        made.configure(configuration("http://127.0.0.1:9"))
        with made.serve():
            yield made


class Person:
    """Types commands, in this process."""

    def __init__(self, rig: Rig, capfd: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self._capfd = capfd
        self._patch = patch
        self.config = str(rig.config)
        for name, value in rig.environ().items():
            patch.setenv(name, value)

    def broker(self, *arguments: str, stdin: str = "") -> tuple[int, str]:
        """Run `broker`; return its status and what it printed."""
        self._patch.setattr(sys, "stdin", io.StringIO(stdin))
        self._capfd.readouterr()
        code = cli.main(arguments)
        out, err = self._capfd.readouterr()
        return code, out + err

    def token(self, *arguments: str) -> str:
        """Run `broker-token`."""
        self._capfd.readouterr()
        code = token_cli.main(arguments)
        out, err = self._capfd.readouterr()
        assert (code, err) == (0, "")
        return out.removesuffix("\n")


@pytest.fixture
def person(rig: Rig, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Person:
    return Person(rig, capfd, monkeypatch)


def in_vault(rig: Rig, case: Case, client: Client, issuer: SecondIssuer) -> str:
    """Put what the client proves itself by into the vault; return the item's name."""
    item = f"item-{len(rig.op.store.look()['items'])}"
    fields = {"username": client.id, "credential": SECRET, **case.fields}
    files = {}
    if client.certificates:
        fields["certificate"] = client.certificates[0].public_bytes(Encoding.PEM).decode()
    if case.preset == "google":
        told = {"type": "service_account", "client_email": client.id, "private_key": pem(), "private_key_id": "k1"}
        files["key.json"] = json.dumps({**told, "token_uri": issuer.token_endpoint})
    if case.preset == "zitadel":
        told = {"type": "serviceaccount", "userId": client.id, "key": pem(), "keyId": "k1"}
        files["key.json"] = json.dumps(told)
    rig.op.add_item("Agents", item, fields, files=files)
    return item


def findings(text: str, word: str) -> list[str]:
    return [line[6:] for line in text.splitlines() if line.startswith(word.ljust(6))]


def wrote(person: Person, case: Case, issuer: SecondIssuer, item: str) -> str:
    """Answer the questions; return the file."""
    answers = {**case.target, **DEFAULTS, "item": item, **case.credential, **USE}
    places = {"ISSUER": issuer.url, "ENDPOINT": issuer.token_endpoint}
    typed = "".join(f"{places.get(answer, answer)}\n" for answer in answers.values())
    code, said = person.broker("init", "--preset", case.preset, "--force", "--config", person.config, stdin=typed)
    assert code == 0, said
    path = Path(person.config)
    text = path.read_text()
    for line in case.written:
        assert line.replace("ITEM", item).replace("ENDPOINT", issuer.token_endpoint) in text.splitlines()
    if case.preset == "google":  # which has one address for all the world
        text = text.replace('preset = "google"', f'preset = "google"\ntoken_endpoint = "{issuer.token_endpoint}"')
        path.write_text(text)
    return text


def ids(case: Case) -> str:
    return f"{case.preset}: {case.breaks.__name__.replace('_', ' ')}"


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_a_preset_from_the_first_question_to_the_fault(
    case: Case, rig: Rig, person: Person, beside: Background
) -> None:
    """What `broker init` wrote gives a token of the product's; broken, the doctor names cause and next step."""
    client = case.client()
    issuer = beside.enter(SecondIssuer.start(case.preset, [client]))
    issuer.installations[7] = Installation("Iv1.app")
    text = wrote(person, case, issuer, in_vault(rig, case, client, issuer))
    for implied in ("basic_encoding", "assertion_", "granted_scopes", "token_issuer"):
        assert implied not in text
    assert person.broker("reload")[0] == 0
    assert person.broker("unlock")[0] == 0

    code, said = person.broker("doctor", "--config", person.config)
    assert (code, findings(said, "FAULT")) == (0, [])
    (found,) = [
        line for line in findings(said, "ok") if line.startswith("client `main`, profile `main`: a token with ")
    ]
    assert found.endswith(case.checked)
    assert person.token("main", "--as", "autonomous") == issuer.minted[-1].token
    assert len(issuer.minted) == 1

    assert person.broker("revoke", "--all")[0] == 0
    case.breaks(issuer, client)
    code, said = person.broker("doctor", "--config", person.config)
    (fault,) = findings(said, "FAULT")
    assert code == 1
    assert fault.startswith("client `main`, profile `main`: issuer `main` (")
    assert case.says in fault
    (hint,) = [
        after for before, after in zip(said.splitlines(), said.splitlines()[1:], strict=False) if fault in before
    ]
    assert case.hint in hint
    for hidden in (SECRET, "PRIVATE KEY", "eyJ"):
        assert hidden not in said


def test_every_preset_is_met() -> None:
    assert {case.preset for case in CASES} == set(PRESETS)
