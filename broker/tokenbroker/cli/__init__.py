"""The `broker` command: arguments in, a verb's module loaded when it is needed, one exit status out.

Rules of this package:
1. stdout is what was asked for; everything else is `broker: error: …` and `broker: hint: …` on stderr.
2. A verb's module is imported only when its verb is used: `broker status` must not load the daemon.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Final, NoReturn

from tokenbroker import __version__
from tokenbroker.cli.help import DESCRIPTION, EPILOG, PRESET_NAMES, VERBS
from tokenbroker.errors import BrokerError
from tokenbroker.paths import Surroundings
from tokenbroker_client.errors import ClientError
from tokenbroker_client.wire import EXIT_FAILED, EXIT_USAGE

if TYPE_CHECKING:
    from collections.abc import Sequence

_MODULES: Final = {
    "serve": "serve",
    "init": "init",
    "status": "looking",
    "sessions": "looking",
    "unlock": "acting",
    "lock": "acting",
    "revoke": "acting",
    "reload": "acting",
    "otp": "otp",
    "doctor": "doctor",
}
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells say it


class _Parser(argparse.ArgumentParser):
    """Speaks as the rest of the command does."""

    def error(self, message: str) -> NoReturn:
        say(message, f"see `{self.prog} --help`")
        raise SystemExit(EXIT_USAGE)


def parser() -> argparse.ArgumentParser:
    """Build the command line: design.md's verbs, and `reload` beside them."""
    top = _Parser(
        prog="broker", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--version", action="version", version=f"broker {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=_Parser)
    for name, (line, text) in VERBS.items():
        verb = verbs.add_parser(name, help=line, description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
        verb.add_argument(
            "--socket", metavar="PATH", help="the broker's socket, else BROKER_SOCKET, else the usual place"
        )
        _add_options(name, verb)
    return top


def _add_options(name: str, verb: argparse.ArgumentParser) -> None:
    if name in {"serve", "init", "doctor"}:
        verb.add_argument(
            "--config", metavar="FILE", help="the configuration, else BROKER_CONFIG, else the usual place"
        )
    if name in {"status", "sessions", "doctor"}:
        verb.add_argument("--json", action="store_true", help="print JSON")
    if name == "serve":
        verb.add_argument("--dev", action="store_true", help="development parts only: no account, no real secrets")
        verb.add_argument("--log-level", choices=("debug", "info", "warning"), default="info", help="what to log")
    if name == "sessions":
        verb.add_argument("--watch", action="store_true", help="keep the table on the screen, until Ctrl-C")
    if name in _OPTIONS:
        _OPTIONS[name](verb)
    if name == "init":
        verb.add_argument("--preset", metavar="NAME", help=f"the issuer's product: {', '.join(PRESET_NAMES)}")
        verb.add_argument("--force", action="store_true", help="replace an existing configuration, keeping a copy")
    if name == "revoke":
        which = verb.add_mutually_exclusive_group(required=True)
        which.add_argument("session", nargs="?", metavar="SESSION", help="an id from `broker sessions`")
        which.add_argument("--profile", metavar="PROFILE", help="the tokens of this profile")
        which.add_argument("--all", action="store_true", help="every token")


def _add_doctor_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("what", nargs="?", choices=("op",), help="op: find out, with you, when 1Password asks")
    verb.add_argument("--read", action="store_true", help="read every reference, which may cause a prompt; show none")
    verb.add_argument("--no-tokens", action="store_true", help="ask no issuer for a token, which may count as used")
    verb.add_argument(
        "--wait", metavar="DURATION", help="op: also try an authorization that was left unused so long, such as 11m"
    )
    verb.add_argument("--report", metavar="FILE", help="op: where to write what can be sent to us; else stdout")


def _add_otp_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("reference", metavar="REF", help="the field in the vault: op://Vault/Item/one-time password")
    verb.add_argument("--no-prompt", action="store_true", help="fail with status 5 rather than ask a person")
    verb.add_argument("--as", dest="agent_type", choices=("autonomous",), help="be treated as if nobody were near")
    verb.add_argument("--reason", metavar="TEXT", help="why, shown to the person whom the vault asks")


_OPTIONS: Final = {"doctor": _add_doctor_options, "otp": _add_otp_options}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status."""
    arguments = parser().parse_args(argv)
    verb = import_module(f"tokenbroker.cli.{_MODULES[arguments.verb]}")
    try:
        status: int = getattr(verb, arguments.verb)(arguments, Surroundings.of_this_process())
    except BrokerError as error:
        say(error.message, error.hint)
        return EXIT_FAILED
    except ClientError as error:
        say(error.message, error.hint)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # whoever read us is gone; Python would complain of that at exit
        return EXIT_FAILED
    return status


def say(message: str, hint: str | None = None) -> None:
    """Print an error and its next step."""
    print(f"broker: error: {message}", file=sys.stderr)
    if hint:
        print(f"broker: hint: {hint}", file=sys.stderr)
