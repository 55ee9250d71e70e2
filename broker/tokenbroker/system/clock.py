"""The real clock.

Neither system's plain monotonic clock will do for `Instant.elapsed`: `time.monotonic` stands still while the machine
sleeps on Linux (CLOCK_MONOTONIC) and on macOS (mach_absolute_time). CLOCK_BOOTTIME on Linux, and what macOS calls
CLOCK_MONOTONIC, count the sleep (clock_gettime(2); on macOS clock_gettime(3)).
"""

from __future__ import annotations

import asyncio
import time

from tokenbroker.model import Instant


class SystemClock:
    """The `Clock` port on the machine's own clocks."""

    def __init__(self) -> None:
        self._elapsed = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    def now(self) -> Instant:
        """Return this moment on both clocks."""
        return Instant(time.time(), time.clock_gettime(self._elapsed))

    async def sleep(self, seconds: float) -> None:
        """Wait at least `seconds` of the machine's waking time."""
        await asyncio.sleep(seconds)
