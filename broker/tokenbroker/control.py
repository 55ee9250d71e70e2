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

from tokenbroker import policy
from tokenbroker.errors import BrokerError, Busy, Locked
from tokenbroker.model import DesktopEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tokenbroker.broker import Broker
    from tokenbroker.config import UnlockConfig
    from tokenbroker.model import Instant, TokenKey
    from tokenbroker.ports import AuditSink, Clock
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


class Control:
    """The acts of a person and of the desk."""

    def __init__(self, broker: Broker, audit: AuditSink, clock: Clock) -> None:
        """Act on `broker`."""
        self._broker = broker
        self._audit = audit
        self._clock = clock
        self.last_lock: Lock | None = None

    async def unlock(self) -> None:
        """Unlock because a person says so now, and try at once again whatever was backing off.

        Secrets that an issuer refused are read again: the person may have put new ones into the vault.
        Raises what `Unlock.unlock` raises for the person's vault; what another one meets stands in its report.
        """
        broker = self._broker
        refused = broker.cache.refused_clients() & broker.config.clients.keys()
        broker.cache.forgive()
        again = {ref for name in refused for ref in broker.config.clients[name].refs()}
        person, *others = await asyncio.gather(
            *(unlock.unlock(again) for unlock in broker.unlocks), return_exceptions=True
        )
        for ended in (person, *(other for other in others if not isinstance(other, BrokerError))):
            if isinstance(ended, BaseException):
                raise ended

    def lock(self, reason: str) -> Lock:
        """Forget every secret and token, and give up everything that is under way."""
        return self._lock(reason, self._broker.unlocks, lambda _: True)

    def lock_autonomous(self, reason: str) -> None:
        """Forget what came from the vault of the autonomous clients."""
        unlocks = self._broker.unlocks
        if unlocks.autonomous is not None:
            self._lock(reason, [unlocks.autonomous], lambda key: not self._of_person(key))

    def happened(self, event: DesktopEvent) -> Lock | None:
        """Do what the configuration says of an event at the desk; `None`: nothing."""
        config = self._broker.config.unlock
        if asks_for(config, event) == "keep":
            return None
        keep = config.tokens_on_lock == "keep"
        return self._lock(REASONS[event], [self._broker.unlocks.person], self._of_person, keep_tokens=keep)

    def revoke_session(self, session_id: str) -> int | None:
        """Serve the session no more. Returns how many live tokens it held; `None` if there is no such session."""
        sessions = self._broker.sessions
        session = sessions.find(session_id)
        if session is None:
            return None
        held = len(session.holdings)
        sessions.revoke(session)
        self._audit.record("session revoked", {"session": session.id, "pid": session.pid, "exe": session.exe})
        return held

    def revoke_profile(self, profile: str | None) -> int:
        """Drop the tokens of one profile, or all; whoever asks again needs a new one. Returns how many there were.

        Raises `UnknownProfile`.
        """
        if profile is not None:
            policy.find_profile(self._broker.config, name=profile)
        told = Busy("the token was revoked meanwhile", hint="run the command again", retry_after=0.0)
        count = self._broker.drop(lambda key: profile is None or key.profile == profile, told)
        self._audit.record("tokens revoked", {"profile": profile or "*", "tokens": count})
        return count

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
    ) -> Lock:
        told = Locked(f"the vault was locked meanwhile ({reason})", hint="unlock it with `broker unlock`")
        broker, unlocks = self._broker, list(unlocks)
        pending = broker.cache.flights(which) + sum(unlock.reading for unlock in unlocks)
        tokens = 0
        if keep_tokens:
            broker.cache.give_up(which, told)
        else:
            tokens = broker.drop(which, told)
        secrets = sum(unlock.lock() for unlock in unlocks)
        lock = self.last_lock = Lock(reason, self._clock.now(), tokens, secrets, pending)
        self._audit.record("locked", {"reason": reason, "tokens": tokens, "secrets": secrets, "pending": pending})
        return lock


def asks_for(config: UnlockConfig, event: DesktopEvent) -> str:
    """Return what the configuration says of `event`: `keep` or `lock`."""
    answers = {
        DesktopEvent.SLEEP: config.on_sleep,
        DesktopEvent.SCREEN_LOCK: config.on_screen_lock,
        DesktopEvent.VAULT_LOCK: config.on_vault_lock,
    }
    return answers[event]
