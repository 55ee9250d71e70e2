"""The `DesktopEvents` port on macOS: the daemon's end of the helper process (`darwin_watch.py`).

Nothing here was run on a Mac yet: it is written to Apple's documentation, and tested with libraries that keep to it.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Final

from tokenbroker.model import DesktopEvent
from tokenbroker.system.desktop import darwin_watch

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Awaitable, Callable, Collection, Mapping

FRAMEWORKS: Final = "/System/Library/Frameworks"
LIBRARIES: Final = (f"{FRAMEWORKS}/IOKit.framework/IOKit", f"{FRAMEWORKS}/CoreFoundation.framework/CoreFoundation")
START: Final = 10.0  # seconds for the helper to register
FIRST_PAUSE: Final = 1.0  # seconds before a helper that ended is started again; doubled up to
LONGEST_PAUSE: Final = 60.0
_FAREWELL: Final = 1.0  # seconds for the helper to end by itself

ONE_PASSWORD: Final = "1Password tells nobody when it locks"  # noqa: S105  # no secret
KEYCHAIN: Final = "macOS tells only its own programs when a keychain locks"
FOLLOWED: Final = (DesktopEvent.SLEEP, DesktopEvent.SCREEN_LOCK)


class HelperFailed(Exception):
    """The helper could not register; the text says why."""


class DarwinDesktopEvents:
    """Follows sleep and the locked screen of the session that the daemon runs in."""

    def __init__(
        self,
        *,
        keychain: bool,
        libraries: tuple[str, str] = LIBRARIES,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`keychain`: the vault is the system's keyring. `libraries` are paths of IOKit and Core Foundation."""
        self._no_vault = KEYCHAIN if keychain else ONE_PASSWORD
        self._libraries = libraries
        self._sleep = sleep
        self._events: frozenset[DesktopEvent] = frozenset()
        self._problem: str | None = None
        """Why nothing can be noticed now; `None`: nothing is in the way."""
        self._task: asyncio.Task[None] | None = None

    async def watch(
        self, events: Collection[DesktopEvent], on_event: Callable[[DesktopEvent], None]
    ) -> Mapping[DesktopEvent, str]:
        """Follow `events`; ends what an earlier call began. See the port."""
        await self.close()
        followed = [event for event in FOLLOWED if event in events]
        if followed:
            first: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._keep(followed, on_event, first), name="desktop events")
            self._task.add_done_callback(lambda _task: _tell(first, "closed"))  # who waits is not forgotten
            try:
                why = await first
            except asyncio.CancelledError:
                await self.close()
                raise
            if why is not None:
                self._problem = why
        self._events = frozenset(events)
        return self.missing

    @property
    def missing(self) -> Mapping[DesktopEvent, str]:
        """Return what cannot be noticed now, and why."""
        never: dict[DesktopEvent, str] = {event: self._no_vault for event in self._events if event not in FOLLOWED}
        now = {event: self._problem for event in FOLLOWED if event in self._events and self._problem is not None}
        return never | now

    async def close(self) -> None:
        """Follow nothing more; the helper ends. May be called twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])  # unlike awaiting it, this hides no cancellation of who calls

    async def _keep(
        self,
        events: Collection[DesktopEvent],
        on_event: Callable[[DesktopEvent], None],
        first: asyncio.Future[str | None],
    ) -> None:
        """Run a helper, and another when it ends."""
        pause = FIRST_PAUSE
        while True:
            try:
                process = await self._start(events)
            except (OSError, HelperFailed) as error:
                self._problem = str(error)
                _tell(first, self._problem)
            else:
                pause = FIRST_PAUSE
                self._problem = None
                _tell(first, None)
                try:
                    await _follow(process, on_event)
                finally:
                    self._problem = "the helper for the system's notifications ended, and is started again"
                    await _end(process)
            await self._sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _start(self, events: Collection[DesktopEvent]) -> Process:
        """Start a helper that has registered. Raises `HelperFailed` or OSError."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", darwin_watch.__file__, *self._libraries, *events,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, env={},
        )  # fmt: skip
        try:
            async with asyncio.timeout(START):
                said = await _line(process)
        except TimeoutError:
            await _end(process)
            raise HelperFailed("the system's notifications do not answer") from None
        except BaseException:
            await _end(process)
            raise
        if said != "ready":
            await _end(process)
            raise HelperFailed(said.removeprefix("failed ") or "the helper for the system's notifications ended")
        return process


def _tell(first: asyncio.Future[str | None], reason: str | None) -> None:
    if not first.done():
        first.set_result(reason)


async def _line(process: Process) -> str:
    """Return the next line, empty when the helper has ended."""
    assert process.stdout is not None  # noqa: S101  # it is a pipe
    return (await process.stdout.readline()).decode(errors="replace").strip()


async def _follow(process: Process, on_event: Callable[[DesktopEvent], None]) -> None:
    """Hand events on until the helper ends; answer each, for it holds up the sleep."""
    assert process.stdin is not None  # noqa: S101  # it is a pipe
    while said := await _line(process):
        try:
            on_event(DesktopEvent(said.partition(" ")[0]))
        except Exception as error:  # noqa: BLE001  # a fault in handling one event must not end the following of others
            context = {"message": f"handling {said} broke off", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)
        process.stdin.write(f"{said}\n".encode())


async def _end(process: Process) -> None:
    """Hang up, and see the helper end."""
    assert process.stdin is not None  # noqa: S101  # it is a pipe
    process.stdin.close()
    try:
        async with asyncio.timeout(_FAREWELL):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
