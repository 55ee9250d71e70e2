"""Events of a Linux desktop, over real message buses with stand-ins of the services that tell of them."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from jeepney import DBusAddress

from tests.standins import desktop_bus
from tests.standins.desktop_bus import call
from tests.standins.desktop_services import (
    COLLECTION,
    GNOME,
    KDE,
    LOGIND_PATH,
    MANAGER,
    PROPERTIES,
    SECRETS,
    SESSION,
    Logind,
    ScreenSaver,
    SecretService,
    Session,
)
from tests.standins.linux_desk import ME, OTHER, SCREEN, SLEEP, VAULT, Desk, released
from tokenbroker.model import DesktopEvent
from tokenbroker.system.desktop import desktop_events, linux
from tokenbroker.system.desktop.linux import LinuxDesktopEvents

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(desktop_bus.NEEDED, reason=desktop_bus.REASON)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    made = Desk()
    yield made
    await made.close()


async def test_the_machine_sleeps_only_after_the_event_was_handled(desk: Desk) -> None:
    """While `on_event` runs logind waits; when it has returned, no longer."""
    logind = desk.logind()
    held: list[bool] = []
    desk.on_event = lambda: held.append(logind.held())
    assert await desk.watch(SLEEP) == {}
    assert logind.words == [("sleep", "tokenbroker", "forgets secrets", "delay")]
    logind.prepare_for_sleep(begins=True)
    assert await desk.event() is SLEEP
    assert await released(logind)
    assert held == [True]


async def test_the_machine_sleeps_though_the_handler_failed(desk: Desk) -> None:
    """A fault in the broker keeps no laptop awake in a bag, and the next sleep is heard too."""
    logind = desk.logind()
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: faults.append(context["exception"]))

    def fail() -> None:
        raise ZeroDivisionError

    desk.on_event = fail
    await desk.watch(SLEEP)
    logind.prepare_for_sleep(begins=True)
    assert await released(logind)
    desk.on_event = lambda: None
    logind.prepare_for_sleep(begins=True)
    assert await desk.event() is SLEEP
    assert [type(fault) for fault in faults] == [ZeroDivisionError]


async def test_after_a_sleep_the_next_one_is_delayed_again(desk: Desk) -> None:
    """On waking a new inhibitor is taken."""
    logind = desk.logind()
    await desk.watch(SLEEP)
    for times in (1, 2, 3):
        await logind.called("Inhibit", times, answered=True)
        logind.prepare_for_sleep(begins=True)
        assert await desk.event() is SLEEP
        assert await released(logind)
        logind.prepare_for_sleep(begins=False)
    await logind.called("Inhibit", 4, answered=True)
    assert logind.held()


async def test_an_inhibitor_that_comes_too_late_is_given_back(desk: Desk) -> None:
    """The sleep began while logind's answer was on its way: nobody would give it back afterwards."""
    logind = desk.logind()
    logind.ready.clear()
    watching = asyncio.create_task(desk.watch(SLEEP))
    await logind.called("Inhibit")
    logind.prepare_for_sleep(begins=True)
    assert await desk.event() is SLEEP
    logind.ready.set()
    assert await watching == {}
    assert await released(logind)


async def test_where_sleep_cannot_be_delayed_it_is_said_and_followed(desk: Desk) -> None:
    """Polkit may forbid it; then forgetting is only as quick as it can be."""
    logind = desk.logind()
    logind.refuses = "org.freedesktop.DBus.Error.AccessDenied"
    assert await desk.watch(SLEEP) == {SLEEP: "org.freedesktop.login1 refuses Inhibit: AccessDenied"}
    logind.prepare_for_sleep(begins=True)
    assert await desk.event() is SLEEP


async def test_a_logind_that_is_started_anew_is_followed(desk: Desk) -> None:
    """Its name changes hands; the inhibitor of the old one is given back."""
    old = desk.logind("c1")
    await desk.watch(SLEEP, SCREEN)
    old.close()
    new = desk.logind("c1")
    await new.called("Inhibit", answered=True)
    new.prepare_for_sleep(begins=True)
    assert await desk.event() is SLEEP
    assert await released(new)
    new.lock("c1")
    assert await desk.event() is SCREEN


async def test_a_bus_that_is_started_anew_is_followed(desk: Desk) -> None:
    """Until then no sleep is held up; a lock that happened meanwhile is noticed."""
    desk.logind("c1")
    await desk.watch(SLEEP, SCREEN)
    assert desk.missing() == set()
    desk.system.stop()
    await desk.pause.begun.wait()
    assert desk.pause.asked == [1.0]
    assert desk.missing() == {SLEEP, SCREEN}, "and `broker status` says so"
    desk.system.start()
    logind = desk.add(Logind(desk.system.address, {"c1": Session(ME, locked=True)}))
    desk.pause.over.set()
    assert await desk.event() is SCREEN
    logind.prepare_for_sleep(begins=True)
    assert await desk.event() is SLEEP
    assert await released(logind)
    assert desk.missing() == set()


async def test_the_inhibitor_is_held_only_while_the_bus_can_be_heard(desk: Desk) -> None:
    """Otherwise each sleep would come late for nothing."""
    logind = desk.logind()
    await desk.watch(SLEEP)
    assert logind.held()
    desk.system.stop()
    assert await released(logind)


async def test_a_lost_bus_is_tried_again_more_and_more_rarely(desk: Desk) -> None:
    """After 1, 2, 4 … seconds, and at least every minute."""
    desk.system.stop()
    pauses: list[float] = []
    enough = asyncio.Event()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 8:
            enough.set()
            await asyncio.Event().wait()

    watched = LinuxDesktopEvents(desk.environ, ME, secret_service=False, sleep=pause)
    reasons = await watched.watch([SLEEP, SCREEN], lambda _event: None)
    assert reasons == {SLEEP: f"there is no bus at {desk.system.address}", SCREEN: linux.NO_SCREEN}
    await enough.wait()
    await watched.close()
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


async def test_one_lock_is_one_event_though_three_tell_of_it(desk: Desk) -> None:
    """As GNOME does it: the session is asked, the shield comes down, the hint is set; and all back."""
    logind, saver = desk.logind("c1"), desk.add(ScreenSaver(desk.session.address))
    assert await desk.watch(SCREEN) == {}
    for _ in range(2):
        logind.lock("c1")
        assert await desk.event() is SCREEN
        saver.become(active=True)
        await desk.settle()
        logind.hint("c1", locked=True)
        await desk.settle()
        logind.unlock("c1")
        logind.hint("c1", locked=False)
        saver.become(active=False)
        await desk.settle()
    assert desk.events == [SCREEN, SCREEN]


async def test_the_hint_alone_is_an_event(desk: Desk) -> None:
    """Desktops that lock by themselves ask nobody."""
    logind = desk.logind("c1")
    await desk.watch(SCREEN)
    logind.hint("c1", locked=True)
    assert await desk.event() is SCREEN
    logind.hint("c1", locked=False)
    logind.hint("c1", locked=True)
    assert await desk.event() is SCREEN
    assert len(desk.events) == 2


async def test_sessions_of_others_are_none_of_ours(desk: Desk) -> None:
    """Nor are sessions that logind does not know. A name that passes to this user is."""
    logind = desk.logind("c1", c2=OTHER)
    await desk.watch(SCREEN)
    logind.lock("c2")
    logind.hint("c2", locked=True)
    logind.lock("c9")
    await desk.settle()
    assert desk.events == []
    logind.end("c2")
    logind.sessions["c2"] = Session(ME)
    logind.lock("c2")
    assert await desk.event() is SCREEN
    assert desk.events == [SCREEN]


@pytest.mark.parametrize("unicast", [False, True], ids=["to all", "to the broker"])
async def test_signals_of_others_are_not_believed(desk: Desk, unicast: bool) -> None:  # noqa: FBT001  # a case
    """Any program may send them; it cannot choose the sender that the bus writes."""
    logind, saver = desk.logind("c1"), desk.add(ScreenSaver(desk.session.address))
    desk.add(SecretService(desk.session.address))
    await desk.watch(SLEEP, SCREEN, VAULT, secret_service=True)
    path = Logind.path("c1")
    for bus in (desk.system, desk.session):
        for to in bus.names() if unicast else [None]:
            if to is not None and not to.startswith(":"):
                continue
            bus.signal(LOGIND_PATH, MANAGER, "PrepareForSleep", "b", (True,), to=to)
            bus.signal(path, SESSION, "Lock", to=to)
            hint: tuple[object, ...] = (SESSION, {"LockedHint": ("b", True)}, [])
            bus.signal(path, PROPERTIES, "PropertiesChanged", "sa{sv}as", hint, to=to)
            bus.signal("/org/gnome/ScreenSaver", GNOME, "ActiveChanged", "b", (True,), to=to)
            bus.signal("/", "org.freedesktop.DBus", "NameOwnerChanged", "sss", (SECRETS, ":1.0", ""), to=to)
            bus.signal("/", "org.freedesktop.DBus", "NameOwnerChanged", "sss", (GNOME, ":1.0", ":1.99"), to=to)
    await desk.settle()
    assert desk.events == []
    saver.become(active=True)
    assert await desk.event() is SCREEN
    logind.prepare_for_sleep(begins=True)
    assert await desk.event() is SLEEP
    assert desk.events == [SCREEN, SLEEP]


@pytest.mark.parametrize("name", [GNOME, KDE])
async def test_a_screen_saver_needs_no_logind(desk: Desk, name: str) -> None:
    """KDE's sends each signal from two paths; it is one event all the same."""
    saver = desk.add(ScreenSaver(desk.session.address, name))
    desk.system.stop()
    assert await desk.watch(SCREEN) == {}
    for _ in range(2):
        saver.become(active=True)
        assert await desk.event() is SCREEN
        saver.become(active=False)
    assert desk.events == [SCREEN, SCREEN]


async def test_a_screen_saver_that_comes_later_is_heard(desk: Desk) -> None:
    """The shell starts after the broker, and again after a crash."""
    desk.logind()
    assert await desk.watch(SCREEN) == {}
    for _ in range(2):
        saver = desk.add(ScreenSaver(desk.session.address))
        await saver.called("GetActive")
        saver.become(active=True)
        assert await desk.event() is SCREEN
        saver.close()
    assert desk.events == [SCREEN, SCREEN]


async def test_a_screen_that_was_locked_before_makes_no_event(desk: Desk) -> None:
    """It is followed from now on."""
    logind = desk.add(Logind(desk.system.address, {"c1": Session(ME, locked=True), "c2": Session(OTHER, locked=True)}))
    saver = desk.add(ScreenSaver(desk.session.address, active=True))
    await desk.watch(SLEEP, SCREEN)
    saver.become(active=False)
    saver.become(active=True)
    assert await desk.event() is SCREEN
    logind.prepare_for_sleep(begins=True)
    assert await desk.event() is SLEEP
    assert desk.events == [SCREEN, SLEEP]


async def test_a_keyring_that_says_only_that_it_changed_is_asked(desk: Desk) -> None:
    """And only the default collection counts, whichever that is now."""
    keyring = desk.add(SecretService(desk.session.address))
    assert await desk.watch(VAULT, secret_service=True) == {}
    keyring.locked = {"/org/freedesktop/secrets/c/b"}
    keyring.changed("/org/freedesktop/secrets/c/b")
    await keyring.called("ReadAlias", 2)
    keyring.default = "/org/freedesktop/secrets/c/b"
    keyring.changed("/org/freedesktop/secrets/c/a")
    assert await desk.event() is VAULT
    keyring.changed()
    keyring.changed()
    await keyring.called("ReadAlias", 4)
    assert desk.events == [VAULT]


async def test_a_slow_keyring_is_waited_for_and_asked_once(desk: Desk) -> None:
    """Ten signals while it thinks are one more question."""
    keyring = desk.add(SecretService(desk.session.address))
    await desk.watch(VAULT, secret_service=True)
    keyring.ready.clear()
    keyring.changed()
    await keyring.called("ReadAlias", 2)
    for _ in range(10):
        keyring.changed()
    desk.session.names()
    keyring.locked = {keyring.default}
    keyring.ready.set()
    assert await desk.event() is VAULT
    await desk.settle()
    assert len(await keyring.called("ReadAlias", 3)) == 3
    assert desk.events == [VAULT]


async def test_an_open_keyring_that_goes_away_is_locked(desk: Desk) -> None:
    """Its keys go with it."""
    keyring = desk.add(SecretService(desk.session.address))
    await desk.watch(VAULT, secret_service=True)
    keyring.close()
    assert await desk.event() is VAULT


async def test_listening_starts_nothing(desk: Desk, tmp_path: Path) -> None:
    """A keyring that the bus could start is followed once somebody else has it started."""
    trace = tmp_path / "started"
    desk.session.make_startable(SECRETS, f"/usr/bin/touch {trace}")
    desk.session.make_startable(GNOME, f"/usr/bin/touch {trace}")
    assert await desk.watch(VAULT, SCREEN, secret_service=True) == {SCREEN: linux.NO_SCREEN}
    keyring = desk.add(SecretService(desk.session.address))
    await keyring.called("Get")
    keyring.locked = {keyring.default}
    keyring.changed()
    assert await desk.event() is VAULT
    assert not trace.exists()


@pytest.fixture
def gnome_keyring(desk: Desk, tmp_path: Path) -> Iterator[DBusAddress]:
    """The real Secret Service of GNOME with one open collection, without a desktop; gives its service object."""
    program = shutil.which("gnome-keyring-daemon")
    if program is None and not os.environ.get("CI"):
        pytest.skip("needs gnome-keyring-daemon (Debian: apt-get install gnome-keyring)")
    assert program is not None
    environ = {name: str(tmp_path) for name in ("HOME", "XDG_RUNTIME_DIR", "XDG_DATA_HOME")}
    environ["DBUS_SESSION_BUS_ADDRESS"] = desk.session.address
    tmp_path.chmod(0o700)
    process = subprocess.Popen(
        [program, "--foreground", "--components=secrets", "--unlock", f"--control-directory={tmp_path}/c"],
        env=environ, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdin is not None
    with process.stdin as stdin:
        stdin.write(b"a password")
    for _ in range(200):  # ten seconds
        if SECRETS in desk.session.names():
            break
        time.sleep(0.05)
    yield DBusAddress("/org/freedesktop/secrets", SECRETS, "org.freedesktop.Secret.Service")
    process.kill()
    process.wait()


async def test_the_real_keyring_tells_that_it_was_locked(desk: Desk, gnome_keyring: DBusAddress) -> None:
    """One lock, told twice (`CollectionChanged`, then `PropertiesChanged`), is one event."""
    (collection,) = await asyncio.to_thread(
        call, desk.session.address, gnome_keyring, "ReadAlias", "s", ("default",)
    )  # fmt: skip
    assert await desk.watch(VAULT, secret_service=True) == {}
    done = await asyncio.to_thread(call, desk.session.address, gnome_keyring, "Lock", "ao", ([collection],))
    assert done == ([collection], "/")
    assert await desk.event() is VAULT
    properties = DBusAddress(collection, SECRETS, PROPERTIES)
    assert await asyncio.to_thread(
        call, desk.session.address, properties, "Get", "ss", (COLLECTION, "Locked")
    ) == (("b", True),)  # fmt: skip
    await asyncio.to_thread(call, desk.session.address, gnome_keyring, "Lock", "ao", ([collection],))
    await desk.settle()
    assert desk.events == [VAULT]


async def test_where_nothing_tells_the_reasons_are_given(desk: Desk) -> None:
    """Buses without services: a container, a server."""
    nothing = {SLEEP: "logind is not on the system bus", SCREEN: linux.NO_SCREEN}
    assert await desk.watch(SLEEP, SCREEN, VAULT) == {**nothing, VAULT: "1Password tells nobody when it locks"}
    assert await desk.watch(SLEEP, SCREEN, VAULT, secret_service=True) == {**nothing, VAULT: linux.NO_KEYRING}


@pytest.mark.parametrize(
    "address", ["tcp:host=localhost,port=1", "unix:path=/nonexistent/bus", "nonsense", "unix:runtime=yes"]
)  # fmt: skip
async def test_where_there_is_no_bus_it_is_said(address: str) -> None:
    """Nothing is raised for it."""
    environ = {"DBUS_SYSTEM_BUS_ADDRESS": address, "DBUS_SESSION_BUS_ADDRESS": address}
    watched = desktop_events("linux", environ, ME, secret_service=True)
    reasons = await watched.watch(list(DesktopEvent), lambda _event: None)
    assert reasons.keys() == set(DesktopEvent)
    assert address in reasons[SLEEP]
    assert address in reasons[VAULT]
    await watched.close()


async def test_no_address_of_a_session_bus_is_a_reason(desk: Desk) -> None:
    """Cron jobs have neither the variable nor a runtime folder."""
    del desk.environ["DBUS_SESSION_BUS_ADDRESS"]
    assert await desk.watch(VAULT, secret_service=True) == {VAULT: linux.NO_SESSION_BUS}


async def test_without_jeepney_it_is_said(monkeypatch: pytest.MonkeyPatch, desk: Desk) -> None:
    """The package may have been left out by who packages for a server."""
    monkeypatch.setitem(sys.modules, "jeepney", None)
    assert await desk.watch(SLEEP) == {SLEEP: "the package jeepney is not installed"}


async def test_only_what_is_asked_for_is_followed(desk: Desk) -> None:
    """No inhibitor for the screen's sake, and no connection at all for nothing."""
    logind = desk.logind("c1")
    before = desk.system.names()
    assert await desk.watch() == {}
    assert desk.system.names() == before
    assert await desk.watch(SCREEN) == {}
    logind.lock("c1")
    assert await desk.event() is SCREEN
    assert logind.words == []


async def test_close_ends_a_watch_that_is_still_beginning(desk: Desk) -> None:
    """The daemon stops while a service thinks."""
    logind = desk.logind()
    logind.ready.clear()
    watched = LinuxDesktopEvents(desk.environ, ME, secret_service=False)
    watching = asyncio.create_task(watched.watch([SLEEP], desk.events.append))
    await logind.called("Inhibit")
    await watched.close()
    async with asyncio.timeout(5):
        assert (await watching).keys() == {SLEEP}
    logind.ready.set()
    await logind.called("Inhibit", answered=True)
    assert await released(logind)


async def test_after_close_nothing_is_left_on_the_bus(desk: Desk) -> None:
    """No connection, no inhibitor, no task."""
    logind = desk.logind()
    before = desk.system.names()
    watched = LinuxDesktopEvents(desk.environ, ME, secret_service=False)
    await watched.watch([SLEEP], desk.events.append)
    assert logind.held()
    await watched.close()
    assert await released(logind)
    assert desk.system.names() == before
    assert asyncio.all_tasks() == {asyncio.current_task()}
