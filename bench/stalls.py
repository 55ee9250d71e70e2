"""The event loop while `op` hangs and while the issuer hangs, seen by a program that asks /healthz all the time."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from statistics import median
from typing import TYPE_CHECKING

from bench.processes import ASK, BIN, HEALTH, PYTHON, ROOT, Daemon, broker, folder, milliseconds
from bench.report import Row
from bench.vault import configuration, vault

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = 3
SECONDS = 1.5
SETTLE = 1.0
PAUSE = 20.0  # milliseconds
REFUSAL = 1000.0  # milliseconds until an autonomous caller knows that the vault is locked
REFUSALS = 15
LOCKED = 5  # exit status


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """Listen on loopback and never answer; give the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/token"


def longest(daemon: Daemon) -> float:
    """Ask /healthz every millisecond; return the longest wait in ms."""
    argv = [PYTHON, "-I", "-S", str(ROOT / "bench" / "load.py"), daemon.path, "1", str(SECONDS), "--pause", "0.001"]
    done = subprocess.run(argv, input=HEALTH, stdout=subprocess.PIPE, check=True)
    return float(done.stdout.split()[-1]) * 1000


def hang(daemon: Daemon) -> None:
    """Ask for a token until the daemon is killed."""
    with contextlib.suppress(ConnectionError):
        daemon.ask()


def pauses(*, op_hangs: bool) -> tuple[float, float]:
    """Return the longest wait while something hangs, and before."""
    with folder() as place, black_hole() as endpoint:
        world = vault(place)
        if op_hangs:
            world.person("hang")
        try:
            with broker("--config", str(configuration(place, world, endpoint))) as daemon:
                time.sleep(SETTLE)
                before = longest(daemon)
                caller = threading.Thread(target=hang, args=(daemon,))
                caller.start()
                while_hanging = longest(daemon)
                assert caller.is_alive(), "the caller waits throughout"
                daemon.kill()
                caller.join()
        finally:
            world.close()
    return while_hanging, before


def refusal() -> tuple[float, float]:
    """Return how long a locked vault's refusal takes an autonomous `broker-token`, while `op` hangs for a person.

    And how long the socket alone takes for it.
    """
    with folder() as place:
        world = vault(place)
        with broker("--config", str(configuration(place, world, "http://127.0.0.1:9/token"))) as daemon:
            argv = [str(BIN / "broker-token"), "search", "--no-prompt"]
            command = [milliseconds(argv, daemon.environ(), status=LOCKED) for _ in range(REFUSALS)]
            start = time.perf_counter()
            for _ in range(REFUSALS):
                daemon.ask(ASK.replace(b"Content-Length: 44", b"Content-Length: 62") + b"&interaction=never")
            alone = (time.perf_counter() - start) * 1000 / REFUSALS
    return median(command), alone


def rows() -> Iterator[Row]:
    """Measure."""
    for what, op_hangs in (("`op` hangs", True), ("the issuer hangs", False)):
        rounds = [pauses(op_hangs=op_hangs) for _ in range(ROUNDS)]
        during, before = (median(side) for side in zip(*rounds, strict=True))
        yield Row(
            f"longest pause while {what}",
            f"{during:.1f} ms",
            f"{before:.1f} ms (nothing hangs)",
            target=f"≤ {PAUSE:g} ms",
            met=during <= PAUSE,
        )
    command, alone = refusal()
    yield Row(
        "locked: broker-token's exit 5",
        f"{command:.0f} ms",
        f"{alone:.1f} ms (the socket alone)",
        target=f"< {REFUSAL:g} ms",
        met=command < REFUSAL,
    )
