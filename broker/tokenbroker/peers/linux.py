"""Who is asking, on Linux: unix(7) names the process that connected, /proc describes it.

The argument against pid reuse: SO_PEERCRED gives a number, which may since belong to another process; SO_PEERPIDFD
(Linux 6.5) gives a handle on the process itself. /proc is read by the number while the handle is held, and the handle
is asked afterwards whether the process lives. If so, it lived throughout, and the number was its own throughout.
The handle stays with the description, so that a later question, one per served token, is one system call and about
that very process. Without the handle the start time is read before and after: facts of two processes are never mixed,
but a reuse that happened before the first look goes unseen.

A socket handed on to another process still names the one that connected, and is refused when that one has ended.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from tokenbroker.errors import PeerGone
from tokenbroker.model import Peer
from tokenbroker.peers.process import describe, lineage
from tokenbroker.peers.procfs import ProcFs

if TYPE_CHECKING:
    from collections.abc import Callable

SO_PEERPIDFD: Final = 77  # asm-generic/socket.h, so x86, ARM, RISC-V; the socket module of Python 3.11 lacks it
_UCRED: Final = struct.Struct("iII")  # struct ucred { pid_t pid; uid_t uid; gid_t gid; }
_NOBODY: Final = 0xFFFFFFFF  # "no id": an id that does not exist in our namespace, or a socket with no peer
_NOT_OFFERED: Final = frozenset({errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.ENOSYS})
OUTSIDE: Final = "its process is not in the broker's pid namespace"


def peer_credentials(sock: socket.socket) -> tuple[int | None, int | None, int | None]:
    """Return (pid, uid, gid) of the process that connected. Raises `PeerGone` if the kernel will not say."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    except OSError as error:
        raise PeerGone(f"peer cannot be told: {error.strerror}") from error
    pid, uid, gid = _UCRED.unpack(raw)
    return pid or None, None if uid == _NOBODY else uid, None if gid == _NOBODY else gid


def peer_handle(sock: socket.socket) -> int | None:
    """Return a pidfd of the process that connected, to be closed by the caller; `None` before Linux 6.5.

    Raises `PeerGone` if the process was reaped (EINVAL before Linux 6.16), and for want of a file descriptor too:
    whoever exhausts them must not get the weaker check.
    """
    try:
        return sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError as error:
        if error.errno in _NOT_OFFERED:
            return None
        raise PeerGone(f"peer cannot be held on to: {error.strerror}") from error


class Handle:
    """A pidfd, closed with its last user, and the process that it was found to be."""

    __slots__ = ("_fd", "_poll", "pid", "start_time")

    def __init__(self, fd: int) -> None:
        """Own `fd`."""
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self.pid: int | None = None
        self.start_time: float | None = None

    def ended(self) -> bool:
        """Tell whether the process ended: only then is its pidfd readable (pidfd_open(2))."""
        return bool(self._poll.poll(0))

    def __del__(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)


class LinuxPeerInspector:
    """`PeerInspector` of Linux. Keeps nothing between calls but what stands in the peers it described."""

    def __init__(
        self, proc: ProcFs | None = None, *, handle: Callable[[socket.socket], int | None] = peer_handle
    ) -> None:
        """Read processes from `proc`, /proc if not given; `handle` is replaced to stand for an older kernel."""
        self._proc = proc if proc is not None else ProcFs()
        self._handle = handle

    def inspect(self, sock: socket.socket) -> Peer:
        """Describe the peer now. Raises `PeerGone` if it is no more, or cannot be seen."""
        pid, uid, gid = peer_credentials(sock)
        if pid is None:
            return Peer(uid=uid, gid=gid, evidence=OUTSIDE)
        pidfd = self._handle(sock)
        handle = None if pidfd is None else Handle(pidfd)
        peer = self._described(pid, uid, gid)
        if handle is not None:
            handle.pid, handle.start_time = peer.pid, peer.start_time
            peer = replace(peer, handle=handle)
        if not self.still_there(peer):
            raise _gone(pid)
        return peer

    def still_there(self, peer: Peer) -> bool:
        """Tell whether the process described still runs under its pid; `False` for one that could not be described."""
        if peer.pid is None or peer.start_time is None:
            return False
        handle = peer.handle
        if isinstance(handle, Handle):
            return (handle.pid, handle.start_time) == (peer.pid, peer.start_time) and not handle.ended()
        return self.alive(peer.pid, peer.start_time)

    def alive(self, pid: int, start_time: float) -> bool:
        """Tell whether the process `pid` that started at `start_time` still runs."""
        return self._proc.start_time(pid) == start_time

    def _described(self, pid: int, uid: int | None, gid: int | None) -> Peer:
        process = self._proc.process(pid)
        if process is None:
            raise _gone(pid)
        ancestors = lineage(process, self._proc.process)
        arguments = self._proc.arguments(pid)
        # The uid of the socket, not that of /proc, which is root's for a process that made itself undumpable.
        return describe(
            uid, gid, process._replace(uid=uid), ancestors, arguments=arguments, cgroup=self._proc.cgroup(pid)
        )


def _gone(pid: int) -> PeerGone:
    return PeerGone(f"process {pid} has ended, or cannot be seen in /proc")
