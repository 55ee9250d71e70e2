"""Tokens that the broker has forgotten are taken back at their issuers too (RFC 7009), where they can be.

Rules of this file:
1. What is needed to ask an issuer is gathered before anything is forgotten, and let go of within `BOUND` seconds.
2. Nobody has to wait: a lock has happened when it returns. Whoever wants to know how it went may wait.
3. Nothing is promised: a JWT is accepted until it expires by every API that does not ask the issuer.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tokenbroker.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tokenbroker.config import RevokeOn
    from tokenbroker.exchange import Exchange
    from tokenbroker.model import Credentials, Revocation, Token, TokenKey
    from tokenbroker.ports import AuditSink, Clock, Issuer

BOUND: Final = 5.0  # seconds that one batch may take
AT_ONCE: Final = 8  # requests

Dropped = tuple["TokenKey", "Token"]


@dataclass(frozen=True, slots=True)
class Report:
    """What became of the tokens of one batch at their issuers."""

    revoked: int = 0
    unsupported: int = 0
    """The issuer cannot revoke them."""
    failed: int = 0
    """The issuer could not be asked, or refused."""
    valid_until: float | None = None
    """Epoch second at which the last of those that were not revoked expires."""
    problems: tuple[str, ...] = ()
    """Why it failed, each reason once."""


@dataclass(frozen=True, slots=True)
class _Task:
    token: Token
    key: TokenKey
    issuer: Issuer
    credentials: Credentials | None


class Revocations:
    """Takes back what was dropped."""

    def __init__(self, audit: AuditSink, clock: Clock) -> None:
        """Record each outcome in `audit`."""
        self._audit = audit
        self._clock = clock
        self._running: set[asyncio.Task[Report]] = set()

    def start(self, dropped: Iterable[Dropped], on: RevokeOn, exchange: Exchange) -> asyncio.Task[Report] | None:
        """Begin to take back those of `dropped` whose issuer is configured to revoke on this occasion.

        To be called before the secrets are forgotten. `None` when there are none.
        """
        now = self._clock.now()
        tasks = [
            _Task(token, key, issuer, exchange.credentials(key))
            for key, token in dropped
            if token.remaining(now) > 0 and (issuer := exchange.minting.issuer_that_revokes(key, on)) is not None
        ]
        if not tasks:
            return None
        running = asyncio.create_task(self._take_back(tasks), name=f"revoke on {on}")
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        return running

    async def finish(self) -> None:
        """Wait for what is under way; it is bounded."""
        if self._running:
            await asyncio.wait(self._running)

    async def _take_back(self, tasks: list[_Task]) -> Report:
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(task: _Task) -> Revocation:
            async with gate:
                return await self._ask(task)

        asked = {asyncio.create_task(one(task)): task for task in tasks}
        timer = asyncio.ensure_future(self._clock.sleep(BOUND))
        try:
            everything = asyncio.ensure_future(asyncio.wait(asked))
            await asyncio.wait({everything, timer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            for late in asked:
                late.cancel()
            await asyncio.wait(asked)
        return self._report(asked)

    async def _ask(self, task: _Task) -> Revocation:
        if task.credentials is None:
            raise BrokerError(f"the credential of client `{task.key.client}` is no longer in memory")
        return await task.issuer.revoke(task.credentials, task.token.value)

    def _report(self, asked: dict[asyncio.Task[Revocation], _Task]) -> Report:
        now = self._clock.now()
        outcomes: dict[str, int] = {"revoked": 0, "unsupported": 0, "failed": 0}
        left: list[float] = []
        problems: dict[str, None] = {}
        for done, task in asked.items():
            outcome, why = _outcome(done)
            outcomes[outcome] += 1
            if outcome != "revoked":
                left.append(task.token.validity.expires_at(now))
            if why is not None:
                problems[why] = None
            told = {"profile": task.key.profile, "client": task.key.client, "fingerprint": task.token.fingerprint}
            event = "token revoked at issuer" if outcome == "revoked" else "token not revoked"
            self._audit.record(event, told if outcome == "revoked" else {**told, "why": why or "the issuer cannot"})
        return Report(**outcomes, valid_until=max(left, default=None), problems=tuple(problems))


def _outcome(done: asyncio.Task[Revocation]) -> tuple[str, str | None]:
    if done.cancelled():
        return "failed", f"the issuer has not answered within {BOUND:g} s"
    error = done.exception()
    if error is None:
        return str(done.result()), None
    return "failed", error.message if isinstance(error, BrokerError) else "the broker has a fault"
