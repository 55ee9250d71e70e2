"""The command line of `broker-token` as a value."""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from tokenbroker_client.errors import UsageError
from tokenbroker_client.formats import DEFAULT_ENV, FORMATS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SEE_HELP: Final = "see `broker-token --help`"


@dataclass(frozen=True, slots=True)
class Arguments:
    """What the caller wants; what was not said is `None`, empty or false."""

    profile: str | None
    format: str
    env: str
    min_ttl: float | None
    scopes: tuple[str, ...]
    audience: str | None
    agent_type: str | None
    rejected: bool
    no_prompt: bool
    reason: str | None
    socket: str | None
    timeout: float | None
    list: bool
    version: bool
    help: bool


class _Parser(argparse.ArgumentParser):
    """argparse that raises our error instead of printing its own usage."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message[:1].lower() + message[1:], hint=_SEE_HELP)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError("expected a number of seconds")
    return value


def _timeout(text: str) -> float:
    value = _number(text)
    if not value:
        raise argparse.ArgumentTypeError("expected more than 0 seconds")
    return value


def _env_name(text: str) -> str:
    if not _ENV_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError("expected the name of a variable")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="broker-token", add_help=False, allow_abbrev=False)
    parser.add_argument("profile", nargs="?", metavar="PROFILE")
    parser.add_argument("--format", choices=tuple(FORMATS))
    parser.add_argument("--json", dest="format", action="store_const", const="json")
    parser.add_argument("--env", type=_env_name)
    parser.add_argument("--min-ttl", type=_number)
    parser.add_argument("--scope", action="append", default=[])
    parser.add_argument("--audience")
    parser.add_argument("--as", dest="agent_type", choices=("autonomous",))
    parser.add_argument("--reason")
    parser.add_argument("--socket")
    parser.add_argument("--timeout", type=_timeout)
    for flag in ("--rejected", "--no-prompt", "--list", "--version", "--help"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("-h", dest="help", action="store_true")
    return parser


def parse(argv: Sequence[str]) -> Arguments:
    """Read a command line without the program's name; raises `UsageError`."""
    found = _parser().parse_args(list(argv))
    if not (found.help or found.version):
        _check(found)
    return Arguments(
        profile=found.profile,
        format=found.format or "token",
        env=found.env or DEFAULT_ENV,
        min_ttl=found.min_ttl,
        scopes=tuple(scope for given in found.scope for scope in given.split()),
        audience=found.audience,
        agent_type=found.agent_type,
        rejected=found.rejected,
        no_prompt=found.no_prompt,
        reason=found.reason,
        socket=found.socket,
        timeout=found.timeout,
        list=found.list,
        version=found.version,
        help=found.help,
    )


def _check(found: argparse.Namespace) -> None:
    for what, text in _sent(found):
        if not _is_utf8(text):
            raise UsageError(f"{what} is not UTF-8", hint=_SEE_HELP)
    if found.list and found.profile:
        raise UsageError("option --list takes no PROFILE", hint="list them all with `broker-token --list`")
    if found.list and found.format not in {None, "token", "json"}:
        raise UsageError("option --list prints a table or, with --json, JSON", hint=_SEE_HELP)
    if not (found.list or found.profile or found.audience):
        raise UsageError("no profile is named", hint="list them with `broker-token --list`")
    if found.env and found.format != "env":
        raise UsageError("option --env needs --format env", hint=f"add `--format env`, as in `{_EVAL}`")


def _sent(found: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Yield what goes into a request as text; a path, in contrast, may be any bytes."""
    yield "PROFILE", found.profile or ""
    yield "option --audience", found.audience or ""
    yield "option --reason", found.reason or ""
    for scope in found.scope:
        yield "option --scope", scope


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a byte that Python keeps as a surrogate (PEP 383)
        return False
    return True


_EVAL: Final = 'eval "$(broker-token PROFILE --format env --env NAME)"'
