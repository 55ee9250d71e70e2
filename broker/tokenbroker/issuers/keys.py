"""What signs a client's assertions: its private key, or its secret (RFC 7523 §2.2, OpenID Connect Core §9)."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tokenbroker.errors import IssuerMisconfigured
from tokenbroker.issuers import keyfiles

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenbroker.config import IssuerConfig
    from tokenbroker.issuers.keyfiles import KeyFile
    from tokenbroker.model import Credentials, Secret

MIN_RSA_BITS: Final = 2048  # RFC 7518 §3.3
HMAC_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}  # at least, RFC 7518 §3.2
_RSA: Final = "`openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048`"
_P256: Final = "`openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`"
_DIGESTS: Final = {"x5t": "sha1", "x5t#S256": "sha256"}  # RFC 7515 §4.1.7, §4.1.8


@dataclass(frozen=True, slots=True)
class SigningKey:
    """What signs the assertions of one client."""

    private: Any = field(repr=False)
    """What PyJWT signs with."""
    algorithms: tuple[str, ...]
    """The signatures that it can make; the first is made when none is configured."""
    header: Mapping[str, str] = field(default_factory=dict)
    """What tells the issuer which of the client's keys it is: `kid`, `x5t` or `x5t#S256`."""
    name: str = "private_key"
    """The configuration's word for it."""


def signing_key(credentials: Credentials, config: IssuerConfig) -> SigningKey:
    """Return the key in `credentials.private_key`; its file's own key id is used when the configuration has none.

    Takes a millisecond. Raises `IssuerMisconfigured` for a key that is missing, cannot sign, or is another client's.
    """
    secret = needed(credentials.private_key, "private_key", credentials, config)
    try:
        file = keyfiles.read(secret.reveal())
        fits = _fits(file)
        header = _header(credentials, config, file)
    except keyfiles.Unusable as error:
        problem = unusable(error, config)
    else:
        _check_client(file, credentials, config)
        return SigningKey(file.private, fits, header)
    raise problem


def secret_key(credentials: Credentials, config: IssuerConfig) -> SigningKey:
    """Return the client's secret as a key: its octets in UTF-8 (OpenID Connect Core §10.1).

    Raises `IssuerMisconfigured` for a secret that is shorter than its HMAC demands.
    """
    octets = needed(credentials.client_secret, "client_secret", credentials, config).reveal().encode()
    fits = tuple(name for name, least in HMAC_BYTES.items() if len(octets) >= least)
    wanted = config.assertion_alg or "HS256"
    if wanted in HMAC_BYTES and wanted not in fits:
        raise IssuerMisconfigured(
            f"issuer `{config.name}`: {wanted} needs a client_secret of at least {HMAC_BYTES[wanted]} bytes "
            "(RFC 7518 §3.2), and the client's is shorter",
            hint="have the issuer make a longer secret, or set auth to client_secret_basic or client_secret_post",
        )
    header = {"kid": credentials.key_id} if credentials.key_id else {}
    return SigningKey(octets, fits, header, name="client_secret")


def needed(value: Secret | None, name: str, credentials: Credentials, config: IssuerConfig) -> Secret:
    """Return what the client's method cannot do without. Raises `IssuerMisconfigured` when it is not there."""
    if value is None:
        raise IssuerMisconfigured(
            f"issuer `{config.name}`: auth {credentials.auth} needs a {name}, the client has none",
            hint=f"set {name} in [clients], or another auth",
        )
    return value


def unusable(error: keyfiles.Unusable, config: IssuerConfig) -> IssuerMisconfigured:
    """Return the error to raise, outside of the handler, for what the vault has."""
    return IssuerMisconfigured(f"issuer `{config.name}`: the client's {error.name} {error.what}", hint=error.hint)


def _fits(file: KeyFile) -> tuple[str, ...]:
    """Return the signatures that the key can make, that which its file asks for first. Raises `Unusable`."""
    from cryptography.hazmat.primitives.asymmetric import ec, rsa  # noqa: PLC0415  # late, as in `keyfiles`

    fits: tuple[str, ...]
    match file.private:
        case rsa.RSAPrivateKey(key_size=bits) if bits < MIN_RSA_BITS:
            raise keyfiles.Unusable(
                f"is an RSA key of {bits} bits, and {MIN_RSA_BITS} are the least (RFC 7518 §3.3)",
                f"make one with {_RSA} and register its public half at the issuer",
            )
        case rsa.RSAPrivateKey():
            fits = ("RS256", "PS256")
        case ec.EllipticCurvePrivateKey(curve=ec.SECP256R1()):
            fits = ("ES256",)
        case ec.EllipticCurvePrivateKey(curve=curve):
            raise keyfiles.Unusable(
                f"is a key of curve {curve.name}, and ES256 needs P-256",
                f"make one with {_P256} and register its public half at the issuer",
            )
        case other:
            raise keyfiles.Unusable(
                f"is a key of another kind ({type(other).__name__.removesuffix('PrivateKey')}) than RSA and P-256",
                f"make one with {_RSA} and register its public half at the issuer",
            )
    return tuple(sorted(fits, key=lambda one: one != file.algorithm))


def _header(credentials: Credentials, config: IssuerConfig, file: KeyFile) -> Mapping[str, str]:
    """Return the header that names the key: as configured, as its file says, or of the certificate."""
    name = config.assertion_header
    value = credentials.key_id or (file.key_id if name == "kid" else _thumbprint(credentials, config, file))
    return {name: value} if value else {}


def _thumbprint(credentials: Credentials, config: IssuerConfig, file: KeyFile) -> str | None:
    """Return the thumbprint of the client's certificate, which may stand beside the key in one PEM file."""
    kept = credentials.certificate or credentials.private_key
    ders = keyfiles.certificates(kept.reveal()) if kept is not None else []
    if not ders:
        return None
    keyfiles.check_pair(file.private, ders[0])
    digest = hashlib.new(_DIGESTS[config.assertion_header], ders[0], usedforsecurity=False).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _check_client(file: KeyFile, credentials: Credentials, config: IssuerConfig) -> None:
    if file.client is not None and file.client[1] != credentials.client_id:
        member, value = file.client
        raise IssuerMisconfigured(
            f"issuer `{config.name}`: the client's private_key is a key file of {member} {value[:200]!r}, and its "
            f"client_id is {credentials.client_id!r}",
            hint="set client_id in [clients] to the first, or refer to the key file of the second",
        )
