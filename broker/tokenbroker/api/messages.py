"""What the socket's HTTP speaks in: requests, answers, limits, and the bytes of an answer.

Rules of this file:
1. PURE: no I/O, no clock. `http.py` moves the bytes, `reader.py` reads requests.
2. Every answer forbids caching (RFC 6749 §5.1) and says nothing of the server's make. There is no `Date`: it serves
   caches, and none may stand on this socket.
3. A header value that could split the answer is an error here, whoever made it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from tokenbroker_client import wire

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from tokenbroker.errors import BrokerError

_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}
_NO_CONTENT: Final = 204


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one peer may take. Sizes are bytes, times are seconds."""

    head: int = 8 * 1024
    """Request line and headers; ours are a few hundred bytes."""
    body: int = wire.MAX_REQUEST_BODY
    request_time: float = 5.0
    """From a request's first byte to its last."""
    idle_time: float = 75.0
    """Without a request, or without reading an answer, the connection is closed."""
    linger_time: float = 1.0
    """How long a refused peer may go on sending before the connection is cut."""
    connections: int = 512
    spare_time: float = 1.0
    """A connection that asked nothing for so long is cut when its place is needed."""
    pipelined: int = 16
    """Requests waiting behind one that is being answered; beyond that nothing more is read."""


@dataclass(slots=True)
class Connection:
    """One peer's connection, as a handler sees it."""

    sock: socket.socket
    """For `SO_PEERCRED` and its like; never to be read or written."""
    state: Any = None
    """What `on_connect` made of it."""
    closing: bool = False
    """Nobody will read an answer any more."""


@dataclass(slots=True)
class Request:
    """One complete request."""

    method: str
    path: str
    """As sent, without the query; percent-escapes are not decoded."""
    query: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    """Lower-case names; a repeated header's values are joined by `, ` (RFC 9110 §5.3)."""
    body: bytes = field(repr=False)
    connection: Connection = field(repr=False)
    keep_alive: bool = True


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer."""

    status: int
    body: bytes = field(default=b"", repr=False)  # it may hold a token
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer without an end, such as server-sent events. It ends when the iterator or the connection does."""

    content_type: str
    events: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that is refused before any handler sees it; the connection ends with the answer."""

    status: int
    code: str
    description: str
    retryable: bool = False


if TYPE_CHECKING:
    Handler = Callable[[Request], Response | Awaitable[Response | Stream]]


def encode(response: Response, *, body: bool = True, close: bool = False) -> bytes:
    """Return the answer's bytes; without `body` for HEAD (RFC 9110 §9.3.2), `close` when it is the connection's last.

    Raises ValueError for a header that holds a line break.
    """
    content = response.body
    length = f"Content-Length: {len(content)}\r\n" if response.status != _NO_CONTENT else ""
    head = _head(response.status, response.content_type, close=close)
    extra = "".join([_header(name, value) for name, value in response.headers]) if response.headers else ""
    return f"{head}{length}{extra}\r\n".encode("latin-1") + (content if body else b"")


def encode_stream_head(stream: Stream) -> bytes:
    """Return the head of an answer that lasts until the connection closes (RFC 9112 §6.3, case 8)."""
    return (_head(HTTPStatus.OK, stream.content_type, close=True) + "\r\n").encode("latin-1")


def _head(status: int, content_type: str, *, close: bool) -> str:
    """Return the lines that every answer has."""
    return (
        f"HTTP/1.1 {status} {_REASONS.get(status, '')}\r\nContent-Type: {content_type}\r\n"
        f"Cache-Control: no-store\r\nPragma: no-cache\r\n{'Connection: close' + chr(13) + chr(10) if close else ''}"
    )


def _header(name: str, value: str) -> str:
    """Return one header line."""
    line = f"{name}: {value}"
    if not line.isprintable():
        raise ValueError(f"header {name!r} holds a character that may not be sent")
    return line + "\r\n"


def error_response(error: BrokerError, correlation_id: str) -> Response:
    """Put an error on the wire: RFC 6749 §5.2's members, and ours."""
    headers: tuple[tuple[str, str], ...] = ()
    if error.retry_after is not None:
        headers = (("Retry-After", str(max(0, math.ceil(error.retry_after)))),)
    answer = wire.ErrorAnswer(
        error=error.oauth,
        error_description=error.message,
        code=error.code,
        hint=error.hint,
        retryable=error.retryable,
        retry_after=None if error.retry_after is None else round(error.retry_after, 1),
        correlation_id=correlation_id,
    )
    return Response(error.status, wire.encode_error(answer), headers=headers)


def refusal_response(refusal: Refusal, correlation_id: str) -> Response:
    """Put a refusal of the edge itself on the wire, in the same shape."""
    answer = wire.ErrorAnswer(
        error="temporarily_unavailable" if refusal.retryable else "invalid_request",
        error_description=refusal.description,
        code=refusal.code,
        retryable=refusal.retryable,
        correlation_id=correlation_id,
    )
    return Response(refusal.status, wire.encode_error(answer))
