"""A small HTTP/1.1 server for Unix sockets: a request in, an answer out, and nothing else.

Rules of this file:
1. The text of an unforeseen error goes neither to the peer nor to the log: its class and place do.
2. There is no access log. What was decided is in the audit trail; what was asked may be private.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from typing import TYPE_CHECKING, Any, Final

from tokenbroker.api.channel import Channel
from tokenbroker.api.messages import Connection, Limits, Request, Response, Stream, error_response
from tokenbroker.errors import BrokerError, Fault, whereabouts

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from tokenbroker.api.messages import Handler

__all__ = ["Connection", "HttpServer", "Limits", "Request", "Response", "Stream"]

_READ_SIZE: Final = 16 * 1024  # bytes taken from the kernel at once, so also what one read can pipeline
_ACCEPTS: Final = 4  # new connections per turn of the loop; describing a peer takes up to half a millisecond
_SETTLE_PASSES: Final = 5  # turns of the event loop in which what a connection already holds becomes requests

_log = logging.getLogger(__name__)


class HttpServer:
    """Serves one handler on any number of listening Unix sockets."""

    def __init__(
        self,
        handler: Handler,
        *,
        on_connect: Callable[[socket.socket], Any] = lambda _sock: None,
        limits: Limits | None = None,
        new_id: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        """Make a server that answers by `handler`.

        `on_connect` is given each new connection's socket and returns the connection's `state`; the BrokerError that
        it raises is the answer to the connection's first request, and its last. `new_id` makes correlation ids.
        """
        self.handler = handler
        self.on_connect = on_connect
        self.limits = limits or Limits()
        self.new_id = new_id
        self.draining = False
        # One buffer for all: a read is used up before the next one starts.
        self.buffer = memoryview(bytearray(_READ_SIZE))
        self.channels: set[Channel] = set()
        self._listeners: list[asyncio.Server] = []
        self._empty = asyncio.Event()

    async def serve(self, sock: socket.socket) -> None:
        """Start to accept on `sock`, which is bound already; returns at once. The server closes `sock` when it ends."""
        loop = asyncio.get_running_loop()
        # Not create_unix_server: from Python 3.13 on that removes the socket's file, which may be systemd's.
        # To asyncio `backlog` is also how many it takes in one turn of the loop, in which nobody else is answered.
        self._listeners.append(await loop.create_server(lambda: Channel(self, loop), sock=sock, backlog=_ACCEPTS))
        # A full queue turns away, on Linux, every program whose connect does not block, which asyncio's do not see.
        sock.listen(self.limits.connections)

    async def drain(self, grace: float) -> None:
        """Accept no more, close idle connections, let requests in flight finish for `grace` seconds, then cut them."""
        await self._settle()  # who is in the listening socket's queue would be cut off with it
        self.draining = True
        for listener in self._listeners:
            listener.close()
        await self._settle()  # a connection just accepted looks idle while its request is unread
        for channel in tuple(self.channels):
            channel.drain()
        if self.channels:
            self._empty.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), grace)
        self.close()

    async def _settle(self) -> None:
        """Let the event loop take what the kernel already holds."""
        for _ in range(self.limits.connections // _ACCEPTS + _SETTLE_PASSES):
            await asyncio.sleep(0)

    def close(self) -> None:
        """Cut every connection and stop listening, at once. May be called twice."""
        self.draining = True
        for listener in self._listeners:
            listener.close()
        for channel in tuple(self.channels):
            channel.abort()

    def admit(self) -> bool:
        """Tell whether there is room for the connection just made, if need be by cutting the one that is quiet longest.

        So a program that opens connections and leaves them cannot keep all others out.
        """
        if len(self.channels) <= self.limits.connections:
            return True
        taken = [channel for channel in self.channels if not channel.ending]
        if len(taken) <= self.limits.connections:
            return True
        longest = max(taken, key=Channel.quiet)
        if longest.quiet() < self.limits.spare_time:
            return False
        longest.abort()
        return True

    def forget(self, channel: Channel) -> None:
        """Note that a connection has ended."""
        self.channels.discard(channel)
        if not self.channels:
            self._empty.set()

    def explain(self, error: Exception) -> Response:
        """Turn what a handler raised into an answer (rule 1)."""
        correlation_id = self.new_id()
        if isinstance(error, BrokerError):
            return error_response(error, correlation_id)
        _log.error("Handler failed: %s, correlation_id=%s", whereabouts(error), correlation_id)
        return error_response(Fault("broker failed to handle the request"), correlation_id)
