"""A helper process of ours, seen from the daemon: kept between calls, one call at a time, bounded, cancellable.

Rules of this file:
1. The process is started at the first call and kept: what it is to 1Password is what the person has authorized.
2. Whatever goes wrong with it, no call is repeated: a second call may be a second prompt.
3. It gets the environment that it is given and nothing of the daemon's; requests and answers are frames on its pipes
   (`op_terminal`), so that nothing of them stands in its arguments.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import marshal
import os
import sys
from typing import TYPE_CHECKING, Any, TypeVar

from tokenbroker.errors import VaultUnavailable
from tokenbroker.vaults.op.terminal import HEADER, frame

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Callable, Mapping, Sequence

Answer = TypeVar("Answer")

log = logging.getLogger(__name__)


class HelperLost(Exception):
    """The helper ended before its answer, or was ended because the answer did not come; the next call starts anew."""

    def __init__(self, code: int | None, *, late: bool) -> None:
        """Keep its exit code, and whether its time was over."""
        super().__init__(code, late)
        self.code = code
        self.late = late


class Helper:
    """A program that answers requests with frames. Its owner says what the frames mean."""

    def __init__(
        self,
        program: Sequence[str],
        *,
        task: str,
        grace: float,
        env: Mapping[str, str] | None = None,
        before_kill: Callable[[int], None] = lambda _pid: None,
    ) -> None:
        """Start nothing yet. `program` is arguments to our interpreter; `task` says what it does, e.g. "runs `op`".

        `grace` is seconds between the end of its stdin and SIGKILL; `before_kill` gets its pid just before that.
        """
        self._program = tuple(program)
        self._task = task
        self._grace = grace
        self._env = dict(env or {})
        self._before_kill = before_kill
        self._lock = asyncio.Lock()
        self._process: Process | None = None
        self._lost = False
        self._life = 0  # how often it was ended

    @property
    def pid(self) -> int | None:
        """The process that runs, or the last one that ran; `None` before the first call and after `end`."""
        return None if self._process is None else self._process.pid

    async def wait(self) -> None:
        """Wait until the process has ended by itself."""
        if self._process is not None:
            await self._process.wait()

    async def call(
        self,
        request: dict[str, Any],
        take: Callable[[dict[str, Any]], Answer | None],
        *,
        seconds: float,
        patience: float,
        cancel: dict[str, Any] | None = None,
    ) -> Answer:
        """Send `request` and give each frame to `take` until that returns something, or raises.

        Raises `HelperLost` when the process ends, or when it has not answered within `seconds`; then it is ended.
        Raises `VaultUnavailable` when it cannot be started. A call that waits for another when `end` is called raises
        `HelperLost` too, and starts nothing. When cancelled, sends it `cancel` and waits
        `patience` seconds for the answer that is under way; if none comes the process is killed with what it holds.
        """
        life = self._life
        async with self._lock:
            self._refuse_after(life)
            process = await self._started()
            if life != self._life:  # ended while it was being started
                await self._end()
            self._refuse_after(life)
            _send(process, request)
            # A task of its own, so that cancelling the caller cannot cut a frame in two.
            answer = asyncio.create_task(_answer(process, take))
            answer.add_done_callback(_retrieve)
            try:
                async with asyncio.timeout(seconds):
                    return await asyncio.shield(answer)
            except asyncio.CancelledError:
                await self._abandon(process, answer, cancel, patience)
                raise
            except (TimeoutError, ConnectionError, asyncio.IncompleteReadError) as error:
                await self._end()
                self._lost = True
                await asyncio.wait([answer])
                raise HelperLost(process.returncode, late=isinstance(error, TimeoutError)) from None

    async def end(self) -> None:
        """End the process and what it runs. May be called twice; a later call starts a new one."""
        self._life += 1
        self._lost = False
        await self._end()

    def _refuse_after(self, life: int) -> None:
        if life != self._life:
            raise HelperLost(None, late=False)

    async def _started(self) -> Process:
        if self._process is not None and self._process.returncode is None:
            return self._process
        if self._lost or self._process is not None:
            log.warning("Restarting the helper that %s; 1Password will ask again", self._task.replace("`", ""))
            await self._end()
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", *self._program,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
                env=self._env, cwd="/", start_new_session=True,
            )  # fmt: skip
        except OSError as error:  # also when Python was upgraded under us, and our interpreter is gone
            raise VaultUnavailable(
                f"the helper process that {self._task} cannot be started: {os.strerror(error.errno or 0).lower()}",
                hint="restart the broker, then run `broker unlock`",
            ) from None
        self._lost = False
        return self._process

    async def _abandon(
        self, process: Process, answer: asyncio.Task[Any], cancel: dict[str, Any] | None, patience: float
    ) -> None:
        """Have what runs ended, and wait for it; if it does not end, end the process with it."""
        try:
            if cancel is not None:
                _send(process, cancel)
            await asyncio.wait([answer], timeout=patience)
        finally:
            if not answer.done():
                self._kill(process)
                await asyncio.wait([answer])
                await process.wait()

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            if process.stdin is not None:
                process.stdin.close()
            async with asyncio.timeout(self._grace):
                await process.wait()
        except TimeoutError:
            pass
        finally:
            self._kill(process)
        await process.wait()

    def _kill(self, process: Process) -> None:
        self._before_kill(process.pid)
        with contextlib.suppress(ProcessLookupError):
            process.kill()


async def _answer(process: Process, take: Callable[[dict[str, Any]], Answer | None]) -> Answer:
    """Read frames until the one that is the answer."""
    while True:
        answer = take(await _receive(process))
        if answer is not None:
            return answer


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Take note of how an answer ended: who gave up its call does not, and asyncio would log that with a traceback."""
    if not task.cancelled():
        task.exception()


def _send(process: Process, message: dict[str, Any]) -> None:
    assert process.stdin is not None  # noqa: S101  # for the type checker
    process.stdin.write(frame(message))


async def _receive(process: Process) -> dict[str, Any]:
    assert process.stdout is not None  # noqa: S101  # for the type checker
    (length,) = HEADER.unpack(await process.stdout.readexactly(HEADER.size))
    message: dict[str, Any] = marshal.loads(await process.stdout.readexactly(length))  # noqa: S302  # our own program's
    return message
