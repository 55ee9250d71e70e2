"""One unlock for everyone: callers join it, refusals cool it down, and it ends by age, idleness or on command.

Rules of this file:
1. The vault is never read twice at once, and one that may ask a person never because of a timer: only a caller or a
   person causes that.
2. A caller that may not cause a prompt is told at once; it neither starts nor joins an unlock that may prompt.
3. A caller that goes away cancels nobody else's unlock; only `lock()` and `close()` do.
4. Before a person is asked, a note says on whose behalf.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeVar

from tokenbroker.access import Access
from tokenbroker.cooldown import CoolDown
from tokenbroker.errors import BrokerError, Locked, SecretNotFound, Stopping, VaultError
from tokenbroker.memory import Memory
from tokenbroker.model import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Mapping

    from tokenbroker.config import UnlockConfig
    from tokenbroker.model import Asker, Instant, RateLimit, SecretRef
    from tokenbroker.ports import Announcer, AuditSink, Clock, Vault

MOST_ASKERS: Final = 10  # programs that are named as waiting for one unlock

T = TypeVar("T")


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
    askers: tuple[Asker, ...] = ()
    """On whose behalf the vault is being read; empty when it is not, or when a person asked by `broker unlock`."""
    limits: tuple[RateLimit, ...] = ()


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
        announcer: Announcer | None = None,
    ) -> None:
        """Start locked. `refs` gives every reference of the present configuration, so that one read has them all."""
        self.on_vault_locked: Callable[[], None] = _nothing
        """Called after a read that found the vault locked."""
        self._pause = CoolDown(clock)
        self._access = Access(vault, clock, self._pause, audit=audit, announcer=announcer)
        self._config = config
        self._clock = clock
        self._all_refs = refs
        self._audit = audit
        self._memory = Memory()
        self._reading: asyncio.Task[object] | None = None
        self._reading_refs: frozenset[SecretRef] | None = None
        """What the read under way brings; `None`: something that nobody may join."""
        self._reading_fresh = False
        self._askers: list[Asker] = []
        self._closed = False
        self._locks = 0  # how often it was locked: who waited through a lock does not start a read of its own

    def configure(self, config: UnlockConfig, refs: Collection[SecretRef]) -> None:
        """Take over a new configuration; of what is already read, only what is of `refs` stays."""
        self._config = config
        self._memory.retain(frozenset(refs))

    def replace(self, vault: Vault) -> None:
        """Read from another vault from now on; to be called when locked."""
        self._access.replace(vault)

    @property
    def vault(self) -> Vault:
        """The vault behind it."""
        return self._access.vault

    def peek(self, refs: Collection[SecretRef]) -> dict[SecretRef, Secret] | None:
        """Return the secrets if all are in memory now; never reads the vault, never awaits.

        Raises the `VaultError` of a reference that was read and could not be resolved.
        """
        self.expire()
        return self._memory.peek(refs, self._clock.now())

    async def secrets(
        self, refs: Collection[SecretRef], *, may_prompt: bool, asker: Asker | None = None
    ) -> dict[SecretRef, Secret]:
        """Return the secrets, unlocking if needed and if this caller may cause it.

        Raises `Locked` (and its kinds) and `VaultUnavailable`, and what `peek` raises.
        """
        found = self.peek(refs)
        if found is None:
            self._check_prompt(may_prompt=may_prompt)
            wanted = frozenset(self._all_refs()) | frozenset(refs)
            await self._join(frozenset(ref for ref in wanted if ref not in self._memory), asker=asker)
            found = self.peek(refs)
        if found is None:  # locked again by a person before this caller had its turn: no new prompt for that
            raise self._locked()
        return found

    async def read_once(self, ref: SecretRef, *, may_prompt: bool, asker: Asker) -> Secret:
        """Read one reference past every cache and keep nothing of it: what it gives is good only once.

        Raises as `secrets` does.
        """
        self._check_prompt(may_prompt=may_prompt)
        await self._turn(None)
        self._askers = [asker]
        value = (await self._follow(self._start(None, self._read(frozenset({ref}), fresh=True)))).get(ref)
        if isinstance(value, Secret):
            return value
        raise (value or _nothing_came(ref)).anew()

    async def reread(self, refs: Collection[SecretRef], *, asker: Asker | None = None) -> dict[SecretRef, Secret]:
        """Read `refs` again past every cache, because the issuer refused what is in memory.

        One read serves all who ask meanwhile. Raises as `secrets` does; what was in memory stays if it fails.
        """
        await self._join(frozenset(refs), fresh=True, asker=asker)
        found = self.peek(refs)
        if found is None:
            raise self._locked()
        return found

    def before(self, refs: Collection[SecretRef]) -> Mapping[SecretRef, Secret] | None:
        """Return the secrets that the last reads replaced under `refs`; during a rotation they may be what works."""
        return self._memory.before(refs)

    def judge(self, secrets: Mapping[SecretRef, Secret], *, works: bool) -> None:
        """Take note of what an issuer said of a client's secrets; what works is given out from now on."""
        self._memory.judge(secrets, self._clock.now(), works=works)

    def verdict(self, secrets: Mapping[SecretRef, Secret]) -> bool | None:
        """Return what an issuer said of these secrets a moment ago; `None`: nothing."""
        return self._memory.verdict(secrets, self._clock.now())

    async def unlock(self, again: Collection[SecretRef] = ()) -> None:
        """Open the vault because a person says so now, past any cool-down.

        Reads what is not in memory, and `again`, which is in memory but may be outdated.
        """
        self._pause.let_a_person()
        self.expire()
        wanted = [ref for ref in self._all_refs() if ref in again or not self._memory.has(ref)]
        if wanted or self._memory.since is None:
            stale = any(ref in again for ref in wanted)
            await self._join(frozenset(wanted), fresh=True, joins_any=not stale, by_a_person=True)

    @property
    def reading(self) -> bool:
        """Whether the vault is being read now."""
        return self._reading is not None

    def lock(self) -> int:
        """Forget every secret, end a read that is under way, and give up what the vault granted.

        Returns how many secrets were forgotten.
        """
        forgotten = self._memory.forget()
        self._locks += 1
        if self._reading is not None and not self._reading.cancelling():
            self._reading.cancel()  # once: a second would cut short the vault's own tidying up
        self._access.give_up(self._reading)
        return forgotten

    def expire(self) -> bool:
        """Lock if the unlock is too old or was idle for too long; tell whether it was.

        A read that is under way goes on, and what it brings begins a new unlock; what the vault granted is given up
        after it.
        """
        ended = self._memory.expired(self._config, self._clock.now())
        if ended or (self._memory.since is None and self._access.expired(self._config)):
            self._memory.forget()
            self._access.give_up(self._reading)
        return ended

    def report(self) -> UnlockReport:
        """Describe the unlock; never prompts."""
        self.expire()
        pause = self._pause.left
        if self._reading is not None:
            state = VaultState.UNLOCKING
        elif self._memory.since is not None:
            state = VaultState.UNLOCKED
        else:
            state = VaultState.COOLING_DOWN if pause and self.vault.may_prompt else VaultState.LOCKED
        return UnlockReport(
            state=state,
            backend=self.vault.name,
            since=self._memory.since,
            secrets=self._memory.secrets,
            failures={str(ref): error for ref, error in self._memory.failures.items()},
            last_error=self._pause.last_error,
            pause=pause,
            askers=tuple(self._askers) if self._reading is not None else (),
            limits=self.vault.limits,
        )

    async def close(self) -> None:
        """Lock, and close the vault."""
        self._closed = True
        self.lock()
        if self._reading is not None:
            await asyncio.wait({self._reading})
        await self._access.close()

    async def _join(
        self,
        refs: frozenset[SecretRef],
        *,
        fresh: bool = False,
        joins_any: bool = False,
        asker: Asker | None = None,
        by_a_person: bool = False,
    ) -> None:
        """Wait for the read under way if it brings `refs`; else start one. It has its own task: no caller owns it.

        A `fresh` read is joined by a read that is fresh too, or that `joins_any`.
        """
        await self._turn(refs, fresh=fresh and not joins_any, by_a_person=by_a_person)
        reading = self._reading
        if reading is None:
            self._askers = []
        if asker is not None and asker not in self._askers and len(self._askers) < MOST_ASKERS:
            self._askers.append(asker)
        await self._follow(reading or self._start(refs, self._perform(refs, fresh=fresh), fresh=fresh))

    async def _turn(self, refs: frozenset[SecretRef] | None, *, fresh: bool = True, by_a_person: bool = False) -> None:
        """Return once no read is under way but one that brings `refs`, and this caller may start one if none is.

        Raises `CoolingDown` and what is remembered of the last read; `Locked` if it was locked meanwhile.
        """
        if self._closed:
            raise Stopping("the broker is shutting down", hint="run the command again", retry_after=1.0)
        if not by_a_person:
            self._pause.check()
        locks = self._locks
        while self._reading is not None and not self._brings(refs, fresh=fresh):
            await asyncio.wait({self._reading})  # given up, or for other references: one after the other
            if self._locks != locks:
                raise _locked_meanwhile()
            if not by_a_person:
                self._pause.check()  # that read may have been refused

    def _brings(self, refs: frozenset[SecretRef] | None, *, fresh: bool) -> bool:
        if refs is None or self._reading is None or self._reading_refs is None or self._reading.cancelling():
            return False
        return refs <= self._reading_refs and (self._reading_fresh or not fresh)

    def _start(
        self, refs: frozenset[SecretRef] | None, work: Coroutine[None, None, T], *, fresh: bool = True
    ) -> asyncio.Task[T]:
        self._reading_refs, self._reading_fresh = refs, fresh
        reading = asyncio.create_task(work, name="unlock")
        self._reading = reading
        reading.add_done_callback(self._ended)
        return reading

    async def _follow(self, reading: asyncio.Task[T]) -> T:
        try:
            return await asyncio.shield(reading)
        except asyncio.CancelledError:
            if reading.cancelled():  # by lock(), not this caller
                raise _locked_meanwhile() from None
            raise

    async def _read(self, refs: frozenset[SecretRef], *, fresh: bool) -> Mapping[SecretRef, Secret | VaultError]:
        return await self._access.read(refs, self._askers, fresh=fresh, announce=self._config.announce)

    async def _perform(self, refs: frozenset[SecretRef], *, fresh: bool) -> None:
        """Read what is to be kept."""
        values = await self._read(refs, fresh=fresh)
        found = {ref: values.get(ref) or _nothing_came(ref) for ref in refs}
        for ref in self._memory.keep(found, self._clock.now()):
            self._audit.record("secret changed", {"reference": str(ref)})
        told = {"backend": self.vault.name, "read": len(refs), "secrets": self._memory.secrets}
        missing = len(self._memory.failures)
        self._audit.record("unlocked", told | ({"missing": missing} if missing else {}))

    def _ended(self, reading: asyncio.Task[T]) -> None:
        """Let go of a read. Not done by the read itself: cancelled before its first step, it would never do it."""
        self._reading = None
        if reading.cancelled():
            return
        error = reading.exception()  # its callers may all have gone away
        if type(error) is Locked and self._memory.since is not None:  # not one of its kinds: they tell of the person
            self.on_vault_locked()

    def _check_prompt(self, *, may_prompt: bool) -> None:
        if self.vault.may_prompt and not may_prompt:
            raise self._locked()

    def _locked(self) -> BrokerError:
        error = self._pause.last_error
        why = f"; when last tried: {error.message}" if error is not None else ""
        return Locked(
            f"the vault ({self.vault.name}) is locked, and this program may not cause a prompt{why}",
            hint="unlock it with `broker unlock`",
        )


def _nothing() -> None:
    """Do nothing."""


def _locked_meanwhile() -> Locked:
    return Locked("the vault was locked meanwhile", hint="unlock it with `broker unlock`")


def _nothing_came(ref: SecretRef) -> SecretNotFound:
    return SecretNotFound(f"the vault returned nothing for {ref}", hint="check the reference with `broker doctor`")
