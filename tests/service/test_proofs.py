"""Proofs with the broker's keys: for the token at hand, to the program that was given it, and to no other."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

import pytest

from tests.fakes_peers import interactive_peer
from tests.service.world import World, configuration
from tokenbroker.config import PeerPattern, RuleConfig
from tokenbroker.dev.verifier import Proofs as Verifier
from tokenbroker.errors import Denied, PeerGone, Revoked, Stopping, UnknownProfile, UnknownToken, UsageError
from tokenbroker.issuers.dpop import DpopKey
from tokenbroker.model import AgentType, IssuerAnswer, Secret
from tokenbroker.proofs import Proofs, Proven
from tokenbroker_client.proof import ProofRequest

if TYPE_CHECKING:
    from tokenbroker.broker import Served
    from tokenbroker.config import Config
    from tokenbroker.model import Peer

URL = "https://api.example.com/search?q=1"


class Bench(World):
    """A world whose tokens are bound to keys."""

    def __init__(self, config: Config | None = None, *, bound: bool = True) -> None:
        super().__init__(config)
        names = count()
        self.keys = [DpopKey.make(lambda: f"jti-{next(names)}") for _ in range(3)]
        self.issuer.script = [
            IssuerAnswer(Secret(f"bound-{number}"), "DPoP", 3600.0, ("read",), proof_key=key if bound else None)
            for number, key in enumerate(self.keys)
        ]
        self.proofs = Proofs(self.broker, inspector=self.inspector, audit=self.audit, clock=self.clock)

    def prove(self, served: Served, peer: Peer | None = None, url: str = URL, method: str = "GET") -> Proven:
        wanted = ProofRequest(served.key.profile, served.token.fingerprint, method, url, "n-1")
        return self.proofs.make(wanted, peer or self.me)


async def test_the_program_that_has_the_token_gets_a_proof_that_fits() -> None:
    """Judged by the protected side's verifier, which knows the token's key by its thumbprint alone."""
    async with Bench() as bench:
        served = await bench.ask()
        made = bench.prove(served)
        judge = Verifier("https://api.example.com", clock=lambda: bench.clock.now().wall)
        bound = {"cnf": {"jkt": made.thumbprint}}
        judge.check([made.proof], token=served.token.value.reveal(), bound=bound, method="GET", path="/search")
        assert (made.thumbprint, made.fingerprint) == (bench.keys[0].thumbprint, served.token.fingerprint)


async def test_a_proof_is_recorded_and_not_shown() -> None:
    async with Bench() as bench:
        served = await bench.ask()
        made = bench.prove(served, url="https://api.example.com:8443/secret-path?secret-query")
        [told] = bench.audit.named("proof made")
        assert told == {
            "profile": "search",
            "fingerprint": served.token.fingerprint,
            "method": "GET",
            "host": "api.example.com:8443",
            "pid": bench.me.pid,
            "session": served.session,
        }
        assert made.proof not in f"{bench.audit.events} {made!r}"


async def test_another_program_gets_no_proof_for_a_token_that_it_was_not_given() -> None:
    """Though the rules would give it the same token, and though it has a session."""
    async with Bench() as bench:
        served = await bench.ask()
        other = interactive_peer(5000)
        bench.inspector.start(other.pid, other.start_time)
        with pytest.raises(UnknownToken):
            bench.prove(served, other)
        await bench.ask("billing", peer=other)
        with pytest.raises(UnknownToken):
            bench.prove(served, other)
        assert bench.audit.named("proof made") == []


async def test_a_renewed_token_is_for_those_that_were_given_it() -> None:
    """Who was given the one before has to ask for it first."""
    async with Bench() as bench:
        first = await bench.ask()
        other = interactive_peer(5000)
        bench.inspector.start(other.pid, other.start_time)
        bench.broker.rejected("search", first.token.fingerprint, other)
        second = await bench.ask(peer=other)
        with pytest.raises(UnknownToken):
            bench.prove(second)
        assert bench.prove(second, other).proof


async def test_a_token_of_another_profile_is_unknown() -> None:
    async with Bench() as bench:
        served = await bench.ask()
        with pytest.raises(UnknownToken):
            bench.proofs.make(ProofRequest("billing", served.token.fingerprint, "GET", URL), bench.me)
        with pytest.raises(UnknownProfile):
            bench.proofs.make(ProofRequest("payroll", served.token.fingerprint, "GET", URL), bench.me)


async def test_asking_for_a_proof_begins_no_session() -> None:
    async with Bench() as bench:
        with pytest.raises(UnknownToken):
            bench.proofs.make(ProofRequest("search", "0" * 12, "GET", URL), bench.me)
        assert len(bench.broker.sessions) == 0
        assert len(bench.cache) == 0


@pytest.mark.parametrize("how", ["lock", "rejected", "expired", "expired, not renewed", "renewed", "revoked profile"])
async def test_a_token_that_is_no_more_at_hand_has_no_proof(how: str) -> None:
    async with Bench() as bench:
        served = await bench.ask()
        match how:
            case "lock":
                bench.control.lock("a test")
            case "revoked profile":
                bench.control.revoke_profile("search")
            case "rejected":
                assert bench.broker.rejected("search", served.token.fingerprint, bench.me)
            case "expired":
                await bench.clock.advance(3599.5)
            case "expired, not renewed":
                bench.issuer.gate.clear()
                await bench.clock.advance(3601)
                assert bench.cache.entry(served.key).slot.token is not None
            case "renewed":
                bench.broker.rejected("search", served.token.fingerprint, bench.me)
                assert (await bench.ask()).token.fingerprint != served.token.fingerprint
        with pytest.raises(UnknownToken) as caught:
            bench.prove(served)
        assert str(caught.value.hint).startswith("ask for the token again")


async def test_a_revoked_session_gets_no_proof() -> None:
    async with Bench() as bench:
        served = await bench.ask()
        bench.control.revoke_session(served.session)
        with pytest.raises(Revoked):
            bench.prove(served)


async def test_a_rule_that_denies_since_then_ends_the_proofs() -> None:
    """The token is still in memory, as with a rule that is about this program alone."""
    async with Bench() as bench:
        served = await bench.ask()
        denying = RuleConfig("search", "deny", PeerPattern(exe="/usr/bin/python3*"))
        bench.broker.config = replace(bench.config, rules=(denying, *bench.config.rules))
        with pytest.raises(Denied):
            bench.prove(served)
        assert [fields["profile"] for fields in bench.audit.named("denied")] == ["search"]


async def test_who_may_not_have_the_profile_is_told_that_and_no_more() -> None:
    async with Bench(replace(configuration(), rules=())) as bench:
        with pytest.raises(Denied):
            bench.proofs.make(ProofRequest("search", "0" * 12, "GET", URL), bench.me)


async def test_what_a_person_said_yes_to_holds_for_the_token() -> None:
    async with Bench(configuration(decide="ask")) as bench:
        bench.approver.answer = True
        served = await bench.ask()
        assert bench.prove(served).proof


async def test_a_program_that_lowered_itself_gets_proofs_as_what_it_said_to_be() -> None:
    rules = (
        RuleConfig("*", "allow", PeerPattern(agent_type=AgentType.AUTONOMOUS)),
        RuleConfig("billing", "allow"),
    )
    async with Bench(replace(configuration(), rules=rules)) as bench:
        await bench.control.unlock()
        served = await bench.ask(agent_type="autonomous")
        assert served.key.client == "mine-cron"
        assert bench.prove(served).proof


async def test_a_program_that_ended_gets_nothing() -> None:
    async with Bench() as bench:
        served = await bench.ask()
        bench.inspector.end(bench.me.pid)
        with pytest.raises(PeerGone):
            bench.prove(served)
        assert bench.audit.named("proof made") == []


async def test_a_token_that_is_not_bound_needs_no_proof() -> None:
    async with Bench(bound=False) as bench:
        served = await bench.ask()
        with pytest.raises(UsageError, match="is not bound to a key"):
            bench.prove(served)


@pytest.mark.parametrize(
    ("method", "url"),
    [
        ("GET", "ftp://h/"),
        ("GET", "https://user:pw@h/"),
        ("GET", "https://h\\@evil/"),
        ("GET /", URL),
        ("", URL),
    ],
)
async def test_what_no_request_can_have_is_refused(method: str, url: str) -> None:
    async with Bench() as bench:
        served = await bench.ask()
        with pytest.raises(UsageError):
            bench.prove(served, method=method, url=url)


async def test_a_broker_that_stops_makes_no_proofs() -> None:
    async with Bench() as bench:
        served = await bench.ask()
        await bench.broker.stop()
        with pytest.raises(Stopping):
            bench.prove(served)
