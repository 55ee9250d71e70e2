"""logind on the system bus (org.freedesktop.login1(5)): the machine's sleep, and the screens of one user's sessions.

Rules of this file:
1. The machine sleeps after the broker forgot, not before: a delay inhibitor is held, and given back only when the
   event was handled. logind waits for it InhibitDelayMaxSec at most, 5 seconds by default.
2. The inhibitor is held only while its signal can be heard; otherwise it would only make each sleep late.
3. A session counts if logind says it is this user's, asked each time: names of sessions are used again. What is told
   of it until logind has answered waits together, each thing once: others can have logind tell as much as they like.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tokenbroker.model import DesktopEvent
from tokenbroker.system.desktop.dbus import NO_OWNER, PROPERTIES, Bus, BusError, Signal, connect

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from tokenbroker.system.desktop.link import Job
    from tokenbroker.system.desktop.screen import Screen

LOGIND: Final = "org.freedesktop.login1"
MANAGER: Final = "org.freedesktop.login1.Manager"
SESSION: Final = "org.freedesktop.login1.Session"
PATH: Final = "/org/freedesktop/login1"

_GONE: Final = (NO_OWNER, "org.freedesktop.DBus.Error.NoReply", "org.freedesktop.DBus.Error.ServiceUnknown")
_SLEEP_RULES: Final = ({"sender": LOGIND, "interface": MANAGER, "member": "PrepareForSleep"},)
_SCREEN_RULES: Final = (
    {"sender": LOGIND, "interface": SESSION, "member": "Lock"},
    {"sender": LOGIND, "interface": SESSION, "member": "Unlock"},
    {"sender": LOGIND, "interface": MANAGER, "member": "SessionRemoved"},
    {"sender": LOGIND, "interface": PROPERTIES, "member": "PropertiesChanged", "arg0": SESSION},
)


ABSENT = "logind is not on the system bus"


class Logind:
    """The `Listener` to logind."""

    services = (LOGIND,)

    def __init__(
        self,
        address: str,
        uid: int,
        events: Collection[DesktopEvent],
        *,
        on_sleep: Callable[[], None],
        screen: Screen,
    ) -> None:
        """Listen for SLEEP and SCREEN_LOCK if they are among `events`. `address` is that of the system bus."""
        self._address = address
        self._uid = uid
        self._sleep = DesktopEvent.SLEEP in events
        self._screens = DesktopEvent.SCREEN_LOCK in events
        self._on_sleep = on_sleep
        self._screen = screen
        self._inhibitor: int | None = None
        self._going_to_sleep = False
        self._told: dict[str, dict[Callable[[], None], None]] = {}
        """What was told of sessions by path, in order, until it is known whose they are."""
        self.refusal: str | None = ABSENT
        """Why sleep is not delayed; `None` when it is."""
        self.rules: tuple[Mapping[str, str], ...] = (
            *(_SLEEP_RULES if self._sleep else ()), *(_SCREEN_RULES if self._screens else ())
        )  # fmt: skip

    async def arrived(self, bus: Bus, service: str) -> None:
        """Take the inhibitor, and look how the screens are."""
        del service  # there is only one
        self._going_to_sleep = False
        self.refusal = f"{LOGIND} does not answer"
        if self._sleep:
            await self._inhibit(bus)
        if self._screens:
            await self._look(bus)

    def left(self, service: str) -> None:
        """Give the inhibitor back (rule 2); what is known of the screen is old."""
        del service
        self.refusal = ABSENT
        self._release()
        self._screen.is_open()

    def lost(self) -> None:
        """Give the inhibitor back; what is known of the screen is old."""
        self._release()
        self._told.clear()
        self._screen.is_open()

    def heard(self, service: str, signal: Signal) -> Job | None:
        """Handle sleep at once, and sessions in turn."""
        del service
        told = (signal.interface, signal.member, signal.signature)
        if told == (MANAGER, "PrepareForSleep", "b"):
            return self._prepare_for_sleep(begins=signal.body[0])
        if told == (MANAGER, "SessionRemoved", "so"):
            return Removed(self._screen, signal.body[1])
        if told == (SESSION, "Lock", ""):
            return self._if_ours(signal.path, self._screen.requested)
        if told == (SESSION, "Unlock", ""):
            return self._if_ours(signal.path, self._screen.is_open)
        if told == (PROPERTIES, "PropertiesChanged", "sa{sv}as"):
            return self._hint(signal)
        return None

    def _prepare_for_sleep(self, *, begins: bool) -> Job | None:
        self._going_to_sleep = begins
        if not begins:
            return self._inhibit
        try:
            self._on_sleep()
        finally:
            self._release()
        return None

    async def _inhibit(self, _bus: Bus) -> None:
        """Take a new inhibitor, on a connection of its own: only there may descriptors arrive."""
        try:
            inhibitor = await take_inhibitor(self._address)
        except BusError as error:
            self.refusal = str(error)
            return
        self._release()
        self.refusal = None
        self._inhibitor = inhibitor
        if self._going_to_sleep:  # the signal came first, so nobody would give it back
            self._release()

    def _release(self) -> None:
        inhibitor, self._inhibitor = self._inhibitor, None
        if inhibitor is not None:
            os.close(inhibitor)

    def _hint(self, signal: Signal) -> Job | None:
        interface, changed, _ = signal.body
        kind, locked = changed.get("LockedHint", ("", None))
        if interface != SESSION or kind != "b":
            return None
        note = Locked(self._screen, signal.path) if locked else self._screen.is_open
        return self._if_ours(signal.path, note)

    def _if_ours(self, session: str, note: Callable[[], None]) -> Job:
        told = self._told.setdefault(session, {})
        told.pop(note, None)  # told again: what counts is the newest order
        told[note] = None
        return Whose(self, session)

    async def sort_out(self, bus: Bus, session: str) -> None:
        """Note what was told of `session` if it is this user's."""
        told = self._told.pop(session, {})  # what is told from here on needs a new question
        if await self._is_ours(bus, session):
            for note in told:
                note()

    async def _is_ours(self, bus: Bus, session: str) -> bool:
        """Tell whether `session` is this user's; if logind does not answer, assume so: forgetting is the safe side."""
        try:
            uid, _ = await bus.get(LOGIND, session, SESSION, "User", "(uo)")
        except BusError as error:
            return not error.name or error.name in _GONE
        return bool(uid == self._uid)

    async def _look(self, bus: Bus) -> None:
        """Note screens that are locked already: perhaps it happened while nobody listened."""
        (sessions,) = await bus.call(LOGIND, PATH, MANAGER, "ListSessions", gives="a(susso)", start=False)
        for _id, uid, _user, _seat, path in sessions:
            with contextlib.suppress(BusError):  # it may have ended
                if uid == self._uid and await bus.get(LOGIND, path, SESSION, "LockedHint", "b"):
                    self._screen.found_locked(path)


@dataclass(frozen=True)
class Whose:
    """The `Job` of asking whose a session is."""

    logind: Logind
    session: str

    async def __call__(self, bus: Bus) -> None:
        """Ask, and note what was told."""
        await self.logind.sort_out(bus, self.session)


@dataclass(frozen=True)
class Removed:
    """The `Job` of forgetting a session; in turn, so that no older answer comes after it."""

    screen: Screen
    session: str

    async def __call__(self, bus: Bus) -> None:
        """Forget it."""
        del bus
        self.screen.forget(self.session)


@dataclass(frozen=True)
class Locked:
    """A note that a session is locked; equal to another of the same session."""

    screen: Screen
    session: str

    def __call__(self) -> None:
        """Note it."""
        self.screen.is_locked(self.session)


async def take_inhibitor(address: str) -> int:
    """Return a descriptor that delays sleep until it is closed. Raises `BusError`."""
    bus = await connect(address, fds=True)
    try:
        words = ("sleep", "tokenbroker", "forgets secrets", "delay")
        (descriptor,) = await bus.call(LOGIND, PATH, MANAGER, "Inhibit", *words, takes="ssss", gives="h", start=False)
        return int(descriptor.to_raw_fd())
    finally:
        bus.close()
