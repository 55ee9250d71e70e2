"""Check a bearer token the way that a protected API should: an example to copy, about 200 lines.

Rules of this file:
1. The checks run in the order in which they are written; the first that fails answers, and says which it was.
2. What is not known is refused: an algorithm, a type, a key, a route without scopes.
3. A token is never part of an answer or an error.

An answer of 401 (RFC 6750 §3) means "get another token", 403 "this token does not reach that far", 503 "the keys
cannot be had, so nothing can be said of the token", which must not make a client throw away a good one.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import aiohttp
import jwt
from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from aiohttp.typedefs import Handler, Middleware
    from jwt.types import Options

ALGORITHMS = ("ES256", "RS256", "PS256", "EdDSA")  # asymmetric only: a shared key would let every API mint tokens
TYPES = ("at+jwt", "application/at+jwt")  # RFC 9068 §4; keeps an ID token from passing as an access token
AGENT_TYPES = ("interactive", "autonomous")
LEEWAY = 30.0  # seconds that two clocks may differ
MAX_TOKEN = 16 * 1024  # characters
MAX_KEYS = 64 * 1024  # bytes of a key set
KEYS_FRESH = 300.0  # seconds that a key set is used without asking again
KEYS_PAUSE = 30.0  # seconds between requests that an unknown key causes, so that forged names cannot flood the issuer
KEYS_TIMEOUT = 5.0  # seconds


class Refused(Exception):
    """The request is not let through; `challenge` becomes the answer's `WWW-Authenticate` parameters."""

    def __init__(self, status: HTTPStatus, error: str | None, reason: str, *, scope: str | None = None) -> None:
        """Keep the answer: `error` of RFC 6750 §3.1, `None` where the request carried no token at all."""
        super().__init__(reason)
        self.status = status
        self.error = error
        self.reason = reason
        self.scope = scope

    def challenge(self, resource_metadata: str) -> str:
        """Return the `WWW-Authenticate` value (RFC 6750 §3, RFC 9728 §5.1)."""
        fields = {"error": self.error, "error_description": self.error and self.reason, "scope": self.scope}
        shown = [f'{name}="{value}"' for name, value in fields.items() if value]
        return "Bearer " + ", ".join([*shown, f'resource_metadata="{resource_metadata}"'])


def _invalid(reason: str) -> Refused:
    return Refused(HTTPStatus.UNAUTHORIZED, "invalid_token", reason)


class KeysUnavailable(Exception):
    """The issuer's keys cannot be fetched and none is at hand."""


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


class KeySet:
    """The issuer's public keys, fetched when needed and kept.

    Concurrent callers share one fetch. While the issuer does not answer, known keys go on being used.
    """

    def __init__(self, jwks_uri: str, session: aiohttp.ClientSession, *, clock: Callable[[], float]) -> None:
        """Fetch from `jwks_uri` with `session`; `clock` gives seconds that never go back."""
        self._uri = jwks_uri
        self._session = session
        self._clock = clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._asked = float("-inf")
        self._lock = asyncio.Lock()

    async def find(self, kid: str) -> jwt.PyJWK | None:
        """Return the key of that name, `None` if the issuer has none. Raises `KeysUnavailable`."""
        async with self._lock:
            key, age = self._keys.get(kid), self._clock() - self._asked
            if age >= (KEYS_FRESH if key else KEYS_PAUSE) or not self._keys:
                try:
                    self._keys = await self._fetch()
                except (aiohttp.ClientError, TimeoutError, TypeError, ValueError, jwt.PyJWTError) as error:
                    if key is None:
                        raise KeysUnavailable from error
                self._asked = self._clock()
            return self._keys.get(kid)

    async def _fetch(self) -> dict[str, jwt.PyJWK]:
        timeout = aiohttp.ClientTimeout(total=KEYS_TIMEOUT)
        async with self._session.get(self._uri, timeout=timeout, allow_redirects=False) as answer:
            body = await answer.content.read(MAX_KEYS + 1)
            while len(body) <= MAX_KEYS and (more := await answer.content.read(MAX_KEYS)):
                body += more
            if answer.status != HTTPStatus.OK or len(body) > MAX_KEYS:
                raise ValueError("the key set was not answered in form")
        document = json.loads(body)
        if not isinstance(document, dict):
            raise TypeError("the key set is not an object")
        keys = jwt.PyJWKSet.from_dict(document).keys
        return {key.key_id: key for key in keys if key.key_id and key.public_key_use in {None, "sig"}}


class Verifier:
    """Decides over the `Authorization` header of one API."""

    def __init__(
        self,
        keys: KeySet,
        *,
        issuer: str,
        audience: str,
        clock: Callable[[], float] = time.time,
        leeway: float = LEEWAY,
    ) -> None:
        """Trust `issuer` alone, for tokens made for `audience`; `clock` gives epoch seconds, `leeway` is seconds."""
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._clock = clock
        self._leeway = leeway

    async def check(self, authorization: Sequence[str], scopes: Collection[str]) -> Caller:
        """Return who calls, given every `Authorization` header of the request and all of the scopes that it needs.

        Raises `Refused`.
        """
        token = bearer(authorization)
        key = await self._key(header(token))
        claims = self._claims(token, key)
        self._times(claims)
        return caller(claims, scopes)

    async def _key(self, head: Mapping[str, Any]) -> jwt.PyJWK:
        try:
            key = await self._keys.find(head["kid"])
        except KeysUnavailable:
            reason = "the issuer's keys are unavailable"
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, None, reason) from None
        if key is None:
            raise _invalid("the key is unknown")
        if key.algorithm_name != head["alg"]:
            raise _invalid("the algorithm is not the key's")
        return key

    def _claims(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        options: Options = {
            # Judged in `_times`, by our own clock.
            "verify_exp": False,
            "verify_iat": False,
            "verify_nbf": False,
            "require": ["iss", "aud", "exp", "iat"],
        }
        try:
            return jwt.decode(
                token, key, algorithms=ALGORITHMS, issuer=self._issuer, audience=self._audience, options=options
            )
        except jwt.InvalidIssuerError:
            raise _invalid("the issuer is another") from None
        except jwt.InvalidAudienceError:
            raise _invalid("the audience is another") from None
        except jwt.MissingRequiredClaimError as error:
            raise _invalid(f"the claim {error.claim} is missing") from None
        except jwt.InvalidSignatureError:
            raise _invalid("the signature is not valid") from None
        except jwt.InvalidTokenError:
            raise _invalid("the token is malformed") from None

    def _times(self, claims: Mapping[str, Any]) -> None:
        now = self._clock()
        times = {name: _seconds(claims, name) for name in ("exp", "iat", "nbf") if name in claims}
        if now - self._leeway >= times["exp"]:
            raise _invalid("the token has expired")
        if max(times["iat"], times.get("nbf", 0.0)) > now + self._leeway:
            raise _invalid("the token is not valid yet")


def bearer(authorization: Sequence[str]) -> str:
    """Return the token of the one `Authorization` header (RFC 6750 §2.1). Raises `Refused`."""
    if len(authorization) > 1:
        raise Refused(HTTPStatus.BAD_REQUEST, "invalid_request", "more than one Authorization header")
    scheme, _, token = (authorization[0] if authorization else "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Refused(HTTPStatus.UNAUTHORIZED, None, "a bearer token is needed")
    if len(token) > MAX_TOKEN:
        raise _invalid("the token is too long")
    return token


def header(token: str) -> dict[str, Any]:
    """Return the JOSE header of `token`, its algorithm, type and key name in order. Raises `Refused`."""
    try:
        head = jwt.get_unverified_header(token)
    except jwt.InvalidTokenError:
        raise _invalid("the token is not a JWT") from None
    if head.get("alg") not in ALGORITHMS:
        raise _invalid("the algorithm is not accepted")
    if str(head.get("typ", "")).lower() not in TYPES:
        raise _invalid("the token is not an access token")
    if not isinstance(head.get("kid"), str):
        raise _invalid("the token names no key")
    return head


def _seconds(claims: Mapping[str, Any], name: str) -> float:
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _invalid(f"the claim {name} is not a number")
    return float(value)


def _text(claims: Mapping[str, Any], *names: str) -> str:
    """Return the first of the claims `names` that is there, which must be a text and not empty."""
    value = next((claims[name] for name in names if name in claims), None)
    if not isinstance(value, str) or not value:
        raise _invalid(f"the claim {names[0]} is missing")
    return value


def caller(claims: Mapping[str, Any], needed: Collection[str]) -> Caller:
    """Return who the verified `claims` speak of, if they allow all of the `needed` scopes. Raises `Refused`."""
    subject = _text(claims, "sub")
    _text(claims, "jti")
    client_id = _text(claims, "client_id", "azp", "appid")  # RFC 9068; Auth0; Entra
    scopes = _scopes(claims)
    if not scopes >= set(needed):
        wanted = " ".join(sorted(needed))
        raise Refused(HTTPStatus.FORBIDDEN, "insufficient_scope", "the token lacks a scope", scope=wanted)
    owner, agent_type = _text(claims, "owner"), _text(claims, "agent_type")
    if agent_type not in AGENT_TYPES:
        raise _invalid("the agent_type is unknown")
    if "cnf" in claims:
        raise _invalid("the token is bound to a key and cannot be a bearer token")  # RFC 9449, RFC 8705
    act = claims.get("act")
    actor = _text(act, "sub") if isinstance(act, dict) else client_id
    return Caller(client_id, subject, owner, agent_type, scopes, actor)


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    """Return what the token allows, under the names that issuers use for it."""
    value = next((claims[name] for name in ("scope", "scp", "permissions", "roles") if name in claims), "")
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise _invalid("the claim scope is not a list of texts")
    return frozenset(words)


CALLER = web.RequestKey("caller", Caller)
"""Where a handler finds who calls: `request[CALLER]`."""


def protect(
    verifier: Verifier, routes: Mapping[str, Collection[str]], *, public: Collection[str] = (), resource_metadata: str
) -> Middleware:
    """Return a middleware: path → scopes needed, all of them. A path in neither `routes` nor `public` is not found."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in public:
            return await handler(request)
        if request.path not in routes:
            raise web.HTTPNotFound
        try:
            found = await verifier.check(request.headers.getall("Authorization", []), routes[request.path])
        except Refused as refusal:
            return _refusal(refusal, resource_metadata)
        request[CALLER] = found
        return await handler(request)

    return guard


def _refusal(refusal: Refused, resource_metadata: str) -> web.Response:
    headers = {"Cache-Control": "no-store"}
    if refusal.status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "5"
    else:
        headers["WWW-Authenticate"] = refusal.challenge(resource_metadata)
    body = {"error": refusal.error or refusal.status.phrase, "error_description": refusal.reason}
    return web.json_response(body, status=refusal.status, headers=headers)
