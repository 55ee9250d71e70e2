"""Notes on the screen: a real bus with a stand-in of the notification service, and a stand-in of osascript."""

from __future__ import annotations

import ast
import asyncio
import logging
import sys
from typing import TYPE_CHECKING

import pytest

from tests.standins import desktop_bus
from tests.standins.desktop_bus import PrivateBus
from tests.standins.desktop_services import NOTIFICATIONS, Notifications
from tokenbroker.system.desktop import announcer, notes_darwin
from tokenbroker.system.desktop.notes import plain
from tokenbroker.system.desktop.notes_darwin import DarwinAnnouncer
from tokenbroker.system.desktop.notes_linux import EXPIRES_MS, LinuxAnnouncer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

needs_bus = pytest.mark.skipif(desktop_bus.NEEDED, reason=desktop_bus.REASON)


@pytest.fixture
def bus() -> Iterator[PrivateBus]:
    made = PrivateBus()
    yield made
    made.close()


@pytest.fixture
async def notes(bus: PrivateBus) -> AsyncIterator[LinuxAnnouncer]:
    made = announcer("linux", {"DBUS_SESSION_BUS_ADDRESS": bus.address})
    assert isinstance(made, LinuxAnnouncer)
    yield made
    await made.close()
    await made.close()


@pytest.fixture
def service(bus: PrivateBus) -> Iterator[Notifications]:
    made = Notifications(bus.address)
    yield made
    made.close()


async def gone(notes: LinuxAnnouncer) -> None:
    """Wait until nothing is left to say."""
    async with asyncio.timeout(10):
        assert notes._task is not None
        await asyncio.wait([notes._task])


@needs_bus
async def test_a_note_is_shown_replaced_and_taken_away(
    notes: LinuxAnnouncer, bus: PrivateBus, service: Notifications
) -> None:
    """The second takes the place of the first; afterwards the broker has left the bus."""
    before = bus.names()
    notes.announce("1Password will ask", "claude wants <b>search</b> & more")
    (first,) = await service.called("Notify")
    hints = {"urgency": ("y", 1), "transient": ("b", True)}
    shown = "claude wants &lt;b&gt;search&lt;/b&gt; &amp; more"
    assert first == ("tokenbroker", 0, "", "1Password will ask", shown, [], hints, EXPIRES_MS)
    notes.announce("1Password will ask", "two programs wait")
    assert (await service.called("Notify", 2))[1][1:5] == (7, "", "1Password will ask", "two programs wait")
    notes.withdraw()
    assert await service.called("CloseNotification") == [(7,)]
    await gone(notes)
    assert bus.names() == before
    notes.announce("again", "")
    assert (await service.called("Notify", 3))[2][1] == 0


@needs_bus
async def test_close_takes_the_note_away(notes: LinuxAnnouncer, service: Notifications) -> None:
    """The daemon ends; its note says nothing true any more."""
    notes.announce("title", "text")
    await service.called("Notify")
    await notes.close()
    assert await service.called("CloseNotification") == [(7,)]


@needs_bus
async def test_a_slow_service_holds_nobody_up(notes: LinuxAnnouncer, service: Notifications) -> None:
    """Of what is announced while it thinks, only the newest is shown."""
    service.ready.clear()
    notes.announce("first", "")
    await service.called("Notify")
    for title in ("second", "third", "fourth"):
        notes.announce(title, "")
    service.ready.set()
    await service.called("Notify", 2)
    notes.withdraw()
    await gone(notes)
    assert [body[3] for body in await service.called("Notify")] == ["first", "fourth"]


@needs_bus
async def test_what_was_withdrawn_before_it_was_shown_goes_at_once(
    notes: LinuxAnnouncer, service: Notifications
) -> None:
    """A prompt that is answered quickly."""
    service.ready.clear()
    notes.announce("first", "")
    await service.called("Notify")
    notes.withdraw()
    service.ready.set()
    assert await service.called("CloseNotification") == [(7,)]


@needs_bus
async def test_a_dead_service_does_not_hold_up_the_end(notes: LinuxAnnouncer, service: Notifications) -> None:
    """It has taken the call and never answers; `close` waits a second for it."""
    service.mute.set()
    notes.announce("title", "")
    await service.called("Notify")
    async with asyncio.timeout(5):
        await notes.close()


@needs_bus
async def test_without_a_service_nothing_happens_and_it_is_said_once(
    notes: LinuxAnnouncer, caplog: pytest.LogCaptureFixture
) -> None:
    """A server, or a desktop without notes."""
    caplog.set_level(logging.DEBUG, logger="tokenbroker")
    for _ in range(3):
        notes.announce("title", "text")
        await gone(notes)
    assert [record.getMessage() for record in caplog.records] == [
        "Notes cannot be shown why=org.freedesktop.Notifications is not on the bus"
    ]


@needs_bus
async def test_a_service_that_the_bus_can_start_is_started(
    notes: LinuxAnnouncer, bus: PrivateBus, tmp_path: Path
) -> None:
    """As dunst and mako are. This one fails, and the bus says so."""
    trace = tmp_path / "started"
    bus.make_startable(NOTIFICATIONS, f"/bin/sh -c 'touch {trace}; exit 1'")
    notes.announce("title", "text")
    await gone(notes)
    assert trace.exists()


@pytest.mark.parametrize("environ", [{}, {"XDG_RUNTIME_DIR": "/nonexistent"}], ids=["no address", "no bus"])
async def test_without_a_bus_nothing_happens(environ: dict[str, str]) -> None:
    """Cron, a container."""
    notes = LinuxAnnouncer(environ)
    notes.announce("title", "text")
    notes.withdraw()
    await notes.close()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("a\nb\x1b[1m\0c\ud800", "a b [1m c ", id="controls"),
        pytest.param("käse — ✓", "käse — ✓", id="letters"),
        pytest.param("x" * 20, "x" * 9 + "…", id="long"),
        pytest.param("x" * 10, "x" * 10, id="just fits"),
    ],
)
def test_notes_hold_plain_words(text: str, shown: str) -> None:
    """Names come from outside; nothing in them may end the line, or the bus's patience with invalid text."""
    assert plain(text, 10) == shown


@pytest.fixture
def osascript(tmp_path: Path) -> Path:
    """A program that keeps its arguments and environment, one a line, and then does what the file `then` says."""
    program = tmp_path / "osascript"
    program.write_text(
        f"#!{sys.executable} -I\n"
        "import os, pathlib, sys, time\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "(folder / f'run-{os.getpid()}').write_text(repr((sys.argv[1:], dict(os.environ))))\n"
        "(folder / 'ran').touch()\n"
        "if (folder / 'hang').exists(): time.sleep(60)\n"
    )
    program.chmod(0o700)
    return program


def runs(osascript: Path) -> list[tuple[list[str], dict[str, str]]]:
    return [ast.literal_eval(path.read_text()) for path in osascript.parent.glob("run-*")]


async def done(notes: DarwinAnnouncer) -> None:
    assert notes._task is not None
    async with asyncio.timeout(10):
        await asyncio.wait([notes._task])


async def test_words_reach_applescript_as_arguments(osascript: Path) -> None:
    """What looks like AppleScript, or like an option, is text; the environment is that of a stranger."""
    notes = DarwinAnnouncer({"HOME": "/Users/me", "OP_SERVICE_ACCOUNT_TOKEN": "ops_secret"}, osascript=str(osascript))
    title, text = "-e beep", '" & (do shell script "id") & "'
    notes.announce(title, text)
    await done(notes)
    ((arguments, environ),) = runs(osascript)
    assert arguments[:6:2] == ["-e"] * 3
    assert arguments[1:6:2] == list(notes_darwin.SCRIPT)
    assert arguments[6:] == ["tokenbroker", title, text]
    assert environ.keys() <= {"HOME", "LC_CTYPE"}
    notes.withdraw()
    await notes.close()
    assert len(runs(osascript)) == 1


async def test_an_osascript_that_hangs_is_ended(osascript: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By time, by the next note, and by the end."""
    (osascript.parent / "hang").touch()
    monkeypatch.setattr(notes_darwin, "TIMEOUT", 0.2)
    notes = DarwinAnnouncer({}, osascript=str(osascript))
    notes.announce("one", "")
    await done(notes)
    monkeypatch.setattr(notes_darwin, "TIMEOUT", 60)
    notes.announce("two", "")
    second = notes._task
    await asyncio.sleep(0)
    notes.announce("three", "")
    await notes.close()
    await notes.close()
    assert second is not None
    await asyncio.wait([second], timeout=5)
    assert second.done()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_mac_without_osascript_shows_nothing(tmp_path: Path) -> None:
    """Nothing is raised."""
    notes = DarwinAnnouncer({}, osascript=str(tmp_path / "none"))
    notes.announce("title", "text")
    await done(notes)
    await notes.close()


def test_the_factory_knows_the_systems() -> None:
    """Nothing is opened by making one."""
    assert isinstance(announcer("darwin", {}), DarwinAnnouncer)
