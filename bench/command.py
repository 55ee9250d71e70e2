"""`broker-token PROFILE` of a cached token, beside the start of the interpreter that it runs on."""

from __future__ import annotations

import os
from statistics import median
from typing import TYPE_CHECKING

from bench.processes import BIN, PYTHON, broker, milliseconds
from bench.report import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = 150
TARGET = 1.3
PASS = [PYTHON, "-I", "-S", "-c", "pass"]


def rows() -> Iterator[Row]:
    """Measure pair by pair, so that whatever else the machine does hits both alike."""
    command = [str(BIN / "broker-token"), "search"]
    with broker("--dev") as daemon:
        environ = daemon.environ()
        pairs = [(milliseconds(command, environ), milliseconds(PASS, dict(os.environ))) for _ in range(ROUNDS + 5)][5:]
    ratio = median(ours / theirs for ours, theirs in pairs)
    ours, theirs = (median(side) for side in zip(*pairs, strict=True))
    yield Row(
        "broker-token, cached token",
        f"{ours:.1f} ms",
        f"{theirs:.1f} ms (python -I -S -c pass)",
        ratio,
        f"≤ {TARGET}",
        ratio <= TARGET,
    )
