"""Read requests out of bytes (RFC 9112), and refuse what a well-meaning local program does not send.

Rules of this file:
1. PURE: bytes go in by `feed`, whole requests and at most one final `Refusal` come out of `ready`, in order.
2. llhttp checks the grammar, in its strict mode. What is added here: sizes, the versions, framing that two readers
   could understand differently, and the signs of a browser.
3. A web page can reach a local service by way of the user's browser (DNS rebinding, or a bridge from TCP to this
   socket). What a browser adds to its requests and a script cannot take away is therefore refused.
"""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, Final

import httptools

from tokenbroker.api.messages import Refusal, Request

if TYPE_CHECKING:
    from tokenbroker.api.messages import Connection, Limits

_BROWSER_HEADERS: Final = frozenset({"origin", "referer", "sec-fetch-site"})
# A single label has no dot, so nobody can register it in the public DNS.
# A client must put something for a host where there is none. Single labels, loopback, and names that no public zone
# can hold (RFC 6761, RFC 6762, `internal`, and what looks like the socket's file).
_LOCAL_HOST: Final = re.compile(
    r"(?:[A-Za-z0-9_-]*|127\.0\.0\.1|\[::1\]|(?:[A-Za-z0-9_-]+\.)+(?:localhost|local|internal|invalid|test|sock))"
    r"(?::[0-9]{1,5})?"
)
_CHUNK_OVERHEAD: Final = 4  # times the body limit: framing that one body may cost


class _Refused(Exception):  # not an error of ours: the way out of llhttp's callbacks
    """Carries the refusal from a callback to `feed`."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__()
        self.refusal = refusal


class RequestReader:
    """The requests of one connection."""

    __slots__ = (
        "_body",
        "_body_size",
        "_completed",
        "_connection",
        "_head_size",
        "_headers",
        "_in_head",
        "_limits",
        "_parser",
        "_raw_size",
        "_url",
        "done",
        "partial",
        "ready",
        "wants_continue",
    )

    def __init__(self, connection: Connection, limits: Limits) -> None:
        self.ready: deque[Request | Refusal] = deque()
        self.done = False
        """Nothing more is read: the last entry of `ready` ends the connection."""
        self.partial = 0
        """The ordinal of the request that has begun and is not complete; 0 when there is none."""
        self.wants_continue = False
        """The peer waits for `100 Continue` before it sends the body of the partial request (RFC 9110 §10.1.1)."""
        self._connection = connection
        self._limits = limits
        self._completed = 0
        self._raw_size = 0
        self._in_head = False
        self.on_message_begin()
        self.partial = 0
        self._parser = httptools.HttpRequestParser(self)

    def feed(self, data: bytes | memoryview) -> None:
        """Take bytes as they came. Never raises; what is wrong with them becomes a `Refusal` in `ready`."""
        if self.done:
            return
        before = self._completed
        try:
            self._parser.feed_data(data)
            if self.partial and self._completed == before:  # else some of the bytes are another request's
                self._measure(len(data))
        except _Refused as refused:
            self.fail(refused.refusal)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.fail(_explain(error))

    def fail(self, refusal: Refusal) -> None:
        """End the requests with `refusal`, unless an earlier one has ended them already."""
        if not self.done:
            self.ready.append(refusal)
        self.done, self.partial, self.wants_continue = True, 0, False

    def close(self) -> None:
        """Read no more, and let go of the parser.

        The two hold each other, and with them the connection's state: the peer's handle is a descriptor, which would
        stay open until the garbage collector comes by.
        """
        self.done = True
        self.ready.clear()
        del self._parser

    def _measure(self, size: int) -> None:
        """Count the bytes of a request that is not complete, framing included."""
        self._raw_size += size
        if self._in_head and self._raw_size > self._limits.head:
            raise _Refused(_too_large_head(self._limits.head))
        if self._raw_size > self._limits.head + _CHUNK_OVERHEAD * self._limits.body:
            raise _Refused(_too_large_body(self._limits.body))

    # What follows is called by httptools.

    def on_message_begin(self) -> None:
        """Start a request."""
        self.partial = self._completed + 1
        self._in_head = True
        self._raw_size = self._head_size = self._body_size = 0
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request target."""
        self._url += url
        self._head_size += len(url)
        if self._head_size > self._limits.head:
            raise _Refused(_too_large_head(self._limits.head))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header. Trailers (RFC 9112 §7.1.2) are read past."""
        self._head_size += len(name) + len(value) + 4  # colon, space, CR, LF
        if self._head_size > self._limits.head:
            raise _Refused(_too_large_head(self._limits.head))
        if not self._in_head:
            return
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1").strip()
        if key in self._headers:
            if key == "host":  # RFC 9112 §3.2: more than one is a 400
                raise _Refused(Refusal(400, "usage", "request has more than one Host header"))
            text = f"{self._headers[key]}, {text}"
        self._headers[key] = text

    def on_headers_complete(self) -> None:
        """Judge the head, before any of the body is taken."""
        self._in_head = False
        refusal = self._judge_target() or self._judge_framing() or self._judge_origin()
        if refusal is not None:
            raise _Refused(refusal)

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._body_size += len(body)
        if self._body_size > self._limits.body:
            raise _Refused(_too_large_body(self._limits.body))
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Put the request out."""
        path, _, query = self._url.decode("latin-1").partition("?")
        # HTTP/1.0 is answered and closed: nothing local needs its optional keep-alive.
        keep_alive = self._parser.should_keep_alive() and self._parser.get_http_version() == "1.1"
        body = b"".join(self._body)
        method = self._parser.get_method().decode("latin-1")
        self.ready.append(Request(method, path, query, self._headers, body, self._connection, keep_alive))
        self._completed += 1
        self.partial, self.wants_continue = 0, False
        self.done = not keep_alive

    def _judge_target(self) -> Refusal | None:
        """Refuse versions and targets that have no meaning here."""
        if self._parser.get_http_version() not in {"1.1", "1.0"}:
            return Refusal(505, "usage", "request is neither HTTP/1.1 nor HTTP/1.0")
        if self._parser.should_upgrade():
            return Refusal(501, "usage", "request asks for another protocol, which this socket does not speak")
        if not self._url.startswith(b"/"):
            return Refusal(400, "usage", "request target does not begin with a slash")
        return None

    def _judge_framing(self) -> Refusal | None:
        """Refuse bodies that are too large, or whose end two readers could see in two places (RFC 9112 §6.1)."""
        headers = self._headers
        if "transfer-encoding" in headers:
            if headers["transfer-encoding"].lower() != "chunked":
                return Refusal(501, "usage", "request has a Transfer-Encoding other than chunked")
            if self._parser.get_http_version() == "1.0":
                return Refusal(400, "usage", "request has a Transfer-Encoding, which HTTP/1.0 does not know")
        if int(headers.get("content-length", 0)) > self._limits.body:
            return _too_large_body(self._limits.body)
        if "expect" in headers:
            if headers["expect"].lower() != "100-continue":
                return Refusal(417, "usage", "request expects something other than 100-continue")
            self.wants_continue = True
        return None

    def _judge_origin(self) -> Refusal | None:
        """Refuse what comes from a browser (rule 3)."""
        headers = self._headers
        if not _BROWSER_HEADERS.isdisjoint(headers):
            return Refusal(403, "denied", "request comes from a web browser")
        host = headers.get("host")
        if host is None:
            if self._parser.get_http_version() == "1.0":
                return None
            return Refusal(400, "usage", "request has no Host header")  # RFC 9112 §3.2
        if _LOCAL_HOST.fullmatch(host) is None:
            return Refusal(403, "denied", "request is for a host other than localhost")
        return None


def _explain(error: Exception) -> Refusal:
    """Turn what llhttp said into an answer. Its text speaks of grammar alone and repeats nothing of the request."""
    context = error.__context__
    if isinstance(context, _Refused):
        return context.refusal
    if isinstance(error, httptools.HttpParserInvalidMethodError):
        return Refusal(501, "usage", "request method is unknown")
    return Refusal(400, "usage", "request is not well-formed HTTP")


def _too_large_head(limit: int) -> Refusal:
    return Refusal(431, "usage", f"request headers are larger than {limit} bytes")


def _too_large_body(limit: int) -> Refusal:
    return Refusal(413, "usage", f"request body is larger than {limit} bytes")
