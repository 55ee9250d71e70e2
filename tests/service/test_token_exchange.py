"""A token that is exchanged for another (RFC 8693): both come through the cache, each as seldom as can be."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes_clock import settle
from tests.fakes_issuer import FakeIssuer, unsigned_jwt
from tests.service.world import SECRET, World
from tokenbroker.config import ClientConfig, Config, IssuerConfig, ProfileConfig, RuleConfig
from tokenbroker.errors import (
    BrokerError,
    Busy,
    ClientBeneathRejected,
    CredentialRejected,
    IssuerMisconfigured,
    IssuerUnavailable,
    SubjectRefused,
    TokenMismatch,
)
from tokenbroker.exchange import Exchange
from tokenbroker.model import AgentType, IssuerAnswer, Secret, SecretRef

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fakes_issuer import Call

ADDRESS = "https://issuer.example.com/token"


def client(name: str, issuer: str, **more: Any) -> ClientConfig:
    secret = SecretRef(f"op://Agents/{name}/credential")
    return ClientConfig(name, issuer, AgentType.INTERACTIVE, "owner@example.com", f"id-{name}", secret, **more)


def configuration(**more: Any) -> Config:
    """Profile `act` exchanges the token of profile `login`."""
    given = {"subject_profile": "login", **more}
    clients = (client("inner", "inner"), client("outer", "main", grant="token-exchange", **given))
    profiles = (ProfileConfig("login", ("inner",)), ProfileConfig("act", ("outer",), scopes=("read", "write")))
    return Config(
        issuers={name: IssuerConfig(name, token_endpoint=ADDRESS) for name in ("main", "inner")},
        clients={each.name: each for each in clients},
        profiles={each.name: each for each in profiles},
        rules=(RuleConfig("*", "allow"),),
    )


class Exchanges(World):
    """A world with an issuer of its own for the inner token."""

    def __init__(self, config: Config | None = None, *, inner_lifetime: float = 3600.0, **more: Any) -> None:
        self.inner = FakeIssuer(lifetime=inner_lifetime, accepts=Secret(SECRET))
        super().__init__(config or configuration(), **more)

    def exchange(self, config: Config) -> Exchange:
        return Exchange(
            config,
            {"main": self.issuer, "inner": self.inner},
            unlocks=self.unlocks,
            audit=self.audit,
            clock=self.clock,
            random=lambda: self.spread,
        )

    @property
    def counts(self) -> tuple[int, int]:
        return len(self.inner.calls), len(self.issuer.calls)


def subject(call: Call) -> str | None:
    token = call.grant.subject_token
    return None if token is None else token.reveal()


async def test_a_hundred_callers_cause_one_exchange_of_each() -> None:
    """However many ask at once, one inner and one outer token are made, and the inner one is what is presented."""
    async with Exchanges() as world:
        served = await asyncio.gather(*(world.ask("act") for _ in range(100)))
        assert len({each.token.fingerprint for each in served}) == 1
        assert world.counts == (1, 1)
        assert subject(world.issuer.calls[0]) == "token-1"
        assert world.issuer.calls[0].grant.type == "token-exchange"


async def test_the_inner_token_is_shared_with_those_who_ask_for_it() -> None:
    """A token that a program has asked for itself is the one that is exchanged."""
    async with Exchanges() as world:
        own = await world.ask("login")
        await world.ask("act")
        await world.ask("act", scopes=("read",))
        assert subject(world.issuer.calls[0]) == own.token.value.reveal()
        assert world.counts == (1, 2)


async def test_over_a_day_there_is_one_inner_exchange_for_each_outer() -> None:
    """Renewing the outer renews the inner first, once, and nothing renews the inner for nobody."""
    async with Exchanges() as world:
        for _ in range(24 * 4):
            await world.ask("act")
            await world.clock.advance(900.0)
        inner, outer = world.counts
        assert outer <= 33
        assert inner <= outer
        presented = [subject(call) for call in world.issuer.calls]
        assert len(set(presented)) == len(presented)


async def test_an_inner_token_that_lives_long_serves_many_exchanges() -> None:
    """An inner token is not renewed with every outer one."""
    async with Exchanges(inner_lifetime=86400.0, lifetime=300.0) as world:
        for _ in range(30):
            await world.ask("act")
            await world.clock.advance(200.0)
        assert world.counts[0] == 1
        assert world.counts[1] > 20


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (IssuerUnavailable("gone", retry_after=17), IssuerUnavailable),
        (CredentialRejected("wrong", hint="put another"), ClientBeneathRejected),
        (IssuerMisconfigured("bad", hint="mend it"), IssuerMisconfigured),
    ],
)
async def test_a_failure_beneath_is_told_as_such(error: BrokerError, raised: type[BrokerError]) -> None:
    """Both profiles are named; class, hint and wait stay; the outer issuer is not asked, nor its client blamed."""
    async with Exchanges() as world:
        world.inner.script = [error.anew() for _ in range(9)]  # type: ignore[misc]  # issuer errors all
        with pytest.raises(raised, match="profile `login`, which profile `act` exchanges, cannot be had: ") as caught:
            await world.ask_and_wait("act")
        assert caught.value.error_class is error.error_class
        assert caught.value.hint == error.hint
        assert len(world.issuer.calls) == 0
        assert "outer" not in world.cache._refused  # of another client nothing is concluded
        asked = len(world.inner.calls)
        for _ in range(50):
            with pytest.raises(raised):
                await world.ask("act")
        assert world.counts == (asked, 0)


async def test_a_good_outer_token_outlives_a_failure_beneath() -> None:
    """While the inner issuer is down, the outer token at hand is served until it expires."""
    async with Exchanges(inner_lifetime=1000.0) as world:
        first = await world.ask("act")
        world.inner.script = [IssuerUnavailable("down") for _ in range(500)]
        await world.clock.advance(3000.0)
        assert (await world.ask("act")).token.fingerprint == first.token.fingerprint
        world.inner.script = []
        await world.clock.advance(120.0)
        await world.ask("act")
        await settle()
        assert (await world.ask("act")).token.fingerprint != first.token.fingerprint


async def test_a_refused_inner_token_is_replaced_once() -> None:
    """The issuer refuses the token, not the client: another is fetched and exchanged, and no secret is read again."""
    async with Exchanges() as world:
        await world.ask("login")
        world.issuer.script = [SubjectRefused("not this one")]
        await world.ask("act")
        assert [subject(call) for call in world.issuer.calls] == ["token-1", "token-2"]
        assert world.counts == (2, 2)
        assert not world.audit.named("credential read again")


async def test_a_second_refusal_stays() -> None:
    """A new inner token that is refused too is not replaced again, however often the outer is asked for."""
    async with Exchanges() as world:
        world.issuer.script = [SubjectRefused("never") for _ in range(99)]
        with pytest.raises(SubjectRefused):
            await world.ask("act")
        assert world.counts == (2, 2)
        for _ in range(20):
            await world.clock.advance(61.0)
            with pytest.raises(SubjectRefused):
                await world.ask("act")
        assert world.counts[0] == 2


async def test_once_it_was_accepted_a_token_may_be_replaced_again() -> None:
    """What was in vain is forgotten with the first success: the next refusal is another story."""
    async with Exchanges(inner_lifetime=86400.0, lifetime=300.0) as world:
        world.issuer.script = [SubjectRefused("not yet"), SubjectRefused("not yet")]
        with pytest.raises(SubjectRefused):
            await world.ask("act")
        await world.clock.advance(61.0)
        await world.ask("act")
        assert [subject(call) for call in world.issuer.calls] == ["token-1", "token-2", "token-2"]
        world.issuer.script = [SubjectRefused("not this one")]
        await world.clock.advance(301.0)
        await world.ask("act")
        assert [subject(call) for call in world.issuer.calls][3:5] == ["token-2", "token-3"]


async def test_who_goes_away_ends_nothing() -> None:
    """A caller of the outer that is cancelled, and the outer itself being revoked, leave the inner flight alone."""
    async with Exchanges() as world:
        world.inner.gate.clear()
        mine, other = world.start("act"), world.start("login")
        await settle()
        mine.cancel()
        world.broker.drop(lambda key: key.profile == "act", Busy("revoked"))
        await settle()
        world.inner.gate.set()
        assert (await other).token.value == Secret("token-1")
        assert world.inner.cancelled == 0
        assert world.counts == (1, 0)


async def test_a_lock_ends_both() -> None:
    """After a lock neither token is there, and the next caller gets both anew."""
    async with Exchanges() as world:
        world.inner.gate.clear()
        asking = world.start("act")
        await settle()
        world.control.lock("test")
        world.inner.gate.set()
        with pytest.raises(BrokerError):
            await asking
        assert world.inner.cancelled == 1
        await world.control.unlock()
        await world.ask("act")
        assert world.counts == (2, 1)


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        (lambda config: config, True),
        (lambda config: _changed(config, "profiles", "login", audience="https://other"), False),
        (lambda config: _changed(config, "clients", "inner", owner="another"), False),
        (lambda config: _changed(config, "issuers", "inner", timeout=3.0), False),
    ],
)
async def test_a_reload_drops_what_was_made_from_what_changed(change: Callable[[Config], Config], kept: bool) -> None:  # noqa: FBT001
    """The outer token depends on the profile, client and issuer of the inner one."""
    async with Exchanges() as world:
        first = await world.ask("act")
        config = change(world.config)
        world.broker.configure(config, world.exchange(config))
        again = await world.ask("act")
        assert (again.token.fingerprint == first.token.fingerprint) is kept


def _changed(config: Config, table: str, name: str, **fields: Any) -> Config:
    entries: dict[str, Any] = dict(getattr(config, table))
    entries[name] = replace(entries[name], **fields)
    changed: dict[str, Any] = {table: entries}
    return replace(config, **changed)


async def test_a_circle_is_an_error_and_never_a_wait() -> None:
    """Profiles that exchange each other's tokens are told so at once."""
    config = _changed(configuration(), "clients", "inner", subject_profile="act")
    async with Exchanges(config) as world:
        for profile in ("act", "login"):
            with pytest.raises(IssuerMisconfigured, match="made from its own"):
                await world.ask(profile)
        assert world.counts == (0, 0)


async def test_a_profile_without_a_fitting_client_is_named() -> None:
    """The inner token is minted by a client of the same agent type, or not at all."""
    config = _changed(configuration(), "clients", "inner", agent_type=AgentType.AUTONOMOUS)
    async with Exchanges(config) as world:
        with pytest.raises(IssuerMisconfigured, match="profile `login`, which has no interactive client"):
            await world.ask("act")


@pytest.mark.parametrize(
    ("act", "fits"),
    [({"sub": "agent-7"}, True), ({"sub": "id-outer"}, True), ({"sub": "eve"}, False), (None, False)],
)
async def test_the_actor_must_be_named(act: object, fits: bool) -> None:  # noqa: FBT001
    """With an actor presented, the token says who acts: the client, or whom the actor's token is about."""
    config = configuration(subject_profile=None, subject_token=SecretRef("op://a/b/c"), actor_profile="login")
    async with Exchanges(config) as world:
        world.inner.script = [IssuerAnswer(Secret(unsigned_jwt({"sub": "agent-7"})), "Bearer", 3600.0, None)]
        claims = {"sub": "alice"} if act is None else {"sub": "alice", "act": act}
        world.issuer.script = [IssuerAnswer(Secret("t"), "Bearer", 3600.0, None, claims=claims)]
        if fits:
            await world.ask("act")
        else:
            with pytest.raises(TokenMismatch, match=r"act\.sub is (eve|absent), .* acts agent-7 or id-outer"):
                await world.ask("act")
