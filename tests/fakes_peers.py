"""A `PeerInspector` without a kernel."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from tokenbroker.errors import PeerGone
from tokenbroker.model import AgentType, Peer

if TYPE_CHECKING:
    import socket


def interactive_peer(pid: int = 4121) -> Peer:
    """Return a program of this user at a terminal."""
    return Peer(
        uid=os.getuid(),
        gid=os.getgid(),
        pid=pid,
        exe="/usr/bin/python3.11",
        start_time=100.0,
        tty="pts/3",
        agent_type=AgentType.INTERACTIVE,
        evidence="terminal pts/3",
        root_pid=pid,
        root_exe="/usr/bin/python3.11",
        root_start_time=100.0,
        root_started_at=1_800_000_000.0,
    )


def autonomous_peer(pid: int = 4122) -> Peer:
    """Return a program of this user that cron started."""
    return replace(
        interactive_peer(pid), tty=None, agent_type=AgentType.AUTONOMOUS, evidence="started by cron (pid 512)"
    )


class FakePeerInspector:
    """Every socket leads to `peer`; a process lives from the moment that it is put there until `end()`."""

    def __init__(self, peer: Peer | None = None) -> None:
        self._alive: dict[int, float] = {}
        self.peer = peer if peer is not None else interactive_peer()

    @property
    def peer(self) -> Peer:
        """The peer behind every socket. Putting another one there leaves the earlier one running."""
        return self._peer

    @peer.setter
    def peer(self, peer: Peer) -> None:
        self._peer = peer
        self.start(peer.pid, peer.start_time)
        self.start(peer.root_pid, peer.root_start_time)

    def start(self, pid: int | None, start_time: float | None) -> None:
        """Let a process run."""
        if pid is not None and start_time is not None:
            self._alive[pid] = start_time

    def end(self, pid: int | None) -> None:
        """End a process."""
        if pid is not None:
            self._alive.pop(pid, None)

    def inspect(self, sock: socket.socket) -> Peer:
        if self.peer.pid is not None and not self.still_there(self.peer):
            raise PeerGone(f"process {self.peer.pid} has ended")
        return self.peer

    def still_there(self, peer: Peer) -> bool:
        return peer.pid is not None and peer.start_time is not None and self.alive(peer.pid, peer.start_time)

    def alive(self, pid: int, start_time: float) -> bool:
        return self._alive.get(pid) == start_time
