"""Ten thousand simulated hours of sleeps, outages and clock jumps (tests/service/test_simulation.py)."""

from __future__ import annotations

import asyncio
import multiprocessing
from typing import TYPE_CHECKING

from bench.report import Row
from tests.service.test_simulation import LIFETIMES, Tally, live
from tokenbroker import cache

if TYPE_CHECKING:
    from collections.abc import Iterator

HOURS = 10_000
PARTS = 4  # lives per lifetime, each with a seed of its own


def one(lifetime: float, hours: float, seed: int) -> Tally:
    """Live one life in this process; looks at the cache are as far apart as the lifetime allows."""
    cache.TICK = max(cache.TICK, lifetime / 40)  # type: ignore[misc]  # as the test does: fewer looks, fewer seconds
    return asyncio.run(live(lifetime, hours, seed))


def rows() -> Iterator[Row]:
    """Share the hours out by lifetime, so that each lifetime sees as many tokens come and go."""
    share = HOURS / sum(LIFETIMES) / PARTS
    lives = [(lifetime, lifetime * share, seed) for seed in range(PARTS) for lifetime in LIFETIMES]
    with multiprocessing.get_context("spawn").Pool(2, maxtasksperchild=1) as pool:
        tallies = pool.starmap(one, lives, chunksize=1)
    served, expired = sum(t.served for t in tallies), sum(t.expired for t in tallies)
    warm, waited = sum(t.warm for t in tallies), sum(t.waited for t in tallies)
    yield Row(f"{HOURS:,} simulated hours: expired served", str(expired), f"of {served}", target="0", met=not expired)
    yield Row("· warm callers that waited", str(waited), f"of {warm}", target="0", met=not waited)
