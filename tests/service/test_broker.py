"""The Broker on fakes: races, cancellations, faults and refusals."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.fakes_clock import settle
from tests.fakes_peers import interactive_peer
from tests.service.world import SECRET, World, configuration
from tokenbroker.broker import MAX_NARROWER, STALE_BUDGET, WAIT_BUDGET
from tokenbroker.config import UnlockConfig
from tokenbroker.errors import (
    Busy,
    CoolingDown,
    CredentialRejected,
    Denied,
    Fault,
    IssuerUnavailable,
    Locked,
    NoClient,
    PeerGone,
    PromptDismissed,
    Revoked,
    SecretNotFound,
    Stopping,
    UnknownProfile,
)
from tokenbroker.model import IssuerAnswer, Secret
from tokenbroker_client.wire import TokenRequest

if TYPE_CHECKING:
    from tokenbroker import control


def dropped(act: control.Revoked | None) -> int:
    assert act is not None
    return act.tokens


async def test_many_callers_on_a_cold_cache_cause_one_prompt_and_one_exchange() -> None:
    """Peers that ask while a fetch is in flight wait for it instead of starting another."""
    async with World() as world:
        world.vault.gate.clear()
        world.issuer.gate.clear()
        callers = [world.start() for _ in range(200)]
        await settle()
        world.vault.gate.set()
        await settle()
        world.issuer.gate.set()
        served = await asyncio.gather(*callers)
        assert len({s.token.fingerprint for s in served}) == 1
        assert {"fetch"} == {s.source for s in served}
        assert len(world.issuer.calls) == 1
        assert len(world.vault.reads) == 1


async def test_one_unlock_reads_every_reference_of_the_configuration() -> None:
    async with World() as world:
        await world.ask()
        assert [(frozenset(str(r) for r in world.config.refs()), False)] == world.vault.reads
        await world.ask(peer=world.cron)
        assert len(world.vault.reads) == 1, "the other client's secret was read at the same time"


async def test_nothing_is_read_before_it_is_needed() -> None:
    async with World() as world:
        await world.clock.advance(100_000)
        assert world.vault.reads == []
        assert world.issuer.calls == []


@pytest.mark.parametrize("held_at", ["vault", "issuer"])
async def test_a_caller_that_goes_away_cancels_nobody_else(held_at: str) -> None:
    """The first caller, who caused prompt and fetch, vanishes; the second gets its token from the same ones."""
    async with World() as world:
        gate = world.vault.gate if held_at == "vault" else world.issuer.gate
        gate.clear()
        first, second = world.start(), world.start()
        await settle()
        first.cancel()
        await settle()
        assert first.cancelled()
        gate.set()
        assert (await second).token.value.reveal() == "token-1"
        assert len(world.vault.reads) == 1
        assert len(world.issuer.calls) == 1


async def test_when_every_caller_goes_away_the_fetch_is_kept_for_the_next() -> None:
    async with World() as world:
        world.issuer.gate.clear()
        callers = [world.start() for _ in range(3)]
        await settle()
        for caller in callers:
            caller.cancel()
        await settle()
        world.issuer.gate.set()
        await settle()
        assert (await world.ask()).source == "cache"
        assert len(world.issuer.calls) == 1


async def test_a_warm_caller_never_waits_for_the_renewal() -> None:
    async with World() as world:
        await world.ask()
        await world.clock.advance(2699)
        world.issuer.gate.clear()
        await world.clock.advance(2)
        served = world.broker.request(TokenRequest(profile="search"), world.me)
        assert not asyncio.iscoroutine(served), "it was answered at once"
        assert len(world.issuer.calls) == 2
        world.issuer.gate.set()
        await settle()
        assert (await world.ask()).token.value.reveal() == "token-2"


async def test_a_hanging_issuer_costs_a_caller_with_a_good_token_only_the_short_budget() -> None:
    """Cached token unusable because upstream hangs longer than the client's deadline: not here."""
    async with World() as world:
        await world.ask()
        world.issuer.gate.clear()
        world.clock.sleep_machine(3550)
        asking = world.start()
        await world.clock.advance(STALE_BUDGET - 0.1)
        assert not asking.done()
        await world.clock.advance(0.2)
        assert (await asking).source == "stale"


async def test_a_hanging_issuer_costs_a_cold_caller_the_budget_and_not_more() -> None:
    async with World() as world:
        world.issuer.gate.clear()
        asking = world.start()
        await world.clock.advance(WAIT_BUDGET + 0.1)
        with pytest.raises(Busy) as caught:
            await asking
        assert caught.value.retryable
        world.issuer.gate.set()
        await settle()
        assert (await world.ask()).source == "cache", "the fetch went on for the next caller"


async def test_passing_trouble_is_waited_out_while_somebody_waits() -> None:
    """A helper that fails once can poison its host for the day, so a cold fetch is tried three times."""
    async with World() as world:
        world.issuer.script = [IssuerUnavailable("reset"), IssuerUnavailable("reset")]
        assert (await world.ask_and_wait()).token.value.reveal() == "token-3"


async def test_a_failure_is_remembered_and_not_repeated_at_the_issuer() -> None:
    async with World() as world:
        world.issuer.script = [IssuerUnavailable("down")] * 3
        with pytest.raises(IssuerUnavailable):
            await world.ask_and_wait()
        for _ in range(50):
            with pytest.raises(IssuerUnavailable) as caught:
                await world.ask()
            assert caught.value.retry_after is not None
        assert len(world.issuer.calls) == 3


async def test_the_same_error_object_is_not_raised_for_two_callers() -> None:
    async with World() as world:
        world.issuer.script = [CredentialRejected("no")]
        errors = []
        for _ in range(2):
            with pytest.raises(CredentialRejected) as caught:
                await world.ask()
            errors.append(caught.value)
        assert errors[0] is not errors[1]


async def test_a_locked_vault_is_told_at_once_to_whom_may_not_prompt() -> None:
    """Exit 5 without a moment's wait, also while somebody else is being asked."""
    async with World() as world:
        world.vault.gate.clear()
        waiting = world.start()
        await settle()
        with pytest.raises(Locked):
            await world.ask(peer=world.cron)
        with pytest.raises(Locked):
            await world.ask(interaction="never")
        world.vault.gate.set()
        await waiting


async def test_a_vault_that_never_prompts_is_opened_by_anybody() -> None:
    async with World(may_prompt=False) as world:
        assert (await world.ask(peer=world.cron)).agent_type == "autonomous"


async def test_one_bad_reference_spoils_no_other_client() -> None:
    async with World() as world:
        world.vault.values["op://Agents/mine-cron/credential"] = SecretNotFound("op://…: no such item")
        await world.ask()
        with pytest.raises(SecretNotFound):
            await world.ask(peer=world.cron)
        with pytest.raises(SecretNotFound):
            await world.ask(peer=world.cron)
        assert len(world.vault.reads) == 1, "a missing item is not looked up again for every caller"
        world.vault.values["op://Agents/mine-cron/credential"] = SECRET
        await world.control.unlock()
        assert (await world.ask(peer=world.cron)).token.value.reveal() == "token-2"
        assert world.vault.reads[-1] == (frozenset({"op://Agents/mine-cron/credential"}), True), "only what was missing"


async def test_locking_forgets_everything_and_tells_who_waits() -> None:
    async with World() as world:
        await world.ask()
        world.issuer.gate.clear()
        waiting = world.start(peer=world.cron)
        await settle()
        lock = world.control.lock("test")
        assert (lock.tokens, lock.secrets, lock.pending) == (1, 2, 1)
        with pytest.raises(Locked):
            await waiting
        assert world.issuer.cancelled == 1
        assert list(world.cache) == []
        assert not any(s.holdings for s in world.broker.sessions.list(world.clock.now()))
        world.issuer.gate.set()
        await world.ask()
        assert len(world.vault.reads) == 2


async def test_locking_during_a_prompt_ends_it_and_does_not_prompt_again() -> None:
    async with World() as world:
        world.vault.gate.clear()
        callers = [world.start() for _ in range(5)]
        await settle()
        world.control.lock("test")
        for caller in callers:
            with pytest.raises(Locked):
                await caller
        assert len(world.vault.reads) == 1
        assert world.vault.running == 0


async def test_a_dismissed_prompt_is_not_followed_by_another() -> None:
    """200 callers share the refusal, and nobody is asked again until the cool-down ends or a person says so."""
    async with World() as world:
        world.vault.raises = PromptDismissed("the prompt was dismissed")
        results = await asyncio.gather(*(world.start() for _ in range(200)), return_exceptions=True)
        assert {PromptDismissed} == {type(result) for result in results}
        with pytest.raises(CoolingDown):
            await world.ask()
        assert len(world.vault.reads) == 1


async def test_a_good_token_is_served_without_a_prompt_after_the_unlock_ended() -> None:
    async with World(configuration(unlock=UnlockConfig(max_age=2000))) as world:
        await world.ask()
        await world.clock.advance(3560)
        served = await world.ask()
        assert served.source == "stale"
        assert len(world.vault.reads) == 1


async def test_a_peer_that_is_gone_gets_no_token() -> None:
    """The pid is checked again after the fetch, before the token is written: it may be another process by then."""
    async with World() as world:
        world.issuer.gate.clear()
        waiting = world.start()
        await settle()
        world.inspector.end(world.me.pid)
        world.issuer.gate.set()
        with pytest.raises(PeerGone):
            await waiting
        assert world.audit.named("token served") == []


async def test_a_rule_that_asks_denies_until_somebody_says_yes() -> None:
    async with World(configuration(decide="ask")) as world:
        with pytest.raises(Denied):
            await world.ask()
        assert world.vault.reads == [], "the vault is not opened for what is not allowed"
        world.approver.answer = True
        assert (await world.ask()).token.value.reveal() == "token-1"


async def test_an_autonomous_peer_is_denied_a_profile_without_a_client_for_it() -> None:
    async with World() as world:
        with pytest.raises(NoClient):
            await world.ask("billing", peer=world.cron)
        assert world.vault.reads == []
        assert len(world.audit.named("denied")) == 1


async def test_a_revoked_session_is_served_no_more_and_others_are() -> None:
    async with World() as world:
        session = (await world.ask()).session
        assert dropped(world.control.revoke_session(session)) == 1
        with pytest.raises(Revoked):
            await world.ask()
        other = interactive_peer(pid=999)
        world.inspector.start(other.pid, other.start_time)
        assert (await world.ask(peer=other)).source == "fetch", "what the two shared is gone"
        assert world.control.revoke_session("nosuch") is None


async def test_a_revoked_profile_is_fetched_anew() -> None:
    async with World() as world:
        await world.ask()
        await world.ask("billing")
        assert dropped(world.control.revoke_profile("search")) == 1
        assert (await world.ask()).source == "fetch"
        assert (await world.ask("billing")).source == "cache"
        assert dropped(world.control.revoke_profile(None)) == 2
        with pytest.raises(UnknownProfile):
            world.control.revoke_profile("serach")


async def test_a_rejection_of_a_denied_peer_drops_nothing() -> None:
    async with World() as world:
        served = await world.ask("billing")
        with pytest.raises(Denied):
            world.broker.rejected("billing", served.token.fingerprint, world.cron)
        assert (await world.ask("billing")).source == "cache"


async def test_less_scope_is_a_token_of_its_own() -> None:
    async with World(configuration(scopes=("read", "write"))) as world:
        assert ("read", "write") == (await world.ask()).token.scope
        assert ("read",) == (await world.ask(scopes=("read",))).token.scope
        assert [("read", "write"), ("read",)] == [call.scopes for call in world.issuer.calls]


async def test_a_reload_keeps_what_did_not_change() -> None:
    async with World() as world:
        await world.ask()
        await world.ask("billing")
        profiles = {**world.config.profiles}
        profiles["search"] = replace(profiles["search"], audience="https://other")
        config = replace(world.config, profiles=profiles)
        world.broker.configure(config, world.exchange(config))
        assert (await world.ask("billing")).source == "cache"
        assert (await world.ask()).source == "fetch"
        assert world.issuer.calls[-1].audience == "https://other"
        assert len(world.vault.reads) == 1


async def test_a_reload_takes_away_what_it_no_longer_allows() -> None:
    async with World() as world:
        await world.ask()
        config = replace(world.config, rules=())
        world.broker.configure(config, world.exchange(config))
        with pytest.raises(Denied):
            await world.ask()


async def test_a_new_reference_after_a_reload_is_read_alone() -> None:
    async with World() as world:
        await world.ask()
        world.vault.values["op://Agents/new/credential"] = SECRET
        clients = {**world.config.clients}
        secret = replace(clients["mine"].client_secret, uri="op://Agents/new/credential")  # type: ignore[type-var]
        clients["mine"] = replace(clients["mine"], client_secret=secret)
        config = replace(world.config, clients=clients)
        world.broker.configure(config, world.exchange(config))
        await world.ask()
        assert world.vault.reads[-1] == (frozenset({"op://Agents/new/credential"}), False)


async def test_stopping_refuses_and_tells_who_waits() -> None:
    async with World() as world:
        world.issuer.gate.clear()
        waiting = world.start()
        await settle()
        await world.broker.stop()
        with pytest.raises(Stopping):
            await waiting
        with pytest.raises(Stopping):
            await world.ask()
        assert world.vault.closed >= 1


async def test_a_fault_of_our_own_does_not_leave_the_slot_in_flight(caplog: pytest.LogCaptureFixture) -> None:
    async with World() as world:
        issue = world.issuer.issue

        async def broken(*_: object, **__: object) -> IssuerAnswer:
            raise KeyError("a bug")

        world.issuer.issue = broken  # type: ignore[method-assign]  # the fault
        with pytest.raises(Fault):
            await world.ask()
        assert "Fetch ended by a fault" in caplog.text
        world.issuer.issue = issue  # type: ignore[method-assign]
        await world.clock.advance(11)
        assert (await world.ask()).source == "fetch"


async def test_at_most_two_exchanges_for_one_rejected_credential() -> None:
    """However many callers wait: one refusal, one re-read, one retry."""
    async with World() as world:
        world.issuer.accepts = Secret("rotated at the issuer, not in the vault")
        results = await asyncio.gather(*(world.start() for _ in range(50)), return_exceptions=True)
        assert {CredentialRejected} == {type(result) for result in results}
        assert len(world.issuer.calls) == 1
        assert [fresh for _, fresh in world.vault.reads] == [False, True]


SUBSETS = tuple(f"scope{number}" for number in range(8))


async def test_scopes_are_no_way_to_have_a_rejected_credential_tried_again() -> None:
    """Each choice of scopes has a place and a back-off of its own in the cache; the client at the issuer has one."""
    async with World(configuration(scopes=SUBSETS)) as world:
        world.issuer.accepts = Secret("rotated at the issuer, not in the vault")
        at_once = [world.start(scopes=(scope,)) for scope in SUBSETS[:4]]
        assert {CredentialRejected} == {type(r) for r in await asyncio.gather(*at_once, return_exceptions=True)}
        for scope in SUBSETS[4:]:
            with pytest.raises(CredentialRejected):
                await world.ask(scopes=(scope,))
        assert len(world.issuer.calls) == 1
        for minute, calls in ((1, 2), (2, 2), (3, 3)):
            await world.clock.advance(60)
            for scope in SUBSETS:
                with pytest.raises(CredentialRejected):
                    await world.ask(scopes=(scope,), interaction="never")
            assert len(world.issuer.calls) == calls, minute


async def test_a_mended_credential_is_tried_at_once_for_all_scopes() -> None:
    """A person unlocks after putting the new secret into the vault."""
    async with World(configuration(scopes=SUBSETS)) as world:
        world.issuer.accepts = Secret("rotated")
        for scope in SUBSETS:
            with pytest.raises(CredentialRejected):
                await world.ask(scopes=(scope,))
        world.vault.values = dict.fromkeys(world.vault.values, "rotated")
        await world.control.unlock()
        for scope in SUBSETS:
            assert (await world.ask(scopes=(scope,))).source == "fetch"


async def test_one_flight_tries_an_untried_credential_and_the_rest_go_side_by_side() -> None:
    async with World(configuration(scopes=SUBSETS)) as world:
        world.issuer.gate.clear()
        asking = [world.start(scopes=(scope,)) for scope in SUBSETS]
        await settle()
        assert len(world.issuer.calls) == 1
        world.issuer.gate.set()
        await asyncio.gather(*asking)
        world.issuer.gate.clear()
        for entry in world.cache:
            entry.slot = replace(entry.slot, token=None)
        asking = [world.start(scopes=(scope,)) for scope in SUBSETS]
        await settle()
        assert len(world.issuer.calls) == 2 * len(SUBSETS)
        world.issuer.gate.set()
        await asyncio.gather(*asking)


async def test_places_of_a_refused_credential_lapse_and_what_was_learnt_of_it_stays() -> None:
    """Else choices of scopes would fill the memory; who comes later reads the vault before the issuer is asked."""
    async with World(configuration(scopes=SUBSETS)) as world:
        await world.control.unlock()
        world.issuer.accepts = Secret("rotated at the issuer, not in the vault")
        for scope in SUBSETS:
            with pytest.raises(CredentialRejected):
                await world.ask(scopes=(scope,), interaction="never")
        assert len(world.issuer.calls) == 1
        await world.clock.advance(3600)
        assert len(world.cache) == 0
        with pytest.raises(CredentialRejected, match="the vault still holds the same one"):
            await world.ask()
        assert len(world.issuer.calls) == 1


async def test_the_text_of_an_unforeseen_error_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """It may hold anything, as may the errors that it came from; class and place are enough to find the fault."""
    async with World() as world:

        async def issue(*_: object, **__: object) -> IssuerAnswer:
            raise RuntimeError(f"client_secret={SECRET}") from KeyError(SECRET)

        world.issuer.issue = issue  # type: ignore[method-assign]
        with pytest.raises(Fault):
            await world.ask()
    assert SECRET not in caplog.text
    assert "RuntimeError at " in caplog.text


async def test_a_remembered_failure_does_not_keep_the_credentials() -> None:
    """A traceback keeps the frames that it leads through, and in those are the secrets that a lock is to forget."""
    async with World() as world:
        world.issuer.script = [IssuerUnavailable("x", retry_after=60)]
        with pytest.raises(IssuerUnavailable):
            await world.ask()
        failures = [entry.slot.failure for entry in world.cache]
        assert [failure and (failure.error.__traceback__, failure.error.__context__) for failure in failures] == [
            (None, None)
        ]


async def test_a_prompt_that_is_refused_during_the_re_read_locks_out_nobody() -> None:
    async with World() as world:
        await world.ask()
        world.issuer.accepts = Secret("rotated")
        world.clock.sleep_machine(3601)
        world.vault.raises = PromptDismissed("the prompt was dismissed")
        for _ in range(20):
            with pytest.raises(CredentialRejected):
                await world.ask()
        assert len(world.issuer.calls) == 2
        assert len(world.vault.reads) == 2


async def test_no_secret_and_no_token_is_in_any_event_or_repr() -> None:
    async with World() as world:
        served = await world.ask()
        world.issuer.script = [CredentialRejected("no")]
        await world.clock.advance(3000)
        world.control.lock("test")
        everything = repr(world.audit.events) + repr(served) + repr(list(world.cache)) + repr(world.issuer.calls)
        assert SECRET not in everything
        assert "token-1" not in everything


async def test_what_the_profile_adds_reaches_the_issuer() -> None:
    """Its own alone: the issuer's adapter adds what the issuer's configuration says, and lets the profile's win."""
    config = configuration()
    issuer = replace(config.issuers["main"], organization="org_issuer", extra_params={"a": "1"})
    search = replace(config.profiles["search"], organization="org_profile", extra_params={"b": "2"})
    config = replace(config, issuers={"main": issuer}, profiles={**config.profiles, "search": search})
    async with World(config) as world:
        await world.ask()
        await world.ask("billing")
        assert [dict(call.extra) for call in world.issuer.calls] == [{"b": "2", "organization": "org_profile"}, {}]


async def test_a_refused_credential_that_the_vault_still_holds_is_not_sent_again() -> None:
    """The background was refused and may not read the vault; the next caller that may looks there first."""
    async with World() as world:
        await world.ask()
        world.issuer.accepts = Secret("rotated at the issuer, not in the vault")
        await world.clock.advance(3601)
        assert len(world.issuer.calls) == 2, "the renewal was refused once and not repeated"
        with pytest.raises(CredentialRejected, match="the vault still holds the same one"):
            await world.ask()
        assert len(world.issuer.calls) == 2
        assert len(world.vault.reads) == 2


async def test_a_peer_outside_the_pid_namespace_gets_no_token() -> None:
    async with World() as world:
        unseen = replace(world.me, pid=None, start_time=None, root_pid=None, evidence="its process is elsewhere")
        with pytest.raises(PeerGone, match="cannot be seen: its process is elsewhere"):
            await world.ask(peer=unseen)


async def test_a_persons_unlock_reads_again_what_an_issuer_refused() -> None:
    """Also for a client that only autonomous programs use, which may not cause a read themselves."""
    async with World() as world:
        await world.ask()
        await world.ask(peer=world.cron)
        world.issuer.accepts = Secret("rotated")
        world.vault.values = dict.fromkeys(world.vault.values, "rotated")
        world.clock.sleep_machine(3601)
        with pytest.raises(CredentialRejected):
            await world.ask(peer=world.cron)
        await world.control.unlock()
        assert world.vault.reads[-1] == (frozenset({"op://Agents/mine-cron/credential"}), True)
        assert (await world.ask(peer=world.cron)).source == "fetch"


@pytest.mark.parametrize("held_at", ["vault", "issuer"])
async def test_a_reload_reaches_who_is_waiting(held_at: str) -> None:
    """What a caller may have is decided again after every wait, by the configuration as it is then."""
    async with World() as world:
        gate = world.vault.gate if held_at == "vault" else world.issuer.gate
        gate.clear()
        waiting = world.start()
        await settle()
        config = replace(world.config, rules=())
        world.broker.configure(config, world.exchange(config))
        gate.set()
        with pytest.raises(Denied):
            await waiting
        assert world.audit.named("token served") == []


async def test_a_reload_that_changes_nothing_disturbs_nobody() -> None:
    async with World() as world:
        world.issuer.gate.clear()
        waiting = world.start()
        await settle()
        world.broker.configure(world.config, world.exchange(world.config))
        world.issuer.gate.set()
        assert (await waiting).source == "fetch"


async def test_a_revoked_session_gets_nothing_that_it_was_waiting_for() -> None:
    async with World() as world:
        session = (await world.ask("billing")).session
        world.issuer.gate.clear()
        waiting = world.start()
        await settle()
        world.control.revoke_session(session)
        world.issuer.gate.set()
        with pytest.raises(Revoked):
            await waiting


async def test_an_approval_does_not_outlive_a_lock() -> None:
    async with World(configuration(decide="ask")) as world:
        asked = asyncio.Event()
        answered = asyncio.Event()

        async def ask(*_: object) -> bool:
            asked.set()
            await answered.wait()
            return True

        world.approver.ask = ask  # type: ignore[method-assign, assignment]  # a person who takes their time
        waiting = world.start()
        await asked.wait()
        world.control.lock("test")
        answered.set()
        with pytest.raises(Locked):
            await waiting


async def test_choices_of_scopes_in_a_loop_burn_no_quota() -> None:
    """Ten scopes make a thousand choices, each a token of its own at the issuer."""
    scopes = tuple("abcdefghij")
    async with World(configuration(scopes=scopes)) as world:
        await world.ask()
        refused = 0
        for n in range(1, 1023):
            chosen = tuple(scope for bit, scope in enumerate(scopes) if n >> bit & 1)
            try:
                await world.ask(scopes=chosen)
            except Busy:
                refused += 1
        assert len(world.issuer.calls) == 1 + MAX_NARROWER
        assert refused == 1022 - MAX_NARROWER
        assert (await world.ask()).source == "cache", "and what everybody uses is served"


async def test_listing_profiles_is_no_refusal() -> None:
    async with World(replace(configuration(), rules=())) as world:
        with pytest.raises(Denied):
            world.broker.decision("search", world.me)
        assert world.audit.named("denied") == []
