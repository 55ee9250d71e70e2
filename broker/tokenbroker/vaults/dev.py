"""A vault held in memory, for `serve --dev`, the demo and tests. DEVELOPMENT ONLY: it protects nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenbroker.errors import PromptDismissed, SecretNotFound, VaultError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    from tokenbroker.config import VaultConfig
    from tokenbroker.model import RateLimit, Secret, SecretRef


class DevVault:
    """The `Vault` port over a dictionary made at construction.

    `prompt`, when given, plays the person: it is awaited once per read that has something to read, and answers whether
    the person approved.
    """

    def __init__(
        self, values: Mapping[SecretRef, Secret], *, prompt: Callable[[], Awaitable[bool]] | None = None
    ) -> None:
        """Keep a copy of `values`."""
        self._values = dict(values)
        self._prompt = prompt

    @property
    def name(self) -> str:
        """The configuration's name of this backend."""
        return "dev"

    @property
    def may_prompt(self) -> bool:
        """Only when a prompt is simulated."""
        return self._prompt is not None

    @property
    def limits(self) -> tuple[RateLimit, ...]:
        """None."""
        return ()

    async def read(
        self, refs: Collection[SecretRef], *, fresh: bool = False
    ) -> Mapping[SecretRef, Secret | VaultError]:
        """Look all of `refs` up, as `ports.Vault` says. Raises `PromptDismissed` when the simulated person refuses."""
        del fresh  # there is no cache
        if refs and self._prompt is not None and not await self._prompt():
            raise PromptDismissed("the development prompt was dismissed", hint="run `broker unlock` and approve it")
        return {ref: self._values.get(ref) or _missing(ref) for ref in refs}

    async def probe(self) -> str:
        """Say that it is there."""
        return "development parts"

    def adjust(self, config: VaultConfig) -> None:
        """Take over other bounds of time."""
        del config  # there are none

    async def lock(self) -> None:
        """Nothing is held."""

    async def close(self) -> None:
        """Forget every value. May be called twice."""
        self._values.clear()


def _missing(ref: SecretRef) -> VaultError:
    return SecretNotFound(
        f"{ref}: not in the development vault", hint="use a reference that `broker serve --dev` prints"
    )
