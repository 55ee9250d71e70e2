"""How a client proves itself at the token endpoint: secret, signed assertion, certificate, or not at all.

Rules of this file:
1. No I/O and no clock. Keys take milliseconds, and the first one an import: call `authenticate` off the event loop
   where `takes_a_while` says so.
2. A secret is revealed into the form or header that goes to the issuer, and into nothing else.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import quote_plus

from tokenbroker.errors import IssuerMisconfigured
from tokenbroker.issuers.assertions import assertion
from tokenbroker.issuers.certificate import METHODS, ClientCertificate, client_certificate
from tokenbroker.issuers.keys import needed, secret_key, signing_key
from tokenbroker.model import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tokenbroker.config import IssuerConfig
    from tokenbroker.issuers.keys import SigningKey
    from tokenbroker.model import Credentials

ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"  # RFC 7523 §2.2

_OTHER: Final = {"rfc6749": "raw", "raw": "rfc6749"}
_PROVEN_BY_GRANT: Final = frozenset({"jwt-bearer", "github-app"})


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
    beyond_ascii: bool = False
    """Whether Basic has characters to carry about whose encoding issuers differ."""
    certificate: ClientCertificate | None = None
    """What is shown in the TLS handshake."""


def takes_a_while(credentials: Credentials) -> bool:
    """Tell whether making the proof, or the grant's own assertion, takes more than a moment."""
    return bool(credentials.private_key or credentials.certificate) or credentials.auth == "client_secret_jwt"


def shows_certificate(credentials: Credentials) -> bool:
    """Tell whether the client's certificate goes to the issuer, and not only its thumbprint."""
    return credentials.auth in METHODS


def authenticate(credentials: Credentials, occasion: Occasion, *, grant: str = "client_credentials") -> Proof:
    """Make the proof for one request. Raises `IssuerMisconfigured` when the credentials do not fit their method.

    Raises `CredentialRejected` for a certificate that has expired.
    """
    try:
        return _authenticate(credentials, occasion, grant)
    except UnicodeEncodeError:
        reason = "the client's id or secret is not text"
    # Raised here and not above: the caught error holds the secret.
    raise IssuerMisconfigured(
        f"issuer `{occasion.config.name}`: {reason}", hint="check what [clients] refers to in the vault"
    )


def _authenticate(credentials: Credentials, occasion: Occasion, grant: str) -> Proof:
    config = occasion.config
    named = (("client_id", credentials.client_id),)
    match credentials.auth:
        case "client_secret_post":
            secret = needed(credentials.client_secret, "client_secret", credentials, config)
            return Proof(form=(*named, ("client_secret", secret.reveal())), secrets=(secret,))
        case "client_secret_basic":
            return _basic(credentials, needed(credentials.client_secret, "client_secret", credentials, config), config)
        case "private_key_jwt":
            return _asserted(credentials, signing_key(credentials, config), occasion)
        case "client_secret_jwt":
            return _asserted(credentials, secret_key(credentials, config), occasion)
        case "tls_client_auth" | "self_signed_tls_client_auth":
            shown = client_certificate(credentials, occasion)
            return Proof(form=named, certificate=shown)  # RFC 8705 §2: the id stands in the body
        case "none":
            # RFC 7521 §4.1: the assertion names the client already, and Google and Zitadel expect no more.
            return Proof(form=() if grant in _PROVEN_BY_GRANT else named)
    raise IssuerMisconfigured(
        f"issuer `{config.name}`: unknown client authentication {credentials.auth!r}",
        hint="set auth to client_secret_post, client_secret_basic or private_key_jwt",
    )


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
        secrets=(secret, Secret(header)),
        other_encoding=_OTHER[credentials.basic_encoding] if plain != encoded else None,
        beyond_ascii=not "".join(plain).isascii(),
    )


def _asserted(credentials: Credentials, key: SigningKey, occasion: Occasion) -> Proof:
    """Prove the client by a JWT about itself (RFC 7523 §3)."""
    claims = {"iss": credentials.client_id, "sub": credentials.client_id, "aud": occasion.audience}
    signed = assertion(key, claims=claims, occasion=occasion)
    form = (
        ("client_id", credentials.client_id),  # RFC 7521 §4.2 makes it optional, Entra does not
        ("client_assertion_type", ASSERTION_TYPE),
        ("client_assertion", signed.reveal()),
    )
    hidden = () if credentials.client_secret is None else (credentials.client_secret,)
    return Proof(form=form, secrets=(signed, *hidden))
