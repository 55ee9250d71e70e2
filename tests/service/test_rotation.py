"""A secret that is being rotated: either of two may work, and no incident costs more than two token requests."""

from __future__ import annotations

import asyncio

import pytest

from tests.fakes_clock import settle
from tests.service.world import SECRET, World
from tokenbroker.errors import CredentialRejected
from tokenbroker.model import Secret


def put(world: World, text: str) -> None:
    """Put another secret into the vault."""
    world.vault.values = dict.fromkeys(world.vault.values, text)


async def expired(world: World) -> None:
    world.clock.sleep_machine(3601)
    await settle()


async def test_the_vault_may_have_the_new_secret_before_the_issuer_knows_it() -> None:
    """A person unlocked after the change, so the new secret is in memory; the old one still mints."""
    async with World(may_prompt=False) as world:
        await world.ask()
        put(world, "new")
        await world.unlock.reread(world.config.refs())
        await expired(world)
        before = len(world.issuer.calls)
        await world.ask()
        assert len(world.issuer.calls) - before == 2
        assert world.audit.named("credential before tried")


async def test_the_one_that_worked_is_tried_first_until_the_issuer_takes_the_new_one() -> None:
    async with World(may_prompt=False) as world:
        await world.ask()
        put(world, "new")
        await world.unlock.reread(world.config.refs())
        await expired(world)
        await world.ask()
        await expired(world)
        before = len(world.issuer.calls)
        await world.ask()
        assert len(world.issuer.calls) - before == 1
        world.issuer.accepts = Secret("new")  # now the old one is gone
        await expired(world)
        before = len(world.issuer.calls)
        await world.ask()
        assert len(world.issuer.calls) - before == 2


async def test_when_neither_works_there_were_two_requests_and_the_vaults_own_is_kept() -> None:
    async with World(may_prompt=False) as world:
        await world.ask()
        put(world, "new")
        await world.unlock.reread(world.config.refs())
        world.issuer.accepts = Secret("a third")
        await expired(world)
        before = len(world.issuer.calls)
        with pytest.raises(CredentialRejected):
            await world.ask()
        assert len(world.issuer.calls) - before == 2
        held = world.unlock.peek(world.config.refs())
        assert held is not None
        assert {secret.reveal() for secret in held.values()} == {"new"}


async def test_the_good_token_is_served_while_the_credential_is_refused() -> None:
    async with World(may_prompt=False) as world:
        first = await world.ask()
        world.issuer.accepts = Secret("rotated at the issuer alone")
        await world.clock.advance(3000)  # into the advisory window: renewed in the background, and refused
        served = await world.ask()
        assert (served.token.value, served.source) == (first.token.value, "stale")


async def test_any_number_of_callers_cost_one_incident() -> None:
    async with World(may_prompt=False) as world:
        await world.ask()
        put(world, "new")
        world.issuer.accepts = Secret("new")
        await expired(world)
        before = len(world.issuer.calls)
        served = await asyncio.gather(*(world.ask() for _ in range(20)))
        assert len({one.token.fingerprint for one in served}) == 1
        assert len(world.issuer.calls) - before == 2
        assert SECRET not in repr(world.audit.events)
