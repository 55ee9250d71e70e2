"""The helper process in which `op` runs, driven with small shell programs in the place of `op`."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tokenbroker.errors import VaultUnavailable
from tokenbroker.vaults.op import terminal as op_terminal
from tokenbroker.vaults.op.runner import OpRunner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tokenbroker.vaults.op.errors import Completed

ENV = {"PATH": "/usr/bin:/bin"}


@pytest.fixture
async def runner() -> AsyncIterator[OpRunner]:
    """Give a runner that is quick to kill."""
    made = OpRunner(grace=0.2, output_limit=4 * 1024 * 1024)
    yield made
    await made.close()


async def sh(runner: OpRunner, script: str, *, stdin: bytes | None = None, seconds: float = 10.0) -> Completed:
    return await runner.run(["/bin/sh", "-c", script], env=ENV, stdin=stdin, seconds=seconds)


def helper_pid(runner: OpRunner) -> int:
    assert runner._helper.pid is not None
    return runner._helper.pid


def gone(pid: int) -> bool:
    """Tell whether a process has ended; a zombie whose parent has not looked yet has."""
    try:
        os.kill(pid, 0)
        stat = (
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() if Path("/proc/self").exists() else ["?"]
        )
    except (ProcessLookupError, FileNotFoundError):
        return True
    return stat[0] == "Z"


async def until(claim: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    async with asyncio.timeout(20):
        while not claim():  # noqa: ASYNC110  # another process sets no event of ours
            await asyncio.sleep(0.01)


async def until_gone(pid: int) -> None:
    await until(lambda: gone(pid))


async def read_pid(path: Path) -> int:
    await until(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


async def test_output_and_exit_code_come_back(runner: OpRunner) -> None:
    done = await sh(runner, "echo out; echo err >&2; exit 7")
    assert (done.code, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    assert not done.timed_out


async def test_template_comes_on_a_true_pipe_and_ends(runner: OpRunner) -> None:
    """`op inject` takes nothing that is not a FIFO."""
    done = await sh(runner, "test -p /dev/stdin && cat", stdin=b"template")
    assert done.stdout == b"template"


async def test_without_a_template_stdin_is_empty(runner: OpRunner) -> None:
    assert (await sh(runner, "cat; echo end")).stdout == b"end\n"


async def test_large_template_and_large_output_go_through(runner: OpRunner) -> None:
    text = b"x" * (1 << 20)
    assert (await sh(runner, "cat", stdin=text)).stdout == text


async def test_template_that_nobody_reads_does_no_harm(runner: OpRunner) -> None:
    assert (await sh(runner, "exec <&-; echo done", stdin=b"x" * (1 << 20))).stdout == b"done\n"


async def test_environment_is_exactly_what_was_given(runner: OpRunner) -> None:
    done = await runner.run(["/usr/bin/env"], env={"ONLY": "this"}, seconds=10)
    assert done.stdout == b"ONLY=this\n"


async def test_calls_share_one_terminal_session_and_each_has_its_own_group(runner: OpRunner) -> None:
    script = "import os; os.open('/dev/tty', os.O_RDWR); print(os.getsid(0), os.getpgrp())"
    calls = [await runner.run([sys.executable, "-I", "-S", "-c", script], env=ENV, seconds=10) for _ in range(2)]
    (session, group), (same_session, other_group) = [map(int, done.stdout.split()) for done in calls]
    assert session == same_session == helper_pid(runner)
    assert len({group, other_group, helper_pid(runner)}) == 3


async def test_question_on_the_terminal_fails_at_once(runner: OpRunner) -> None:
    """A child that asks there would otherwise wait for an answer, or be stopped, for ever."""
    done = await sh(runner, "if read answer </dev/tty; then echo answered; else echo failed; fi")
    assert done.stdout == b"failed\n"


async def test_terminal_is_drained(runner: OpRunner) -> None:
    """A child that floods its terminal does not block on it."""
    done = await sh(runner, "head -c 300000 /dev/zero >/dev/tty; echo done")
    assert done.stdout == b"done\n"


async def test_overdue_call_is_ended_with_its_whole_group(runner: OpRunner, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    done = await sh(runner, f"sleep 60 & echo $! >{pid}; wait", seconds=0.8)
    assert done.timed_out
    assert done.code == -signal.SIGTERM
    await until_gone(await read_pid(pid))


async def test_what_outlives_an_overdue_call_in_its_group_is_killed(runner: OpRunner, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    done = await sh(runner, f"(trap '' TERM; exec sleep 60) & echo $! >{pid}; wait", seconds=0.8)
    assert done.code == -signal.SIGTERM
    await until_gone(await read_pid(pid))


async def test_call_that_ignores_sigterm_is_killed(runner: OpRunner) -> None:
    started = time.monotonic()
    done = await sh(runner, "trap '' TERM; echo deaf; while :; do sleep 1; done", seconds=0.8)
    assert (done.timed_out, done.code, done.stdout) == (True, -signal.SIGKILL, b"deaf\n")
    assert time.monotonic() - started < 20


async def test_stopped_call_is_killed(runner: OpRunner) -> None:
    done = await sh(runner, "kill -STOP $$", seconds=0.8)
    assert (done.timed_out, done.code) == (True, -signal.SIGKILL)


async def test_grandchild_that_holds_the_pipes_delays_nothing(runner: OpRunner, tmp_path: Path) -> None:
    """1Password's cache daemon outlives its client and inherits descriptors; it is left alone."""
    pid = tmp_path / "pid"
    done = await sh(runner, f"sleep 60 & echo $! >{pid}; echo value")
    left = await read_pid(pid)
    try:
        assert (done.code, done.stdout, done.timed_out) == (0, b"value\n", False)
        assert not gone(left)
    finally:
        os.kill(left, signal.SIGKILL)


async def test_endless_output_is_cut_off(runner: OpRunner) -> None:
    done = await sh(runner, "cat /dev/zero")
    assert done.too_big
    assert done.failed
    assert len(done.stdout) <= 4 * 1024 * 1024


async def test_endless_output_to_a_deaf_child_is_cut_off(runner: OpRunner) -> None:
    done = await sh(runner, "trap '' TERM PIPE; while :; do head -c 1000000 /dev/zero; done")
    assert (done.too_big, done.code) == (True, -signal.SIGKILL)


async def test_program_that_cannot_be_started_is_told(runner: OpRunner) -> None:
    with pytest.raises(VaultUnavailable, match="cannot be started: no such file") as raised:
        await runner.run(["/nonexistent/op"], env={}, seconds=1)
    assert raised.value.hint
    assert (await sh(runner, "echo still here")).stdout == b"still here\n"


async def test_cancelled_call_ends_and_the_helper_stays(runner: OpRunner, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    running = asyncio.create_task(sh(runner, f"echo $$ >{pid}; trap '' TERM; while :; do sleep 0.1; done"))
    child, helper = await read_pid(pid), helper_pid(runner)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert gone(child)
    assert (await sh(runner, "echo next")).stdout == b"next\n"
    assert helper_pid(runner) == helper


async def test_call_cancelled_before_it_began_never_runs(runner: OpRunner, tmp_path: Path) -> None:
    await sh(runner, "true")
    running = asyncio.create_task(sh(runner, f"touch {tmp_path}/ran; sleep 60"))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    started = time.monotonic()
    assert (await sh(runner, "echo next")).stdout == b"next\n"
    assert time.monotonic() - started < 20


async def test_second_cancellation_ends_the_helper_too(runner: OpRunner, tmp_path: Path) -> None:
    """Whoever cannot wait for the grace to pass still leaves nothing behind."""
    pid = tmp_path / "pid"
    running = asyncio.create_task(sh(runner, f"echo $$ >{pid}; trap '' TERM; while :; do sleep 0.1; done"))
    child, helper = await read_pid(pid), helper_pid(runner)
    running.cancel()
    await asyncio.sleep(0.02)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until_gone(child)
    await until_gone(helper)


async def test_calls_wait_for_one_another(runner: OpRunner, tmp_path: Path) -> None:
    script = f"mkdir {tmp_path}/one && sleep 0.1 && rmdir {tmp_path}/one"
    assert [done.code for done in await asyncio.gather(*[sh(runner, script) for _ in range(3)])] == [0, 0, 0]


async def test_dead_helper_takes_its_call_along_and_no_call_is_repeated(runner: OpRunner, tmp_path: Path) -> None:
    log = tmp_path / "log"
    running = asyncio.create_task(sh(runner, f"echo $$ >>{log}; exec sleep 60"))
    child = await read_pid(log)
    await until(lambda: runner._group is not None)
    os.kill(helper_pid(runner), signal.SIGKILL)
    with pytest.raises(VaultUnavailable, match="helper process"):
        await running
    await until_gone(child)
    assert len(log.read_text().split()) == 1


async def test_dead_helper_is_replaced_at_the_next_call_and_says_so(
    runner: OpRunner, caplog: pytest.LogCaptureFixture
) -> None:
    await sh(runner, "true")
    dead, helper = helper_pid(runner), runner._helper
    assert helper is not None
    os.kill(dead, signal.SIGKILL)
    await helper.wait()
    assert (await sh(runner, "echo again")).stdout == b"again\n"
    assert helper_pid(runner) != dead
    assert "1Password will ask again" in caplog.text


async def test_frozen_helper_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenbroker.vaults.op.runner._SLACK", 0.1)
    runner = OpRunner(grace=0.1)
    await sh(runner, "true")
    frozen = helper_pid(runner)
    os.kill(frozen, signal.SIGSTOP)
    with pytest.raises(VaultUnavailable, match="helper process"):
        await sh(runner, "true", seconds=0.1)
    await until_gone(frozen)
    await runner.close()


async def test_closing_ends_helper_and_call(runner: OpRunner, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    running = asyncio.create_task(sh(runner, f"echo $$ >{pid}; exec sleep 60"))
    child, helper = await read_pid(pid), helper_pid(runner)
    await runner.close()
    with pytest.raises(VaultUnavailable):
        await running
    await until_gone(child)
    await until_gone(helper)


async def test_helper_ends_politely_on_sigterm_with_its_call(runner: OpRunner, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    running = asyncio.create_task(sh(runner, f"echo $$ >{pid}; exec sleep 60"))
    child = await read_pid(pid)
    os.kill(helper_pid(runner), signal.SIGTERM)
    with pytest.raises(VaultUnavailable):
        await running
    await until_gone(child)


DAEMON = """
import asyncio, sys
from tokenbroker.vaults.op.runner import OpRunner
asyncio.run(OpRunner().run(["/bin/sh", "-c", "echo $PPID >%s; echo $$ >%s; exec sleep 60"], env={}, seconds=60))
"""


async def test_helper_and_call_die_with_the_daemon(tmp_path: Path) -> None:
    """A daemon that is killed leaves no prompt running and no helper behind."""
    helper, child = tmp_path / "helper", tmp_path / "child"
    daemon = subprocess.Popen([sys.executable, "-c", DAEMON % (helper, child)])
    pids = [await read_pid(helper), await read_pid(child)]
    daemon.kill()
    daemon.wait()
    for pid in pids:
        await until_gone(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_helper_hardens_itself_and_does_not_forbid_setgid() -> None:
    """Nobody reads its memory, it writes no core, and set-gid `op` keeps its group (NoNewPrivileges stays off)."""
    script = (
        "from tokenbroker.vaults.op.terminal import harden; import ctypes, resource; harden();"
        "libc = ctypes.CDLL(None); print(libc.prctl(3), libc.prctl(39, 0, 0, 0, 0), resource.getrlimit(4))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split(maxsplit=2) == ["0", "0", "(0, 0)\n"]


def test_helper_needs_nothing_but_the_standard_library() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", op_terminal.__file__], stdin=subprocess.DEVNULL, capture_output=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


async def test_helper_that_cannot_be_started_is_told_as_such(runner: OpRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade of Python can take the interpreter away under a daemon that runs for weeks."""
    monkeypatch.setattr(sys, "executable", "/nowhere/python3")
    with pytest.raises(VaultUnavailable, match="helper process that runs `op` cannot be started: no such file"):
        await sh(runner, "true")


async def test_closing_refuses_what_waits_and_starts_no_helper_for_it(runner: OpRunner, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    running = asyncio.create_task(sh(runner, f"echo $$ >{pid}; exec sleep 60"))
    await read_pid(pid)
    waiting = asyncio.create_task(sh(runner, f"touch {tmp_path}/ran"))
    await asyncio.sleep(0)
    await runner.close()
    for call in (running, waiting):
        with pytest.raises(VaultUnavailable, match="ended before its answer"):
            await call
    assert runner._helper.pid is None
    assert not (tmp_path / "ran").exists()
    assert (await sh(runner, "echo anew")).stdout == b"anew\n"


async def test_closing_while_the_helper_is_being_started_leaves_none(runner: OpRunner, tmp_path: Path) -> None:
    call = asyncio.create_task(sh(runner, f"touch {tmp_path}/ran"))
    await asyncio.sleep(0)
    await runner.close()
    with pytest.raises(VaultUnavailable, match="ended before its answer"):
        await call
    assert runner._helper.pid is None
    assert not (tmp_path / "ran").exists()


async def test_of_much_noise_the_beginning_and_the_end_are_kept(runner: OpRunner) -> None:
    """What `op` logs takes nothing away from what it prints."""
    done = await sh(runner, "echo first >&2; yes noise | head -c 9000000 >&2; echo last >&2; echo value")
    assert (done.code, done.stdout, done.too_big) == (0, b"value\n", False)
    assert len(done.stderr) <= 64 * 1024
    assert done.stderr.startswith(b"first\n")
    assert done.stderr.endswith(b"last\n")


async def test_grandchild_that_goes_on_complaining_delays_nothing(runner: OpRunner, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    done = await sh(runner, f"yes >&2 & echo $! >{pid}; echo value", seconds=5)
    assert (done.code, done.stdout) == (0, b"value\n")
    await until_gone(await read_pid(pid))  # it has met a closed pipe


async def test_helper_holds_on_to_no_answer(runner: OpRunner) -> None:
    """While it waits for the next request, nothing in it refers to a child that is gone, or to what that printed."""
    probe = (
        "import gc, sys; sys.argv = ['x', 'plain']\n"
        "from tokenbroker.vaults.op import terminal as t; w = t.Helper._step\n"
        "def step(self):\n"
        "    kept = [x for x in gc.get_objects() if type(x) is t.Child]\n"
        "    print(len(kept), file=sys.stderr, flush=True)\n"
        "    w(self)\n"
        "t.Helper._step = step; t.main()"
    )
    request = {"argv": ["/bin/echo", "x"], "env": {}, "timeout": 5.0, "grace": 1.0, "stdin": None, "limit": 1000}
    helper = await asyncio.create_subprocess_exec(
        sys.executable, "-c", probe, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert helper.stdin is not None
    assert helper.stdout is not None
    for _ in range(2):
        helper.stdin.write(op_terminal.frame(request))
        for _ in ("began", "ended"):
            (length,) = op_terminal.HEADER.unpack(await helper.stdout.readexactly(op_terminal.HEADER.size))
            await helper.stdout.readexactly(length)
    _, counts = await helper.communicate(b"")
    assert counts.split()[-1] == b"0"
