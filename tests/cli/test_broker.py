"""Transcripts of `broker`'s other verbs: command, exit code, stdout, stderr; with a daemon and without."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.rig import BIN, PATIENCE, finished
from tests.e2e.standard import CRON_SECRET, SECRET
from tokenbroker import __version__
from tokenbroker.cli import main
from tokenbroker.cli.help import VERBS
from tokenbroker.cli.looking import sessions_text
from tokenbroker.cli.text import about

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.rig import Daemon, Ran, Rig

VERBS_OF_THE_DAEMON = (
    ("status",), ("status", "--json"), ("sessions",), ("sessions", "--json"), ("sessions", "--watch"), ("unlock",),
    ("lock",), ("revoke", "--all"), ("revoke", "--profile", "search"), ("revoke", "0"), ("reload",),
)  # fmt: skip


Command = Callable[..., tuple[int, str, str]]


def transcript(ran: Ran) -> tuple[int, str, str]:
    return ran.code, ran.out, ran.err


def said(error: str, hint: str) -> str:
    """Return what stands on stderr for one error."""
    return f"broker: error: {error}\nbroker: hint: {hint}\n"


@pytest.fixture
def broker(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command within this process, for what needs neither daemon nor environment; return its transcript."""

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            code = main(arguments)
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("arguments", VERBS_OF_THE_DAEMON, ids=" ".join)
def test_without_a_daemon_the_next_command_is_named(
    broker: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    """Exit 3, nothing on stdout, and how to start it."""
    monkeypatch.delenv("BROKER_ADMIN_SOCKET", raising=False)
    monkeypatch.chdir(tmp_path)
    code, out, err = broker(*arguments, "--socket", "b.sock")
    assert (code, out) == (3, "")
    error, hint = err.splitlines()
    assert error == f"broker: error: no broker is listening on {tmp_path}/admin/admin.sock"
    assert hint.startswith("broker: hint: start it with `")


def test_the_installed_command_says_the_same(rig: Rig) -> None:
    """The exit status leaves the process, and the streams are the right ones."""
    ran = rig.broker("status")
    assert (ran.code, ran.out, ran.message) == (3, "", f"no broker is listening on {rig.admin}")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(broker: Command, verb: str) -> None:
    """Help is on stdout and needs no daemon."""
    code, out, err = broker(verb, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: broker {verb} [-h]")
    assert VERBS[verb][1].split(".", maxsplit=1)[0] in out


def test_the_command_lists_its_verbs(broker: Command) -> None:
    """With the exit codes and examples."""
    code, out, err = broker("--help")
    assert (code, err) == (0, "")
    for verb, (line, _) in VERBS.items():
        assert re.search(rf"^    {verb} +{re.escape(line)}$", out, re.MULTILINE)
    assert "exit status:\n  0 done" in out


def test_version(broker: Command) -> None:
    assert broker("--version") == (0, f"broker {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "error", "help_of"),
    [
        pytest.param((), "the following arguments are required: VERB", "broker", id="no verb"),
        pytest.param(
            ("status", "--watch"), "unrecognized arguments: --watch", "broker", id="an option of another verb"
        ),
        pytest.param(
            ("revoke",), "one of the arguments SESSION --profile --all is required", "broker revoke", id="revoke what"
        ),
        pytest.param(
            ("revoke", "--all", "--profile", "search"),
            "argument --profile: not allowed with argument --all",
            "broker revoke",
            id="revoke two things",
        ),
        pytest.param(
            ("doctor", "--config"), "argument --config: expected one argument", "broker doctor", id="no value"
        ),
    ],
)
def test_usage_errors(broker: Command, arguments: tuple[str, ...], error: str, help_of: str) -> None:
    """Exit 2, in the words of the rest of the command."""
    assert broker(*arguments) == (2, "", said(error, f"see `{help_of} --help`"))


def test_an_unknown_verb(broker: Command) -> None:
    """The words are argparse's, and differ from version to version."""
    code, out, err = broker("stauts")
    assert (code, out) == (2, "")
    assert "invalid choice: 'stauts'" in err
    assert err.endswith("\nbroker: hint: see `broker --help`\n")


def test_a_life_in_transcripts(rig: Rig, daemon: Daemon) -> None:
    """Locked, unlocked, used, revoked, locked again; neither a secret nor a token is shown by any verb."""
    seen = [transcript(rig.broker("sessions"))]
    assert seen[-1] == (0, "no program has asked for a token yet\n", "")
    seen.append(transcript(rig.broker("status")))
    lines = seen[-1][1].splitlines()
    assert re.fullmatch(rf"broker   running for .+, pid {daemon.process.pid}, version {__version__}", lines[0])
    assert lines[1:] == [f"config   {rig.config}: 2 profiles", "vault    op: locked", "tokens   none"]
    seen.append(transcript(rig.broker("unlock")))
    assert seen[-1] == (0, "unlocked: op, 4 secrets in memory\n", "")
    token = rig.token("search").token
    seen.append(transcript(rig.broker("status")))
    head, row = seen[-1][1].splitlines()[-2:]
    assert re.split(r" {2,}", head) == ["PROFILE", "CLIENT", "AGENT TYPE", "LEFT", "SOURCE", "LAST ERROR"]
    assert re.fullmatch(r"search +mine +interactive +\d.* +cache +-", row)
    seen.append(transcript(rig.broker("sessions")))
    session, _, agent_type, _, *_ = seen[-1][1].splitlines()[1].split()
    assert agent_type == "interactive"
    seen.append(transcript(rig.broker("revoke", session)))
    taken = "taken back by the issuer: 1 token; APIs that do not ask it accept them still\n"
    assert seen[-1] == (0, f"revoked: session {session}, 1 token\n{taken}", "")
    seen.append(transcript(rig.broker("revoke", "--all")))
    assert seen[-1] == (0, "revoked: all profiles, 0 tokens\n", "")
    seen.append(transcript(rig.broker("revoke", "--profile", "search")))
    assert seen[-1] == (0, "revoked: profile search, 0 tokens\n", "")
    seen.append(transcript(rig.broker("lock")))
    assert seen[-1] == (0, "locked: forgot 4 secrets and 0 tokens\n", "")
    for _, out, err in seen:
        for hidden in (SECRET, CRON_SECRET, token, token.split(".")[2]):
            assert hidden not in out + err
    assert rig.op.prompts() == 1


def test_json_of_the_looking_verbs(rig: Rig, daemon: Daemon) -> None:
    """What scripts rely on, while locked."""
    status = json.loads(rig.broker("status", "--json").out)
    assert (status["vault"]["state"], status["tokens"]) == ("locked", [])
    assert set(status["hardening"]) >= {"core_limit", "umask"}
    assert json.loads(rig.broker("sessions", "--json").out) == {"sessions": []}
    assert rig.op.calls() == []


def test_revoking_what_is_not_there(rig: Rig, daemon: Daemon) -> None:
    """An unknown session is an error that says where the known ones are."""
    ran = rig.broker("revoke", "nonesuch")
    assert transcript(ran) == (1, "", said("there is no session 'nonesuch'", "list them with `broker sessions`"))


def test_unlocking_when_a_person_refuses(rig: Rig, daemon: Daemon) -> None:
    """Exit 4: denied by a person; the status then says so."""
    rig.op.person("dismiss")
    ran = rig.broker("unlock")
    assert (ran.code, ran.out) == (4, "")
    assert ran.message
    assert "last: " in rig.broker("status").out


def test_unlocking_with_a_reference_that_leads_nowhere(rig: Rig, daemon: Daemon) -> None:
    """What could be read is kept, what could not is named, exit 1."""
    rig.configure(rig.config.read_text().replace("op://Agents/m2m-cron/credential", "op://Agents/m2m-cron/nothing"))
    assert transcript(rig.broker("reload")) == (0, "reloaded: 2 profiles\n", "")
    ran = rig.broker("unlock")
    first, second = ran.out.splitlines()
    assert (ran.code, first) == (1, "unlocked: op, 3 secrets in memory")
    assert second.startswith("  not read: op://Agents/m2m-cron/nothing: ")
    (told,) = (line for line in rig.broker("status").out.splitlines() if "not read" in line)
    assert [second.count("op://"), told.count("op://")] == [1, 1]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param("op://A/x/y: no such item", "op://A/x/y: no such item", id="begins with it"),
        pytest.param("nothing came for op://A/x/y", "nothing came for op://A/x/y", id="has it"),
        pytest.param("no such item", "op://A/x/y: no such item", id="lacks it"),
    ],
)
def test_a_reference_is_named_once(message: str, expected: str) -> None:
    assert about("op://A/x/y", message) == expected


def session(number: int, *, ended_at: float | None = None, revoked: bool = False, tokens: int = 1) -> dict[str, Any]:
    """Return one session as `GET /v1/sessions` has it."""
    held = {"profile": "search", "expires_at": 3600.0, "served": 1}
    return {
        "id": f"s{number}", "pid": number, "exe": "/usr/bin/curl", "agent_type": "interactive", "started_at": 0.0,
        "ended_at": ended_at, "revoked": revoked, "tokens": [held] * tokens,
    }  # fmt: skip


def listed(sessions: list[dict[str, Any]]) -> tuple[list[str], str]:
    """Return the ids of the table's rows, and its last line."""
    lines = sessions_text({"sessions": sessions}, 1000.0).splitlines()
    return [line.split()[0] for line in lines[1:] if line.startswith("s")], lines[-1]


def test_a_loop_of_programs_leaves_ten_rows() -> None:
    """What runs and what is revoked is always shown; of what ended, the ten that ended last."""
    ended = [session(n, ended_at=float(n * 7 % 300 + 1), tokens=2) for n in range(300)]
    latest = [s["id"] for s in ended if s["ended_at"] > 290]
    runs, revoked = session(900), session(901, ended_at=1.0, revoked=True)
    ids, last = listed([runs, *ended, revoked])
    assert ids == ["s900", *(one for one in latest for _ in range(2)), "s901"]
    assert last == "and 290 more that have ended; all of them with --json"


def test_ten_that_ended_are_all_shown() -> None:
    ids, last = listed([session(n, ended_at=5.0) for n in range(10)])
    assert len(ids) == 10
    assert last.startswith("s9 ")


def test_watching_into_a_pipe_writes_tables_without_escapes(rig: Rig, daemon: Daemon) -> None:
    """An empty line stands between two, and Ctrl-C ends it with 130."""
    watching = rig.start(BIN / "broker", "sessions", "--watch")
    out = watching.process.stdout
    assert out is not None
    seen = [out.readline() for _ in range(3)]
    watching.process.send_signal(signal.SIGINT)
    assert finished(watching).code == 130
    assert seen == ["no program has asked for a token yet\n", "\n", "no program has asked for a token yet\n"]


def test_watching_at_a_terminal_redraws_the_screen(rig: Rig, daemon: Daemon) -> None:
    primary, terminal = pty.openpty()
    watching = subprocess.Popen(
        [BIN / "broker", "sessions", "--watch"], env=rig.environ(), stdout=terminal, start_new_session=True
    )
    os.close(terminal)
    try:
        shown = os.read(primary, 1000)
    finally:
        watching.send_signal(signal.SIGINT)
        code = watching.wait(PATIENCE)
        os.close(primary)
    assert (code, shown[:6]) == (130, b"\x1b[H\x1b[J")


def test_a_wrong_file_is_not_taken_over(rig: Rig, daemon: Daemon) -> None:
    """The old configuration stays, and `status` says that a new one was refused."""
    rig.configure("version = 1\nprofile = 1\n")
    ran = rig.broker("reload")
    assert (ran.code, ran.out) == (1, "")
    assert ran.message.startswith(f"{rig.config} line 2: profile: unknown key")
    lines = rig.broker("status").out.splitlines()
    assert f"config   {rig.config}: 2 profiles" in lines
    assert any("refused" in line and ran.message in line for line in lines)


def test_serving_twice(rig: Rig, daemon: Daemon) -> None:
    """The second broker says who is there."""
    ran = rig.broker("serve", "--config", str(rig.config))
    assert (ran.code, ran.out) == (1, "")
    assert f"a broker is already listening on {rig.socket} (pid {daemon.process.pid})" in ran.err
    assert ran.hint == "broker status"
