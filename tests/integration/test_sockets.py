"""Listening sockets: who can reach them, what is refused, and that there is only one broker on each."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.http_peer import short_folder
from tokenbroker.errors import AlreadyListening, SocketRefused
from tokenbroker.system.sockets import BoundSocket, listen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

UID = os.getuid()
STRANGER = 4242

# What a second broker does: try, say how it went, and stay until it is told to go.
CHILD = """
import os, sys
from pathlib import Path
from tokenbroker.errors import BrokerError
from tokenbroker.system.sockets import listen
sys.stdin.readline()
try:
    bound = listen(Path(sys.argv[1]), uid=os.getuid())
    print("listening", os.getpid(), flush=True)
    bound.sock.accept()
except BrokerError as error:
    print(error.code, error.message, flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """A private folder with a short name."""
    with short_folder() as folder:
        yield folder


@pytest.fixture
def path(home: Path) -> Path:
    """Where the socket is to be; its folder does not exist yet."""
    return home / "tokenbroker" / "broker.sock"


def mode(path: Path) -> int:
    """Return the permission bits of the file itself."""
    return stat.S_IMODE(path.lstat().st_mode)


def reachable(path: Path) -> bool:
    """Tell whether somebody listens."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def child(path: Path) -> subprocess.Popen[str]:
    """Start a second broker, which waits for a line before it tries."""
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def go(process: subprocess.Popen[str]) -> None:
    """Give a child its line."""
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def said(process: subprocess.Popen[str]) -> str:
    """Return the next line of a child."""
    assert process.stdout
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    """Kill a child, as a crash would."""
    process.kill()
    process.communicate()


def test_folders_and_socket_are_private_from_the_start(path: Path) -> None:
    """Folder 0700, socket 0600, lock 0600, whatever the umask; and the umask is as it was."""
    before = os.umask(0)
    try:
        bound = listen(path, uid=UID)
        assert os.umask(0) == 0
    finally:
        os.umask(before)
    assert (mode(path.parent), mode(path), mode(path.with_name("broker.sock.lock"))) == (0o700, 0o600, 0o600)
    assert reachable(path)
    bound.close()


def test_the_socket_is_never_wider_than_0600(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mode is right at the moment of its creation, not corrected afterwards."""
    seen: list[int] = []
    real = socket.socket.listen

    def spy(sock: socket.socket, backlog: int) -> None:
        seen.append(mode(path))
        real(sock, backlog)

    monkeypatch.setattr(socket.socket, "listen", spy)
    listen(path, uid=UID).close()
    assert seen == [0o600]


def test_missing_folders_are_made_private_all_the_way(home: Path) -> None:
    """As under a `~/.cache` that does not exist yet."""
    bound = listen(home / "a" / "b" / "s", uid=UID)
    assert (mode(home / "a"), mode(home / "a" / "b")) == (0o700, 0o700)
    bound.close()


def test_the_administrative_socket_lives_in_the_folder_of_the_first(path: Path) -> None:
    """Each has its own lock, and the first one's folder may hold the second's."""
    first = listen(path, uid=UID)
    second = listen(path.parent / "admin" / "admin.sock", uid=UID)
    first.close()
    path.parent.chmod(0o755)
    listen(path, uid=UID).close()
    assert mode(path.parent) == 0o700
    second.close()


def test_closing_removes_the_socket_and_keeps_the_lock_file(path: Path) -> None:
    """And may be done twice; then the place is free."""
    bound = listen(path, uid=UID)
    bound.close()
    bound.close()
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["broker.sock.lock"]
    listen(path, uid=UID).close()


def test_closing_leaves_a_socket_that_is_not_ours(path: Path) -> None:
    """Whoever replaced the file keeps it."""
    bound = listen(path, uid=UID)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path.with_name("other")))
        other.listen()
        path.with_name("other").rename(path)
        bound.close()
        assert reachable(path)


def test_closing_after_the_file_was_removed_is_no_error(path: Path) -> None:
    """Cleaners of runtime folders exist."""
    bound = listen(path, uid=UID)
    path.unlink()
    bound.close()


def test_a_stale_socket_is_replaced(path: Path) -> None:
    """A broker that was killed leaves its file; the next one takes the place over."""
    crashed = child(path)
    go(crashed)
    assert said(crashed).startswith("listening")
    end(crashed)
    assert path.exists()
    assert not reachable(path)
    bound = listen(path, uid=UID)
    assert reachable(path)
    bound.close()


def test_a_second_broker_is_told_who_is_there(path: Path) -> None:
    """With the pid, and a next step; the first one is not disturbed."""
    bound = listen(path, uid=UID)
    with pytest.raises(AlreadyListening) as caught:
        listen(path, uid=UID)
    assert caught.value.message == f"a broker is already listening on {path} (pid {os.getpid()})"
    assert caught.value.hint == "broker status"
    assert reachable(path)
    bound.close()


@pytest.mark.parametrize("full", [pytest.param(False, id="listens"), pytest.param(True, id="is too busy to answer")])
def test_a_listener_without_a_lock_is_left_alone(path: Path, *, full: bool) -> None:
    """As systemd is, which listens for the broker before there is one."""
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as waiting:
        other.bind(str(path))
        other.listen(0)
        if full:
            waiting.connect(str(path))
        with pytest.raises(AlreadyListening) as caught:
            listen(path, uid=UID)
        assert (f"(pid {os.getpid()})" in caught.value.message) is not full
        assert path.exists()


def test_a_broker_that_is_still_starting_is_not_disturbed(path: Path) -> None:
    """Whoever has the lock has the place, though nobody listens yet and the old socket is still there."""
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with path.with_name("broker.sock.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("77\n")
        lock.flush()
        with pytest.raises(AlreadyListening, match=r"\(pid 77\)"):
            listen(path, uid=UID)
        assert path.exists()
    listen(path, uid=UID).close()


def test_of_brokers_that_start_at_once_exactly_one_wins(path: Path) -> None:
    """Even when all of them find the same stale socket; the others name the winner, or say that there is one."""
    crashed = child(path)
    go(crashed)
    said(crashed)
    end(crashed)
    racers = [child(path) for _ in range(6)]
    for racer in racers:
        go(racer)
    lines = [said(racer) for racer in racers]
    winners = [line for line in lines if line.startswith("listening")]
    losers = [line for line in lines if line.startswith(f"already_listening a broker is already listening on {path}")]
    assert (len(winners), len(losers)) == (1, 5), lines
    named = {match[1] for line in losers if (match := re.search(r"pid (\d+)", line))}
    assert named <= {winners[0].split()[1]}
    assert reachable(path)
    for racer in racers:
        end(racer)


def world_writable(path: Path) -> None:
    """Open the folder to anybody, as /tmp is."""
    path.parent.mkdir()
    path.parent.chmod(0o1777)


def group_writable(path: Path) -> None:
    """Open the folder to a group."""
    path.parent.mkdir()
    path.parent.chmod(0o770)


def shared(path: Path) -> None:
    """Put the socket among other things that others may see."""
    path.parent.mkdir()
    path.parent.joinpath("index.html").touch()
    path.parent.chmod(0o755)


def linked_folder(path: Path) -> None:
    """Make the folder a link, if to a private place."""
    path.parent.with_name("elsewhere").mkdir(mode=0o700)
    path.parent.symlink_to(path.parent.with_name("elsewhere"))


def dangling_folder(path: Path) -> None:
    """Make the folder a link to nothing."""
    path.parent.symlink_to(path.parent.with_name("nowhere"))


def no_folder(path: Path) -> None:
    """Put a file where the folder is to be."""
    path.parent.touch()


def swappable(path: Path) -> None:
    """Let anybody rename the folder."""
    path.parent.mkdir(mode=0o700)
    path.parent.parent.chmod(0o777)


def linked_socket(path: Path) -> None:
    """Make the socket's path a link."""
    path.parent.mkdir(mode=0o700)
    path.symlink_to(path.with_name("other"))


def no_socket(path: Path) -> None:
    """Put a file where the socket is to be."""
    path.parent.mkdir(mode=0o700)
    path.write_text("precious")


def linked_lock(path: Path) -> None:
    """Make the lock file a link."""
    path.parent.mkdir(mode=0o700)
    path.with_name("broker.sock.lock").symlink_to(path.with_name("other"))


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        pytest.param(world_writable, "socket folder {folder} may be changed by anybody", id="a folder like /tmp"),
        pytest.param(group_writable, "socket folder {folder} may be changed by others", id="a group's folder"),
        pytest.param(shared, "socket folder {folder} is open to others and holds other things", id="a shared folder"),
        pytest.param(linked_folder, "socket folder {folder} is a symbolic link", id="a linked folder"),
        pytest.param(dangling_folder, "socket folder {folder} is a symbolic link", id="a folder that links nowhere"),
        pytest.param(no_folder, "socket folder {folder} is not a folder", id="a file for a folder"),
        pytest.param(swappable, "folder {parent} may be changed by anybody", id="a folder that can be swapped"),
        pytest.param(linked_socket, "socket path {path} is a symbolic link", id="a linked socket"),
        pytest.param(no_socket, "socket path {path} is not a socket", id="a file for a socket"),
        pytest.param(linked_lock, "{path}.lock cannot be used: too many levels of symbolic links", id="a linked lock"),
    ],
)
def test_places_that_are_refused(path: Path, prepare: Callable[[Path], None], message: str) -> None:
    """Each with what is wrong and a next step; nothing is changed or removed."""
    prepare(path)

    def picture() -> list[tuple[str, int]]:
        return sorted((str(p), p.lstat().st_mode) for p in (path.parent.parent, *path.parent.parent.rglob("*")))

    before = {entry for entry in picture() if not entry[0].endswith(".lock")}
    with pytest.raises(SocketRefused) as caught:
        listen(path, uid=UID)
    assert caught.value.message == message.format(path=path, folder=path.parent, parent=path.parent.parent)
    assert caught.value.hint
    assert {entry for entry in picture() if not entry[0].endswith(".lock")} == before


def test_a_folder_that_only_we_use_is_closed_to_readers(path: Path) -> None:
    """Made by hand with a usual umask, it is ours to mend."""
    path.parent.mkdir()
    path.parent.chmod(0o755)
    listen(path, uid=UID).close()
    assert mode(path.parent) == 0o700


def test_somebody_elses_folder_is_refused(path: Path) -> None:
    """However private it is."""
    path.parent.mkdir(mode=0o700)
    with pytest.raises(SocketRefused, match=f"belongs to uid {UID}, not to uid {STRANGER}"):
        listen(path, uid=STRANGER)


@pytest.mark.skipif(UID != 0, reason="only root can give a file away")
def test_somebody_elses_socket_is_refused(path: Path) -> None:
    """A stale one too: it is not ours to remove."""
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
    os.chown(path, STRANGER, STRANGER)
    with pytest.raises(SocketRefused, match=f"socket .* belongs to uid {STRANGER}"):
        listen(path, uid=UID)
    assert path.exists()


@pytest.mark.parametrize(("platform", "limit"), [("linux", 107), ("darwin", 103)])
def test_the_longest_path_that_the_system_takes(home: Path, platform: str, limit: int) -> None:
    """One byte more is refused with both numbers and the variable to set."""
    longest = home / ("x" * (limit - len(os.fsencode(home)) - 1))
    bound = listen(longest, uid=UID, platform=platform)
    assert reachable(longest)
    bound.close()
    with pytest.raises(SocketRefused) as caught:
        listen(Path(f"{longest}x"), uid=UID, platform=platform)
    assert f"{limit + 1} bytes" in caught.value.message
    assert f"limit is {limit}" in caught.value.message
    assert "BROKER_SOCKET" in (caught.value.hint or "")


def test_a_relative_path_is_refused() -> None:
    """It would be another socket in every folder."""
    with pytest.raises(SocketRefused, match="not absolute"):
        listen(Path("broker.sock"), uid=UID)


def test_a_failed_start_leaves_no_lock_behind(path: Path) -> None:
    """Once the cause is mended, the same process can try again."""
    no_socket(path)
    with pytest.raises(SocketRefused):
        listen(path, uid=UID)
    path.unlink()
    bound: BoundSocket = listen(path, uid=UID)
    bound.close()
