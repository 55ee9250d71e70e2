"""The fake behind `ports.Vault`: values and errors set by the test, reads recorded, a read that can be held open."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tokenbroker.errors import SecretNotFound, VaultError
from tokenbroker.model import RateLimit, Secret, SecretRef

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from tokenbroker.config import VaultConfig


class FakeVault:
    """A vault whose every behaviour is an attribute.

    `raises`: what the next reads raise as a whole; `None`: they succeed.
    `gate`: reads wait for it, and it is open unless a test clears it.
    """

    def __init__(
        self, values: Mapping[str, str | VaultError] | None = None, *, may_prompt: bool = True, name: str = "fake"
    ) -> None:
        """Keep `values`: reference → secret text, or the error of this one reference."""
        self.values: dict[str, str | VaultError] = dict(values or {})
        self.raises: VaultError | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.reads: list[tuple[frozenset[str], bool]] = []
        """One entry per read: the references, and whether it was `fresh`."""
        self.started = asyncio.Event()
        self.running = 0
        self.most_running = 0
        self.closed = 0
        self.locked = 0
        self.adjusted: VaultConfig | None = None
        self.allowances: tuple[RateLimit, ...] = ()
        self._name = name
        self._may_prompt = may_prompt

    @property
    def name(self) -> str:
        """The name given."""
        return self._name

    @property
    def may_prompt(self) -> bool:
        """As given."""
        return self._may_prompt

    @property
    def limits(self) -> tuple[RateLimit, ...]:
        """As set."""
        return self.allowances

    async def read(
        self, refs: Collection[SecretRef], *, fresh: bool = False
    ) -> Mapping[SecretRef, Secret | VaultError]:
        """Answer from `values`, once the gate is open."""
        self.reads.append((frozenset(ref.uri for ref in refs), fresh))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        self.started.set()
        try:
            await self.gate.wait()
            if self.raises is not None:
                raise self.raises
            return {ref: self._one(ref) for ref in refs}
        finally:
            self.running -= 1

    async def probe(self) -> str:
        """Say that it is there."""
        return "fake"

    def adjust(self, config: VaultConfig) -> None:
        """Take over other bounds of time."""
        self.adjusted = config

    async def lock(self) -> None:
        """Count."""
        assert self.running == 0, "locked during a read"
        self.locked += 1

    async def close(self) -> None:
        """Count."""
        self.closed += 1

    def _one(self, ref: SecretRef) -> Secret | VaultError:
        value = self.values.get(ref.uri)
        if value is None:
            return SecretNotFound(f"{ref}: not in the fake vault", hint="put it there")
        return Secret(value) if isinstance(value, str) else value
