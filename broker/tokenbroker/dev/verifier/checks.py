"""The checks of a token, in order; the first that fails answers, and says which it was. Pure: time is an argument.

What is not known is refused: an algorithm, a type, a claim of another kind than it should be.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from tokenbroker.dev.verifier.jose import ALGORITHMS, Malformed, header
from tokenbroker.dev.verifier.refusal import BEARER, DPOP, Refused, forbidden, invalid, malformed

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

AGENT_TYPES = ("interactive", "autonomous")
MAX_LEEWAY = 30.0  # seconds that two clocks may differ
MAX_TOKEN = 16 * 1024  # characters
ACCESS_TOKEN = frozenset({"at+jwt", "application/at+jwt"})  # RFC 9068 §4
CLIENT_CLAIMS = ("client_id", "azp", "appid")  # RFC 9068; Auth0, Keycloak, Entra 2.0; Entra 1.0
SCOPE_CLAIMS = ("scope", "scp", "permissions", "roles")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # b64token, RFC 6750 §2.1


@dataclass(frozen=True, slots=True)
class Dialect:
    """How an issuer's access tokens differ from RFC 9068. Use `RFC9068`, `AUTH0` or `ENTRA`, or make your own."""

    types: frozenset[str] = ACCESS_TOKEN
    """What `typ` may be, in lower case. With `jwt` among them nothing but the audience keeps an ID token out."""
    token_id: tuple[str, ...] = ("jti",)
    """One of these must name the token; empty: the issuer does not name its tokens, so that none can be told apart."""
    owner: str = "owner"
    """The claim's name; Auth0 wants a namespace: `https://example.com/owner`."""
    agent_type: str = "agent_type"
    org_id: str = "org_id"
    scopes: tuple[str, ...] = SCOPE_CLAIMS
    """Claims that allow something, each a text of words or a list of texts. What they say is taken together."""


RFC9068 = Dialect()
AUTH0 = Dialect(types=ACCESS_TOKEN | {"jwt"}, token_id=())
"""Auth0's default token profile has no `jti`, and `azp` for `client_id`. With its `rfc9068_profile` use `RFC9068`."""
ENTRA = Dialect(types=ACCESS_TOKEN | {"jwt"}, token_id=("uti", "jti"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a token must say to be for this API. Raises `ValueError` for values that would check nothing."""

    issuer: str
    """Compared letter by letter: Auth0's ends in a slash."""
    audience: str
    org_id: str | None = None
    """The only organization that is served; `None` serves tokens of any and of none."""
    leeway: float = MAX_LEEWAY
    """Seconds, from 0 to 30."""
    dialect: Dialect = field(default=RFC9068)

    def __post_init__(self) -> None:
        """Refuse what would check nothing."""
        if not 0 <= self.leeway <= MAX_LEEWAY:
            raise ValueError(f"leeway is {self.leeway}, expected 0 to {MAX_LEEWAY:g} seconds")
        if not self.issuer or not self.audience or self.org_id == "":
            raise ValueError("issuer, audience and org_id must not be empty")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is on the other end, as the issuer vouches for it."""

    client_id: str
    subject: str
    owner: str
    agent_type: str
    scopes: frozenset[str]
    actor: str
    """`act.sub` (RFC 8693 §4.1) where the issuer gives it, else the client."""


def presented(authorization: Sequence[str], *, dpop: bool = False) -> tuple[str, str]:
    """Return scheme and token of the one `Authorization` header. Raises `Refused`.

    `dpop`: whether that scheme (RFC 9449 §7.1) is taken beside Bearer (RFC 6750 §2.1).
    """
    if len(authorization) > 1:
        raise malformed("more than one Authorization header").under(BEARER)
    name, _, token = (authorization[0] if authorization else "").partition(" ")
    schemes = {BEARER.lower(): BEARER, **({DPOP.lower(): DPOP} if dpop else {})}
    scheme = schemes.get(name.lower())
    if scheme is None or not token:
        raise Refused(HTTPStatus.UNAUTHORIZED, None, "a token is needed")
    if len(token) > MAX_TOKEN:
        raise invalid("the token is too long").under(scheme)
    if not _TOKEN.fullmatch(token):
        raise invalid("the token is not a JWT").under(scheme)
    return scheme, token


def head(token: str, types: Collection[str]) -> tuple[str, str]:
    """Return algorithm and key name from the header of `token`; algorithm, type and name are looked at in this order.

    Raises `Refused`.
    """
    try:
        found = header(token)
    except Malformed:
        raise invalid("the token is not a JWT") from None
    if found.get("alg") not in ALGORITHMS:
        raise invalid("the algorithm is not accepted")
    if str(found.get("typ", "")).lower() not in types:
        raise invalid("the token is not an access token")
    if not isinstance(found.get("kid"), str):
        raise invalid("the token names no key")
    return found["alg"], found["kid"]


def addressed(claims: Mapping[str, Any], expected: Expected, *, now: float) -> None:
    """Check issuer, audience and times of verified `claims`; `now` is epoch seconds. Raises `Refused`."""
    if _given(claims, "iss") != expected.issuer:
        raise invalid("the issuer is another")
    audience = _given(claims, "aud")
    if expected.audience not in (audience if isinstance(audience, list) else [audience]):
        raise invalid("the audience is another")
    if now - expected.leeway >= _seconds(claims, "exp"):
        raise invalid("the token has expired")
    latest = max(_seconds(claims, name) for name in ("iat", "nbf") if name == "iat" or name in claims)
    if latest > now + expected.leeway:
        raise invalid("the token is not valid yet")


def caller(claims: Mapping[str, Any], needed: Collection[str], expected: Expected) -> Caller:
    """Return who the verified `claims` speak of, if they allow all of the `needed` scopes. Raises `Refused`."""
    dialect = expected.dialect
    subject = _text(claims, "sub")
    if dialect.token_id:
        _text(claims, *dialect.token_id)
    client_id = _client(claims)
    scopes = _scopes(claims, dialect.scopes)
    if not scopes >= set(needed):
        wanted = " ".join(sorted(needed))
        raise forbidden("insufficient_scope", "the token lacks a scope", scope=wanted)
    owner, agent_type = _text(claims, dialect.owner), _text(claims, dialect.agent_type)
    if agent_type not in AGENT_TYPES:
        raise invalid("the agent_type is unknown")
    if expected.org_id is not None and _text(claims, dialect.org_id) != expected.org_id:
        raise invalid("the organization is another")
    return Caller(client_id, subject, owner, agent_type, scopes, _actor(claims, client_id))


def unbound(claims: Mapping[str, Any]) -> None:
    """Check that the token may be used by whoever bears it. Raises `Refused`."""
    if "cnf" in claims:
        raise invalid("the token is bound to a key and cannot be a bearer token")  # RFC 9449 §7.2, RFC 8705 §3


def _given(claims: Mapping[str, Any], name: str) -> Any:
    if name not in claims:
        raise invalid(f"the claim {name} is missing")
    return claims[name]


def _seconds(claims: Mapping[str, Any], name: str) -> float:
    value = _given(claims, name)
    # 1e999 is valid JSON and becomes infinity; a large integer stays one, and is never made a float.
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or (isinstance(value, float) and not math.isfinite(value)):
        raise invalid(f"the claim {name} is not a number")
    return value  # type: ignore[no-any-return]  # a number, as was just looked


def _text(claims: Mapping[str, Any], *names: str) -> str:
    """Return the first of the claims `names` that is there, which must be a text and not blank."""
    value = next((claims[name] for name in names if name in claims), None)
    if not isinstance(value, str) or not value.strip():
        raise invalid(f"the claim {names[0]} is missing")
    return value


def _client(claims: Mapping[str, Any]) -> str:
    """Return the client; issuers that say it under two names must say the same."""
    named = {_text(claims, name) for name in CLIENT_CLAIMS if name in claims}
    if not named:
        raise invalid(f"the claim {CLIENT_CLAIMS[0]} is missing")
    if len(named) > 1:
        raise invalid("the token names two clients")
    return named.pop()


def _actor(claims: Mapping[str, Any], client_id: str) -> str:
    """Return who acts; an inner `act` tells history and decides nothing (RFC 8693 §4.1)."""
    if "act" not in claims:
        return client_id
    if not isinstance(claims["act"], dict):
        raise invalid("the claim act is not an object")
    return _text(claims["act"], "sub")


def _scopes(claims: Mapping[str, Any], names: Collection[str]) -> frozenset[str]:
    """Return what the token allows, under any of the names that issuers use for it."""
    found: set[str] = set()
    for name in names:
        value = claims.get(name, [])
        words = value.split() if isinstance(value, str) else value
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise invalid(f"the claim {name} is not a list of texts")
        found.update(words)
    return frozenset(found)
