"""Transcripts of `broker`'s other verbs: command, exit code, stdout, stderr; with a daemon and without."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.e2e.standard import CRON_SECRET, SECRET
from tokenbroker import __version__
from tokenbroker.cli import main
from tokenbroker.cli.help import VERBS

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
    stays = "what programs already hold stays valid at the API until it expires\n"
    assert seen[-1] == (0, f"revoked: session {session}, 1 token\n{stays}", "")
    seen.append(transcript(rig.broker("revoke", "--all")))
    assert seen[-1] == (0, f"revoked: profile all, 1 token\n{stays}", "")
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
