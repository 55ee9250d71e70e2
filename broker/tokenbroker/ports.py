"""What the broker asks of the outside world, on one page.

Each port's docstring is its contract: what it returns, which errors it raises, what cancellation does. One contract
test suite per port runs against every adapter and against the fake (tests/contract/).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Collection, Mapping

    from tokenbroker.config import VaultConfig
    from tokenbroker.errors import VaultError
    from tokenbroker.model import (
        Credentials,
        DesktopEvent,
        Grant,
        Instant,
        IssuerAnswer,
        Peer,
        RateLimit,
        Revocation,
        Secret,
        SecretRef,
    )


class Clock(Protocol):
    """Time, so that tests may own it."""

    def now(self) -> Instant:
        """Return this moment on both clocks."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait at least `seconds`; the machine's own sleep may make it longer."""
        ...


class Vault(Protocol):
    """A place where secrets are kept.

    `read` is never called twice at once; `Unlock` sees to that.
    """

    @property
    def name(self) -> str:
        """The configuration's name of the backend: `op`, `service-account`, `connect`, `sdk`, `keyring`, `dev`."""
        ...

    @property
    def may_prompt(self) -> bool:
        """Whether `read` can put a question on a person's screen. If so it is never called for an autonomous peer."""
        ...

    @property
    def limits(self) -> tuple[RateLimit, ...]:
        """What is known of the vault's allowances, without asking it; empty where there are none."""
        ...

    async def read(
        self, refs: Collection[SecretRef], *, fresh: bool = False
    ) -> Mapping[SecretRef, Secret | VaultError]:
        """Read all of `refs`, in as few steps and prompts as the vault allows; `fresh` goes past any cache.

        A reference that cannot be resolved has its error (`SecretNotFound`, `SecretAmbiguous`) as its value and
        spoils no other. When nothing can be read at all it raises: `PromptDismissed`, `PromptUnanswered`,
        `Locked`, `VaultUnavailable`, `VaultNotInstalled`. It is bounded in time without help from the caller.
        Cancelling it ends what it started, children included.
        """
        ...

    async def probe(self) -> str:
        """Return in a few words what is there, e.g. a version. Reads no secret and never prompts; for `broker doctor`.

        Raises `VaultUnavailable` and `VaultNotInstalled` when nothing is.
        """
        ...

    def adjust(self, config: VaultConfig) -> None:
        """Take over other bounds of time; all else in `config` is as it was."""
        ...

    async def lock(self) -> None:
        """Give up what the vault granted to us, so that the next read asks the person again; never during a read.

        An adapter that holds nothing does nothing. May be called twice; a later read works.
        """
        ...

    async def close(self) -> None:
        """End helper processes and forget everything. May be called twice."""
        ...


class Issuer(Protocol):
    """An OAuth 2.0 authorization server."""

    async def issue(
        self,
        credentials: Credentials,
        *,
        scopes: tuple[str, ...],
        audience: str | None,
        resource: str | None,
        extra: Mapping[str, str],
        grant: Grant = ...,
    ) -> IssuerAnswer:
        """Run `grant` once; make exactly one token request, and a second only if a DPoP nonce is asked for.

        Raises `IssuerUnavailable` (retryable, with `retry_after` when the server said so), `CredentialRejected`,
        `IssuerNeedsPerson`, `IssuerMisconfigured` or `TokenMismatch`. Bounded in time and size without help from the
        caller. Cancelling it closes the connection.
        """
        ...

    async def revoke(self, credentials: Credentials, token: Secret) -> Revocation:
        """Take `token` back at the issuer (RFC 7009); one that is unknown or dead already counts as revoked.

        Raises the errors of `issue`. Bounded in time.
        """
        ...

    async def close(self) -> None:
        """Close connections. May be called twice."""
        ...


class PeerInspector(Protocol):
    """What the kernel says of the process behind a connected Unix socket."""

    def inspect(self, sock: socket.socket) -> Peer:
        """Describe the peer now, without blocking on anything but the kernel. Raises `PeerGone` if it is no more."""
        ...

    def still_there(self, peer: Peer) -> bool:
        """Tell whether the process described is still the one alive under that pid.

        To be called after the facts are used and before a token is written: a pid can be reused between the two
        (the argument is SPIRE's peertracker's).
        """
        ...

    def alive(self, pid: int, start_time: float) -> bool:
        """Tell whether the process `pid` that started at `start_time` still runs."""
        ...


class Approver(Protocol):
    """A person who answers rules that say `ask`."""

    async def ask(self, peer: Peer, profile: str, reason: str | None) -> bool:
        """Put the question and return the answer; no answer in time is `False`."""
        ...


class DesktopEvents(Protocol):
    """What happens at the desk where the person sits."""

    async def watch(
        self, events: Collection[DesktopEvent], on_event: Callable[[DesktopEvent], None]
    ) -> Mapping[DesktopEvent, str]:
        """Call `on_event` at each of `events` from now on, until `close`.

        Returns those that cannot be followed here, each with the reason in a few words; it never raises for them.
        Before the machine sleeps, `on_event` has returned. A connection that is lost is made again.
        """
        ...

    @property
    def missing(self) -> Mapping[DesktopEvent, str]:
        """Return which of the events asked for cannot be noticed now, each with the reason."""
        ...

    async def close(self) -> None:
        """Follow nothing more. May be called twice."""
        ...


class Announcer(Protocol):
    """A note on the person's screen that says for whom, and why, the vault's own dialog appears."""

    def announce(self, title: str, text: str) -> None:
        """Show it, in place of the one before. Does not block and does not raise; where there are no notes, nothing."""
        ...

    def withdraw(self) -> None:
        """Take it away, if it is still there."""
        ...

    async def close(self) -> None:
        """Withdraw, and let go of what is open. May be called twice."""
        ...


class AuditSink(Protocol):
    """A record of every decision. In this release: the log; the hash-chained file comes behind the same port."""

    def record(self, event: str, fields: Mapping[str, object]) -> None:
        """Write one event. Never given a secret or a token; fingerprints only. Must not block."""
        ...
