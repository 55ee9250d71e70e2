"""Time that a test owns."""

from __future__ import annotations

import asyncio
import heapq
import itertools

from tokenbroker.model import Instant

EPOCH = 1_800_000_000.0
TURNS = 50  # turns of the loop that let everything which can run do so


class FakeClock:
    """A `Clock` that stands still until it is moved; sleepers wake in order as it passes them."""

    def __init__(self, wall: float = EPOCH, elapsed: float = 1000.0) -> None:
        self._wall = wall
        self._elapsed = elapsed
        self._timers = 0.0  # what timers count: no time while the machine sleeps
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now(self) -> Instant:
        return Instant(self._wall, self._elapsed)

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._timers + seconds, next(self._order), woken))
        await woken

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass on every clock, waking each sleeper at its time and letting what follows run."""
        target = self._timers + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= target:
            due, _, woken = heapq.heappop(self._sleepers)
            if woken.cancelled():
                continue
            self._pass(due - self._timers)
            woken.set_result(None)
            await settle()
        self._pass(target - self._timers)
        await settle()

    def sleep_machine(self, seconds: float) -> None:
        """Suspend the machine: both clocks go on, no timer does."""
        self._wall += seconds
        self._elapsed += seconds

    def jump_wall(self, seconds: float) -> None:
        """Set the wall clock, as NTP or a person does."""
        self._wall += seconds

    def _pass(self, seconds: float) -> None:
        if seconds > 0:
            self._wall += seconds
            self._elapsed += seconds
            self._timers += seconds


async def settle() -> None:
    """Let every task run until it waits for something that is not there yet."""
    ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]  # asyncio does not tell otherwise
    for _ in range(TURNS):
        await asyncio.sleep(0)
        if not ready:
            return
