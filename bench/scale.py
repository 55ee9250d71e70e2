"""The Broker on fakes, with one cached token and with ten thousand: both must cost the same."""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import time
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

from bench.report import Row
from tests.service.world import World, configuration
from tokenbroker import cache
from tokenbroker.broker import Served
from tokenbroker.config import ProfileConfig
from tokenbroker.events import Events
from tokenbroker_client.wire import TokenRequest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MANY = 10_000
ROUNDS = 7
ASKS = 10_000  # decisions per round
FLAT = 0.7  # of the rate with one token; what is lost is the processor's own cache
PAUSE = 20.0  # milliseconds


def world() -> World:
    """Return a broker with `MANY` profiles."""
    base = configuration()
    names = (f"profile-{number}" for number in range(MANY))
    profiles = {name: ProfileConfig(name, ("mine",), audience=f"https://{name}") for name in names}
    made = World(replace(base, profiles=profiles))
    dice = random.Random(1)  # noqa: S311  # spreads renewals as in life
    made.cache.exchange.minting._random = dice.random  # noqa: SLF001
    for part in (made.cache, made.cache.exchange, made.broker):
        part._audit = Events(lambda: 0.0)  # noqa: SLF001  # the fake one keeps everything
    return made


def rate(made: World, requests: Sequence[TokenRequest]) -> float:
    """Return decisions per second."""
    ask, peer = made.broker.request, made.me
    start = time.perf_counter()
    for request in itertools.islice(itertools.cycle(requests), ASKS):
        ask(request, peer)
    return ASKS / (time.perf_counter() - start)


async def longest_pause(made: World, seconds: float) -> float:
    """Let the renewal loop work through `seconds` of the clock; return the longest turn of the event loop in ms."""
    longest, over = 0.0, False

    async def watch() -> None:
        nonlocal longest
        before = time.perf_counter()
        while not over:
            await asyncio.sleep(0)
            now = time.perf_counter()
            longest, before = max(longest, now - before), now

    watching = asyncio.create_task(watch())
    for _ in range(int(seconds / cache.TICK)):
        await made.clock.advance(cache.TICK)
    over = True
    await watching
    return longest * 1000


async def measure() -> list[Row]:
    """Fill the cache, then compare."""
    one, many = (world() for _ in range(2))
    async with one, many:
        requests = [TokenRequest(profile=name) for name in many.config.profiles]
        await one.ask(requests[0].profile or "")
        for request in requests:
            answer = many.broker.request(request, many.me)
            if not isinstance(answer, Served):
                await answer
        gc.collect()
        pairs = [(rate(many, requests), rate(one, requests[:1])) for _ in range(ROUNDS)]
        ratio = median(ours / theirs for ours, theirs in pairs)
        ours, theirs = (median(side) for side in zip(*pairs, strict=True))
        await many.clock.advance(60)
        quiet = await longest_pause(many, 240)
        before = len(many.issuer.calls)
        await many.clock.advance(2340)  # an hour's tokens turn stale from 45 minutes on, over three minutes
        busy = await longest_pause(many, 300)
        renewed = len(many.issuer.calls) - before
        return [
            Row(
                f"decisions, {MANY:,} tokens",
                f"{ours:,.0f} /s",
                f"{theirs:,.0f} /s (1 token)",
                ratio,
                f"≥ {FLAT}",
                ratio >= FLAT,
            ),
            Row("· longest pause, nothing due", f"{quiet:.1f} ms", target=f"≤ {PAUSE:g} ms", met=quiet <= PAUSE),
            Row(f"· longest pause, {renewed} renewed", f"{busy:.1f} ms", target=f"≤ {PAUSE:g} ms", met=busy <= PAUSE),
        ]


def rows() -> Iterator[Row]:
    """Measure in this process."""
    yield from asyncio.run(measure())
