"""A scripted broker on a real Unix socket, for tests of the client and for its benchmark.

Left alone it behaves: one token per profile, served until it is rejected. `script` makes its next answers misbehave.
Run as a program (`python fake_daemon.py SOCKET`) it serves until it is killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from tokenbroker_client import http1, wire

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

FAR_AWAY = 4102444800  # epoch seconds, year 2100
PROFILES = (
    wire.ProfileInfo("search", "https://search.example.com", None, ("search:read",), ("interactive",), "allow"),
    wire.ProfileInfo("billing", None, "https://billing.example.com", (), ("autonomous", "interactive"), "ask"),
    wire.ProfileInfo("payroll", "https://payroll.example.com", None, ("pay:read", "pay:write"), (), "deny"),
)


@dataclass(frozen=True)
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def form(self) -> dict[str, str]:
        """The body as a form."""
        return dict(parse_qsl(self.body.decode()))


def token_number(number: int, profile: str = "search") -> wire.TokenAnswer:
    """Return the answer with the token that the fake serves after `number` rejections."""
    token = f"eyJhbGciOiJub25lIn0.{profile.encode().hex()}.{number}"
    return wire.TokenAnswer(
        access_token=token,
        expires_in=600,
        scope="search:read",
        expires_at=FAR_AWAY,
        profile=profile,
        agent_type="interactive",
        owner="owner@example.com",
        fingerprint=hashlib.sha256(token.encode()).hexdigest()[:12],
        source="cache",
        session="s1",
    )


def http(status: int, body: bytes, *, length: int | None = None) -> bytes:
    """Return a whole answer; `length` makes its Content-Length lie."""
    size = len(body) if length is None else length
    head = f"HTTP/1.1 {status} Something\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
    return head.encode() + body


def refusal(status: int, code: str, message: str, **more: object) -> bytes:
    """Return an error answer as the daemon writes it."""
    answer = wire.ErrorAnswer("access_denied", message, code, **more)  # type: ignore[arg-type]  # a test's own words
    return http(status, wire.encode_error(answer))


Step = bytes | None
"""What to do with a request: send these bytes and hang up, or (`None`) say nothing and hold the line."""


class FakeDaemon:
    """A broker that lives for one `with` block."""

    def __init__(self, path: Path | str) -> None:
        self.path = str(path)
        self.seen: list[Seen] = []
        self.rejections = 0
        self.keeps = False
        """Whether rejections are taken for a loop: the token stays."""
        self._script: list[Step] = []
        self.asked = threading.Event()
        """Set once the first request has arrived."""
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def script(self, *steps: Step) -> None:
        """Use `steps` for the next requests, whatever they ask; afterwards behave again."""
        self._script.extend(steps)

    def __enter__(self) -> Self:
        Path(self.path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._listener.bind(self.path)
        Path(self.path).chmod(0o600)
        self._listener.listen(16)
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()
        with suppress(OSError):
            os.unlink(self.path)  # noqa: PTH108  # the path may not be one that pathlib keeps as it is

    def serve_forever(self) -> None:
        """Wait until killed."""
        self._over.wait()

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(10)
            request = _read(connection)
            if request is None:
                return
            self.seen.append(request)
            self.asked.set()
            step = self._script.pop(0) if self._script else self._behave(request)
            if step is None:
                self._over.wait()
            else:
                connection.sendall(step)

    def _behave(self, request: Seen) -> bytes:
        match request.method, request.path:
            case "POST", wire.TOKEN_PATH:
                profile = wire.decode_request(request.body).profile or "search"
                return http(200, wire.encode_token(token_number(self.rejections, profile)))
            case "POST", wire.REJECTED_PATH:
                profile, fingerprint = wire.decode_rejected(request.body)
                dropped = not self.keeps and fingerprint == token_number(self.rejections, profile).fingerprint
                self.rejections += dropped
                return http(200, json.dumps({"dropped": dropped}).encode())
            case "GET", wire.PROFILES_PATH:
                return http(200, wire.encode_profiles(PROFILES))
            case "GET", wire.ME_PATH:
                return http(200, b'{"agent_type":"interactive"}')
        return http(404, b"{}")


def _read(connection: socket.socket) -> Seen | None:
    data = b""
    while True:
        chunk = connection.recv(65536)
        data += chunk
        head, separator, body = data.partition(b"\r\n\r\n")
        if separator:
            request_line, *lines = head.decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            if len(body) >= int(headers.get("content-length", "0")):
                method, path, _ = request_line.split(" ")
                return Seen(method, path, headers, body)
        if not chunk or len(head) > http1.MAX_HEAD:
            return None


if __name__ == "__main__":
    with FakeDaemon(sys.argv[1]) as daemon:
        print("ready", flush=True)
        daemon.serve_forever()
