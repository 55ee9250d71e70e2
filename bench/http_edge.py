"""Compare the HTTP edge with a bare aiohttp server that answers the same body over the same kind of socket.

The two servers run as processes of their own; rounds are interleaved, so that a busy machine disturbs both alike.
Prints requests per second, the server's own processor time per request (Linux), and the median ratios. The load comes
from Python too and may be what limits the requests per second; processor time is the fairer figure.

    python bench/http_edge.py [--seconds 1.5] [--rounds 5] [--connections 16]
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

BODY = b'{"access_token":"' + b"x" * 900 + b'","token_type":"Bearer","expires_in":3000,"scope":"search:read"}'
FORM = b"grant_type=client_credentials&profile=search"
REQUEST = (
    b"POST /token HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(FORM), FORM)
)


def serve_ours(path: str) -> None:
    """Run the edge with a trivial handler."""
    from tokenbroker.api.http import HttpServer, Request, Response  # noqa: PLC0415

    def handler(request: Request) -> Response:
        assert request.body == FORM
        return Response(200, BODY)

    async def main() -> None:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        await HttpServer(handler).serve(sock)
        await asyncio.Event().wait()

    asyncio.run(main())


def serve_aiohttp(path: str) -> None:
    """Run bare aiohttp with a trivial handler and no access log."""
    from aiohttp import web  # noqa: PLC0415

    async def handler(request: web.Request) -> web.Response:
        assert await request.read() == FORM
        return web.Response(body=BODY, content_type="application/json")

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/token", handler)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.UnixSite(runner, path).start()
        await asyncio.Event().wait()

    asyncio.run(main())


class Load(asyncio.Protocol):
    """One keep-alive connection that asks again as soon as it is answered."""

    def __init__(self) -> None:
        self.count = 0
        self.expected = 0
        self.got = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        """Count an answer when it is whole; its size is learned from the first."""
        if not self.expected:
            assert data.startswith(b"HTTP/1.1 200"), data
            assert data.endswith(BODY)
            self.expected = len(data)
        self.got += len(data)
        if self.got >= self.expected:
            self.got -= self.expected
            self.count += 1
            self.transport.write(REQUEST)


def processor_time(pid: int) -> float:
    """Return the processor seconds that a process has used (clock_getcpuclockid), 0 where that is not known."""
    return time.clock_gettime((~pid << 3) | 2) if sys.platform == "linux" else 0.0


async def measure(path: str, pid: int, seconds: float, connections: int) -> tuple[float, float]:
    """Return requests per second, and microseconds of the server's processor time per request."""
    loop = asyncio.get_running_loop()
    loads = [(await loop.create_unix_connection(Load, path)) for _ in range(connections)]
    started, used = time.perf_counter(), processor_time(pid)
    await asyncio.sleep(seconds)
    took, used = time.perf_counter() - started, processor_time(pid) - used
    for transport, _ in loads:
        transport.abort()
    count = sum(load.count for _, load in loads)
    return count / took, used / count * 1e6


def wait_for(path: str) -> None:
    """Wait until somebody listens."""
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(path) == 0:
                return
        time.sleep(0.02)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="requests per second of the HTTP edge and of bare aiohttp")
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=16)
    options = parser.parse_args()
    servers = {"tokenbroker": serve_ours, "aiohttp": serve_aiohttp}
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder, name)) for name in servers]
        processes = [
            context.Process(target=run, args=(path,), daemon=True)
            for run, path in zip(servers.values(), paths, strict=True)
        ]
        for process, path in zip(processes, paths, strict=True):
            process.start()
            wait_for(path)
        rounds = [
            [
                asyncio.run(measure(path, process.pid or 0, options.seconds, options.connections))
                for process, path in zip(processes, paths, strict=True)
            ]
            for _ in range(options.rounds)
        ]
        for process in processes:
            process.kill()
    for name, results in zip(servers, zip(*rounds, strict=True), strict=True):
        rate, cost = (statistics.median(column) for column in zip(*results, strict=True))
        print(f"{name:12} {rate:8.0f} requests/s {cost:8.1f} us of processor time per request")
    by_rate = statistics.median(ours[0] / theirs[0] for ours, theirs in rounds)
    by_cost = statistics.median(theirs[1] / ours[1] for ours, theirs in rounds) if sys.platform == "linux" else 0.0
    print(f"ratio        {by_rate:8.2f}            {by_cost:8.2f}")


if __name__ == "__main__":
    main()
