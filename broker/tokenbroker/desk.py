"""Which events at the person's desk lock the vault, and whether they can be followed here."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tokenbroker.control import asks_for
from tokenbroker.model import DesktopEvent

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenbroker.config import Config
    from tokenbroker.control import Control
    from tokenbroker.ports import AuditSink, DesktopEvents

SILENT = "1Password tells nobody when it locks; the broker notices when it next reads"


class Desk:
    """Follows what the present configuration asks for, and nothing else."""

    def __init__(self, control: Control, audit: AuditSink, *, connect: Callable[[], DesktopEvents]) -> None:
        """`connect` makes what follows the desktop; it is called only when something is to be followed."""
        self._control = control
        self._audit = audit
        self._connect = connect
        self._following: DesktopEvents | None = None
        self._wanted: frozenset[DesktopEvent] = frozenset()

    async def follow(self, config: Config) -> None:
        """Follow what `config` says may lock the vault."""
        wanted = frozenset(event for event in DesktopEvent if asks_for(config.unlock, event) == "lock")
        if config.vault.backend != "keyring":  # the one vault here that says when it locks
            wanted -= {DesktopEvent.VAULT_LOCK}
        if wanted == self._wanted:
            return
        await self.close()
        self._wanted = wanted
        if not wanted:
            return
        self._following = await asyncio.to_thread(self._connect)  # which imports what this system needs
        for event, why in (await self._following.watch(wanted, self._happened)).items():
            self._audit.record("not followed", {"event": str(event), "why": why})

    async def close(self) -> None:
        """Follow nothing more."""
        following, self._following = self._following, None
        self._wanted = frozenset()
        if following is not None:
            await following.close()

    def describe(self, config: Config) -> dict[str, Any]:
        """Say of each event what it does, and why it does not if it cannot."""
        return {str(event): self._one(config, event) for event in DesktopEvent}

    def _one(self, config: Config, event: DesktopEvent) -> dict[str, Any]:
        does = asks_for(config.unlock, event)
        why = self._following.missing.get(event) if self._following is not None else None
        if does == "lock" and event not in self._wanted:
            why = SILENT
        return {"does": does, "followed": event in self._wanted and why is None, "why": why}

    def _happened(self, event: DesktopEvent) -> None:
        self._control.happened(event)
