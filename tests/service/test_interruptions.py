"""A person, the desk or a reload may come in at any step of a fetch: nothing hangs, nothing stays held, all heals.

The fetch is one of two: a token that is exchanged for another (RFC 8693), which has the most steps.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes_clock import settle
from tests.fakes_issuer import FakeIssuer
from tests.service.test_token_exchange import Exchanges, configuration
from tokenbroker.errors import (
    BrokerError,
    CredentialRejected,
    Fault,
    IssuerError,
    IssuerThrottled,
    IssuerUnavailable,
    Locked,
    SubjectRefused,
    TokenMismatch,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from tokenbroker.broker import Served
    from tokenbroker.errors import VaultError
    from tokenbroker.model import Credentials, IssuerAnswer, Revocation, Secret, SecretRef

    Act = Callable[["Interrupted"], None]

MOST_STEPS = 40
PATIENCE = 30.0  # seconds of the world's time in which every caller has an answer


class Steps(FakeIssuer):
    """Takes three steps for each request."""

    world: Interrupted

    async def issue(self, *positional: Any, **named: Any) -> IssuerAnswer:
        await self.world.step()
        await self.world.step()
        answer = await super().issue(*positional, **named)
        await self.world.step()
        return answer

    async def revoke(self, credentials: Credentials, token: Secret) -> Revocation:
        await self.world.step()
        return await super().revoke(credentials, token)


class Interrupted(Exchanges):
    """A world in which `act` happens at one step, counted over all reads of the vault and requests."""

    def __init__(self, at: int, act: Act, *, inner: Sequence[IssuerError], outer: Sequence[IssuerError]) -> None:
        super().__init__(configuration(), may_prompt=False)
        self.steps, self.at, self.act = 0, at, act
        self.callers: list[asyncio.Task[Served]] = []
        for issuer, script in ((self.inner, inner), (self.issuer, outer)):
            issuer.__class__ = Steps
            issuer.world = self  # type: ignore[attr-defined]  # of its new class
            issuer.script = [error.anew() for error in script]
        self._read = self.vault.read
        self.vault.read = self.read  # type: ignore[method-assign]  # the same, with a step

    async def read(
        self, refs: Collection[SecretRef], *, fresh: bool = False
    ) -> Mapping[SecretRef, Secret | VaultError]:
        await self.step()
        return await self._read(refs, fresh=fresh)

    async def step(self) -> None:
        self.steps += 1
        if self.steps == self.at:
            self.act(self)
        await asyncio.sleep(0)

    async def ask_all(self) -> list[Served | BaseException]:
        """Have four callers ask, two profiles; return what became of each. None waits for ever."""
        self.callers = [self.start(profile) for profile in ("act", "act", "login", "act")]
        for _ in range(int(PATIENCE * 2)):
            await settle()
            if all(caller.done() for caller in self.callers):
                break
            await self.clock.advance(0.5)
        assert all(caller.done() for caller in self.callers), "a caller hangs"
        return await asyncio.gather(*self.callers, return_exceptions=True)


def lock(world: Interrupted) -> None:
    world.control.lock("test")


def revoke_all(world: Interrupted) -> None:
    world.control.revoke_profile(None)


def revoke_the_inner(world: Interrupted) -> None:
    world.control.revoke_profile("login")


def reload_the_same(world: Interrupted) -> None:
    world.broker.configure(world.config, world.exchange(world.config))


def reload_another_issuer(world: Interrupted) -> None:
    issuers = {**world.config.issuers, "inner": replace(world.config.issuers["inner"], dpop=True)}
    changed = replace(world.config, issuers=issuers)
    world.broker.configure(changed, world.exchange(changed))


def reload_without_the_outer(world: Interrupted) -> None:
    config = world.config
    changed = replace(config, profiles={"login": config.profiles["login"]}, clients={"inner": config.clients["inner"]})
    world.broker.configure(changed, world.exchange(changed))


def give_up(world: Interrupted) -> None:
    world.broker.cache.give_up(lambda _: True, Locked("given up"))


def cancel_half_of_the_callers(world: Interrupted) -> None:
    for caller in world.callers[::2]:
        caller.cancel()


SCRIPTS: dict[str, tuple[Sequence[IssuerError], Sequence[IssuerError]]] = {
    "all is well": ((), ()),
    "the inner issuer is out of reach once": ((IssuerUnavailable("out of reach"),), ()),
    "the outer issuer is out of reach": ((), (IssuerUnavailable("out of reach"),) * 3),
    "the outer client is refused": ((), (CredentialRejected("refused"),)),
    "the inner token is refused once": ((), (SubjectRefused("refused"),)),
    "the inner token is refused twice": ((), (SubjectRefused("refused"),) * 2),
    "the client asks too often": ((), (IssuerThrottled("slow down", retry_after=5.0),)),
    "the token is for somebody else": ((), (TokenMismatch("for somebody else"),)),
}
ACTS: tuple[Act, ...] = (
    lock, revoke_all, revoke_the_inner, reload_the_same, reload_another_issuer, reload_without_the_outer, give_up,
    cancel_half_of_the_callers,
)  # fmt: skip


def check(world: Interrupted, outcomes: list[Served | BaseException]) -> None:
    """Check what must hold whatever came in between."""
    for outcome in outcomes:
        expected = isinstance(outcome, BrokerError | asyncio.CancelledError) and not isinstance(outcome, Fault)
        assert expected or not isinstance(outcome, BaseException), outcome
    for entry in world.cache:
        assert entry.dropped is None, "a dropped place is in use"
        assert entry.slot.fetching == (entry.flight is not None), "a place is stuck"
    exchange = world.cache.exchange
    assert not any(circuit.trial for circuit in exchange.minting.breaker._circuits.values())
    assert not any(incident.locked() for incident in exchange._incidents.values())
    assert not world.cache._trying
    assert world.counts[0] <= 4, world.counts
    assert world.counts[1] <= 6, world.counts


async def heal(world: Interrupted) -> None:
    """See that whoever asks later is served as if nothing had been."""
    world.at = -1
    world.inner.script = world.issuer.script = []
    await world.clock.advance(120)
    await world.control.unlock()
    profile = "act" if "act" in world.broker.config.profiles else "login"
    assert (await world.ask_and_wait(profile)).token.remaining(world.clock.now()) > 0


@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__.replace("_", " "))
@pytest.mark.parametrize("script", SCRIPTS)
async def test_at_every_step(script: str, act: Act) -> None:
    """After it nobody waits, no place is stuck, no lock or trial is held, few requests were made, and all heals."""
    inner, outer = SCRIPTS[script]
    for at in range(1, MOST_STEPS):
        async with Interrupted(at, act, inner=inner, outer=outer) as world:
            outcomes = await world.ask_all()
            await world.clock.advance(40)
            reached = world.steps >= at
            check(world, outcomes)
            await heal(world)
        if not reached:
            assert at > 5, "the fetch has more steps than that"
            return
    raise AssertionError("the fetch has no end")
