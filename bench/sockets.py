"""The socket: a cached token from the real daemon, beside bare aiohttp that sends the very same bytes."""

from __future__ import annotations

import contextlib
import subprocess
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from bench.processes import ASK, PYTHON, ROOT, broker, folder, process, processor_time, wait_for
from bench.report import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = 5
SECONDS = 0.5
LOADS = {  # name → arguments of the load
    "1 connection": ("1",),
    "16 connections": ("16",),
    "64 connections": ("64",),
    "new connections": ("8", "--fresh"),
}
TARGET = 0.8


@dataclass(frozen=True, slots=True)
class Server:
    """Where one of the two listens, and which process it is."""

    path: str
    pid: int


@dataclass(frozen=True, slots=True)
class Measured:
    """One round."""

    rate: float
    """Answers per second."""
    cost: float
    """Microseconds of the server's processor time per answer."""
    p50: float
    """Microseconds."""
    p99: float


@contextlib.contextmanager
def servers() -> Iterator[tuple[Server, Server]]:
    """Run the daemon and the reference."""
    with broker("--dev") as daemon, folder() as place:
        daemon.ask()
        body = daemon.ask().partition(b"\r\n\r\n")[2]
        path = str(place / "a.sock")
        with process([PYTHON, "-m", "bench.bare", path], stdin=body) as bare:
            wait_for(path)
            yield Server(daemon.path, daemon.pid), Server(path, bare.pid)


def load(server: Server, arguments: tuple[str, ...], *, request: bytes = ASK, seconds: float = SECONDS) -> Measured:
    """Run one round."""
    connections, *others = arguments
    used = processor_time(server.pid)
    argv = [PYTHON, "-I", "-S", str(ROOT / "bench" / "load.py"), server.path, connections, str(seconds), *others]
    done = subprocess.run(argv, input=request, stdout=subprocess.PIPE, check=True)
    used = processor_time(server.pid) - used
    count, spent, p50, p99, _ = map(float, done.stdout.split())
    return Measured(count / spent, used / count * 1e6, p50 * 1e6, p99 * 1e6)


def rows() -> Iterator[Row]:
    """Measure in turns; the middle of the rounds counts."""
    with servers() as both:
        for arguments in LOADS.values():
            for server in both:
                load(server, arguments, seconds=0.2)
        for name, arguments in LOADS.items():
            taken = [pair(both, arguments, swap=bool(number % 2)) for number in range(ROUNDS)]
            yield from compare(name, [one for one, _ in taken], [other for _, other in taken])


def pair(both: tuple[Server, Server], arguments: tuple[str, ...], *, swap: bool) -> tuple[Measured, Measured]:
    """Measure ours and theirs, in the other order every second time."""
    results = {server: load(server, arguments) for server in (reversed(both) if swap else both)}
    return results[both[0]], results[both[1]]


def compare(name: str, ours: list[Measured], theirs: list[Measured]) -> Iterator[Row]:
    """Make the rows of one load."""
    ratio = median(one.rate / other.rate for one, other in zip(ours, theirs, strict=True))
    rate, bare = (f"{median(one.rate for one in side):.0f} /s" for side in (ours, theirs))
    # Who a new peer is takes a walk through /proc, which the reference does not do: told, not judged.
    judged = {"target": f"≥ {TARGET}", "met": ratio >= TARGET} if "new" not in name else {}
    yield Row(f"POST /token, {name}", rate, f"{bare} (aiohttp)", ratio, **judged)  # type: ignore[arg-type]
    yield Row("· p50, p99", spread(ours), spread(theirs))
    if ours[0].cost:
        cost = median(one.cost / other.cost for one, other in zip(ours, theirs, strict=True))
        mine, other = (median(one.cost for one in side) for side in (ours, theirs))
        yield Row("· server's processor time", f"{mine:.0f} µs", f"{other:.0f} µs", cost)


def spread(side: list[Measured]) -> str:
    """Return the quantiles as text."""
    return f"{median(one.p50 for one in side):.0f}, {median(one.p99 for one in side):.0f} µs"
