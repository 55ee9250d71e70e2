"""Who is asking, on macOS: unix(4) names the process that connected, libproc describes it.

Written to Apple's headers (xnu bsd/sys/un.h, ucred.h, proc_info.h, sysctl.h; libproc.h). Two traps:
1. The kernel can name a pid that already ended: the uid comes from the socket, and a pid that libproc does not know
   is refused.
2. PROC_PIDTBSDINFO is refused for other users' processes (`login`, `cron`, `launchd`), so the walk to the ancestors
   falls back to PROC_PIDT_SHORTBSDINFO, which knows neither start time nor terminal.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from typing import TYPE_CHECKING, Any, Final, Protocol

from tokenbroker.errors import PeerGone
from tokenbroker.peers.process import Process, describe, lineage, printable

if TYPE_CHECKING:
    import socket

    from tokenbroker.model import Peer

LIBRARY: Final = "/usr/lib/libSystem.B.dylib"  # libproc, sysctl and devname are in it
SOL_LOCAL: Final = 0
LOCAL_PEERCRED: Final = 0x001
LOCAL_PEERPID: Final = 0x002
XUCRED: Final = struct.Struct("=IIhxx16I")  # struct xucred: version, uid, ngroups, padding, groups[NGROUPS]
XUCRED_VERSION: Final = 0

PROC_PIDTBSDINFO: Final = 3
PROC_PIDT_SHORTBSDINFO: Final = 13
PROC_PIDPATHINFO_MAXSIZE: Final = 4096  # 4 * MAXPATHLEN
# struct proc_bsdinfo: 12 words (flags, status, xstatus, pid, ppid, uid, …), comm, name, 6 words (…, e_tdev at the
# fourth, …), start seconds and microseconds.
BSDINFO: Final = struct.Struct("=12I16s32s6I2Q")
# struct proc_bsdshortinfo: pid, ppid, pgid, status, comm, 8 words (flags, uid, …).
SHORTBSDINFO: Final = struct.Struct("=4I16s8I")
SZOMB: Final = 5
NODEV: Final = 0xFFFFFFFF
CTL_KERN: Final = 1
KERN_PROCARGS2: Final = 49
ARGUMENTS_SIZE: Final = (
    256 * 1024
)  # bytes; from a smaller buffer than arguments and environment need, the start is missing


class Libproc(Protocol):
    """The calls into the system, so that a test may stand for it."""

    def pidinfo(self, pid: int, flavor: int, size: int) -> bytes | None:
        """Return the `size` bytes of proc_pidinfo(), or `None` if it fails or fills less."""
        ...

    def pidpath(self, pid: int) -> bytes | None:
        """Return the program file's path (proc_pidpath()), or `None`."""
        ...

    def procargs(self, pid: int) -> bytes | None:
        """Return sysctl KERN_PROCARGS2, or `None`."""
        ...

    def devname(self, device: int) -> bytes | None:
        """Return the name of a character device below /dev (devname(3)), or `None`."""
        ...

    def getsid(self, pid: int) -> int | None:
        """Return the session id (getsid(2)), or `None`."""
        ...


class SystemLibproc:
    """The real ones, in libSystem."""

    def __init__(self, lib: Any = None) -> None:
        """Load the library unless one is given. Raises `OSError` elsewhere than on macOS."""
        lib = lib if lib is not None else ctypes.CDLL(LIBRARY)
        self._pidinfo = lib.proc_pidinfo
        self._pidinfo.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_int]
        self._pidpath = lib.proc_pidpath
        self._pidpath.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32]
        self._sysctl = lib.sysctl
        size = ctypes.POINTER(ctypes.c_size_t)
        names = ctypes.POINTER(ctypes.c_int)
        self._sysctl.argtypes = [names, ctypes.c_uint, ctypes.c_void_p, size, ctypes.c_void_p, ctypes.c_size_t]
        self._devname = lib.devname
        self._devname.argtypes = [ctypes.c_int32, ctypes.c_uint16]  # dev_t, mode_t
        self._devname.restype = ctypes.c_char_p

    def pidinfo(self, pid: int, flavor: int, size: int) -> bytes | None:
        """See `Libproc`."""
        buffer = ctypes.create_string_buffer(size)
        return buffer.raw if self._pidinfo(pid, flavor, 0, buffer, size) == size else None

    def pidpath(self, pid: int) -> bytes | None:
        """See `Libproc`."""
        buffer = ctypes.create_string_buffer(PROC_PIDPATHINFO_MAXSIZE)
        return buffer.value if self._pidpath(pid, buffer, PROC_PIDPATHINFO_MAXSIZE) > 0 else None

    def procargs(self, pid: int) -> bytes | None:
        """See `Libproc`."""
        names = (ctypes.c_int * 3)(CTL_KERN, KERN_PROCARGS2, pid)
        buffer = ctypes.create_string_buffer(ARGUMENTS_SIZE)
        size = ctypes.c_size_t(ARGUMENTS_SIZE)
        failed = self._sysctl(names, 3, buffer, ctypes.byref(size), None, 0)
        return None if failed else buffer.raw[: size.value]

    def devname(self, device: int) -> bytes | None:
        """See `Libproc`."""
        name: bytes | None = self._devname(ctypes.c_int32(device).value, stat.S_IFCHR)
        return name

    def getsid(self, pid: int) -> int | None:
        """See `Libproc`."""
        try:
            return os.getsid(pid)
        except OSError:
            return None


def parse_arguments(raw: bytes) -> tuple[str, ...]:
    """Return argv from KERN_PROCARGS2: argc, the program's path, NULs up to a boundary, then the arguments.

    The environment, which follows them, is not looked at.
    """
    if len(raw) < 4:  # noqa: PLR2004  # an int
        return ()
    count = int.from_bytes(raw[:4], "little")  # every Mac that can run this is little-endian
    _path, _nul, rest = raw[4:].partition(b"\0")
    return tuple(printable(argument) for argument in rest.lstrip(b"\0").split(b"\0")[:count])


class DarwinPeerInspector:
    """`PeerInspector` of macOS. Keeps nothing between calls."""

    def __init__(self, libproc: Libproc) -> None:
        """Ask `libproc`."""
        self._lib = libproc

    def inspect(self, sock: socket.socket) -> Peer:
        """Describe the peer now. Raises `PeerGone` if it is no more."""
        uid, gid, pid = self._credentials(sock)
        process = self._process(pid)
        if process is None or process.start_time is None:
            raise PeerGone(f"process {pid} has ended, or cannot be seen")
        ancestors = lineage(process, self._process)
        arguments = parse_arguments(self._lib.procargs(pid) or b"")
        peer = describe(uid, gid, process, ancestors, arguments=arguments)
        if not self.still_there(peer):
            raise PeerGone(f"process {pid} has ended")
        return peer

    def still_there(self, peer: Peer) -> bool:
        """Tell whether the process described still runs under its pid."""
        return peer.pid is not None and peer.start_time is not None and self.alive(peer.pid, peer.start_time)

    def alive(self, pid: int, start_time: float) -> bool:
        """Tell whether the process `pid` that started at `start_time` still runs."""
        raw = self._lib.pidinfo(pid, PROC_PIDTBSDINFO, BSDINFO.size)
        return raw is not None and BSDINFO.unpack(raw)[1] != SZOMB and _started(raw) == start_time

    def _credentials(self, sock: socket.socket) -> tuple[int, int | None, int]:
        """Return (uid, gid, pid)."""
        try:
            raw = sock.getsockopt(SOL_LOCAL, LOCAL_PEERCRED, XUCRED.size)
            pid = sock.getsockopt(SOL_LOCAL, LOCAL_PEERPID)
        except OSError as error:
            raise PeerGone(f"peer cannot be told: {error.strerror}") from error
        if len(raw) != XUCRED.size or pid <= 0:
            raise PeerGone("peer cannot be told: the kernel's answer is short")
        version, uid, groups, *gids = XUCRED.unpack(raw)
        if version != XUCRED_VERSION:
            raise PeerGone(f"peer cannot be told: unknown version {version} of struct xucred")
        return uid, gids[0] if groups > 0 else None, pid

    def _process(self, pid: int) -> Process | None:
        raw = self._lib.pidinfo(pid, PROC_PIDTBSDINFO, BSDINFO.size)
        if raw is None:
            return self._short(pid)
        fields = BSDINFO.unpack(raw)
        if fields[1] == SZOMB:
            return None
        started = _started(raw)
        return Process(
            pid=pid,
            ppid=fields[4],
            name=_name(fields[13]) or _name(fields[12]),
            exe=self._exe(pid),
            uid=fields[5],
            start_time=started,
            started_at=started,
            tty=self._tty(fields[17]),
            session=self._lib.getsid(pid),
        )

    def _short(self, pid: int) -> Process | None:
        raw = self._lib.pidinfo(pid, PROC_PIDT_SHORTBSDINFO, SHORTBSDINFO.size)
        if raw is None:
            return None
        fields = SHORTBSDINFO.unpack(raw)
        return Process(pid=pid, ppid=fields[1], name=_name(fields[4]), exe=self._exe(pid), uid=fields[6])

    def _exe(self, pid: int) -> str | None:
        path = self._lib.pidpath(pid)
        return None if path is None else printable(path)

    def _tty(self, device: int) -> str | None:
        if device == NODEV:
            return None
        name = self._lib.devname(device)
        return printable(name) if name and name != b"??" else f"tty {device >> 24}:{device & 0xFFFFFF}"


def _name(raw: bytes) -> str:
    return printable(raw.partition(b"\0")[0])


def _started(raw: bytes) -> float | None:
    """Return the epoch second of the start; `None` for the zeroes that the kernel can give for a process in exit."""
    seconds, microseconds = BSDINFO.unpack(raw)[-2:]
    return seconds + microseconds / 1e6 if seconds else None
