"""The daemon's end of the helper process (`op_terminal.py`): one `op` call at a time, bounded, cancellable.

Rules of this file:
1. The helper is started at the first call and kept: its terminal session is what 1Password authorizes.
2. Whatever goes wrong with the helper, no call is repeated: a second call may be a second prompt.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import marshal
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from tokenbroker.errors import VaultUnavailable
from tokenbroker.vaults import op_terminal
from tokenbroker.vaults.op_errors import UNLOCK, Completed

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Mapping, Sequence

OUTPUT_LIMIT = 16 * 1024 * 1024  # bytes of stdout and stderr together; secrets of 1 MiB have been met
GRACE = 1.5  # seconds between SIGTERM and SIGKILL
_SLACK = 5.0  # seconds that the helper itself may be late before it is killed with all it holds

log = logging.getLogger(__name__)


class OpRunner:
    """Runs `op` in a terminal session that lasts."""

    def __init__(self, *, grace: float = GRACE, output_limit: int = OUTPUT_LIMIT) -> None:
        """Start nothing yet."""
        self._grace = grace
        self._output_limit = output_limit
        self._lock = asyncio.Lock()
        self._helper: Process | None = None
        self._group: int | None = None

    async def run(
        self, argv: Sequence[str], *, env: Mapping[str, str], stdin: bytes | None = None, seconds: float
    ) -> Completed:
        """Run one program to its end, at most `seconds` and the grace; calls wait for one another.

        Raises `VaultUnavailable` when the program cannot be started or the helper fails. When cancelled, ends the
        program and all of its process group before it lets go; the helper and its session stay.
        """
        request = {
            "argv": list(argv), "env": dict(env), "timeout": seconds, "grace": self._grace,
            "stdin": stdin, "limit": self._output_limit,
        }  # fmt: skip
        async with self._lock:
            helper = await self._started()
            return await self._call(helper, request, seconds + self._grace + _SLACK)

    async def close(self) -> None:
        """End the helper and what it runs. May be called twice; a later call starts a new one."""
        await self._end_helper()

    async def _started(self) -> Process:
        if self._helper is not None and self._helper.returncode is None:
            return self._helper
        if self._helper is not None:
            log.warning("Restarting the helper that runs op; 1Password will ask again, as its session is new")
            await self._end_helper()
        try:
            self._helper = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", op_terminal.__file__,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
                env={}, cwd="/", start_new_session=True,
            )  # fmt: skip
        except OSError as error:  # also when Python was upgraded under us, and our interpreter is gone
            raise VaultUnavailable(
                f"the helper process that runs `op` cannot be started: {os.strerror(error.errno or 0).lower()}",
                hint=f"restart the broker, then {UNLOCK}",
            ) from None
        return self._helper

    async def _call(self, helper: Process, request: dict[str, Any], limit: float) -> Completed:
        _send(helper, request)
        # A task of its own, so that cancelling the caller cannot cut a frame in two.
        answer = asyncio.create_task(self._answer(helper))
        answer.add_done_callback(_retrieve)
        try:
            async with asyncio.timeout(limit):
                return await asyncio.shield(answer)
        except asyncio.CancelledError:
            await self._abandon(helper, answer)
            raise
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
            await self._end_helper()
            await asyncio.wait([answer])
            raise _helper_failed(helper.returncode) from None

    async def _answer(self, helper: Process) -> Completed:
        """Read frames until the one that says how the call ended."""
        while True:
            message = await _receive(helper)
            if "refused" in message:
                reason = os.strerror(message["refused"] or 0).lower()
                raise VaultUnavailable(f"`op` cannot be started: {reason}", hint="run `broker doctor`")
            if "group" in message:
                self._group = message["group"]
                continue
            self._group = None
            return Completed(
                message["code"], message["stdout"], message["stderr"],
                timed_out=message["timed_out"], too_big=message["too_big"],
            )  # fmt: skip

    async def _abandon(self, helper: Process, answer: asyncio.Task[Completed]) -> None:
        """Have the running child ended, and wait for it; if it does not end, end the helper with it."""
        try:
            _send(helper, {"cancel": True})
            await asyncio.wait([answer], timeout=self._grace + _SLACK)
        finally:
            if not answer.done():
                self._kill_all(helper)
                await asyncio.wait([answer])
                await helper.wait()

    async def _end_helper(self) -> None:
        helper, self._helper = self._helper, None
        if helper is None:
            return
        try:
            if helper.stdin is not None:
                helper.stdin.close()
            async with asyncio.timeout(self._grace):
                await helper.wait()
        except TimeoutError:
            pass
        finally:
            self._kill_all(helper)
        await helper.wait()

    def _kill_all(self, helper: Process) -> None:
        """Kill the helper, and first the child's group if it is still of the helper's session (pids are reused)."""
        group, self._group = self._group, None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if group is not None and os.getsid(group) == helper.pid:
                os.killpg(group, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            helper.kill()


def _retrieve(task: asyncio.Task[Completed]) -> None:
    """Take note of how an answer ended: who gave up its call does not, and asyncio would log that with a traceback."""
    if not task.cancelled():
        task.exception()


def _send(helper: Process, message: dict[str, Any]) -> None:
    assert helper.stdin is not None  # noqa: S101  # for the type checker
    helper.stdin.write(op_terminal.frame(message))


async def _receive(helper: Process) -> dict[str, Any]:
    assert helper.stdout is not None  # noqa: S101  # for the type checker
    (length,) = op_terminal.HEADER.unpack(await helper.stdout.readexactly(op_terminal.HEADER.size))
    message: dict[str, Any] = marshal.loads(await helper.stdout.readexactly(length))  # noqa: S302  # our own program's
    return message


def _helper_failed(code: int | None) -> VaultUnavailable:
    if code == op_terminal.EXIT_NO_TERMINAL:
        return VaultUnavailable(
            "no pseudo-terminal can be made for `op`",
            hint=f"check that /dev/ptmx and /dev/pts are there, then {UNLOCK}",
        )
    return VaultUnavailable("the helper process that runs `op` ended before its answer", hint=f"{UNLOCK} again")
