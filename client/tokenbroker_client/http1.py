"""HTTP/1.1 (RFC 9112) as far as the broker's sockets need it: one request, one answer, then the connection ends.

Rules of this file: bytes in, values out, no I/O. `http.client` is not used because its import costs more than a whole
answer from the broker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from tokenbroker_client.wire import WireError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_HEAD: Final = 16 * 1024  # bytes of status line and headers; ours are a few hundred
MAX_ANSWER: Final = 1024 * 1024  # bytes; a token is at most 16 KiB, a long list of sessions some 100 KiB
_UNFRAMED: Final = frozenset({204, 304})  # answers that never have a body (RFC 9112 §6.3)


class Truncated(WireError):
    """The connection ended before the answer did."""


class Response(NamedTuple):
    """Status, headers with lower-case names, and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    def __repr__(self) -> str:
        """Show the status only: the body may hold a token."""
        return f"<Response {self.status}, {len(self.body)} bytes>"


def encode(method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
    """Return a request; raises `WireError` when `path` or a header would break out of its line."""
    lines = [f"{method} {path} HTTP/1.1"]
    fields = {"Host": "localhost", "Connection": "close", "Content-Length": str(len(body))} | dict(headers or {})
    lines += [f"{name}: {value}" for name, value in fields.items()]
    if path.count(" ") or any(not char.isprintable() or not char.isascii() for line in lines for char in line):
        raise WireError("a request line or header is not plain text")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def decode(data: bytes, *, ended: bool) -> Response | None:
    """Return the answer in `data`, or `None` while more of it must come.

    `ended` says that nothing more will; then an incomplete answer raises `Truncated`. What is not HTTP, or larger than
    the limits, raises `WireError` as soon as that shows.
    """
    head, separator, rest = data.partition(b"\r\n\r\n")
    if len(head) > MAX_HEAD or len(rest) > MAX_ANSWER:
        raise WireError("the answer is too large")
    if not separator:
        if ended:
            raise Truncated("the connection ended before the answer did")
        return None
    status, headers = _head(head)
    length = _length(status, headers)
    if length is None:
        return Response(status, headers, rest) if ended else None
    if len(rest) >= length:
        return Response(status, headers, rest[:length])
    if ended:
        raise Truncated("the connection ended before the answer did")
    return None


def _head(head: bytes) -> tuple[int, dict[str, str]]:
    status_line, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = status_line.partition(" ")
    code = rest[:3]
    if version not in {"HTTP/1.1", "HTTP/1.0"} or not (len(code) == 3 and code.isascii() and code.isdigit()):  # noqa: PLR2004  # RFC 9112 §4
        raise WireError("the answer is not HTTP")
    fields = (line.partition(":") for line in lines)
    return int(code), {name.strip().lower(): value.strip() for name, _, value in fields}


def _length(status: int, headers: Mapping[str, str]) -> int | None:
    if status in _UNFRAMED:
        return 0
    if "transfer-encoding" in headers:
        raise WireError("the answer is chunked, which is not understood here")
    text = headers.get("content-length")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise WireError("the answer has no usable length")
    if int(text[:20]) > MAX_ANSWER:
        raise WireError("the answer is too large")
    return int(text)
