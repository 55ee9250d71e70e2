"""An aiohttp application on one loopback port, marked as development on every answer."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

LOOPBACK = "127.0.0.1"
MARK = "X-Tokenbroker-Development"
GRACE = 0.2  # seconds that a request in progress may take to end when the server stops


@dataclass(slots=True)
class LoopbackServer:
    """A server whose port is taken before its application exists, so that the application can know its own URL."""

    url: str
    """`http://HOST:PORT`, without a slash at the end."""
    _sock: socket.socket
    _runner: web.AppRunner | None = None

    @classmethod
    def bind(cls, host: str = LOOPBACK) -> Self:
        """Take a free port of `host`, an address. Raises `ValueError` for anything but a loopback address."""
        address = ipaddress.ip_address(host)
        if not address.is_loopback:
            raise ValueError(f"development parts listen on loopback only, not on {host}")
        six = address.version == 6  # noqa: PLR2004  # the protocol's own number
        sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET)
        try:
            sock.bind((host, 0))
        except OSError:
            sock.close()
            raise
        port = sock.getsockname()[1]
        return cls(f"http://[{host}]:{port}" if six else f"http://{host}:{port}", sock)

    async def serve(self, app: web.Application, **options: Any) -> None:
        """Answer with `app` from now on; `options` are aiohttp's for its protocol. Nothing is logged per request."""
        app.on_response_prepare.append(_mark)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=GRACE, **options)
        await self._runner.setup()
        await web.SockSite(self._runner, self._sock).start()

    async def close(self) -> None:
        """Stop answering and free the port. May be called twice."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
        self._sock.close()

    async def __aenter__(self) -> Self:
        """Give the server, which `serve` then starts."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        await self.close()


async def _mark(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers[MARK] = "not for production"
