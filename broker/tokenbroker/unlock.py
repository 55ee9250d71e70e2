"""One unlock for everyone: callers join it, refusals cool it down, and it ends by age, idleness or on command.

Rules of this file:
1. The vault is never read twice at once, and never because of a timer: only a caller or a person causes a read.
2. A caller that may not cause a prompt is told at once; it neither starts nor joins an unlock that may prompt.
3. A caller that goes away cancels nobody else's unlock; only `lock()` and `close()` do.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from tokenbroker.errors import (
    BrokerError,
    CoolingDown,
    Locked,
    PromptDismissed,
    PromptUnanswered,
    SecretNotFound,
    VaultError,
)
from tokenbroker.model import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from tokenbroker.config import UnlockConfig
    from tokenbroker.model import Instant, SecretRef
    from tokenbroker.ports import AuditSink, Clock, Vault

COOL_DOWN: Final = 300.0  # seconds without a prompt after a refusal or two unanswered ones
UNANSWERED_LIMIT: Final = 2  # prompts nobody answered: the person is away
UNAVAILABLE_PAUSE: Final = 10.0  # seconds before an unreachable app or program is tried again for an ordinary caller


class VaultState(StrEnum):
    """What `broker status` shows."""

    LOCKED = "locked"
    UNLOCKING = "unlocking"
    UNLOCKED = "unlocked"
    COOLING_DOWN = "cooling_down"


@dataclass(frozen=True, slots=True)
class UnlockReport:
    """What people may know of the unlock; no secret in it."""

    state: VaultState
    backend: str
    since: Instant | None
    secrets: int
    failures: Mapping[str, BrokerError]
    """Reference → why it could not be read."""
    last_error: BrokerError | None
    pause: float
    """Seconds until a caller may cause a prompt again."""


class Unlock:
    """The span in which secrets are in memory."""

    def __init__(
        self,
        vault: Vault,
        config: UnlockConfig,
        clock: Clock,
        *,
        refs: Callable[[], Collection[SecretRef]],
        audit: AuditSink,
    ) -> None:
        """Start locked. `refs` gives every reference of the present configuration, so that one read has them all."""
        self._vault = vault
        self._config = config
        self._clock = clock
        self._all_refs = refs
        self._audit = audit
        self._values: dict[SecretRef, Secret | VaultError] = {}
        self._since: Instant | None = None
        self._used_at = 0.0
        self._reading: asyncio.Task[None] | None = None
        self._reading_refs: frozenset[SecretRef] = frozenset()
        self._last_error: BrokerError | None = None
        self._unanswered = 0
        self._not_before = float("-inf")
        self._closing: set[asyncio.Future[None]] = set()  # of earlier vaults; kept, or the loop may forget it half done
        self._locks = 0  # how often it was locked: who waited through a lock does not start a read of its own

    def configure(self, config: UnlockConfig) -> None:
        """Take over a new configuration; what is already read stays."""
        self._config = config

    def replace(self, vault: Vault) -> None:
        """Read from another vault from now on; to be called when locked."""
        before, self._vault = self._vault, vault
        self._last_error = None
        self._not_before = float("-inf")
        closing = asyncio.ensure_future(before.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    @property
    def vault(self) -> Vault:
        """The vault behind it."""
        return self._vault

    def peek(self, refs: Collection[SecretRef]) -> dict[SecretRef, Secret] | None:
        """Return the secrets if all are in memory now; never reads the vault, never awaits.

        Raises the `VaultError` of a reference that was read and could not be resolved.
        """
        self.expire()
        found: dict[SecretRef, Secret] = {}
        for ref in refs:
            value = self._values.get(ref)
            if value is None:
                return None
            if not isinstance(value, Secret):
                raise value.anew()
            found[ref] = value
        self._used_at = self._clock.now().elapsed
        return found

    async def secrets(self, refs: Collection[SecretRef], *, may_prompt: bool) -> dict[SecretRef, Secret]:
        """Return the secrets, unlocking if needed and if this caller may cause it.

        Raises `Locked` (and its kinds) and `VaultUnavailable`, and what `peek` raises.
        """
        found = self.peek(refs)
        if found is None:
            if self._vault.may_prompt and not may_prompt:
                raise self._locked()
            await self._read(frozenset(self._all_refs()) | frozenset(refs))
            found = self.peek(refs)
        if found is None:  # locked again by a person before this caller had its turn: no new prompt for that
            raise self._locked()
        return found

    async def reread(self, refs: Collection[SecretRef]) -> dict[SecretRef, Secret]:
        """Read `refs` again past every cache, because the issuer refused what is in memory.

        One read serves all who ask meanwhile. Raises as `secrets` does; what was in memory stays if it fails.
        """
        self._check_pause()
        await self._join(frozenset(refs), fresh=True)
        found = self.peek(refs)
        if found is None:
            raise self._locked()
        return found

    async def unlock(self, again: Collection[SecretRef] = ()) -> None:
        """Open the vault because a person says so now, past any cool-down.

        Reads what is not in memory, and `again`, which is in memory but may be outdated.
        """
        self._unanswered = 0
        self._not_before = float("-inf")
        self.expire()
        wanted = [ref for ref in self._all_refs() if ref in again or not isinstance(self._values.get(ref), Secret)]
        if wanted or self._since is None:
            await self._join(frozenset(wanted), fresh=True, by_a_person=True)

    def lock(self) -> int:
        """Forget every secret and end a read that is under way. Returns how many secrets were forgotten."""
        forgotten = self._forget()
        self._locks += 1
        if self._reading is not None and not self._reading.cancelling():
            self._reading.cancel()  # once: a second would cut short the vault's own tidying up
        return forgotten

    def expire(self) -> bool:
        """Forget the secrets if the unlock is too old or was idle for too long; tell whether it was.

        A read that is under way goes on: whoever answers its prompt begins a new unlock.
        """
        if self._since is None:
            return False
        now = self._clock.now()
        # Both clocks, as for tokens: a person's 12 hours pass also while the machine sleeps.
        age = max(now.elapsed - self._since.elapsed, now.wall - self._since.wall)
        too_old = self._config.max_age is not None and age >= self._config.max_age
        too_idle = self._config.idle is not None and now.elapsed - self._used_at >= self._config.idle
        if too_old or too_idle:
            self._forget()
        return too_old or too_idle

    def report(self) -> UnlockReport:
        """Describe the unlock; never prompts."""
        self.expire()
        pause = max(0.0, self._not_before - self._clock.now().elapsed)
        if self._reading is not None:
            state = VaultState.UNLOCKING
        elif self._since is not None:
            state = VaultState.UNLOCKED
        else:
            state = VaultState.COOLING_DOWN if pause and self._vault.may_prompt else VaultState.LOCKED
        return UnlockReport(
            state=state,
            backend=self._vault.name,
            since=self._since,
            secrets=sum(isinstance(value, Secret) for value in self._values.values()),
            failures={str(ref): value for ref, value in self._values.items() if isinstance(value, BrokerError)},
            last_error=self._last_error,
            pause=pause,
        )

    async def close(self) -> None:
        """Lock, and close the vault."""
        self.lock()
        if self._reading is not None:
            await asyncio.wait({self._reading})
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._vault.close()

    def _forget(self) -> int:
        forgotten = sum(isinstance(value, Secret) for value in self._values.values())
        self._values = {}
        self._since = None
        return forgotten

    async def _read(self, refs: frozenset[SecretRef]) -> None:
        self._check_pause()
        await self._join(frozenset(ref for ref in refs if ref not in self._values), fresh=False)

    async def _join(self, refs: frozenset[SecretRef], *, fresh: bool, by_a_person: bool = False) -> None:
        """Wait for the read under way; start one, if none is. It has its own task, so that no caller owns it."""
        locks = self._locks
        while self._reading is not None and (self._reading.cancelling() or not refs <= self._reading_refs):
            await asyncio.wait({self._reading})  # given up, or for other references: one after the other
            if self._locks != locks:
                raise _locked_meanwhile()
            if not by_a_person:
                self._check_pause()  # that read may have been refused
        if self._reading is None:
            self._reading_refs = refs
            self._reading = asyncio.create_task(self._perform(refs, fresh=fresh), name="unlock")
            self._reading.add_done_callback(self._ended)
        reading = self._reading
        try:
            await asyncio.shield(reading)
        except asyncio.CancelledError:
            if reading.cancelled():  # by lock(), not this caller
                raise _locked_meanwhile() from None
            raise

    async def _perform(self, refs: frozenset[SecretRef], *, fresh: bool) -> None:
        try:
            values = await self._vault.read(refs, fresh=fresh)
        except BrokerError as error:
            self._refused(error)
            self._audit.record("unlock failed", {"code": error.code, "why": error.message})
            raise
        now = self._clock.now()
        self._values.update({ref: values.get(ref) or _nothing_came(ref) for ref in refs})
        self._since = self._since or now
        self._used_at = now.elapsed
        self._unanswered = 0
        self._last_error = None
        self._not_before = float("-inf")
        missing = sum(not isinstance(value, Secret) for value in self._values.values())
        told = {"backend": self._vault.name, "read": len(refs), "secrets": len(self._values) - missing}
        self._audit.record("unlocked", told | ({"missing": missing} if missing else {}))

    def _ended(self, reading: asyncio.Task[None]) -> None:
        """Let go of a read. Not done by the read itself: cancelled before its first step, it would never do it."""
        self._reading = None
        if not reading.cancelled():
            reading.exception()  # its callers may all have gone away

    def _refused(self, error: BrokerError) -> None:
        self._last_error = error.anew()
        now = self._clock.now().elapsed
        self._unanswered = self._unanswered + 1 if isinstance(error, PromptUnanswered) else 0
        if isinstance(error, PromptDismissed) or self._unanswered >= UNANSWERED_LIMIT:
            self._not_before = now + COOL_DOWN
        elif not isinstance(error, PromptUnanswered):
            self._not_before = now + max(UNAVAILABLE_PAUSE, error.retry_after or 0.0)

    def _check_pause(self) -> None:
        pause = self._not_before - self._clock.now().elapsed
        if pause <= 0:
            return
        if isinstance(self._last_error, (PromptDismissed, PromptUnanswered)):
            why = "was refused" if isinstance(self._last_error, PromptDismissed) else "was not answered twice"
            raise CoolingDown(
                f"the prompt {why}; nobody is asked again for {pause:.0f} s",
                hint="unlock now with `broker unlock`",
                retry_after=pause,
            )
        if self._last_error is not None:
            raise self._last_error.anew()

    def _locked(self) -> BrokerError:
        why = f"; when last tried: {self._last_error.message}" if self._last_error is not None else ""
        return Locked(
            f"the vault ({self._vault.name}) is locked, and this program may not cause a prompt{why}",
            hint="unlock it with `broker unlock`",
        )


def _locked_meanwhile() -> Locked:
    return Locked("the vault was locked meanwhile", hint="unlock it with `broker unlock`")


def _nothing_came(ref: SecretRef) -> SecretNotFound:
    return SecretNotFound(f"the vault returned nothing for {ref}", hint="check the reference with `broker doctor`")
