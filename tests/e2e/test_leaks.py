"""Every secret of a whole eventful run is looked for wherever it must not be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.rig import Background, Rig, wait_until
from tests.e2e.watcher import Watcher
from tests.e2e.whole_run import APP, SERVICE_ACCOUNT, SERVICE_TOKEN, Stream, WholeRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.e2e.rig import Daemon
    from tests.e2e.watcher import Sight

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
VARIABLE = b"OP_SERVICE_ACCOUNT_TOKEN"


@pytest.fixture
def run(beside: Background) -> Iterator[WholeRun]:
    with Rig() as rig:
        yield WholeRun(rig, beside)


def handed_over() -> int:
    """Return a descriptor from which the service account's token can be read, once."""
    reader, writer = os.pipe()
    os.write(writer, f"{SERVICE_TOKEN}\n".encode())
    os.close(writer)
    return reader


def life_with_op(run: WholeRun, watch: Watcher) -> None:
    """The app through `op`, a service account whose token came through a descriptor; ends by an abort."""
    reader = handed_over()
    place = f"fd://{reader}"
    run.configure(APP, SERVICE_ACCOUNT.format(place))
    with run.serve(reader) as daemon:
        os.close(reader)
        events = Stream(run.rig)
        run.trouble_with_op(place)
        run.work()
        run.wrong_places(place)
        run.mistake(daemon)
        wait_until(lambda: daemon.log.count("Token fetched profile=write") > 2)  # one was renewed
        run.rotation()
        run.broker("lock")
        run.broker("unlock", code=1)
        crash(run, watch, daemon, "op/terminal.py", signal.SIGABRT)
        run.shown["events"] = events.all()


def life_with_another_pair(run: WholeRun, watch: Watcher) -> None:
    """The app through its SDK and a Connect server, taken over from `op` by a reload; ends by an abort."""
    run.configure(APP, SERVICE_ACCOUNT.format("systemd://op"))
    with run.serve() as daemon:
        events = Stream(run.rig)
        run.broker("unlock")
        run.another_pair()
        crash(run, watch, daemon, "sdk/process.py", signal.SIGABRT)
        run.shown["events"] = events.all()


def life_after_a_crash(run: WholeRun, watch: Watcher) -> None:
    """What a user does when no daemon runs, and then with one that crashes otherwise."""
    autonomous = SERVICE_ACCOUNT.format("systemd://op")
    run.configure(APP, autonomous, wrong=True)
    run.broker("doctor --read", code=1)
    run.configure(APP, autonomous)
    with run.serve() as daemon:
        run.broker("unlock")
        run.broker("lock")  # so that these wait for `op` as well, which waits to be seen
        run.tokens("search --as autonomous", "search")
        crash(run, watch, daemon, "op/terminal.py", signal.SIGSEGV)


def crash(run: WholeRun, watch: Watcher, daemon: Daemon, program: str, number: int) -> None:
    """Crash a helper and the daemon, which hold secrets, where the same leaves a core of an ordinary program."""
    possible = cores_are_written(run, number)
    before = set(Path("/").glob("core*"))  # helpers are in this folder
    helpers = {pid: words for pid, words in watch.children(daemon.process.pid).items() if program in words}
    for pid in (daemon.process.pid, *helpers):
        assert core_limits(pid) == ["0", "0"]
    helper = next(iter(helpers))
    os.kill(helper, number)
    wait_until(lambda: is_dead(helper))
    run.crash(daemon, number)
    assert list(run.cores.iterdir()) == [], f"a core; possible here: {possible}"
    assert set(Path("/").glob("core*")) == before


def cores_are_written(run: WholeRun, number: int) -> bool:
    """Tell whether a crash leaves a core in that folder, which the system decides; remove it."""
    plain = subprocess.Popen([*run.command()[:4], "sleep", "60"])
    wait_until(lambda: Path(f"/proc/{plain.pid}/comm").read_text() == "sleep\n")
    plain.send_signal(number)
    plain.wait()
    written = list(run.cores.iterdir())
    for core in written:
        core.unlink()
    return bool(written)


def is_dead(pid: int) -> bool:
    """Tell whether the process has ended, and its core would be written."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def core_limits(pid: int) -> list[str]:
    """Return the soft and the hard limit."""
    line = next(line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if "core file" in line)
    return line.split()[4:6]


@pytest.mark.parametrize("life", [life_with_op, life_with_another_pair, life_after_a_crash])
def test_nothing_leaks_from_a_whole_run(run: WholeRun, life: Callable[[WholeRun, Watcher], None]) -> None:
    """Not into arguments, environments, logs at their most talkative, answers, events, files and their names, cores."""
    rig = run.rig
    marks = rig.folder / "op/seen"
    marks.mkdir()
    rig.op.set(seen_in=str(marks))
    with Watcher([rig.folder], but=run.meant, marks=marks) as watch:
        life(run, watch)
    search = run.all_secrets()
    assert [f"{name} in {where}" for where, text in run.shown.items() for name in search.in_text(text)] == []
    assert search.in_text(rig.config.read_bytes()) == set()
    exempt = [one for one in watch.sights if is_the_one_exception(one, rig)]
    assert search.in_sights(one for one in watch.sights if one not in exempt) == set()
    assert {name for one in exempt for name in search.in_text(one.data)} == {"service account token"}
    assert rig.op.leaks() == []
    complete(run, watch)


def is_the_one_exception(sight: Sight, rig: Rig) -> bool:
    """Tell whether this is the environment of `op` itself, with the token in its variable and nowhere else."""
    is_op = str(rig.bin / "op").encode() in sight.argv[:4]
    pair = VARIABLE + b"=" + SERVICE_TOKEN.encode()
    variables = sight.data.split(b"\0")
    return is_op and sight.what == "environ" and pair in variables and sight.data.count(SERVICE_TOKEN.encode()) == 1


def complete(run: WholeRun, watch: Watcher) -> None:
    """Check that the watcher saw what there was to see: else nothing found means nothing."""
    commands = [b" ".join(one.argv).decode() for one in watch.sights if one.what == "argv"]
    for word in ("op/terminal.py", "op inject", "op service-account ratelimit", "broker-token search", "broker unlock"):
        assert any(word in one for one in commands), word
    called = {call.pid for call in run.rig.op.calls() if call.outcome != "killed"}  # the others waited to be seen
    assert called <= watch.pids, (called - watch.pids, watch.looks, watch.longest)
    log = b"".join(one.data for one in watch.sights if one.where.endswith("daemon.log"))
    assert b"DEBUG Token served" in log
    assert b"Unlocked backend=service-account" in log
