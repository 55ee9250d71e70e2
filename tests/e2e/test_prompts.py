"""One prompt per unlock: however many programs ask, whatever the app makes of terminals and the person does."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.e2e.rig import BIN, PATIENCE, Daemon, Rig, finished, wait_until
from tests.standins.op_world import TTY_POLICIES, OpWorld, TtyPolicy

if TYPE_CHECKING:
    from tokenbroker.dev.issuer import DevIssuer

CALLERS = 40


@pytest.mark.parametrize("policy", TTY_POLICIES)
def test_any_number_of_programs_cause_one_prompt_and_one_exchange(
    rig: Rig, daemon: Daemon, issuer: DevIssuer, policy: TtyPolicy
) -> None:
    """Forty processes on a cold daemon, all there before the person answers or soon after, print the same token."""
    rig.op.tty_policy(policy)
    rig.op.person("hang")
    before = issuer.exchanges
    callers = [rig.start(BIN / "broker-token", "search") for _ in range(CALLERS)]
    rig.op.wait_until(OpWorld.dialog_open)
    rig.op.answer("approve")
    tokens = {finished(caller).token for caller in callers}
    assert len(tokens) == 1
    assert (rig.op.prompts(), issuer.exchanges - before) == (1, 1)
    assert rig.op.overlapping() == []


def test_other_profiles_cost_no_further_prompt_and_a_lock_costs_one(rig: Rig, daemon: Daemon) -> None:
    """All references are read at once. `broker lock` gives up the app's authorization, so that it asks again."""
    assert rig.token("search").token != rig.token("write").token
    assert len(rig.op.calls()) == 1
    assert rig.broker("lock").out == "locked: forgot 4 secrets and 2 tokens\n"
    assert rig.token("search").token
    assert (rig.op.prompts(), len(rig.op.calls())) == (2, 2)


def test_dismissed_prompt_is_a_refusal_for_all_and_asks_nobody_again(rig: Rig, daemon: Daemon) -> None:
    """Exit 4 for who waited; who asks later is told to wait, exit 5; `broker unlock` opens it at once."""
    rig.op.person("hang")
    callers = [rig.start(BIN / "broker-token", "search") for _ in range(3)]
    rig.op.wait_until(OpWorld.dialog_open)
    rig.op.answer("dismiss")
    for ran in map(finished, callers):
        assert ran.code in {4, 5}, "who came after the answer is in the cool-down"
        assert ran.out == ""
    rig.op.person("dismiss", delay=0)
    later = rig.token("search")
    assert (later.code, later.hint) == (5, "unlock now with `broker unlock`")
    assert later.message.startswith("the prompt was refused; nobody is asked again for ")
    assert rig.op.prompts() == 1
    rig.op.person("approve")
    assert rig.broker("unlock").code == 0
    assert rig.token("search").token


def test_dismissed_prompt_says_so_with_exit_4(rig: Rig, daemon: Daemon) -> None:
    rig.op.person("dismiss")
    ran = rig.token("search")
    assert (ran.code, ran.message) == (4, "the 1Password prompt was dismissed")
    assert ran.hint == "run `broker unlock` and approve the prompt"


def test_unanswered_prompt_is_exit_5_and_after_two_nobody_is_asked(rig: Rig, daemon: Daemon) -> None:
    rig.op.person("ignore")
    for _ in range(2):
        ran = rig.token("search")
        assert (ran.code, ran.message) == (5, "nobody answered the 1Password prompt in time")
        assert ran.hint == "run `broker unlock` and approve the prompt"
    third = rig.token("search")
    assert (third.code, third.hint) == (5, "unlock now with `broker unlock`")
    assert rig.op.prompts() == 2
    assert rig.status()["vault"]["state"] == "cooling_down"


def test_lock_while_the_prompt_is_open_ends_the_wait(rig: Rig, daemon: Daemon) -> None:
    """`broker lock` is answered at once, whoever waits is told why, and the next caller may cause a prompt."""
    rig.op.person("hang")
    waiting = rig.start(BIN / "broker-token", "search")
    rig.op.wait_until(OpWorld.dialog_open)
    assert rig.broker("lock").seconds < 2
    ran = finished(waiting)
    assert (ran.code, ran.hint) == (5, "unlock it with `broker unlock`")
    assert ran.message.startswith("the vault was locked meanwhile")
    wait_until(lambda: rig.op.calls()[0].outcome == "killed")
    rig.op.person("approve")
    assert rig.token("search").token


def is_deaf(op: OpWorld) -> bool:
    """Tell whether a call of `op` ignores signals by now; ended before that, it would leave its fault to the next."""
    return any(record["event"] == "deaf" for record in op.store.log())


def test_impatient_locks_end_a_slow_op_in_good_order_and_cost_one_prompt(rig: Rig, daemon: Daemon) -> None:
    """An `op` that is slow to end is waited for, however often `broker lock` is repeated meanwhile."""
    assert rig.token("search").token
    rig.broker("lock")
    rig.op.fault("ignore-sigterm")
    waiting = rig.start(BIN / "broker-token", "search")
    rig.op.wait_until(is_deaf, timeout=PATIENCE)
    assert [call.outcome for call in rig.op.calls()] == ["ok", "running"]
    for _ in range(3):
        assert rig.ask("POST", "/v1/lock", b"{}", admin=True)[0] == 200
    assert finished(waiting).code == 5
    assert rig.token("search").token
    assert [call.outcome for call in rig.op.calls()] == ["ok", "killed", "ok"]
    assert rig.op.overlapping() == []


def test_helper_that_dies_while_a_lock_waits_for_it_is_replaced(rig: Rig, daemon: Daemon) -> None:
    """Without a traceback in the log (the rig looks), and the next caller may cause a prompt."""
    rig.op.person("hang")
    rig.op.fault("ignore-sigterm")
    waiting = rig.start(BIN / "broker-token", "search")
    rig.op.wait_until(is_deaf, timeout=PATIENCE)
    assert [call.outcome for call in rig.op.calls()] == ["running"]
    rig.ask("POST", "/v1/lock", b"{}", admin=True)
    os.kill(rig.op.calls()[0].ppid, signal.SIGKILL)
    assert finished(waiting).code == 5
    rig.op.person("approve")
    assert rig.token("search").token


@pytest.mark.parametrize("how", [("--as", "autonomous"), ("--no-prompt",)], ids=["autonomous", "no-prompt"])
def test_locked_vault_refuses_at_once_whoever_may_not_prompt(rig: Rig, daemon: Daemon, how: tuple[str, ...]) -> None:
    """Exit 5 in under a second (two here, for slow machines), and `op` is not even started."""
    ran = rig.token("search", *how)
    assert ran.seconds < 2
    assert (ran.code, ran.hint) == (5, "unlock it with `broker unlock`")
    assert ran.message == "the vault (op) is locked, and this program may not cause a prompt"
    assert rig.op.calls() == []
    assert rig.broker("unlock").code == 0
    assert rig.token("search", *how).token, "an open vault serves it"


def test_caller_who_may_not_prompt_does_not_wait_for_somebody_elses_prompt(rig: Rig, daemon: Daemon) -> None:
    rig.op.person("hang")
    waiting = rig.start(BIN / "broker-token", "search")
    rig.op.wait_until(OpWorld.dialog_open)
    ran = rig.token("search", "--no-prompt")
    assert (ran.code, ran.seconds < 2) == (5, True)
    rig.op.answer("approve")
    assert finished(waiting).token
