"""Sockets that somebody else made, and what systemd is told: real descriptors, a real child, real datagrams."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.http_peer import short_folder
from tokenbroker.errors import SocketRefused
from tokenbroker.system.activation import activated_sockets, launchd_sockets, systemd_sockets
from tokenbroker.system.notify import Notifier, watchdog_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# What systemd does between fork and exec: put the descriptors at 3 and up, and say for whom they are.
STARTER = """
import json, os, sys
moved = [os.dup(int(fd)) for fd in sys.argv[3:]]
moved = [os.dup2(fd, 100 + i) for i, fd in enumerate(moved)]
for i, fd in enumerate(moved):
    os.dup2(fd, 3 + i, inheritable=True)
os.environ.update(json.loads(sys.argv[2]), LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(moved)))
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""
SERVICE = """
import json, os, subprocess, sys
from tokenbroker.errors import BrokerError
from tokenbroker.system.activation import activated_sockets
try:
    found = activated_sockets(os.environ, pid=os.getpid(), platform="linux")
except BrokerError as error:
    print(json.dumps({"error": error.message, "left": [n for n in os.environ if n.startswith("LISTEN_")]}))
    sys.exit()
inherited = subprocess.run(
    [sys.executable, "-c", "import os; print([fd for fd in (3, 4) if os.path.exists(f'/dev/fd/{fd}')])"],
    close_fds=False, capture_output=True, text=True, check=True,
).stdout.strip()
for name, sock in found.items():
    peer, _ = sock.accept()
    peer.sendall(name.encode())
print(json.dumps({
    "fds": {name: sock.fileno() for name, sock in found.items()},
    "left": [name for name in os.environ if name.startswith("LISTEN_")],
    "inherited": inherited,
}))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A private folder with a short name."""
    with short_folder() as place:
        yield place


def listening(path: Path) -> socket.socket:
    """Listen on `path`."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


def activated(descriptors: list[int], names: str | None) -> subprocess.Popen[str]:
    """Start a service with these descriptors."""
    extra = {} if names is None else {"LISTEN_FDNAMES": names}
    return subprocess.Popen(
        [sys.executable, "-c", STARTER, SERVICE, json.dumps(extra), *map(str, descriptors)],
        pass_fds=descriptors,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_child_takes_both_sockets_by_name(folder: Path) -> None:
    """In whichever order they come; they accept, no child of it inherits them, and the variables are gone."""
    greetings = {}
    with (
        listening(folder / "a") as admin,
        listening(folder / "b") as broker,
        activated([admin.fileno(), broker.fileno()], "admin:broker") as service,
    ):
        for place in ("a", "b"):
            with socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(20)
                peer.connect(str(folder / place))
                greetings[place] = peer.recv(10)
        assert service.stdout
        said = json.loads(service.stdout.read())
    assert greetings == {"a": b"admin", "b": b"broker"}
    assert said == {"fds": {"admin": 3, "broker": 4}, "left": [], "inherited": "[]"}


def test_without_names_the_paths_tell_the_sockets_apart(folder: Path) -> None:
    """LISTEN_FDNAMES is optional (sd_listen_fds(3)); the order says nothing."""
    with (
        listening(folder / "admin.sock") as admin,
        listening(folder / "b") as broker,
        activated([admin.fileno(), broker.fileno()], None) as service,
    ):
        for place in ("admin.sock", "b"):
            with socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(20)
                peer.connect(str(folder / place))
                assert peer.recv(10) == (b"admin" if place == "admin.sock" else b"broker")
        assert service.stdout
        said = json.loads(service.stdout.read())
    assert said["fds"] == {"admin": 3, "broker": 4}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        pytest.param("tokenbroker.socket", "named 'tokenbroker.socket'", id="with systemd's default name"),
        pytest.param("admin", "no socket named `broker`", id="without the broker's own"),
        pytest.param("broker:admin", "LISTEN_FDS=1 with 2 names", id="with fewer descriptors than names"),
    ],
)
def test_a_child_refuses_sockets(folder: Path, names: str | None, message: str) -> None:
    """Which verbs a socket answers is never guessed."""
    with listening(folder / "a") as sock, activated([sock.fileno()], names) as service:
        assert service.stdout
        said = json.loads(service.stdout.read())
    assert message in said["error"]
    assert said["left"] == []


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: socket.socket(socket.AF_INET), id="a network socket"),
        pytest.param(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), id="a datagram socket"),
        pytest.param(lambda: socket.socket(socket.AF_UNIX), id="a socket that does not listen"),
        pytest.param(tempfile.TemporaryFile, id="a file"),
    ],
)
def test_a_child_refuses_what_is_not_a_listening_unix_socket(make: Callable[[], Any]) -> None:
    """A unit that somebody changed is noticed at once."""
    with make() as thing, activated([thing.fileno()], "broker") as service:
        assert service.stdout
        assert "something other than a" in json.loads(service.stdout.read())["error"]


def test_variables_meant_for_another_process_are_cleared_and_ignored() -> None:
    """A shell that systemd started may have left them."""
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "broker", "HOME": "/"}
    assert systemd_sockets(environ, pid=2) == {}
    assert environ == {"HOME": "/"}


def test_started_by_hand_there_are_none() -> None:
    """Then the broker listens for itself."""
    assert activated_sockets({}, pid=1, platform="linux") == {}


class Launchd:
    """`launch_activate_socket` and `free` of macOS's C library, as launch_activate_socket(3) describes them."""

    def __init__(self, sockets: dict[bytes, list[int]], code: int = 0) -> None:
        self.sockets, self.code = sockets, code
        self.kept: list[Any] = []
        self.freed: list[int] = []

    def launch_activate_socket(self, name: bytes, descriptors: Any, count: Any) -> int:
        """Give the descriptors of one name in memory that the caller must free; 3 is ESRCH, 2 is ENOENT."""
        if self.code or name not in self.sockets:
            return self.code or 2
        array = (ctypes.c_int * len(self.sockets[name]))(*self.sockets[name])
        self.kept.append(array)
        descriptors._obj.contents = ctypes.cast(array, ctypes.POINTER(ctypes.c_int)).contents
        count._obj.value = len(array)
        return 0

    def free(self, pointer: Any) -> None:
        """Note what was freed."""
        self.freed.append(ctypes.addressof(pointer.contents))


def test_launchd_gives_both_sockets(folder: Path) -> None:
    """By the names of the plist; what it allocated is freed."""
    broker, admin = listening(folder / "b"), listening(folder / "a")
    library = Launchd({b"Broker": [broker.detach()], b"Admin": [admin.detach()]})
    found = launchd_sockets(library)
    assert {name: sock.getsockname() for name, sock in found.items()} == {
        "broker": str(folder / "b"),
        "admin": str(folder / "a"),
    }
    assert not any(sock.get_inheritable() for sock in found.values())
    assert library.freed == [ctypes.addressof(array) for array in library.kept]
    for sock in found.values():
        sock.close()


def test_without_launchd_there_are_none() -> None:
    """ESRCH: started from a terminal."""
    assert launchd_sockets(Launchd({}, code=3)) == {}


def test_launchd_gives_its_sockets_once() -> None:
    """EALREADY (37 on macOS) is an error and not a broker without sockets."""
    with pytest.raises(SocketRefused, match="launchd gave no socket Broker"):
        launchd_sockets(Launchd({}, code=37))


@pytest.mark.parametrize(
    "abstract",
    [
        pytest.param(False, id="at a path"),
        pytest.param(
            True, id="at an abstract name", marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux has these")
        ),
    ],
)
def test_systemd_is_told(folder: Path, *, abstract: bool) -> None:
    """One datagram for each thing said."""
    address = f"@tokenbroker-test-{os.getpid()}" if abstract else str(folder / "notify")
    notifier = Notifier(address, monotonic=lambda: 12.5)
    actions: list[Callable[[], None]] = [
        lambda: notifier.ready("vault locked"),
        notifier.reloading,
        lambda: notifier.status("3 tokens"),
        notifier.watchdog,
        notifier.stopping,
    ]
    told = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address.replace("@", "\0"))
        manager.settimeout(5)
        for say in actions:
            say()
            told.append(manager.recv(200))
    assert told == [
        b"READY=1\nSTATUS=vault locked",
        b"RELOADING=1\nMONOTONIC_USEC=12500000",
        b"STATUS=3 tokens",
        b"WATCHDOG=1",
        b"STOPPING=1",
    ]


def test_the_address_is_taken_out_of_the_environment() -> None:
    """No child speaks in the broker's name."""
    environ = {"NOTIFY_SOCKET": "/run/x", "HOME": "/"}
    assert Notifier.from_environ(environ)._address == "/run/x"
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize("address", [None, "", "/nonexistent/notify"])
def test_without_systemd_nobody_is_told(address: str | None) -> None:
    """And nothing fails."""
    Notifier(address).ready("fine")


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        pytest.param({}, None, id="nobody waits"),
        pytest.param({"WATCHDOG_USEC": "30000000"}, 15.0, id="half of the time is left as a margin"),
        pytest.param({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 15.0, id="meant for this process"),
        pytest.param({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None, id="meant for another"),
        pytest.param({"WATCHDOG_USEC": "0"}, None, id="zero is off"),
        pytest.param({"WATCHDOG_USEC": "soon"}, None, id="nonsense is off"),
    ],
)
def test_watchdog_interval(environ: dict[str, str], interval: float | None) -> None:
    """The variables are cleared in any case."""
    assert watchdog_interval(environ, pid=7) == interval
    assert environ == {}


HARDENED = """
import ctypes, json, os, resource, sys
from tokenbroker.system.hardening import harden
report = harden(platform="linux", environ=os.environ)
dumpable = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)
import ssl
key_log = ssl.create_default_context().keylog_filename
print(json.dumps([report, dumpable, resource.getrlimit(resource.RLIMIT_CORE), os.umask(0), key_log]), flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_a_hardened_process_leaves_no_core_and_is_not_dumpable(tmp_path: Path) -> None:
    """What the report says is what the kernel says, and another process of its user cannot open its memory."""
    with subprocess.Popen(
        [sys.executable, "-c", HARDENED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "SSLKEYLOGFILE": str(tmp_path / "keys")},
    ) as process:
        assert process.stdout
        report, dumpable, core, umask, key_log = json.loads(process.stdout.readline())
        owner = Path(f"/proc/{process.pid}/mem").stat().st_uid
        process.send_signal(signal.SIGKILL)
    assert report == {"core_limit": "on", "umask": "on", "no_key_log": "on", "not_dumpable": "on"}
    assert (dumpable, core, umask, key_log) == (0, [0, 0], 0o077, None)
    assert owner == 0


def test_a_measure_that_fails_is_reported_and_stops_nothing() -> None:
    """`broker doctor` shows why; the broker runs."""
    program = (
        "import json\nfrom tokenbroker.system.hardening import harden\n"
        "class Library:\n    pass\n"
        "print(json.dumps(harden(platform='darwin', environ={}, library=Library())))"
    )
    said = json.loads(subprocess.check_output([sys.executable, "-c", program]))
    assert said["umask"] == said["core_limit"] == "on"
    assert "ptrace" in said["deny_attach"]
