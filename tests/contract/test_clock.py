"""The contract of the `Clock` port, kept by the real clock and by the fake."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.fakes_clock import FakeClock
from tokenbroker.system.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tokenbroker.ports import Clock

    Passing = tuple[Clock, Callable[[float], Awaitable[None]]]


@pytest.fixture(params=["system", "fake"])
def passing(request: pytest.FixtureRequest) -> Passing:
    """Give a clock and the way to let time pass on it."""
    if request.param == "system":
        return SystemClock(), asyncio.sleep
    fake = FakeClock()
    return fake, fake.advance


async def test_both_clocks_go_forward_alike(passing: Passing) -> None:
    """While nobody sets the wall clock and the machine is awake."""
    clock, let_pass = passing
    before = clock.now()
    await let_pass(0.05)
    after = clock.now()
    assert 0.05 <= round(after.elapsed - before.elapsed, 6) < 5
    assert after.wall - before.wall == pytest.approx(after.elapsed - before.elapsed, abs=0.04)


async def test_sleep_lasts_at_least_as_long_as_asked(passing: Passing) -> None:
    """And not much longer on a machine that is awake."""
    clock, let_pass = passing
    before = clock.now()
    sleeper = asyncio.create_task(clock.sleep(0.05))
    await let_pass(0.01)
    assert not sleeper.done()
    while not sleeper.done():
        await let_pass(0.01)
    assert clock.now().elapsed - before.elapsed >= 0.0499


async def test_a_cancelled_sleep_ends_at_once(passing: Passing) -> None:
    """And disturbs no other."""
    clock, let_pass = passing
    first, second = asyncio.create_task(clock.sleep(0.02)), asyncio.create_task(clock.sleep(0.02))
    await let_pass(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await let_pass(0.1)
    assert second.done()


async def test_no_time_is_a_turn_of_the_loop(passing: Passing) -> None:
    """A sleep of nothing, or less, returns."""
    clock, _ = passing
    await asyncio.wait_for(clock.sleep(0), 1)
    await asyncio.wait_for(clock.sleep(-1), 1)


def test_the_wall_is_the_epoch() -> None:
    """Expiry times of tokens are compared with it."""
    assert SystemClock().now().wall == pytest.approx(time.time(), abs=1)


@pytest.mark.skipif(sys.platform != "linux", reason="the clock's name is Linux's")
def test_elapsed_counts_the_machines_sleep() -> None:
    """CLOCK_BOOTTIME does; CLOCK_MONOTONIC does not."""
    assert SystemClock().now().elapsed == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=1)


async def test_the_fake_runs_timers_in_order_each_at_its_own_moment() -> None:
    """A loop that sleeps again and again is run as often as it would be."""
    clock = FakeClock(elapsed=0)
    seen: list[tuple[str, float]] = []

    async def tick(name: str, seconds: float) -> None:
        while True:
            await clock.sleep(seconds)
            seen.append((name, clock.now().elapsed))

    tasks = [asyncio.create_task(tick("a", 20)), asyncio.create_task(tick("b", 30))]
    await clock.advance(65)
    assert seen == [("a", 20), ("b", 30), ("a", 40), ("b", 60), ("a", 60)]
    assert clock.now().elapsed == 65
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await clock.advance(100)
    assert len(seen) == 5


async def test_the_fake_machine_sleeps_without_running_timers() -> None:
    """Both clocks jump; the timer has as long to go as before, as asyncio's own has."""
    clock = FakeClock()
    before = clock.now()
    sleeper = asyncio.create_task(clock.sleep(10))
    await clock.advance(1)
    clock.sleep_machine(3600)
    assert (clock.now().wall - before.wall, clock.now().elapsed - before.elapsed) == (3601, 3601)
    await clock.advance(8)
    assert not sleeper.done()
    await clock.advance(1)
    assert sleeper.done()


async def test_the_fake_wall_jumps_alone() -> None:
    """A person or NTP sets it; nothing else moves."""
    clock = FakeClock()
    before = clock.now()
    clock.jump_wall(-500)
    assert (clock.now().wall - before.wall, clock.now().elapsed - before.elapsed) == (-500, 0)
