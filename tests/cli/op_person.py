"""A person at a terminal, in front of `broker doctor op`.

The command runs with a clock that is `SPEED` times as fast as the wall's, in a world that is as much quicker than
life, so that what it measures looks as on a real machine; its waiting moves the world's clock and takes no time.
"""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.rig import Rig

ROOT = Path(__file__).parents[2]
SPEED = 20.0
PATIENCE = 20.0  # seconds
AGAIN = 0.5  # seconds until a key is pressed again

PROGRAM = """
import argparse, fcntl, os, signal, sys, termios, time
sys.path.insert(0, sys.argv[1])
if os.isatty(0):
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.default_int_handler)
from tests.standins.op.state import Store
from tests.standins.op_world import OpWorld
from tokenbroker.cli import say
from tokenbroker.cli.doctor_op import doctor_op
from tokenbroker.cli.op_conversation import Times
from tokenbroker.errors import BrokerError
from tokenbroker.paths import Surroundings

world = OpWorld(Store(sys.argv[2]))
options = argparse.ArgumentParser()
for name in ("--config", "--socket", "--wait", "--report"):
    options.add_argument(name)
times = Times(lambda: time.monotonic() * SPEED, lambda: time.time() + world.store.look()["clock_offset"], world.advance)
try:
    code = doctor_op(options.parse_args(sys.argv[3:]), Surroundings.of_this_process(), times)
except BrokerError as error:
    say(error.message, error.hint)
    code = 1
except KeyboardInterrupt:
    code = 130
sys.exit(code)
""".replace("SPEED", str(SPEED))

QUESTION = re.compile(r"(?:\[y/n(?:/\?)?\]|\[Return: [^\]]*\]) $")

CTRL_C = "\x03"
CTRL_D = "\x04"
YES, NO, RETURN = "y\n", "n\n", "\n"


def command(rig: Rig, *options: str) -> list[str]:
    return [sys.executable, "-I", "-c", PROGRAM, str(ROOT), rig.op.store.path, *options]


class Person:
    """Runs the command on a terminal of its own, and answers."""

    def __init__(self, rig: Rig, *options: str) -> None:
        self.rig = rig
        self.said = ""
        self.asked: list[str] = []
        self._insist = ""
        self._end, theirs = pty.openpty()
        self.process = subprocess.Popen(
            command(rig, *options), env=rig.environ(TERM_PROGRAM="kitty"), cwd=rig.home,
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)

    def prompted(self) -> str:
        """Tell the truth about the last call, which the world knows."""
        calls = [call for call in self.rig.op.calls() if call.argv[:2] == ["vault", "list"]]
        return YES if calls[-1].prompted else NO

    def answer(self, question: str) -> str:
        """Return what is typed at `question`; a test's person overrides the ones that it is about."""
        if "just now?" in question:
            return self.prompted()
        if "once more, for you to press Cancel" in question:
            return NO
        return RETURN if "Return" in question else YES

    def type(self, text: str) -> None:
        os.write(self._end, text.encode())
        self._insist = CTRL_C if text == CTRL_C else ""

    def talk(self, answer: Callable[[str], str | None] | None = None) -> int:
        """Answer every question until the command ends; `answer` comes first and may pass with `None`."""
        while (question := self.question()) is not None:
            given = answer(question) if answer else None
            self.type(self.answer(question) if given is None else given)
        return self.process.wait(PATIENCE)

    def question(self) -> str | None:
        """Read until the next question, and return its line; `None` at the end of the command."""
        heard = ""
        while QUESTION.search(heard) is None:
            more = self._read()
            if not more:
                return None
            heard += more
        self.asked.append(heard.rpartition("\n")[2])
        return self.asked[-1]

    def hear(self, text: str) -> None:
        """Read until it has said `text`."""
        while text not in self.said:
            assert self._read(), self.said

    def _read(self) -> str:
        deadline = time.monotonic() + PATIENCE
        while not select.select([self._end], [], [], AGAIN)[0]:
            # CPython notices a signal too late when it comes between its last look and read(2). People press again.
            os.write(self._end, self._insist.encode())
            if time.monotonic() > deadline:
                self.process.kill()
                raise AssertionError(f"nothing more after: {self.said}")
        try:
            more = os.read(self._end, 4096).decode(errors="replace")
        except OSError:  # Linux: everybody has closed the other end
            more = ""
        self.said += more.replace("\r\n", "\n")
        return more

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._end)
