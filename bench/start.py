"""`broker serve` on an ordinary configuration: start to first answer, and memory when nothing happens."""

from __future__ import annotations

import os
import subprocess
import time
from statistics import median
from typing import TYPE_CHECKING

from bench.command import PASS
from bench.processes import BIN, HEALTH, Daemon, broker, folder, milliseconds, resident, wait_for
from bench.report import Row
from bench.vault import configuration, vault

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROUNDS = 9
READY = 400.0  # milliseconds
RESIDENT = 60.0  # megabytes
SETTLE = 2.0  # seconds after the first answer, in which the daemon imports what it needs later


def ready(config: Path) -> float:
    """Return the milliseconds from the start of the process to its first answer."""
    with folder() as place:
        path = str(place / "b.sock")
        argv = [str(BIN / "broker"), "serve", "--config", str(config), "--socket", path, "--log-level", "warning"]
        start = time.perf_counter()
        running = subprocess.Popen(argv)
        try:
            wait_for(path)
            Daemon(running.pid, path).ask(HEALTH)
            return (time.perf_counter() - start) * 1000
        finally:
            running.terminate()
            running.wait()


def rows() -> Iterator[Row]:
    """Measure in turns with the interpreter's own start."""
    with folder() as place:
        world = vault(place)
        config = configuration(place, world, "http://127.0.0.1:9/token")
        ready(config)
        pairs = [(ready(config), milliseconds(PASS, dict(os.environ))) for _ in range(ROUNDS)]
        with broker("--config", str(config)) as daemon:
            time.sleep(SETTLE)
            memory = resident(daemon.pid)
    ours, theirs = (median(side) for side in zip(*pairs, strict=True))
    yield Row(
        "start to first answer",
        f"{ours:.0f} ms",
        f"{theirs:.1f} ms (python -I -S -c pass)",
        median(one / other for one, other in pairs),
        f"≤ {READY:g} ms",
        ours <= READY,
    )
    yield Row("resident memory, idle", f"{memory:.1f} MB", target=f"≤ {RESIDENT:g} MB", met=memory <= RESIDENT)
