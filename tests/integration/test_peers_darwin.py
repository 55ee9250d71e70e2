"""Who is asking, on macOS: our reading of Apple's structures, on bytes laid out as the headers say."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import stat
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tokenbroker.errors import ConfigError, PeerGone
from tokenbroker.model import AgentType
from tokenbroker.peers import darwin, inspector_for
from tokenbroker.peers.darwin import DarwinPeerInspector, SystemLibproc, parse_arguments

if TYPE_CHECKING:
    import struct

U32, U64 = ctypes.c_uint32, ctypes.c_uint64


class BsdInfo(ctypes.Structure):
    """`struct proc_bsdinfo` of bsd/sys/proc_info.h, field by field."""

    _fields_ = [  # as ctypes has it
        *((name, U32) for name in ("flags", "status", "xstatus", "pid", "ppid", "uid", "gid")),
        *((name, U32) for name in ("ruid", "rgid", "svuid", "svgid", "rfu")),
        ("comm", ctypes.c_char * 16),
        ("name", ctypes.c_char * 32),
        *((name, U32) for name in ("nfiles", "pgid", "pjobc", "tdev", "tpgid")),
        ("nice", ctypes.c_int32),
        ("start_tvsec", U64),
        ("start_tvusec", U64),
    ]


class ShortBsdInfo(ctypes.Structure):
    """`struct proc_bsdshortinfo`."""

    _fields_ = [  # as ctypes has it
        *((name, U32) for name in ("pid", "ppid", "pgid", "status")),
        ("comm", ctypes.c_char * 16),
        *((name, U32) for name in ("flags", "uid", "gid", "ruid", "rgid", "svuid", "svgid", "rfu")),
    ]


class Xucred(ctypes.Structure):
    """`struct xucred` of bsd/sys/ucred.h."""

    _fields_ = [  # as ctypes has it
        ("version", U32),
        ("uid", U32),
        ("ngroups", ctypes.c_short),
        ("groups", U32 * 16),
    ]


@dataclass
class FakeLibproc:
    """A table of processes. Another user's gives PROC_PIDT_SHORTBSDINFO alone, as the kernel does."""

    full: dict[int, BsdInfo] = field(default_factory=dict)
    short: dict[int, ShortBsdInfo] = field(default_factory=dict)
    paths: dict[int, bytes] = field(default_factory=dict)
    args: dict[int, bytes] = field(default_factory=dict)
    ends_after: int | None = None

    def pidinfo(self, pid: int, flavor: int, size: int) -> bytes | None:
        if self.ends_after is not None:
            self.ends_after -= 1
            if self.ends_after < 0:
                return None
        found = {3: self.full, 13: self.short}[flavor].get(pid)  # type: ignore[attr-defined]  # one of two tables
        raw = None if found is None else bytes(found)
        assert raw is None or len(raw) == size
        return raw

    def pidpath(self, pid: int) -> bytes | None:
        return self.paths.get(pid)

    def procargs(self, pid: int) -> bytes | None:
        return self.args.get(pid)

    def devname(self, device: int) -> bytes | None:
        return {0x10000003: b"ttys003", 0x10000004: b"??"}.get(device)

    def getsid(self, pid: int) -> int | None:
        return 40


class StubSocket(socket.socket):
    """A macOS socket's answers to LOCAL_PEERCRED and LOCAL_PEERPID."""

    def __init__(self, pid: int, cred: bytes) -> None:
        super().__init__(socket.AF_UNIX)
        self._answers: dict[tuple[int, int], int | bytes] = {(0, 1): cred, (0, 2): pid}

    def getsockopt(self, level: int, option: int, size: int = 0) -> int | bytes:  # type: ignore[override]
        if self._answers[level, option] == -1:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return self._answers[level, option]


def cred(uid: int = 501, *groups: int, version: int = 0) -> bytes:
    return bytes(Xucred(version, uid, len(groups), (U32 * 16)(*groups)))


def process(pid: int, ppid: int, name: bytes, *, tty: int = 0xFFFFFFFF, start: int = 1_800_000_000) -> BsdInfo:
    return BsdInfo(
        pid=pid, ppid=ppid, uid=501, comm=name[:15], name=name, tdev=tty, start_tvsec=start, start_tvusec=500_000
    )


@pytest.fixture
def mac() -> FakeLibproc:
    """`Terminal → login (root's) → zsh → python3`, on ttys003."""
    tty = 0x10000003
    return FakeLibproc(
        full={
            50: process(50, 40, b"python3", tty=tty, start=1_800_000_009),
            40: process(40, 30, b"zsh", tty=tty),
            20: process(20, 1, b"Terminal"),
        },
        short={
            30: ShortBsdInfo(pid=30, ppid=20, comm=b"login", uid=0),
            1: ShortBsdInfo(pid=1, ppid=0, comm=b"launchd", uid=0),
        },
        paths={50: b"/opt/homebrew/bin/python3", 40: b"/bin/zsh"},
        args={50: (2).to_bytes(4, "little") + b"/opt/homebrew/bin/python3\0\0\0\0python3\0agent.py\0HOME=/x\0"},
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "size"),
    [
        pytest.param(darwin.BSDINFO, BsdInfo, 136, id="proc_bsdinfo"),
        pytest.param(darwin.SHORTBSDINFO, ShortBsdInfo, 64, id="proc_bsdshortinfo"),
        pytest.param(darwin.XUCRED, Xucred, 76, id="xucred"),
    ],
)
def test_the_layouts_have_the_sizes_of_the_headers(
    ours: struct.Struct, theirs: type[ctypes.Structure], size: int
) -> None:
    """The C compiler's padding included."""
    assert ours.size == ctypes.sizeof(theirs) == size


def test_offsets_of_what_is_read() -> None:
    """As published of the headers: comm at 48, tdev at 108, start at 120 and 128."""
    offsets = [getattr(BsdInfo, name).offset for name in ("comm", "tdev", "start_tvsec", "start_tvusec")]
    assert offsets == [48, 108, 120, 128]


def test_a_program_in_a_terminal_is_described(mac: FakeLibproc) -> None:
    with StubSocket(50, cred(501, 20, 12)) as sock:
        peer = DarwinPeerInspector(mac).inspect(sock)
    assert (peer.uid, peer.gid, peer.pid, peer.exe) == (501, 20, 50, "/opt/homebrew/bin/python3")
    assert (peer.start_time, peer.root_started_at) == (1_800_000_009.5, 1_800_000_009.5)
    assert (peer.tty, peer.agent_type, peer.evidence) == ("ttys003", AgentType.INTERACTIVE, "terminal ttys003")
    assert peer.root_pid == 50


def test_the_walk_goes_past_another_users_process(mac: FakeLibproc) -> None:
    """`login` belongs to root and gives the short structure alone; the terminal above it is still seen."""
    mac.full[50].tdev = 0xFFFFFFFF
    with StubSocket(50, cred(501, 20)) as sock:
        peer = DarwinPeerInspector(mac).inspect(sock)
    assert (peer.tty, peer.evidence) == (None, "program of a terminal: Terminal (pid 20)")


def test_cron_is_seen_though_it_is_roots(mac: FakeLibproc) -> None:
    mac.short[30].comm = b"cron"
    with StubSocket(50, cred(501, 20)) as sock:
        peer = DarwinPeerInspector(mac).inspect(sock)
    assert (peer.agent_type, peer.evidence) == (AgentType.AUTONOMOUS, "started by cron (pid 30)")


def test_the_helper_is_booked_under_its_shell(mac: FakeLibproc) -> None:
    mac.args[50] = (3).to_bytes(4, "little") + b"/usr/bin/python3\0\0python3\0-I\0/opt/bin/broker-token\0"
    with StubSocket(50, cred(501, 20)) as sock:
        peer = DarwinPeerInspector(mac).inspect(sock)
    assert (peer.root_pid, peer.root_exe, peer.root_start_time) == (40, "/bin/zsh", 1_800_000_000.5)


def test_a_device_without_a_name_is_still_a_terminal(mac: FakeLibproc) -> None:
    mac.full[50].tdev = 0x10000004
    with StubSocket(50, cred(501, 20)) as sock:
        assert DarwinPeerInspector(mac).inspect(sock).tty == "tty 16:4"


def test_a_name_left_empty_is_taken_from_the_short_one(mac: FakeLibproc) -> None:
    """pbi_name is "empty if no name is registered"."""
    mac.full[20].name = b""
    mac.full[50].tdev = 0xFFFFFFFF
    with StubSocket(50, cred(501, 20)) as sock:
        assert DarwinPeerInspector(mac).inspect(sock).evidence == "program of a terminal: Terminal (pid 20)"


def test_identity_is_pid_and_start(mac: FakeLibproc) -> None:
    inspector = DarwinPeerInspector(mac)
    with StubSocket(50, cred(501, 20)) as sock:
        peer = inspector.inspect(sock)
    assert inspector.still_there(peer)
    assert inspector.alive(50, 1_800_000_009.5)
    mac.full[50].start_tvusec = 500_001
    assert not inspector.still_there(peer)
    del mac.full[50]
    assert not inspector.alive(50, 1_800_000_009.5)


def test_a_zombie_is_gone(mac: FakeLibproc) -> None:
    inspector = DarwinPeerInspector(mac)
    mac.full[50].status = 5
    assert not inspector.alive(50, 1_800_000_009.5)
    with StubSocket(50, cred(501, 20)) as sock, pytest.raises(PeerGone):
        inspector.inspect(sock)


def test_a_peer_that_ends_while_it_is_described_is_gone(mac: FakeLibproc) -> None:
    mac.ends_after = 7  # of eight: two for each of root's, one for each other, one to look again
    with StubSocket(50, cred(501, 20)) as sock, pytest.raises(PeerGone):
        DarwinPeerInspector(mac).inspect(sock)
    mac.ends_after = 8
    with StubSocket(50, cred(501, 20)) as sock:
        assert DarwinPeerInspector(mac).inspect(sock).pid == 50


@pytest.mark.parametrize(
    ("pid", "answer"),
    [
        pytest.param(51, cred(501, 20), id="a pid that has ended"),
        pytest.param(30, cred(501, 20), id="a process whose start cannot be known"),
        pytest.param(0, cred(501, 20), id="no pid"),
        pytest.param(-1, cred(501, 20), id="the kernel will not say"),
        pytest.param(50, cred(501, 20)[:8], id="a short answer"),
        pytest.param(50, cred(501, 20, version=1), id="another version of the structure"),
    ],
)
def test_refused(mac: FakeLibproc, pid: int, answer: bytes) -> None:
    with StubSocket(pid, answer) as sock, pytest.raises(PeerGone):
        DarwinPeerInspector(mac).inspect(sock)


def test_zeroes_for_a_start_time_are_none_at_all(mac: FakeLibproc) -> None:
    """The kernel can give a structure of zeroes for a process in exit; every such process would be the same one."""
    mac.full[50].start_tvsec = 0
    with StubSocket(50, cred(501, 20)) as sock, pytest.raises(PeerGone):
        DarwinPeerInspector(mac).inspect(sock)


def test_no_groups_is_an_unknown_group(mac: FakeLibproc) -> None:
    with StubSocket(50, cred(501)) as sock:
        assert DarwinPeerInspector(mac).inspect(sock).gid is None


@pytest.mark.parametrize(
    ("raw", "arguments"),
    [
        pytest.param(b"\2\0\0\0/bin/x\0\0\0x\0--y\0HOME=/\0", ("x", "--y"), id="the environment is left out"),
        pytest.param(b"\1\0\0\0/bin/x", ("",), id="cut short"),
        pytest.param(b"\1\0", (), id="nothing"),
    ],
)
def test_parse_arguments(raw: bytes, arguments: tuple[str, ...]) -> None:
    assert parse_arguments(raw) == arguments


def library() -> SimpleNamespace:
    """Stand for libSystem: functions of the same C signatures, that know process 50 alone."""
    path, device = b"/bin/zsh", ctypes.create_string_buffer(b"ttys003")

    def proc_pidinfo(pid: int, flavor: int, arg: int, buffer: int, size: int) -> int:
        if (pid, flavor, arg) != (50, darwin.PROC_PIDTBSDINFO, 0):
            return 0
        ctypes.memmove(buffer, bytes(process(50, 40, b"zsh")), size)
        return size

    def proc_pidpath(pid: int, buffer: int, size: int) -> int:
        if pid != 50 or size < len(path):
            return 0
        ctypes.memmove(buffer, path, len(path))
        return len(path)

    def sysctl(names: Any, count: int, buffer: int, size: Any, *_new: int) -> int:
        if names[:count] != [1, 49, 50]:
            return -1
        ctypes.memmove(buffer, b"\1\0\0\0/bin/zsh\0zsh\0", 17)
        size[0] = 17
        return 0

    def devname(number: int, mode: int) -> int | None:
        return ctypes.addressof(device) if (number, mode) == (0x10000003, stat.S_IFCHR) else None

    number, address, size_t = ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t
    names, size = ctypes.POINTER(number), ctypes.POINTER(size_t)
    return SimpleNamespace(
        proc_pidinfo=ctypes.CFUNCTYPE(number, number, number, U64, address, number)(proc_pidinfo),
        proc_pidpath=ctypes.CFUNCTYPE(number, number, address, U32)(proc_pidpath),
        sysctl=ctypes.CFUNCTYPE(number, names, ctypes.c_uint, address, size, address, size_t)(sysctl),
        devname=ctypes.CFUNCTYPE(address, ctypes.c_int32, ctypes.c_uint16)(devname),
    )


def test_the_system_is_called_by_its_signatures() -> None:
    """Buffers, sizes and return values pass as libproc.h, sysctl(3) and devname(3) have them."""
    lib = SystemLibproc(library())
    assert lib.pidinfo(50, darwin.PROC_PIDTBSDINFO, darwin.BSDINFO.size) == bytes(process(50, 40, b"zsh"))
    assert lib.pidinfo(51, darwin.PROC_PIDTBSDINFO, darwin.BSDINFO.size) is None
    assert (lib.pidpath(50), lib.pidpath(51)) == (b"/bin/zsh", None)
    assert lib.procargs(50) == b"\1\0\0\0/bin/zsh\0zsh\0"
    assert lib.procargs(51) is None
    assert (lib.devname(0x10000003), lib.devname(0xF0000003)) == (b"ttys003", None)
    assert (lib.getsid(os.getpid()), lib.getsid(-1)) == (os.getsid(0), None)


def test_an_unknown_platform_is_refused() -> None:
    with pytest.raises(ConfigError, match="`win32` cannot tell who is asking"):
        inspector_for("win32")
