"""Signed JSON (RFC 7515, 7517, 7638): read strictly, and verified with a key that somebody else chose.

A header decides nothing here: neither `jku`, `x5u` nor `jwk` brings a key of its own, and no extension is obeyed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from typing import TYPE_CHECKING, Any

import jwt

if TYPE_CHECKING:
    from collections.abc import Mapping

ALGORITHMS = ("ES256", "RS256", "PS256", "EdDSA")  # asymmetric only: a shared key would let every API mint tokens
FAMILIES = {("EC", "P-256"): ("ES256",), ("RSA", None): ("RS256", "PS256"), ("OKP", "Ed25519"): ("EdDSA",)}
MEMBERS = {"EC": ("crv", "x", "y"), "RSA": ("e", "n"), "OKP": ("crv", "x")}
"""What a thumbprint is made of, beside `kty` (RFC 7638 §3.2, RFC 8037 §2)."""
PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
PARTS = 3  # of a compact serialization
_JWS = jwt.PyJWS(options={"enforce_minimum_key_length": True})


class Malformed(Exception):
    """Not a signed JSON object, or not one of ours."""


class BadSignature(Exception):
    """It was signed with another key, or changed since."""


def header(text: str) -> dict[str, Any]:
    """Return the header of a compact serialization, not verified. Raises `Malformed`."""
    parts = text.split(".")
    if len(parts) != PARTS or not text.isascii():
        raise Malformed
    head = strict_object(_decoded(parts[0]))
    if "crit" in head or "b64" in head:  # extensions that change what the signature means (RFC 7515 §4.1.11)
        raise Malformed
    return head


def claims(text: str, key: jwt.PyJWK) -> dict[str, Any]:
    """Return the payload of a compact serialization, verified by `key` and its algorithm alone.

    Raises `Malformed`, `BadSignature`.
    """
    try:
        payload = _JWS.decode(text, key, algorithms=[key.algorithm_name])
    except (jwt.InvalidSignatureError, jwt.InvalidKeyError):
        raise BadSignature from None
    except (jwt.InvalidTokenError, RecursionError):
        raise Malformed from None
    return strict_object(payload)


def strict_object(raw: bytes) -> dict[str, Any]:
    """Parse a JSON object: no name twice, no NaN, no infinity, no depth that exhausts the stack. Raises `Malformed`."""
    try:
        found = json.loads(raw.decode(), object_pairs_hook=_once, parse_constant=_refuse)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        raise Malformed from None
    if not isinstance(found, dict):
        raise Malformed
    return found


def usable(jwk: Mapping[str, Any]) -> dict[str, jwt.PyJWK]:
    """Return a public key by each algorithm that it may be used with; empty if it is none that verifies signatures."""
    kind = jwk.get("kty")
    curve = None if kind == "RSA" else jwk.get("crv")
    # The values are anything that JSON has; a list cannot be looked up.
    family = FAMILIES.get((kind, curve), ()) if isinstance(kind, str) and isinstance(curve, str | None) else ()
    if PRIVATE & jwk.keys():
        return {}
    try:
        return {name: jwt.PyJWK(dict(jwk), name) for name in family if jwk.get("alg", name) == name}
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def thumbprint(jwk: Mapping[str, Any]) -> str:
    """Return the SHA-256 thumbprint of a usable key (RFC 7638 §3)."""
    members = {name: jwk[name] for name in ("kty", *MEMBERS[jwk["kty"]])}
    return digest(json.dumps(members, sort_keys=True, separators=(",", ":")).encode())


def digest(raw: bytes) -> str:
    """Return a SHA-256 hash as these documents write it: base64url, not padded."""
    return base64.urlsafe_b64encode(hashlib.sha256(raw).digest()).rstrip(b"=").decode()


def _decoded(part: str) -> bytes:
    try:
        return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise Malformed from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands there twice")
    return found


def _refuse(constant: str) -> float:
    raise ValueError(constant)
