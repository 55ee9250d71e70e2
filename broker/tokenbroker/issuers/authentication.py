"""How a client proves itself at the token endpoint: secret in the body, secret by Basic, signed assertion.

Rules of this file:
1. No I/O and no clock. Signing takes milliseconds with RSA: call `authenticate` off the event loop for a key.
2. A secret is revealed into the form or header that goes to the issuer, and into nothing else.
"""

from __future__ import annotations

import base64
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote_plus

from tokenbroker.errors import IssuerMisconfigured
from tokenbroker.model import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tokenbroker.config import IssuerConfig
    from tokenbroker.model import Credentials

ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"  # RFC 7523 §2.2
ASSERTION_TTL: Final = 60  # seconds; Box refuses more between iat and exp, Auth0 advises no more
ASSERTION_BACKDATE: Final = 10  # seconds; an issuer's clock may be behind ours
MIN_RSA_BITS: Final = 2048  # RFC 7518 §3.3

_OTHER: Final = {"rfc6749": "raw", "raw": "rfc6749"}


@dataclass(frozen=True, slots=True)
class Occasion:
    """What one token request is made with, beside the credentials."""

    config: IssuerConfig
    issuer: str
    """The issuer identifier."""
    token_endpoint: str
    now: float
    """Epoch seconds."""
    jti: Callable[[], str]
    """Gives a name never used before (RFC 7519 §4.1.7)."""

    @property
    def audience(self) -> str:
        """The `aud` of an assertion, by the configuration: issuers want different ones."""
        named = {"issuer": self.issuer, "token_endpoint": self.token_endpoint}
        return named.get(self.config.assertion_audience, self.config.assertion_audience)


@dataclass(frozen=True, slots=True)
class Proof:
    """What authenticates one token request: pairs for the body, headers, and what of it must never be shown."""

    form: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: tuple[Secret, ...] = ()
    other_encoding: str | None = None
    """The `basic_encoding` that would give a different header; `None` when there is none."""


def authenticate(credentials: Credentials, occasion: Occasion) -> Proof:
    """Make the proof for one request. Raises `IssuerMisconfigured` when the credentials do not fit their method."""
    try:
        return _authenticate(credentials, occasion)
    except UnicodeEncodeError:
        reason = "the client's id or secret is not text"
    # Raised here and not above: the caught error holds the secret.
    raise IssuerMisconfigured(
        f"issuer `{occasion.config.name}`: {reason}", hint="check what [clients] refers to in the vault"
    )


def _authenticate(credentials: Credentials, occasion: Occasion) -> Proof:
    config = occasion.config
    match credentials.auth:
        case "client_secret_post":
            secret = _needed(credentials.client_secret, "client_secret", credentials, config)
            form = (("client_id", credentials.client_id), ("client_secret", secret.reveal()))
            return Proof(form=form, secrets=_spellings(secret))
        case "client_secret_basic":
            return _basic(credentials, _needed(credentials.client_secret, "client_secret", credentials, config), config)
        case "private_key_jwt":
            key = _needed(credentials.private_key, "private_key", credentials, config)
            return _assertion(credentials, key, occasion)
    raise IssuerMisconfigured(
        f"issuer `{config.name}`: unknown client authentication {credentials.auth!r}",
        hint="set auth to client_secret_post, client_secret_basic or private_key_jwt",
    )


def _needed(value: Secret | None, name: str, credentials: Credentials, config: IssuerConfig) -> Secret:
    if value is None:
        raise IssuerMisconfigured(
            f"issuer `{config.name}`: auth {credentials.auth} needs a {name}, the client has none",
            hint=f"set {name} in [clients], or another auth",
        )
    return value


def _basic(credentials: Credentials, secret: Secret, config: IssuerConfig) -> Proof:
    """Build the header by RFC 6749 §2.3.1 (form-encoded first) or raw as RFC 7617, for issuers that do not decode."""
    plain = (credentials.client_id, secret.reveal())
    encoded = (quote_plus(plain[0]), quote_plus(plain[1]))
    raw = credentials.basic_encoding == "raw"
    if raw and ":" in plain[0]:
        raise IssuerMisconfigured(
            f"issuer `{config.name}`: a client id with a colon cannot be sent by raw Basic (RFC 7617 §2)",
            hint=f'set basic_encoding = "rfc6749" or auth = "client_secret_post" in [issuers.{config.name}]',
        )
    header = base64.b64encode(":".join(plain if raw else encoded).encode()).decode()
    return Proof(
        headers={"Authorization": f"Basic {header}"},
        secrets=(*_spellings(secret), Secret(header)),
        other_encoding=_OTHER[credentials.basic_encoding] if plain != encoded else None,
    )


def _assertion(credentials: Credentials, pem: Secret, occasion: Occasion) -> Proof:
    """Sign a client assertion (RFC 7523 §3). Our own lines: authlib's helper re-uses one jti, and signs for an hour."""
    import jwt  # noqa: PLC0415  # 40 ms and the whole of cryptography, for clients with a key alone

    config = occasion.config
    key, algorithm = _load(pem, config)
    issued = int(occasion.now) - ASSERTION_BACKDATE
    claims = {
        "iss": credentials.client_id,
        "sub": credentials.client_id,
        "aud": occasion.audience,
        "jti": occasion.jti(),
        "iat": issued,
        "exp": issued + ASSERTION_TTL,
    }
    headers: dict[str, Any] = {config.assertion_header: credentials.key_id} if credentials.key_id else {}
    signed = jwt.encode(claims, key, algorithm=algorithm, headers=headers)
    form = (
        ("client_id", credentials.client_id),  # RFC 7521 §4.2 makes it optional, Entra does not
        ("client_assertion_type", ASSERTION_TYPE),
        ("client_assertion", signed),
    )
    return Proof(form=form, secrets=(Secret(signed),))


def _load(pem: Secret, config: IssuerConfig) -> tuple[Any, str]:
    """Return the key and the algorithm that fits it."""
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415  # as jwt above
    from cryptography.hazmat.primitives.asymmetric import ec, rsa  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    key: Any = None
    with suppress(ValueError, TypeError, UnsupportedAlgorithm):
        key = load_pem_private_key(pem.reveal().encode(), password=None)
    fits: tuple[str, ...] = ()
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= MIN_RSA_BITS:
        fits = ("RS256", "PS256")
    elif isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        fits = ("ES256",)
    if not fits:
        raise IssuerMisconfigured(
            f"issuer `{config.name}`: the client's private_key is no unencrypted PEM key of RSA (2048 bits or more) "
            "or P-256",
            hint="check what private_key in [clients] refers to, e.g. with `openssl pkey -noout -text`",
        )
    wanted = config.assertion_alg or fits[0]
    if wanted not in fits:
        raise IssuerMisconfigured(
            f"issuer `{config.name}`: assertion_alg {wanted} does not fit the client's key, which can sign "
            f"{' or '.join(fits)}",
            hint=f"correct assertion_alg in [issuers.{config.name}], or leave it out",
        )
    return key, wanted


def _spellings(secret: Secret) -> tuple[Secret, ...]:
    """Return the secret as it stands and as it is written in a form."""
    return (secret, Secret(quote_plus(secret.reveal())))
