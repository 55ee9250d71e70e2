"""Which vault is behind which unlock: built for a configuration, and changed for another while the daemon runs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tokenbroker.unlock import Unlock
from tokenbroker.unlocks import Unlocks

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenbroker.config import Config, VaultConfig
    from tokenbroker.control import Control
    from tokenbroker.ports import Announcer, AuditSink, Clock, Vault


class Custody:
    """Keeps the unlocks in step with the configuration."""

    def __init__(
        self,
        config: Config,
        build: Callable[[VaultConfig], Vault],
        *,
        given: Vault | None,
        present: Callable[[], Config],
        clock: Clock,
        audit: AuditSink,
        announcer: Announcer,
    ) -> None:
        """Build the unlocks of `config`, with `given` as the person's vault where it is. Raises `ConfigError`.

        `present` gives the configuration in force, whose references an unlock reads.
        """
        self._build = build
        self._present = present
        self._clock = clock
        self._audit = audit
        self._announcer = announcer
        self.unlocks = Unlocks(
            self._unlock(given or build(config.vault), config, autonomous=False), self._autonomous(config)
        )

    def change(self, config: Config, control: Control) -> Unlock | None:
        """Take over the vaults of `config`: what came from one that is no more, or is another now, is forgotten.

        Returns the unlock that is no more used, to be closed. Raises `ConfigError` before anything is changed.
        """
        old, retired = self._present(), None
        person = None if _is_same(config.vault, old.vault) else self._build(config.vault)
        another = not _is_same(config.autonomous_vault, old.autonomous_vault)
        autonomous = self._autonomous(config) if another else self.unlocks.autonomous
        if person is not None:
            control.lock("the vault is another one now")
            self.unlocks.person.replace(person)
        else:
            self.unlocks.person.vault.adjust(config.vault)
        if another:
            control.lock_autonomous("the vault of autonomous clients is another one now")
            retired, self.unlocks.autonomous = self.unlocks.autonomous, autonomous
        elif autonomous is not None and config.autonomous_vault is not None:
            autonomous.vault.adjust(config.autonomous_vault)
        for unlock in self.unlocks:
            unlock.configure(config.unlock, config.refs(autonomous=unlock is self.unlocks.autonomous))
        return retired

    def _autonomous(self, config: Config) -> Unlock | None:
        if config.autonomous_vault is None:
            return None
        return self._unlock(self._build(config.autonomous_vault), config, autonomous=True)

    def _unlock(self, vault: Vault, config: Config, *, autonomous: bool) -> Unlock:
        return Unlock(
            vault,
            config.unlock,
            self._clock,
            refs=lambda: self._present().refs(autonomous=autonomous),
            audit=self._audit,
            announcer=self._announcer,
        )


def _is_same(new: VaultConfig | None, old: VaultConfig | None) -> bool:
    """Tell whether both mean the same vault; how long it is waited for does not make it another one."""
    if new is None or old is None:
        return new is old
    return replace(new, prompt_timeout=old.prompt_timeout, timeout=old.timeout) == old
