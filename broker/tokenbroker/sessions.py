"""Who is using what: one session per root process, from its first token until it ends.

A session never holds a token, only its fingerprint. It stays listed after its process ended for as long as a token that
it was given lives, because a token printed by a short-lived command is still in somebody's hands.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tokenbroker.errors import Revoked

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from tokenbroker.model import AgentType, Instant, Peer, Token, TokenKey, Validity
    from tokenbroker.ports import PeerInspector

ID_BYTES: Final = 4  # eight hex digits: short enough to type, and not a capability: it can only be revoked
MAX_SESSIONS: Final = 10_000


@dataclass(slots=True)
class Holding:
    """What is known of one token that a session was given; not the token."""

    key: TokenKey
    scope: tuple[str, ...]
    fingerprint: str
    validity: Validity
    served: int = 0
    """How often this very token was handed out."""
    approved: bool = False
    """Whether a person said yes to it."""


@dataclass(slots=True)
class Session:
    """One program's use of the broker."""

    id: str
    pid: int | None
    exe: str | None
    start_time: float | None
    started_at: float
    """Epoch seconds: when the root process started, or, unknown, when it was first seen."""
    agent_type: AgentType
    tty: str | None
    """The controlling terminal of the process that asked first."""
    evidence: str
    """Why it counts as what it does, unless a rule says otherwise."""
    last_seen: Instant
    ended_at: float | None = None
    revoked: bool = False
    holdings: dict[TokenKey, Holding] = field(default_factory=dict)


class Sessions:
    """The table of sessions."""

    def __init__(self, inspector: PeerInspector) -> None:
        """Start empty; `inspector` tells whether a root process still runs."""
        self._inspector = inspector
        self._by_root: dict[tuple[int | None, float | None], Session] = {}

    def of(self, peer: Peer, agent_type: AgentType, now: Instant) -> Session:
        """Return the peer's session, beginning one if needed. Raises `Revoked` if a person ended it."""
        pid, start = _root(peer)
        session = self._by_root.get((pid, start))
        if session is None:
            if len(self._by_root) >= MAX_SESSIONS:
                self._make_room()
            session = Session(
                id=secrets.token_hex(ID_BYTES),
                pid=pid,
                exe=peer.root_exe if peer.root_pid is not None else peer.exe,
                start_time=start,
                started_at=peer.root_started_at or now.wall,
                agent_type=agent_type,
                tty=peer.tty,
                evidence=peer.evidence,
                last_seen=now,
            )
            self._by_root[pid, start] = session
        self.check(session)
        session.last_seen = now
        session.agent_type = agent_type
        return session

    def held(self, peer: Peer, profile: str, fingerprint: str) -> tuple[Session, Holding] | None:
        """Return the peer's session, and what is known of the token of `fingerprint` that it was given; begin none.

        Raises `Revoked` if a person ended the session.
        """
        session = self._by_root.get(_root(peer))
        if session is None:
            return None
        self.check(session)
        for key, holding in session.holdings.items():
            if (key.profile, holding.fingerprint) == (profile, fingerprint):
                return session, holding
        return None

    def check(self, session: Session) -> None:
        """Raise `Revoked` if a person ended the session; asked again after every wait."""
        if session.revoked:
            raise Revoked(f"session {session.id} was revoked", hint="start the program anew, or see `broker sessions`")

    def served(self, session: Session, key: TokenKey, token: Token, *, approved: bool = False) -> None:
        """Record that `token` was handed to `session`; `approved`: a person said yes to that."""
        holding = session.holdings.get(key)
        if holding is None or holding.fingerprint != token.fingerprint:
            holding = session.holdings[key] = Holding(key, token.scope, token.fingerprint, token.validity)
        holding.served += 1
        holding.approved = holding.approved or approved

    def find(self, session_id: str) -> Session | None:
        """Return the session of this id."""
        return next((s for s in self._by_root.values() if s.id == session_id), None)

    def revoke(self, session: Session) -> None:
        """Serve the session no more."""
        session.revoked = True
        session.holdings.clear()

    def forget(self, keys: Collection[TokenKey]) -> None:
        """Remove dropped tokens from every session."""
        for session in self._by_root.values():
            for key in session.holdings.keys() & keys:
                del session.holdings[key]

    def sweep(self, now: Instant) -> None:
        """Mark sessions whose process ended, and forget those that hold no live token."""
        for root, session in list(self._by_root.items()):
            for key, holding in list(session.holdings.items()):
                if holding.validity.remaining(now) <= 0:
                    del session.holdings[key]
            if session.ended_at is None and not self._runs(session):
                session.ended_at = now.wall
            if session.ended_at is not None and not session.holdings:
                del self._by_root[root]

    def _make_room(self) -> None:
        """Stop listing the oldest session that a person has not revoked: the table may not grow without end."""
        oldest = next((root for root, session in self._by_root.items() if not session.revoked), None)
        if oldest is not None:
            del self._by_root[oldest]

    def list(self, now: Instant) -> Iterator[Session]:
        """Yield the sessions, oldest first, after a sweep."""
        self.sweep(now)
        yield from sorted(self._by_root.values(), key=lambda session: session.started_at)

    def __len__(self) -> int:
        """Count the sessions."""
        return len(self._by_root)

    def _runs(self, session: Session) -> bool:
        if session.pid is None or session.start_time is None:
            return False
        return self._inspector.alive(session.pid, session.start_time)


def _root(peer: Peer) -> tuple[int | None, float | None]:
    """Return the pid and start time of the process that the peer's session is booked under."""
    return (peer.pid, peer.start_time) if peer.root_pid is None else (peer.root_pid, peer.root_start_time)
