"""One connection to a message bus: what becomes of it when the other side is slow, strange or gone."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from tests.standins import desktop_bus
from tests.standins.desktop_bus import PrivateBus
from tests.standins.desktop_services import GNOME, Logind, ScreenSaver
from tokenbroker.system.desktop.dbus import BUS, BUS_PATH, Bus, BusError, BusLost, connect
from tokenbroker.system.desktop.logind import take_inhibitor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(desktop_bus.NEEDED, reason=desktop_bus.REASON)

PATH = "/org/gnome/ScreenSaver"


@pytest.fixture
def private() -> Iterator[PrivateBus]:
    made = PrivateBus()
    yield made
    made.close()


@pytest.fixture
def saver(private: PrivateBus) -> Iterator[ScreenSaver]:
    made = ScreenSaver(private.address)
    yield made
    made.close()


@pytest.fixture
async def bus(private: PrivateBus) -> AsyncIterator[Bus]:
    made = await connect(private.address)
    yield made
    made.close()
    made.close()


async def alive(bus: Bus) -> bool:
    return len(await bus.call(BUS, BUS_PATH, BUS, "GetId", gives="s")) == 1


async def test_an_answer_that_comes_too_late_is_nobodys(bus: Bus, saver: ScreenSaver) -> None:
    """The call was given up; the connection lives on."""
    saver.ready.clear()
    with pytest.raises(BusError, match=r"^org\.gnome\.ScreenSaver does not answer$"):
        await bus.call(GNOME, PATH, GNOME, "GetActive", gives="b", patience=0.05)
    saver.ready.set()
    await saver.called("GetActive", answered=True)
    assert await bus.call(GNOME, PATH, GNOME, "GetActive", gives="b") == (False,)


async def test_a_call_that_was_cancelled_leaves_the_connection_whole(bus: Bus, saver: ScreenSaver) -> None:
    """Its answer may still be on its way."""
    saver.ready.clear()
    calling = asyncio.create_task(bus.call(GNOME, PATH, GNOME, "GetActive", gives="b"))
    await saver.called("GetActive")
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    saver.ready.set()
    await saver.called("GetActive", answered=True)
    assert await alive(bus)


async def test_an_answer_of_another_type_is_refused(bus: Bus, saver: ScreenSaver) -> None:
    """A peer may be of another version, or somebody else."""
    with pytest.raises(BusError, match=r"^org\.gnome\.ScreenSaver answers GetActive strangely$"):
        await bus.call(GNOME, PATH, GNOME, "GetActive", gives="u")


async def test_a_refusal_has_its_name(bus: Bus, saver: ScreenSaver) -> None:
    """What the other side says beside the name is not repeated."""
    with pytest.raises(BusError, match=r"^org\.gnome\.ScreenSaver refuses Explode: UnknownMethod$") as caught:
        await bus.call(GNOME, PATH, GNOME, "Explode")
    assert caught.value.name == "org.freedesktop.DBus.Error.UnknownMethod"


async def test_looking_does_not_start_a_service(bus: Bus, private: PrivateBus, tmp_path: Path) -> None:
    """It may have left the bus between two looks."""
    trace = tmp_path / "started"
    private.make_startable(GNOME, f"/bin/sh -c 'touch {trace}; exit 1'")
    with pytest.raises(BusError, match=r"^org\.gnome\.ScreenSaver is not on the bus$"):
        await bus.call(GNOME, PATH, GNOME, "GetActive", gives="b", start=False)
    assert not trace.exists()


async def test_a_bus_that_hangs_up_ends_what_waits(private: PrivateBus) -> None:
    """Once, and for those that call later too."""
    lost: list[None] = []
    bus = await connect(private.address, on_lost=lambda: lost.append(None))
    service = ScreenSaver(private.address)
    service.mute.set()
    calling = asyncio.create_task(bus.call(GNOME, PATH, GNOME, "GetActive", gives="b"))
    await service.called("GetActive")
    private.stop()
    with pytest.raises(BusLost):
        await calling
    with pytest.raises(BusLost):
        await bus.call(GNOME, PATH, GNOME, "GetActive", gives="b")
    service.close()
    assert lost == [None]


async def test_what_is_no_bus_is_said(tmp_path: Path) -> None:
    """Something else listens there."""

    async def babble(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 welcome\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(babble, tmp_path / "s")
    with pytest.raises(BusLost, match=r"cannot be reached$"):
        await connect(f"unix:path={tmp_path}/s")
    server.close()
    await server.wait_closed()


async def test_children_do_not_inherit_the_inhibitor(private: PrivateBus) -> None:
    """A helper that kept it would hold up each sleep for as long as it lives."""
    logind = Logind(private.address)
    inhibitor = await take_inhibitor(private.address)
    assert not os.get_inheritable(inhibitor)
    assert logind.held()
    os.close(inhibitor)
    assert not logind.held(within=5)
    logind.close()
