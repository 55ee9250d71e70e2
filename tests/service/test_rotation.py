"""A secret that is being rotated: either of two may work, and no incident costs more than two token requests."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes_clock import settle
from tests.service.world import SECRET, World, configuration
from tokenbroker.config import ProfileConfig
from tokenbroker.errors import CredentialRejected, IssuerMisconfigured, IssuerNeedsPerson
from tokenbroker.model import Secret

if TYPE_CHECKING:
    from tokenbroker.errors import IssuerError
    from tokenbroker.model import IssuerAnswer


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


@pytest.mark.parametrize("seed", range(20))
async def test_many_profiles_of_one_client_find_what_works_whatever_the_order_of_answers(seed: int) -> None:
    """The vault has the new secret, the issuer still takes the old one, and all tokens have expired at once."""
    profiles = {f"p{n}": ProfileConfig(f"p{n}", ("mine",), audience=f"https://p{n}") for n in range(5)}
    async with World(replace(configuration(), profiles=profiles), may_prompt=False) as world:
        for name in profiles:
            await world.ask(name)
        put(world, "new")
        await world.unlock.reread(world.config.refs())
        await expired(world)
        order, issue = Random(seed), world.issuer.issue  # noqa: S311  # an order of answers

        async def in_any_order(*args: Any, **kwargs: Any) -> IssuerAnswer:
            for _ in range(order.randrange(12)):
                await asyncio.sleep(0)
            return await issue(*args, **kwargs)

        world.issuer.issue = in_any_order  # type: ignore[method-assign]  # an issuer with moods
        before = len(world.issuer.calls)
        served = await asyncio.gather(*(world.ask(name) for name in profiles))
        assert len({one.token.fingerprint for one in served}) == 5
        assert len(world.issuer.calls) - before <= 10


@pytest.mark.parametrize("works", ["new", "a third"])
async def test_many_profiles_of_one_client_cost_one_search(works: str) -> None:
    """Those under way are refused once each; one of them finds out about the other secret for all."""
    profiles = {f"p{n}": ProfileConfig(f"p{n}", ("mine",), audience=f"https://p{n}") for n in range(8)}
    async with World(replace(configuration(), profiles=profiles), may_prompt=False) as world:
        for name in profiles:
            await world.ask(name)
        put(world, "new")
        world.issuer.accepts = Secret(works)
        await expired(world)
        before, reads = len(world.issuer.calls), len(world.vault.reads)
        results = await asyncio.gather(*(world.ask(name) for name in profiles), return_exceptions=True)
        refused = [one for one in results if isinstance(one, CredentialRejected)]
        assert len(refused) == (0 if works == "new" else 8)
        assert len(world.vault.reads) - reads == 1
        wrong = [c for c in world.issuer.calls[before:] if c.credentials.client_secret != Secret(works)]
        assert len(wrong) <= 8 + 1


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


@pytest.mark.parametrize("kind", [CredentialRejected, IssuerNeedsPerson, IssuerMisconfigured])
async def test_a_person_who_unlocks_has_the_secret_read_again_that_no_issuer_took(kind: type[IssuerError]) -> None:
    """Refused, expired, or not fit to be used: the hint says to put a new one into the vault, then `broker unlock`."""
    async with World() as world:
        world.issuer.accepts = None
        world.issuer.script = [kind("no token for this")] * 2
        with pytest.raises(kind):
            await world.ask_and_wait()
        world.vault.values = dict.fromkeys(world.vault.values, "the new secret")
        world.issuer.script = []
        await world.control.unlock()
        await world.ask_and_wait()
        assert world.issuer.calls[-1].credentials.client_secret == Secret("the new secret")
