"""What is told of a process, whichever kernel tells it; its ancestors; the one that a session is booked under.

Pure: whoever reads the kernel passes a reader in.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Final, NamedTuple

from tokenbroker.model import Peer
from tokenbroker.peers.evidence import Role, judge, role_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HELPER: Final = "broker-token"
HELPER_ARGUMENTS: Final = 4  # `python -I -S /path/broker-token` is the longest way in which it is started
MAX_ANCESTORS: Final = 64  # a chain is rarely longer than 12; the bound is for a process table that changes under us


class Process(NamedTuple):
    """One process at one moment. What is not known is `None`."""

    pid: int
    ppid: int
    name: str
    """The kernel's short name, at most 15 (Linux) or 16 (macOS) bytes; printable. The process can change it."""
    exe: str | None = None
    uid: int | None = None
    start_time: float | None = None
    """In the kernel's unit: clock ticks since boot (Linux), seconds since the epoch (macOS)."""
    started_at: float | None = None
    """Seconds since the epoch."""
    tty: str | None = None
    session: int | None = None
    """The pid of its session leader, as setsid(2) means it."""


def printable(raw: bytes) -> str:
    """Return text that fits one line of a log whatever bytes a process put into its name or path."""
    text = raw.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def lineage(process: Process, read: Callable[[int], Process | None]) -> tuple[Process, ...]:
    """Return the ancestors of `process`, nearest first, pid 1 included, as far as they can be read.

    A parent that started after its child is no parent but another process that got the pid: the walk ends there.
    """
    found: list[Process] = []
    seen = {process.pid, 0}
    child = process
    while child.ppid not in seen and len(found) < MAX_ANCESTORS:
        parent = read(child.ppid)
        if parent is None or _younger(parent, child):
            break
        seen.add(parent.pid)
        found.append(parent)
        child = parent
    return tuple(found)


def _younger(parent: Process, child: Process) -> bool:
    if parent.start_time is None or child.start_time is None:
        return False
    return parent.start_time > child.start_time


def is_helper(arguments: Sequence[str]) -> bool:
    """Tell whether a command line is that of `broker-token`.

    A process can write there what it likes. That is harmless: it moves only the bookkeeping, from the process to one
    of its own ancestors, and decides nothing about what it is given.
    """
    return any(posixpath.basename(argument) == HELPER for argument in arguments[:HELPER_ARGUMENTS])


def session_root(helper: Process, ancestors: Sequence[Process]) -> Process:
    """Return the program that called the one-shot `helper`, under which its session is booked.

    Of the ancestors that belong to the same user: the nearest known agent, because an agent gives each of its tool
    calls a session of its own; else the session leader, which in a terminal is the shell; else the outermost.
    Never pid 1 or a user's systemd.
    """
    own = [a for a in ancestors if a.uid == helper.uid and a.pid != 1 and a.name != "systemd"]
    agent = next((a for a in own if role_of(a) is Role.AGENT), None)
    leader = next((a for a in own if a.pid == helper.session), None)
    return agent or leader or (own[-1] if own else helper)


def describe(
    uid: int | None,
    gid: int | None,
    process: Process,
    ancestors: Sequence[Process],
    *,
    arguments: Sequence[str],
    cgroup: str | None = None,
) -> Peer:
    """Draw up the `Peer`: identity from the kernel, `agent_type` from the evidence, root from the ancestors."""
    agent_type, evidence = judge(process, ancestors, cgroup)
    root = session_root(process, ancestors) if is_helper(arguments) else process
    return Peer(
        uid=uid,
        gid=gid,
        pid=process.pid,
        exe=process.exe,
        start_time=process.start_time,
        tty=process.tty,
        agent_type=agent_type,
        evidence=evidence,
        root_pid=root.pid,
        root_exe=root.exe,
        root_start_time=root.start_time,
        root_started_at=root.started_at,
    )
