"""Which terminal session a process belongs to: what the app keys its grants by (contract §2, session credential)."""

# pathlib is slow to import; see the package's rule 2.
# ruff: noqa: PTH123

from __future__ import annotations

import os
import sys

UNIX98_MAJOR = 136  # first of the eight majors of /dev/pts, each of 256 minors; Linux admin-guide/devices.txt


def _stat(pid: int) -> list[str]:
    """Return the fields of Linux's /proc/PID/stat from the third on; empty if the process is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _ps(pid: int, column: str) -> str:
    """Ask `ps`, where there is no /proc."""
    import subprocess  # noqa: PLC0415  # slow to import, and Linux does without

    found = subprocess.run(["/bin/ps", "-o", f"{column}=", "-p", str(pid)], capture_output=True, text=True)
    return found.stdout.strip()


def controlling_tty() -> str:
    """Return this process's controlling terminal, e.g. `/dev/pts/3`; empty when it has none."""
    if not sys.platform.startswith("linux"):
        name = _ps(os.getpid(), "tty")
        return "" if name in {"", "??", "?", "-"} else f"/dev/{name}"
    number = int(_stat(os.getpid())[4])
    if number <= 0:
        return ""
    major, minor = (number >> 8) & 0xFFF, (number & 0xFF) | ((number >> 12) & 0xFFF00)
    if UNIX98_MAJOR <= major < UNIX98_MAJOR + 8:
        return f"/dev/pts/{(major - UNIX98_MAJOR) * 256 + minor}"
    return f"/dev/char/{major}:{minor}"


def session_start() -> str:
    """Return when this process's session began, in the kernel's own unit; its leader's pid if that has exited."""
    leader = os.getsid(0)
    if not sys.platform.startswith("linux"):
        return _ps(leader, "lstart") or f"leader {leader}"
    fields = _stat(leader)
    return fields[19] if fields else f"leader {leader}"


def given_environment() -> dict[str, str]:
    """Return the environment as the caller passed it, without what Python adds for itself at start."""
    try:
        with open("/proc/self/environ", "rb") as file:
            block = file.read()
    except OSError:
        added = {"__PYVENV_LAUNCHER__", "__CF_USER_TEXT_ENCODING"}
        coerced = {("LC_CTYPE", value) for value in ("C.UTF-8", "C.utf8", "UTF-8")}
        return {n: v for n, v in os.environ.items() if n not in added and (n, v) not in coerced}
    pairs = (os.fsdecode(entry).partition("=") for entry in block.split(b"\0") if entry)
    return {name: value for name, _, value in pairs}
