"""What to tell a person, on each platform, when the broker cannot be reached; and the lines on stderr.

Rules of this file: lower case, no final period, subject first; a hint names one exact next step.
"""

from __future__ import annotations

import errno
import math
from typing import TYPE_CHECKING, Final

from tokenbroker_client import paths
from tokenbroker_client.errors import ClientError, NoAnswer, NoBroker, TokenKept

if TYPE_CHECKING:
    from tokenbroker_client.environment import Here

# A seccomp filter may answer the very creation of a socket with any of these.
_FORBIDDEN: Final = frozenset({errno.EPERM, errno.EACCES, errno.EAFNOSUPPORT})

_HINT_BY_CODE: Final = {
    "denied": "see what you may have with `broker-token --list`",
    "no_client": "see what you may have with `broker-token --list`",
    "unknown_profile": "list the profiles with `broker-token --list`",
    "scope_exceeds_profile": "see the scopes of each profile with `broker-token --list`",
    "locked": "open the vault with `broker unlock`",
    "prompt_dismissed": "open the vault with `broker unlock`",
    "prompt_unanswered": "open the vault with `broker unlock`",
    "cooling_down": "open the vault with `broker unlock`",
    "min_ttl_unmet": "ask for less with `--min-ttl SECONDS`",
    "usage": "see `broker-token --help`",
}


def start_command(here: Here) -> str:
    """Return the command that starts the broker on this machine."""
    if here.platform == "darwin":
        return f"launchctl kickstart gui/{here.uid}/{paths.LAUNCHD_LABEL}"
    if here.user_manager:
        return f"systemctl --user start {paths.SYSTEMD_SOCKET_UNIT}"
    return "broker serve"


def unreachable(error: OSError, path: str, here: Here) -> ClientError:
    """Turn the kernel's refusal to connect to `path` into an error that says what to do."""
    if error.errno in _FORBIDDEN:
        return NoBroker(
            f"the socket {path} may not be opened, probably because of a sandbox",
            hint=_sandbox_setting(path, here),
        )
    if isinstance(error, (TimeoutError, BlockingIOError)):
        return NoAnswer(f"the broker on {path} takes no more callers", hint="run the command again")
    return NoBroker(f"no broker is listening on {path}", hint=f"start it with `{start_command(here)}`")


def _sandbox_setting(path: str, here: Here) -> str:
    if here.platform == "darwin":
        claude = f'in Claude Code\'s settings.json set `sandbox.network.allowUnixSockets` to `["{path}"]`'
    else:
        # Claude Code's Linux sandbox forbids AF_UNIX by seccomp, which sees no paths: all or none.
        claude = "in Claude Code's settings.json set `sandbox.network.allowAllUnixSockets` to `true`"
    codex = f'in Codex\'s config.toml put `"{path}" = "allow"` under `[permissions.<profile>.network.unix_sockets]`'
    if here.environ.get("CLAUDECODE"):
        return claude
    return codex if here.environ.get("CODEX_SANDBOX") else f"{claude}; {codex}"


def foreign(what: str, path: str, owner: int | None, here: Here) -> NoBroker:
    """Refuse a socket, folder or server that belongs to somebody else, to whom a token request says too much."""
    whose = "somebody unknown" if owner is None else f"uid {owner}"
    return NoBroker(
        f"{what} {path} belongs to {whose}, not to uid {here.uid}",
        hint=f"check `ls -ld {path}` and BROKER_SOCKET, then start your own broker with `{start_command(here)}`",
    )


def timed_out(timeout: float) -> NoAnswer:
    """Say that the broker did not answer in time."""
    return NoAnswer(
        f"the broker did not answer within {timeout:g} s",
        hint="answer the prompt if one is open, then run the command again, or wait longer with `--timeout SECONDS`",
    )


def cut_off() -> NoAnswer:
    """Say that the broker went away in the middle of its answer."""
    return NoAnswer("the broker ended the connection before its answer was complete", hint="run the command again")


def kept() -> TokenKept:
    """Say that a refused token was not replaced."""
    return TokenKept(
        "the broker keeps this token: it was rejected too often within a minute",
        hint="check audience and scopes of the profile at the API; `broker-token --list` shows them",
    )


def lines(program: str, error: ClientError) -> str:
    """Return the text for stderr: one `error:` line and one `hint:` line."""
    hint = error.hint or _default_hint(error)
    return f"{program}: error: {_one_line(error.message)}\n{program}: hint: {_one_line(hint)}\n"


def _default_hint(error: ClientError) -> str:
    if known := _HINT_BY_CODE.get(error.code):
        return known
    if not error.retryable:
        return "find the fault with `broker doctor`"
    wait = getattr(error, "retry_after", None)
    return f"run the command again in {math.ceil(wait)} s" if wait else "run the command again"


def _one_line(text: str) -> str:
    """Keep a message to its line, and control characters off the terminal."""
    return "".join(char if char.isprintable() else " " for char in text)
