"""What can be seen of this test's processes and files from outside, looked at every few milliseconds. Linux.

`with Watcher([folder], but=[a folder inside]) as watch:` follows every process that is a descendant of this one or of
a session that one began: arguments, environment, names and contents of open and mapped files; and all files in the
folders, also those that live only for a moment. `watch.sights` is what was seen, each with its place in words.

The limit of it: what lives for less than one look is not seen. `looks` and `longest` tell how good the looking was.
Processes that want to be seen leave a file, named by their pid, in the folder `marks`: it is removed once they were.
"""

# pathlib is slow, and this looks many times a second.
# ruff: noqa: PTH115, PTH116, PTH208

from __future__ import annotations

import contextlib
import os
import stat
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

EVERY = 0.004  # seconds between two looks
DEEP = 10  # looks between two at the open and mapped files of a process
LARGEST = 32 << 20  # bytes; nothing that is written here is as large
PROGRAMS = ("/usr/", "/lib", "/bin/", "/etc/", "/proc/", "/sys/", "/dev/pts/", "/dev/null", "/dev/ptmx", "/dev/urandom")


@dataclass(frozen=True)
class Sight:
    """One thing that was seen."""

    what: str
    """`argv`, `environ`, `name` of a file, or `file`, its content."""
    where: str
    """The process or the file, for a person."""
    argv: tuple[bytes, ...]
    """Of the process; empty for a file."""
    data: bytes = field(repr=False)


class Watcher:
    """The eye, in a thread of its own."""

    def __init__(self, folders: Iterable[Path], *, but: Iterable[Path] = (), marks: Path | None = None) -> None:
        """Watch `folders`, except what is at or below one of `but`: where secrets are meant to be."""
        self._folders = [str(folder) for folder in folders]
        self._but = tuple(str(path) for path in but)
        self._marks = marks
        self._programs = (*PROGRAMS, f"{sys.prefix}/", f"{sys.base_prefix}/")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher")
        self._failed: Exception | None = None
        self._family = {os.getpid()}
        self._strangers: set[int] = set()
        self._sessions: set[int] = set()
        self._boring: set[str] = set()
        self._arguments_of: dict[int, bytes] = {}
        self._files: dict[tuple[object, ...], tuple[int, int]] = {}
        self._contents: dict[str, list[bytes]] = {}
        self._seen: dict[tuple[str, int, bytes], Sight] = {}
        self.looks = 0
        self.longest = 0.0
        """Seconds between the beginnings of two looks, at worst."""
        self.pids: set[int] = set()
        """All processes whose arguments were seen."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._search_folders()
        if self._failed is not None:
            raise self._failed

    @property
    def sights(self) -> list[Sight]:
        """What was seen so far."""
        files = [Sight("file", where, (), text) for where, texts in self._contents.items() for text in texts]
        return [*self._seen.values(), *files]

    def children(self, pid: int) -> dict[int, str]:
        """Return the living children of a process with their arguments."""
        found = {}
        for child in self._family - {pid}:
            with contextlib.suppress(OSError):
                if _parent_and_session(child)[0] == pid:
                    found[child] = _read(f"/proc/{child}/cmdline").replace(b"\0", b" ").decode(errors="replace")
        return found

    def _run(self) -> None:
        began = time.monotonic()
        try:
            while not self._over.wait(EVERY):
                self._look()
                now = time.monotonic()
                self.longest, began = max(self.longest, now - began), now
        except Exception as error:  # noqa: BLE001  # raised again where the test waits
            self._failed = error

    def _look(self) -> None:
        waiting = [] if self._marks is None else list(self._marks.iterdir())
        self._grow()
        self.looks += 1
        for pid in self._family - {os.getpid()}:
            deep = (self.looks + pid) % DEEP == 0
            with contextlib.suppress(OSError):  # it has ended, or is closed to readers, as the daemon is
                self._arguments(pid, again=deep)
                if deep:
                    self._open_files(pid)
        for mark in waiting:
            if int(mark.name) in self.pids:
                mark.unlink()
        self._search_folders()

    def _grow(self) -> None:
        """Take in who was born, and forget who died."""
        alive = {int(name) for name in os.listdir("/proc") if name.isdigit()}
        self._family &= alive
        self._strangers &= alive
        for pid in sorted(alive - self._family - self._strangers):
            with contextlib.suppress(OSError):
                parent, session = _parent_and_session(pid)
                ours = parent in self._family or session in self._sessions
                (self._family if ours else self._strangers).add(pid)
        for pid in self._family - {os.getpid()}:
            with contextlib.suppress(OSError):
                session = _parent_and_session(pid)[1]
                if session == pid:
                    self._sessions.add(session)

    def _arguments(self, pid: int, *, again: bool) -> None:
        words = _read(f"/proc/{pid}/cmdline")
        if words == self._arguments_of.get(pid) and not again:
            return
        environ = _read_if_let(f"/proc/{pid}/environ")
        # Between fork and exec a process shows its parent's; what belongs together is read without a change between.
        if not words or words != _read(f"/proc/{pid}/cmdline"):
            return
        argv = tuple(words.removesuffix(b"\0").split(b"\0"))
        where = f"pid {pid} {words.replace(bytes(1), b' ').decode(errors='replace').strip()}"
        self.pids.add(pid)
        self._arguments_of[pid] = words
        self._add("argv", pid, where, argv, words)
        if environ:
            self._add("environ", pid, where, argv, environ)

    def _add(self, what: str, pid: int, where: str, argv: tuple[bytes, ...], data: bytes) -> None:
        self._seen.setdefault((what, pid, data), Sight(what, where, argv, data))

    def _open_files(self, pid: int) -> None:
        for handle in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                self._file(os.readlink(handle.path), handle.path)
        for line in _read_if_let(f"/proc/{pid}/maps").splitlines():
            words = line.split(None, 5)
            if len(words) == 6 and words[5].startswith(b"/"):
                name = os.fsdecode(words[5])
                self._file(name, f"/proc/{pid}/map_files/{os.fsdecode(words[0])}" if "deleted" in name else name)

    def _search_folders(self) -> None:
        for folder in self._folders:
            for place, below, names in os.walk(folder):
                below[:] = [name for name in below if not self._is_meant(f"{place}/{name}")]
                for name in names:
                    self._file(f"{place}/{name}", f"{place}/{name}")

    def _is_meant(self, name: str) -> bool:
        return any(name == but or name.startswith(f"{but}/") for but in self._but)

    def _file(self, name: str, path: str) -> None:
        """Look at a regular file, known as `name`, that can be opened at `path`."""
        if name in self._boring:
            return
        if self._is_meant(name) or name.startswith(self._programs):
            self._boring.add(name)
            return
        with contextlib.suppress(OSError):
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode):
                return
            state = (status.st_size, status.st_mtime_ns)
            if self._files.get((status.st_dev, status.st_ino, name)) == state:
                return
            self._add("name", status.st_ino, f"the name of {name}", (), os.fsencode(name))
            text = _read(path)
            self._files[status.st_dev, status.st_ino, name] = state
            versions = self._contents.setdefault(name, [])
            if versions and text.startswith(versions[-1]):
                versions.pop()
            versions.append(text)


def _parent_and_session(pid: int) -> tuple[int, int]:
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return int(fields[1]), int(fields[3])


def _read_if_let(path: str) -> bytes:
    try:
        return _read(path)
    except PermissionError:
        return b""


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return b"".join(_chunks(fd))
    finally:
        os.close(fd)


def _chunks(fd: int) -> Iterator[bytes]:
    left = LARGEST
    while left > 0 and (chunk := os.read(fd, min(left, 1 << 20))):
        left -= len(chunk)
        yield chunk
