"""JWTs that clients sign: RFC 7523 for authentication and as a grant, RFC 7518 for shared secrets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.standins.second_issuer import jose
from tests.standins.second_issuer.refusals import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from tests.standins.second_issuer.state import Client, State


@dataclass(frozen=True)
class Rules:
    """What an assertion must be. `headers` empty: no header needs to name the key."""

    algs: Collection[str]
    audiences: Collection[str]
    lifetime: int
    skew: int
    headers: Collection[str] = ()
    jti: bool = True


def moment(claims: dict[str, Any], name: str) -> float | None:
    """Return a NumericDate (RFC 7519 §2); anything else is refused."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise jose.Malformed(f"{name} is no NumericDate")
    return float(value)


def key_named(jws: jose.Jws, client: Client, headers: Collection[str]) -> jose.Key:
    """Return the registered key that the header names, by one of `headers`."""
    named = {name: jws.header[name] for name in headers if name in jws.header}
    if not named:
        raise jose.Malformed(f"the header has none of {', '.join(headers)}")
    kid = named.pop("kid", None)
    keys = [jose.from_jwk({"kty": None, **jwk}) for jwk in client.keys if kid is not None and jwk.get("kid") == kid]
    for certificate in client.certificates:
        is_it = {"x5t": jose.x5t(certificate), "x5t#S256": jose.x5t_s256(certificate)}
        if named and all(is_it[name] == value for name, value in named.items()):
            keys.append(certificate.public_key())  # type: ignore[arg-type]  # a test registers RSA and EC only
    if not keys:
        raise jose.Malformed("the header names no registered key")
    return keys[0]


def check(token: str, client: Client, rules: Rules, state: State, key_of: Callable[[jose.Jws], list[jose.Key]]) -> None:
    """Check signature, audience, times and replay of an assertion; `jose.Malformed` says what is wrong."""
    jws = jose.parse(token)
    _verify_any(jws, key_of(jws), rules.algs)
    claims = jws.claims
    _audience(claims.get("aud"), rules.audiences)
    _times(claims, rules, state.clock.now())
    jti = claims.get("jti")
    if jti is None and not rules.jti:
        return
    if not isinstance(jti, str) or not jti:
        raise jose.Malformed("jti is missing")
    if not state.replays.first("assertion", client.id, jti):
        raise jose.Malformed("jti was used before")


def subject_is(token: str, subject: object) -> None:
    """Refuse an assertion about somebody else (RFC 7523 §3)."""
    if jose.parse(token).claims.get("sub") != subject:
        raise jose.Malformed(f"sub is not {subject}")


def _verify_any(jws: jose.Jws, keys: list[jose.Key], algs: Collection[str]) -> None:
    problem = jose.Malformed("no key")
    for key in keys:
        try:
            return jose.verify(jws, key, algs)
        except jose.Malformed as error:
            problem = error
    raise problem


def _audience(aud: object, accepted: Collection[str]) -> None:
    values = aud if isinstance(aud, list) else [aud]
    if not all(isinstance(value, str) for value in values):
        raise jose.Malformed("aud is no string")
    if not set(values) & set(accepted):
        raise jose.Malformed(f"aud is {aud}, not one of {sorted(accepted)}")


def _times(claims: dict[str, Any], rules: Rules, now: float) -> None:
    exp, iat, nbf = (moment(claims, name) for name in ("exp", "iat", "nbf"))
    if exp is None or exp <= now:
        raise jose.Malformed("exp is missing or has passed")
    if max(start for start in (iat, nbf, now) if start is not None) > now + rules.skew:
        raise jose.Malformed("iat or nbf lies in the future")
    begins = now if iat is None else min(iat, now)
    if exp - begins > rules.lifetime + (0 if iat is not None else rules.skew):
        raise jose.Malformed(f"it lives {exp - begins:.0f} s, more than {rules.lifetime} s")


def claimed_client(token: str, reason: str) -> str:
    """Return `iss` of an assertion that nobody has verified yet; refused for `reason` where it has none."""
    try:
        iss = jose.parse(token).claims.get("iss")
    except jose.Malformed as error:
        raise Refused(reason, str(error)) from error
    if not isinstance(iss, str):
        raise Refused(reason, "iss is missing")
    return iss
