"""A token endpoint that misbehaves on demand: raw asyncio, so that it can break HTTP itself.

`async with FaultIssuer() as issuer:` listens on a free loopback port. Each request is read whole, recorded in
`requests`, and answered by what was scripted: a list of behaviours, the last of which repeats.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

    Behaviour = Callable[["Received", asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Received:
    """One request as it came over the wire."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def form(self) -> list[tuple[str, str]]:
        """The form-encoded body as pairs, in order."""
        return parse_qsl(self.body.decode(), keep_blank_values=True, strict_parsing=bool(self.body))


class FaultIssuer:
    """A server whose every answer is scripted."""

    def __init__(self, *behaviours: Behaviour, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Received] = []
        self.connections = 0
        self.disconnected = asyncio.Event()
        """Set when a client hangs up before it was answered."""
        self.received = asyncio.Event()
        """Set when a request has been read."""
        self._script = list(behaviours) or [answer({"access_token": "t", "token_type": "Bearer", "expires_in": 60})]
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def script(self, *behaviours: Behaviour) -> None:
        """Answer the coming requests so."""
        self._script = list(behaviours)

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        return f"https://localhost:{port}" if self._tls else f"http://127.0.0.1:{port}"

    @property
    def url(self) -> str:
        """The token endpoint."""
        return f"{self.origin}/token"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ", 2)
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        received = Received(method, path, headers, body)
        self.requests.append(received)
        self.received.set()
        behaviour = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        watch = asyncio.create_task(self._watch(reader))
        try:
            await behaviour(received, writer)
            await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()
            await watch  # until the client has hung up too: an abort would reset what it still reads
        finally:
            watch.cancel()

    async def _watch(self, reader: asyncio.StreamReader) -> None:
        while await reader.read(4096):
            pass
        self.disconnected.set()


def raw(data: bytes) -> Behaviour:
    """Write exactly `data`, then end."""

    async def behave(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return behave


def answer(
    body: Any, status: int = 200, headers: dict[str, str] | None = None, *, content_type: str = "application/json"
) -> Behaviour:
    """Answer with `body`: bytes and text as they are, anything else as JSON."""
    match body:
        case bytes():
            content = body
        case str():
            content = body.encode()
        case _:
            content = json.dumps(body).encode()
    fields = {"Content-Type": content_type, "Content-Length": str(len(content)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return raw(f"HTTP/1.1 {status} Status\r\n{head}\r\n".encode() + content)


def error(code: str, status: int = 400, headers: dict[str, str] | None = None, **more: Any) -> Behaviour:
    """Answer as RFC 6749 §5.2 says."""
    return answer({"error": code, **more}, status, headers)


async def reset(_: Received, writer: asyncio.StreamWriter) -> None:
    """Reset the connection (RST) instead of answering."""
    writer.transport.abort()


async def silence(_: Received, __: asyncio.StreamWriter) -> None:
    """Never answer."""
    await asyncio.Event().wait()


def dribble(data: bytes, *, every: float = 0.02) -> Behaviour:
    """Send `data` over and over, one byte at a time."""

    async def behave(_: Received, writer: asyncio.StreamWriter) -> None:
        while True:
            for byte in data:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(every)

    return behave


def endless(head: bytes, block: bytes) -> Behaviour:
    """Send `head`, then `block` for ever."""

    async def behave(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(block)
            await writer.drain()

    return behave
