"""The daemon's event loop while each thing that it depends on hangs, seen by a task that ticks in it (watched.py)."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING

from bench.processes import PYTHON, ROOT, folder
from bench.report import Row
from bench.vault import vault
from tests.e2e.rig import Background
from tests.standins.connect_server import ConnectServer, drip
from tests.standins.sdk_app import SdkApp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    Scene = Callable[[Path], AbstractContextManager[str]]

ROUNDS = 2
PAUSE = 20.0  # milliseconds


@contextlib.contextmanager
def black_hole(path: str = "") -> Iterator[str]:
    """Listen on loopback and never answer; give the address that `path` makes of it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}{path}"


@contextlib.contextmanager
def deaf_op(place: Path) -> Iterator[str]:
    """Install an `op` that hangs and ignores SIGTERM; give its path."""
    world = vault(place)
    world.fault("ignore-sigterm", times=None)
    with contextlib.closing(world):
        yield str(world.install(place / "bin"))


@contextlib.contextmanager
def stuck_library(place: Path) -> Iterator[str]:
    """Install the app's library, whose prompt never ends; give its path."""
    app = SdkApp(place / "app")
    app.person("hang")
    yield str(app.library)


@contextlib.contextmanager
def dripping_server() -> Iterator[str]:
    """Run a Connect server that answers a byte at a time, without end; give its address."""
    server = ConnectServer()
    server.fail(drip)
    with Background() as beside:
        beside.enter(server)
        yield server.url


SCENES: dict[str, tuple[str, Scene]] = {  # what hangs → its name for watched.py, and how it is set up
    "`op` hangs, deaf to SIGTERM": ("op", deaf_op),
    "1Password's SDK hangs": ("sdk", stuck_library),
    "the Connect server is silent": ("connect", lambda _: black_hole()),
    "the Connect server drips": ("connect", lambda _: dripping_server()),
    "the keyring's dialog is open": ("keyring", lambda _: contextlib.nullcontext("")),
    "both message buses are silent": ("bus", lambda _: contextlib.nullcontext("")),
    "the issuer hangs": ("issuer", lambda _: black_hole("/token")),
}


def pauses(what: str, scene: Scene) -> list[float]:
    """Return what watched.py tells."""
    with folder() as place, scene(place) as where, socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(place / "silent"))
        silent.listen()
        argv = [PYTHON, "-m", "bench.watched", what, str(place), where]
        done = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return [float(word) for word in done.stdout.split()]


def rows() -> Iterator[Row]:
    """Measure; the worst of the rounds counts, on both sides."""
    for name, (what, scene) in SCENES.items():
        if what == "sdk" and shutil.which("cc") is None:
            yield Row(f"longest pause while {name}", "not measured: no C compiler")
            continue
        rounds = [pauses(what, scene) for _ in range(ROUNDS)]
        idle, _ = max((one[0], one[1]) for one in rounds)
        during, queued = max((one[2], one[3]) for one in rounds)
        yield Row(
            f"longest pause while {name}",
            f"{during:.1f} ms ({queued:.1f} without processor)",
            f"{idle:.1f} ms (nothing hangs)",
            target=f"≤ {PAUSE:g} ms",
            met=during <= PAUSE,
        )
