"""Another process of the same user cannot look into the daemon and its helpers, nor attach to them. Linux.

A test run of root drops every capability for the daemon and for who looks: to the kernel they then are a user like any
other, who owns the same files. What is refused must be granted for a process that is not hardened, or proves nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.rig import Background, Rig
from tests.e2e.whole_run import SDK, SERVICE_ACCOUNT, WholeRun

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at Linux's processes")
PROBE = Path(__file__).with_name("probe_process.py")
ORDINARY = (
    "setpriv", "--inh-caps=-all", "--bounding-set=-all", "--securebits=+noroot,+noroot_locked", "--no-new-privs",
)  # fmt: skip
REFUSED = {"EACCES", "EPERM"}


@pytest.fixture
def ordinary() -> tuple[str, ...]:
    """Return what makes a command that of an ordinary user."""
    if os.geteuid():
        return ()
    if shutil.which("setpriv") is None or subprocess.run([*ORDINARY, "true"], capture_output=True).returncode:
        pytest.skip("root needs a setpriv that can drop every capability")
    return ORDINARY


@pytest.fixture
def run(beside: Background) -> Iterator[WholeRun]:
    with Rig() as rig:
        yield WholeRun(rig, beside)


def probe(ordinary: tuple[str, ...], pid: int) -> dict[str, str]:
    ran = subprocess.run([*ordinary, sys.executable, "-I", PROBE, str(pid)], stdout=subprocess.PIPE, check=True)
    return dict(json.loads(ran.stdout))


def granted(ordinary: tuple[str, ...]) -> set[str]:
    """Return what this kernel lets a user do to a process of the same user that nobody hardened."""
    with subprocess.Popen([*ordinary, "sleep", "60"], stdout=subprocess.DEVNULL) as plain:
        try:
            while Path(f"/proc/{plain.pid}/comm").read_text() != "sleep\n":
                pass
            return {attempt for attempt, outcome in probe(ordinary, plain.pid).items() if outcome == "done"}
        finally:
            plain.kill()


def helpers(daemon: int) -> dict[str, int]:
    """Return the daemon's helper processes by the names of their programs."""
    found: dict[str, int] = {}
    for child in Path(f"/proc/{daemon}/task/{daemon}/children").read_text().split():
        words = Path(f"/proc/{child}/cmdline").read_text().split("\0")
        found |= {Path(word).name: int(child) for word in words if word.endswith(".py")}
    return found


def test_memory_is_closed_to_the_users_other_programs(run: WholeRun, ordinary: tuple[str, ...]) -> None:
    """After an unlock, of the daemon, of the helper that runs `op`, and of the one that uses the SDK."""
    possible = granted(ordinary)
    assert possible >= {"environ", "maps", "open files"}, "else a refusal says nothing"
    run.configure(SDK, SERVICE_ACCOUNT.format("systemd://op"))
    with run.serve(ordinary=ordinary) as daemon:
        run.broker("unlock")
        processes = {"broker": daemon.process.pid} | helpers(daemon.process.pid)
        assert set(processes) == {"broker", "terminal.py", "process.py"}
        for name, pid in processes.items():
            refused = {attempt for attempt, outcome in probe(ordinary, pid).items() if outcome in REFUSED}
            assert possible - refused == set(), name
        assert run.rig.token("search").token  # they live on
