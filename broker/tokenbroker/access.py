"""One vault: asked on somebody's behalf, who is named to the person; and what it granted, until that is given up.

Rules of this file:
1. The vault is read only after an earlier grant that was to be given up has been.
2. Whatever goes wrong in a vault, its callers meet a `BrokerError`, and the same trouble is not met again at once.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from tokenbroker.errors import BrokerError, VaultUnavailable, whereabouts
from tokenbroker.memory import Span

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tokenbroker.config import UnlockConfig
    from tokenbroker.cooldown import CoolDown
    from tokenbroker.errors import VaultError
    from tokenbroker.model import Asker, Secret, SecretRef
    from tokenbroker.ports import Announcer, AuditSink, Clock, Vault

logger = logging.getLogger(__name__)

_TITLES: Final = {"op": "1Password", "sdk": "1Password", "keyring": "The keyring"}


class Access:
    """The way to one vault."""

    def __init__(
        self, vault: Vault, clock: Clock, pause: CoolDown, *, audit: AuditSink, announcer: Announcer | None
    ) -> None:
        """Read nothing yet; how reads go is noted in `pause`."""
        self.vault = vault
        self._clock = clock
        self._pause = pause
        self._audit = audit
        self._announcer = announcer
        self._granted = Span()
        """Since when the vault has let us in. One-time passwords are read without an unlock, and are let in as well."""
        self._locking: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Future[None]] = set()  # of earlier vaults; kept, or the loop may forget it half done

    def replace(self, vault: Vault) -> None:
        """Read from another vault from now on."""
        before, self.vault = self.vault, vault
        self._pause.forget()
        self._granted = Span()
        closing = asyncio.ensure_future(before.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def read(
        self, refs: frozenset[SecretRef], askers: Sequence[Asker], *, fresh: bool, announce: bool
    ) -> Mapping[SecretRef, Secret | VaultError]:
        """Read, telling the person for whom; take note of how it went."""
        await self.given_up()
        self._tell(askers, announce=announce)
        try:
            values = await self._read(refs, fresh=fresh)
        except BrokerError as error:
            self._pause.failed(error)
            self._audit.record("unlock failed", {"code": error.code, "why": error.message})
            raise
        finally:
            if self._announcer is not None:
                self._announcer.withdraw()
        self._pause.forget()
        self._granted.use(self._clock.now())
        return values

    def expired(self, config: UnlockConfig) -> bool:
        """Tell whether what the vault granted is too old, or was not used for too long."""
        return self._granted.expired(config, self._clock.now())

    def give_up(self, reading: asyncio.Task[object] | None) -> None:
        """Have the vault locked, after `reading`. Who asks next is to be asked by it, and waits for that."""
        if self._locking is None:
            self._locking = asyncio.create_task(self._lock(reading), name="lock")
            self._locking.add_done_callback(self._locked)

    async def given_up(self) -> None:
        """Return once nothing is to be given up any more."""
        while self._locking is not None:
            await asyncio.wait({self._locking})

    async def close(self) -> None:
        """Close the vault, and those before it."""
        await self.given_up()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self.vault.close()

    async def _read(self, refs: frozenset[SecretRef], *, fresh: bool) -> Mapping[SecretRef, Secret | VaultError]:
        try:
            return await self.vault.read(refs, fresh=fresh)
        except BrokerError:
            raise
        except Exception as error:  # noqa: BLE001  # a fault of an adapter must not become a prompt for each caller
            logger.error("Vault ended by a fault: %s", whereabouts(error))  # noqa: TRY400  # its text may hold anything
            raise VaultUnavailable(
                f"reading the vault ({self.vault.name}) ended by a fault; the log has the details",
                hint="see the log of the daemon",
            ) from None

    async def _lock(self, reading: asyncio.Task[object] | None) -> None:
        if reading is not None:
            await asyncio.wait({reading})
        self._granted = Span()
        await self.vault.lock()

    def _locked(self, locking: asyncio.Task[None]) -> None:
        self._locking = None
        if not locking.cancelled() and (error := locking.exception()) is not None:
            self._audit.record("vault not locked", {"why": type(error).__name__})

    def _tell(self, askers: Sequence[Asker], *, announce: bool) -> None:
        """Say who is about to make the vault ask, and why, in the log and on the screen."""
        if not self.vault.may_prompt:
            return
        for asker in askers:
            told = {"program": asker.program, "pid": asker.pid, "for": asker.wants, "claimed_reason": asker.reason}
            self._audit.record("unlocking", told)
        if askers and announce and self._announcer is not None:
            self._announcer.announce(f"{_TITLES.get(self.vault.name, 'The vault')} is asked to open", _note(askers[0]))


def _note(asker: Asker) -> str:
    """Say on whose behalf the vault will ask; what the program claims is marked as such."""
    said = f'. It says: "{asker.reason}"' if asker.reason else ""
    return f"tokenbroker needs it for {asker.program}, which wants {asker.wants}{said}"
