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
    from collections.abc import Iterator

    from tests.e2e.rig import Daemon
    from tests.e2e.watcher import Sight

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
HELPERS = ("op_terminal.py", "sdk_process.py")
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


def first_life(run: WholeRun, watch: Watcher) -> None:
    """Everything that a user does with `op`, a service account, the SDK and Connect, until the daemon crashes."""
    reader = handed_over()
    place = f"fd://{reader}"
    run.configure(APP, SERVICE_ACCOUNT.format(place))
    with run.serve(reader) as daemon:
        os.close(reader)
        events = Stream(run.rig)
        run.trouble_with_op(place)
        run.work()
        run.trouble_with_issuers()
        run.rotation()
        run.renewal()
        run.mistake(daemon)
        run.broker("lock")
        run.another_pair()
        crash(run, watch, daemon, signal.SIGABRT)
        run.shown["events"] = events.all()


def second_life(run: WholeRun, watch: Watcher) -> None:
    """What a user does after a crash: look, first without a daemon, unlock; and the daemon crashes again."""
    run.configure(APP, SERVICE_ACCOUNT.format("systemd://op"))
    run.broker("doctor --read", 1)
    with run.serve() as daemon:
        run.broker("unlock", 1)
        run.tokens("search --as autonomous", "search")
        crash(run, watch, daemon, signal.SIGSEGV)


def crash(run: WholeRun, watch: Watcher, daemon: Daemon, number: int) -> None:
    """Crash the daemon, and before it one of its helpers, all of which may write no core."""
    helpers = watch.children(daemon.process.pid)
    assert {name for name in HELPERS if any(name in words for words in helpers.values())}, helpers
    for pid in (daemon.process.pid, *helpers):
        assert core_limits(pid) == ["0", "0"]
    helper = next(iter(helpers))
    os.kill(helper, number)
    wait_until(lambda: helper not in watch.children(daemon.process.pid) or is_dead(helper))
    run.crash(daemon, number)


def is_dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def core_limits(pid: int) -> list[str]:
    """Return the soft and the hard limit."""
    line = next(line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if "core file" in line)
    return line.split()[4:6]


def test_nothing_leaks_from_a_whole_run(run: WholeRun) -> None:
    """Not into arguments, environments, logs at their most talkative, answers, events, files, names of files, cores."""
    rig = run.rig
    with Watcher([rig.folder], but=run.meant) as watch:
        first_life(run, watch)
        second_life(run, watch)
    search = run.all_secrets()
    shown = [f"{name} in {where}" for where, text in run.shown.items() for name in search.in_text(text)]
    assert shown == []
    assert search.in_text(rig.config.read_bytes()) == set()
    exempt = [one for one in watch.sights if is_the_one_exception(one, rig)]
    assert exempt, "op of the service account was seen"
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
    """Check that the run was what it should be, and that the watcher saw it."""
    commands = [b" ".join(one.argv).decode() for one in watch.sights if one.what == "argv"]
    for word in (*HELPERS, "op inject", "op service-account ratelimit", "broker-token search", "broker doctor --read"):
        assert any(word in one for one in commands), word
    called = {call.pid for call in run.rig.op.calls()}
    assert len(called & watch.pids) >= 0.9 * len(called), (called - watch.pids, watch.looks, watch.longest)
    assert len(run.search_names) if hasattr(run, "search_names") else True
