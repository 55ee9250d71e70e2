"""1Password through the `op` program and the desktop app: one prompt, as few calls as can be.

Rules of this file:
1. Nothing calls `op` but `read` and `probe`; there is no timer here.
2. Killing `op` does not close the app's dialog, and what is answered there later opens nothing (contract 2). So it is
   remembered that one may be on the screen, and whoever is asked next is told.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from tokenbroker.errors import Locked
from tokenbroker.vaults.left_dialog import LeftDialog, beside
from tokenbroker.vaults.op.errors import PROBE_TIMEOUT, UNLOCK, version_of
from tokenbroker.vaults.op.program import find_op, op_environment
from tokenbroker.vaults.op.reader import MAX_ROUNDS, OpReader
from tokenbroker.vaults.op.runner import OpRunner

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from tokenbroker.config import VaultConfig
    from tokenbroker.errors import VaultError
    from tokenbroker.model import RateLimit, Secret, SecretRef
    from tokenbroker.ports import Clock
    from tokenbroker.vaults.op.errors import Completed
    from tokenbroker.vaults.op.reference import OpReference

__all__ = ["MAX_ROUNDS", "OpVault"]


log = logging.getLogger(__name__)


class OpVault:
    """The `Vault` port over `op`. Several vaults may exist; each has its own terminal session."""

    def __init__(
        self,
        config: VaultConfig,
        *,
        environ: Mapping[str, str],
        home: Path,
        clock: Clock | None = None,
        calls_prompt: bool = False,
        runner: OpRunner | None = None,
    ) -> None:
        """Start nothing and look for nothing yet; `environ` is the daemon's, of which `op` gets an allow-list.

        `calls_prompt`: on this machine each call asks the person anew, so a read makes two at most. Without a `clock` a
        dialog left on the screen is remembered until a read succeeds.
        """
        self._config = config
        self._environ = environ
        self._home = home
        self._clock = clock
        self._runner = runner or OpRunner()
        self._reader = OpReader(self._op, frugal=calls_prompt, elapsed=self._now)
        self._dialog = LeftDialog(clock)

    @property
    def name(self) -> str:
        """The configuration's name of this backend."""
        return "op"

    @property
    def may_prompt(self) -> bool:
        """Always: the app decides when it asks, and no option of `op` forbids it."""
        return True

    @property
    def limits(self) -> tuple[RateLimit, ...]:
        """None."""
        return ()

    async def read(
        self, refs: Collection[SecretRef], *, fresh: bool = False
    ) -> Mapping[SecretRef, Secret | VaultError]:
        """Read all of `refs`, as `ports.Vault` says; `fresh` goes past `op`'s own cache of items."""
        older = self._dialog.may_be_there
        if older:
            log.warning("An older 1Password dialog may still be on the screen; what is answered there is lost")
        try:
            answers = await self._reader.read(refs, fresh=fresh)
        except Locked as error:
            if older:
                raise beside(error, UNLOCK) from None
            raise
        return answers

    async def probe(self) -> str:
        """Return the version of `op`. Never prompts; for `broker doctor`.

        Raises `VaultNotInstalled`, or `VaultUnavailable` when it does not say.
        """
        done = await self._run(["--version"], seconds=PROBE_TIMEOUT)
        return version_of(done)

    def adjust(self, config: VaultConfig) -> None:
        """Take over other bounds of time."""
        self._config = config

    async def lock(self) -> None:
        """End the session that 1Password gave its authorization to."""
        await self.close()

    async def close(self) -> None:
        """End the helper process and its session. May be called twice; a later read starts anew."""
        await self._runner.close()

    async def _op(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        asked: Sequence[OpReference] = (),
        fresh: bool = False,
    ) -> Completed:
        """Make one call that may show a dialog, and note whether that stays on the screen."""
        del asked, fresh
        account = ["--account", self._config.account] if self._config.account else []
        try:
            done = await self._run([*argv, *account], stdin=stdin, seconds=self._config.prompt_timeout)
        except asyncio.CancelledError:
            self._dialog.leave()
            raise
        if done.timed_out:
            self._dialog.leave()
        elif not done.failed:
            self._dialog.clear()
        return done

    async def _run(self, argv: Sequence[str], *, stdin: bytes | None = None, seconds: float) -> Completed:
        program = find_op(self._config.op, self._environ, self._home)
        environment = op_environment(self._environ, self._home)
        return await self._runner.run([str(program), *argv], env=environment, stdin=stdin, seconds=seconds)

    def _now(self) -> float:
        return self._clock.now().elapsed if self._clock is not None else 0.0
