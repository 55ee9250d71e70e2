"""The issuer's public keys (RFC 7517): fetched when needed, kept, never chosen by a token."""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from tokenbroker.dev.verifier.jose import Malformed, strict_object, usable
from tokenbroker.dev.verifier.refusal import RETRY_AFTER

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    import jwt

MAX_KEYS = 64 * 1024  # bytes of a key set
KEYS_FRESH = 300.0  # seconds that a key set is used without asking again
KEYS_PAUSE = 30.0  # seconds between requests that an unknown key causes, so that forged names cannot flood the issuer
KEYS_RETRY = float(RETRY_AFTER)  # seconds between requests while they fail
KEYS_TIMEOUT = 5.0  # seconds


class KeysUnavailable(Exception):
    """The issuer's keys cannot be fetched and the one that is needed is not at hand."""


class KeySet:
    """The issuer's public keys by name, and by algorithm.

    Concurrent callers share one fetch; a caller whose key is known and fresh never waits for it. While the issuer does
    not answer, known keys go on being used.
    """

    def __init__(self, fetch: Callable[[], Awaitable[bytes]], *, clock: Callable[[], float] = time.monotonic) -> None:
        """Get the document from `fetch`, which raises `KeysUnavailable`; `clock` gives seconds that never go back."""
        self._fetch = fetch
        self._clock = clock
        self._keys: dict[str, Mapping[str, jwt.PyJWK]] = {}
        self._asked = float("-inf")
        self._failed = False
        self._lock = asyncio.Lock()

    @classmethod
    def at(cls, jwks_uri: str, *, clock: Callable[[], float] = time.monotonic) -> KeySet:
        """Fetch from `jwks_uri` with aiohttp."""
        return cls(lambda: fetched(jwks_uri), clock=clock)

    async def find(self, kid: str) -> Mapping[str, jwt.PyJWK] | None:
        """Return the key of that name by algorithm, `None` if the issuer has none. Raises `KeysUnavailable`."""
        if self._due(kid):
            async with self._lock:
                if self._due(kid):
                    await self._refresh()
        found = self._keys.get(kid)
        if found is None and self._failed:
            raise KeysUnavailable
        return found

    def _due(self, kid: str) -> bool:
        known = kid in self._keys
        patience = KEYS_RETRY if self._failed and not known else KEYS_FRESH if known else KEYS_PAUSE
        return self._clock() - self._asked >= patience

    async def _refresh(self) -> None:
        try:
            self._keys = parsed(await self._fetch())
            self._failed = False
        except (KeysUnavailable, Malformed):
            self._failed = True
        self._asked = self._clock()


def parsed(document: bytes) -> dict[str, Mapping[str, jwt.PyJWK]]:
    """Return the signing keys of a key set; what cannot be used is left out (RFC 7517 §5). Raises `Malformed`."""
    keys = strict_object(document).get("keys")
    if not isinstance(keys, list):
        raise Malformed
    return {jwk["kid"]: ways for jwk in keys if _signs(jwk) and (ways := usable(jwk))}


def _signs(jwk: Any) -> bool:
    if not isinstance(jwk, dict) or not isinstance(jwk.get("kid"), str):
        return False
    operations = jwk.get("key_ops", ["verify"])
    return jwk.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations


async def fetched(jwks_uri: str) -> bytes:
    """Return the bytes at `jwks_uri`: one bounded request, no redirects. Raises `KeysUnavailable`."""
    import aiohttp  # noqa: PLC0415  # the rest of the verifier does without

    body, timeout = b"", aiohttp.ClientTimeout(total=KEYS_TIMEOUT)
    try:
        # A session of its own: it is needed once in five minutes, and nobody has to close it.
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.get(jwks_uri, timeout=timeout, allow_redirects=False) as answer,
        ):
            while len(body) <= MAX_KEYS and (more := await answer.content.read(MAX_KEYS + 1)):
                body += more
            status = answer.status
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise KeysUnavailable from error
    if status != HTTPStatus.OK or len(body) > MAX_KEYS:
        raise KeysUnavailable
    return body
