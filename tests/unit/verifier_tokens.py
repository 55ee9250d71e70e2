"""Keys, tokens and proofs for the tests of the verifier, made without any of its code."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from tokenbroker.dev.verifier import ANY, Expected, KeySet, KeysUnavailable, Proofs, Routes, Verifier

NOW = 1_800_000_000
ISSUER, AUDIENCE = "https://issuer.example.com/", "https://api.example.com"
METADATA = f"{AUDIENCE}/.well-known/oauth-protected-resource"
KID = "k1"
KEY = ec.generate_private_key(ec.SECP256R1())
HOLDER = ec.generate_private_key(ec.SECP256R1())
ROUTES = {"GET /search": ["search:read"], "POST /search": ["search:write"], "GET /items/{id}": ["items:read"]}


def public(key: Any) -> dict[str, Any]:
    """Return the public half as a JWK."""
    kinds = {ec.EllipticCurvePrivateKey: ECAlgorithm, rsa.RSAPrivateKey: RSAAlgorithm}
    kind = next((found for base, found in kinds.items() if isinstance(key, base)), OKPAlgorithm)
    return kind.to_jwk(key.public_key(), as_dict=True)  # type: ignore[attr-defined, no-any-return]


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def ed_key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def jkt(jwk: dict[str, Any]) -> str:
    """Return the thumbprint of an EC key, by hand (RFC 7638 §3.1)."""
    text = f'{{"crv":"{jwk["crv"]}","kty":"EC","x":"{jwk["x"]}","y":"{jwk["y"]}"}}'
    return b64(hashlib.sha256(text.encode()).digest())


def good(**changes: Any) -> dict[str, Any]:
    """Return claims that pass everything, with these changes; `None` leaves one out."""
    claims = {
        "iss": ISSUER,
        "sub": "agent",
        "aud": AUDIENCE,
        "iat": NOW - 10,
        "exp": NOW + 300,
        "jti": "t1",
        "client_id": "agent",
        "scope": "search:read search:write items:read",
        "owner": "ada@example.com",
        "agent_type": "interactive",
        **changes,
    }
    return {name: value for name, value in claims.items() if value is not None}


def signed(claims: dict[str, Any] | bytes, *, key: Any = KEY, alg: str = "ES256", **head: Any) -> str:
    """Sign what may be no JSON at all, with a header that may be anything."""
    payload = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    header = {"typ": "at+jwt", "kid": KID, **head}
    return jwt.PyJWS().encode(payload, key, alg, {name: value for name, value in header.items() if value is not None})


def proof(
    token: str, *, key: Any = HOLDER, alg: str = "ES256", head: dict[str, Any] | None = None, **claims: Any
) -> str:
    """Make a proof for `GET /search` that passes, with these changes; `None` leaves one out."""
    body = {
        "jti": "p1",
        "htm": "GET",
        "htu": f"{AUDIENCE}/search",
        "iat": NOW,
        "ath": b64(hashlib.sha256(token.encode()).digest()),
        **claims,
    }
    header = {"typ": "dpop+jwt", "jwk": public(HOLDER), **(head or {})}
    kept = {name: value for name, value in body.items() if value is not None}
    return jwt.encode(kept, key, alg, {name: value for name, value in header.items() if value is not None})


@dataclass
class Documents:
    """Where the key set comes from, and how often it was asked for."""

    keys: list[Any] = field(default_factory=lambda: [{**public(KEY), "kid": KID}])
    down: bool = False
    asked: int = 0
    raw: bytes | None = None

    async def fetch(self) -> bytes:
        self.asked += 1
        if self.down:
            raise KeysUnavailable
        return json.dumps({"keys": self.keys}).encode() if self.raw is None else self.raw


def verifier(
    documents: Documents | None = None,
    *,
    grants: tuple[tuple[str, str], ...] = ((ANY, ANY),),
    proofs: Proofs | None = None,
    routes: dict[str, list[str]] | None = None,
    **expected: Any,
) -> Verifier:
    """Return a verifier at the moment `NOW`."""
    return Verifier(
        KeySet((documents or Documents()).fetch, clock=lambda: 0.0),
        Expected(**{"issuer": ISSUER, "audience": AUDIENCE, **expected}),
        Routes(ROUTES if routes is None else routes, grants=grants, public=["GET /health"]),
        resource_metadata=METADATA,
        proofs=proofs,
        clock=lambda: NOW,
    )
