"""Real programs that connect to a real Unix socket, started in the ways that matter to who they are taken for."""

from __future__ import annotations

import contextlib
import os
import pty
import socket
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# The programs end when the socket is closed on this side, or at once if told so by a byte.
CONNECT: Final = """
import socket, sys
end = socket.socket(socket.AF_UNIX)
end.connect(sys.argv[1])
end.recv(1)
"""
# Leave the ancestors of the test run behind: it may itself be run by cron, in CI or in an IDE's terminal.
ORPHAN: Final = """
import os, time
parent = os.getpid()
if os.fork():
    os._exit(0)
os.setsid()
while os.getppid() == parent:
    time.sleep(0.001)
"""
# The terminal is the second argument, a descriptor.
TERMINAL: Final = """
import fcntl, termios
fcntl.ioctl(int(sys.argv[2]), termios.TIOCSCTTY, 0)
"""
# The child goes on, in a session of its own, the parent waits for it.
CHILD: Final = """
import os
child = os.fork()
if child:
    os.waitpid(child, 0)
    os._exit(0)
os.setsid()
"""


def program(*parts: str) -> str:
    """Put the parts of a program together."""
    return "import sys\n" + "\n".join(textwrap.dedent(part) for part in parts)


class Listener:
    """A Unix socket that accepts one program at a time."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "s")
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(self.path)
        self._listening.listen()
        self._listening.settimeout(20)
        self._open: list[socket.socket] = []
        self._started: list[subprocess.Popen[bytes]] = []

    def run(
        self, code: str, *, python: str = sys.executable, argv: tuple[str, ...] = (), terminal: int | None = None
    ) -> subprocess.Popen[bytes]:
        """Start `code`; it gets the socket's path and the terminal's descriptor as arguments."""
        arguments = [python, "-I", "-S", *(argv or ("-c", code)), self.path]
        fds = () if terminal is None else (terminal,)
        process = subprocess.Popen([*arguments, *map(str, fds)], stdin=subprocess.DEVNULL, pass_fds=fds)
        self._started.append(process)
        return process

    def accept(self) -> socket.socket:
        """Return the broker's end of the next connection."""
        connection, _ = self._listening.accept()
        connection.settimeout(20)
        self._open.append(connection)
        return connection

    def connect(self, code: str, **how: object) -> socket.socket:
        """Start `code` and return the broker's end of its connection."""
        self.run(code, **how)  # type: ignore[arg-type]  # passed on as they are
        return self.accept()

    def close(self) -> None:
        """Let every program end, and wait for those that are this process's children."""
        for connection in self._open:
            connection.close()
        self._listening.close()
        for process in self._started:
            process.wait(20)


def finish(connection: socket.socket) -> None:
    """Let the program on the other end exit, and wait until its end of the connection is closed."""
    connection.sendall(b"x")
    while connection.recv(1):
        pass


@contextlib.contextmanager
def terminal() -> Iterator[tuple[int, str]]:
    """Give the program's side of a new pseudo-terminal, with its name such as `pts/3`."""
    ours, theirs = pty.openpty()
    try:
        yield theirs, os.ttyname(theirs).removeprefix("/dev/")
    finally:
        os.close(theirs)
        os.close(ours)
