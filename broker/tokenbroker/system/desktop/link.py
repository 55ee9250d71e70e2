"""A connection to a bus that is made again when it is lost, and listeners that hear only whom they mean to hear.

Any program may send any signal on a bus. What it cannot choose is the sender: the bus writes that itself, and tells
with NameOwnerChanged who owns a service's name. So a signal counts only if it comes from the present owner.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final, Protocol

from tokenbroker.system.desktop.dbus import BUS, BUS_PATH, Bus, BusError, BusLost, Signal, connect

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    Job = Callable[[Bus], Awaitable[None]]

FIRST_PAUSE: Final = 1.0  # seconds before a lost connection is made again; doubled up to
LONGEST_PAUSE: Final = 60.0


class Listener(Protocol):
    """What listens to services on one bus. All is called on the event loop, one thing at a time."""

    @property
    def services(self) -> tuple[str, ...]:
        """Return their well-known names."""
        ...

    @property
    def rules(self) -> tuple[Mapping[str, str], ...]:
        """Return match rules (keys as in D-Bus); each names one of the services as `sender`."""
        ...

    async def arrived(self, bus: Bus, service: str) -> None:
        """Take note that `service` is there: at each new connection, and when it comes or is replaced."""
        ...

    def left(self, service: str) -> None:
        """Take note that `service` has left the bus."""
        ...

    def lost(self) -> None:
        """Take note that the bus is lost."""
        ...

    def heard(self, service: str, signal: Signal) -> Job | None:
        """Handle a signal of `service` at once; return what remains to be done in turn, after what came before."""
        ...


class Link:
    """Keeps listeners connected to the bus at `address`."""

    def __init__(
        self,
        address: str,
        listeners: Sequence[Listener],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Connect nothing yet. `sleep` waits before the next attempt."""
        self._address = address
        self._listeners = listeners
        self._sleep = sleep
        self._owners: dict[str, str] = {}
        self._jobs: asyncio.Queue[Job | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self.startable: frozenset[str] = frozenset()
        """Names that the bus can start a service for, as it was at the last connection."""

    @property
    def present(self) -> frozenset[str]:
        """Return the services that are on the bus now."""
        return frozenset(service for service, owner in self._owners.items() if owner)

    async def start(self) -> str | None:
        """Connect, and return once all listeners know of their services, or with the reason why there is no bus.

        Either way it goes on trying until `close`. With nobody to listen it connects nothing.
        """
        if not self._listeners:
            return None
        first: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._keep(first), name=f"bus {self._address}")
        self._task.add_done_callback(lambda _task: _tell(first, "closed"))  # who waits is not forgotten
        return await first

    async def close(self) -> None:
        """Hang up. May be called twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _keep(self, first: asyncio.Future[str | None]) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                bus = await self._open()
                try:
                    await self._introduce(bus)
                    _tell(first, None)
                    pause = FIRST_PAUSE
                    await self._work(bus)
                finally:
                    bus.close()
            except BusError as error:
                _tell(first, str(error))
            except Exception as error:  # noqa: BLE001  # a fault in handling one event must not end the following of others
                _tell(first, "a fault of the broker")
                context = {"message": "following the desktop broke off", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)
            finally:
                self._owners = {}
                for listener in self._listeners:
                    listener.lost()
            await self._sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _open(self) -> Bus:
        jobs: asyncio.Queue[Job | None] = asyncio.Queue()
        self._jobs = jobs
        return await connect(self._address, on_signal=self._on_signal, on_lost=lambda: jobs.put_nowait(None))

    async def _introduce(self, bus: Bus) -> None:
        """Subscribe, find the owners of names, and tell the listeners of them."""
        services = [service for listener in self._listeners for service in listener.services]
        for service in services:
            await bus.listen(sender=BUS, interface=BUS, member="NameOwnerChanged", arg0=service)
        for listener in self._listeners:
            for rule in listener.rules:
                await bus.listen(**rule)
        for service in services:
            owner = await _owner(bus, service)
            # A change that the bus told of meanwhile is the newer truth.
            if self._owners.setdefault(service, owner):
                await self._arrived(bus, service)
        (startable,) = await bus.call(BUS, BUS_PATH, BUS, "ListActivatableNames", gives="as")
        self.startable = frozenset(startable)

    async def _arrived(self, bus: Bus, service: str) -> None:
        for listener in self._listeners:
            if service in listener.services:
                with contextlib.suppress(BusError):  # if the bus is lost, `_work` hears of it
                    await listener.arrived(bus, service)

    async def _work(self, bus: Bus) -> None:
        """Do the listeners' jobs in turn. Raises BusLost at the end."""
        while (job := await self._jobs.get()) is not None:
            with contextlib.suppress(BusError):
                await job(bus)
        raise BusLost("the bus hung up")

    def _on_signal(self, signal: Signal) -> None:
        if signal.sender == BUS:
            if signal.member == "NameOwnerChanged" and signal.signature == "sss":
                self._changed_hands(*signal.body)
            return
        for listener in self._listeners:
            for service in listener.services:
                if signal.sender == self._owners.get(service):
                    job = listener.heard(service, signal)
                    if job is not None:
                        self._jobs.put_nowait(job)

    def _changed_hands(self, service: str, old: str, new: str) -> None:
        self._owners[service] = new
        for listener in self._listeners:
            if service in listener.services and old:
                listener.left(service)
        if new:
            self._jobs.put_nowait(lambda bus: self._arrived(bus, service))


async def _owner(bus: Bus, service: str) -> str:
    """Return the unique name of the owner, empty if there is none."""
    try:
        (owner,) = await bus.call(BUS, BUS_PATH, BUS, "GetNameOwner", service, takes="s", gives="s")
    except BusLost:
        raise
    except BusError:
        return ""
    return str(owner)


def _tell(first: asyncio.Future[str | None], reason: str | None) -> None:
    if not first.done():
        first.set_result(reason)
