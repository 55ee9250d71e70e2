"""An agent in a loop: whatever the issuer does, it is asked a small number of times."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.fakes_clock import settle
from tests.service.world import World, configuration
from tokenbroker.config import ProfileConfig
from tokenbroker.errors import BrokerError, CredentialRejected, IssuerThrottled, IssuerUnavailable, IssuerUntrusted

if TYPE_CHECKING:
    from tokenbroker.errors import IssuerError
    from tokenbroker.model import IssuerAnswer

PROFILES = 50
MINUTES = 10
EVERY = 3.0  # seconds


def many() -> World:
    profiles = {
        f"p{n}": ProfileConfig(f"p{n}", ("mine", "mine-cron"), audience=f"https://p{n}", scopes=("a", "b"))
        for n in range(PROFILES)
    }
    return World(replace(configuration(), profiles=profiles), may_prompt=False, spread=0.5)


async def loop(world: World, outcome: IssuerError, minutes: float = MINUTES) -> int:
    """Ask for ten tokens every few seconds, in turns for all there are; return how often the issuer was asked."""

    async def issue(*_: object, **__: object) -> IssuerAnswer:
        calls.append(world.clock.now().elapsed)
        await asyncio.sleep(0)
        raise outcome.anew()

    calls: list[float] = []
    world.issuer.issue = issue  # type: ignore[method-assign]  # an issuer with one answer
    for turn in range(int(minutes * 60 / EVERY)):
        for n in range(turn % 5, PROFILES, 5):
            asking = world.start(f"p{n}", scopes=(("a",), ("b",), ())[turn % 3])
            asking.add_done_callback(lambda one: one.cancelled() or one.exception())
        await settle()
        await world.clock.advance(EVERY)
    return len(calls)


@pytest.mark.parametrize(
    ("outcome", "most"),
    [
        pytest.param(IssuerUnavailable("down"), 75, id="a dead issuer"),
        pytest.param(IssuerThrottled("429"), 75, id="429"),
        pytest.param(IssuerThrottled("429", retry_after=60), 11, id="429 with Retry-After"),
        pytest.param(IssuerUnavailable("503", retry_after=60), 20, id="503 with Retry-After"),
        pytest.param(CredentialRejected("401"), 10, id="401"),
        pytest.param(IssuerUntrusted("captive portal"), 24, id="a captive portal"),
    ],
)
async def test_an_agent_in_a_loop_is_no_burden(outcome: IssuerError, most: int) -> None:
    """Ten minutes over 50 profiles and three choices of scopes; ten of them are under way before the first failure."""
    async with many() as world:
        made = await loop(world, outcome)
        assert 2 < made <= most


async def test_while_it_is_left_alone_everybody_is_told_at_once() -> None:
    """Without waiting, in the words of the last failure, and with the time until the next try."""
    async with many() as world:
        world.issuer.script = [IssuerUnavailable("connection refused")] * 3
        with pytest.raises(IssuerUnavailable):
            await world.ask_and_wait("p0")
        calls, before = len(world.issuer.calls), world.clock.now()
        with pytest.raises(IssuerUnavailable, match="connection refused") as raised:
            await world.ask("p1")
        assert (len(world.issuer.calls), world.clock.now()) == (calls, before)
        assert raised.value.retry_after


async def test_a_success_opens_the_way_for_all() -> None:
    async with many() as world:
        world.issuer.script = [IssuerUnavailable("down")] * 3
        with pytest.raises(IssuerUnavailable):
            await world.ask_and_wait("p0")
        await world.clock.advance(2)
        await world.ask("p1")
        for name in ("p2", "p3"):
            await world.ask(name)


async def test_a_throttled_client_holds_up_no_other() -> None:
    async with many() as world:
        world.issuer.script = [IssuerThrottled("429", retry_after=30)]
        with pytest.raises(IssuerThrottled):
            await world.ask("p0")
        with pytest.raises(IssuerThrottled):
            await world.ask("p1")
        await world.ask("p1", peer=world.cron)
        assert len(world.issuer.calls) == 2


async def test_a_resumed_laptop_works_at_once() -> None:
    """After an outage that went on into its sleep, what waits for a back-off does so no more."""
    async with many() as world:
        outage = IssuerUnavailable("no route to host")
        world.issuer.script = [outage] * 10_000
        for _ in range(60):
            asking = world.start("p0")
            await world.clock.advance(5)
            with pytest.raises(BrokerError):
                await asking
        world.issuer.script = [outage] * 2  # the network is not up in the first second
        world.clock.sleep_machine(61)
        served = await world.ask_and_wait("p0")
        assert served.source == "fetch"
