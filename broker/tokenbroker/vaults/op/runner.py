"""The daemon's end of the helper process in which `op` runs (`op/terminal.py`): what its frames mean.

The process and its bounds are `helper.py`'s. Its terminal session is what 1Password authorizes, so it is kept
until a lock.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any

from tokenbroker.errors import VaultUnavailable
from tokenbroker.vaults.helper import Helper, HelperLost
from tokenbroker.vaults.op import terminal as op_terminal
from tokenbroker.vaults.op.errors import UNLOCK, Completed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OUTPUT_LIMIT = 16 * 1024 * 1024  # bytes of stdout; secrets of 1 MiB have been met
GRACE = 1.5  # seconds between SIGTERM and SIGKILL
_SLACK = 5.0  # seconds that the helper itself may be late before it is killed with all it holds


class HelperEnded(VaultUnavailable):
    """The helper process was ended, or ended by itself, before its answer; the next call starts a new one."""


class OpRunner:
    """Runs `op` in a terminal session that lasts."""

    def __init__(self, *, grace: float = GRACE, output_limit: int = OUTPUT_LIMIT, terminal: bool = True) -> None:
        """Start nothing yet. Without `terminal` the session has none; it lasts all the same."""
        self._grace = grace
        self._output_limit = output_limit
        self._group: int | None = None
        program = ["-S", op_terminal.__file__, *([] if terminal else [op_terminal.PLAIN])]
        self._helper = Helper(program, task="runs `op`", grace=grace, before_kill=self._kill_group)

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
        slack = self._grace + _SLACK
        try:
            return await self._helper.call(
                request, self._take, seconds=seconds + slack, cancel={"cancel": True}, patience=slack
            )
        except HelperLost as lost:
            raise _explained(lost) from None

    async def close(self) -> None:
        """End the helper and what it runs, and refuse what waits. May be called twice; a later call starts anew."""
        await self._helper.end()

    def _take(self, message: dict[str, Any]) -> Completed | None:
        """Read one frame: how the call ended, or that it began."""
        if "refused" in message:
            reason = os.strerror(message["refused"] or 0).lower()
            raise VaultUnavailable(f"`op` cannot be started: {reason}", hint="run `broker doctor`")
        self._group = message.get("group")
        if self._group is not None:
            return None
        return Completed(
            message["code"], message["stdout"], message["stderr"],
            timed_out=message["timed_out"], too_big=message["too_big"],
        )  # fmt: skip

    def _kill_group(self, helper: int) -> None:
        """Kill the child's group if it is still of the helper's session (pids are reused)."""
        group, self._group = self._group, None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if group is not None and os.getsid(group) == helper:
                os.killpg(group, signal.SIGKILL)


def _explained(lost: HelperLost) -> VaultUnavailable:
    if lost.code == op_terminal.EXIT_NO_TERMINAL:
        return VaultUnavailable(
            "no pseudo-terminal can be made for `op`",
            hint=f"check that /dev/ptmx and /dev/pts are there, then {UNLOCK}",
        )
    return HelperEnded("the helper process that runs `op` ended before its answer", hint=f"{UNLOCK} again")
