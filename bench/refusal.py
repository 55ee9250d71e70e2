"""How soon a program that may not cause a prompt knows that the vault is locked: the whole `broker-token` process."""

from __future__ import annotations

import contextlib
import threading
from statistics import median
from typing import TYPE_CHECKING

from bench.processes import BIN, Daemon, broker, folder, milliseconds
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


def sample(state: str) -> tuple[list[float], list[float]]:
    """Return how long refusals take in this state of the vault, and `--version` in turns with them; milliseconds."""
    with folder() as place:
        world = vault(place)
        world.person("hang")
        if state == "`op` hangs":
            world.fault("ignore-sigterm")
        config = configuration(place, world, "http://127.0.0.1:9/token")
        ours, theirs = [], []
        with contextlib.closing(world), broker("--config", str(config)) as daemon, contextlib.ExitStack() as waiting:
            if state != "locked":
                waiting.enter_context(somebody_waiting(daemon, world))
            if state == "a prompt is open":
                world.wait_until(OpWorld.dialog_open)
            for _ in range(ROUNDS):
                ours += [milliseconds([COMMAND, "search", *way], daemon.environ(), status=LOCKED) for way in WAYS]
                theirs.append(milliseconds([COMMAND, "--version"], daemon.environ()))
    return ours, theirs


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
    ours, theirs = ([one for pair in samples.values() for one in pair[side]] for side in (0, 1))
    yield Row(
        "locked: exit 5, p50, p99",
        text(ours),
        f"{text(theirs)} (--version)",
        median(ours) / median(theirs),
        f"p99 < {TARGET:g} ms",
        quantiles(ours)[1] < TARGET,
    )
    for state, (mine, other) in samples.items():
        yield Row(f"· {state}", text(mine), text(other), median(mine) / median(other))
