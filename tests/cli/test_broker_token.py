"""Transcripts of `broker-token`: command, exit code, stdout, stderr."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.installed import install, run
from tests.standins.fake_daemon import FakeDaemon, Step, http, refusal, token_number
from tokenbroker_client import __version__, wire
from tokenbroker_client.arguments import parse
from tokenbroker_client.cli import output
from tokenbroker_client.environment import here
from tokenbroker_client.help_text import HELP

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = token_number(0).access_token


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("venv") / "v", editable=True)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose name leaves room for a socket's."""
    with tempfile.TemporaryDirectory(prefix="tb") as name:
        yield Path(name)


@pytest.fixture
def daemon(folder: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(folder / "b.sock") as running:
        yield running


def failed(exit_code: int, error: str, hint: str) -> tuple[int, str, str]:
    """Return the transcript of a failure: nothing on stdout and two lines on stderr."""
    return exit_code, "", f"broker-token: error: {error}\nbroker-token: hint: {hint}\n"


# The plain call is answered by the script alone; with a flag the package answers. Both must look the same.
WAYS = pytest.mark.parametrize("flags", [pytest.param((), id="script"), pytest.param(("--format", "token"), id="cli")])


@WAYS
def test_the_token_and_nothing_else_is_printed(command: Path, daemon: FakeDaemon, flags: tuple[str, ...]) -> None:
    assert run(command, "search", *flags, BROKER_SOCKET=daemon.path) == (0, f"{TOKEN}\n", "")
    assert [request.form for request in daemon.seen] == [
        {"grant_type": "client_credentials", "profile": "search"},
    ]


BOUND = (
    "broker-token: hint: this token is bound to a key (DPoP): an API wants a proof with each request, see BrokerAuth "
    "or POST /proof\n"
)


@pytest.mark.parametrize(
    ("flags", "out", "err"),
    [
        pytest.param((), f"{TOKEN}\n", BOUND, id="script"),
        pytest.param(("--format", "token"), f"{TOKEN}\n", BOUND, id="cli"),
        pytest.param(("--format", "env"), f"export ACCESS_TOKEN='{TOKEN}'\n", BOUND, id="env"),
        pytest.param(("--format", "header"), f"Authorization: DPoP {TOKEN}\n", "", id="header"),
    ],
)
def test_a_bound_token_is_printed_with_a_hint(
    command: Path, daemon: FakeDaemon, flags: tuple[str, ...], out: str, err: str
) -> None:
    """Exit 0: the token is there, and of no use to an API without proofs. The broker is asked once."""
    daemon.script(http(200, wire.encode_token(replace(token_number(0), token_type="DPoP"))))
    assert run(command, "search", *flags, BROKER_SOCKET=daemon.path) == (0, out, err)
    assert len(daemon.seen) == 1


@WAYS
@pytest.mark.parametrize(
    ("answer", "transcript"),
    [
        pytest.param(
            refusal(400, "config", "profile `search` is broken", hint="run `broker doctor`"),
            failed(1, "profile `search` is broken", "run `broker doctor`"),
            id="failed",
        ),
        pytest.param(
            refusal(403, "denied", "rule denies profile `search`"),
            failed(4, "rule denies profile `search`", "see what you may have with `broker-token --list`"),
            id="denied by a rule",
        ),
        pytest.param(
            refusal(403, "prompt_dismissed", "the prompt was dismissed"),
            failed(4, "the prompt was dismissed", "open the vault with `broker unlock`"),
            id="denied by a person",
        ),
        pytest.param(
            refusal(403, "locked", "1Password is locked"),
            failed(5, "1Password is locked", "open the vault with `broker unlock`"),
            id="locked",
        ),
        pytest.param(
            refusal(400, "min_ttl_unmet", "no token is valid for 9 h"),
            failed(6, "no token is valid for 9 h", "ask for less with `--min-ttl SECONDS`"),
            id="too short a token",
        ),
        pytest.param(
            refusal(503, "issuer_unavailable", "the issuer is away", retryable=True, retry_after=7),
            failed(75, "the issuer is away", "run the command again in 7 s"),
            id="try again later",
        ),
        pytest.param(
            b"",
            failed(75, "the broker ended the connection before its answer was complete", "run the command again"),
            id="dies at once",
        ),
        pytest.param(
            http(200, wire.encode_token(token_number(0)), length=9999),
            failed(75, "the broker ended the connection before its answer was complete", "run the command again"),
            id="dies in the middle of the answer",
        ),
        pytest.param(
            http(200, b'{"access_token":"SECRET'),
            failed(
                1,
                "the broker's answer (HTTP 200) cannot be used: the body is not JSON",
                "compare `broker --version` with `broker-token --version`",
            ),
            id="garbage instead of JSON",
        ),
        pytest.param(
            http(200, wire.encode_token(wire.TokenAnswer("a\nb"))),
            failed(
                1,
                "the broker's answer (HTTP 200) cannot be used: the answer holds no usable access_token",
                "compare `broker --version` with `broker-token --version`",
            ),
            id="a token with a line break",
        ),
        pytest.param(
            http(500, b"<h1>oops</h1>"),
            failed(
                1,
                "the broker's answer (HTTP 500) cannot be used: the body is not JSON",
                "compare `broker --version` with `broker-token --version`",
            ),
            id="an error that is no JSON",
        ),
        pytest.param(
            http(200, b"x" * 2_000_000),
            failed(
                1,
                "the broker's answer cannot be used: the answer is too large",
                "compare `broker --version` with `broker-token --version`",
            ),
            id="an answer without end",
        ),
    ],
)
def test_failures(
    command: Path, daemon: FakeDaemon, flags: tuple[str, ...], answer: Step, transcript: tuple[int, str, str]
) -> None:
    """Whoever answers the call, it fails in the same words, and the broker is asked once."""
    daemon.script(answer)
    assert run(command, "search", *flags, BROKER_SOCKET=daemon.path) == transcript
    assert len(daemon.seen) == 1


def test_a_silent_broker_is_waited_for_only_so_long(command: Path, daemon: FakeDaemon) -> None:
    daemon.script(None)
    code, out, err = run(command, "search", "--timeout", "0.2", BROKER_SOCKET=daemon.path)
    assert (code, out) == (75, "")
    assert err.startswith("broker-token: error: the broker did not answer within 0.2 s\nbroker-token: hint: ")


@WAYS
def test_no_broker(command: Path, folder: Path, flags: tuple[str, ...]) -> None:
    """Without a user manager of systemd the daemon's own command is named."""
    environ = {"BROKER_SOCKET": f"{folder}/b.sock", "XDG_RUNTIME_DIR": str(folder)}
    expected = failed(3, f"no broker is listening on {folder}/b.sock", "start it with `broker serve`")
    assert run(command, "search", *flags, **environ) == expected


def test_no_broker_where_systemd_starts_it(command: Path, folder: Path) -> None:
    (folder / "systemd").mkdir()
    (folder / "systemd" / "private").touch()
    expected = failed(
        3,
        f"no broker is listening on {folder}/tokenbroker/broker.sock",
        "start it with `systemctl --user start tokenbroker.socket`",
    )
    assert run(command, "search", XDG_RUNTIME_DIR=str(folder)) == expected


@WAYS
def test_a_socket_that_nobody_serves_any_more(command: Path, folder: Path, flags: tuple[str, ...]) -> None:
    """What a crashed daemon leaves behind is not a broker."""
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(f"{folder}/b.sock")
    assert run(command, "search", *flags, BROKER_SOCKET=f"{folder}/b.sock")[0] == 3


@WAYS
def test_a_broker_of_another_user_is_asked_nothing(command: Path, folder: Path, flags: tuple[str, ...]) -> None:
    """The kernel says who listens, and it is neither this user nor root."""
    if os.getuid() != 0:
        pytest.skip("only root can listen as somebody else")
    path = f"{folder}/b.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        os.seteuid(65534)
        try:
            listener.listen()
        finally:
            os.seteuid(0)
        code, out, err = run(command, "search", *flags, BROKER_SOCKET=path)
        listener.settimeout(1)
        with listener.accept()[0] as connection:
            assert connection.recv(100) == b""
    assert (code, out) == (3, "")
    assert err.startswith(f"broker-token: error: the server on {path} belongs to uid 65534, not to uid 0\n")


@WAYS
def test_a_link_to_a_socket_is_refused(command: Path, daemon: FakeDaemon, folder: Path, flags: tuple[str, ...]) -> None:
    (folder / "link").symlink_to(daemon.path)
    expected = failed(
        2, f"the socket {folder}/link is a symbolic link", f"name its target: `readlink -f {folder}/link`"
    )
    assert run(command, "search", *flags, BROKER_SOCKET=f"{folder}/link") == expected
    assert not daemon.seen


@WAYS
def test_a_path_that_no_socket_can_have(command: Path, flags: tuple[str, ...]) -> None:
    code, out, err = run(command, "search", *flags, BROKER_SOCKET="/tmp/" + "x" * 200)  # noqa: S108  # never opened
    assert (code, out) == (2, "")
    assert "is 205 bytes long, and this system holds 107\nbroker-token: hint: set BROKER_SOCKET" in err


def test_usage_error(command: Path, daemon: FakeDaemon) -> None:
    """A command line that is not understood asks for nothing."""
    expected = failed(2, "unrecognized arguments: b", "see `broker-token --help`")
    assert run(command, "a", "b", BROKER_SOCKET=daemon.path) == expected
    assert not daemon.seen


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        pytest.param((b"\xff",), "PROFILE", id="profile"),
        pytest.param((b"search", b"--scope", b"a", b"--scope", b"\xff"), "option --scope", id="scope"),
        pytest.param((b"--audience", b"\xff"), "option --audience", id="audience"),
        pytest.param((b"search", b"--reason", b"caf\xe9"), "option --reason", id="reason"),
    ],
)
def test_an_argument_that_is_not_utf_8_is_a_usage_error(
    command: Path, daemon: FakeDaemon, arguments: tuple[bytes, ...], what: str
) -> None:
    done = subprocess.run(
        [os.fsencode(command), *arguments],
        env={"PATH": os.defpath, "BROKER_SOCKET": daemon.path, "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
    )
    transcript = (done.returncode, done.stdout, done.stderr)
    assert transcript == failed(2, f"{what} is not UTF-8", "see `broker-token --help`")
    assert not daemon.seen


@pytest.mark.skipif(sys.platform == "darwin", reason="file names are UTF-8 there")
def test_a_socket_s_path_may_be_any_bytes(command: Path, folder: Path) -> None:
    """What is not sent as text need not be text."""
    path = os.fsdecode(bytes(folder) + b"/\xff.sock")
    with FakeDaemon(path):
        assert run(command, "search", "--socket", path) == (0, f"{TOKEN}\n", "")


@WAYS
def test_a_misspelt_never_is_a_usage_error(command: Path, daemon: FakeDaemon, flags: tuple[str, ...]) -> None:
    code, out, _ = run(command, "search", *flags, BROKER_SOCKET=daemon.path, BROKER_INTERACTION="nevr")
    assert (code, out, daemon.seen) == (2, "", [])


@pytest.mark.parametrize(
    ("arguments", "form"),
    [
        pytest.param(("search", "--min-ttl", "1800"), {"profile": "search", "min_ttl": "1800"}, id="validity"),
        pytest.param(("search", "--min-ttl", "0"), {"profile": "search", "min_ttl": "0"}, id="no validity"),
        pytest.param(
            ("search", "--scope", "a b", "--scope", "c"), {"profile": "search", "scope": "a b c"}, id="scopes"
        ),
        pytest.param(("--audience", "https://a/"), {"audience": "https://a/"}, id="audience alone"),
        pytest.param(("search", "--as", "autonomous"), {"profile": "search", "agent_type": "autonomous"}, id="lowered"),
        pytest.param(("search", "--no-prompt"), {"profile": "search", "interaction": "never"}, id="no prompt"),
        pytest.param(("search", "--reason", "a&b=c"), {"profile": "search", "reason": "a&b=c"}, id="reason"),
        pytest.param(("a profile/&",), {"profile": "a profile/&"}, id="a profile with odd characters"),
    ],
)
def test_what_is_asked(daemon: FakeDaemon, arguments: tuple[str, ...], form: dict[str, str]) -> None:
    surroundings = replace(here(), environ={"BROKER_SOCKET": daemon.path})
    assert output(parse(arguments), surroundings)[0].startswith("eyJ")
    assert [request.form for request in daemon.seen] == [{"grant_type": "client_credentials"} | form]


@WAYS
@pytest.mark.parametrize(
    "environ",
    [
        pytest.param({"BROKER_INTERACTION": "never"}, id="ours"),
        pytest.param({"GCM_INTERACTIVE": "0"}, id="git's"),
        pytest.param({"CLAUDE_HELPER_CONTEXT": "scheduled-task"}, id="Claude's"),
    ],
)
def test_the_environment_can_forbid_prompts(
    command: Path, daemon: FakeDaemon, flags: tuple[str, ...], environ: dict[str, str]
) -> None:
    run(command, "search", *flags, BROKER_SOCKET=daemon.path, **environ)
    assert [request.form["interaction"] for request in daemon.seen] == ["never"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(("--format", "header"), f"Authorization: Bearer {TOKEN}\n", id="header"),
        pytest.param(("--format", "env"), f"export ACCESS_TOKEN='{TOKEN}'\n", id="env"),
        pytest.param(("--format", "env", "--env", "X"), f"export X='{TOKEN}'\n", id="env by a name"),
    ],
)
def test_formats(command: Path, daemon: FakeDaemon, arguments: tuple[str, ...], expected: str) -> None:
    assert run(command, "search", *arguments, BROKER_SOCKET=daemon.path) == (0, expected, "")


def test_json_is_the_broker_s_whole_answer(command: Path, daemon: FakeDaemon) -> None:
    code, out, err = run(command, "search", "--json", BROKER_SOCKET=daemon.path)
    assert (code, json.loads(out), err) == (0, json.loads(wire.encode_token(token_number(0))), "")


def test_a_rejected_token_is_replaced(command: Path, daemon: FakeDaemon) -> None:
    """The rejection names the token by its fingerprint."""
    expected = (0, f"{token_number(1).access_token}\n", "")
    assert run(command, "search", "--rejected", BROKER_SOCKET=daemon.path) == expected
    assert [request.path for request in daemon.seen] == ["/token", "/rejected", "/token"]
    assert json.loads(daemon.seen[1].body) == {"profile": "search", "fingerprint": token_number(0).fingerprint}


def test_a_rejected_token_that_is_kept_is_not_printed_again(command: Path, daemon: FakeDaemon) -> None:
    """A loop learns that another try is of no use now, and where the fault may be."""
    daemon.keeps = True
    assert run(command, "search", "--rejected", BROKER_SOCKET=daemon.path) == failed(
        75,
        "the broker keeps this token: it was rejected too often within a minute",
        "check audience and scopes of the profile at the API; `broker-token --list` shows them",
    )
    assert [request.path for request in daemon.seen] == ["/token", "/rejected", "/token"]


def test_a_rejected_token_that_somebody_else_replaced_is_no_failure(command: Path, daemon: FakeDaemon) -> None:
    """Nothing was dropped, and the token is another one all the same."""
    daemon.script(
        http(200, wire.encode_token(token_number(0))),
        http(200, b'{"dropped":false}'),
        http(200, wire.encode_token(token_number(1))),
    )
    expected = (0, f"{token_number(1).access_token}\n", "")
    assert run(command, "search", "--rejected", BROKER_SOCKET=daemon.path) == expected


def test_list(command: Path, daemon: FakeDaemon) -> None:
    code, out, err = run(command, "--list", "--socket", daemon.path)
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == ["PROFILE", "search", "billing", "payroll"]
    code, out, _ = run(command, "--list", "--json", "--socket", daemon.path)
    assert [one["profile"] for one in json.loads(out)["profiles"]] == ["search", "billing", "payroll"]


def test_version_and_help_need_no_broker(command: Path) -> None:
    assert run(command, "--version") == (0, f"broker-token {__version__}\n", "")
    assert run(command, "--help") == (0, HELP, "")
    assert run(command, "search", "-h", "--scope", "x") == (0, HELP, "")


@WAYS
@pytest.mark.parametrize(
    ("target", "why"),
    [
        pytest.param(">/dev/full", "no space left on device", id="a full disk"),
        pytest.param(">&-", "stdout is closed", id="a closed stdout"),
    ],
)
def test_a_token_that_cannot_be_written_is_a_failure(
    command: Path, daemon: FakeDaemon, flags: tuple[str, ...], target: str, why: str
) -> None:
    """And whoever looks for the token learns why it is not there."""
    code, out, err = in_shell(command, daemon, f'"$0" search {" ".join(flags)} {target}')
    assert (code, out, err) == (1, "", f"broker-token: error: the token cannot be written: {why}\n")


@WAYS
def test_with_both_streams_unusable_the_status_is_left(
    command: Path, daemon: FakeDaemon, flags: tuple[str, ...]
) -> None:
    for targets in (">/dev/full 2>/dev/full", ">/dev/full 2>&-", ">&- 2>&-"):
        assert in_shell(command, daemon, f'"$0" search {" ".join(flags)} {targets}') == (1, "", "")


def test_what_is_not_a_token_is_not_called_one(command: Path, daemon: FakeDaemon) -> None:
    error = "broker-token: error: the text cannot be written: no space left on device\n"
    assert in_shell(command, daemon, '"$0" --list >/dev/full') == (1, "", error)


def in_shell(command: Path, daemon: FakeDaemon, line: str) -> tuple[int, str, str]:
    """Run a line of sh in which `$0` is the command; return its transcript."""
    done = subprocess.run(
        ["sh", "-c", line, str(command)],
        env={"PATH": os.defpath, "BROKER_SOCKET": daemon.path, "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


@WAYS
def test_a_closed_pipe_is_a_quiet_failure(command: Path, daemon: FakeDaemon, flags: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as pipe:  # noqa: PTH123  # a descriptor
        done = subprocess.run(
            [str(command), "search", *flags],
            env={"PATH": os.defpath, "BROKER_SOCKET": daemon.path, "HOME": "/nonexistent"},
            stdout=pipe,
            stderr=subprocess.PIPE,
        )
    assert (done.returncode, done.stderr) == (1, b"")
