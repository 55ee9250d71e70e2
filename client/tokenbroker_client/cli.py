"""`broker-token`: print one valid token and nothing else.

stdout carries what was asked for or nothing; everything else goes to stderr. bin/broker-token answers the plain call by
itself and hands everything unusual to `main`, with the outcome of its request if it had sent one.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

from tokenbroker_client import __version__, arguments, calls, formats, messages, transport, wire
from tokenbroker_client.client import Client
from tokenbroker_client.environment import default_timeout
from tokenbroker_client.environment import here as read_here
from tokenbroker_client.errors import ClientError
from tokenbroker_client.help_text import HELP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenbroker_client.arguments import Arguments
    from tokenbroker_client.environment import Here
    from tokenbroker_client.wire import TokenAnswer

PROGRAM: Final = "broker-token"
_EXIT_INTERRUPTED: Final = 130  # 128 + SIGINT, as shells say it
_STDOUT: Final = 1


def main(argv: Sequence[str] | None = None, first: bytes | TimeoutError | None = None) -> int:
    """Run the command and return its exit status.

    `first` is what came of a plain request that was already sent: the bytes of its answer, whole or not, or that none
    came in time. It is used instead of asking again, which could prompt a person twice.
    """
    here = read_here()
    terminal = os.isatty(0) or os.isatty(2)
    try:
        wanted = arguments.parse(sys.argv[1:] if argv is None else argv)
        text, hint = output(wanted, here, first, terminal=terminal)
    except ClientError as error:
        _complain(messages.lines(PROGRAM, error))
        return error.exit_code
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED
    status = _print(text, "text" if wanted.help or wanted.version or wanted.list else "token")
    if hint is not None and status == wire.EXIT_OK:
        _complain(f"{PROGRAM}: hint: {hint}\n")
    return status


def output(
    wanted: Arguments, here: Here, first: bytes | TimeoutError | None = None, *, terminal: bool = False
) -> tuple[str, str | None]:
    """Return the text for stdout, and a hint that goes with it to stderr; raises `ClientError`."""
    if wanted.help:
        return HELP, None
    if wanted.version:
        return f"{PROGRAM} {__version__}\n", None
    timeout = wanted.timeout or default_timeout(terminal=terminal)
    client = Client(wanted.socket, timeout, here=here)
    if wanted.list:
        show = formats.profile_json if wanted.format == "json" else formats.profile_table
        return show(client.profiles()), None
    answer = _ask(client, wanted) if first is None else _settle(first, timeout)
    if wanted.rejected:
        refused, dropped = answer.fingerprint, client.rejected(answer.profile, answer.fingerprint)
        answer = _ask(client, wanted)
        if not dropped and answer.fingerprint == refused:
            raise messages.kept()
    return formats.FORMATS[wanted.format](answer, wanted.env), formats.warning(answer, wanted.format)


def _ask(client: Client, wanted: Arguments) -> TokenAnswer:
    return client.token(
        wanted.profile,
        audience=wanted.audience,
        scopes=wanted.scopes,
        min_ttl=wanted.min_ttl,
        reason=wanted.reason,
        agent_type=wanted.agent_type,
        interaction="never" if wanted.no_prompt else None,
    )


def _settle(first: bytes | TimeoutError, timeout: float) -> TokenAnswer:
    if isinstance(first, TimeoutError):
        raise messages.timed_out(timeout)
    response = transport.decode(first, ended=True)
    if response is None:
        raise messages.cut_off()
    return calls.read_token(response)


def _print(text: str, what: str) -> int:
    # Straight to the descriptor: nothing stays in a buffer whose loss at exit nobody would notice.
    if sys.stdout is None:  # closed: its number may be another file's by now
        return _unwritten(what, "stdout is closed")
    left = text.encode()
    try:
        while left:
            left = left[os.write(_STDOUT, left) :]
    except BrokenPipeError:
        return wire.EXIT_FAILED  # whoever read us is gone
    except OSError as error:
        return _unwritten(what, os.strerror(error.errno or 0).lower())
    return wire.EXIT_OK


def _unwritten(what: str, why: str) -> int:
    _complain(f"{PROGRAM}: error: the {what} cannot be written: {why}\n")
    return wire.EXIT_FAILED


def _complain(text: str) -> None:
    if sys.stderr is None:  # as above
        return
    try:
        os.write(2, text.encode(errors="replace"))
    except OSError:
        return
