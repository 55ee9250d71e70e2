"""1Password through the `op` program and the desktop app: one prompt, as few calls as can be.

Rules of this file:
1. All references are read by one `op inject`. A prompt storm is the worst fault there is: a failure that concerns
   everything ends the read, and no call follows it.
2. Only when 1Password answered, and named references that it cannot resolve, is the batch repeated without them: at
   most `MAX_ROUNDS` times. As the last resort each item is read alone, once.
3. Nothing calls `op` but `read` and `probe`; there is no timer here.
"""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING

from tokenbroker.errors import SecretNotFound, VaultError, VaultUnavailable
from tokenbroker.model import Secret
from tokenbroker.vaults.op_errors import garbled, general_error, judge, lacks_command
from tokenbroker.vaults.op_item import fields_of, pick_field
from tokenbroker.vaults.op_program import find_op, op_environment
from tokenbroker.vaults.op_reference import OpReference, parse_reference
from tokenbroker.vaults.op_runner import OpRunner
from tokenbroker.vaults.op_template import GarbledOutput, build_template, parse_filled

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from tokenbroker.config import VaultConfig
    from tokenbroker.model import RateLimit, SecretRef
    from tokenbroker.vaults.op_errors import Completed

MAX_ROUNDS = 4  # batches after the first, each without the references that made the one before fail
PROBE_TIMEOUT = 10.0  # seconds for `op --version`; 7.5 have been seen under launchd (contract 1.8)

Answers = dict["SecretRef", "Secret | VaultError"]

log = logging.getLogger(__name__)


class OpVault:
    """The `Vault` port over `op`. Several vaults may exist; each has its own terminal session."""

    def __init__(
        self,
        config: VaultConfig,
        *,
        environ: Mapping[str, str],
        home: Path,
        runner: OpRunner | None = None,
        nonce: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        """Start nothing and look for nothing yet; `environ` is the daemon's, of which `op` gets an allow-list."""
        self._config = config
        self._environ = environ
        self._home = home
        self._runner = runner or OpRunner()
        self._nonce = nonce

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
        answers: Answers = {}
        waiting: list[OpReference] = []
        for ref in dict.fromkeys(refs):
            parsed = parse_reference(ref)
            if parsed is None:
                answers[ref] = SecretNotFound(
                    f"{ref}: not a reference that `op` can read", hint="write it as `op://VAULT/ITEM/FIELD`"
                )
            else:
                waiting.append(parsed)
        rounds = 0
        while waiting and rounds <= MAX_ROUNDS:
            found = await self._inject(waiting, fresh=fresh)
            if not found:
                break
            answers |= found
            waiting = [one for one in waiting if one.ref not in found]
            rounds += 1
        if waiting:
            answers |= await self._each_item(waiting, fresh=fresh)
        return answers

    async def probe(self) -> str:
        """Return the version of `op`. Never prompts; for `broker doctor`.

        Raises `VaultNotInstalled`, or `VaultUnavailable` when it does not say.
        """
        done = await self._op(["--version"], seconds=PROBE_TIMEOUT)
        if done.timed_out:
            raise VaultUnavailable(
                f"`op --version` did not answer within {PROBE_TIMEOUT:g} s", hint="run `op --version` in a terminal"
            )
        if done.failed:
            raise general_error(done)
        version = done.stdout.decode(errors="replace").strip()
        if not version or not version.replace(".", "").replace("-", "").isalnum():
            raise garbled()
        return version

    async def close(self) -> None:
        """End the helper process and its session. May be called twice; a later read starts anew."""
        await self._runner.close()

    async def _inject(self, asked: Sequence[OpReference], *, fresh: bool) -> Answers:
        """Read all of `asked` in one call; return all values, or only the errors of those that made it fail."""
        refs = [one.ref for one in asked]
        nonce = self._nonce()
        done = await self._op(["inject", *_cache(fresh)], stdin=build_template(refs, nonce))
        if lacks_command(done):
            return {}  # an `op` or a stand-in without it: item by item, then
        failed = judge(done, asked)
        if failed is not None:
            return dict(failed)
        try:
            values = parse_filled(done.stdout, refs, nonce)
        except GarbledOutput:
            raise garbled() from None
        return {ref: _secret(ref, value) for ref, value in values.items()}

    async def _each_item(self, asked: Sequence[OpReference], *, fresh: bool) -> Answers:
        """Read item after item: the last resort, when `op` does not say which reference is wrong or has no `inject`."""
        items: dict[tuple[str, str], list[OpReference]] = {}
        for one in asked:
            items.setdefault(one.item_key, []).append(one)
        log.warning("Reading 1Password items one by one, as op did not read them at once: %d", len(items))
        answers: Answers = {}
        for group in items.values():
            answers |= await self._item(group, fresh=fresh)
        return answers

    async def _item(self, group: Sequence[OpReference], *, fresh: bool) -> Answers:
        first = group[0]
        argv = ["item", "get", first.item, "--vault", first.vault, "--format", "json", *_cache(fresh)]
        done = await self._op(argv)
        failed = judge(done, group)
        if failed is not None:
            # One item was asked for, so whatever is wrong with it is wrong for all of its references.
            return {one.ref: failed.get(one.ref) or _unreadable(one.ref) for one in group}
        try:
            fields = fields_of(done.stdout)
        except GarbledOutput:
            raise garbled() from None
        return {one.ref: pick_field(fields, one) for one in group}

    async def _op(self, argv: Sequence[str], *, stdin: bytes | None = None, seconds: float | None = None) -> Completed:
        program = find_op(self._config.op, self._environ, self._home)
        account = ["--account", self._config.account] if self._config.account else []
        return await self._runner.run(
            [str(program), *argv, *account],
            env=op_environment(self._environ, self._home),
            stdin=stdin,
            seconds=self._config.prompt_timeout if seconds is None else seconds,
        )


def _cache(fresh: bool) -> list[str]:  # noqa: FBT001  # the one fact this is about
    return ["--cache=false"] if fresh else []


def _secret(ref: SecretRef, value: str | None) -> Secret | VaultError:
    return _unreadable(ref) if value is None else Secret(value)


def _unreadable(ref: SecretRef) -> VaultError:
    return SecretNotFound(
        f"{ref}: 1Password has nothing readable under this reference", hint=f'look at it with `op read "{ref}"`'
    )
