"""What another process of the same user can read of a process: `probe_process.py PID` prints JSON, attempt → outcome.

An outcome is `done`, or the name of the error, as `EACCES`. It stops nothing for longer than it takes to let go again.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PTRACE_ATTACH, PTRACE_DETACH = 16, 17  # <sys/ptrace.h>
WALL = 0x40000000  # <linux/wait.h>: __WALL
PIDFD_GETFD = 438  # the same number on every architecture
NOWHERE = 8  # an address that no process has: whoever may read memory gets EFAULT
LIBC = ctypes.CDLL(None, use_errno=True)


class _Span(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def _check(result: int) -> None:
    if result == -1:
        raise OSError(ctypes.get_errno(), "")


def _attach(pid: int) -> None:
    _check(LIBC.ptrace(ctypes.c_long(PTRACE_ATTACH), pid, None, None))
    os.waitpid(pid, WALL)
    LIBC.ptrace(ctypes.c_long(PTRACE_DETACH), pid, None, None)


def _read_memory(pid: int) -> None:
    text = ctypes.create_string_buffer(8)
    here, there = _Span(ctypes.addressof(text), 8), _Span(NOWHERE, 8)
    try:
        _check(LIBC.process_vm_readv(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0))
    except OSError as error:
        if error.errno != errno.EFAULT:
            raise


def _pidfd(pid: int) -> None:
    """Take a copy of the process's standard output: whoever has it reads what is meant for the daemon."""
    _check(LIBC.syscall(PIDFD_GETFD, os.pidfd_open(pid), 1, 0))


ATTEMPTS: dict[str, Callable[[int], object]] = {
    "environ": lambda pid: Path(f"/proc/{pid}/environ").read_bytes(),
    "maps": lambda pid: Path(f"/proc/{pid}/maps").read_bytes(),
    "mem": lambda pid: Path(f"/proc/{pid}/mem").open("rb"),  # noqa: SIM115  # closed with this process
    "open files": lambda pid: Path(f"/proc/{pid}/fd/1").readlink(),
    "process_vm_readv": _read_memory,
    "pidfd_getfd": _pidfd,
    "ptrace attach": _attach,
}


def outcome(attempt: Callable[[int], object], pid: int) -> str:
    """Return how one attempt ended: `done`, or the name of the error."""
    try:
        attempt(pid)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


if __name__ == "__main__":
    print(json.dumps({name: outcome(attempt, int(sys.argv[1])) for name, attempt in ATTEMPTS.items()}))
