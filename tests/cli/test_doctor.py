"""`broker doctor`: each fault is named with its next command, and nobody is asked anything."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.standard import CRON_SECRET, SECRET, configuration
from tests.unit.config_documents import EXAMPLE
from tokenbroker.cli.checks import Finding, State, fault, fault_of, note, ok, report
from tokenbroker.cli.checks.configuration import check_profiles, minters
from tokenbroker.cli.checks.daemon import check_status
from tokenbroker.cli.checks.places import check_environment, check_socket, check_units
from tokenbroker.config.text import parse
from tokenbroker.errors import ConfigError
from tokenbroker.model import AgentType
from tokenbroker.paths import Surroundings

if TYPE_CHECKING:
    from tests.e2e.rig import Daemon, Ran, Rig
    from tokenbroker.config import Config
    from tokenbroker.dev.issuer import DevIssuer

LINUX = Surroundings({}, "linux", 1000, Path("/home/me"))
UNITS = Path(__file__).parents[2] / "systemd"


def doctor(rig: Rig, *arguments: str, **environ: str) -> Ran:
    """Run the doctor on the rig's configuration; whatever happens, nobody was asked and no secret was shown."""
    before = rig.op.prompts()
    ran = rig.run("broker", "doctor", "--config", str(rig.config), *arguments, **environ)
    assert rig.op.prompts() == before
    for secret in (SECRET, CRON_SECRET):
        assert secret not in ran.out + ran.err
    assert ran.err == ""
    return ran


def pairs(ran: Ran, word: str) -> list[tuple[str, str]]:
    """Return the findings that begin with `word`, each with its hint or an empty string."""
    lines = [*ran.out.splitlines(), ""]
    return [
        (line[6:], after.removeprefix("      → ") if after.startswith(" ") else "")
        for line, after in pairwise(lines)
        if line.startswith(word.ljust(6))
    ]


def test_all_is_well_while_locked(rig: Rig, daemon: Daemon, issuer: DevIssuer) -> None:
    """Everything is looked at, `op` was asked for its version alone, and the status says so."""
    ran = doctor(rig)
    found = [message for message, _ in pairs(ran, "ok")]
    assert (ran.code, pairs(ran, "FAULT")) == (0, [])
    for claim in (
        f"configuration {rig.config}: 2 profiles, 2 clients, 1 issuer, 1 rule, 4 secret references",
        f"1Password CLI 2.40.0 at {rig.bin}/op",
        f"socket {rig.socket} is private",
        f"admin socket {rig.admin} is private",
        f"BROKER_SOCKET={rig.socket}",
        "op://Agents/m2m/credential: not read yet",
        "0 valid tokens in memory",
        f"programs are answered on {rig.socket}",
    ):
        assert claim in found
    assert any(message.startswith(f"issuer `main` found by discovery: {issuer.url}") for message in found)
    assert any(message.startswith("the daemon is hardened: core_limit, umask") for message in found)
    assert any(message.startswith(f"daemon, pid {daemon.process.pid}, version ") for message in found)
    assert ("op is locked; the next interactive program causes one prompt", "broker unlock") in pairs(ran, "note")
    assert [call.argv[-3:] for call in rig.op.calls()] == [["--version"]]


def test_each_reference_is_named(rig: Rig, daemon: Daemon) -> None:
    """After an unlock the doctor says which references were read, and what became of the others."""
    rig.configure(rig.config.read_text().replace("op://Agents/m2m-cron/credential", "op://Agents/m2m-cron/nothing"))
    assert rig.broker("reload").code == 0
    assert rig.broker("unlock").code == 1
    ran = doctor(rig)
    assert ran.code == 1
    assert ("op://Agents/m2m/credential: read", "") in pairs(ran, "ok")
    ((message, hint),) = pairs(ran, "FAULT")
    assert message.startswith("not read: op://Agents/m2m-cron/nothing")
    assert "op item get" in hint or "op read" in hint


def test_an_error_of_a_token_is_told_with_its_hint(rig: Rig, daemon: Daemon) -> None:
    """What the issuer refused last is a fault of its own."""
    rig.configure(rig.config.read_text().replace("op://Agents/m2m/username", "wrong-id"))
    assert rig.broker("reload").code == 0
    asked = rig.token("search")
    assert asked.code == 1
    ((message, hint),) = pairs(doctor(rig), "FAULT")
    assert message.startswith(f"client `mine`, profile `search`: {asked.message}; tried again in ")
    assert hint == asked.hint


def test_a_refused_reload_is_told(rig: Rig, daemon: Daemon) -> None:
    """The file is wrong and the daemon runs on: both are said."""
    rig.configure("version = 1\n[vault]\nbackend = 'oops'\n")
    assert rig.broker("reload").code == 1
    first, second = pairs(doctor(rig), "FAULT")
    assert first[0].startswith(f"{rig.config} line 3: vault.backend: expected")
    assert second[0].startswith("the daemon refused the changed configuration and runs the old one: ")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        pytest.param(None, "{config}: no such file", "write a first configuration with `broker init`", id="no file"),
        pytest.param(
            configuration("https://i.example").replace("op://Agents/m2m/credential", SECRET),
            "{config} line 15: clients.mine.client_secret: found a literal value, which is not shown; "
            "expected a reference such as op://Vault/Item/field",
            "keep the secret in the vault, write its reference here, and rotate what stood in this file",
            id="a secret in the file is not shown",
        ),
        pytest.param(
            configuration("http://127.0.0.1:9"),
            "issuer `main` (127.0.0.1:9) cannot be reached: connection refused",
            "curl -I http://127.0.0.1:9",
            id="issuer down",
        ),
        pytest.param(
            configuration("http://127.0.0.1:9").replace("[vault]", '[vault]\nop = "/nowhere/op"'),
            "vault.op: /nowhere/op is not a program that can be run",
            "correct `op` in section [vault] of the configuration, or remove the line",
            id="no op",
        ),
    ],
)
def test_faults_before_there_is_a_daemon(rig: Rig, text: str | None, message: str, hint: str) -> None:
    """Each has its line and its command; that no broker runs is the last of them."""
    if text is None:
        rig.config.unlink()
    else:
        rig.configure(text)
    ran = doctor(rig)
    faults = pairs(ran, "FAULT")
    assert ran.code == 1
    assert (message.format(config=rig.config), hint) in faults
    assert faults[-1][0] == f"no broker is listening on {rig.admin}"
    assert faults[-1][1].startswith("start it with `")


def test_a_token_endpoint_is_reached(rig: Rig, issuer: DevIssuer) -> None:
    """A configured endpoint is not looked up; that anything answers there is what counts."""
    text = configuration(issuer.url)
    rig.configure(text.replace(f'url = "{issuer.url}"', f'token_endpoint = "{issuer.url}/nothing-here"'))
    assert (f"issuer `main` answers at {issuer.url}/nothing-here", "") in pairs(doctor(rig), "ok")
    rig.configure(text.replace(f'url = "{issuer.url}"', 'token_endpoint = "http://127.0.0.1:9/token"'))
    assert "cannot be reached" in pairs(doctor(rig), "FAULT")[0][0]


@pytest.mark.parametrize(
    ("version", "is_fault"),
    [pytest.param("1.12.9", True, id="1 is too old"), pytest.param("2.30.0", False, id="2 will do")],
)
def test_the_version_of_op(rig: Rig, version: str, is_fault: bool) -> None:  # noqa: FBT001  # parametrized
    """The first generation of `op` speaks another language."""
    rig.op.set(version=version)
    message = next(line for line in doctor(rig).out.splitlines() if f"1Password CLI {version}" in line)
    assert message.startswith("FAULT") is is_fault


def test_a_keyring_that_does_not_encrypt_is_a_fault(rig: Rig) -> None:
    """The library would take whatever there is."""
    text = configuration("http://127.0.0.1:9").replace('backend = "op"', 'backend = "keyring"')
    rig.configure(text.replace("op://Agents/", "keyring://").replace('account = "my.1password.com"\n', ""))
    found = [m for m, _ in pairs(doctor(rig, PYTHON_KEYRING_BACKEND="keyring.backends.null.Keyring"), "FAULT")]
    assert (
        "keyring backend keyring.backends.null.Keyring is not one that keeps secrets encrypted, and is not used"
        in found
    )


@pytest.mark.parametrize(
    ("mode", "finding"),
    [
        pytest.param(0o600, ok("", "{config} is private (mode 600)"), id="private"),
        pytest.param(0o644, note("", "{config} may be read by others (mode 644)", "chmod 600 {config}"), id="readable"),
        pytest.param(
            0o662, fault("", "{config} may be changed by others (mode 662)", "chmod go-w {config}"), id="open"
        ),
    ],
)
def test_permissions_of_the_file(rig: Rig, mode: int, finding: Finding) -> None:
    """Who can change it can send the secrets elsewhere."""
    rig.config.chmod(mode)
    word = "FAULT" if finding.state is State.FAULT else str(finding.state)
    expected = (finding.message.format(config=rig.config), (finding.hint or "").format(config=rig.config))
    assert expected in pairs(doctor(rig), word)


def test_json_has_the_same_findings(rig: Rig, daemon: Daemon) -> None:
    """Scripts read check, state, message and hint."""
    ran = doctor(rig, "--json")
    found = json.loads(ran.out)
    assert ran.code == 0
    assert {frozenset(one) for one in found} == {frozenset({"check", "state", "message", "hint"})}
    assert {one["state"] for one in found} == {"ok", "note"}
    assert {"config", "profile", "vault", "issuer", "socket", "daemon", "unlock", "reference"} <= {
        o["check"] for o in found
    }


def with_rules(rules: str) -> Config:
    """Return the parser's example with other rules."""
    return parse(EXAMPLE.partition("[[rules]]")[0] + rules)


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        pytest.param('[[rules]]\nprofile = "*"\ndecide = "allow"', {"interactive", "autonomous"}, id="any"),
        pytest.param("", set(), id="no rule denies"),
        pytest.param('[[rules]]\nprofile = "*"\ndecide = "ask"', set(), id="nobody can be asked"),
        pytest.param('[[rules]]\nprofile = "*"\ndecide = "deny"', set(), id="deny"),
        pytest.param(
            '[[rules]]\nprofile = "s*"\npeer = { agent_type = "autonomous" }\ndecide = "deny"\n'
            '[[rules]]\nprofile = "*"\ndecide = "allow"',
            {"interactive"},
            id="the first match decides",
        ),
        pytest.param(
            '[[rules]]\nprofile = "s*"\npeer = { exe = "/bin/x" }\ndecide = "deny"\n'
            '[[rules]]\nprofile = "*"\ndecide = "allow"',
            {"interactive", "autonomous"},
            id="a rule for one program decides for that one alone",
        ),
    ],
)
def test_who_can_have_a_profile(rules: str, expected: set[str]) -> None:
    """The rules are walked as the policy does, for programs of either type."""
    config = with_rules(rules)
    assert set(minters(config, config.profiles["search"])) == expected


def test_a_profile_for_one_type_names_the_other() -> None:
    """What a profile lacks may be meant so: a note, with the way to change it."""
    config = with_rules('[[rules]]\nprofile = "*"\ndecide = "allow"')
    config = replace(config, profiles={"search": replace(config.profiles["search"], clients=("mine-cron",))})
    assert minters(config, config.profiles["search"]) == {AgentType.AUTONOMOUS: "mine-cron"}
    (found,) = check_profiles(config)
    assert found.state is State.NOTE
    assert found.message.endswith("autonomous programs by client `mine-cron`; interactive programs are denied")
    assert found.hint == "if that is not meant, add a client with agent_type interactive for [profiles.search]"


@pytest.mark.parametrize(
    ("rules", "who"),
    [
        pytest.param('[[rules]]\nprofile = "*"\ndecide = "ask"', "every program is denied", id="for all"),
        pytest.param(
            '[[rules]]\nprofile = "*"\npeer = { agent_type = "autonomous" }\ndecide = "ask"\n'
            '[[rules]]\nprofile = "*"\ndecide = "allow"',
            "interactive programs by client `mine`",
            id="for some",
        ),
    ],
)
def test_a_rule_that_asks_is_said_to_deny(rules: str, who: str) -> None:
    """This version has nobody to ask."""
    config = replace(with_rules(rules), path=Path("/c.toml"))
    found = check_profiles(replace(config, profiles={"search": config.profiles["search"]}))
    message = f'profile `search`: {who}; a rule says `decide = "ask"`: this version has nobody to ask, so it denies'
    hint = f'set decide = "allow" in line {config.rules[0].line} of /c.toml, then `broker reload`'
    assert found == [note("profile", message, hint)]


def test_a_rule_that_asks_behind_one_that_decides_is_not_told() -> None:
    config = with_rules('[[rules]]\nprofile = "*"\ndecide = "allow"\n[[rules]]\nprofile = "*"\ndecide = "ask"')
    assert all("nobody to ask" not in finding.message for finding in check_profiles(config))


STATUS: dict[str, Any] = {
    "version": "1", "pid": 7, "started_at": 0.0, "config": "/c.toml", "config_error": None,
    "hardening": {"umask": "on"}, "tokens": [],
    "vault": {"state": "locked", "backend": "op", "secrets": 0, "failures": {}, "last_error": None},
}  # fmt: skip


def judged(**changes: Any) -> list[Finding]:
    """Return the findings on a daemon like `STATUS` but for `changes`, all fine ones left out."""
    found = check_status(STATUS | changes, version="1", file="/c.toml", config=None, here=LINUX, now=60.0)
    return [one for one in found if one.state is not State.OK]


def vault(last: str, code: str, state: str = "locked") -> dict[str, Any]:
    error = {"code": code, "message": last, "hint": "do this"}
    return {**STATUS["vault"], "state": state, "last_error": error}


LOCKED = note("unlock", "op is locked; the next interactive program causes one prompt", "broker unlock")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, [LOCKED], id="locked"),
        pytest.param(
            {"version": "0"},
            [
                fault(
                    "daemon", "daemon, pid 7, version 0: this command is version 1",
                    "systemctl --user restart tokenbroker, or end `broker serve` and start it again",
                ),
                LOCKED,
            ],
            id="another version",
        ),
        pytest.param(
            {"config": None},
            [note("daemon", "the daemon runs on development parts, not on this configuration"), LOCKED],
            id="development parts",
        ),
        pytest.param(
            {"config": "/d.toml"},
            [
                note("daemon", "the daemon runs another configuration: /d.toml", "broker doctor --config /d.toml"),
                LOCKED,
            ],
            id="another file",
        ),
        pytest.param(
            {"hardening": {"umask": "on", "core_limit": "not permitted"}},
            [note("hardening", "the daemon could not take the measure core_limit: not permitted"), LOCKED],
            id="not hardened",
        ),
        pytest.param(
            {"vault": vault("refused", "prompt_dismissed", "cooling_down")},
            [note("unlock", "op is cooling down; last: refused", "broker unlock")],
            id="a person said no",
        ),
        pytest.param(
            {"vault": vault("no app", "vault_unavailable")},
            [fault("unlock", "op is locked; last: no app", "do this")],
            id="the app is not there",
        ),
        pytest.param(
            {"autonomous_vault": {**STATUS["vault"], "backend": "service-account"}},
            [
                LOCKED,
                note(
                    "unlock",
                    "for autonomous clients, service-account is locked; the next program opens it, asking nobody",
                    "broker unlock",
                ),
            ],
            id="a vault for autonomous clients",
        ),
        pytest.param(
            {"desk": {"sleep": {"does": "lock", "followed": False, "why": "there is no system bus"}}},
            [LOCKED, note("desk", "sleep is to lock the vault and is not noticed: there is no system bus")],
            id="an event that goes unnoticed",
        ),
    ],
)  # fmt: skip
def test_what_the_daemon_says_is_judged(changes: dict[str, Any], expected: list[Finding]) -> None:
    assert judged(**changes) == expected


DOCTOR = "run `broker doctor`"


@pytest.mark.parametrize(
    ("hint", "code", "expected"),
    [
        pytest.param(DOCTOR, "credential_rejected", "broker unlock", id="a refused credential"),
        pytest.param(DOCTOR, "config", "broker status", id="anything else"),
        pytest.param(None, "config", "broker status", id="no hint"),
        pytest.param(f"set audience, then {DOCTOR}", "config", "set audience, then `broker reload`", id="as last step"),
        pytest.param("do this", "credential_rejected", "do this", id="another hint is kept"),
    ],
)
def test_the_doctor_sends_nobody_to_the_doctor(hint: str | None, code: str, expected: str) -> None:
    """What the daemon would say to a program is not what to say here."""
    error = {"code": code, "message": "refused", "hint": hint}
    token = {"profile": "search", "client": "mine", "last_error": error, "retry_in": None, "expires_at": None}
    locked, found = judged(tokens=[token])
    assert (locked, found) == (LOCKED, fault("token", "profile `search`, client `mine`: refused", expected))


def test_no_part_of_the_daemon_s_answer_sends_to_the_doctor() -> None:
    error = {"code": "vault_unavailable", "message": "op://A/x/y: no", "hint": DOCTOR}
    vault = {**STATUS["vault"], "last_error": error, "failures": {"op://A/x/y": error}}
    found = judged(vault=vault, config_error=error)
    assert [one.state for one in found] == [State.FAULT] * 3
    assert "doctor" not in report(found)
    assert report(found).count("not read: op://A/x/y: no\n") == 1


def test_the_doctor_s_own_errors_do_not_send_to_it() -> None:
    for hint, expected in ((f"correct it, then {DOCTOR}", "correct it"), (DOCTOR, "ls"), (None, "ls")):
        assert fault_of("config", ConfigError("wrong", hint=hint), otherwise="ls").hint == expected


def test_the_environment_is_judged_without_values_that_could_be_secret() -> None:
    """Foreign variables are named and not shown; an `op` in use elsewhere is not our business."""
    environ = {"OP_SERVICE_ACCOUNT_TOKEN": "ops_x", "BROKER_SOCKET": "/s", "BROKER_FOO": "bar", "HOME": "/h"}
    assert check_environment(environ, backend="op") == [
        note(
            "environment",
            "OP_SERVICE_ACCOUNT_TOKEN is set here; the broker does not pass it on, your own `op` obeys it",
            "unset OP_SERVICE_ACCOUNT_TOKEN",
        ),
        ok("environment", "BROKER_SOCKET=/s"),
        note("environment", "BROKER_FOO means nothing to the broker", "unset BROKER_FOO"),
    ]
    assert len(check_environment(environ, backend="keyring")) == 2


@pytest.mark.parametrize(
    ("folder_mode", "socket_mode", "kind", "expected"),
    [
        pytest.param(0o700, 0o600, "socket", ("ok", "socket {s} is private", None), id="private"),
        pytest.param(
            0o755, 0o600, "socket", ("fault", "{f} is open to others (mode 755)", "chmod 700 {f}"), id="folder"
        ),
        pytest.param(0o700, 0o666, "socket", ("fault", "{s} is open to others (mode 666)", "chmod 600 {s}"), id="open"),
        pytest.param(0o700, 0o600, "file", ("fault", "{s} is not a socket", "rm {s}"), id="a file"),
        pytest.param(0o700, 0o600, "link", ("fault", "{s} is not a socket", "rm {s}"), id="a link"),
        pytest.param(0o700, 0o600, "", ("note", "socket {s} is not there; the broker makes it", None), id="nothing"),
    ],
)
def test_files_of_a_socket(
    rig: Rig, folder_mode: int, socket_mode: int, kind: str, expected: tuple[str, str, str | None]
) -> None:
    """Nobody else may reach it, or put another in its place."""
    folder = rig.runtime / "t"
    folder.mkdir(mode=0o700)
    path = folder / "s"
    with socket.socket(socket.AF_UNIX) as sock:
        if kind == "socket":
            sock.bind(str(path))
            path.chmod(socket_mode)
        elif kind == "file":
            path.touch(socket_mode)
        elif kind == "link":
            path.symlink_to(rig.config)
    folder.chmod(folder_mode)
    state, message, hint = expected
    shown = {"s": path, "f": folder}
    assert check_socket(path, "socket", os.getuid()) == [
        Finding("socket", State(state), message.format(**shown), hint and hint.format(**shown))
    ]


def test_systemd_units_are_followed_to_their_program(tmp_path: Path) -> None:
    """From nothing to enabled, each step is told."""
    here = replace(LINUX, home=tmp_path, environ={"PATH": str(tmp_path / "venv")})
    folder, program = tmp_path / ".config/systemd/user", tmp_path / ".local/bin/broker"

    def found() -> tuple[str, str | None]:
        (one,) = check_units(here)
        return f"{one.state}: {one.message}", one.hint

    assert found()[0].startswith("note: no systemd user units")
    folder.mkdir(parents=True)
    (folder / "tokenbroker.service").write_text((UNITS / "tokenbroker.service").read_text())
    assert found() == (
        "fault: systemd unit tokenbroker.socket is missing beside the others",
        f"ls {folder}/tokenbroker*",
    )
    for name in ("tokenbroker.socket", "tokenbroker-admin.socket"):
        (folder / name).touch()
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv/broker").touch(0o700)
    assert found() == (
        f"fault: tokenbroker.service starts {program}, which is not there",
        f"ln -s {tmp_path}/venv/broker {program}",
    )
    program.parent.mkdir(parents=True)
    program.touch(0o700)
    assert found() == (
        "note: systemd units are installed and not enabled",
        "systemctl --user enable --now tokenbroker.socket",
    )
    (folder / "sockets.target.wants").mkdir()
    (folder / "sockets.target.wants/tokenbroker.socket").symlink_to(folder / "tokenbroker.socket")
    assert found() == (f"ok: systemd units in {folder}, enabled", None)


def test_a_launch_agent_is_followed_to_its_program(tmp_path: Path) -> None:
    """The placeholders of the shipped file must have been filled in."""
    here = replace(LINUX, platform="darwin", home=tmp_path)
    path = tmp_path / "Library/LaunchAgents/tokenbroker.plist"
    template = (UNITS.parent / "launchd/tokenbroker.plist").read_text()
    states = []
    path.parent.mkdir(parents=True)
    for text in (None, "nonsense", template, template.replace("@BROKER@", str(Path(__file__)))):
        if text is not None:
            path.write_text(text)
        states.append(str(check_units(here)[0].state))
    assert states == ["note", "fault", "fault", "ok"]


def test_a_report_is_one_line_each() -> None:
    """What an issuer or a path holds cannot steer the terminal."""
    findings = [ok("a", "fine"), note("b", "known"), fault("c", "an\x1b[31m escape\n", "fix it")]
    assert report(findings) == "ok    fine\nnote  known\nFAULT an?[31m escape?\n      → fix it"
