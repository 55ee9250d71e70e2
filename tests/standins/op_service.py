"""The daemon's part of `broker doctor op` by itself: its admin socket with one route, answered by the real class."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, Self

from tokenbroker.errors import UsageError
from tokenbroker.vaults.op.experiment import ServiceProbe

if TYPE_CHECKING:
    from tests.e2e.rig import Background, Rig
    from tokenbroker.config import VaultConfig


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    service: OpService


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        """Answer as the daemon does."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, answer = self.server.service.answer(self.path, body)
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def address_string(self) -> str:
        return "a process of this machine"

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class OpService:
    """`with OpService(rig, config, beside) as service:` listens on the rig's admin socket."""

    def __init__(self, rig: Rig, config: VaultConfig, beside: Background, *, speed: float = 1.0) -> None:
        """Run the calls on the loop of `beside`, whose seconds are `speed` times as long."""
        self._beside = beside
        self.bodies: list[dict[str, Any]] = []
        self._probe = ServiceProbe(config, environ=rig.environ(), home=rig.home, clock=lambda: time.monotonic() * speed)
        rig.admin.parent.mkdir(mode=0o700, parents=True)
        rig.admin.parent.parent.chmod(0o700)
        self._server = _Server(str(rig.admin), _Handler)
        self._server.service = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._beside.run(self._probe.close())

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Answer one request."""
        self.bodies.append(body)
        if path != "/v1/op-experiment":
            return 404, {"error": "invalid_request", "error_description": "there is nothing here", "code": "usage"}
        try:
            return 200, self._beside.run(self._probe.answer(body))
        except UsageError as error:
            return 400, {"error": "invalid_request", "error_description": error.message, "code": error.code}
