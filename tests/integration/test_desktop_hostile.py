"""Programs on the session bus that own names which are not theirs, do not answer, or answer for others."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from jeepney import DBusAddress, HeaderFields, MessageType, new_method_return, new_signal
from jeepney.bus_messages import message_bus

from tests.standins import desktop_bus
from tests.standins.desktop_bus import PrivateBus
from tests.standins.desktop_services import GNOME, Logind, ScreenSaver, SecretService
from tests.standins.linux_desk import ME, SCREEN, VAULT, Desk
from tokenbroker.model import DesktopEvent
from tokenbroker.system.desktop import link
from tokenbroker.system.desktop.dbus import BUS, BUS_PATH, Bus, BusError, Signal, connect
from tokenbroker.system.desktop.linux import LinuxDesktopEvents
from tokenbroker.system.desktop.session import SAVERS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from jeepney import Message

pytestmark = pytest.mark.skipif(desktop_bus.NEEDED, reason=desktop_bus.REASON)

MATE = "org.mate.ScreenSaver"


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    made = Desk()
    yield made
    await made.close()


@pytest.fixture
def hung(desk: Desk) -> list[ScreenSaver]:
    """A program that owns all savers' names and never answers."""
    savers = [desk.add(ScreenSaver(desk.session.address, name)) for name in SAVERS]
    for saver in savers:
        saver.mute.set()
    return savers


def open_files() -> set[str]:
    """Return the sockets and pipes of this process."""
    links = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing
            links.add(str(entry.readlink()))
    return {name for name in links if name.startswith(("socket:", "pipe:"))}


async def test_a_saver_that_lies_hides_no_lock(desk: Desk) -> None:
    """It owns an unused name and says "active" once; then the screen is locked, by every other way."""
    logind = desk.logind("c1")
    liar, saver = desk.add(ScreenSaver(desk.session.address, MATE)), desk.add(ScreenSaver(desk.session.address))
    await desk.watch(SCREEN)
    liar.become(active=True)
    assert await desk.event() is SCREEN
    saver.become(active=True)
    assert await desk.event() is SCREEN
    logind.hint("c1", locked=True)
    assert await desk.event() is SCREEN
    logind.lock("c1")
    assert await desk.event() is SCREEN


async def test_what_the_owner_before_said_hides_no_lock(desk: Desk) -> None:
    """The liar leaves, the real one takes the name, and locks."""
    liar = desk.add(ScreenSaver(desk.session.address, GNOME))
    await desk.watch(SCREEN)
    liar.become(active=True)
    assert await desk.event() is SCREEN
    liar.close()
    saver = desk.add(ScreenSaver(desk.session.address, GNOME))
    await saver.called("GetActive", answered=True)
    saver.become(active=True)
    assert await desk.event() is SCREEN


@pytest.mark.parametrize("newer", ["a signal", "another owner"])
async def test_an_answer_that_is_out_of_date_hides_no_lock(desk: Desk, newer: str) -> None:
    """The saver said "active" before it told of the end, or before it lost its name; this one is read later."""
    saver = desk.add(ScreenSaver(desk.session.address, GNOME))
    await desk.watch(SCREEN)
    turn = desk.turn(GNOME)
    saver.ready.clear()
    saver.active = True
    turn.add(lambda bus: turn.listener.arrived(bus, GNOME))
    await saver.called("GetActive", 2)
    if newer == "a signal":
        ended: tuple[bool, ...] = (False,)
        turn.hear(Signal(turn.owner or "", "/", GNOME, "ActiveChanged", "b", ended))
    else:
        turn.listener.left(GNOME)
    saver.ready.set()
    await desk.settle()
    assert desk.events == []
    saver.become(active=True)
    assert await desk.event() is SCREEN


async def test_savers_that_do_not_answer_hold_up_neither_the_beginning_nor_an_event(
    desk: Desk, hung: list[ScreenSaver], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are asked at the same time; locks of the screen and of the vault meanwhile are told at once."""
    monkeypatch.setattr(link, "START", 1.0)
    logind, keyring = desk.logind("c1"), desk.add(SecretService(desk.session.address))
    watching = asyncio.create_task(desk.watch(SCREEN, VAULT, secret_service=True))
    for saver in hung:
        await saver.called("GetActive")
    await keyring.called("Get", answered=True)
    await logind.called("Get", answered=True)
    hung[0].become(active=True)
    assert await desk.event() is SCREEN
    logind.lock("c1")
    assert await desk.event() is SCREEN
    assert not watching.done()
    async with asyncio.timeout(2):
        assert await watching == {}
    keyring.locked = {keyring.default}
    keyring.changed()
    assert await desk.event() is VAULT


@pytest.mark.parametrize("mute", [False, True], ids=["logind answers", "logind hangs"])
@pytest.mark.parametrize("way", ["close", "cancel"])
async def test_a_watch_that_waits_ends_at_once(
    desk: Desk, hung: list[ScreenSaver], way: str, mute: bool  # noqa: FBT001  # a case
) -> None:  # fmt: skip
    """The daemon stops, or cancels; no task, connection or descriptor is left."""
    await asyncio.to_thread(lambda: None)  # the loop's thread pool has its own
    logind = desk.logind("c1")
    if mute:
        logind.mute.set()
    before, files, tasks = desk.session.names(), open_files(), asyncio.all_tasks()
    watched = LinuxDesktopEvents(desk.environ, ME, secret_service=True)
    watching = asyncio.create_task(watched.watch(list(DesktopEvent), desk.events.append))
    for saver in hung:
        await saver.called("GetActive")
    await logind.called("Inhibit", answered=not mute)
    async with asyncio.timeout(1):
        if way == "close":
            await watched.close()
            await watching
        else:
            watching.cancel()
            with pytest.raises(asyncio.CancelledError):
                await watching
    assert asyncio.all_tasks() == tasks
    assert not await asyncio.to_thread(logind.held, within=5)
    assert open_files() - files <= {str(Path(f"/proc/self/fd/{fd}").readlink()) for fd in logind.inhibitors}
    assert set(desk.session.names()) == set(before)


async def test_a_name_that_changes_hands_all_the_time_is_one_job(desk: Desk) -> None:
    """Ten thousand owners that do not answer: one question is under way, and one more waits."""
    saver = desk.add(ScreenSaver(desk.session.address))
    await desk.watch(SCREEN)
    saver.mute.set()
    turn, (of_bus,) = desk.turn(GNOME), [one for one in desk.links() if GNOME in one.present]
    owner = turn.owner
    tasks = len(asyncio.all_tasks())
    for number in range(10_000):
        of_bus._on_signal(Signal(BUS, BUS_PATH, BUS, "NameOwnerChanged", "sss", (GNOME, "", f":7.{number}")))
        of_bus._on_signal(Signal(BUS, BUS_PATH, BUS, "NameOwnerChanged", "sss", (GNOME, f":7.{number}", owner)))
    await saver.called("GetActive", 2)
    of_bus._on_signal(Signal(BUS, BUS_PATH, BUS, "NameOwnerChanged", "sss", (GNOME, "", owner)))
    assert len(turn._jobs) == 1
    assert len(asyncio.all_tasks()) == tasks + 1
    assert len(await saver.called("GetActive", 2)) == 2


async def test_what_logind_tells_while_it_thinks_waits_once_for_each_session(desk: Desk) -> None:
    """Another user may lock a session of theirs as often as they like; ours is heard, and asked for once."""
    logind = desk.logind("c1", c2=4343)
    await desk.watch(SCREEN)
    logind.ready.clear()
    asked = len(await logind.called("Get"))
    for _ in range(50):
        logind.lock("c2")
    logind.lock("c1")
    desk.system.names()
    logind.ready.set()
    assert await desk.event() is SCREEN
    await desk.settle()
    assert len(await logind.called("Get")) <= asked + 3
    assert desk.events == [SCREEN]


class Wire:
    """A connection whose other end is the test, which can send what no bus would let through."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        ours.setblocking(False)  # noqa: FBT003  # the standard library's signature
        self.theirs.setblocking(False)  # noqa: FBT003  # the standard library's signature
        self.signals: list[Signal] = []
        self.bus = Bus(ours, fds=False, on_signal=self.signals.append, on_lost=lambda: None)

    def send(self, message: Message, *, sender: str, answers: int) -> None:
        message.header.fields[HeaderFields.sender] = sender
        message.header.fields[HeaderFields.reply_serial] = answers
        self.theirs.send(message.serialise(99))

    def close(self) -> None:
        self.bus.close()
        self.theirs.close()


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    made = Wire()
    yield made
    made.close()


def answer(owner: str) -> Message:
    """Return a method return that says `owner`."""
    return new_method_return(message_bus.GetId(), "s", (owner,))


def signal_of(owner: str) -> Message:
    return new_signal(DBusAddress("/x", interface="x.y"), "Z", "s", (owner,))


async def test_a_signal_answers_nothing(wire: Wire) -> None:
    """Whatever its header says, and even if the bus sent it; it is a signal."""
    call = asyncio.create_task(wire.bus.call(BUS, BUS_PATH, BUS, "GetId", gives="s"))
    await asyncio.sleep(0)
    wire.send(signal_of(":1.666"), sender=":1.666", answers=1)
    wire.send(signal_of(":1.666"), sender=BUS, answers=1)
    wire.send(answer("true"), sender=BUS, answers=1)
    assert await call == ("true",)
    assert [signal.sender for signal in wire.signals] == [":1.666", BUS]


async def test_an_answer_counts_only_from_whom_was_asked(wire: Wire) -> None:
    """A call to a name goes to its owner; another's reply with the right serial is nobody's."""
    call = asyncio.create_task(wire.bus.call(GNOME, "/x", GNOME, "Name", gives="s", start=False))
    await asyncio.sleep(0)
    wire.send(answer(":1.666"), sender=":1.666", answers=1)
    wire.send(answer(":1.5"), sender=BUS, answers=1)
    await wire_asked(wire)
    wire.send(answer("a lie"), sender=":1.666", answers=2)
    wire.send(answer("the truth"), sender=":1.5", answers=2)
    assert await call == ("the truth",)


async def wire_asked(wire: Wire) -> None:
    """Wait until the second call is on its way."""
    await asyncio.get_running_loop().sock_recv(wire.theirs, 4096)
    await asyncio.get_running_loop().sock_recv(wire.theirs, 4096)


@pytest.fixture
def private() -> Iterator[PrivateBus]:
    made = PrivateBus()
    yield made
    made.close()


async def test_on_a_real_bus_a_stranger_cannot_answer_for_logind(private: PrivateBus) -> None:
    """Its unicast signals come through, with all serials that may be waited for; logind's own answer counts."""
    logind = Logind(private.address)
    logind.ready.clear()
    bus = await connect(private.address)
    me = (await bus.call(BUS, BUS_PATH, BUS, "GetNameOwner", logind.name, takes="s", gives="s"))[0]
    calling = asyncio.create_task(bus.call(logind.name, "/x", "x.y", "Explode", gives="s"))
    await logind.called("Explode")
    with private.stranger() as stranger:
        for name in (name for name in private.names() if name.startswith(":") and name != me):
            for serial in range(1, 10):
                message = signal_of("a lie")
                message.header.fields[HeaderFields.destination] = name
                message.header.fields[HeaderFields.reply_serial] = serial
                assert message.header.message_type is MessageType.signal
                stranger.send(message)
        stranger.bus_proxy.GetId()
    logind.ready.set()
    with pytest.raises(BusError, match=r"^org\.freedesktop\.login1 refuses Explode: UnknownMethod$"):
        await calling
    bus.close()
    logind.close()
