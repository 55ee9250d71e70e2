"""The other end of the socket: serve a handler in a short-named folder, and speak raw bytes to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenbroker.api.http import HttpServer, Request, Response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

PATIENCE = 5.0  # seconds; a test that waits longer has failed


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """Make a private folder whose name leaves room in `sun_path`, which pytest's own may not."""
    folder = Path(tempfile.mkdtemp(prefix="tb-", dir="/tmp")).resolve()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@dataclass(frozen=True)
class Served:
    """A running server."""

    server: HttpServer
    path: str

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection."""
        return await asyncio.open_unix_connection(self.path)

    async def exchange(self, *pieces: bytes) -> bytes:
        """Send the pieces, each as a packet of its own, and return everything up to the end of the connection."""
        reader, writer = await self.connect()
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.001 if len(pieces) > 1 else 0)
        answer = await asyncio.wait_for(reader.read(), PATIENCE)
        await hang_up(writer)
        return answer


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Close a connection and wait until it is."""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@contextlib.asynccontextmanager
async def serving(handler: Any, **options: Any) -> AsyncIterator[Served]:
    """Serve `handler` over a real socket."""
    with short_folder() as folder:
        path = str(folder / "s")
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        server = HttpServer(handler, **options)
        await server.serve(sock)
        try:
            yield Served(server, path)
        finally:
            server.close()
            await until(lambda: not server.channels)


async def until(condition: Any) -> None:
    """Give the event loop turns until `condition()` holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  # what is waited for is the server's own state, which no event tells
            await asyncio.sleep(0.001)


async def one_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Read one answer that has a length: its status, its headers and its body."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
    status, headers = parse_head(head)
    return status, headers, await reader.readexactly(int(headers.get("content-length", 0)))


def parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    """Take the head of an answer apart."""
    first, *lines = head.decode("latin-1").split("\r\n\r\n")[0].split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert len(headers) == len(lines), "a header was sent twice"
    return int(first.split()[1]), headers


def echo(request: Request) -> Response:
    """Answer with what was understood of the request."""
    body = {
        "method": request.method,
        "path": request.path,
        "query": request.query,
        "headers": dict(request.headers),
        "body": request.body.decode("latin-1"),
    }
    return Response(200, json.dumps(body).encode())
