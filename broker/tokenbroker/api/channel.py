"""One connection: move bytes between the transport, the request reader and the handler.

Rules of this file:
1. One request is answered at a time, in order; what waits behind it is bounded.
2. A handler that returns a `Response` is answered there and then, without a task: a cached token costs microseconds.
   Anything else it returns is awaited in a task, which is cancelled when the peer vanishes.
3. Every state of a connection has an end: a request that does not arrive, an answer that is not read, a peer that
   says nothing and one that goes on talking after it was refused are each cut off in time.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from tokenbroker.api.messages import (
    Connection,
    Refusal,
    Request,
    Response,
    Stream,
    encode,
    encode_stream_head,
    refusal_response,
)
from tokenbroker.api.reader import RequestReader

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tokenbroker.api.http import HttpServer

_FLOOD: Final = 2  # times the limit of connections, those included that are only told that there is no room
_GONE_CHECK: Final = 1.0  # seconds between looks for a peer that has closed its sending half


class Channel(asyncio.BufferedProtocol):
    """One connection, from accepted to lost."""

    __slots__ = (
        "_connection",
        "_deadline",
        "_deaf",
        "_half_closed",
        "_idle",
        "_last",
        "_loop",
        "_reader",
        "_reading",
        "_refused",
        "_server",
        "_streaming",
        "_task",
        "_timed",
        "_transport",
        "_writable",
    )

    _transport: asyncio.Transport
    _connection: Connection
    _reader: RequestReader
    _idle: asyncio.TimerHandle

    def __init__(self, server: HttpServer, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop
        self._task: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._timed = 0
        self._refused: Response | None = None
        self._writable: asyncio.Future[None] | None = None
        self._reading = True
        self._deaf = self._half_closed = self._streaming = False
        self._last = loop.time()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection up, or say why not."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # for the type checker: stream sockets have these
        server = self._server
        self._transport = transport
        self._connection = Connection(transport.get_extra_info("socket"))
        self._reader = RequestReader(self._connection, server.limits)
        self._idle = self._loop.call_later(server.limits.idle_time, self._on_idle)
        server.channels.add(self)
        if len(server.channels) > _FLOOD * server.limits.connections:
            self.abort()  # too many to be told why
            return
        if not server.admit():
            self._reader.fail(Refusal(503, "busy", "broker has too many connections", retryable=True))
            self._advance()
            return
        try:
            self._connection.state = server.on_connect(self._connection.sock)
        except Exception as error:  # noqa: BLE001  # whatever it was, the peer is answered
            self._refused = server.explain(error)
            self._deadline = self._loop.call_later(server.limits.request_time, self.abort)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  # asyncio's signature
        """Lend the server's buffer for one read."""
        return self._server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was read."""
        if not self._deaf:
            self._reader.feed(self._server.buffer[:nbytes])
            self._advance()

    def eof_received(self) -> bool:
        """Tell a peer that has only finished sending, and waits for its answer, from one that is gone."""
        if self._deaf or not self._busy() or self._gone():
            return False
        self._half_closed = True
        self._loop.call_later(_GONE_CHECK, self._on_gone_check)
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # why it ended changes nothing
        """Cancel what was being done for the peer."""
        self._connection.closing = self._deaf = True
        self._idle.cancel()
        if self._deadline is not None:
            self._deadline.cancel()
        if self._task is not None:
            self._task.cancel()
        self._reader.close()
        self._server.forget(self)

    def pause_writing(self) -> None:
        """Note that the peer does not read."""
        self._last = self._loop.time()
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """Go on now that the peer reads again."""
        self._last = self._loop.time()
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)
        self._advance()

    @property
    def ending(self) -> bool:
        """Whether nothing more is read or answered."""
        return self._deaf

    def quiet(self) -> float:
        """Return the seconds since anything was asked or answered; 0 while that is going on."""
        busy = self._busy() or self._reader.partial or self._writable is not None
        return 0.0 if busy else self._loop.time() - self._last

    # Requests.

    def _busy(self) -> bool:
        return self._task is not None or bool(self._reader.ready)

    def _advance(self) -> None:
        """Answer what can be answered now, then set reading and the timers to what is left."""
        reader = self._reader
        while reader.ready and self._task is None and self._writable is None and not self._deaf:
            self._answer(reader.ready.popleft())
        if self._deaf:
            return
        if reader.wants_continue and not self._busy():
            reader.wants_continue = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        reading = len(reader.ready) <= self._server.limits.pipelined
        if reading != self._reading:
            self._reading = reading
            (self._transport.resume_reading if reading else self._transport.pause_reading)()
        if reader.partial != self._timed and self._refused is None:
            self._time_partial(reader.partial)

    def _answer(self, item: Request | Refusal) -> None:
        """Answer one request, now or by a task."""
        if isinstance(item, Refusal):
            self._last_words(self._refused or refusal_response(item, self._server.new_id()))
            return
        if self._refused is not None:
            self._last_words(self._refused)
            return
        try:
            result = self._server.handler(item)
        except Exception as error:  # noqa: BLE001  # whatever it was, the peer is answered
            result = self._server.explain(error)
        if isinstance(result, Response):
            self._write(item, result)
        else:
            self._task = self._loop.create_task(self._answer_later(item, result))

    async def _answer_later(self, request: Request, result: Awaitable[Response | Stream]) -> None:
        """Await a handler and send what it gives."""
        try:
            answer = await result
            if isinstance(answer, Stream):
                await self._stream(answer)
                return
        except asyncio.CancelledError:
            self._task = None  # it will hold this frame by its error
            self.abort()
            raise
        except Exception as error:  # noqa: BLE001  # whatever it was, the peer is answered
            answer = self._server.explain(error)
            if self._streaming:
                self.abort()
        self._task = None
        if not self._deaf:
            self._write(request, answer)
            self._advance()

    async def _stream(self, stream: Stream) -> None:
        """Send events for as long as there are any and the peer reads them."""
        self._streaming = True
        self._transport.write(encode_stream_head(stream))
        close = getattr(stream.events, "aclose", None)
        try:
            async for event in stream.events:
                self._transport.write(event)
                if self._writable is not None:
                    await self._writable
        finally:
            if close is not None:
                await close()
        self._close()

    def _write(self, request: Request, response: Response) -> None:
        """Send a whole answer."""
        close = not request.keep_alive or self._server.draining or (self._half_closed and not self._reader.ready)
        try:
            data = encode(response, body=request.method != "HEAD", close=close)
        except ValueError as error:
            data = encode(self._server.explain(error), close=close)
        self._last = self._loop.time()
        self._transport.write(data)
        if close:
            self._close()

    def _last_words(self, response: Response) -> None:
        """Send a refusal, then read past what the peer still sends, so that it lives to read its answer."""
        self._transport.write(encode(response, close=True))
        self._deaf = True
        self._transport.write_eof()
        self._transport.resume_reading()
        self._set_deadline(self._server.limits.linger_time, self.abort)

    # Endings.

    def _close(self) -> None:
        """Close once everything written has gone out, and not much later."""
        self._deaf = self._connection.closing = True
        self._transport.close()
        self._set_deadline(self._server.limits.linger_time, self.abort)

    def abort(self) -> None:
        """Cut the connection now."""
        self._deaf = self._connection.closing = True
        self._transport.abort()

    def drain(self) -> None:
        """Close if nothing is being asked or answered; end a stream, which would never end by itself."""
        if self._streaming or not (self._busy() or self._reader.partial):
            self._close()

    def _set_deadline(self, seconds: float, action: Callable[[], None]) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._loop.call_later(seconds, action)

    def _time_partial(self, ordinal: int) -> None:
        """Give the request that has begun its time; 0: none has."""
        self._timed = ordinal
        if ordinal:
            self._set_deadline(self._server.limits.request_time, self._on_slow)
        elif self._deadline is not None:
            self._deadline.cancel()

    def _on_slow(self) -> None:
        """Refuse a request that did not come in time, unless it was this side that did not read."""
        if not self._reading:
            self._set_deadline(self._server.limits.request_time, self._on_slow)
            return
        self._reader.fail(Refusal(408, "usage", "request did not arrive in time"))
        self._advance()

    def _on_idle(self) -> None:
        """Close when nothing was asked, or the answer not read, for too long; else look again when it could be so."""
        limit = self._server.limits.idle_time
        waited = self._loop.time() - self._last
        unread = self._writable is not None
        idle = unread or not (self._busy() or self._reader.partial)
        if idle and waited >= limit:
            self.abort()
            return
        self._idle = self._loop.call_later(limit - waited if idle else limit, self._on_idle)

    def _on_gone_check(self) -> None:
        if self._deaf:
            return
        if self._gone():
            self.abort()
        else:
            self._loop.call_later(_GONE_CHECK, self._on_gone_check)

    def _gone(self) -> bool:
        """Tell whether the peer's end is closed altogether: then even nothing cannot be sent to it (EPIPE)."""
        try:
            with self._connection.sock.dup() as probe:
                probe.send(b"")
        except OSError:
            return True
        return False
