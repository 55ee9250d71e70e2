"""Years of use with sleeps, outages and clock jumps: nothing expired is served, nobody warm waits for a live issuer.

`live()` is also run by `make bench`, over 10,000 hours.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from tests.fakes_clock import settle
from tests.service.world import World, configuration
from tokenbroker import cache
from tokenbroker.broker import Served
from tokenbroker.config import UnlockConfig
from tokenbroker.errors import BrokerError, IssuerUnavailable
from tokenbroker.model import IssuerAnswer, Revocation, Secret
from tokenbroker_client.wire import TokenRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable

HOUR = 3600.0
LIFETIMES = (120.0, 300.0, 900.0, 3600.0, 86400.0)


@dataclass
class Tally:
    """What an onlooker saw."""

    served: int = 0
    expired: int = 0
    """Tokens served although the issuer counts them as expired."""
    warm: int = 0
    waited: int = 0
    """Warm callers that waited although the issuer was up."""
    refused: int = 0
    exchanges: int = 0


@dataclass
class TrueIssuer:
    """Knows when each token really ends: by the time that passed, whatever the wall clock says."""

    world: World
    lifetime: float
    ends: dict[str, float] = field(default_factory=dict)
    down: bool = False

    async def issue(self, *_: object, **__: object) -> IssuerAnswer:
        if self.down:
            raise IssuerUnavailable("down")
        text = f"token-{len(self.ends)}"
        self.ends[text] = self.now() + self.lifetime
        return IssuerAnswer(Secret(text), "Bearer", self.lifetime, ("read",))

    async def revoke(self, *_: object) -> Revocation:
        return Revocation.REVOKED

    def now(self) -> float:
        return self.world.clock.now().elapsed

    async def close(self) -> None:
        return


async def live(lifetime: float, hours: float, seed: int) -> Tally:
    """Use one profile for `hours`, between a fiftieth and two fifths of a lifetime apart, with trouble in between.

    A caller is warm when the last one was served, and since then the machine did not sleep, its clock was not set and
    the issuer was up. After a sleep or a jump the token may have ended by the only clocks there are.
    """
    dice = random.Random(seed)  # noqa: S311  # a reproducible life
    tally = Tally()
    world = World(configuration(unlock=UnlockConfig(max_age=None)), lifetime=lifetime, spread=dice.random())
    issuer = TrueIssuer(world, lifetime)
    world.cache.exchange.minting.issuers = {"main": issuer}
    async with world:
        end = issuer.now() + hours * HOUR
        warm = False
        while issuer.now() < end:
            match dice.random():
                case x if x < 0.92:
                    await world.clock.advance(dice.uniform(0.02, 0.4) * lifetime)
                    warm = await _use(world, issuer, tally, warm=warm)
                case x if x < 0.95:
                    world.clock.sleep_machine(dice.uniform(60, 12 * HOUR))
                    warm = False
                case x if x < 0.97:
                    world.clock.jump_wall(dice.uniform(-6, 6) * HOUR)
                    warm = False
                case _:
                    issuer.down = not issuer.down
                    warm = False
            await settle()
        tally.exchanges = len(issuer.ends)
    return tally


async def _use(world: World, issuer: TrueIssuer, tally: Tally, *, warm: bool) -> bool:
    """Ask once; tell whether the next caller is warm."""
    try:
        answer = world.broker.request(TokenRequest(profile="search"), world.me)
        at_once = isinstance(answer, Served)
        served = answer if isinstance(answer, Served) else await _in_time(world, answer)
    except BrokerError:
        tally.refused += 1
        return False
    tally.served += 1
    tally.expired += issuer.ends[served.token.value.reveal()] <= issuer.now()
    tally.warm += warm
    tally.waited += warm and not at_once
    return not issuer.down


async def _in_time(world: World, answer: Awaitable[Served]) -> Served:
    waiting = asyncio.ensure_future(answer)
    await settle()
    while not waiting.done():
        await world.clock.advance(0.25)
    return waiting.result()


@pytest.mark.parametrize("lifetime", LIFETIMES)
async def test_nothing_expired_is_served_and_nobody_warm_waits(
    lifetime: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some hundred uses of each lifetime; `make bench` runs the same over 10,000 hours."""
    monkeypatch.setattr(cache, "TICK", max(cache.TICK, lifetime / 40))  # fewer looks, fewer seconds
    tally = await live(lifetime, hours=lifetime / 40, seed=int(lifetime))
    assert tally.expired == 0
    assert tally.waited == 0
    assert tally.warm > 20, "the simulation did look at warm callers"
    assert tally.refused > 0, "and there was trouble"
