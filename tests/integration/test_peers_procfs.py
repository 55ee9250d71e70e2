"""/proc as it may be: odd names, unreadable parts, hidden processes. A folder stands for it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

if sys.platform != "linux":
    pytest.skip("/proc is Linux's", allow_module_level=True)

from tokenbroker.peers.process import Process
from tokenbroker.peers.procfs import ProcFs, tty_name

if TYPE_CHECKING:
    from pathlib import Path

TICKS = 100.0


class FakeProc:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.proc = ProcFs(str(root), boot=lambda: 1_000_000.0)

    def add(self, pid: int, *, name: bytes = b"bash", state: bytes = b"S", tty: int = 0) -> Path:
        """Add a process; its fields after the state are ppid 7, pgrp 8, session 9, tty; it started at tick 250."""
        folder = self.root / str(pid)
        folder.mkdir()
        between = b" ".join([b"0"] * 14)
        line = b"%d (%s) %s 7 8 9 %d %s 250 1 2 3\n" % (pid, name, state, tty, between)
        (folder / "stat").write_bytes(line)
        return folder


@pytest.fixture
def fake(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path)


def test_a_process_is_read_field_by_field(fake: FakeProc) -> None:
    folder = fake.add(50, tty=0x8803)
    (folder / "exe").symlink_to("/usr/bin/bash")
    assert fake.proc.process(50) == Process(
        50, 7, "bash", "/usr/bin/bash", folder.stat().st_uid, 250.0, 1_000_000.0 + 250 / TICKS, "pts/3", 9
    )
    assert fake.proc.start_time(50) == 250.0


@pytest.mark.parametrize("name", [b"a b", b"tmux: server", b") S 1 1", b"((", b"a)b(c"])
def test_a_name_may_hold_spaces_and_parentheses(fake: FakeProc, name: bytes) -> None:
    """A process that calls itself `) S 1 1` does not thereby get init for a parent."""
    fake.add(50, name=name)
    process = fake.proc.process(50)
    assert process is not None
    assert (process.name, process.ppid, process.start_time) == (name.decode(), 7, 250.0)


@pytest.mark.parametrize("state", [b"Z", b"X", b"x"])
def test_a_dead_process_is_none(fake: FakeProc, state: bytes) -> None:
    fake.add(50, state=state)
    assert fake.proc.process(50) is None
    assert fake.proc.start_time(50) is None


def test_a_hidden_process_is_none(fake: FakeProc) -> None:
    """/proc mounted with hidepid shows nothing of it."""
    assert fake.proc.process(50) is None
    assert fake.proc.start_time(50) is None
    assert fake.proc.cgroup(50) is None
    assert fake.proc.arguments(50) == ("",)


def test_a_process_that_ends_between_open_and_read_is_none(fake: FakeProc) -> None:
    """The kernel then gives ESRCH, or nothing."""
    folder = fake.add(50)
    (folder / "stat").write_bytes(b"")
    assert fake.proc.process(50) is None
    (folder / "stat").unlink()
    (folder / "stat").mkdir()  # readable by nobody, as far as read(2) goes
    assert fake.proc.process(50) is None


def test_an_unreadable_program_file_is_unknown(fake: FakeProc) -> None:
    fake.add(50)
    process = fake.proc.process(50)
    assert process is not None
    assert process.exe is None


def test_the_mark_of_a_deleted_file_is_taken_off(fake: FakeProc) -> None:
    (fake.add(50) / "exe").symlink_to("/usr/bin/python3.11 (deleted)")
    process = fake.proc.process(50)
    assert process is not None
    assert process.exe == "/usr/bin/python3.11"


def test_arguments_and_cgroup_are_made_printable(fake: FakeProc) -> None:
    folder = fake.add(50)
    (folder / "cmdline").write_bytes(b"python3\0-I\0/x\n\0")
    (folder / "cgroup").write_bytes(b"9:name=systemd:/a\x1b\n0::/\n")
    assert fake.proc.arguments(50)[:3] == ("python3", "-I", "/x\\n")
    assert fake.proc.cgroup(50) == "9:name=systemd:/a\\x1b\n0::/"


@pytest.mark.parametrize(
    ("number", "name"),
    [
        pytest.param(0, None, id="none"),
        pytest.param(0x8800, "pts/0", id="the first pseudo-terminal"),
        pytest.param(0x8803, "pts/3", id="another"),
        pytest.param(0x108805, "pts/261", id="beyond 255: the high bits of the minor number"),
        pytest.param(0x8905, "pts/261", id="beyond 255: the next major number"),
        pytest.param(0x401, "tty1", id="a console"),
        pytest.param(0x440, "ttyS0", id="a serial line"),
        pytest.param(0x501, "console", id="the system's console"),
        pytest.param(0xE500, "hvc0", id="a virtual machine's console"),
        pytest.param(0xCC40, "tty 204:64", id="any other"),
        pytest.param(0x80008800 - (1 << 32), "pts/524288", id="the sign bit belongs to the number"),
    ],
)
def test_tty_name(number: int, name: str | None) -> None:
    """The encoding of proc_pid_stat(5)."""
    assert tty_name(number) == name
