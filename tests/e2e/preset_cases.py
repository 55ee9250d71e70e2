"""The products behind the presets: who is registered there, what a user answers, and what goes wrong."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.e2e.rig import API, OWNER
from tests.standins.second_issuer import Client, Quota, SecondIssuer, jose

if TYPE_CHECKING:
    from collections.abc import Callable

DAY = dt.timedelta(days=1)
SECRET = "p@ss+wo%rd/&= x"
PROJECT = "urn:zitadel:iam:org:project:id:42:aud"
CLOUD = "https://www.googleapis.com/auth/cloud-platform"
ROBOT = "robot@project.iam.gserviceaccount.com"
VAULT = {"backend": "", "account": "", "vault": "Agents"}
USE = {"agent_type": "autonomous", "owner": OWNER, "profile": "", "program": "", "confirmation": ""}


@cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def pem() -> str:
    return rsa_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def jwk() -> dict[str, Any]:
    return dict(jose.to_jwk(rsa_key().public_key(), kid="k1"))


@dataclass(frozen=True)
class Fault:
    """What goes wrong at the product, and what the doctor makes of its answer."""

    breaks: Callable[[SecondIssuer, Client], object]
    says: str
    hint: str


@dataclass(frozen=True)
class Case:
    """One product: who is registered there, what its user answers, and the faults that it is known for."""

    preset: str
    client: Callable[[], Client]
    target: dict[str, str]
    """Answers about the issuer and what the token is for; `ISSUER` stands for the issuer's address."""
    credential: dict[str, str]
    faults: tuple[Fault, ...]
    written: tuple[str, ...] = ()
    """Lines that the file has because of an answer, beside those that every file has."""
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


def fewer_scopes(_: SecondIssuer, client: Client) -> None:
    client.scopes = ("search:read",)


def other_method(_: SecondIssuer, client: Client) -> None:
    client.auth = "client_secret_post"


def suspended(issuer: SecondIssuer, _: Client) -> None:
    issuer.installations[7].suspended = True


def throttled(issuer: SecondIssuer, _: Client) -> None:
    issuer.throttle(1)


def no_certificate(_: SecondIssuer, client: Client) -> None:
    client.certificates = []


def uninstalled(issuer: SecondIssuer, _: Client) -> None:
    issuer.installations.clear()


def fewer_permissions(issuer: SecondIssuer, _: Client) -> None:
    issuer.installations[7].permissions = {"metadata": "read"}


def forbidden_grant(_: SecondIssuer, client: Client) -> None:
    client.grants = ()


def other_owner(_: SecondIssuer, client: Client) -> None:
    client.owner = "mallory@example.com"


BY_SECRET = {"client_id": "", "client_secret": ""}
BY_KEY = {"client_id": "", "private_key": "", "key_id": "k1"}
READ = {"scopes": "search:read"}
ROTATED = "put the new one there, then `broker unlock`"
BASIC = "client_secret_basic"

CASES = [
    Case(
        "auth0",
        secret_client(scopes=("search:read", "search:write"), audiences=(API,)),
        {"url": "ISSUER", "method": "", "audience": API, "organization": "", "scopes": "search:read search:write"},
        BY_SECRET,
        (
            Fault(
                other_audience,
                "denied access: access_denied (Client is not authorized to access this API)",
                f"authorise this application for the API '{API}' and its scopes at the issuer",
            ),
            Fault(other_secret, "refused the client: access_denied (Unauthorized)", ROTATED),
            Fault(fewer_scopes, "did not grant scope search:write", "grant"),
            Fault(quota_spent, "all 10 of per_hour are used up, more in 60 min", "quota"),
        ),
    ),
    Case(
        "okta",
        secret_client(scopes=("search:read",), auth=BASIC),
        {"url": "ISSUER", "method": "", **READ},
        BY_SECRET,
        (
            Fault(
                no_scopes,
                "refused the request: invalid_scope (One or more scopes are not configured for",
                "grant the scopes to this client at the issuer, or correct scopes in the profile (asked: search:read)",
            ),
            Fault(other_secret, "refused the client: invalid_client (The client secret supplied", ROTATED),
            Fault(
                throttled,
                "cannot answer now: 429 E0000047 (API call exceeded rate limit",
                "broker status",
            ),
        ),
    ),
    Case(
        "okta",
        keyed_client(scopes=("search:read",), auth="private_key_jwt"),
        {"url": "ISSUER", "method": "private_key_jwt", **READ},
        BY_KEY,
        (Fault(other_key, "refused the client: invalid_client", ROTATED),),
        ('auth = "private_key_jwt"', 'key_id = "k1"'),
    ),
    Case(
        "entra",
        secret_client(scopes=("Search.Read",), audiences=("api://app",)),
        {"url": "ISSUER", "method": "", "scopes": "api://app/.default"},
        BY_SECRET,
        (
            Fault(
                expired_secret,
                "says that the client's secret has expired: invalid_client (AADSTS7000222: ",
                "make a new secret at the issuer and put it in the vault, then `broker unlock`",
            ),
            Fault(
                other_secret,
                "refused the client: invalid_client (AADSTS7000215: Invalid client secret provided)",
                "the secret's value, not its id, belongs where the client's client_secret refers",
            ),
            Fault(other_audience, "refused the request: invalid_resource (AADSTS500011: ", "correct scopes in"),
            Fault(throttled, "cannot answer now: 429", "broker status"),
        ),
    ),
    Case(
        "entra",
        certified_client,
        {"url": "ISSUER", "method": "private_key_jwt", "scopes": "api://app/.default"},
        {"client_id": "", "certificate": "", "private_key": ""},
        (
            Fault(
                unknown,
                "does not know the client: unauthorized_client (AADSTS700016: Application was not found",
                "check client_id in [clients], and the tenant in [issuers.main] url",
            ),
            Fault(no_certificate, "refused the client: invalid_client (AADSTS700027: ", ROTATED),
        ),
        ('auth = "private_key_jwt"',),
    ),
    Case(
        "keycloak",
        secret_client(scopes=("search:read",), auth=BASIC),
        {"url": "ISSUER", "method": "", **READ},
        BY_SECRET,
        (
            Fault(
                other_secret,
                "refused the client: unauthorized_client (Invalid client or Invalid client credentials)",
                ROTATED,
            ),
        ),
    ),
    Case(
        "cognito",
        secret_client(scopes=("api/read",), auth=BASIC),
        {"url": "ISSUER", "token_endpoint": "", "method": "", "scopes": "api/read"},
        BY_SECRET,
        (
            Fault(other_secret, "refused the client: invalid_client", ROTATED),
            Fault(no_scopes, "refused the request: invalid_scope", "correct scopes in the profile"),
        ),
        ('token_endpoint = "ENDPOINT"',),
    ),
    Case(
        "pingone",
        secret_client(scopes=("search:read",), auth=BASIC),
        {"url": "ISSUER", "method": "", **READ},
        BY_SECRET,
        (Fault(other_method, "refused the client: invalid_client", ROTATED),),
    ),
    Case(
        "google",
        keyed_client(ROBOT, scopes=(CLOUD,), auth="none"),
        {"scopes": CLOUD},
        {"client_id": ROBOT, "private_key": ""},
        (
            Fault(disabled, "refused the client: invalid_grant (Invalid grant: account not found)", "account is gone"),
            Fault(
                no_scopes, "refused the request: invalid_scope (Invalid OAuth scope", "correct scopes in the profile"
            ),
            Fault(other_key, "refused the client: invalid_grant", ROTATED),
        ),
        (f'client_id = "{ROBOT}"', 'private_key = "op://Agents/ITEM/key.json"'),
        checked="can tell what it holds; the issuer does not say what it holds: it names no introspection endpoint",
    ),
    Case(
        "github-app",
        keyed_client("Iv1.app", auth="none"),
        {"url": "ISSUER", "scopes": "contents:read", "repositories": "one"},
        {"client_id": "Iv1.app", "installation": "7", "private_key": ""},
        (
            Fault(
                suspended,
                "denies installation 7: 403 (This installation has been suspended)",
                "look at the app under the settings of whoever installed it",
            ),
            Fault(
                uninstalled, "knows no installation 7 of this app: 404 (Not Found)", "check installation and client_id"
            ),
            Fault(
                fewer_permissions,
                "refused the request: 422 (The permissions requested",
                "grant the permissions to the app",
            ),
            Fault(other_key, "refused the client: invalid_client (A JSON web token could not be decoded)", ROTATED),
        ),
        ('installation = "7"', 'repositories = ["one"]'),
        checked="it is opaque, so that only the API can tell what it holds",
    ),
    Case(
        "zitadel",
        secret_client(auth=BASIC, scopes=("openid",)),
        {"url": "ISSUER", "method": "", "scopes": f"openid {PROJECT}"},
        BY_SECRET,
        (Fault(disabled, "refused the client: invalid_client", ROTATED),),
    ),
    Case(
        "zitadel",
        keyed_client("1234", auth="none", scopes=("openid",)),
        {"url": "ISSUER", "method": "jwt-bearer", "scopes": f"openid {PROJECT}"},
        {"client_id": "1234", "private_key": ""},
        (Fault(other_key, "refused the client: invalid_grant", ROTATED),),
        ('grant = "jwt-bearer"', 'client_id = "1234"'),
    ),
    Case(
        "workos",
        secret_client(scopes=("search:read",)),
        {"url": "ISSUER", **READ},
        BY_SECRET,
        (Fault(disabled, "refused the client: invalid_client", ROTATED),),
    ),
    Case(
        "stytch",
        secret_client(scopes=("search:read",), auth=BASIC),
        {"url": "ISSUER", **READ},
        BY_SECRET,
        (Fault(other_secret, "refused the client: invalid_client", ROTATED),),
    ),
    Case(
        "descope",
        secret_client(scopes=("search:read",), audiences=(API,)),
        {"url": "ISSUER", "resource": API, **READ},
        BY_SECRET,
        (
            Fault(
                other_audience,
                "refused the request: invalid_target",
                f"check resource = '{API}' in the profile, and that the issuer lets this client have it",
            ),
        ),
    ),
    Case(
        "hydra",
        secret_client(scopes=("search:read",), audiences=(API,), auth=BASIC),
        {"url": "ISSUER", "method": "", "audience": API, **READ},
        BY_SECRET,
        (
            Fault(
                other_audience,
                "refused the request: invalid_target",
                f"check audience = '{API}' in the profile, and that the issuer lets this client have it",
            ),
        ),
        checked="the issuer confirms what it holds",
    ),
    Case(
        "oidc",
        secret_client(scopes=("search:read",), audiences=(API,)),
        {"url": "ISSUER", "method": "", "audience": API, **READ},
        BY_SECRET,
        (
            Fault(
                no_scopes,
                "refused the request: invalid_scope",
                "grant the scopes to this client at the issuer, or correct scopes in the profile (asked: search:read)",
            ),
            Fault(
                forbidden_grant,
                "refused the request: unauthorized_client",
                "allow the client credentials grant for this client",
            ),
            Fault(
                other_owner, f"the token's claim owner is mallory@example.com, client `main` has owner {OWNER}", "owner"
            ),
        ),
    ),
]
