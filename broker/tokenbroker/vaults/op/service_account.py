"""1Password by a service account: for machines where nobody is there to be asked.

Rules of this file:
1. The token is fetched for each read, stands in the environment of `op` alone, and is kept no longer.
2. Before a call that would touch the last of an allowance nothing is called: when it is used up, whatever else lives on
   the same account stops too.
3. What is left is asked of 1Password before the first read and, without making anybody wait, after each; never from a
   timer. That costs nothing (contract 3).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

from tokenbroker.errors import PASSING, VaultError, whereabouts
from tokenbroker.vaults.op.errors import PROBE_TIMEOUT, general_error, lacks_command, version_of
from tokenbroker.vaults.op.limits import Allowance, cost_of, parse_limits
from tokenbroker.vaults.op.program import find_op, service_account_environment
from tokenbroker.vaults.op.reader import OpReader
from tokenbroker.vaults.op.runner import HelperEnded, OpRunner
from tokenbroker.vaults.op.service_errors import LimitReached, TokenRefused, service_account_words
from tokenbroker.vaults.op.template import GarbledOutput

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from tokenbroker.config import VaultConfig
    from tokenbroker.model import RateLimit, Secret, SecretRef
    from tokenbroker.ports import Clock
    from tokenbroker.vaults.op.errors import Completed
    from tokenbroker.vaults.op.limits import ItemKey
    from tokenbroker.vaults.op.reference import OpReference

RATELIMIT: Final = ("service-account", "ratelimit", "--format", "json")

log = logging.getLogger(__name__)


class ServiceAccountVault:
    """The `Vault` port over `op` and a service account's token."""

    def __init__(
        self,
        config: VaultConfig,
        *,
        environ: Mapping[str, str],
        home: Path,
        credential: Callable[[], Awaitable[Secret]],
        clock: Clock,
        runner: OpRunner | None = None,
    ) -> None:
        """Start nothing yet; `credential` gives the token each time it is called, and must not ask anybody."""
        self._config = config
        self._environ = environ
        self._home = home
        self._credential = credential
        self._clock = clock
        self._runner = runner or OpRunner()
        self._words = service_account_words(config.credential or "`credential` in section [vault]")
        self._allowance = Allowance()
        self._tells_limits = True
        self._cached: set[ItemKey] = set()
        self._asking: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """The configuration's name of this backend."""
        return "service-account"

    @property
    def may_prompt(self) -> bool:
        """Never."""
        return False

    @property
    def limits(self) -> tuple[RateLimit, ...]:
        """The allowances of the token and of its account, as last told and counted since; empty before a read."""
        return self._allowance.shown(self._now())

    async def read(
        self, refs: Collection[SecretRef], *, fresh: bool = False
    ) -> Mapping[SecretRef, Secret | VaultError]:
        """Read all of `refs`, as `ports.Vault` says; `fresh` goes past `op`'s own cache of items.

        A token that 1Password refuses is fetched once more, and the read made once more if it is another by now.
        """
        await self._stop_asking()
        if not refs:
            return {}
        token = await self._credential()
        try:
            return await self._read(token, refs, fresh=fresh)
        except TokenRefused:
            again = await self._credential()
            if again == token:
                raise
            log.info("The service account's token was refused, and is another by now; reading once more")
        return await self._read(again, refs, fresh=fresh)

    async def probe(self) -> str:
        """Return the version of `op`; for `broker doctor`. Raises `VaultNotInstalled` or `VaultUnavailable`."""
        done = await self._op(None, ["--version"], seconds=PROBE_TIMEOUT)
        return version_of(done)

    def adjust(self, config: VaultConfig) -> None:
        """Take over other bounds of time."""
        self._config = config

    async def lock(self) -> None:
        """End the helper process, in whose memory values and the token may still stand; no authorization is lost."""
        await self.close()

    async def close(self) -> None:
        """End what runs. May be called twice; a later read starts anew. What is known of the allowances stays."""
        await self._stop_asking()
        await self._runner.close()

    async def _read(
        self, token: Secret, refs: Collection[SecretRef], *, fresh: bool
    ) -> Mapping[SecretRef, Secret | VaultError]:
        async def call(
            argv: Sequence[str],
            *,
            stdin: bytes | None = None,
            asked: Sequence[OpReference] = (),
            fresh: bool = False,
        ) -> Completed:
            self._spend(asked, fresh=fresh)
            return await self._op(token, argv, stdin)

        try:
            if not self._allowance.windows:
                await self._ask_limits(token)
            answers = await OpReader(call, words=self._words).read(refs, fresh=fresh)
        except LimitReached as error:
            self._allowance = self._allowance.refused(error.retry_after, self._now())
            self._ask_later(token)
            raise
        self._ask_later(token)
        return answers

    def _spend(self, asked: Sequence[OpReference], *, fresh: bool) -> None:
        """Count a call before it is made. Raises `VaultUnavailable` when there is not enough left for it."""
        now, cost = self._now(), cost_of(asked, self._cached, fresh=fresh)
        refusal = self._allowance.refusal(cost, now)
        if refusal is not None:
            raise refusal
        self._allowance = self._allowance.spend(cost, now)
        self._cached |= {one.item_key for one in asked}

    async def _ask_limits(self, token: Secret) -> None:
        """Learn what is left. Raises when the token is refused or nothing answers: a read would fail the same way."""
        done = await self._op(token, RATELIMIT)
        if done.failed:
            error = general_error(done, self._words)
            if done.timed_out or isinstance(error, TokenRefused | LimitReached):
                raise error
            self._tells_limits = not lacks_command(done)
        else:
            with contextlib.suppress(GarbledOutput):
                self._allowance = self._allowance.told(parse_limits(done.stdout, self._now()))
                return
        log.info("op does not tell what is left of the service account's allowance; it is estimated until it does")
        self._allowance = self._allowance.assumed()

    def _ask_later(self, token: Secret) -> None:
        """Learn what is left once the answer is on its way."""
        if self._tells_limits:
            self._asking = asyncio.create_task(self._ask_quietly(token), name="service-account limits")

    async def _ask_quietly(self, token: Secret) -> None:
        try:
            await self._ask_limits(token)
        except VaultError as error:
            log.info("The service account's allowance could not be looked up: %s", error.message)
        except Exception as error:  # noqa: BLE001  # kept in the task it would keep frames, and the token in them
            log.error("The service account's allowance could not be looked up: %s", whereabouts(error))  # noqa: TRY400

    async def _stop_asking(self) -> None:
        """End a look-up that is under way: a read is more urgent."""
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.cancel()
            await asyncio.wait([asking])

    async def _op(
        self, token: Secret | None, argv: Sequence[str], stdin: bytes | None = None, *, seconds: float | None = None
    ) -> Completed:
        program = find_op(self._config.op, self._environ, self._home)
        secret = None if token is None else token.reveal()
        environment = service_account_environment(self._environ, self._home, secret)
        limit = self._config.timeout if seconds is None else seconds
        try:
            return await self._runner.run([str(program), *argv], env=environment, stdin=stdin, seconds=limit)
        except HelperEnded as error:
            error.retry_after = PASSING
            raise

    def _now(self) -> float:
        return self._clock.now().elapsed
