"""Whoever asks, unlocks, locks or reloads in a loop locks no client out, and burns no quota."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.fakes_clock import settle
from tests.service.world import World, configuration
from tokenbroker.config import UnlockConfig
from tokenbroker.errors import BrokerError, CredentialRejected, IssuerError, TokenMismatch, TokenUseless
from tokenbroker.model import DesktopEvent, Secret

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

HOUR = 3600
UNLIMITED = replace(configuration(), unlock=UnlockConfig(max_age=None))


async def unlock(world: World) -> None:
    await world.control.unlock()


async def lock_and_unlock(world: World) -> None:
    world.control.lock("test")
    await world.control.unlock()


async def reload(world: World) -> None:
    world.broker.configure(world.config, world.exchange(world.config))


async def ask_alone(_: World) -> None:
    return


async def loop(
    world: World, error: IssuerError, act: Callable[[World], Awaitable[None]], seconds: int, *, every: int = 5
) -> int:
    """Do that and ask, every few seconds; return how many requests the issuer got."""
    world.issuer.accepts = None
    world.issuer.script = [error.anew() for _ in range(seconds)]
    for _ in range(seconds // every):
        await act(world)
        with pytest.raises(BrokerError):
            await world.ask_and_wait()
        await world.clock.advance(every)
    return len(world.issuer.calls)


@pytest.mark.parametrize("act", [unlock, lock_and_unlock, reload, ask_alone])
@pytest.mark.parametrize(
    ("error", "most"),
    [
        pytest.param(CredentialRejected("refused"), 10, id="a refused credential"),
        pytest.param(TokenMismatch("for somebody else"), 8, id="a token for somebody else"),
        pytest.param(TokenUseless("expired already"), 10, id="a token that has expired already"),
    ],
)
async def test_an_hour_of_it_costs_little(
    error: IssuerError, most: int, act: Callable[[World], Awaitable[None]]
) -> None:
    """A refusal is counted by the issuer, and so is a token of no use: each wait is longer than the one before."""
    async with World(UNLIMITED) as world:
        assert 1 < await loop(world, error, act, HOUR) <= (2 * most if act is not ask_alone else most)


async def test_a_day_of_a_token_for_somebody_else_costs_about_one_an_hour() -> None:
    """The configuration is wrong, or the issuer's is, and no loop mends that."""
    async with World(UNLIMITED) as world:
        assert await loop(world, TokenMismatch("for somebody else"), ask_alone, 24 * HOUR, every=30) <= 6 + 24


async def test_another_secret_is_tried_at_once() -> None:
    """A person who put it into the vault and unlocks does not wait."""
    async with World() as world:
        world.issuer.accepts = Secret("the new one")
        with pytest.raises(CredentialRejected):
            await world.ask_and_wait()
        await world.control.unlock()
        with pytest.raises(CredentialRejected):
            await world.ask_and_wait()
        asked = len(world.issuer.calls)
        world.vault.values = dict.fromkeys(world.vault.values, "the new one")
        await world.control.unlock()
        assert (await world.ask_and_wait()).source == "fetch"
        assert len(world.issuer.calls) == asked + 1


async def test_another_secret_is_tried_at_once_after_a_lock_too() -> None:
    """What is remembered over a lock tells secrets apart, and holds none."""
    async with World() as world:
        world.issuer.accepts = Secret("the new one")
        with pytest.raises(CredentialRejected):
            await world.ask_and_wait()
        world.control.lock("test")
        world.vault.values = dict.fromkeys(world.vault.values, "the new one")
        await world.control.unlock()
        assert (await world.ask_and_wait()).source == "fetch"


async def test_what_was_mended_at_the_issuer_is_tried_when_a_part_of_the_wait_is_over() -> None:
    """Nobody can see that from here, so a person who says `broker unlock` waits a little, and not for all of it."""
    async with World() as world:
        world.issuer.script = [TokenMismatch("for somebody else")]
        with pytest.raises(TokenMismatch):
            await world.ask_and_wait()
        await world.clock.advance(10)
        await world.control.unlock()
        with pytest.raises(TokenMismatch):
            await world.ask_and_wait()
        await world.clock.advance(6)
        await world.control.unlock()
        assert (await world.ask_and_wait()).source == "fetch"


async def test_another_configuration_is_tried_at_once() -> None:
    """A client that is another one now has nothing to do with what was refused."""
    async with World() as world:
        world.issuer.script = [CredentialRejected("wrong method")] * 2
        with pytest.raises(CredentialRejected):
            await world.ask_and_wait()
        world.issuer.script = []
        mine = replace(world.config.clients["mine"], auth="client_secret_basic")
        changed = replace(world.config, clients={**world.config.clients, "mine": mine})
        world.broker.configure(changed, world.exchange(changed))
        assert (await world.ask_and_wait()).source == "fetch"


async def test_a_useless_token_is_not_asked_for_three_times_in_a_row() -> None:
    """Trouble that passes is tried again within one fetch; this was minted, and counted."""
    async with World() as world:
        world.issuer.script = [TokenUseless("expired already")]
        with pytest.raises(TokenUseless):
            await world.ask_and_wait()
        assert len(world.issuer.calls) == 1


async def test_a_flight_that_is_cancelled_before_it_began_leaves_its_place_usable() -> None:
    """The desk locks in the very turn of the loop in which a renewal was started."""
    keeping = replace(configuration(), unlock=UnlockConfig(on_screen_lock="lock", tokens_on_lock="keep"))
    async with World(keeping) as world:
        await world.ask()
        (entry,) = world.cache
        world.cache.start(entry, attempts=1, may_prompt=False)
        world.control.happened(DesktopEvent.SCREEN_LOCK)
        await settle()
        assert (entry.flight, entry.slot.fetching) == (None, False)


async def test_what_was_made_of_a_revoked_token_is_dropped_too() -> None:
    """A person who revokes the profile whose token was exchanged does not mean its fruits to live on."""
    config = configuration()
    outer = replace(
        config.clients["mine"], name="outer", grant="token-exchange", subject_profile="search", client_id="id-outer"
    )
    made = replace(config.profiles["billing"], clients=("outer",))
    config = replace(config, clients={**config.clients, "outer": outer}, profiles={**config.profiles, "billing": made})
    async with World(config) as world:
        await world.ask_and_wait("billing")
        assert {entry.key.profile for entry in world.cache if entry.slot.token} == {"search", "billing"}
        world.control.revoke_profile("search")
        await settle()
        assert not [entry for entry in world.cache if entry.slot.token]


async def test_a_machine_that_falls_asleep_keeps_no_secret_to_revoke_with() -> None:
    """It would not get round to it before it sleeps, and the secrets would lie in memory all night."""
    config = configuration(unlock=UnlockConfig(on_sleep="lock"))
    config = replace(config, issuers={"main": replace(config.issuers["main"], revoke_on=("lock",))})
    async with World(config) as world:
        await world.ask()
        world.control.happened(DesktopEvent.SLEEP)
        await world.broker.revocations.finish()
        assert world.issuer.revoked == []


async def test_a_verdict_that_comes_after_the_end_of_the_unlock_holds_no_secret() -> None:
    """A flight may outlive the unlock; what it then says of the secrets is of use to nobody."""
    async with World(configuration(unlock=UnlockConfig(max_age=60.0))) as world:
        world.issuer.gate.clear()
        asking = world.start()
        await settle()
        world.clock.sleep_machine(61)
        world.unlock.expire()
        world.issuer.gate.set()
        await settle()
        assert world.unlock._memory._verdicts == {}
        asking.cancel()


async def test_quotas_outlive_a_reload() -> None:
    """What an issuer said of them is true of the same issuer under another file."""
    async with World() as world:
        await world.ask()
        before = world.cache.exchange.minting.allowance
        await reload(world)
        assert world.cache.exchange.minting.allowance is before
