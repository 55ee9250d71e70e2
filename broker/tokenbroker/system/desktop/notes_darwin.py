"""The `Announcer` port on macOS: `display notification` of AppleScript, by osascript(1).

The words reach the script as arguments of its `run` handler and are never part of its source. AppleScript cannot take
a note away again; macOS does so after a few seconds. Which program it names as the sender is up to macOS.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from tokenbroker.system.desktop.notes import LONGEST_TEXT, LONGEST_TITLE, plain

if TYPE_CHECKING:
    from collections.abc import Mapping

OSASCRIPT: Final = "/usr/bin/osascript"
TIMEOUT: Final = 10.0  # seconds
# The first argument is a word of ours, so that no title can be taken for an option.
SCRIPT: Final = (
    "on run argv",
    "display notification (item 3 of argv) with title (item 2 of argv)",
    "end run",
)
NAME: Final = "tokenbroker"
_PASSED: Final = ("HOME", "USER", "LANG", "__CF_USER_TEXT_ENCODING", "TMPDIR")


class DarwinAnnouncer:
    """Shows notes, each in place of one that is still on its way."""

    def __init__(self, environ: Mapping[str, str], *, osascript: str = OSASCRIPT) -> None:
        """Run the program at `osascript`."""
        self._program = osascript
        self._environ = {name: environ[name] for name in _PASSED if name in environ}
        self._task: asyncio.Task[None] | None = None

    def announce(self, title: str, text: str) -> None:
        """Show it. Does not block and does not raise."""
        if self._task is not None:
            self._task.cancel()
        words = (plain(title, LONGEST_TITLE), plain(text, LONGEST_TEXT))
        self._task = asyncio.create_task(self._show(*words), name="announcer")

    def withdraw(self) -> None:
        """Do nothing: it goes by itself."""

    async def close(self) -> None:
        """End what is on its way. May be called twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _show(self, title: str, text: str) -> None:
        script = [part for line in SCRIPT for part in ("-e", line)]
        nowhere = asyncio.subprocess.DEVNULL
        with contextlib.suppress(OSError):
            process = await asyncio.create_subprocess_exec(
                self._program, *script, NAME, title, text,
                env=self._environ, stdin=nowhere, stdout=nowhere, stderr=nowhere,
            )  # fmt: skip
            try:
                async with asyncio.timeout(TIMEOUT):
                    await process.wait()
            except TimeoutError:
                pass
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
