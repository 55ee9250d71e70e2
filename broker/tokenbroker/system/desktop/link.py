"""A connection to a bus that is made again when it is lost, and listeners that hear only whom they mean to hear.

Any program may send any signal on a bus. What it cannot choose is the sender: the bus writes that itself, and tells
with NameOwnerChanged who owns a service's name. So a signal counts only if it comes from the present owner.
Signals are handled where they are read; what needs an answer of a service is done in turn for each service (`Turn`),
so that a program that does not answer holds up nothing but what it has to say itself.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Final, Protocol

from tokenbroker.system.desktop.dbus import BUS, BUS_PATH, Bus, BusError, BusLost, Signal, connect

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    Job = Callable[[Bus], Awaitable[None]]

START: Final = 5.0  # seconds that `start` waits at most
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
        """Handle a signal of `service` at once; return what remains to be done in turn, after what came before.

        A job that equals one that waits already is done once, in the place of the first.
        """
        ...


class Turn:
    """What is to be done for one service, one thing after the other; equal things wait only once."""

    def __init__(self, bus: Bus, service: str, listener: Listener) -> None:
        """Do it on `bus`."""
        self._bus = bus
        self.service = service
        self.listener = listener
        self.owner: str | None = None
        """The unique name of who owns the service, empty if nobody does; `None`: not known yet."""
        self._arrival: Job = functools.partial(listener.arrived, service=service)
        self._jobs: dict[Job, None] = {}
        self.task: asyncio.Task[None] | None = None
        """What does it; `None` when nothing is to be done."""

    def add(self, job: Job) -> None:
        """Have `job` done, unless an equal one waits."""
        self._jobs.setdefault(job)
        if self.task is None:
            self.task = asyncio.create_task(self._work(), name=f"turn of {self.service}")

    def is_owned(self, owner: str, *, before: str) -> None:
        """Note the owner, and who was it before (each may be empty)."""
        self.owner = owner
        if before:
            self.listener.left(self.service)
        if owner:
            self.add(self._arrival)

    def hear(self, signal: Signal) -> None:
        """Hand it to the listener if it is of the owner."""
        if self.owner and signal.sender == self.owner:
            job = self.listener.heard(self.service, signal)
            if job is not None:
                self.add(job)

    async def _work(self) -> None:
        while self._jobs:
            job = next(iter(self._jobs))
            del self._jobs[job]
            try:
                await job(self._bus)
            except BusError:
                pass  # if the bus is lost, the link hears of it
            except Exception as error:  # noqa: BLE001  # a fault in handling one event must not end the following of others
                _report(error)
        self.task = None


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
        self._turns: dict[str, Turn] = {}
        self._task: asyncio.Task[None] | None = None
        self._introduced = False
        self.problem: str | None = None
        """Why nothing can be heard now; `None`: nothing is in the way."""
        self.startable: frozenset[str] = frozenset()
        """Names that the bus can start a service for, as it was at the last connection."""

    @property
    def present(self) -> frozenset[str]:
        """Return the services that are on the bus now."""
        return frozenset(service for service, turn in self._turns.items() if turn.owner)

    async def start(self) -> str | None:
        """Connect, and return once all listeners know of their services, or with the reason why there is no bus.

        It returns after `START` at the latest: a service may take its time. It goes on trying until `close` in any
        case. With nobody to listen it connects nothing.
        """
        if not self._listeners:
            return None
        first: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._keep(first), name=f"bus {self._address}")
        self._task.add_done_callback(lambda _task: _tell(first, "closed"))  # who waits is not forgotten
        await asyncio.wait([first], timeout=START)
        if not (first.done() or self._introduced):
            self.problem = f"the bus at {self._address} does not answer"
        _tell(first, self.problem)
        return first.result()

    async def close(self) -> None:
        """Hang up. May be called twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])  # unlike awaiting it, this hides no cancellation of who calls

    async def _keep(self, first: asyncio.Future[str | None]) -> None:
        pause = FIRST_PAUSE
        while True:
            lost = asyncio.Event()
            try:
                bus = await connect(self._address, on_signal=self._on_signal, on_lost=lost.set)
                try:
                    await self._introduce(bus)
                    pause = FIRST_PAUSE
                    await self._settled()
                    _tell(first, None)
                    await lost.wait()
                    self.problem = f"the bus at {self._address} was lost, and is tried again"
                finally:
                    await self._leave(bus)
            except BusError as error:
                self.problem = str(error)
            except Exception as error:  # noqa: BLE001  # as in Turn
                self.problem = "a fault of the broker"
                _report(error)
            _tell(first, self.problem)
            await self._sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _introduce(self, bus: Bus) -> None:
        """Subscribe, find the owners of names, and have the listeners look at them."""
        turns = [Turn(bus, service, listener) for listener in self._listeners for service in listener.services]
        self._turns = {turn.service: turn for turn in turns}
        for turn in turns:
            await bus.listen(sender=BUS, interface=BUS, member="NameOwnerChanged", arg0=turn.service)
        for listener in self._listeners:
            for rule in listener.rules:
                await bus.listen(**rule)
        for turn in turns:
            owner = await _owner(bus, turn.service)
            if turn.owner is None:  # a change that the bus told of meanwhile is the newer truth
                turn.is_owned(owner, before="")
        (startable,) = await bus.call(BUS, BUS_PATH, BUS, "ListActivatableNames", gives="as")
        self.startable = frozenset(startable)
        self._introduced, self.problem = True, None

    async def _settled(self) -> None:
        """Return when nothing is left to do."""
        while tasks := self._tasks():
            await asyncio.wait(tasks)

    async def _leave(self, bus: Bus) -> None:
        """Hang up; what was under way ends."""
        tasks, self._turns = self._tasks(), {}
        for task in tasks:
            task.cancel()
        bus.close()
        try:
            if tasks:
                await asyncio.wait(tasks)
        finally:
            for listener in self._listeners:
                listener.lost()

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [turn.task for turn in self._turns.values() if turn.task is not None]

    def _on_signal(self, signal: Signal) -> None:
        if signal.sender != BUS:
            for turn in self._turns.values():
                turn.hear(signal)
        elif signal.member == "NameOwnerChanged" and signal.signature == "sss":
            service, old, new = signal.body
            if service in self._turns:
                self._turns[service].is_owned(new, before=old)


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


def _report(error: Exception) -> None:
    context = {"message": "following the desktop broke off", "exception": error}
    asyncio.get_running_loop().call_exception_handler(context)
