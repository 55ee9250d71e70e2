"""Events of a Mac's desktop: the real helper process, with libraries in C that have Apple's signatures."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tokenbroker.model import DesktopEvent
from tokenbroker.system.desktop import darwin, darwin_watch, desktop_events
from tokenbroker.system.desktop.darwin import DarwinDesktopEvents

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

CC = shutil.which("cc")
pytestmark = pytest.mark.skipif(CC is None and not os.environ.get("CI"), reason="needs cc (gcc)")

SOURCE = Path(__file__).parents[1] / "standins" / "desktop_mac.c"
SLEEP, SCREEN, VAULT = DesktopEvent.SLEEP, DesktopEvent.SCREEN_LOCK, DesktopEvent.VAULT_LOCK
BIG = 0x1122334455667788  # an argument that only a pointer holds


@pytest.fixture(scope="module")
def library() -> Iterator[Path]:
    """Compile the stand-in; its control socket is beside it."""
    folder = Path(tempfile.mkdtemp(prefix="mac-"))
    target = folder / "mac.so"
    assert CC is not None
    command = [CC, "-shared", "-fPIC", "-Wall", "-Werror", f'-DCONTROL="{folder}/control"']
    subprocess.run([*command, "-o", target, SOURCE], check=True)
    yield target
    shutil.rmtree(folder)


class Mac:
    """The stand-in's far end, and what the broker makes of it."""

    def __init__(self, library: Path) -> None:
        self.library = library
        self.events: list[DesktopEvent] = []
        self.on_event: Callable[[], None] = lambda: None
        self.pauses: list[float] = []
        self.watched = DarwinDesktopEvents(keychain=False, libraries=(str(library),) * 2, sleep=self._pause)
        self._loops: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self._news: asyncio.Queue[DesktopEvent] = asyncio.Queue()
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None
        self.reader = asyncio.StreamReader()

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)

    async def listen(self) -> None:
        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._writers.append(writer)
            self._loops.put_nowait((reader, writer))

        self._server = await asyncio.start_unix_server(connected, self.library.parent / "control")

    async def watch(self, *events: DesktopEvent) -> Mapping[DesktopEvent, str]:
        return await self.watched.watch(events, self._take)

    def _take(self, event: DesktopEvent) -> None:
        self.on_event()
        self.events.append(event)
        self._news.put_nowait(event)

    async def looping(self) -> None:
        """Wait until a helper runs its loop."""
        async with asyncio.timeout(10):
            self.reader, _ = await self._loops.get()

    def do(self, line: str) -> None:
        self._writers[-1].write(f"{line}\n".encode())

    async def said(self) -> str:
        """Return the next thing that happened in the system; empty when the helper has ended."""
        async with asyncio.timeout(10):
            return (await self.reader.readline()).decode().strip()

    async def event(self) -> DesktopEvent:
        async with asyncio.timeout(10):
            return await self._news.get()

    async def close(self) -> None:
        await self.watched.close()
        await self.watched.close()
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()


@pytest.fixture
async def mac(library: Path) -> AsyncIterator[Mac]:
    made = Mac(library)
    await made.listen()
    yield made
    await made.close()


async def test_the_mac_sleeps_only_after_the_event_was_handled(mac: Mac) -> None:
    """The answer is given with the message's own argument, a whole pointer, when `on_event` has returned."""
    seen: list[bytes] = []
    mac.on_event = lambda: seen.append(bytes(mac.reader._buffer))  # type: ignore[attr-defined]  # what is there now
    assert await mac.watch(SLEEP) == {}
    await mac.looping()
    mac.do(f"will-sleep {BIG}")
    assert await mac.said() == f"allowed {BIG}"
    assert mac.events == [SLEEP]
    assert seen == [b""]
    assert await mac.said() == f"did will-sleep {BIG}"


async def test_a_handler_that_fails_does_not_hold_up_the_sleep(mac: Mac) -> None:
    """The next one is heard."""
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: faults.append(context["exception"]))

    def fail() -> None:
        raise ZeroDivisionError

    mac.on_event = fail
    await mac.watch(SLEEP)
    await mac.looping()
    mac.do("will-sleep 1")
    async with asyncio.timeout(darwin_watch.BOUND / 2):
        assert await mac.said() == "allowed 1"
    mac.on_event = lambda: None
    mac.do("will-sleep 2")
    assert await mac.event() is SLEEP
    assert [type(fault) for fault in faults] == [ZeroDivisionError]


async def test_idle_sleep_is_allowed_at_once_and_is_no_event(mac: Mac) -> None:
    """The question whether the Mac may sleep; it need not come to that. Other messages want no answer."""
    await mac.watch(SLEEP)
    await mac.looping()
    mac.do("can-sleep 5")
    assert await mac.said() == "allowed 5"
    assert await mac.said() == "did can-sleep 5"
    for message in ("e0000300", "e0000320", "e0000290"):  # has powered on, will power on, will not sleep
        mac.do(f"power {message} 6")
        assert await mac.said() == f"did power {message} 6"
    assert mac.events == []


async def test_a_locked_screen_is_an_event(mac: Mac) -> None:
    """Its unlocking is none."""
    assert await mac.watch(SCREEN) == {}
    await mac.looping()
    mac.do("other")
    mac.do("lock")
    assert await mac.event() is SCREEN
    assert mac.events == [SCREEN]


async def test_only_what_is_asked_for_is_followed(mac: Mac) -> None:
    """Who does not follow sleep is not asked before it."""
    await mac.watch(SCREEN)
    await mac.looping()
    mac.do("will-sleep 1")
    assert await mac.said() == "did will-sleep 1"
    assert mac.events == []


async def test_a_slow_handler_holds_the_sleep_for_the_bound_at_most(library: Path, mac: Mac) -> None:
    """The helper alone, with a daemon that is busy; its answers to what was before are not taken for this one's."""
    bounded = (
        "import sys; sys.path.insert(0, sys.argv.pop(1));"
        "import darwin_watch; darwin_watch.BOUND = 0.3; darwin_watch.main(*sys.argv[1:])"
    )
    folder = str(Path(darwin_watch.__file__).parent)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-c", bounded, folder, str(library), str(library), "sleep",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    await mac.looping()
    mac.do("will-sleep 1")
    assert await process.stdout.readline() == b"sleep 1\n"
    begun = asyncio.get_running_loop().time()
    process.stdin.write(b"screen_lock\nsleep 0\n")
    assert await mac.said() == "allowed 1"
    assert 0.2 < asyncio.get_running_loop().time() - begun < 3
    await mac.said()
    process.stdin.close()
    assert await process.wait() == 0


async def test_close_ends_the_helper(mac: Mac) -> None:
    """The system's end of it hangs up; no task is left."""
    await mac.watch(SLEEP, SCREEN)
    await mac.looping()
    await mac.watched.close()
    assert await mac.said() == ""


async def test_close_ends_a_watch_that_is_still_beginning(mac: Mac) -> None:
    """The daemon stops while the helper starts."""
    watching = asyncio.create_task(mac.watch(SLEEP))
    await asyncio.sleep(0)  # it has begun
    await mac.watched.close()
    async with asyncio.timeout(5):
        assert (await watching).keys() == {SLEEP}


async def test_a_watch_that_is_cancelled_leaves_nothing(mac: Mac) -> None:
    """The daemon cancels what waits for the helper; the helper's task ends with it."""
    before = asyncio.all_tasks()
    watching = asyncio.create_task(mac.watch(SLEEP))
    await asyncio.sleep(0)  # it has begun
    assert len(asyncio.all_tasks() - before) == 2
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
    assert asyncio.all_tasks() == before


async def test_a_helper_dies_with_its_daemon(library: Path, mac: Mac) -> None:
    """It has the other end of stdin, and the run loop does not keep it alive."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", darwin_watch.__file__, str(library), str(library), "sleep",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    await mac.looping()
    assert process.stdin is not None
    process.stdin.close()
    assert await process.wait() == 0


async def test_a_helper_that_ended_is_started_again(mac: Mac) -> None:
    """After a pause; events are followed as before."""
    await mac.watch(SLEEP)
    await mac.looping()
    mac.do("stop")
    await mac.looping()
    mac.do("will-sleep 9")
    assert await mac.said() == "allowed 9"
    assert mac.events == [SLEEP]
    assert mac.pauses == [1.0]


async def test_a_system_that_refuses_is_a_reason(mac: Mac) -> None:
    """As launched outside of a session, perhaps."""
    refusal = mac.library.parent / "control.no-power"
    refusal.touch()
    done = asyncio.Event()

    async def pause(_seconds: float) -> None:
        await done.wait()

    watched = DarwinDesktopEvents(keychain=False, libraries=mac.watched._libraries, sleep=pause)
    assert await watched.watch([SLEEP], lambda _event: None) == {SLEEP: "the system does not tell of its power"}
    await watched.close()
    refusal.unlink()


@pytest.mark.parametrize(("keychain", "why"), [(True, darwin.KEYCHAIN), (False, darwin.ONE_PASSWORD)])
async def test_on_something_else_than_a_mac_it_is_said(keychain: bool, why: str) -> None:  # noqa: FBT001  # a case
    """The libraries are not there; and of a locked vault nobody tells."""
    watched = desktop_events("darwin", {}, 501, secret_service=keychain)
    reasons = await watched.watch(list(DesktopEvent), lambda _event: None)
    assert reasons[VAULT] == why
    assert "IOKit" in reasons[SLEEP]
    assert reasons[SCREEN] == reasons[SLEEP]
    await watched.close()


async def test_nothing_to_follow_needs_no_helper(mac: Mac) -> None:
    """As when only the vault's locking is configured."""
    assert (await mac.watch(VAULT)).keys() == {VAULT}
    assert mac.watched._task is None
