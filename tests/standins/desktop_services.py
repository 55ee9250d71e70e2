"""Stand-ins for what a Linux desktop has on its buses, as far as the broker talks to it.

logind: org.freedesktop.login1(5). Sessions come and go, paths are used again, other users have some too. Inhibitors
are pipes, as in the real one: whoever holds the writing end holds up the sleep.
"""

from __future__ import annotations

import itertools
import os
import select
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jeepney import HeaderFields, Message

from tests.standins.desktop_bus import Refuse, Service

if TYPE_CHECKING:
    from collections.abc import Collection

LOGIND = "org.freedesktop.login1"
MANAGER = "org.freedesktop.login1.Manager"
SESSION = "org.freedesktop.login1.Session"
LOGIND_PATH = "/org/freedesktop/login1"
PROPERTIES = "org.freedesktop.DBus.Properties"
GNOME = "org.gnome.ScreenSaver"
KDE = "org.freedesktop.ScreenSaver"
NOTIFICATIONS = "org.freedesktop.Notifications"
SECRETS = "org.freedesktop.secrets"
COLLECTION = "org.freedesktop.Secret.Collection"
UNKNOWN_OBJECT = "org.freedesktop.DBus.Error.UnknownObject"


@dataclass
class Session:
    """What logind knows of one."""

    uid: int
    locked: bool = False


class Logind(Service):
    """The login manager."""

    def __init__(self, address: str, sessions: dict[str, Session] | None = None, *, refuses: str | None = None) -> None:
        self.sessions = sessions or {}
        self.refuses = refuses
        """The D-Bus error with which `Inhibit` is refused; polkit's is AccessDenied."""
        self.inhibitors: list[int] = []
        self.words: list[tuple[Any, ...]] = []
        self._given: int | None = None
        super().__init__(address, LOGIND)

    @staticmethod
    def path(session: str) -> str:
        return f"{LOGIND_PATH}/session/{session}"

    def handle(self, interface: str, member: str, message: Message) -> tuple[str, tuple[Any, ...]]:
        if (interface, member) == (MANAGER, "Inhibit"):
            return self._inhibit(message.body)
        if (interface, member) == (MANAGER, "ListSessions"):
            listed = [(name, one.uid, "someone", "seat0", self.path(name)) for name, one in self.sessions.items()]
            return "a(susso)", (listed,)
        if (interface, member) == (PROPERTIES, "Get"):
            name = message.header.fields[HeaderFields.path].rpartition("/")[2]
            if name not in self.sessions:
                raise Refuse(UNKNOWN_OBJECT)
            session = self.sessions[name]
            values = {
                "User": ("(uo)", (session.uid, f"{LOGIND_PATH}/user/_{session.uid}")),
                "LockedHint": ("b", session.locked),
            }
            return "v", (values[message.body[1]],)
        return super().handle(interface, member, message)

    def _inhibit(self, words: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
        if self.refuses:
            raise Refuse(self.refuses)
        self.words.append(words)
        reading, self._given = os.pipe()
        self.inhibitors.append(reading)
        return "h", (self._given,)

    def sent(self) -> None:
        if self._given is not None:
            os.close(self._given)
            self._given = None

    def held(self, *, within: float = 0) -> bool:
        """Tell whether anyone holds up the sleep still, after waiting up to `within` seconds for that to end."""
        for reading in self.inhibitors:
            poll = select.poll()
            poll.register(reading, 0)  # POLLHUP comes unasked
            if not poll.poll(int(within * 1000)):
                return True
        return False

    def prepare_for_sleep(self, *, begins: bool) -> None:
        self.emit(LOGIND_PATH, MANAGER, "PrepareForSleep", "b", (begins,))

    def lock(self, session: str) -> None:
        self.emit(self.path(session), SESSION, "Lock")

    def unlock(self, session: str) -> None:
        self.emit(self.path(session), SESSION, "Unlock")

    def hint(self, session: str, *, locked: bool) -> None:
        """Set LockedHint, as desktops do once the screen is locked, or open."""
        self.sessions[session].locked = locked
        changed = {"LockedHint": ("b", locked), "IdleHint": ("b", False)}
        self.emit(self.path(session), PROPERTIES, "PropertiesChanged", "sa{sv}as", (SESSION, changed, []))

    def end(self, session: str) -> None:
        """Remove a session."""
        del self.sessions[session]
        self.emit(LOGIND_PATH, MANAGER, "SessionRemoved", "so", (session, self.path(session)))

    def close(self) -> None:
        super().close()
        for reading in self.inhibitors:
            os.close(reading)
        self.inhibitors = []


class ScreenSaver(Service):
    """A locker. GNOME's sends from one path, KDE's from two."""

    def __init__(self, address: str, name: str = GNOME, *, active: bool = False) -> None:
        self.active = active
        self._paths = ("/ScreenSaver", "/org/freedesktop/ScreenSaver") if name == KDE else ("/org/gnome/ScreenSaver",)
        super().__init__(address, name)

    def handle(self, interface: str, member: str, message: Message) -> tuple[str, tuple[Any, ...]]:
        if member == "GetActive":
            return "b", (self.active,)
        return super().handle(interface, member, message)

    def become(self, *, active: bool) -> None:
        self.active = active
        for path in self._paths:
            self.emit(path, self.name, "ActiveChanged", "b", (active,))


class Notifications(Service):
    """A notification daemon."""

    def __init__(self, address: str) -> None:
        self._numbers = itertools.count(7)
        super().__init__(address, NOTIFICATIONS)

    def handle(self, interface: str, member: str, message: Message) -> tuple[str, tuple[Any, ...]]:
        if member == "Notify":
            return "u", (message.body[1] or next(self._numbers),)
        if member == "CloseNotification":
            return "", ()
        return super().handle(interface, member, message)


class SecretService(Service):
    """A keyring that says of a lock no more than that a collection changed, as some do."""

    def __init__(self, address: str, *, locked: bool = False, default: str = "/org/freedesktop/secrets/c/a") -> None:
        self.default = default
        self.locked: Collection[str] = {default} if locked else set()
        super().__init__(address, SECRETS)

    def handle(self, interface: str, member: str, message: Message) -> tuple[str, tuple[Any, ...]]:
        if member == "ReadAlias":
            return "o", (self.default,)
        if member == "Get":
            return "v", (("b", message.header.fields[HeaderFields.path] in self.locked),)
        return super().handle(interface, member, message)

    def changed(self, collection: str | None = None) -> None:
        path = collection or self.default
        self.emit("/org/freedesktop/secrets", "org.freedesktop.Secret.Service", "CollectionChanged", "o", (path,))
