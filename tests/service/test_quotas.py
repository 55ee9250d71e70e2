"""What is left of an issuer's quota decides how often it is asked: when little is left less, when nothing is never."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.fakes_clock import settle
from tests.service.world import World, configuration
from tokenbroker.errors import Busy, IssuerNeedsPerson, IssuerThrottled
from tokenbroker.model import IssuerAnswer, Quota, Secret

HOUR = 3600.0


def answer(name: str, remaining: int, *, limit: int = 100, resets_in: float = 2 * HOUR) -> IssuerAnswer:
    quota = Quota("client", "per_day", limit, remaining, resets_in)
    return IssuerAnswer(Secret(name), "Bearer", HOUR, None, quotas=(quota,))


async def test_with_little_left_a_token_is_renewed_at_the_last_moment() -> None:
    """Not in the advisory window, but before anybody has to wait."""
    async with World() as world:
        world.issuer.script = [answer("first", 9)]
        await world.ask()
        await world.clock.advance(HOUR - 61)
        await world.ask()
        await settle()
        assert len(world.issuer.calls) == 1
        await world.clock.advance(20)
        assert len(world.issuer.calls) == 2
        assert (await world.ask()).source == "cache"


async def test_with_enough_left_it_is_renewed_early() -> None:
    async with World() as world:
        world.issuer.script = [answer("first", 10)]
        await world.ask()
        await world.clock.advance(HOUR - 600)
        assert len(world.issuer.calls) == 2


async def test_the_floor_is_the_configurations() -> None:
    base = configuration()
    config = replace(base, issuers={"main": replace(base.issuers["main"], quota_floor=0.5)})
    async with World(config) as world:
        world.issuer.script = [answer("first", 49)]
        await world.ask()
        await world.clock.advance(HOUR - 600)
        assert len(world.issuer.calls) == 1


async def test_with_little_left_no_further_choice_of_scopes_is_fetched() -> None:
    async with World(configuration(scopes=("read", "write"))) as world:
        world.issuer.script = [answer("first", 9)]
        await world.ask()
        with pytest.raises(Busy, match="little is left of a quota"):
            await world.ask(scopes=("read",))
        assert len(world.issuer.calls) == 1


async def test_with_little_left_one_rejection_a_minute_is_believed() -> None:
    async with World() as world:
        world.issuer.script = [answer("first", 9), answer("second", 8)]
        for believed in (True, False):
            served = await world.ask()
            assert world.broker.rejected("search", served.token.fingerprint, world.me) is believed
        assert len(world.issuer.calls) == 2


async def test_with_nothing_left_the_good_token_is_served_and_the_issuer_is_not_asked() -> None:
    async with World() as world:
        world.issuer.script = [answer("first", 0)]
        await world.ask()
        await world.clock.advance(HOUR - 30)
        assert (await world.ask()).token.value == Secret("first")
        await world.clock.advance(60)
        with pytest.raises(IssuerNeedsPerson, match="all 100 of per_day are used up, more in 61 min"):
            await world.ask()
        for _ in range(200):
            await world.clock.advance(15)
            with pytest.raises(IssuerNeedsPerson):
                await world.ask()
        assert len(world.issuer.calls) == 1
        await world.clock.advance(600)
        await world.ask()
        assert len(world.issuer.calls) == 2


async def test_a_refusal_that_says_so_counts_as_well() -> None:
    """A 429 for one profile spares the issuer the requests of the client's other profiles."""
    async with World() as world:
        error = IssuerThrottled("429", retry_after=1.0)
        error.quotas = (Quota("client", "per_hour", 10, 0, 3000.0),)
        world.issuer.script = [error]
        with pytest.raises(IssuerThrottled):
            await world.ask()
        await world.clock.advance(5)
        with pytest.raises(IssuerNeedsPerson, match="all 10 of per_hour"):
            await world.ask("billing")
        assert len(world.issuer.calls) == 1


async def test_a_persons_unlock_has_it_tried_once_more() -> None:
    """A quota may have been raised."""
    async with World() as world:
        world.issuer.script = [answer("first", 0)]
        await world.ask()
        await world.clock.advance(HOUR)
        with pytest.raises(IssuerNeedsPerson):
            await world.ask()
        await world.control.unlock()
        await world.ask()
        assert len(world.issuer.calls) == 2


async def test_what_is_known_can_be_shown() -> None:
    async with World() as world:
        world.issuer.script = [answer("first", 42)]
        await world.ask()
        await world.clock.advance(60)
        (shown,) = world.cache.exchange.minting.allowance.standing(world.clock.now())
        assert (shown.holder.issuer, shown.holder.client, shown.quota.remaining) == ("main", "mine", 42)
        assert shown.resets_in(world.clock.now()) == 2 * HOUR - 60
