"""`broker doctor op`: a person on a terminal, the stand-in of `op` and its app, and the right conclusion at the end."""

from __future__ import annotations

import re
import subprocess
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.cli.op_person import CTRL_C, CTRL_D, NO, PATIENCE, SPEED, YES, Person, command
from tests.e2e.rig import Background, Rig, wait_until
from tests.standins.op_service import OpService
from tokenbroker.cli.op_report import SCOPES
from tokenbroker.config import VaultConfig
from tokenbroker.vaults.op.grants import MAX_PROMPTS, PLAN, Grants, Place, Scope, from_json
from tokenbroker.vaults.op.grants_file import save_grants

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.standins.op_world import Call, OpWorld, TtyPolicy

CONFIG = '{version}[vault]\nbackend = "{backend}"\naccount = "my.1password.com"\n'
ADDRESSES = ("my.1password.com", "user@example.com")


@pytest.fixture(scope="module")
def beside() -> Iterator[Background]:
    with Background() as made:
        yield made


@pytest.fixture
def rig() -> Iterator[Rig]:
    """A user whose dialogs are answered at once, where what the clock says is not the point."""
    with Rig() as made:
        made.op.set(latency="none", time_scale=0.001)
        made.configure(CONFIG.format(version="version = 1\n", backend="op"))
        yield made


@pytest.fixture
def sit_down(rig: Rig) -> Iterator[Callable[..., Person]]:
    """Start the command with a person in front of it."""
    with ExitStack() as stack:

        def start(*options: str) -> Person:
            person = Person(rig, *options)
            stack.callback(person.close)
            return person

        yield start


def in_time(rig: Rig) -> None:
    """Let dialogs take as long as they do, on the command's faster clock."""
    rig.op.set(time_scale=1 / SPEED)
    rig.op.person("approve", delay=3.0)


def asks_every_call(rig: Rig) -> None:
    """Let the app forget at once, which also makes a short run of it: two calls show it."""
    with rig.op.store.change() as state:
        state["app"]["asks_every_call"] = True


def kept_file(rig: Rig) -> Path:
    return rig.state / "tokenbroker/op-grants.json"


def kept(rig: Rig) -> Grants:
    grants = from_json(kept_file(rig).read_text())
    assert grants is not None
    return grants


def asked_about(world: OpWorld) -> list[Call]:
    """Return the calls after which the person was asked: all that list vaults, but for the one that asks nobody."""
    extra = "OP_LOAD_DESKTOP_APP_SETTINGS"
    return [call for call in world.calls() if call.argv[0] == "vault" and extra not in call.env]


def asking(world: OpWorld) -> int:
    return sum(call.prompted for call in world.calls())


def nothing_left(rig: Rig) -> bool:
    """Tell whether no call runs any more; a child that outlived its command would."""
    return all(call.outcome != "running" for call in rig.op.calls())


@pytest.mark.parametrize(
    ("policy", "plain"),
    [
        pytest.param("tty", Scope.SESSION, id="documented: per terminal session"),
        pytest.param("shared-no-tty", Scope.SHARED, id="shared without a terminal"),
        pytest.param("always-prompt", Scope.CALL, id="each call asks without a terminal"),
    ],
)
def test_each_policy_is_found_out_here_and_in_the_service(
    rig: Rig, beside: Background, sit_down: Callable[..., Person], policy: TtyPolicy, plain: Scope
) -> None:
    """The table, the kept answer and the report agree, whichever of the ways that people report is true."""
    rig.op.tty_policy(policy)
    in_time(rig)
    config = VaultConfig(account="my.1password.com", op=str(rig.bin / "op"))
    with OpService(rig, config, beside, speed=SPEED) as service:
        person = sit_down("--report", "report.md")
        assert person.talk() == 0, person.said
    # Authorized by the calls made here without a terminal, the service is not asked in a shared world: shared, too.
    expected = {Place.TERMINAL: Scope.SESSION, Place.PLAIN: plain, Place.OWN: Scope.UNKNOWN,
                Place.SERVICE_TERMINAL: Scope.SESSION, Place.SERVICE_PLAIN: plain}  # fmt: skip
    assert kept(rig).scopes == expected
    assert (kept(rig).op, kept(rig).mode, kept(rig).calls_prompt) == ("2.40.0", "terminal", False)
    assert asking(rig.op) <= MAX_PROMPTS * len(PLAN)
    report = (rig.home / "report.md").read_text()
    words = SCOPES[plain]
    for text in (person.said, report):
        assert f"no terminal           {words}" in text
        assert f"service, no terminal  {words}" in text
        assert "a terminal of ours    the calls in one session" in text
        assert "the daemon runs `op` in a terminal session that it keeps" in text
        table = re.findall(r"^ ?\d+ +(?:a terminal|no terminal|your terminal|service).*", text, re.MULTILINE)
        assert len(table) == len(asked_about(rig.op))
        assert max(map(len, table)) <= 80
    assert not any(name in report for name in (*ADDRESSES, str(rig.folder), str(rig.home)))
    assert service.bodies[0] == service.bodies[-1] == {"setting": "end"}
    assert oct(kept_file(rig).stat().st_mode & 0o777) == "0o600"
    assert rig.op.overlapping() == []


def test_calls_are_what_the_daemon_makes_and_the_person_is_not_quoted(
    rig: Rig, sit_down: Callable[..., Person]
) -> None:
    """No secret is read, the cache is passed by, each setting has the terminal that it is named for.

    A password that missed its dialog is no answer and is in no report: the terminal itself shows it, once. The program
    that a dialog named is reported, without an account. A service that does not run is left out, with the next command.
    """
    tries = iter(["correct horse\n"])

    def answer(question: str) -> str | None:
        if "just now?" in question:
            return next(tries, None)
        return "kitty, for jo@example.org\n" if "program" in question else None

    person = sit_down()
    assert person.talk(answer) == 0
    calls = rig.op.calls()
    commands = {tuple(call.argv[:2]) for call in calls}
    assert commands == {("--version",), ("account", "list"), ("vault", "list"), ("whoami", "--format")}
    listed = [call for call in calls if call.argv[0] == "vault"]
    assert all("--cache=false" in call.argv for call in listed)
    assert all(call.env_values["OP_BIOMETRIC_UNLOCK_ENABLED"] == "true" for call in calls)
    terminals, plain, own = listed[:4], listed[4:8], listed[8:10]
    assert {bool(call.tty) for call in terminals} == {True}
    assert {call.tty for call in plain} == {""}
    assert {call.sid for call in own} == {person.process.pid}
    assert len({call.sid for call in terminals[:3]}) == 1 != len({call.sid for call in terminals})
    assert terminals[0].ppid == terminals[1].ppid != terminals[2].ppid

    assert person.said.count("correct horse") == 1
    assert "correct horse" not in kept_file(rig).read_text()
    assert "- the dialog named, here: kitty, for …" in person.said
    assert len([question for question in person.asked if "program" in question]) == 1
    assert "service, a terminal   not tried: no broker is listening on …\n" in person.said
    assert "your terminal         the calls of one process, or more\n" in person.said
    report = person.said.partition("# `broker doctor op`")[2].partition("\nkept as")[0]
    assert str(rig.folder) not in report
    assert "to try it too: start it with `" in person.said
    assert Place.SERVICE_PLAIN not in kept(rig).scopes


def test_a_terminal_that_does_not_hold_is_found_out(rig: Rig, sit_down: Callable[..., Person]) -> None:
    """Where each call asks everywhere, the daemon is told, and nobody is bothered with calls that show no more."""
    asks_every_call(rig)
    person = sit_down()
    assert person.talk() == 0
    assert (kept(rig).mode, kept(rig).calls_prompt) == ("terminal", True)
    assert set(kept(rig).scopes.values()) == {Scope.CALL}
    assert asking(rig.op) == 2 * 3
    assert "each call asks, so it reads everything with one call per unlock" in person.said


@pytest.mark.parametrize(
    ("wait", "ended"),
    [
        pytest.param("11m", True, id="ten minutes without use end it"),
        pytest.param("9m", False, id="nine do not"),
    ],
)
def test_wait_tells_how_long_it_lasts(rig: Rig, sit_down: Callable[..., Person], wait: str, *, ended: bool) -> None:
    """It is tried once more after that time, and what came of it is kept, in the place of a damaged answer."""
    kept_file(rig).parent.mkdir(mode=0o700)
    kept_file(rig).write_text("{")
    person = sit_down("--wait", wait)
    assert person.talk() == 0
    state = "had ended" if ended else "was still there"
    assert person.said.count(f"after {wait[:-1]} min without use the authorization {state}") == 2
    assert (kept(rig).idle, kept(rig).idle_ended) == (60.0 * int(wait[:-1]), ended)
    assert kept(rig).scopes[Place.TERMINAL] is Scope.SESSION


def test_later_run_says_what_became_of_an_earlier_authorization(rig: Rig, sit_down: Callable[..., Person]) -> None:
    """The time of its last use is in the kept answer, so that nobody has to wait at the terminal."""
    asks_every_call(rig)
    kept_file(rig).parent.mkdir(mode=0o700)
    save_grants(kept_file(rig), Grants("2.40.0", time.time() - 3 * 3600, {Place.TERMINAL: Scope.SHARED}))
    person = sit_down()
    assert person.talk() == 0
    assert re.search(r"- the authorization of \d\d:\d\d, 3 h ago, had ended", person.said)


def test_dismissed_dialog_is_shown_and_kept(rig: Rig, sit_down: Callable[..., Person]) -> None:
    """The person presses Cancel on purpose, and `op`'s words are in the report."""

    def answer(question: str) -> str | None:
        if "press Cancel" in question:
            rig.op.person("dismiss")
            return YES
        return None

    person = sit_down()
    assert person.talk(answer) == 0
    said = "error initializing client: authorization prompt dismissed, please try again"
    assert f"prompt_dismissed: {said}" in person.said
    assert f"- a dismissed dialog: prompt_dismissed, `{said}`" in person.said
    assert kept(rig).dismissed == said


def test_dialog_dismissed_by_mistake_can_be_tried_again(rig: Rig, sit_down: Callable[..., Person]) -> None:
    """It is in the table as what it was, and spoils no conclusion."""
    rig.op.person("dismiss")

    def answer(question: str) -> str | None:
        if "once more?" in question:
            rig.op.person("approve")
        return None

    person = sit_down()
    assert person.talk(answer) == 0
    assert "not authorized: error initializing client: authorization prompt dismissed" in person.said
    assert kept(rig).scopes[Place.TERMINAL] is Scope.SESSION
    assert "yes" in next(line for line in person.said.splitlines() if "prompt_dismissed" in line and "#" not in line)


def test_unanswered_dialogs_settle_nothing_and_keep_nothing(rig: Rig, sit_down: Callable[..., Person]) -> None:
    """Nobody is there to approve: every place is left after one call, the report still comes."""
    rig.op.person("ignore")
    person = sit_down()
    assert person.talk(lambda question: NO if "once more" in question else None) == 1
    assert "broker: error: nothing was settled, so nothing was kept" in person.said
    assert "prompt_unanswered" in person.said
    assert not kept_file(rig).exists()


def test_lying_person_is_doubted(rig: Rig, sit_down: Callable[..., Person]) -> None:
    """Who says no to everything is told of the calls that took as long as a dialog does."""
    in_time(rig)
    rig.op.person("approve", delay=6.0)
    person = sit_down()
    assert person.talk(lambda question: NO if "just now" in question else None) == 0
    assert "doubtful: call 1 is said not to have asked, but took" in person.said
    assert "- doubtful: call 1 is said not to have asked" in person.said


def test_ctrl_c_at_a_question_keeps_nothing(rig: Rig, sit_down: Callable[..., Person]) -> None:
    person = sit_down()
    assert person.talk(lambda question: CTRL_C if "just now?" in question else None) == 130
    interrupted(rig, person)


@pytest.mark.parametrize(
    ("before", "place"),
    [
        pytest.param("go on?", "a terminal of ours, first call", id="in a terminal of ours"),
        pytest.param("just now?", "your terminal, first call", id="in the person's own"),
    ],
)
def test_ctrl_c_leaves_no_child(rig: Rig, sit_down: Callable[..., Person], before: str, place: str) -> None:
    """`op` waits for a dialog that nobody answers, and the person gives up."""
    last = "no terminal, in a new session" if before == "just now?" else "Ctrl-C ends it"
    person = sit_down()
    while not (last in person.said and before in person.asked[-1]):
        question = person.question()
        assert question is not None
        if last in person.said and before in question:
            rig.op.person("hang")
        person.type(person.answer(question))
    person.hear(place)
    rig.op.wait_until(lambda world: world.dialog_open())
    person.type(CTRL_C)
    assert person.talk() == 130
    interrupted(rig, person)


def interrupted(rig: Rig, person: Person) -> None:
    assert "broker: interrupted; nothing was kept" in person.said
    assert "Traceback" not in person.said
    wait_until(lambda: nothing_left(rig))
    assert not kept_file(rig).exists()


def test_end_of_input_keeps_nothing(rig: Rig, sit_down: Callable[..., Person]) -> None:
    person = sit_down()
    assert person.talk(lambda question: CTRL_D if "just now" in question else None) == 2
    assert "broker: error: the input ended before the last answer; nothing was kept" in person.said
    assert not kept_file(rig).exists()


def test_no_to_go_on_makes_no_call(rig: Rig, sit_down: Callable[..., Person]) -> None:
    """What will happen is said first, with the number of dialogs at most."""
    person = sit_down("--wait", "11m")
    assert person.talk(lambda _: NO) == 1
    assert "at most 12 dialogs" in person.said
    assert "broker: error: nothing was done, as you asked" in person.said
    assert asking(rig.op) == 0


def test_report_is_not_replaced_unasked(rig: Rig, sit_down: Callable[..., Person]) -> None:
    report = rig.home / "report.md"
    report.write_text("mine")
    person = sit_down("--report", "report.md")
    assert person.talk(lambda _: NO) == 1
    assert report.read_text() == "mine"
    assert rig.op.calls() == []


def test_link_in_the_answers_place_is_refused(rig: Rig, sit_down: Callable[..., Person]) -> None:
    """The report is not lost by it."""
    asks_every_call(rig)
    kept_file(rig).parent.mkdir(mode=0o700)
    kept_file(rig).symlink_to(rig.home / "elsewhere")
    person = sit_down()
    assert person.talk() == 1
    assert "is not a plain file, so it is not replaced" in person.said
    assert "# `broker doctor op`" in person.said
    assert not (rig.home / "elsewhere").exists()


def test_app_that_does_not_run_is_named_before_anything(rig: Rig, sit_down: Callable[..., Person]) -> None:
    rig.op.app(running=False)
    person = sit_down()
    assert person.talk() == 1
    assert "broker: error: the 1Password app cannot be reached" in person.said
    assert "broker: hint: start the 1Password app" in person.said
    assert person.asked == []


def test_missing_op_is_named(rig: Rig, sit_down: Callable[..., Person]) -> None:
    (rig.bin / "op").unlink()
    rig.configure(CONFIG.format(version="version = 1\n", backend="op") + f'op = "{rig.bin}/op"\n')
    person = sit_down()
    assert person.talk() == 1
    assert "is not a program that can be run" in person.said


def test_another_backend_has_nothing_to_find_out(rig: Rig, sit_down: Callable[..., Person]) -> None:
    rig.configure('version = 1\n[vault]\nbackend = "keyring"\n')
    person = sit_down()
    assert person.talk() == 1
    assert "broker: error: [vault] backend is `keyring`" in person.said


def test_wrong_duration_is_a_wrong_command_line(rig: Rig, sit_down: Callable[..., Person]) -> None:
    person = sit_down("--wait", "soon")
    assert person.talk() == 2
    assert "broker: error: --wait: expected a duration" in person.said


def test_it_needs_a_person(rig: Rig) -> None:
    done = subprocess.run(
        command(rig), env=rig.environ(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "broker: error: `broker doctor op` needs a person at a terminal\n" in done.stderr
    assert "broker: hint: run `broker doctor op` in a terminal\n" in done.stderr
    assert rig.op.calls() == []
    assert list(rig.state.iterdir()) == []
