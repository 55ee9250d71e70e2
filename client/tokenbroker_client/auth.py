"""Tokens for other people's HTTP libraries: httpx, httpx2, requests, and whatever takes a callable.

`BrokerAuth` asks the broker before each request, so that a program which runs for days never holds a stale token. When
the API answers 401 it tells the broker, takes a new token and tries once more. For a token that is bound to a key of
the broker's it asks for a proof too, and again when the API wants its nonce in it (RFC 9449 §9): that is no refusal.

`BrokerAuth` is made when it is first named, because httpx and httpx2 accept an instance of their own `Auth` alone and
neither may be needed: the class derives from those that are installed. requests takes any callable.
"""

from __future__ import annotations

import importlib
from enum import Enum
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from tokenbroker_client.aio import AsyncClient
from tokenbroker_client.client import Client
from tokenbroker_client.errors import BrokerRefused
from tokenbroker_client.proof import nonce_of
from tokenbroker_client.transport import DEFAULT_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable

    from tokenbroker_client.wire import TokenAnswer

UNAUTHORIZED: Final = 401
MAX_ORIGINS: Final = 256  # whose nonces are remembered
RENEWED: Final = "unknown_token"  # the broker's code for a token that is no longer the one at hand
_LIBRARIES: Final = ("httpx", "httpx2")


class _Wish:
    """What to ask the broker for, each time."""

    def __init__(
        self,
        profile: str | None = None,
        *,
        audience: str | None = None,
        scopes: Iterable[str] = (),
        min_ttl: float | None = None,
        reason: str | None = None,
        interaction: str | None = None,
        socket: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        """Take the arguments of `Client` and of its `token`."""
        self._profile = profile
        self._options: dict[str, Any] = {
            "audience": audience,
            "scopes": scopes if isinstance(scopes, str) else tuple(scopes),
            "min_ttl": min_ttl,
            "reason": reason,
            "interaction": interaction,
        }
        self._client = Client(socket, timeout)
        self._async_client = AsyncClient(socket, timeout)

    def get(self) -> TokenAnswer:
        """Return a token, blocking."""
        return self._client.token(self._profile, **self._options)

    def replace(self, refused: TokenAnswer) -> TokenAnswer:
        """Report a token that the API refused, and return the next one."""
        self._client.rejected(refused.profile, refused.fingerprint)
        return self.get()

    def sign(self, request: Any, answer: TokenAnswer, nonces: _Nonces) -> TokenAnswer:
        """Put the headers on a request; return the token that they hold, which is newer if `answer` was renewed."""
        proof = None
        if _is_bound(answer):
            url = str(request.url)
            try:
                proof = self._client.proof(answer, request.method, url, nonce=nonces.of(url)).proof
            except BrokerRefused as error:
                if error.code != RENEWED:
                    raise
                answer = self.get()
                proof = self._client.proof(answer, request.method, url, nonce=nonces.of(url)).proof
        _signed(request, answer, proof)
        return answer

    async def get_async(self) -> TokenAnswer:
        """Return a token."""
        return await self._async_client.token(self._profile, **self._options)

    async def replace_async(self, refused: TokenAnswer) -> TokenAnswer:
        """Report a token that the API refused, and return the next one."""
        await self._async_client.rejected(refused.profile, refused.fingerprint)
        return await self.get_async()

    async def sign_async(self, request: Any, answer: TokenAnswer, nonces: _Nonces) -> TokenAnswer:
        """As `sign`."""
        proof, client = None, self._async_client
        if _is_bound(answer):
            url = str(request.url)
            try:
                proof = (await client.proof(answer, request.method, url, nonce=nonces.of(url))).proof
            except BrokerRefused as error:
                if error.code != RENEWED:
                    raise
                answer = await self.get_async()
                proof = (await client.proof(answer, request.method, url, nonce=nonces.of(url))).proof
        _signed(request, answer, proof)
        return answer


class _Nonces:
    """The last nonce that each API gave, for the next proof (RFC 9449 §8.2). May be shared between threads."""

    def __init__(self) -> None:
        """Know none."""
        self._by_origin: dict[str, str] = {}

    def of(self, url: str) -> str | None:
        """Return the nonce for a request to `url`."""
        return self._by_origin.get(_origin(url))

    def learn(self, url: str, text: str | None) -> None:
        """Remember a `DPoP-Nonce`."""
        if (nonce := nonce_of(text)) is not None:
            if len(self._by_origin) >= MAX_ORIGINS:
                self._by_origin.clear()
            self._by_origin[_origin(url)] = nonce


class _Remedy(Enum):
    """What may help against a 401."""

    NONE = 0
    PROVE = 1
    """The same token with another proof."""
    REPLACE = 2
    """Another token."""


class _Remedies:
    """What is still to be tried for one request: one more token, one more proof for it and one after a redirect."""

    def __init__(self, nonces: _Nonces) -> None:
        """Nothing was tried yet."""
        self._nonces = nonces
        self._proofs = 2
        self._tokens = 1

    def of(self, response: Any, answer: TokenAnswer, proven: str) -> _Remedy:
        """Judge the answer to a request that was signed with `answer` for the address `proven`."""
        url = str(response.request.url)
        self._nonces.learn(url, response.headers.get("DPoP-Nonce"))
        # After a redirect to another host the library has taken the header off; then the 401 is not about our token.
        signed = response.request.headers.get("Authorization") == header(answer)
        if response.status_code != UNAUTHORIZED or not signed:
            return _Remedy.NONE
        # A proof is for one address: a redirect, too, wants another.
        wants_proof = url != proven or "use_dpop_nonce" in response.headers.get("WWW-Authenticate", "")
        if _is_bound(answer) and wants_proof:
            self._proofs -= 1
            return _Remedy.PROVE if self._proofs >= 0 else _Remedy.NONE
        self._tokens -= 1
        return _Remedy.REPLACE if self._tokens >= 0 else _Remedy.NONE


class _BrokerAuth:
    """The flows of httpx.Auth and requests.auth.AuthBase over one broker."""

    def __init__(self, profile: str | None = None, **options: Any) -> None:
        """Take the arguments of `Client` and of its `token`: audience, scopes, min_ttl, reason, socket, timeout."""
        self._wish = _Wish(profile, **options)
        self._nonces = _Nonces()

    def sync_auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        """httpx: send with a token; on 401 once more with a new one, or with the nonce that the API wants."""
        answer = self._wish.sign(request, self._wish.get(), self._nonces)
        remedies, proven = _Remedies(self._nonces), str(request.url)
        response = yield request
        while (remedy := remedies.of(response, answer, proven)) is not _Remedy.NONE and _can_repeat(response.request):
            request, proven = response.request, str(response.request.url)
            token = answer if remedy is _Remedy.PROVE else self._wish.replace(answer)
            answer = self._wish.sign(request, token, self._nonces)
            response = yield request

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        """httpx, asynchronous: as `sync_auth_flow`."""
        answer = await self._wish.sign_async(request, await self._wish.get_async(), self._nonces)
        remedies, proven = _Remedies(self._nonces), str(request.url)
        response = yield request
        while (remedy := remedies.of(response, answer, proven)) is not _Remedy.NONE and _can_repeat(response.request):
            request, proven = response.request, str(response.request.url)
            token = answer if remedy is _Remedy.PROVE else await self._wish.replace_async(answer)
            answer = await self._wish.sign_async(request, token, self._nonces)
            response = yield request

    def __call__(self, request: Any) -> Any:
        """requests: sign the prepared request, and watch its answer for a 401."""
        answer = self._wish.sign(request, self._wish.get(), self._nonces)
        remedies, proven = _Remedies(self._nonces), str(request.url)
        body = request.body
        start = body.tell() if hasattr(body, "tell") else None
        repeatable = start is not None or body is None or isinstance(body, (str, bytes))

        def retry(response: Any, **options: Any) -> Any:
            nonlocal answer, proven
            while (remedy := remedies.of(response, answer, proven)) is not _Remedy.NONE and repeatable:
                if start is not None:
                    body.seek(start)
                again, proven = response.request.copy(), str(response.request.url)
                token = answer if remedy is _Remedy.PROVE else self._wish.replace(answer)
                answer = self._wish.sign(again, token, self._nonces)
                response = _send_again(response, again, options)
            return response

        request.register_hook("response", retry)
        return request


def _can_repeat(request: Any) -> bool:
    """Tell whether httpx still has the body; a stream that was sent is gone, and its 401 goes to the caller."""
    try:
        return request.content is not None
    except RuntimeError:  # httpx.RequestNotRead; what a redirect makes is not read, and may yet be whole
        return type(request.stream).__name__ == "ByteStream"


def _send_again(response: Any, again: Any, options: dict[str, Any]) -> Any:
    """Repeat a requests exchange on the same connection, as requests.auth.HTTPDigestAuth does."""
    _ = response.content  # read to the end, so that the connection can be used again
    response.close()
    second = response.connection.send(again, **options)
    second.history.append(response)
    second.request = again
    return second


def header(answer: TokenAnswer) -> str:
    """Return the value of an `Authorization` header (RFC 6750 §2.1, RFC 9449 §7.1)."""
    return answer.authorization


def _is_bound(answer: TokenAnswer) -> bool:
    return answer.authorization.startswith("DPoP ")


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()


def _signed(request: Any, answer: TokenAnswer, proof: str | None) -> None:
    request.headers["Authorization"] = header(answer)
    if proof is not None:
        request.headers["DPoP"] = proof


def token_provider(profile: str | None = None, **options: Any) -> Callable[[], str]:
    """Return a function that returns a valid token, for libraries that take `api_key=callable` and the like."""
    wish = _Wish(profile, **options)
    return lambda: wish.get().access_token


def async_token_provider(profile: str | None = None, **options: Any) -> Callable[[], Awaitable[str]]:
    """Return a coroutine function that returns a valid token."""
    wish = _Wish(profile, **options)

    async def provide() -> str:
        return (await wish.get_async()).access_token

    return provide


if TYPE_CHECKING:
    import httpx

    class BrokerAuth(_BrokerAuth, httpx.Auth):
        """Authenticate httpx, httpx2 or requests by tokens of the local broker."""


def __getattr__(name: str) -> Any:
    if name != "BrokerAuth":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = type(name, (_BrokerAuth, *_bases()), {"__module__": __name__, "__doc__": _BrokerAuth.__doc__})
    globals()[name] = made
    return made


def _bases() -> list[type]:
    found = []
    for library in _LIBRARIES:
        try:
            found.append(importlib.import_module(library).Auth)
        except ImportError:
            continue
    return found
