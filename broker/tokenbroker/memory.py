"""What was read of one vault, for as long as it may be kept. In memory alone, and nothing here awaits.

During a rotation the issuer may take the secret that is in the vault now, the one before, or both; so what a read
replaces is kept beside what replaced it, and which of the two worked last is in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from tokenbroker.model import Secret

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from tokenbroker.config import UnlockConfig
    from tokenbroker.errors import VaultError
    from tokenbroker.model import Instant, SecretRef


INCIDENT: Final = 30.0  # seconds for which a refused secret is not tried again by others: then it may work again

Secrets = Mapping["SecretRef", Secret]


class Span:
    """Since when something holds, and when it was used last."""

    def __init__(self) -> None:
        """Begin with nothing that holds."""
        self.since: Instant | None = None
        self._used_at = 0.0

    def use(self, now: Instant) -> None:
        """Let it hold from now on, if it does not yet, and count as used."""
        self.since = self.since or now
        self._used_at = now.elapsed

    def expired(self, config: UnlockConfig, now: Instant) -> bool:
        """Tell whether it is too old, or was not used for too long."""
        if self.since is None:
            return False
        # Both clocks, as for tokens: a person's 12 hours pass also while the machine sleeps.
        age = max(now.elapsed - self.since.elapsed, now.wall - self.since.wall)
        too_old = config.max_age is not None and age >= config.max_age
        return too_old or (config.idle is not None and now.elapsed - self._used_at >= config.idle)


class Memory:
    """References and what was read under them: secrets, or why there are none."""

    def __init__(self) -> None:
        """Begin empty."""
        self._values: dict[SecretRef, Secret | VaultError] = {}
        self._previous: dict[SecretRef, Secret] = {}
        self._lost: dict[SecretRef, VaultError] = {}
        """What could be read before and could not be read again."""
        self._verdicts: dict[frozenset[tuple[SecretRef, Secret]], tuple[bool, float]] = {}
        """What an issuer last said of a client's secrets, and when on the elapsed clock."""
        self._span = Span()

    @property
    def since(self) -> Instant | None:
        """When the first of it was read; `None`: nothing was."""
        return self._span.since

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
        never = {ref: value for ref, value in self._values.items() if not isinstance(value, Secret)}
        return never | self._lost

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
        if self._span.since is not None:
            self._span.use(now)
        return found

    def keep(self, values: Mapping[SecretRef, Secret | VaultError], now: Instant) -> list[SecretRef]:
        """Take over what was read; return the references whose secret is another one now."""
        changed = []
        for ref, value in values.items():
            before = self._values.get(ref)
            if isinstance(before, Secret):
                if not isinstance(value, Secret):  # it was good: shown, and what was read before stays in use
                    self._lost[ref] = value
                    continue
                if before != value:
                    self._previous[ref] = before
                    changed.append(ref)
            self._values[ref] = value
            self._lost.pop(ref, None)
        self._span.use(now)
        return changed

    def retain(self, refs: Container[SecretRef]) -> None:
        """Forget what is not of `refs`."""
        for held in (self._values, self._previous, self._lost):
            for ref in [ref for ref in held if ref not in refs]:
                del held[ref]
        self._verdicts = {}

    def before(self, refs: Iterable[SecretRef]) -> dict[SecretRef, Secret] | None:
        """Return the secrets of `refs` as they were before the last change; `None`: none was replaced."""
        refs = tuple(refs)
        if not any(ref in self._previous for ref in refs):
            return None
        found = {ref: self._previous.get(ref) or self._values.get(ref) for ref in refs}
        return {ref: value for ref, value in found.items() if isinstance(value, Secret)}

    def judge(self, secrets: Secrets, now: Instant, *, works: bool) -> None:
        """Note what an issuer said of a client's `secrets`; put what works in place of what does not."""
        if self._span.since is None:
            return  # all was forgotten meanwhile, and a verdict would hold the secrets for longer
        self._verdicts = {k: said for k, said in self._verdicts.items() if now.elapsed - said[1] <= INCIDENT}
        self._verdicts[frozenset(secrets.items())] = works, now.elapsed
        if not works:
            return
        for ref, value in secrets.items():
            present = self._values.get(ref)
            if isinstance(present, Secret) and present != value and self._previous.get(ref) == value:
                self._values[ref], self._previous[ref] = value, present

    def verdict(self, secrets: Secrets, now: Instant) -> bool | None:
        """Return what an issuer said of these secrets just now: they work, or not; `None`: nothing lately."""
        works, at = self._verdicts.get(frozenset(secrets.items()), (None, 0.0))
        return works if now.elapsed - at <= INCIDENT else None

    def forget(self) -> int:
        """Forget everything; return how many secrets there were."""
        forgotten = self.secrets
        self._values, self._previous, self._lost, self._verdicts, self._span = {}, {}, {}, {}, Span()
        return forgotten

    def expired(self, config: UnlockConfig, now: Instant) -> bool:
        """Tell whether it is too old, or was not used for too long."""
        return self._span.expired(config, now)
