"""What every `PeerInspector` keeps: the kernel's, with real processes behind real sockets, and the fake."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import pytest

from tests.fakes_peers import FakePeerInspector
from tests.peer_processes import CONNECT, Listener, finish, program
from tokenbroker.errors import PeerGone
from tokenbroker.peers import inspector_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tokenbroker.ports import PeerInspector


class Subject(Protocol):
    """An inspector, a connected socket, and a way to end the process behind it."""

    inspector: PeerInspector
    sock: socket.socket

    def end(self) -> None: ...

    def close(self) -> None: ...


class Kernel:
    def __init__(self, folder: Path) -> None:
        self.inspector = inspector_for(sys.platform)
        self._listener = Listener(folder)
        self._process = self._listener.run(program(CONNECT))
        self.sock = self._listener.accept()

    def end(self) -> None:
        finish(self.sock)
        self._process.wait(20)

    def close(self) -> None:
        self._listener.close()


class Fake:
    def __init__(self, folder: Path) -> None:
        self.fake = FakePeerInspector()
        self.inspector: PeerInspector = self.fake
        self.sock, self._other = socket.socketpair()

    def end(self) -> None:
        self.fake.end(self.fake.peer.pid)

    def close(self) -> None:
        self.sock.close()
        self._other.close()


@pytest.fixture(params=[Kernel, Fake], ids=["the kernel's", "the fake"])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    made: Subject = request.param(tmp_path)
    yield made
    made.close()


def test_a_live_peer_is_named_completely(subject: Subject) -> None:
    """Identity, evidence and root are all there for a program of this user."""
    peer = subject.inspector.inspect(subject.sock)
    assert (peer.uid, peer.gid) == (os.getuid(), os.getgid())
    assert peer.pid is not None
    assert peer.exe is not None
    assert peer.start_time is not None
    assert peer.agent_type is not None
    assert peer.evidence.isprintable()
    assert peer.evidence
    assert (peer.root_pid, peer.root_exe, peer.root_start_time) == (peer.pid, peer.exe, peer.start_time)
    assert peer.root_started_at is not None


def test_looking_twice_names_the_same_process(subject: Subject) -> None:
    """Pid and start time do not change while the process runs."""
    first, second = subject.inspector.inspect(subject.sock), subject.inspector.inspect(subject.sock)
    assert (first.pid, first.start_time) == (second.pid, second.start_time)


def test_a_live_peer_is_still_there(subject: Subject) -> None:
    peer = subject.inspector.inspect(subject.sock)
    assert subject.inspector.still_there(peer)
    assert peer.pid is not None
    assert peer.start_time is not None
    assert subject.inspector.alive(peer.pid, peer.start_time)


def test_a_peer_that_ended_is_not_there(subject: Subject) -> None:
    """Neither as a peer nor as a root process."""
    peer = subject.inspector.inspect(subject.sock)
    subject.end()
    assert not subject.inspector.still_there(peer)
    assert peer.pid is not None
    assert peer.start_time is not None
    assert not subject.inspector.alive(peer.pid, peer.start_time)


def test_inspecting_a_peer_that_ended_raises(subject: Subject) -> None:
    subject.end()
    with pytest.raises(PeerGone):
        subject.inspector.inspect(subject.sock)


def test_another_process_under_the_same_pid_is_not_the_peer(subject: Subject) -> None:
    """A reused pid has another start time."""
    peer = subject.inspector.inspect(subject.sock)
    assert peer.pid is not None
    assert peer.start_time is not None
    assert not subject.inspector.still_there(replace(peer, start_time=peer.start_time - 1))
    assert not subject.inspector.alive(peer.pid, peer.start_time - 1)


def test_a_peer_that_cannot_be_told_apart_is_not_there(subject: Subject) -> None:
    """Without pid or start time there is nothing to look for: the answer is no."""
    peer = subject.inspector.inspect(subject.sock)
    assert not subject.inspector.still_there(replace(peer, pid=None))
    assert not subject.inspector.still_there(replace(peer, start_time=None))
