"""Each client is tried once for the doctor: nobody is asked, and a doctor in a loop costs nobody anything."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.fakes_clock import settle
from tests.service.test_token_exchange import Exchanges
from tests.service.world import World, configuration
from tokenbroker.api import views
from tokenbroker.config import ClientConfig, Config, ProfileConfig
from tokenbroker.errors import Busy, CredentialRejected, IssuerMisconfigured, IssuerUnavailable, Locked, SecretNotFound
from tokenbroker.model import AgentType, IssuerAnswer, Secret, SecretRef
from tokenbroker.trials import AT_ONCE, BUDGET, MOST, try_clients

if TYPE_CHECKING:
    from tokenbroker.errors import IssuerError
    from tokenbroker.trials import Trial

HOUR = 3600.0


async def tried(world: World) -> dict[str, Trial]:
    """Try all clients; what needs time gets it."""
    trying = asyncio.ensure_future(try_clients(world.broker, world.clock))
    await settle()
    while not trying.done():
        await world.clock.advance(0.5)
    return {one.client: one for one in trying.result()}


def problem(one: Trial) -> str:
    assert one.problem is not None
    return one.problem.message


async def unlocked(world: World) -> None:
    await world.control.unlock()
    world.vault.reads.clear()


def many(number: int) -> Config:
    """Return so many clients, each with a profile of its own."""
    base = configuration()
    names = [f"c{index}" for index in range(number)]
    ref = SecretRef("op://Agents/mine/credential")
    clients = {n: ClientConfig(n, "main", AgentType.INTERACTIVE, "owner@example.com", n, ref) for n in names}
    return replace(base, clients=clients, profiles={n: ProfileConfig(n, (n,)) for n in names})


async def test_locked_nobody_is_asked_and_no_issuer_either() -> None:
    """What would put a dialog on the screen is not done, and said."""
    async with World() as world:
        found = await tried(world)
        assert {name: type(one.problem) for name, one in found.items()} == {"mine": Locked, "mine-cron": Locked}
        assert "would ask a person" in problem(found["mine"])
        assert not world.vault.reads
        assert not world.issuer.calls


async def test_each_client_is_tried_once_with_the_first_profile_that_names_it() -> None:
    """Both have `search`; `billing` is not tried for a client that has been."""
    async with World() as world:
        await unlocked(world)
        found = await tried(world)
        assert [(one.entry.key.profile, one.problem) for one in found.values()] == [("search", None), ("search", None)]
        assert len(world.issuer.calls) == 2


async def test_what_the_issuer_and_the_comparison_remark_is_shown_while_the_token_lives() -> None:
    """First why a check could not be made, then what could not be compared."""
    async with World(configuration()) as world:
        await unlocked(world)
        answer = IssuerAnswer(Secret("token"), "Bearer", HOUR, None, {"agent_type": "interactive"})
        world.issuer.script = [replace(answer, remarks=("the issuer names no keys",))]
        found = (await tried(world))["mine"]
        remarks = views.trial(world.broker, found, world.clock.now())["token"]["remarks"]
        assert remarks[0] == "the issuer names no keys"
        assert remarks[-1].startswith("it has no claim ")
        assert "owner" in remarks[-1]
        await world.clock.advance(HOUR + 1)
        assert views.trial(world.broker, found, world.clock.now())["token"]["remarks"] == []


async def test_a_doctor_in_a_loop_mints_one_token_for_each_client() -> None:
    """The token at hand is good enough, and the next program gets the same."""
    async with World() as world:
        await unlocked(world)
        for _ in range(20):
            found = await tried(world)
        assert len(world.issuer.calls) == 2
        assert (await world.ask()).token is found["mine"].entry.slot.token
        assert len(world.issuer.calls) == 2


async def test_what_nobody_uses_is_not_renewed() -> None:
    """A trial is no use: the token that it minted lives out its time."""
    async with World() as world:
        await unlocked(world)
        await tried(world)
        await world.clock.advance(3 * HOUR)
        assert len(world.issuer.calls) == 2


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(CredentialRejected("refused the client"), id="a refused credential"),
        pytest.param(IssuerMisconfigured("invalid_scope"), id="a wrong scope"),
        pytest.param(IssuerUnavailable("slow_down", retry_after=600.0), id="too many requests"),
    ],
)
async def test_what_was_refused_a_moment_ago_is_not_asked_again(error: IssuerError) -> None:
    """A doctor in a loop locks no client out; once the pause is over it asks again."""
    config = configuration()
    config = replace(config, profiles={"billing": config.profiles["billing"]})
    async with World(config) as world:
        await unlocked(world)
        world.issuer.script = [error]
        for _ in range(20):
            found = await tried(world)
            assert problem(found["mine"]) == error.message
        assert len(world.issuer.calls) == 1
        assert not world.vault.reads
        await world.clock.advance(HOUR)
        assert (await tried(world))["mine"].problem is None
        assert len(world.issuer.calls) == 2


async def test_a_client_that_was_refused_for_a_program_is_not_asked_by_the_doctor() -> None:
    """The back-off is the client's, whoever caused it."""
    async with World() as world:
        await unlocked(world)
        world.issuer.script = [IssuerMisconfigured("invalid_scope")]
        with pytest.raises(IssuerMisconfigured):
            await world.ask()
        found = await tried(world)
        assert problem(found["mine"]) == "invalid_scope"
        assert [call.credentials.client_id for call in world.issuer.calls] == ["id-mine", "id-mine-cron"]


async def test_a_trial_joins_the_flight_that_is_under_way() -> None:
    """A program asked first; one request serves both."""
    async with World() as world:
        await unlocked(world)
        world.issuer.gate.clear()
        asking = world.start()
        await world.issuer.asked.wait()
        trying = asyncio.ensure_future(try_clients(world.broker, world.clock))
        await settle()
        world.issuer.gate.set()
        found = {one.client: one for one in await trying}
        assert found["mine"].entry.slot.token is (await asking).token
        assert [call.credentials.client_id for call in world.issuer.calls] == ["id-mine", "id-mine-cron"]


async def test_two_doctors_share_one_request() -> None:
    """Whoever comes second waits for the first."""
    async with World() as world:
        await unlocked(world)
        world.issuer.gate.clear()
        doctors = [asyncio.ensure_future(try_clients(world.broker, world.clock)) for _ in range(5)]
        await settle()
        world.issuer.gate.set()
        assert all(one.problem is None for trial in await asyncio.gather(*doctors) for one in trial)
        assert len(world.issuer.calls) == 2


async def test_what_a_program_fetched_while_the_vault_was_read_is_taken() -> None:
    """Both wait for the same read; the decision is made after it."""
    async with World(may_prompt=False) as world:
        world.vault.gate.clear()
        trying = asyncio.ensure_future(try_clients(world.broker, world.clock))
        asking = [world.start(), world.start(peer=world.cron)]
        await settle()
        world.vault.gate.set()
        assert all(one.problem is None for one in await trying)
        await asyncio.gather(*asking)
        assert len(world.issuer.calls) == 2


async def test_a_vault_that_asks_nobody_is_read() -> None:
    """A service account's machine needs no unlock to be examined."""
    async with World(may_prompt=False) as world:
        assert all(one.problem is None for one in (await tried(world)).values())


async def test_a_secret_that_cannot_be_read_is_the_vaults_to_explain() -> None:
    """Not `locked`: unlocking would not help. The other client is tried all the same."""
    async with World() as world:
        del world.vault.values["op://Agents/mine/credential"]
        await world.control.unlock()
        found = await tried(world)
        assert isinstance(found["mine"].problem, SecretNotFound)
        assert found["mine-cron"].problem is None


async def test_an_issuer_that_does_not_answer_is_waited_for_so_long_and_not_longer() -> None:
    """The flight goes on; the next doctor sees how it ended."""
    async with World() as world:
        await unlocked(world)
        world.issuer.gate.clear()
        began = world.clock.now().elapsed
        found = await tried(world)
        assert world.clock.now().elapsed - began <= BUDGET + 1
        assert isinstance(found["mine"].problem, Busy)
        assert f"not answered within {BUDGET:.0f} s" in problem(found["mine"])
        world.issuer.gate.set()
        await settle()
        assert (await tried(world))["mine"].problem is None
        assert len(world.issuer.calls) == 2


async def test_at_most_fifty_are_tried_and_eight_at_once() -> None:
    """Each may cost a token of somebody's quota, and issuers limit bursts."""
    async with World(many(MOST + 10)) as world:
        await unlocked(world)
        world.issuer.gate.clear()
        trying = asyncio.ensure_future(try_clients(world.broker, world.clock))
        await settle()
        assert len(world.issuer.calls) == AT_ONCE
        world.issuer.gate.set()
        assert len(await trying) == MOST
        assert len(world.issuer.calls) == MOST


async def test_a_lock_during_a_trial_ends_it() -> None:
    """What was taken away is no longer waited for."""
    async with World() as world:
        await unlocked(world)
        world.issuer.gate.clear()
        trying = asyncio.ensure_future(try_clients(world.broker, world.clock))
        await settle()
        world.control.lock("person")
        assert all(one.problem is not None for one in await trying)


async def test_a_token_that_is_exchanged_is_tried_with_the_one_beneath() -> None:
    """RFC 8693: the subject's token is minted once, for its own trial and for the exchange."""
    async with Exchanges() as world:
        await unlocked(world)
        for _ in range(3):
            found = await tried(world)
        assert {name: one.problem for name, one in found.items()} == {"inner": None, "outer": None}
        assert world.counts == (1, 1)


async def test_a_refusal_beneath_is_told_of_both() -> None:
    """And asked of the issuer once."""
    async with Exchanges() as world:
        await unlocked(world)
        world.inner.script = [CredentialRejected("refused the client")]
        for _ in range(3):
            found = await tried(world)
        assert "refused the client" in problem(found["inner"])
        assert "refused the client" in problem(found["outer"])
        assert world.counts == (1, 0)
