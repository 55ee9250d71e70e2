"""What tells on the user's own bus: screen savers, and the Secret Service (its specification 0.2, freedesktop.org)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tokenbroker.system.desktop.dbus import PROPERTIES, Bus, Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tokenbroker.system.desktop.link import Job
    from tokenbroker.system.desktop.screen import Screen

# The service's name is its interface's too, and with slashes its object's. KDE has the first; lockers of other
# desktops are the same program under other names.
SAVERS: Final = (
    "org.freedesktop.ScreenSaver",
    "org.gnome.ScreenSaver",
    "org.cinnamon.ScreenSaver",
    "org.mate.ScreenSaver",
    "org.xfce.ScreenSaver",
)
SECRETS: Final = "org.freedesktop.secrets"
SECRETS_PATH: Final = "/org/freedesktop/secrets"
SERVICE: Final = "org.freedesktop.Secret.Service"
COLLECTION: Final = "org.freedesktop.Secret.Collection"
NO_OBJECT: Final = "/"  # what ReadAlias says when there is none


class Savers:
    """The `Listener` to screen savers."""

    services = SAVERS
    rules: tuple[Mapping[str, str], ...] = tuple(
        {"sender": name, "interface": name, "member": "ActiveChanged"} for name in SAVERS
    )

    def __init__(self, screen: Screen) -> None:
        """Tell `screen`."""
        self._screen = screen
        self._asked: set[str] = set()
        """Savers whose answer would be the newest that is known."""

    async def arrived(self, bus: Bus, service: str) -> None:
        """Look whether it is active."""
        path = "/" + service.replace(".", "/")
        self._asked.add(service)
        (active,) = await bus.call(service, path, service, "GetActive", gives="b", start=False)
        if active and service in self._asked:
            self._screen.found_locked(service)

    def left(self, service: str) -> None:
        """Forget what the program said that had the name, also what it is still being asked."""
        self._asked.discard(service)
        self._screen.forget(service)

    def lost(self) -> None:
        """Forget what they said: on the next connection the names may be others'."""
        for service in self.services:
            self.left(service)

    def heard(self, service: str, signal: Signal) -> Job | None:
        """Note that it became active, or ended."""
        if (signal.interface, signal.member, signal.signature) == (service, "ActiveChanged", "b"):
            self._asked.discard(service)
            if signal.body[0]:
                self._screen.is_locked(service)
            else:
                self._screen.is_open()
        return None


class Keyring:
    """The `Listener` to the Secret Service: its default collection, where the secrets are.

    What a signal says is not used: collections come and go, the alias can move, and services differ in what they
    send. Each makes it ask how the default collection is now.
    """

    services = (SECRETS,)
    rules: tuple[Mapping[str, str], ...] = (
        {"sender": SECRETS, "interface": PROPERTIES, "member": "PropertiesChanged", "arg0": COLLECTION},
        {"sender": SECRETS, "interface": SERVICE, "member": "CollectionChanged"},
        {"sender": SECRETS, "interface": SERVICE, "member": "CollectionDeleted"},
    )

    def __init__(self, on_lock: Callable[[], None]) -> None:
        """Call `on_lock` when the collection is locked, having been open before."""
        self._on_lock = on_lock
        self._open = False

    async def arrived(self, bus: Bus, service: str) -> None:
        """Ask how it is."""
        del service
        await self._ask(bus)

    def left(self, service: str) -> None:
        """Note that nothing can be read any more: its keys went with it."""
        del service
        self._note(is_open=False)

    def lost(self) -> None:
        """Keep what is known: the service may be well."""

    def heard(self, service: str, signal: Signal) -> Job | None:
        """Have it asked how it is, once for all signals that wait."""
        del service, signal
        return self._ask

    async def _ask(self, bus: Bus) -> None:
        (path,) = await bus.call(
            SECRETS, SECRETS_PATH, SERVICE, "ReadAlias", "default", takes="s", gives="o", start=False
        )  # fmt: skip
        locked = path == NO_OBJECT or await bus.get(SECRETS, path, COLLECTION, "Locked", "b")
        self._note(is_open=not locked)

    def _note(self, *, is_open: bool) -> None:
        was_open, self._open = self._open, is_open
        if was_open and not is_open:
            self._on_lock()
