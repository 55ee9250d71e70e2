"""Tokens for other people's HTTP libraries: httpx, httpx2, requests, and whatever takes a callable.

`BrokerAuth` asks the broker before each request, so that a program which runs for days never holds a stale token. When
the API answers 401 it tells the broker, takes a new token and tries once more.

`BrokerAuth` is made when it is first named, because httpx and httpx2 accept an instance of their own `Auth` alone and
neither may be needed: the class derives from those that are installed. requests takes any callable.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from tokenbroker_client.aio import AsyncClient
from tokenbroker_client.client import Client
from tokenbroker_client.transport import DEFAULT_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable

    from tokenbroker_client.wire import TokenAnswer

UNAUTHORIZED: Final = 401
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

    async def get_async(self) -> TokenAnswer:
        """Return a token."""
        return await self._async_client.token(self._profile, **self._options)

    async def replace_async(self, refused: TokenAnswer) -> TokenAnswer:
        """Report a token that the API refused, and return the next one."""
        await self._async_client.rejected(refused.profile, refused.fingerprint)
        return await self.get_async()


class _BrokerAuth:
    """The flows of httpx.Auth and requests.auth.AuthBase over one broker."""

    def __init__(self, profile: str | None = None, **options: Any) -> None:
        """Take the arguments of `Client` and of its `token`: audience, scopes, min_ttl, reason, socket, timeout."""
        self._wish = _Wish(profile, **options)

    def sync_auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        """httpx: send with a token; on 401 once more with a new one."""
        answer = self._wish.get()
        response = yield _signed(request, answer)
        if response.status_code == UNAUTHORIZED and _can_repeat(request):
            yield _signed(request, self._wish.replace(answer))

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        """httpx, asynchronous: as `sync_auth_flow`."""
        answer = await self._wish.get_async()
        response = yield _signed(request, answer)
        if response.status_code == UNAUTHORIZED and _can_repeat(request):
            yield _signed(request, await self._wish.replace_async(answer))

    def __call__(self, request: Any) -> Any:
        """requests: sign the prepared request, and watch its answer for a 401."""
        answer = self._wish.get()
        body = request.body
        start = body.tell() if hasattr(body, "tell") else None

        def retry(response: Any, **options: Any) -> Any:
            # After a redirect to another host requests has taken the header off; then the 401 is not about our token.
            signed = response.request.headers.get("Authorization") == header(answer)
            repeatable = start is not None or body is None or isinstance(body, (str, bytes))
            if response.status_code != UNAUTHORIZED or not (signed and repeatable):
                return response
            if start is not None:
                body.seek(start)
            return _send_again(response, self._wish.replace(answer), options)

        request.register_hook("response", retry)
        return _signed(request, answer)


def _can_repeat(request: Any) -> bool:
    """Tell whether httpx still has the body; a stream that was sent is gone, and its 401 goes to the caller."""
    try:
        return request.content is not None
    except RuntimeError:  # httpx.RequestNotRead
        return False


def _send_again(response: Any, answer: TokenAnswer, options: dict[str, Any]) -> Any:
    """Repeat a requests exchange on the same connection, as requests.auth.HTTPDigestAuth does."""
    _ = response.content  # read to the end, so that the connection can be used again
    response.close()
    again = _signed(response.request.copy(), answer)
    second = response.connection.send(again, **options)
    second.history.append(response)
    second.request = again
    return second


def header(answer: TokenAnswer) -> str:
    """Return the value of an `Authorization` header (RFC 6750 §2.1)."""
    return f"Bearer {answer.access_token}"


def _signed(request: Any, answer: TokenAnswer) -> Any:
    request.headers["Authorization"] = header(answer)
    return request


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
