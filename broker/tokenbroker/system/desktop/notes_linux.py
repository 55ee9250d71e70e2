"""The `Announcer` port on Linux: org.freedesktop.Notifications (Desktop Notifications Specification 1.2).

The connection stays open while a note is shown: GNOME takes down the notes of programs that have left the bus.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tokenbroker.system.desktop.dbus import Bus, BusError, connect, session_bus
from tokenbroker.system.desktop.notes import LONGEST_TEXT, LONGEST_TITLE, plain

if TYPE_CHECKING:
    from collections.abc import Mapping

NOTIFICATIONS: Final = "org.freedesktop.Notifications"
PATH: Final = "/org/freedesktop/Notifications"
EXPIRES_MS: Final = 120_000  # longer than any prompt waits: a note that nobody withdrew goes by itself
START: Final = 15.0  # seconds; the bus may have to start the service first
FAREWELL: Final = 1.0  # seconds that `close` gives to the withdrawal
_HINTS: Final = {"urgency": ("y", 1), "transient": ("b", True)}  # normal, and not to be kept in a list

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Note:
    """One announcement; two with equal words are still two."""

    title: str
    text: str


class LinuxAnnouncer:
    """Shows one note at a time. A task of its own speaks to the service, while there is something to say."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Use the session bus that `environ` names."""
        self._address = session_bus(environ)
        self._wanted: Note | None = None
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._complained = False

    def announce(self, title: str, text: str) -> None:
        """Show it, in place of the one before. Does not block and does not raise."""
        self._wanted = Note(plain(title, LONGEST_TITLE), plain(text, LONGEST_TEXT))
        self._changed.set()
        if self._address and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._speak(self._address), name="announcer")

    def withdraw(self) -> None:
        """Take it away, if it is still there."""
        self._wanted = None
        self._changed.set()

    async def close(self) -> None:
        """Withdraw, within a second, and let go of the bus. May be called twice."""
        self.withdraw()
        task, self._task = self._task, None
        if task is not None:
            await asyncio.wait([task], timeout=FAREWELL)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _speak(self, address: str) -> None:
        try:
            bus = await connect(address, on_lost=self._changed.set)
            try:
                await self._follow(bus)
            finally:
                bus.close()
        except BusError as error:
            if not self._complained:
                self._complained = True
                logger.info("Notes cannot be shown why=%s", error)

    async def _follow(self, bus: Bus) -> None:
        """Make the screen show what is wanted, until nothing is."""
        shown: Note | None = None
        number = 0
        while shown is not None or self._wanted is not None:
            self._changed.clear()
            wanted = self._wanted
            if wanted is None:
                await bus.call(NOTIFICATIONS, PATH, NOTIFICATIONS, "CloseNotification", number, takes="u")
                number = 0
            elif wanted is not shown:
                number = await _notify(bus, number, wanted)
            shown = wanted
            if shown is not None and shown is self._wanted:
                await self._changed.wait()


async def _notify(bus: Bus, replaces: int, note: Note) -> int:
    """Show `note` and return its number. Raises `BusError`."""
    body = html.escape(note.text, quote=False)  # servers that know markup take it as such
    (number,) = await bus.call(
        NOTIFICATIONS, PATH, NOTIFICATIONS, "Notify",
        "tokenbroker", replaces, "", note.title, body, [], _HINTS, EXPIRES_MS,
        takes="susssasa{sv}i", gives="u", patience=START,
    )  # fmt: skip
    return int(number)
