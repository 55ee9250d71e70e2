"""What was read of one vault, for as long as it may be kept. In memory alone, and nothing here awaits.

During a rotation the issuer may take the secret that is in the vault now, the one before, or both; so what a read
replaces is kept beside what replaced it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenbroker.model import Secret

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from tokenbroker.config import UnlockConfig
    from tokenbroker.errors import VaultError
    from tokenbroker.model import Instant, SecretRef


class Memory:
    """References and what was read under them: secrets, or why there are none."""

    def __init__(self) -> None:
        """Begin empty."""
        self._values: dict[SecretRef, Secret | VaultError] = {}
        self._previous: dict[SecretRef, Secret] = {}
        self.since: Instant | None = None
        """When the first of it was read; `None`: nothing was."""
        self._used_at = 0.0

    def __contains__(self, ref: SecretRef) -> bool:
        """Tell whether `ref` was read, with whatever outcome."""
        return ref in self._values

    def has(self, ref: SecretRef) -> bool:
        """Tell whether there is a secret for `ref`."""
        return isinstance(self._values.get(ref), Secret)

    @property
    def secrets(self) -> int:
        """How many secrets there are."""
        return sum(isinstance(value, Secret) for value in self._values.values())

    @property
    def failures(self) -> dict[SecretRef, VaultError]:
        """What could not be read, and why."""
        return {ref: value for ref, value in self._values.items() if not isinstance(value, Secret)}

    def peek(self, refs: Iterable[SecretRef], now: Instant) -> dict[SecretRef, Secret] | None:
        """Return the secrets if all are there. Raises the `VaultError` of one that could not be resolved."""
        found: dict[SecretRef, Secret] = {}
        for ref in refs:
            value = self._values.get(ref)
            if value is None:
                return None
            if not isinstance(value, Secret):
                raise value.anew()
            found[ref] = value
        self._used_at = now.elapsed
        return found

    def keep(self, values: Mapping[SecretRef, Secret | VaultError], now: Instant) -> list[SecretRef]:
        """Take over what was read; return the references whose secret is another one now."""
        changed = []
        for ref, value in values.items():
            before = self._values.get(ref)
            if isinstance(before, Secret) and isinstance(value, Secret) and before != value:
                self._previous[ref] = before
                changed.append(ref)
            self._values[ref] = value
        self.since = self.since or now
        self._used_at = now.elapsed
        return changed

    def fall_back(self, refs: Collection[SecretRef]) -> bool:
        """Exchange the secrets of `refs` for those that they replaced; tell whether there were any."""
        both = [ref for ref in refs if ref in self._previous]
        for ref in both:
            now, self._values[ref] = self._values.get(ref), self._previous.pop(ref)
            if isinstance(now, Secret):
                self._previous[ref] = now
        return bool(both)

    def forget(self) -> int:
        """Forget everything; return how many secrets there were."""
        forgotten = self.secrets
        self._values, self._previous, self.since = {}, {}, None
        return forgotten

    def expired(self, config: UnlockConfig, now: Instant) -> bool:
        """Tell whether it is too old, or was not used for too long."""
        if self.since is None:
            return False
        # Both clocks, as for tokens: a person's 12 hours pass also while the machine sleeps.
        age = max(now.elapsed - self.since.elapsed, now.wall - self.since.wall)
        too_old = config.max_age is not None and age >= config.max_age
        return too_old or (config.idle is not None and now.elapsed - self._used_at >= config.idle)
