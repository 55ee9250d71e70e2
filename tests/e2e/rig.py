"""A new user's machine in a folder: home, sockets, `op` on PATH, a configuration by hand, the installed commands.

`with Rig() as rig:` makes it; `rig.configure(text)` writes config.toml; `with rig.serve() as daemon:` runs the daemon
as a process of its own, and checks at the end that it stopped in good order. Servers that the tests bring along
(issuer, API) run beside the tests on an event loop in a thread: `with Background() as beside: beside.enter(…)`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from tests.standins.op_world import OpWorld
from tokenbroker.dev.authorization import DevClient
from tokenbroker.model import AgentType, Secret
from tokenbroker_client import transport

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

T = TypeVar("T")

BIN = Path(sys.executable).parent
BROKER = BIN / "broker"
PATIENCE = 20.0  # seconds; nothing here takes one, but machines are slow sometimes
LOOK = 0.005  # seconds between two looks at something that another process does
API = "https://api.example"  # an audience
OWNER = "owner@example.com"


@dataclass(frozen=True)
class Ran:
    """What a command said."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def token(self) -> str:
        """The token that `broker-token` printed."""
        assert (self.code, self.err) == (0, ""), self.err
        assert self.out.endswith("\n")
        return self.out[:-1]

    @property
    def message(self) -> str:
        """What stands after `error:`."""
        return self._line("error")

    @property
    def hint(self) -> str:
        """What stands after `hint:`."""
        return self._line("hint")

    def _line(self, kind: str) -> str:
        found = [line.partition(f" {kind}: ")[2] for line in self.err.splitlines() if f": {kind}: " in line]
        assert len(found) == 1, self.err
        return found[0]


class Rig:
    """One made-up user."""

    def __init__(self) -> None:
        """Make the folders, short ones, as a socket's path is; `op` is on PATH and there is nothing in the vault."""
        self.folder = Path(tempfile.mkdtemp(prefix="tb-"))
        self.home = self._folder("home")
        self.runtime = self._folder("run")
        self.state = self._folder("state")
        self.bin = self._folder("bin")
        self.socket = self.runtime / "tokenbroker/broker.sock"
        self.admin = self.runtime / "tokenbroker/admin/admin.sock"
        self.config = self.home / ".config/tokenbroker/config.toml"
        self.config.parent.mkdir(parents=True)
        self.op = OpWorld.create(self._folder("op"))
        self.op.set(latency="none", time_scale=0.01)
        self.op.person("approve", delay=1.0)
        self.op.install(self.bin)

    def _folder(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir(mode=0o700)
        return path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.op.close()
        shutil.rmtree(self.folder)

    def environ(self, **more: str) -> dict[str, str]:
        """Return the environment of this user's programs."""
        return {
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.runtime),
            "XDG_STATE_HOME": str(self.state),
            "BROKER_SOCKET": str(self.socket),  # the usual place on Linux, and on macOS the same
            "PATH": f"{self.bin}:{BIN}:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            **more,
        }

    def configure(self, text: str) -> None:
        """Write config.toml."""
        self.config.write_text(text)

    def serve(
        self, *options: str, pass_fds: Sequence[int] = (), command: Sequence[str | Path] = (BROKER,), **environ: str
    ) -> Daemon:
        """Start the daemon; use it as `with rig.serve() as daemon:`. `command` is what stands before `serve`."""
        return Daemon(self, options, pass_fds=pass_fds, command=command, environ=environ)

    def run(self, *command: str | Path, **environ: str) -> Ran:
        """Run a command to its end."""
        return finished(self.start(*command, **environ))

    def start(self, *command: str | Path, **environ: str) -> Running:
        """Start a command; `finished` waits for it."""
        process = subprocess.Popen(
            command,
            env=self.environ(**environ),
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return Running(process, time.monotonic())

    def token(self, *arguments: str, **environ: str) -> Ran:
        """Run `broker-token`."""
        return self.run(BIN / "broker-token", *arguments, **environ)

    def broker(self, *arguments: str) -> Ran:
        """Run `broker`."""
        return self.run(BIN / "broker", *arguments)

    def ask(self, method: str, path: str, body: bytes = b"", *, admin: bool = False) -> tuple[int, str]:
        """Send one request, as any program of the user could, and return status and text."""
        place = self.admin if admin else self.socket
        status, _, answer = transport.request(str(place), method, path, body, timeout=PATIENCE)
        return status, answer.decode()

    def status(self) -> dict[str, Any]:
        """Return what the daemon says of itself."""
        code, text = self.ask("GET", "/v1/status", admin=True)
        assert code == 200
        return dict(json.loads(text))


@dataclass(frozen=True)
class Running:
    """A command under way."""

    process: subprocess.Popen[str]
    began: float


def finished(running: Running) -> Ran:
    """Wait for a command's end."""
    try:
        out, err = running.process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        running.process.kill()
        running.process.communicate()
        raise
    return Ran(running.process.returncode, out, err, time.monotonic() - running.began)


class Daemon:
    """`broker serve --config F --socket S` as a process."""

    def __init__(
        self,
        rig: Rig,
        options: Sequence[str],
        *,
        pass_fds: Sequence[int] = (),
        command: Sequence[str | Path] = (BROKER,),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._rig = rig
        self._killed = False
        self._log = rig.folder / "daemon.log"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "serve", "--config", rig.config, "--socket", rig.socket, *options],
                env=rig.environ(**(environ or {})),
                pass_fds=pass_fds,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """What this user's daemons have logged so far."""
        return self._log.read_text()

    def __enter__(self) -> Self:
        try:
            wait_until(self._listening)
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._killed:
            return
        code = self.stop()
        if kind is None:
            assert code == 0, self.log
            assert not self._rig.socket.exists()
            assert not self._rig.admin.exists()
            assert "Traceback" not in self.log, self.log
            assert "Handler failed" not in self.log, self.log

    def stop(self) -> int:
        """End it as systemd and launchd do, and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it as a crash does; what it should leave behind is then not checked."""
        self._killed = True
        self.process.send_signal(number)
        self.process.wait(PATIENCE)

    def hang_up(self) -> None:
        """Have it read its configuration again."""
        self.process.send_signal(signal.SIGHUP)

    def _listening(self) -> bool:
        assert self.process.poll() is None, self.log
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self._rig.admin)) == 0  # the second of the two


def wait_until(claim: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + PATIENCE
    while not claim():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(LOOK)


class Background:
    """An event loop in a thread, for the servers that a test brings along."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._stack = contextlib.AsyncExitStack()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def enter(self, manager: AbstractAsyncContextManager[T]) -> T:
        """Enter a server's context, to be left at the end."""
        return self.run(self._stack.enter_async_context(manager))

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run `coroutine` beside the test and return what it returns."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    def call(self, function: Callable[[], object]) -> None:
        """Call something that belongs to the loop, such as `Event.set`."""
        self._loop.call_soon_threadsafe(function)


def dev_client(
    client_id: str, secret: str, agent_type: str, grants: Mapping[str, str], *, owner: str = OWNER
) -> DevClient:
    """Return a client for the development issuer; `grants` are audiences with their scopes."""
    allowed = {audience: frozenset(scopes.split()) for audience, scopes in grants.items()}
    return DevClient(client_id, Secret(secret), owner, AgentType(agent_type), allowed)
