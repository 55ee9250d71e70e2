"""JWS, JWK and thumbprints by hand: RFC 7515, 7517, 7518, 7638, on `cryptography` alone."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography import x509

    PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
    PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    Key = PublicKey | bytes
    Jwk = dict[str, Any]

ALPHABET = re.compile(r"[A-Za-z0-9_-]*")
DIGESTS: dict[str, hashes.SHA256 | hashes.SHA384 | hashes.SHA512] = {
    "256": hashes.SHA256(),
    "384": hashes.SHA384(),
    "512": hashes.SHA512(),
}
CURVES: dict[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
CURVE_OF = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
ASYMMETRIC = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"},
)
SYMMETRIC = frozenset({"HS256", "HS384", "HS512"})
PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
THUMBPRINT_MEMBERS = {"RSA": ("e", "kty", "n"), "EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x")}


class Malformed(ValueError):
    """What was sent is no JWS, no JWK, or its signature does not fit."""


def encode(data: bytes) -> str:
    """Return base64url without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Return the bytes of `text`; padding, foreign characters and stray bits are refused."""
    if not ALPHABET.fullmatch(text):
        raise Malformed("not base64url")
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError as error:
        raise Malformed("not base64url") from error
    if encode(data) != text:
        raise Malformed("not canonical base64url")
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Malformed("a member appears twice")
    return members


def read_object(data: bytes) -> dict[str, Any]:
    """Return the JSON object in `data`; RFC 7515 §4 forbids a member that appears twice."""
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise Malformed("not JSON") from error
    if not isinstance(value, dict):
        raise Malformed("not a JSON object")
    return value


@dataclass(frozen=True)
class Jws:
    """A parsed compact JWS; nothing about it is verified yet."""

    header: dict[str, Any]
    claims: dict[str, Any]
    signed: bytes
    signature: bytes

    @property
    def alg(self) -> str:
        alg = self.header.get("alg")
        return alg if isinstance(alg, str) else ""


def parse(token: str) -> Jws:
    """Split a compact JWS of three parts; an extension marked critical is refused (RFC 7515 §4.1.11)."""
    parts = token.split(".")
    if len(parts) != 3:
        raise Malformed("not a compact JWS")
    header = read_object(decode(parts[0]))
    if "crit" in header:
        raise Malformed("a critical extension")
    return Jws(header, read_object(decode(parts[1])), ".".join(parts[:2]).encode("ascii"), decode(parts[2]))


def verify(jws: Jws, key: Key, algs: Iterable[str]) -> None:
    """Check the signature under `key`; the algorithm must be one of `algs` and fit the key's kind."""
    if jws.alg not in set(algs):
        raise Malformed(f"algorithm {jws.alg or 'absent'}")
    try:
        _verify(jws, key)
    except InvalidSignature as error:
        raise Malformed("signature") from error


def _verify(jws: Jws, key: Key) -> None:
    family, digest = jws.alg[:2], DIGESTS.get(jws.alg[2:], hashes.SHA256())
    match key:
        case bytes() if family == "HS":
            if not hmac.compare_digest(hmac.digest(key, jws.signed, digest.name), jws.signature):
                raise Malformed("signature")
        case rsa.RSAPublicKey() if family == "RS":
            key.verify(jws.signature, jws.signed, padding.PKCS1v15(), digest)
        case rsa.RSAPublicKey() if family == "PS":
            pss = padding.PSS(padding.MGF1(digest), digest.digest_size)  # RFC 7518 §3.5: salt as long as the hash
            key.verify(jws.signature, jws.signed, pss, digest)
        case ec.EllipticCurvePublicKey() if key.curve.name == getattr(CURVES.get(CURVE_OF.get(jws.alg, "")), "name", 0):
            key.verify(_der(jws.signature, key.curve), jws.signed, ec.ECDSA(digest))
        case ed25519.Ed25519PublicKey() if jws.alg == "EdDSA":
            key.verify(jws.signature, jws.signed)
        case _:
            raise Malformed("the key does not fit the algorithm")


def _der(raw: bytes, curve: ec.EllipticCurve) -> bytes:
    size = (curve.key_size + 7) // 8
    if len(raw) != 2 * size:  # RFC 7518 §3.4: R and S, each padded to the field's size
        raise Malformed("an ECDSA signature of the wrong length")
    return encode_dss_signature(int.from_bytes(raw[:size]), int.from_bytes(raw[size:]))


def sign(header: dict[str, Any], claims: dict[str, Any], key: PrivateKey) -> str:
    """Return a compact JWS; `header["alg"]` is RS256, PS256 or ES256."""
    signed = ".".join(encode(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims))
    match key, header["alg"]:
        case rsa.RSAPrivateKey(), "RS256":
            signature = key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        case rsa.RSAPrivateKey(), "PS256":
            pss = padding.PSS(padding.MGF1(hashes.SHA256()), hashes.SHA256.digest_size)
            signature = key.sign(signed.encode(), pss, hashes.SHA256())
        case ec.EllipticCurvePrivateKey(), "ES256":
            r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
            signature = r.to_bytes(32) + s.to_bytes(32)
        case _:
            raise ValueError(f"no key for {header['alg']}")
    return f"{signed}.{encode(signature)}"


def _number(value: int, size: int | None = None) -> str:
    return encode(value.to_bytes(size or max(1, (value.bit_length() + 7) // 8)))


def to_jwk(key: PublicKey, **members: str) -> Jwk:
    """Return `key` as a public JWK with `members` (kid, alg, use) added."""
    match key:
        case rsa.RSAPublicKey():
            numbers = key.public_numbers()
            return {"kty": "RSA", "n": _number(numbers.n), "e": _number(numbers.e), **members}
        case ec.EllipticCurvePublicKey():
            point, size = key.public_numbers(), (key.curve.key_size + 7) // 8
            name = next(name for name, curve in CURVES.items() if curve.name == key.curve.name)
            return {"kty": "EC", "crv": name, "x": _number(point.x, size), "y": _number(point.y, size), **members}
        case ed25519.Ed25519PublicKey():
            return {"kty": "OKP", "crv": "Ed25519", "x": encode(key.public_bytes_raw()), **members}


def from_jwk(jwk: Jwk) -> PublicKey:
    """Return the public key in `jwk`; a JWK with a private or symmetric member is refused."""
    if PRIVATE_MEMBERS & jwk.keys():
        raise Malformed("a private key")
    try:
        return _from_jwk(jwk)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise Malformed("not a public JWK") from error


def _from_jwk(jwk: Jwk) -> PublicKey:
    match jwk.get("kty"), jwk.get("crv"):
        case "RSA", _:
            n, e = (int.from_bytes(decode(jwk[name])) for name in "ne")
            if n.bit_length() < 2048:  # RFC 7518 §3.3
                raise Malformed("an RSA key under 2048 bits")
            return rsa.RSAPublicNumbers(e, n).public_key()
        case "EC", str(crv):
            x, y = (int.from_bytes(decode(jwk[name])) for name in "xy")
            return ec.EllipticCurvePublicNumbers(x, y, CURVES[crv]).public_key()
        case "OKP", "Ed25519":
            return ed25519.Ed25519PublicKey.from_public_bytes(decode(jwk["x"]))
        case _:
            raise Malformed("not a public JWK")


def thumbprint(jwk: Jwk) -> str:
    """Return the SHA-256 thumbprint of a JWK (RFC 7638 §3)."""
    members = {name: jwk[name] for name in THUMBPRINT_MEMBERS[jwk["kty"]]}
    return encode(hashlib.sha256(json.dumps(members, separators=(",", ":"), sort_keys=True).encode()).digest())


def x5t_s256(certificate: x509.Certificate) -> str:
    """Return a certificate's SHA-256 thumbprint: header `x5t#S256`, and `cnf` of RFC 8705 §3.1."""
    return encode(hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest())


def x5t(certificate: x509.Certificate) -> str:
    """Return a certificate's SHA-1 thumbprint: header `x5t`."""
    return encode(hashlib.sha1(certificate.public_bytes(Encoding.DER), usedforsecurity=False).digest())
