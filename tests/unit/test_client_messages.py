"""Every error tells the next command, for the platform and the host that it happens on."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from tokenbroker_client import messages, wire
from tokenbroker_client.environment import Here, default_timeout, interaction
from tokenbroker_client.errors import BrokerRefused, ClientError, NoAnswer, NoBroker, UsageError

LINUX = Here(environ={}, platform="linux", uid=1000, home="/home/ada", user_manager=True)
MACOS = Here(environ={}, platform="darwin", uid=501, home="/Users/ada")


@pytest.mark.parametrize(
    ("here", "command"),
    [
        pytest.param(LINUX, "systemctl --user start tokenbroker.socket", id="systemd's user manager"),
        pytest.param(replace(LINUX, user_manager=False), "broker serve", id="linux without it"),
        pytest.param(MACOS, "launchctl kickstart gui/501/tokenbroker", id="macOS"),
    ],
)
@pytest.mark.parametrize("number", [errno.ENOENT, errno.ECONNREFUSED])
def test_when_nobody_listens_the_start_command_is_named(here: Here, command: str, number: int) -> None:
    error = messages.unreachable(OSError(number, "x"), "/s", here)
    assert messages.lines("broker-token", error) == (
        f"broker-token: error: no broker is listening on /s\nbroker-token: hint: start it with `{command}`\n"
    )
    assert isinstance(error, NoBroker)


@pytest.mark.parametrize(
    ("here", "settings"),
    [
        pytest.param(LINUX, ["sandbox.network.allowAllUnixSockets", "[permissions.<profile>."], id="linux, any host"),
        pytest.param(MACOS, ["sandbox.network.allowUnixSockets", "[permissions.<profile>."], id="macOS, any host"),
        pytest.param(
            replace(LINUX, environ={"CLAUDECODE": "1"}), ["sandbox.network.allowAllUnixSockets"], id="Claude Code"
        ),
        pytest.param(
            replace(MACOS, environ={"CODEX_SANDBOX": "seatbelt"}),
            ["[permissions.<profile>.network.unix_sockets]"],
            id="Codex",
        ),
    ],
)
@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES, errno.EAFNOSUPPORT])
def test_under_a_sandbox_the_setting_of_its_host_is_named(here: Here, settings: list[str], number: int) -> None:
    error = messages.unreachable(OSError(number, "x"), "/s", here)
    assert "probably because of a sandbox" in error.message
    assert error.exit_code == wire.EXIT_NO_BROKER
    assert error.hint is not None
    assert all(setting in error.hint for setting in settings)
    assert error.hint.count("; ") == len(settings) - 1


def test_a_full_queue_may_be_tried_again() -> None:
    error = messages.unreachable(BlockingIOError(errno.EAGAIN, "x"), "/s", LINUX)
    assert isinstance(error, NoAnswer)
    assert error.exit_code == wire.EXIT_TRY_AGAIN


def refused(code: str, **more: object) -> BrokerRefused:
    return BrokerRefused(wire.ErrorAnswer("x", "it is so", code, **more))  # type: ignore[arg-type]  # a test's words


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        pytest.param(refused("denied", hint="ask ada"), "ask ada", id="the broker's own hint"),
        pytest.param(refused("denied"), "see what you may have with `broker-token --list`", id="by its code"),
        pytest.param(refused("busy", retryable=True), "run the command again", id="retryable"),
        pytest.param(refused("busy", retryable=True, retry_after=2.5), "run the command again in 3 s", id="and when"),
        pytest.param(refused("odd"), "find the fault with `broker doctor`", id="anything else"),
        pytest.param(ClientError("it is so"), "find the fault with `broker doctor`", id="of the client"),
    ],
)
def test_every_error_has_a_hint(error: ClientError, hint: str) -> None:
    assert messages.lines("broker", error).splitlines()[1] == f"broker: hint: {hint}"


def test_a_message_keeps_to_its_line_and_off_the_terminal() -> None:
    """What a daemon says must not forge a second line nor move the cursor."""
    text = messages.lines("broker-token", ClientError("a\nbroker-token: hint: b\x1b[2J", hint="c"))
    assert text == "broker-token: error: a broker-token: hint: b [2J\nbroker-token: hint: c\n"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        pytest.param({}, "allow", id="a person is assumed"),
        pytest.param({"BROKER_INTERACTION": "never"}, "never", id="our variable"),
        pytest.param({"BROKER_INTERACTION": ""}, "allow", id="an empty one is not set"),
        pytest.param({"GCM_INTERACTIVE": "0"}, "never", id="git's"),
        pytest.param({"GCM_INTERACTIVE": "False"}, "never", id="git's, in words"),
        pytest.param({"GCM_INTERACTIVE": "1"}, "allow", id="git's, on"),
        pytest.param({"CLAUDE_HELPER_CONTEXT": "scheduled-task"}, "never", id="a scheduled task"),
        pytest.param({"CLAUDE_HELPER_CONTEXT": "background"}, "never", id="in the background"),
        pytest.param({"CLAUDE_HELPER_CONTEXT": "setup-test"}, "allow", id="a person sets it up"),
        pytest.param({"CLAUDE_HELPER_CONTEXT": "background", "BROKER_INTERACTION": "allow"}, "never", id="never wins"),
    ],
)
def test_interaction(environ: dict[str, str], expected: str) -> None:
    assert interaction(environ) == expected


def test_a_misspelt_never_opens_no_dialog() -> None:
    with pytest.raises(UsageError, match="expected allow or never"):
        interaction({"BROKER_INTERACTION": "nevr"})


def test_without_a_terminal_a_helper_ends_before_its_host_ends_it() -> None:
    assert default_timeout(terminal=False) < 10 < default_timeout(terminal=True)
