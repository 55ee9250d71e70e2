"""What a person, or the desk where the person sits, does to the broker: unlock, lock, revoke.

Rules of this file:
1. What a person locks is everything. What the desk locks is the person's: autonomous clients with a vault of their own
   go on.
2. Locking says what it forgot. It never waits: when it returns, it has happened.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenbroker import delegation, lifecycle, policy
from tokenbroker.errors import BrokerError, Busy, Locked
from tokenbroker.model import AgentType, DesktopEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tokenbroker.broker import Broker
    from tokenbroker.config import UnlockConfig
    from tokenbroker.model import Instant, TokenKey
    from tokenbroker.ports import AuditSink, Clock
    from tokenbroker.revocations import Report
    from tokenbroker.unlock import Unlock

REASONS = {
    DesktopEvent.SLEEP: "the machine goes to sleep",
    DesktopEvent.SCREEN_LOCK: "the screen was locked",
    DesktopEvent.VAULT_LOCK: "the vault was locked",
}


@dataclass(frozen=True, slots=True)
class Lock:
    """One lock, and what was forgotten by it."""

    reason: str
    at: Instant
    tokens: int
    secrets: int
    pending: int
    """Fetches under way, and reads of the vault, that were given up."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """What a person revoked."""

    tokens: int
    """Live tokens that were dropped."""
    at_issuers: asyncio.Task[Report] | None
    """Ends when their issuers have been told; `None` when none has to be."""


class Control:
    """The acts of a person and of the desk."""

    def __init__(self, broker: Broker, audit: AuditSink, clock: Clock) -> None:
        """Act on `broker`."""
        self._broker = broker
        self._audit = audit
        self._clock = clock
        self.last_lock: Lock | None = None
        self.on_lock: Callable[[], None] = _nothing
        """Called at each lock, for what else holds something that a vault granted."""

    async def unlock(self) -> None:
        """Unlock because a person says so now, and then try at once again whatever was backing off.

        Only then: a prompt that is dismissed mends nothing, and must not let a refused credential be tried again.
        Secrets that an issuer refused, or of which nothing could be made, are read again: the person may have put new
        ones into the vault.
        Raises what `Unlock.unlock` raises for the person's vault; what another one meets stands in its report.
        """
        broker = self._broker
        troubled = broker.cache.troubled_clients() & broker.config.clients.keys()
        again = {ref for name in troubled for ref in broker.config.clients[name].refs()}
        unlocks = list(broker.unlocks)
        ended = await asyncio.gather(*(unlock.unlock(again) for unlock in unlocks), return_exceptions=True)
        opened = [unlock for unlock, how in zip(unlocks, ended, strict=True) if how is None]
        broker.cache.forgive(lambda client: self._unlock_of(client) in opened)
        for unlock, how in zip(unlocks, ended, strict=True):
            if isinstance(how, BaseException) and (unlock is broker.unlocks.person or not isinstance(how, BrokerError)):
                raise how

    def lock(self, reason: str) -> Lock:
        """Forget every secret and token, and give up everything that is under way."""
        return self._lock(reason, self._broker.unlocks, lambda _: True)

    def lock_autonomous(self, reason: str) -> None:
        """Forget what autonomous clients have, from whichever vault."""
        unlocks = [] if self._broker.unlocks.autonomous is None else [self._broker.unlocks.autonomous]

        def autonomous(key: TokenKey) -> bool:
            client = self._broker.config.clients.get(key.client)
            return client is None or client.agent_type is AgentType.AUTONOMOUS

        self._lock(reason, unlocks, autonomous)

    def happened(self, event: DesktopEvent) -> Lock | None:
        """Do what the configuration says of an event at the desk; `None`: nothing."""
        config = self._broker.config.unlock
        if asks_for(config, event) == "keep":
            return None
        keep = config.tokens_on_lock == "keep"
        return self._lock(
            REASONS[event],
            [self._broker.unlocks.person],
            self._of_person,
            keep_tokens=keep,
            by_event=True,
            # A machine that falls asleep does not get round to it, and would keep the secrets in memory all night.
            revoke=event is not DesktopEvent.SLEEP,
        )

    def revoke_session(self, session_id: str) -> Revoked | None:
        """Serve the session no more, and drop what it holds; `None` if there is no such session.

        Others that were given the same tokens get new ones when they ask again.
        """
        sessions = self._broker.sessions
        session = sessions.find(session_id)
        if session is None:
            return None
        held = {holding.fingerprint for holding in session.holdings.values()}
        count = len(session.holdings)
        sessions.revoke(session)
        self._audit.record("session revoked", {"session": session.id, "pid": session.pid, "exe": session.exe})
        shared = {
            entry.key for entry in self._broker.cache if entry.slot.token and entry.slot.token.fingerprint in held
        }
        return Revoked(count, self._take_back(lambda key: key in shared))

    def revoke_profile(self, profile: str | None) -> Revoked:
        """Drop the tokens of one profile, or all; whoever asks again needs a new one. Raises `UnknownProfile`."""
        if profile is not None:
            policy.find_profile(self._broker.config, name=profile)
        cache, now = self._broker.cache, self._clock.now()

        def fits(key: TokenKey) -> bool:
            return profile is None or key.profile == profile

        count = sum(lifecycle.usable(entry.slot, now) for entry in cache if fits(entry.key))
        self._audit.record("tokens revoked", {"profile": profile or "*", "tokens": count})
        return Revoked(count, self._take_back(fits))

    def _take_back(self, which: Callable[[TokenKey], bool]) -> asyncio.Task[Report] | None:
        """Drop the tokens whose key fits, and those that were made of them, here and at their issuers."""
        config = self._broker.config

        def all_that_fit(key: TokenKey) -> bool:
            client = config.clients.get(key.client)
            beneath = delegation.lineage(config, client) if client else ()
            return which(key) or any(which(each) for each in beneath)

        told = Busy("the token was revoked meanwhile", hint="run the command again", retry_after=0.0)
        broker = self._broker
        return broker.revocations.start(broker.drop(all_that_fit, told), "revoke", broker.cache.exchange)

    def _unlock_of(self, name: str) -> Unlock:
        client = self._broker.config.clients.get(name)
        unlocks = self._broker.unlocks
        return unlocks.person if client is None else unlocks.of(client.agent_type)

    def _of_person(self, key: TokenKey) -> bool:
        """Tell whether the token was minted with a secret of the person's vault."""
        client = self._broker.config.clients.get(key.client)
        return client is None or not self._broker.config.is_autonomous(client)

    def _lock(
        self,
        reason: str,
        unlocks: Iterable[Unlock],
        which: Callable[[TokenKey], bool],
        *,
        keep_tokens: bool = False,
        by_event: bool = False,
        revoke: bool = True,
    ) -> Lock:
        told = Locked(f"the vault was locked meanwhile ({reason})", hint="unlock it with `broker unlock`")
        broker, unlocks = self._broker, list(unlocks)
        pending = broker.cache.flights(which) + sum(unlock.reading for unlock in unlocks)
        tokens = 0
        if keep_tokens:
            broker.cache.give_up(which, told)
        else:
            dropped = broker.drop(which, told)
            tokens = len(dropped)
            if revoke:
                broker.revocations.start(dropped, "lock", broker.cache.exchange)
        secrets = sum(unlock.lock() for unlock in unlocks)
        self.on_lock()
        if by_event and self.last_lock is not None and not (tokens or secrets or pending):
            return self.last_lock  # several services tell of one lock; the first forgot everything
        lock = self.last_lock = Lock(reason, self._clock.now(), tokens, secrets, pending)
        self._audit.record("locked", {"reason": reason, "tokens": tokens, "secrets": secrets, "pending": pending})
        return lock


def _nothing() -> None:
    """Do nothing."""


def asks_for(config: UnlockConfig, event: DesktopEvent) -> str:
    """Return what the configuration says of `event`: `keep` or `lock`."""
    answers = {
        DesktopEvent.SLEEP: config.on_sleep,
        DesktopEvent.SCREEN_LOCK: config.on_screen_lock,
        DesktopEvent.VAULT_LOCK: config.on_vault_lock,
    }
    return answers[event]
