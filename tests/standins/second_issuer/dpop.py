"""Proofs of possession: RFC 9449 §4.3, checked whole."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tests.standins.second_issuer import jose
from tests.standins.second_issuer.assertions import moment
from tests.standins.second_issuer.refusals import Refused

if TYPE_CHECKING:
    from tests.standins.second_issuer.call import Call
    from tests.standins.second_issuer.state import Nonces, State

PORTS = {"https": 443, "http": 80}
AHEAD = 5
"""Seconds that a proof may come from the future."""


def check(call: Call, state: State, nonces: Nonces, access_token: str | None = None) -> str | None:
    """Return the thumbprint of the proof's key, or None where no proof was sent."""
    proofs = call.header("dpop")
    if not proofs:
        return None
    if len(proofs) > 1:
        raise Refused("bad_proof", "several proofs")
    try:
        jws, jwk = _signed(proofs[0])
        _claims(jws.claims, call, state, access_token)
    except jose.Malformed as error:
        raise Refused("bad_proof", str(error)) from error
    nonces.check(jws.claims.get("nonce"))
    if not state.replays.first("proof", jws.claims["jti"]):
        raise Refused("bad_proof", "jti was used before")
    return jose.thumbprint(jwk)


def _signed(proof: str) -> tuple[jose.Jws, jose.Jwk]:
    jws = jose.parse(proof)
    jwk = jws.header.get("jwk")
    if jws.header.get("typ") != "dpop+jwt":
        raise jose.Malformed("typ is not dpop+jwt")
    if not isinstance(jwk, dict):
        raise jose.Malformed("jwk is missing")
    jose.verify(jws, jose.from_jwk(jwk), jose.ASYMMETRIC)
    return jws, jwk


def _claims(claims: dict[str, Any], call: Call, state: State, access_token: str | None) -> None:
    if not isinstance(claims.get("jti"), str) or not claims["jti"]:
        raise jose.Malformed("jti is missing")
    if claims.get("htm") != call.method:
        raise jose.Malformed(f"htm is {claims.get('htm')}, not {call.method}")
    htu = claims.get("htu")
    if not isinstance(htu, str) or _normal(htu) != _normal(call.url):
        raise jose.Malformed(f"htu is {htu}, not {call.url}")
    now, iat = state.clock.now(), moment(claims, "iat")
    if iat is None or not now - state.face.dpop_window <= iat <= now + AHEAD:
        raise jose.Malformed(f"iat is {iat}, now is {now}")
    if access_token is not None:
        ath = jose.encode(hashlib.sha256(access_token.encode()).digest())
        if claims.get("ath") != ath:
            raise jose.Malformed("ath is not the access token's hash")


def _normal(url: str) -> tuple[str, str, int | None, str]:
    """Return a URL's parts after the normalization of RFC 3986 §6.2.2 and §6.2.3."""
    if "?" in url or "#" in url:
        raise jose.Malformed("htu has a query or a fragment")
    try:
        parts = urlsplit(url)
        port = parts.port or PORTS.get(parts.scheme)
    except ValueError as error:
        raise jose.Malformed("htu is no URL") from error
    return parts.scheme.lower(), parts.hostname or "", port, parts.path or "/"
