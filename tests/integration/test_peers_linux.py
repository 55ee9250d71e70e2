"""Who is asking, on Linux: real programs over a real socket, started in the ways that matter."""

from __future__ import annotations

import errno
import os
import re
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.peer_processes import CHILD, CONNECT, ORPHAN, TERMINAL, Listener, finish, program, terminal
from tokenbroker.errors import PeerGone
from tokenbroker.model import AgentType
from tokenbroker.peers.linux import OUTSIDE, LinuxPeerInspector, peer_credentials, peer_handle
from tokenbroker.peers.process import is_helper
from tokenbroker.peers.procfs import ProcFs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenbroker.peers.process import Process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="SO_PEERCRED and /proc are Linux's")


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    made = Listener(tmp_path)
    yield made
    made.close()


def no_handle(sock: socket.socket) -> None:
    """Stand for a kernel before 6.5."""


@pytest.fixture(params=[peer_handle, no_handle], ids=["with a pidfd", "without a pidfd"])
def inspector(request: pytest.FixtureRequest) -> LinuxPeerInspector:
    return LinuxPeerInspector(handle=request.param)


def test_facts_are_the_kernels(listener: Listener, inspector: LinuxPeerInspector) -> None:
    """Pid, program and start agree with what the test knows of the process from elsewhere."""
    process = listener.run(program(CONNECT))
    peer = inspector.inspect(listener.accept())
    assert peer.pid == process.pid
    assert peer.exe == str(Path(sys.executable).resolve())
    btime = re.search(r"^btime (\d+)$", Path("/proc/stat").read_text(), re.MULTILINE)
    assert btime is not None
    assert peer.start_time is not None
    expected = int(btime[1]) + peer.start_time / os.sysconf("SC_CLK_TCK")
    assert peer.root_started_at == pytest.approx(expected, abs=2)


def test_the_program_that_ended_is_refused_though_another_holds_its_socket(
    listener: Listener, inspector: LinuxPeerInspector
) -> None:
    """A socket handed on names the one that connected; when that one has ended nobody is attested."""
    handed_on = program(
        CONNECT.replace("end.recv(1)", ""),
        "import os\nif os.fork(): os._exit(0)\nend.send(b'!')\nend.recv(1)",
    )
    process = listener.run(handed_on)
    connection = listener.accept()
    assert connection.recv(1) == b"!"  # the heir has the socket and talks on it
    process.wait(20)
    with pytest.raises(PeerGone):
        inspector.inspect(connection)


def test_a_socket_handed_on_names_the_program_that_connected(listener: Listener, inspector: LinuxPeerInspector) -> None:
    """While the program that connected lives it is the peer, whoever writes."""
    code = program(
        CONNECT.replace("end.recv(1)", ""),
        "import os\nchild = os.fork()\nif not child:\n    end.send(b'!')\nend.recv(1)\nif child: os.wait()",
    )
    process = listener.run(code)
    connection = listener.accept()
    assert connection.recv(1) == b"!"
    assert inspector.inspect(connection).pid == process.pid


def test_a_zombie_is_gone(listener: Listener, inspector: LinuxPeerInspector) -> None:
    """A process that ended but was not waited for still has its pid, and is refused."""
    process = listener.run(program(CONNECT))
    connection = listener.accept()
    peer = inspector.inspect(connection)
    finish(connection)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{process.pid}").exists()
    assert not inspector.still_there(peer)
    with pytest.raises(PeerGone):
        inspector.inspect(connection)


def test_a_reused_pid_is_not_the_peer(listener: Listener, inspector: LinuxPeerInspector) -> None:
    """The same pid with another start time is another process."""
    peer = inspector.inspect(listener.connect(program(CONNECT)))
    assert peer.start_time is not None
    earlier = replace(peer, start_time=peer.start_time - 1)
    assert inspector.still_there(peer)
    assert not inspector.still_there(earlier)


def test_the_pidfd_decides_where_the_pid_was_reused_before_the_first_look(listener: Listener, tmp_path: Path) -> None:
    """The number leads to a live process, the handle to one that ended: refused."""
    gone = os.fork()
    if gone == 0:
        os._exit(0)
    handle = os.pidfd_open(gone)
    os.waitpid(gone, 0)
    connection = listener.connect(program(CONNECT))
    with pytest.raises(PeerGone):
        LinuxPeerInspector(handle=lambda _: handle).inspect(connection)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(handle)  # the handle was closed


class ChangingProc(ProcFs):
    """Where the pid belongs to another process by the second look."""

    def start_time(self, pid: int) -> float | None:
        start = super().start_time(pid)
        return None if start is None else start + 1


def test_facts_of_two_processes_are_not_mixed(listener: Listener) -> None:
    """Without a pidfd the start time, read again, shows that the pid changed hands in between."""
    with pytest.raises(PeerGone):
        LinuxPeerInspector(ChangingProc(), handle=no_handle).inspect(listener.connect(program(CONNECT)))


def test_no_descriptor_is_left_open(listener: Listener, inspector: LinuxPeerInspector) -> None:
    connection = listener.connect(program(CONNECT))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        inspector.inspect(connection)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_program_at_a_terminal_is_interactive(listener: Listener, inspector: LinuxPeerInspector) -> None:
    with terminal() as (fd, name):
        peer = inspector.inspect(listener.connect(program(ORPHAN, TERMINAL, CONNECT), terminal=fd))
    assert peer.tty == name
    assert (peer.agent_type, peer.evidence) == (AgentType.INTERACTIVE, f"terminal {name}")


def test_a_program_in_a_session_of_its_own_is_autonomous(listener: Listener, inspector: LinuxPeerInspector) -> None:
    """Without a terminal, and with no known program above it, nobody is taken to be there."""
    peer = inspector.inspect(listener.connect(program(ORPHAN, CONNECT)))
    assert peer.tty is None
    assert peer.agent_type is AgentType.AUTONOMOUS


def named_python(folder: Path, name: str) -> str:
    """Return a path by which the interpreter runs under another name: the kernel names a process after it."""
    link = folder / name
    link.symlink_to(Path(sys.executable).resolve())
    return str(link)


def test_a_terminal_made_by_a_cron_job_has_nobody_before_it(
    listener: Listener, inspector: LinuxPeerInspector, tmp_path: Path
) -> None:
    """`cron → script → program`: the scheduler decides, not the pseudo-terminal."""
    python = named_python(tmp_path, "cron")
    with terminal() as (fd, name):
        connection = listener.connect(program(ORPHAN, CHILD, TERMINAL, CONNECT), python=python, terminal=fd)
        peer = inspector.inspect(connection)
    assert peer.tty == name
    assert peer.agent_type is AgentType.AUTONOMOUS
    assert re.fullmatch(r"started by cron \(pid \d+\)", peer.evidence)


def test_a_program_below_an_ide_is_interactive_without_a_terminal(
    listener: Listener, inspector: LinuxPeerInspector, tmp_path: Path
) -> None:
    """An IDE's agent gives its tools a session of their own; a person is near all the same."""
    python = named_python(tmp_path, "code")
    peer = inspector.inspect(listener.connect(program(ORPHAN, CHILD, CONNECT), python=python))
    assert (peer.tty, peer.agent_type) == (None, AgentType.INTERACTIVE)
    assert re.fullmatch(r"program of an IDE: code \(pid \d+\)", peer.evidence)


def test_arguments_decide_nothing(listener: Listener, inspector: LinuxPeerInspector) -> None:
    """A program that writes `code` into its own command line is not taken for it."""
    code = program(ORPHAN, CONNECT)
    peer = inspector.inspect(listener.connect(code, argv=("-c", code + "\n# code")))
    assert peer.agent_type is AgentType.AUTONOMOUS


def test_the_helper_command_is_booked_under_the_shell_that_called_it(
    listener: Listener, inspector: LinuxPeerInspector, tmp_path: Path
) -> None:
    """The session's root is the session leader; the peer stays the helper."""
    helper = tmp_path / "broker-token"
    helper.write_text(program(CONNECT))
    shell = program(
        f"import os, subprocess\nos.setsid()\n"
        f"subprocess.run([sys.executable, '-I', '-S', {str(helper)!r}, sys.argv[1]])"
    )
    process = listener.run(shell)
    peer = inspector.inspect(listener.accept())
    assert peer.pid != process.pid
    assert peer.root_pid == process.pid
    assert peer.root_exe == str(Path(sys.executable).resolve())
    assert peer.root_start_time is not None
    assert inspector.alive(process.pid, peer.root_start_time)


class UndumpableHelper(ProcFs):
    """Where /proc gives a helper another owner, as it gives root for an undumpable process."""

    def process(self, pid: int) -> Process | None:
        process = super().process(pid)
        hidden = process is not None and is_helper(self.arguments(pid))
        return process._replace(uid=os.getuid() + 1) if process is not None and hidden else process


def test_the_owner_is_the_one_that_the_socket_names(listener: Listener, tmp_path: Path) -> None:
    """A helper that made itself undumpable is still booked under its own user's shell."""
    helper = tmp_path / "broker-token"
    helper.write_text(program(CONNECT))
    code = f"import subprocess\nsubprocess.run([sys.executable, '-I', '-S', {str(helper)!r}, sys.argv[1]])"
    process = listener.run(program("import os\nos.setsid()", code))
    assert LinuxPeerInspector(UndumpableHelper()).inspect(listener.accept()).root_pid == process.pid


def test_any_other_program_is_its_own_root(listener: Listener, inspector: LinuxPeerInspector, tmp_path: Path) -> None:
    other = tmp_path / "broker-tokens"
    other.write_text(program(CONNECT))
    peer = inspector.inspect(listener.connect("", argv=(str(other),)))
    assert peer.root_pid == peer.pid


def test_a_program_file_that_was_replaced_keeps_its_path(
    listener: Listener, inspector: LinuxPeerInspector, tmp_path: Path
) -> None:
    """The kernel marks a deleted program file; the mark is no part of the path that rules match."""
    copy = tmp_path / "sleeper"
    copy.write_bytes(Path("/bin/sleep").read_bytes())
    copy.chmod(0o700)
    code = program(CONNECT.replace("end.recv(1)", f"import os\nos.execv({str(copy)!r}, ['sleeper', '30'])"))
    process = listener.run(code)
    connection = listener.accept()
    while Path(f"/proc/{process.pid}/exe").readlink() != copy:
        os.sched_yield()
    copy.unlink()
    assert inspector.inspect(connection).exe == str(copy)
    process.kill()


def test_a_program_that_hides_itself_still_has_its_uid(listener: Listener, inspector: LinuxPeerInspector) -> None:
    """An undumpable program's /proc belongs to root: its uid is the socket's, its file what may still be read.

    Where /proc hides other users' processes it hides this one too, and the peer is refused.
    """
    code = program(
        "import ctypes\nctypes.CDLL(None).prctl(4, 0, 0, 0, 0)",  # PR_SET_DUMPABLE
        CONNECT,
    )
    process = listener.run(code)
    connection = listener.accept()
    if not Path(f"/proc/{process.pid}").exists():
        with pytest.raises(PeerGone):
            inspector.inspect(connection)
        return
    peer = inspector.inspect(connection)
    assert peer.uid == os.getuid()
    try:
        expected = str(Path(f"/proc/{process.pid}/exe").readlink())  # root with CAP_SYS_PTRACE may
    except PermissionError:
        assert peer.exe is None
    else:
        assert peer.exe == expected


class StubSocket(socket.socket):
    """A socket whose kernel answers as it is told."""

    def __init__(self, answer: bytes | int) -> None:
        super().__init__(socket.AF_UNIX)
        self._answer = answer

    def getsockopt(self, *args: int) -> bytes:  # type: ignore[override]  # one of its overloads
        if isinstance(self._answer, int):
            raise OSError(self._answer, os.strerror(self._answer))
        return self._answer


def test_no_pid_and_no_uid_are_unknown_and_not_zero() -> None:
    """Pid 0 is a peer outside the namespace, uid 0xffffffff is none; 0 would be the kernel or root."""
    raw = (0).to_bytes(4, sys.byteorder) + b"\xff" * 8
    with StubSocket(raw) as sock:
        assert peer_credentials(sock) == (None, None, None)
        peer = LinuxPeerInspector().inspect(sock)
    assert (peer.uid, peer.gid, peer.pid, peer.agent_type, peer.evidence) == (None, None, None, None, OUTSIDE)
    assert not LinuxPeerInspector().still_there(peer)


@pytest.mark.parametrize(
    ("number", "refused"),
    [
        pytest.param(errno.ENOPROTOOPT, False, id="a kernel without pidfds is not a peer that is gone"),
        pytest.param(errno.EINVAL, True, id="a reaped peer is gone"),
        pytest.param(errno.ESRCH, True, id="a peer without a process is gone"),
        pytest.param(errno.EMFILE, True, id="want of descriptors is no way to the weaker check"),
    ],
)
def test_no_handle(number: int, refused: bool) -> None:  # noqa: FBT001  # a parameter of the table
    with StubSocket(number) as sock:
        if refused:
            with pytest.raises(PeerGone):
                peer_handle(sock)
        else:
            assert peer_handle(sock) is None


def test_a_kernel_that_will_not_name_the_peer_is_refused() -> None:
    with StubSocket(errno.ENOTCONN) as sock, pytest.raises(PeerGone):
        LinuxPeerInspector().inspect(sock)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_handle_is_held_as_long_as_the_description_and_no_longer(listener: Listener) -> None:
    """One descriptor per described peer, given back with it, also when the description failed."""
    listener.run(program(CONNECT))
    connection = listener.accept()
    before = descriptors()
    peer = LinuxPeerInspector().inspect(connection)
    held = descriptors() - before
    assert held == (0 if peer.handle is None else 1)
    del peer
    assert descriptors() == before
    with pytest.raises(PeerGone):
        LinuxPeerInspector(ProcFs("/nowhere")).inspect(connection)
    assert descriptors() == before


def test_a_handle_answers_for_its_own_process_whatever_runs_under_the_pid(listener: Listener) -> None:
    """The process ended; that its pid and start time seem to live on in /proc changes nothing."""
    process = listener.run(program(CONNECT))
    inspector = LinuxPeerInspector()
    connection = listener.accept()
    peer = inspector.inspect(connection)
    if peer.handle is None:
        pytest.skip("this kernel has no SO_PEERPIDFD")
    assert inspector.still_there(peer)
    finish(connection)
    process.wait(20)
    inspector.alive = lambda *_: True  # type: ignore[method-assign]  # a /proc that is deceived
    assert not inspector.still_there(peer)
