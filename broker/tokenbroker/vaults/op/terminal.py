"""The helper process in which `op` runs: leader of one terminal session until a lock.

1Password gives its authorization to a terminal session: "an ID that's based on the current tty, plus the start time"
(contract 2). A daemon has no terminal, and a new one for each call means a new prompt for each call. So this program
makes one pseudo-terminal, becomes leader of its session, and starts every `op` in it.

Standard library only; started as `python -I -S op/terminal.py`. Rules of this file:
1. One child at a time, in a process group of its own, ended by SIGTERM and then SIGKILL to the whole group.
2. Nothing that a child or grandchild does can hang this program: it reads what is there when the child has ended and
   closes its ends, whoever still holds the others.
3. When the daemon's end of stdin closes, the child's group and this program end.
4. NoNewPrivileges is never set here: on Linux `op` is set-gid and the app refuses it otherwise.

Frames, both ways: 4 bytes of length, big-endian, then a dict by `marshal`: both ends are one interpreter, it is built
in, and json would cost five milliseconds more. Requests: `{argv, env, stdin, timeout, grace, limit}` (`stdin`
bytes or None, times in seconds, `limit` in bytes of stdout) and `{"cancel": True}`. Answers: `{"group": pid}`
once the child runs, then `{code, stdout, stderr, timed_out, too_big}`; `{"refused": errno}` when it cannot be started.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import marshal
import os
import resource
import selectors
import signal
import struct
import subprocess
import sys
import termios
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # the module itself would cost a tenth of the start
    from typing import IO, Any

EXIT_NO_TERMINAL = 3
PLAIN = "plain"
HEADER = struct.Struct(">I")
_CHUNK = 65536
_QUESTION = b"[Y/n]"  # what `op` ends a question with that it puts to a terminal, e.g. when there is no account
_PR_SET_DUMPABLE = 4  # linux/prctl.h
_NOISE = 32 * 1024  # bytes of the beginning and of the end of stderr that are kept
_LAST_READS = 64  # of a pipe whose writer has ended; somebody else may write to it for ever
_UNKILLABLE = 1.0  # seconds to wait for a child to vanish after SIGKILL before reporting it as it is


def frame(message: dict[str, Any]) -> bytes:
    """Return `message` as one frame."""
    body = marshal.dumps(message)
    return HEADER.pack(len(body)) + body


def send(pipe: int, data: bytes) -> None:
    """Write all of `data`, making no copy of it."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(pipe, rest) :]


class Child:
    """One `op` process and the pipes to it."""

    def __init__(self, request: dict[str, Any], selector: selectors.BaseSelector) -> None:
        """Start it. Raises `OSError` when the program cannot be run."""
        self._selector = selector
        self._input: bytes = request["stdin"] or b""
        self._grace: float = request["grace"]
        self._room: int = request["limit"]
        self._ended_by: str | None = None
        self._killed = False
        self._output: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self._deadline = time.monotonic() + request["timeout"]
        # `op inject` insists on a true pipe (S_ISFIFO) for its template; everything else reads nothing.
        given = subprocess.DEVNULL if request["stdin"] is None else subprocess.PIPE
        self._process = subprocess.Popen(
            request["argv"], env=request["env"], stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            process_group=0, bufsize=0,
        )  # fmt: skip
        self.group = self._process.pid
        self._watch(self._process.stdin, selectors.EVENT_WRITE, self._write)
        self._watch(self._process.stdout, selectors.EVENT_READ, lambda: self._read("stdout"))
        self._watch(self._process.stderr, selectors.EVENT_READ, lambda: self._read("stderr"))

    def _watch(self, pipe: IO[bytes] | None, event: int, callback: Any) -> None:
        if pipe is not None:
            os.set_blocking(pipe.fileno(), False)
            self._selector.register(pipe, event, callback)

    def _drop(self, pipe: IO[bytes] | None) -> None:
        if pipe is not None and not pipe.closed:
            self._selector.unregister(pipe)
            pipe.close()

    def _write(self) -> None:
        pipe = self._process.stdin
        assert pipe is not None  # noqa: S101  # for the type checker: it is registered only when there is one
        try:
            self._input = self._input[os.write(pipe.fileno(), self._input[:_CHUNK]) :]
        except BrokenPipeError:
            self._input = b""
        if not self._input:
            self._drop(pipe)

    def _read(self, name: str) -> bool:
        """Take what is there; return whether there may be more."""
        pipe = getattr(self._process, name)
        if pipe.closed:
            return False
        try:
            data = os.read(pipe.fileno(), _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self._drop(pipe)
            return False
        kept = self._output[name]
        kept += data
        if name == "stderr":
            if _QUESTION in kept:
                self.end("asked")  # nobody is there to answer, and it would wait for ever (contract 1.7)
            del kept[_NOISE : max(_NOISE, len(kept) - _NOISE)]
        elif len(kept) > self._room:
            kept.clear()
            self._room = -1
            self.end("too_big")
        return self._room >= 0

    def end(self, reason: str) -> None:
        """Ask the group to end, remembering why; it is killed when its grace is over."""
        if self._ended_by is None:
            self._ended_by = reason
            self._deadline = time.monotonic() + self._grace
            self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the whole group now."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        # PermissionError is what macOS answers for a group of which only a zombie is left.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.group, number)

    def patience(self) -> float:
        """Return the seconds until something must be done if nothing happens."""
        left: float = self._deadline - time.monotonic()
        return max(0.0, left)

    def step(self) -> dict[str, Any] | None:
        """Do what is due; return the answer once the child has ended."""
        code = self._process.poll()
        if code is None and (time.monotonic() < self._deadline or self._escalate()):
            return None
        return self._answer(code)

    def _escalate(self) -> bool:
        """Take the next measure against an overdue child; return whether there was one left."""
        if self._ended_by is None:
            self.end("timed_out")
        elif not self._killed:
            self._killed = True
            self._deadline = time.monotonic() + _UNKILLABLE
            self.kill()
        else:
            return False
        return True

    def _answer(self, code: int | None) -> dict[str, Any]:
        if self._ended_by is not None:
            self.kill()  # what the child left behind in its group
        for name in self._output:
            for _ in range(_LAST_READS):
                if not self._read(name):
                    break
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            self._drop(pipe)
        return {
            "code": code,
            **{name: bytes(data) for name, data in self._output.items()},
            "timed_out": self._ended_by == "timed_out",
            "too_big": self._ended_by == "too_big",
        }


class Helper:
    """The loop: requests in, one child, answers out, the terminal drained."""

    def __init__(self, terminal: int | None, woken: int) -> None:
        """Watch the pseudo-terminal's master if there is one, the pipe that SIGCHLD writes to, and the daemon."""
        # `select` works with terminals everywhere; kqueue and poll do not on every macOS.
        self._selector = selectors.SelectSelector()
        self._buffer = bytearray()
        self._child: Child | None = None
        self._stopping = False
        if terminal is not None:
            self._selector.register(terminal, selectors.EVENT_READ, lambda: self._drain(terminal))
        self._selector.register(woken, selectors.EVENT_READ, lambda: self._drain(woken))
        self._selector.register(0, selectors.EVENT_READ, self._receive)

    def _drain(self, fd: int) -> None:
        with contextlib.suppress(OSError):
            os.read(fd, _CHUNK)

    def _receive(self) -> None:
        data = os.read(0, _CHUNK)
        if not data:
            self.stop()
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            (length,) = HEADER.unpack_from(self._buffer)
            if len(self._buffer) < HEADER.size + length:
                return
            body = bytes(self._buffer[HEADER.size : HEADER.size + length])
            del self._buffer[: HEADER.size + length]
            self._obey(marshal.loads(body))  # noqa: S302  # from the daemon, our parent

    def _obey(self, request: dict[str, Any]) -> None:
        if "cancel" in request:
            if self._child is not None:
                self._child.end("cancelled")
            return
        try:
            self._child = Child(request, self._selector)
        except OSError as error:
            self._send({"refused": error.errno})
        else:
            self._send({"group": self._child.group})

    def _send(self, message: dict[str, Any]) -> None:
        send(1, frame(message))

    def stop(self) -> None:
        """Have `run` end soon; from a signal handler, which must not cut the start of a child in two."""
        self._stopping = True

    def run(self) -> None:
        """Serve until the daemon goes away; leave no child's group behind."""
        try:
            while not self._stopping:
                self._step()
        except BrokenPipeError:
            return
        finally:
            if self._child is not None:
                self._child.kill()

    def _step(self) -> None:
        """Do what is due. Of its own, so that no variable holds a child or an answer, secrets in it, until the next."""
        for key, _ in self._selector.select(self._child.patience() if self._child else None):
            key.data()
        answer = self._child.step() if self._child else None
        if answer is not None:
            self._child = None
            self._send(answer)


def harden() -> None:
    """Keep other processes of the user, and core files, out of this one's memory."""
    keep_private()
    close_memory()


def keep_private() -> None:
    """Write no core file, and no file that others can read."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def close_memory() -> None:
    """Let no other process of the user read this one's memory, or (Linux) see which program it is."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def take_terminal() -> int:
    """Make a pseudo-terminal and this process the leader of its session; return the master.

    The other end stays open here, so that the terminal lives between children.
    """
    if os.getsid(0) != os.getpid():
        os.setsid()
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    os.set_blocking(master, False)
    return master


def main() -> None:
    """Run the helper on its standard input and output; with `PLAIN` as argument, in a session without terminal."""
    harden()
    try:
        terminal = None if sys.argv[1:] == [PLAIN] else take_terminal()
    except OSError:
        raise SystemExit(EXIT_NO_TERMINAL) from None
    # Children stand in the background of the terminal. Ignored, these two make a read from it fail at once instead of
    # stopping the child for ever, and let it set modes; Go programs keep what they inherit.
    signal.signal(signal.SIGTTIN, signal.SIG_IGN)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    woken, wake = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    helper = Helper(terminal, woken)
    signal.signal(signal.SIGTERM, lambda *_: helper.stop())
    helper.run()


if __name__ == "__main__":
    main()
