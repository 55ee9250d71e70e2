"""Processes to measure: start them, wait for them, look at them, end them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
BIN = Path(sys.prefix) / "bin"
PYTHON = str(BIN / "python3")
PATIENCE = 10.0  # seconds
FORM = b"grant_type=client_credentials&profile=search"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def asking(form: bytes) -> bytes:
    """Return a request for a token."""
    return (
        b"POST /token HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s" % (len(form), form)
    )


ASK = asking(FORM)


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """Make a private folder whose name leaves room in `sun_path`."""
    path = Path(tempfile.mkdtemp(prefix="tb-", dir="/tmp")).resolve()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def process(argv: list[str], *, stdin: bytes = b"") -> Iterator[subprocess.Popen[bytes]]:
    """Run a program for one `with` block; its stderr is shown only if it ended before the block did."""
    with tempfile.TemporaryFile() as told:
        running = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=told)
        try:
            assert running.stdin is not None
            running.stdin.write(stdin)
            running.stdin.close()
            yield running
        finally:
            if running.poll() not in {None, -signal.SIGKILL}:
                told.seek(0)
                sys.stderr.buffer.write(told.read())
            running.terminate()
            try:
                running.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running `broker serve`."""

    pid: int
    path: str

    def ask(self, request: bytes = ASK) -> bytes:
        """Return the whole answer to one request over a connection of its own."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(60)
            sock.connect(self.path)
            sock.sendall(request.replace(b"Host: ", b"Connection: close\r\nHost: ", 1))
            return b"".join(iter(lambda: sock.recv(65536), b""))

    def kill(self) -> None:
        """End it without its ceremonies."""
        os.kill(self.pid, signal.SIGKILL)

    def environ(self) -> dict[str, str]:
        """Return an environment in which `broker-token` finds this daemon."""
        return dict(os.environ) | {"BROKER_SOCKET": self.path}


@contextlib.contextmanager
def broker(*options: str) -> Iterator[Daemon]:
    """Run `broker serve` with `options` until the block ends; it has answered /healthz."""
    with folder() as place:
        path = str(place / "b.sock")
        with process([str(BIN / "broker"), "serve", "--socket", path, "--log-level", "warning", *options]) as running:
            daemon = Daemon(running.pid, path)
            wait_for(path)
            daemon.ask(HEALTH)
            yield daemon


def wait_for(path: str) -> None:
    """Wait until somebody listens. Raises `TimeoutError`."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(path) == 0:
                return
        time.sleep(0.002)
    raise TimeoutError(f"nothing listens on {path}")


def milliseconds(argv: list[str], environ: dict[str, str], *, status: int = 0) -> float:
    """Run a program with its output thrown away; return how long it took. Raises if its exit status is another."""
    quiet = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_WRONLY, 0) for number in (1, 2)]
    start = time.perf_counter()
    pid = os.posix_spawn(argv[0], argv, environ, file_actions=quiet)
    _, ended = os.waitpid(pid, 0)
    taken = time.perf_counter() - start
    if os.waitstatus_to_exitcode(ended) != status:
        raise RuntimeError(f"{' '.join(argv)} ended with {os.waitstatus_to_exitcode(ended)}, expected {status}")
    return taken * 1000


def processor_time(pid: int) -> float:
    """Return the processor seconds that a process has used (clock_getcpuclockid(3)); 0 where that is not known."""
    return time.clock_gettime((~pid << 3) | 2) if sys.platform == "linux" else 0.0


def resident(pid: int) -> float:
    """Return the resident megabytes of a process, shared pages included."""
    told = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], stdout=subprocess.PIPE, check=True).stdout
    return int(told) / 1024
