"""The stand-in for `op` treats terminals, dialogs, locks and faults as the 1Password contract says (§2, §8)."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.standins.op_things import service_account_token
from tests.standins.op_world import AppFault, FaultKind, OpWorld, TtyPolicy

if TYPE_CHECKING:
    from collections.abc import Iterator

READ = ("read", "op://V/I/credential")
COULD_NOT_READ = "could not read secret 'op://V/I/credential': "
INIT = "error initializing client: "
# Takes descriptor 0 for its controlling terminal where it is one, and runs each argument as one `op` command.
SHELL = """
import fcntl, os, subprocess, sys, termios
if os.isatty(0):
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
for line in sys.argv[2:]:
    subprocess.run([sys.argv[1], *line.split()], stdin=subprocess.DEVNULL, env={"HOME": "/home/u"})
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[OpWorld]:
    world = OpWorld.create(tmp_path)
    world.set(latency="none")
    world.person("approve", delay=1)
    world.add_item("V", "I", {"credential": "s3cret"})
    world.install(tmp_path / "bin")
    yield world
    world.close()


def _program(world: OpWorld) -> Path:
    return Path(world.store.path).parent / "bin" / "op"


def _start(world: OpWorld, *argv: str, **options: Any) -> subprocess.Popen[bytes]:
    given: dict[str, Any] = {"stdin": subprocess.DEVNULL, "env": {"HOME": "/home/u"}} | options
    return subprocess.Popen([_program(world), *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **given)


def _finish(process: subprocess.Popen[bytes]) -> tuple[int, bytes, str]:
    """Return status, stdout, and stderr without `[ERROR] `, timestamp and newline."""
    out, err = process.communicate(timeout=10)
    return process.returncode, out, err.decode()[len("[ERROR] 2026/01/31 23:59:59 ") :].rstrip("\n")


def _op(world: OpWorld, *argv: str, **options: Any) -> tuple[int, bytes, str]:
    return _finish(_start(world, *argv, **options))


def _session(world: OpWorld, *lines: str, tty: bool) -> None:
    """Run `op` commands one after the other in a session of their own, on a fresh terminal or without any."""
    master, slave = pty.openpty()
    try:
        stdin = slave if tty else subprocess.DEVNULL
        command = [sys.executable, "-ISc", SHELL, str(_program(world)), *lines]
        subprocess.run(command, stdin=stdin, stdout=subprocess.PIPE, start_new_session=True, check=True, timeout=20)
    finally:
        os.close(master)
        os.close(slave)


GOOD = (0, b"s3cret\n", "")


def test_one_approval_serves_later_calls(world: OpWorld) -> None:
    assert [_op(world, *READ), _op(world, *READ)] == [GOOD, GOOD]
    assert [call.prompted for call in world.calls()] == [True, False]


def test_a_grant_ends_after_ten_idle_minutes_and_each_use_refreshes_it(world: OpWorld) -> None:
    _op(world, *READ)
    for seconds, prompts in [(590, 1), (590, 1), (610, 2)]:
        world.advance(seconds)
        _op(world, *READ)
        assert world.prompts() == prompts


def test_a_grant_ends_after_twelve_hours_whatever_its_use(world: OpWorld) -> None:
    _op(world, *READ)
    with world.store.change() as state:
        next(iter(state["grants"].values()))["granted"] -= 12 * 3600
    _op(world, *READ)
    assert world.prompts() == 2


def test_locking_ends_every_grant_and_an_approval_unlocks(world: OpWorld) -> None:
    _op(world, *READ)
    world.lock_app()
    assert _op(world, *READ) == GOOD
    assert (world.prompts(), world.locked()) == (2, False)


def test_signing_out_ends_the_grant_and_signing_in_prints_nothing(world: OpWorld) -> None:
    assert _op(world, "signin", "--raw") == (0, b"", "")
    assert (_op(world, *READ), world.prompts()) == (GOOD, 1)
    _op(world, "signout", "--all")
    assert (_op(world, *READ), world.prompts()) == (GOOD, 2)


def test_a_locked_app_leaves_lists_to_the_cache_but_never_secrets(world: OpWorld) -> None:
    _op(world, "vault", "list")
    world.lock_app()
    world.person("dismiss", delay=0)
    assert _op(world, "vault", "list")[0] == 0
    assert world.prompts() == 1
    assert _op(world, "--cache=false", "vault", "list")[2] == f"{INIT}authorization prompt dismissed, please try again"
    assert _op(world, *READ)[:2] == (1, b"")
    assert world.prompts() == 3


@pytest.mark.parametrize(
    ("prompt", "text"),
    [("dismiss", "authorization prompt dismissed, please try again"), ("ignore", "authorization timeout")],
)
def test_a_prompt_refused_or_unanswered_fails_the_call(world: OpWorld, prompt: Any, text: str) -> None:
    world.person(prompt)
    assert _op(world, *READ) == (1, b"", f"{COULD_NOT_READ}{INIT}{text}")


def test_a_killed_callers_dialog_stays_blocks_others_and_grants_nothing(world: OpWorld) -> None:
    world.set(time_scale=1)  # so that the dialog does not expire by itself meanwhile
    world.person("hang")
    first = _start(world, *READ)
    world.wait_until(OpWorld.dialog_open)
    first.kill()
    _finish(first)
    second = _start(world, *READ)
    world.wait_until(lambda w: len(w.calls()) == 2)
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(0.1)
    assert world.prompts() == 1
    world.answer("approve")
    world.wait_until(lambda w: w.prompts() == 2)
    world.answer("approve")
    assert _finish(second) == GOOD
    assert [(call.outcome, call.prompted) for call in world.calls()] == [("killed", True), ("ok", True)]


def test_calls_that_overlap_share_the_dialog_of_their_session_and_are_noticed(world: OpWorld) -> None:
    world.person("hang")
    calls = [_start(world, *READ) for _ in range(3)]
    world.wait_until(lambda w: w.dialog_open() and len(w.calls()) == 3)
    world.answer("approve")
    assert [_finish(call) for call in calls] == [GOOD] * 3
    assert (world.prompts(), sorted(call.others for call in world.calls())) == (1, [0, 1, 2])
    assert len(world.overlapping()) == 2


@pytest.mark.parametrize("policy", ["tty", "always-prompt"])
def test_calls_on_one_terminal_share_a_grant_and_a_fresh_terminal_asks(world: OpWorld, policy: TtyPolicy) -> None:
    world.tty_policy(policy)
    for _ in range(2):
        _session(world, " ".join(READ), " ".join(READ), tty=True)
    assert [call.prompted for call in world.calls()] == [True, False, True, False]
    assert all(call.tty.startswith("/dev/") for call in world.calls())


@pytest.mark.parametrize(
    ("policy", "prompted"),
    [
        pytest.param("tty", [True, False, True, False], id="tty: per session"),
        pytest.param("shared-no-tty", [True, False, False, False], id="shared-no-tty: once for all"),
        pytest.param("always-prompt", [True, True, True, True], id="always-prompt: every time"),
    ],
)
def test_callers_without_a_terminal_are_known_by_policy(
    world: OpWorld, policy: TtyPolicy, prompted: list[bool]
) -> None:
    world.tty_policy(policy)
    for _ in range(2):
        _session(world, " ".join(READ), " ".join(READ), tty=False)
    assert [call.prompted for call in world.calls()] == prompted
    assert {call.tty for call in world.calls()} == {""}


NOT_RUNNING = "connecting to desktop app: 1Password CLI couldn't connect to the 1Password desktop app. To fix this, "


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("not-running", INIT + NOT_RUNNING),
        ("wrong-gid", f"{INIT}connecting to desktop app: read: connection reset, make sure the CLI is correctly"),
        ("offline", f"{INIT}RequestDelegatedSession: cannot setup session. Please check the logs"),
        ("stall", f"{INIT}connecting to desktop app: connecting to desktop app timed out"),
    ],
)
def test_an_app_that_cannot_be_reached_never_prompts(world: OpWorld, fault: AppFault, text: str) -> None:
    world.app(fault=fault)
    rc, out, err = _op(world, *READ)
    assert (rc, out, err.startswith(COULD_NOT_READ + text)) == (1, b"", True)
    assert world.prompts() == 0


def test_account_list_needs_the_app_but_no_authorisation(world: OpWorld) -> None:
    assert json.loads(_op(world, "account", "list", "--format", "json")[1])[0]["url"] == "my.1password.com"
    world.app(running=False)
    assert _op(world, "account", "list")[2].startswith(NOT_RUNNING)
    assert world.prompts() == 0


def test_macos_consent_blocks_unless_the_apps_settings_are_left_alone(world: OpWorld) -> None:
    world.app(fault="tcc")
    blocked = _start(world, *READ)
    world.wait_until(lambda w: bool(w.calls()))
    with pytest.raises(subprocess.TimeoutExpired):
        blocked.wait(0.2)
    blocked.kill()
    _finish(blocked)
    assert _op(world, *READ, env={"OP_LOAD_DESKTOP_APP_SETTINGS": "false"}) == GOOD
    world.app(integration_without_settings=False)
    text = "You are not currently signed in. Please run `op signin --help` for instructions"
    assert _op(world, *READ, env={"OP_LOAD_DESKTOP_APP_SETTINGS": "false"})[2] == COULD_NOT_READ + INIT + text


def test_whoami_never_prompts_and_proves_nothing(world: OpWorld) -> None:
    _op(world, *READ)
    assert _op(world, "whoami") == (1, b"", "account is not signed in")
    world.app(whoami_works=True)
    assert json.loads(_op(world, "whoami", "--format", "json")[1])["email"] == "user@example.com"
    world.lock_app()
    assert _op(world, "whoami")[0] == 1
    assert world.prompts() == 1


def test_several_accounts_are_chosen_between(world: OpWorld) -> None:
    other = world.add_account("team.1password.com")
    world.add_vault("Team", account=other)
    assert _op(world, "vault", "list")[2] == f"{INIT}interactive IO not available"
    assert b"Team" in _op(world, "vault", "list", "--account", "https://team.1password.com")[1]
    assert b"V" in _op(world, "vault", "list", env={"OP_ACCOUNT": "my.1password.com"})[1]
    assert world.prompts() == 2
    _op(world, "signin", "--account", other)
    assert b"Team" in _op(world, "vault", "list")[1]


def test_with_a_terminal_the_offer_to_add_an_account_waits(world: OpWorld) -> None:
    world.set(mode="none")
    master, slave = pty.openpty()
    waiting = _start(world, *READ, stdin=slave)
    os.close(slave)
    assert waiting.stderr
    text = b""
    while not text.endswith(b"[Y/n] "):
        text += (chunk := os.read(waiting.stderr.fileno(), 4096))
        assert chunk
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(0.1)
    waiting.kill()
    waiting.communicate()
    os.close(master)


def test_the_log_tells_what_a_caller_passed(world: OpWorld) -> None:
    """Environment variables by name, exactly those that were passed; secrets in argv or environment are found."""
    env = {"HOME": "/home/u", "OP_ACCOUNT": "my.1password.com", "LEAK": "x s3cret x"}
    _op(world, *READ, env=env)
    _op(world, "item", "get", "s3cret")
    first, second = world.calls()
    assert (first.env, first.env_values["OP_ACCOUNT"]) == (sorted(env), "my.1password.com")
    assert (first.secrets_in_env, first.secrets_in_argv, second.secrets_in_argv) == (["LEAK"], [], [2])
    assert (first.isatty, first.ppid, first.rc, second.rc) == ([False] * 3, os.getpid(), 0, 1)
    assert world.leaks() == [first, second]
    assert "s3cret" not in json.dumps([call.env_values for call in world.calls()])


@pytest.mark.parametrize(
    ("kind", "details", "rc", "out"),
    [
        ("truncated", {}, 0, b"s3c"),
        ("value", {"value": "x" * (1 << 20)}, 0, b"x" * (1 << 20) + b"\n"),
        ("value", {"value": "a\0b\r\n"}, 0, b"a\0b\r\n\n"),
        ("rc0-with-error", {}, 0, b""),
        ("panic", {}, 2, b""),
        ("error", {"text": "(404) Not Found: The requested resource was not found."}, 4, b""),
        ("error", {"text": "(403) Forbidden: You aren't authorized to access this resource."}, 1, b""),
        ("signal", {}, -signal.SIGKILL, b""),
        ("warning", {}, 0, b"s3cret\n"),
        ("slow-stderr", {"seconds": 0.1}, 0, b"s3cret\n"),
    ],
)
def test_a_fault_spoils_one_call_and_no_more(
    world: OpWorld, kind: FaultKind, details: dict[str, Any], rc: int, out: bytes
) -> None:
    world.fault(kind, command="read", **details)
    done = _start(world, *READ)
    stdout, stderr = done.communicate(timeout=10)
    assert (done.returncode, stdout) == (rc, out)
    assert bool(stderr) == (kind not in {"truncated", "value", "signal"})
    assert _op(world, *READ) == GOOD


def test_a_sticky_fault_stays_with_its_command_until_mended(world: OpWorld) -> None:
    world.fault("garbage", command="item get", times=None)
    for _ in range(2):
        rc, out, _ = _op(world, "item", "get", "I", "--format", "json")
        assert (rc, out[:6]) == (0, b"\x1b[?25l")
    assert _op(world, *READ) == GOOD
    world.mend()
    assert json.loads(_op(world, "item", "get", "I", "--format", "json")[1])["title"] == "I"


def test_a_fault_waits_for_the_calls_of_whom_it_is_for(world: OpWorld) -> None:
    """The app's calls and a service account's may come in either order; each spoils only its own."""
    world.fault("truncated", command="read", by="sa")
    account = {"HOME": "/home/u", "OP_SERVICE_ACCOUNT_TOKEN": service_account_token("bot")}
    assert _op(world, *READ) == GOOD
    assert _op(world, *READ, env=account) == (0, b"s3c", "")
    world.fault("truncated", command="read", by="app")
    assert _op(world, *READ, env=account) == GOOD
    assert _op(world, *READ) == (0, b"s3c", "")


def test_a_deaf_call_is_ended_by_nothing_but_sigkill(world: OpWorld) -> None:
    world.fault("ignore-sigterm")
    deaf = _start(world, *READ)
    world.wait_until(lambda w: any(record["event"] == "deaf" for record in w.store.log()))
    deaf.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        deaf.wait(0.1)
    deaf.kill()
    assert _finish(deaf)[0] == -signal.SIGKILL


@pytest.mark.parametrize("detached", [False, True], ids=["in the group", "in its own session"])
def test_a_grandchild_holds_the_pipes_open(world: OpWorld, *, detached: bool) -> None:
    """The call is over and its output there, yet the pipe does not end; killing the group helps unless it left."""
    world.fault("grandchild", detached=detached)
    call = _start(world, *READ, start_new_session=True)
    assert call.wait(10) == 0
    with pytest.raises(subprocess.TimeoutExpired):
        call.communicate(timeout=0.1)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(call.pid, signal.SIGKILL)
    if detached:
        with pytest.raises(subprocess.TimeoutExpired):
            call.communicate(timeout=0.1)
        world.close()
    assert call.communicate(timeout=5)[0] == b"s3cret\n"
