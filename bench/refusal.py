"""How soon a program that may not cause a prompt knows that the vault is locked: the whole `broker-token` process."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from bench.processes import BIN, FORM, Daemon, asking, broker, folder, milliseconds
from bench.report import Row
from bench.vault import configuration, vault
from tests.standins.op_world import OpWorld

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROUNDS = 20
TARGET = 1000.0  # milliseconds
LOCKED = 5  # exit status
COMMAND = str(BIN / "broker-token")
WAYS = (("--no-prompt",), ("--as", "autonomous"))
NEVER = asking(FORM + b"&interaction=never")


@dataclass(slots=True)
class Sample:
    """Milliseconds."""

    refusals: list[float] = field(default_factory=list)
    versions: list[float] = field(default_factory=list)
    """`broker-token --version`, in turns with them."""
    sockets: list[float] = field(default_factory=list)
    """The daemon's answer alone, over a connection of its own."""

    def take(self, daemon: Daemon) -> None:
        """Measure each once."""
        environ = daemon.environ()
        self.refusals += [milliseconds([COMMAND, "search", *way], environ, status=LOCKED) for way in WAYS]
        self.versions.append(milliseconds([COMMAND, "--version"], environ))
        start = time.perf_counter()
        assert daemon.ask(NEVER).startswith(b"HTTP/1.1 4"), "it is refused"
        self.sockets.append((time.perf_counter() - start) * 1000)


def hang(daemon: Daemon) -> None:
    """Ask for a token until the daemon is killed."""
    with contextlib.suppress(ConnectionError):
        daemon.ask()


@contextlib.contextmanager
def somebody_waiting(daemon: Daemon, world: OpWorld) -> Iterator[None]:
    """Have a caller that may cause a prompt wait for `op` throughout; it is the daemon's end that ends its wait."""
    caller = threading.Thread(target=hang, args=(daemon,))
    caller.start()
    world.wait_until(lambda op: [call.outcome for call in op.calls()] == ["running"])
    try:
        yield
        assert caller.is_alive(), "the caller waits throughout"
    finally:
        daemon.kill()
        caller.join()


def sample(state: str) -> Sample:
    """Measure in this state of the vault."""
    taken = Sample()
    with folder() as place:
        world = vault(place)
        world.person("hang")
        if state == "`op` hangs":
            world.fault("ignore-sigterm")
        config = configuration(place, world, "http://127.0.0.1:9/token")
        with contextlib.closing(world), broker("--config", str(config)) as daemon, contextlib.ExitStack() as waiting:
            if state != "locked":
                waiting.enter_context(somebody_waiting(daemon, world))
            if state == "a prompt is open":
                world.wait_until(OpWorld.dialog_open)
            for _ in range(ROUNDS):
                taken.take(daemon)
    return taken


def quantiles(taken: Sequence[float]) -> tuple[float, float]:
    """Return the quantiles 0.5 and 0.99."""
    return median(taken), sorted(taken)[int(len(taken) * 0.99)]


def text(taken: Sequence[float]) -> str:
    """Return the quantiles as text."""
    p50, p99 = quantiles(taken)
    return f"{p50:.0f}, {p99:.0f} ms"


def rows() -> Iterator[Row]:
    """Measure in each state."""
    samples = {state: sample(state) for state in ("locked", "a prompt is open", "`op` hangs")}
    refusals = [one for taken in samples.values() for one in taken.refusals]
    versions = [one for taken in samples.values() for one in taken.versions]
    yield Row(
        "locked: broker-token's exit 5, p50, p99",
        text(refusals),
        f"{text(versions)} (--version)",
        median(refusals) / median(versions),
        f"p99 < {TARGET:g} ms",
        quantiles(refusals)[1] < TARGET,
    )
    for state, taken in samples.items():
        ratio = median(taken.refusals) / median(taken.versions)
        yield Row(f"· {state}", text(taken.refusals), f"{text(taken.versions)} (--version)", ratio)
    sockets = [one for taken in samples.values() for one in taken.sockets]
    p50, p99 = quantiles(sockets)
    yield Row("· the daemon's answer alone", f"{p50:.1f}, {p99:.1f} ms")
