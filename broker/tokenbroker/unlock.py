"""One unlock for everyone: callers join it, refusals cool it down, and it ends by age, idleness or on command.

Rules of this file:
1. The vault is never read twice at once, and never because of a timer: only a caller or a person causes a read.
2. A caller that may not cause a prompt is told at once; it neither starts nor joins an unlock that may prompt.
3. A caller that goes away cancels nobody else's unlock; only `lock()` and `close()` do.
4. Before a person is asked, a note says on whose behalf.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeVar

from tokenbroker.cooldown import UNAVAILABLE_PAUSE, CoolDown
from tokenbroker.errors import BrokerError, Locked, SecretNotFound, VaultError, VaultUnavailable
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
        self._announcer = announcer
        self._vault = vault
        self._config = config
        self._clock = clock
        self._all_refs = refs
        self._audit = audit
        self._memory = Memory()
        self._reading: asyncio.Task[object] | None = None
        self._reading_refs: frozenset[SecretRef] | None = None
        """What the read under way brings; `None`: something that nobody may join."""
        self._askers: list[Asker] = []
        self._locking: asyncio.Task[None] | None = None
        self._pause = CoolDown(clock)
        self._closing: set[asyncio.Future[None]] = set()  # of earlier vaults; kept, or the loop may forget it half done
        self._locks = 0  # how often it was locked: who waited through a lock does not start a read of its own

    def configure(self, config: UnlockConfig) -> None:
        """Take over a new configuration; what is already read stays."""
        self._config = config

    def replace(self, vault: Vault) -> None:
        """Read from another vault from now on; to be called when locked."""
        before, self._vault = self._vault, vault
        self._pause.forget()
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
        value = (await self._follow(self._start(None, self._ask_vault(frozenset({ref}), fresh=True)))).get(ref)
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
        self._pause.forgive()
        self.expire()
        wanted = [ref for ref in self._all_refs() if ref in again or not self._memory.has(ref)]
        if wanted or self._memory.since is None:
            await self._join(frozenset(wanted), fresh=True, by_a_person=True)

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
        self._give_up_grant()
        return forgotten

    def expire(self) -> bool:
        """Lock if the unlock is too old or was idle for too long; tell whether it was.

        A read that is under way goes on: whoever answers its prompt begins a new unlock.
        """
        ended = self._memory.expired(self._config, self._clock.now())
        if ended:
            self._memory.forget()
            if self._reading is None:
                self._give_up_grant()
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
            state = VaultState.COOLING_DOWN if pause and self._vault.may_prompt else VaultState.LOCKED
        return UnlockReport(
            state=state,
            backend=self._vault.name,
            since=self._memory.since,
            secrets=self._memory.secrets,
            failures={str(ref): error for ref, error in self._memory.failures.items()},
            last_error=self._pause.last_error,
            pause=pause,
            askers=tuple(self._askers) if self._reading is not None else (),
            limits=self._vault.limits,
        )

    async def close(self) -> None:
        """Lock, and close the vault."""
        self.lock()
        if self._reading is not None:
            await asyncio.wait({self._reading})
        await self._grant_given_up()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._vault.close()

    def _give_up_grant(self) -> None:
        """Have the vault locked once no read is under way. Who asks next is to be asked by it, and waits for that."""
        if self._locking is None:
            self._locking = asyncio.create_task(self._lock_vault(self._reading), name="lock")
            self._locking.add_done_callback(self._vault_is_locked)

    async def _lock_vault(self, reading: asyncio.Task[object] | None) -> None:
        if reading is not None:
            await asyncio.wait({reading})
        await self._vault.lock()

    def _vault_is_locked(self, locking: asyncio.Task[None]) -> None:
        self._locking = None
        if not locking.cancelled() and (error := locking.exception()) is not None:
            self._audit.record("vault not locked", {"why": type(error).__name__})

    async def _grant_given_up(self) -> None:
        while self._locking is not None:
            await asyncio.wait({self._locking})

    async def _join(
        self, refs: frozenset[SecretRef], *, fresh: bool = False, asker: Asker | None = None, by_a_person: bool = False
    ) -> None:
        """Wait for the read under way if it brings `refs`; else start one. It has its own task: no caller owns it."""
        await self._turn(refs, by_a_person=by_a_person)
        reading = self._reading
        if reading is None:
            self._askers = []
        if asker is not None and asker not in self._askers and len(self._askers) < MOST_ASKERS:
            self._askers.append(asker)
        await self._follow(reading or self._start(refs, self._perform(refs, fresh=fresh)))

    async def _turn(self, refs: frozenset[SecretRef] | None, *, by_a_person: bool = False) -> None:
        """Return once no read is under way but one that brings `refs`, and this caller may start one if none is.

        Raises `CoolingDown` and what is remembered of the last read; `Locked` if it was locked meanwhile.
        """
        if not by_a_person:
            self._pause.check()
        locks = self._locks
        while self._reading is not None and not self._brings(refs):
            await asyncio.wait({self._reading})  # given up, or for other references: one after the other
            if self._locks != locks:
                raise _locked_meanwhile()
            if not by_a_person:
                self._pause.check()  # that read may have been refused

    def _brings(self, refs: frozenset[SecretRef] | None) -> bool:
        if refs is None or self._reading is None or self._reading_refs is None or self._reading.cancelling():
            return False
        return refs <= self._reading_refs

    def _start(self, refs: frozenset[SecretRef] | None, work: Coroutine[None, None, T]) -> asyncio.Task[T]:
        self._reading_refs = refs
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

    async def _ask_vault(self, refs: frozenset[SecretRef], *, fresh: bool) -> Mapping[SecretRef, Secret | VaultError]:
        """Read, telling the person for whom; take note of how it went."""
        await self._grant_given_up()
        self._announce()
        try:
            values = await self._vault.read(refs, fresh=fresh)
        except BrokerError as error:
            if type(error) is VaultUnavailable and not self._vault.may_prompt and error.retry_after is None:
                error.retry_after = UNAVAILABLE_PAUSE  # nobody has to do anything: whoever asks then, tries again
            self._pause.failed(error)
            self._audit.record("unlock failed", {"code": error.code, "why": error.message})
            raise
        finally:
            if self._announcer is not None:
                self._announcer.withdraw()
        self._pause.forget()
        return values

    async def _perform(self, refs: frozenset[SecretRef], *, fresh: bool) -> None:
        """Read what is to be kept."""
        values = await self._ask_vault(refs, fresh=fresh)
        found = {ref: values.get(ref) or _nothing_came(ref) for ref in refs}
        for ref in self._memory.keep(found, self._clock.now()):
            self._audit.record("secret changed", {"reference": str(ref)})
        told = {"backend": self._vault.name, "read": len(refs), "secrets": self._memory.secrets}
        missing = len(self._memory.failures)
        self._audit.record("unlocked", told | ({"missing": missing} if missing else {}))

    def _announce(self) -> None:
        """Say who is about to make the vault ask, and why, in the log and on the screen."""
        if not self._vault.may_prompt:
            return
        for asker in self._askers:
            told = {"program": asker.program, "pid": asker.pid, "for": asker.wants, "claimed_reason": asker.reason}
            self._audit.record("unlocking", told)
        if self._askers and self._config.announce and self._announcer is not None:
            self._announcer.announce(
                f"{_TITLES.get(self._vault.name, 'The vault')} is asked to open", _note(self._askers[0])
            )

    def _ended(self, reading: asyncio.Task[T]) -> None:
        """Let go of a read. Not done by the read itself: cancelled before its first step, it would never do it."""
        self._reading = None
        if reading.cancelled():
            return
        error = reading.exception()  # its callers may all have gone away
        if type(error) is Locked and self._memory.since is not None:  # not one of its kinds: they tell of the person
            self.on_vault_locked()

    def _check_prompt(self, *, may_prompt: bool) -> None:
        if self._vault.may_prompt and not may_prompt:
            raise self._locked()

    def _locked(self) -> BrokerError:
        error = self._pause.last_error
        why = f"; when last tried: {error.message}" if error is not None else ""
        return Locked(
            f"the vault ({self._vault.name}) is locked, and this program may not cause a prompt{why}",
            hint="unlock it with `broker unlock`",
        )


_TITLES: Final = {"op": "1Password", "sdk": "1Password", "keyring": "The keyring"}


def _note(asker: Asker) -> str:
    """Say on whose behalf the vault will ask; what the program claims is marked as such."""
    said = f'. It says: "{asker.reason}"' if asker.reason else ""
    return f"tokenbroker needs it for {asker.program}, which wants {asker.wants}{said}"


def _nothing() -> None:
    """Do nothing."""


def _locked_meanwhile() -> Locked:
    return Locked("the vault was locked meanwhile", hint="unlock it with `broker unlock`")


def _nothing_came(ref: SecretRef) -> SecretNotFound:
    return SecretNotFound(f"the vault returned nothing for {ref}", hint="check the reference with `broker doctor`")
