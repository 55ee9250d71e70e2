"""Exchanges of working days beside the tokens that were used, and the least (tests/service/working_day.py)."""

from __future__ import annotations

import asyncio
import multiprocessing
from typing import TYPE_CHECKING

from bench.report import Row
from tests.service.working_day import LIFETIMES, PER_HOUR, Day, spend, to_expiry, unwaited, windows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DAYS = range(1, 9)  # seeds
TIGHT_DAYS = range(1, 4)
OVER = 1.05
TIGHT = 3  # tokens an hour, too few for the day

LEAST: dict[str, Callable[[float], float]] = {
    "the least, renewed when the window opens": windows,
    "the least, nobody waits": unwaited,
    "the least, callers wait at expiry": to_expiry,
}


def one(seed: int, per_hour: int) -> Day:
    """Spend one day in this process."""
    return asyncio.run(spend(seed, per_hour=per_hour))


def total(days: list[Day], issuer: str) -> tuple[int, int]:
    """Return exchanges at one issuer, and the tokens of it that were used."""
    return sum(day.minted[issuer] for day in days), sum(len(day.used[issuer]) for day in days)


def rows() -> Iterator[Row]:
    """Count; nothing here is timed, so it is the same on every machine."""
    wanted = [(seed, PER_HOUR) for seed in DAYS] + [(seed, TIGHT) for seed in TIGHT_DAYS]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        spent = pool.starmap(one, wanted, chunksize=2)
    days, tight = spent[: len(DAYS)], spent[len(DAYS) :]
    each = {issuer: total(days, issuer) for issuer in LIFETIMES}
    minted, used = (sum(both) for both in zip(*each.values(), strict=True))
    yield Row(
        f"exchanges, {len(days)} working days",
        str(minted),
        f"{used} (tokens used)",
        minted / used,
        f"≤ {OVER:g}",
        minted <= OVER * used,
    )
    for issuer, (ours, needed) in each.items():
        yield Row(f"· tokens of {LIFETIMES[issuer]:.0f} s ({issuer})", str(ours), str(needed), ours / needed)
    for what, good_for in LEAST.items():
        least = sum(day.least(issuer, good_for) for day in days for issuer in LIFETIMES)
        yield Row("· beside", str(minted), f"{least} ({what})", minted / least)
    yield from quotas(days, PER_HOUR)
    yield from quotas(tight, TIGHT)


def quotas(days: list[Day], per_hour: int) -> Iterator[Row]:
    """Tell what became of a client that may have so few tokens an hour."""
    over, denied = sum(day.over_quota for day in days), sum(len(day.denied) for day in days)
    spared = sum(len(day.spent) for day in days)
    served = sum(day.served for day in days)
    yield Row(
        f"· {per_hour} an hour, {10 * per_hour} a day: beyond; denied for nothing",
        f"{over}; {denied}",
        f"{spared} of {served + spared} (nothing was left)",
        target="0; 0",
        met=over == denied == 0,
    )
