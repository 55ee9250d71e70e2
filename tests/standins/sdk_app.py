"""The 1Password app as its SDK meets it: a library of two functions, and a person who answers prompts.

The library is `op_sdk_ipc_client.c`, compiled here; the SDK that loads it is the real one. This file writes what the
app knows, and reads what happened. The app's own file names are used, so a copy of the library stands in each folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

SOURCE = Path(__file__).with_name("op_sdk_ipc_client.c")
DISMISSED = "authorization request denied by the user"  # how the app words it is not known (contract 5)


@cache
def compiled() -> bytes:
    """Return the library; skip the test where there is no C compiler, except where all tests must run."""
    compiler = shutil.which("cc")
    if compiler is None:
        reason = "no C compiler (`cc`) to build the stand-in for the library of the 1Password app"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder, "library")
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o", built, SOURCE, "-ldl"],
            check=True,
        )
        return built.read_bytes()


@dataclass(frozen=True)
class Event:
    """One thing that happened in the app."""

    pid: int
    what: str
    """`init_client`, `invoke`, `release_client`, `call` (answered by a return code), `prompt`."""
    how: str
    readable: bool
    """Whether the user's other processes could read that process's memory (Linux)."""


class SdkApp:
    """One app in one folder."""

    def __init__(self, folder: Path) -> None:
        """Install it: running, unlocked, with a person who approves."""
        self.folder = folder
        self.library = folder / "libop_sdk_ipc_client.so"
        folder.mkdir(mode=0o700, parents=True)
        self.library.write_bytes(compiled())
        self._answers: dict[str, str] = {}
        self._control: dict[str, object] = {}
        self.set(prompt="approve", dismissed=json.dumps({"name": "Internal", "message": DISMISSED}), epoch=0)

    def set(self, **settings: object) -> None:
        """Change the app's state, as a whole and at once."""
        self._control |= settings
        self._write("control", "".join(f"{key}={value}\n" for key, value in self._control.items() if value is not None))

    def person(self, answer: str) -> None:
        """Say what becomes of prompts: `approve`, `dismiss`, `hang`."""
        self.set(prompt=answer)

    def lock(self) -> None:
        """Lock and unlock the app: every authorization ends."""
        self.set(epoch=int(str(self._control["epoch"])) + 1)

    def fail(self, where: str, message: str, *, name: str = "Internal") -> None:
        """Answer every `init` or `invoke` with this error from now on."""
        self.set(**{f"{where}_error": json.dumps({"name": name, "message": message})})

    def keep(self, texts: Mapping[str, str]) -> None:
        """Have a secret for each reference."""
        for ref, text in texts.items():
            content = {"secret": text, "itemId": "i" * 26, "vaultId": "v" * 26}
            self.respond(ref, {"content": content, "error": None})

    def refuse(self, ref: str, kind: str) -> None:
        """Have the error `kind` for one reference."""
        error = {"type": kind}
        if kind.startswith(("parsing", "unable")):
            error["message"] = f"it echoes {ref}"
        self.respond(ref, {"content": None, "error": error})

    def respond(self, ref: str, response: Mapping[str, Any]) -> None:
        """Have this response for one reference."""
        self._answers[ref] = json.dumps(response)
        self._write("answers", "".join(f"{known}\t{answer}\n" for known, answer in self._answers.items()))

    def events(self) -> list[Event]:
        """Return what happened so far."""
        log = self.folder / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        fields = (line.split("\t") for line in lines)
        return [Event(int(pid), what, how, readable != "0") for pid, what, how, readable in fields]

    def story(self) -> list[str]:
        """Return what happened so far, in words."""
        return [f"{event.what} {event.how}" for event in self.events()]

    def prompts(self) -> int:
        """Return how often the person was asked."""
        return sum(event.what == "prompt" for event in self.events())

    def wait_for(self, happened: str, *, seconds: float = 20.0) -> None:
        """Wait until this is in the story; blocks."""
        end = time.monotonic() + seconds
        while happened not in self.story():
            assert time.monotonic() < end, f"no `{happened}` in {self.story()}"
            time.sleep(0.005)

    def _write(self, name: str, text: str) -> None:
        new = self.folder / f"{name}.new"
        new.write_text(text)
        new.replace(self.folder / name)
