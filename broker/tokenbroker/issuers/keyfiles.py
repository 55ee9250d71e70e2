"""What a vault can hold as a client's private key: PEM, a JWK, or the JSON key file of Google or Zitadel.

Rules of this file:
1. No error tells what the file says, but for what it says that it is; parsers' own errors, which quote, are dropped.
2. RSA keys are not tested for primality: OpenSSL takes 50 to 300 ms for that and the interpreter stands still
   meanwhile. That the numbers belong together is checked here, in microseconds; whoever can put composite factors into
   the person's vault needs no trick.
"""

from __future__ import annotations

import base64
import binascii
import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tokenbroker.issuers.exchange import AmbiguousJson, strict_object

if TYPE_CHECKING:
    from collections.abc import Mapping

_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]{1,40})-----(.*?)-----END \1-----", re.DOTALL)
_PRIVATE: Final = frozenset({"PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"})
_CERTIFICATES: Final = frozenset({"CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE"})
_REFER: Final = "check what it refers to in the vault"


class Unusable(Exception):
    """Something in a vault cannot be used: its name in the configuration, what it is, and the next step."""

    def __init__(self, what: str, hint: str = _REFER, *, name: str = "private_key") -> None:
        """Keep them; `what` is words that follow the name."""
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.name = name


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A private key, and what its file says about it."""

    private: Any = field(repr=False)
    """A private key of `cryptography`, of any kind."""
    client: tuple[str, str] | None = None
    """The client that it is for, as the file's member and its value; `None` where the format has no place for it."""
    key_id: str | None = None
    algorithm: str | None = None
    """The one signature that it is meant for (RFC 7517 §4.4)."""


def read(text: str) -> KeyFile:
    """Return the private key in `text`. Raises `Unusable`."""
    text = text.strip()
    if not text.startswith("{"):
        return KeyFile(_pem_key(text))
    document = _json(text)
    match document.get("type"), document.get("kty"):
        case "service_account", _:
            return KeyFile(
                _pem_key(_member(document, "private_key")),
                ("client_email", _member(document, "client_email")),
                _optional(document, "private_key_id"),
            )
        case "serviceaccount", _:  # Zitadel
            key = _pem_key(_member(document, "key"))
            return KeyFile(key, ("userId", _member(document, "userId")), _optional(document, "keyId"))
        case "application", _:  # Zitadel
            key = _pem_key(_member(document, "key"))
            return KeyFile(key, ("clientId", _member(document, "clientId")), _optional(document, "keyId"))
        case _, str():
            return KeyFile(_jwk_key(document), key_id=_optional(document, "kid"), algorithm=_optional(document, "alg"))
    raise Unusable("is JSON, but neither a JWK nor a key file of a Google or Zitadel service account")


def blocks(text: str) -> list[tuple[str, bytes]]:
    """Return the PEM blocks in `text` (RFC 7468) as label and DER, whatever became of its line ends.

    Text fields of vaults turn them to blanks, and environment files write them as backslash and n. Raises `Unusable`.
    """
    found = [(label, "".join(body.split())) for label, body in _BLOCK.findall(text.replace("\\n", "\n"))]
    if any("ENCRYPTED" in label or "ENCRYPTED" in body for label, body in found):
        raise Unusable(
            "is encrypted with a passphrase, which the vault makes needless",
            "put the output of `openssl pkey -in KEY.pem` in the vault instead",
        )
    with suppress(binascii.Error, ValueError):
        return [(label, base64.b64decode(body, validate=True)) for label, body in found]
    raise Unusable("is damaged PEM: what stands between its lines BEGIN and END is not base64")


def certificates(text: str) -> list[bytes]:
    """Return the certificates in `text` as DER, in order. Raises `Unusable`."""
    try:
        return [der for label, der in blocks(text) if label in _CERTIFICATES]
    except Unusable as error:
        raise Unusable(error.what, error.hint, name="certificate") from None


def chain(text: str) -> list[bytes]:
    """Return the certificates in `text`, of which there is at least one. Raises `Unusable`."""
    found = certificates(text)
    if not found:
        hint = "refer to the text that begins with -----BEGIN CERTIFICATE-----"
        raise Unusable("holds no certificate in PEM", hint, name="certificate")
    return found


def check_pair(private: Any, certificate: bytes) -> Any:
    """Return the certificate parsed, which `private` belongs to. Raises `Unusable`."""
    from cryptography import x509  # noqa: PLC0415  # as below
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415

    parsed = public = None
    with suppress(ValueError, TypeError, UnsupportedAlgorithm):
        parsed = x509.load_der_x509_certificate(certificate)
        public = parsed.public_key()
    if parsed is None or public is None:
        raise Unusable("cannot be read", "look at it with `openssl x509 -noout -text`", name="certificate")
    if public != private.public_key():
        raise Unusable(
            "does not belong to the client's certificate",
            "refer to the two halves of one pair; of several certificates the client's own stands first",
        )
    return parsed


def _pem_key(text: str) -> Any:
    found = blocks(text)
    keys = [der for label, der in found if label in _PRIVATE]
    if len(keys) == 1:
        return _der_key(keys[0])
    if keys:
        raise Unusable("holds more than one private key", "leave the one in it that is registered at the issuer")
    labels = {label for label, _ in found}
    if labels & _CERTIFICATES:
        raise Unusable("holds a certificate, and no private key", "refer to the private key that belongs to it")
    if any("PUBLIC KEY" in label for label in labels):
        raise Unusable("is a public key", "refer to the private key that belongs to it")
    if "OPENSSH PRIVATE KEY" in labels:
        raise Unusable("is in the format of OpenSSH", "convert a copy with `ssh-keygen -p -m PKCS8 -f KEY`")
    if labels:
        raise Unusable(f"holds {' and '.join(sorted(labels)).lower()}, and no private key")
    raise Unusable("is neither PEM nor JSON")


def _der_key(der: bytes) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415  # 60 ms, for clients with a key alone
    from cryptography.hazmat.primitives.serialization import load_der_private_key  # noqa: PLC0415

    key: Any = None
    with suppress(ValueError, TypeError, UnsupportedAlgorithm):
        key = load_der_private_key(der, password=None, unsafe_skip_rsa_key_validation=True)
    if key is None:
        raise Unusable("is damaged, or of a kind that is not known here", "look at it with `openssl pkey -noout -text`")
    return _consistent(key)


def _jwk_key(jwk: Mapping[str, Any]) -> Any:
    """Return the key of a JWK (RFC 7517, RFC 7518 §6). Raises `Unusable`."""
    if jwk["kty"] == "oct":
        raise Unusable(
            "is a symmetric key (kty oct)", 'set auth = "client_secret_jwt" and refer to it as client_secret'
        )
    if "d" not in jwk:
        raise Unusable("is a public key", "refer to the private key that belongs to it: a JWK with `d`")
    if jwk["kty"] not in {"RSA", "EC"}:
        raise Unusable(f"is of a kind (kty {jwk['kty'][:20]!r}) that is not known here", "make one of kty RSA or EC")
    key: Any = None
    with suppress(ValueError, TypeError, KeyError):
        key = _rsa_key(jwk) if jwk["kty"] == "RSA" else _ec_key(jwk)
    if key is None:
        raise Unusable("is a damaged JWK: its numbers are incomplete, or do not fit together")
    return _consistent(key)


def _rsa_key(jwk: Mapping[str, Any]) -> Any:
    from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415  # as above

    n, e, d, p, q, dp, dq, qi = (_number(jwk[name]) for name in ("n", "e", "d", "p", "q", "dp", "dq", "qi"))
    numbers = rsa.RSAPrivateNumbers(p, q, d, dp, dq, qi, rsa.RSAPublicNumbers(e, n))
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)


def _ec_key(jwk: Mapping[str, Any]) -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415  # as above

    curve = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}[jwk["crv"]]
    public = ec.EllipticCurvePublicNumbers(_number(jwk["x"]), _number(jwk["y"]), curve)
    return ec.EllipticCurvePrivateNumbers(_number(jwk["d"]), public).private_key()


def _consistent(key: Any) -> Any:
    """Return `key`, whose numbers belong together (rule 2). Raises `Unusable`."""
    from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415  # as above

    if not isinstance(key, rsa.RSAPrivateKey):
        return key
    numbers = key.private_numbers()
    p, q, d, public = numbers.p, numbers.q, numbers.d, numbers.public_numbers
    if (
        p * q != public.n
        or any((d * public.e - 1) % (prime - 1) for prime in (p, q))
        or (numbers.dmp1, numbers.dmq1) != (d % (p - 1), d % (q - 1))
        or numbers.iqmp * q % p != 1
    ):
        raise Unusable("is damaged: its numbers do not fit together")
    return key


def _number(member: str) -> int:
    """Return a Base64urlUInt (RFC 7518 §2). Raises `ValueError` or `TypeError`."""
    return int.from_bytes(base64.b64decode(member + "=" * (-len(member) % 4), altchars=b"-_", validate=True))


def _json(text: str) -> Mapping[str, Any]:
    # Their errors hold the text.
    with suppress(ValueError, TypeError, AmbiguousJson):
        return strict_object(text.encode())
    raise Unusable("looks like JSON and cannot be read as such")


def _member(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str) or not value:
        raise Unusable(
            f"is a key file without {name}", "download it anew from the issuer, and put all of it in the vault"
        )
    return value


def _optional(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    return value if isinstance(value, str) and value else None
