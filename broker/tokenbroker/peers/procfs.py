"""Read /proc: what Linux tells of a process (proc_pid_stat(5)).

A process that cannot be read is `None`, whether it ended or /proc is mounted so as to hide it (`hidepid`): the two
cannot be told apart, and either is refused in the same way.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from tokenbroker.peers.process import Process, printable

if TYPE_CHECKING:
    from collections.abc import Callable

READ_SIZE: Final = 4096  # bytes; a stat line has about 350, of a command line the first four arguments matter
DELETED: Final = b" (deleted)"  # what the kernel appends to the path of a program file that was replaced
DEAD: Final = frozenset({b"Z", b"X", b"x"})
_UNIX98_MAJORS: Final = range(136, 144)  # Documentation/admin-guide/devices.txt
_TTY_MAJORS: Final = {4: "tty", 166: "ttyACM", 188: "ttyUSB", 229: "hvc"}
_SERIAL_MINOR: Final = 64  # of major 4: below are the consoles, from here on the serial lines


def boot_time() -> float:
    """Return the epoch second of the boot as the wall clock now counts it; cheaper than `btime` of /proc/stat."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def tty_name(number: int) -> str | None:
    """Return the terminal's name for a stat line's `tty_nr`, such as `pts/3`; `None` for no terminal."""
    number &= 0xFFFFFFFF
    if number == 0:
        return None
    major, minor = number >> 8 & 0xFFF, number & 0xFF | number >> 12 & 0xFFF00
    if major in _UNIX98_MAJORS:
        return f"pts/{(major - _UNIX98_MAJORS.start) * 256 + minor}"
    if major == 4 and minor >= _SERIAL_MINOR:  # noqa: PLR2004  # TTY_MAJOR
        return f"ttyS{minor - _SERIAL_MINOR}"
    if major in _TTY_MAJORS:
        return f"{_TTY_MAJORS[major]}{minor}"
    return "console" if (major, minor) == (5, 1) else f"tty {major}:{minor}"


class ProcFs:
    """A mounted /proc."""

    def __init__(self, root: str = "/proc", *, boot: Callable[[], float] = boot_time) -> None:
        """Read below `root`; `boot` gives the epoch second at which the machine started."""
        self._root = root
        self._boot = boot
        self._ticks = os.sysconf("SC_CLK_TCK")

    def process(self, pid: int) -> Process | None:
        """Return what is known of a live process, or `None`.

        A zombie counts as ended. So does a program whose main thread ended before the others, which /proc shows as one.
        """
        stat = self._stat(pid)
        if stat is None:
            return None
        name, fields = stat
        start = float(fields[19])
        return Process(
            pid=pid,
            ppid=int(fields[1]),
            name=printable(name),
            exe=self._exe(pid),
            uid=self._uid(pid),
            start_time=start,
            started_at=round(self._boot() + start / self._ticks, 2),
            tty=tty_name(int(fields[4])),
            session=int(fields[3]),
        )

    def start_time(self, pid: int) -> float | None:
        """Return the start time of a live process in clock ticks since boot, or `None`."""
        stat = self._stat(pid)
        return None if stat is None else float(stat[1][19])

    def arguments(self, pid: int) -> tuple[str, ...]:
        """Return the first arguments of its command line, which the process itself can rewrite."""
        return tuple(printable(argument) for argument in (self._read(pid, "cmdline") or b"").split(b"\0"))

    def cgroup(self, pid: int) -> str | None:
        """Return /proc/PID/cgroup, made printable line by line."""
        data = self._read(pid, "cgroup")
        return None if data is None else "\n".join(printable(line) for line in data.splitlines())

    def _stat(self, pid: int) -> tuple[bytes, list[bytes]] | None:
        """Split the stat line: the name stands in parentheses and may itself hold spaces and parentheses."""
        data = self._read(pid, "stat")
        if not data:
            return None
        end = data.rindex(b")")
        fields = data[end + 2 :].split(None, 20)
        return None if fields[0] in DEAD else (data[data.index(b"(") + 1 : end], fields)

    def _read(self, pid: int, name: str) -> bytes | None:
        try:
            fd = os.open(f"{self._root}/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return os.read(fd, READ_SIZE)
        except OSError:
            return None  # ESRCH: it ended between the two
        finally:
            os.close(fd)

    def _exe(self, pid: int) -> str | None:
        try:
            path = os.readlink(f"{self._root}/{pid}/exe".encode())  # noqa: PTH115  # bytes: a path need not be text
        except OSError:
            return None  # another user's process, or one that made itself undumpable
        return printable(path.removesuffix(DELETED))

    def _uid(self, pid: int) -> int | None:
        """Return the owner; root for an undumpable process, which then is nobody's session root."""
        try:
            return os.stat(f"{self._root}/{pid}").st_uid  # noqa: PTH116  # on every request, for every ancestor
        except OSError:
            return None
