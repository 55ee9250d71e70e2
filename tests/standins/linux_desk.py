"""Two private buses as a Linux desktop has them, and what the broker makes of them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, TypeVar

from tests.standins.desktop_bus import PrivateBus, Service
from tests.standins.desktop_services import Logind, Session
from tokenbroker.model import DesktopEvent
from tokenbroker.system.desktop.dbus import BUS, BUS_PATH, Bus
from tokenbroker.system.desktop.linux import LinuxDesktopEvents

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tokenbroker.system.desktop.link import Link, Turn

SLEEP, SCREEN, VAULT = DesktopEvent.SLEEP, DesktopEvent.SCREEN_LOCK, DesktopEvent.VAULT_LOCK
ME, OTHER = 4242, 4343

S = TypeVar("S", bound=Service)


class Pause:
    """Waits before a lost bus is tried again until the test says so."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.over = asyncio.Event()
        self.begun = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        self.begun.set()
        await self.over.wait()


class Desk:
    """Two buses, and what the broker makes of them."""

    def __init__(self) -> None:
        self.system, self.session = PrivateBus(), PrivateBus()
        self.environ = {
            "DBUS_SYSTEM_BUS_ADDRESS": self.system.address,
            "DBUS_SESSION_BUS_ADDRESS": self.session.address,
        }
        self.cleanup = contextlib.ExitStack()
        self.pause = Pause()
        self.events: list[DesktopEvent] = []
        self.on_event: Callable[[], None] = lambda: None
        self._news: asyncio.Queue[DesktopEvent] = asyncio.Queue()
        self._watched: list[LinuxDesktopEvents] = []

    def logind(self, *mine: str, **others: int) -> Logind:
        """Start logind with sessions of this user, and of others by name; `s2` for the session `2`."""
        sessions = {name: Session(ME) for name in mine}
        sessions |= {name: Session(uid) for name, uid in others.items()}
        return self.add(Logind(self.system.address, sessions))

    def add(self, service: S) -> S:
        self.cleanup.callback(service.close)
        return service

    async def watch(self, *events: DesktopEvent, secret_service: bool = False) -> Mapping[DesktopEvent, str]:
        watched = LinuxDesktopEvents(self.environ, ME, secret_service=secret_service, sleep=self.pause)
        self._watched.append(watched)
        return await watched.watch(events, self._take)

    def missing(self) -> set[DesktopEvent]:
        """Return what the adapter says that it cannot notice now."""
        return set(self._watched[-1].missing)

    def _take(self, event: DesktopEvent) -> None:
        self.on_event()
        self.events.append(event)
        self._news.put_nowait(event)

    async def event(self) -> DesktopEvent:
        async with asyncio.timeout(10):
            return await self._news.get()

    async def settle(self) -> None:
        """Return when all that was sent so far has been handled."""
        turns = [turn for link in self.links() for turn in link._turns.values()]
        for turn in (turn for turn in turns if turn.owner):
            for _ in range(2):  # what is read by the first may leave work, which is done before the second
                done = asyncio.Event()

                async def fence(bus: Bus, done: asyncio.Event = done) -> None:
                    await bus.call(BUS, BUS_PATH, BUS, "GetId", gives="s")
                    done.set()

                turn.add(fence)
                async with asyncio.timeout(10):
                    await done.wait()

    def links(self) -> list[Link]:
        return [link for watched in self._watched for link in watched._links]

    def turn(self, service: str) -> Turn:
        """Return the turn of a service that is present."""
        (turn,) = (link._turns[service] for link in self.links() if service in link.present)
        return turn

    async def close(self) -> None:
        for watched in self._watched:
            await watched.close()
            await watched.close()
        self.cleanup.close()
        self.system.close()
        self.session.close()


async def released(logind: Logind) -> bool:
    return not await asyncio.to_thread(logind.held, within=5)
