"""Run one command line: begin, take a fault, do the command, end; turn failures into `op`'s form."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` would bring `enum`, a sixth of a start
import os

from tests.standins.op import args, auth, commands, faults, output, secrets_out
from tests.standins.op.call import Call
from tests.standins.op.output import INIT, OpError
from tests.standins.op.state import Store
from tests.standins.op.terminal import given_environment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

COMMANDS: Mapping[str, Callable[[Call], bytes]] = {
    "account list": commands.account_list,
    "account get": commands.account_get,
    "user get": commands.user_get,
    "whoami": commands.whoami,
    "signin": commands.signin,
    "signout": commands.signout,
    "vault list": commands.vault_list,
    "vault get": commands.vault_get,
    "item list": commands.item_list,
    "item get": commands.item_get,
    "read": secrets_out.read,
    "inject": secrets_out.inject,
    "run": secrets_out.run,
    "service-account ratelimit": secrets_out.ratelimit,
}
QUICK = {"", "account list", "whoami", "signout", "service-account ratelimit"}
# seconds before scaling, §1.8: in a terminal, in an agent's sandbox, under launchd
LATENCY = {"none": (0.0, 0.0), "terminal": (0.7, 1.9), "sandbox": (4.5, 5.6), "launchd": (7.4, 7.6)}
QUICK_LATENCY = (0.0, 0.1)
HELP = b"1Password CLI brings 1Password to your terminal.\n\nUsage:  op [command] [flags]\n"


def main(state_path: str, argv: Sequence[str]) -> int:
    """Be `op` in the world at `state_path`; return the exit status."""
    os.umask(0o077)
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    if list(argv) == ["daemon"]:
        return faults.daemon(state_path)
    call = Call(Store(state_path), argv, given_environment())
    call.begin()
    rc, outcome = 1, "ok"
    try:
        call.parsed = args.parse(argv)
        rc = _perform(call)
    except secrets_out.ExitError as done:
        rc = done.rc
    except auth.PanicError:
        rc, outcome = 2, "panic"
        output.warn(faults.PANIC)
    except BrokenPipeError:
        rc, outcome = 141, "broken pipe"
    except OpError as error:
        rc, outcome = error.rc, _worded(error, getattr(call, "parsed", None))
        output.warn(output.stamped(outcome))
    finally:
        call.end(rc, outcome)
    return rc


def _worded(error: OpError, parsed: args.Parsed | None) -> str:
    """Return the error's text as this command gives it: `read` and its kin have already wrapped theirs."""
    wraps = parsed is not None and parsed.command in {"read", "inject", "run"}
    return f"{INIT}{error.text}" if error.init and not wraps else error.text


def _perform(call: Call) -> int:
    parsed = call.parsed
    call.fault = faults.take(call)
    if parsed.on("version"):
        output.write_all(1, output.raw(f"{call.state()['version']}\n"))
        return 0
    if parsed.command == "" or parsed.on("help"):
        output.write_all(1, HELP)
        return 0
    faults.before(call)
    replaced = faults.replace(call)
    if replaced is not None:
        rc, stdout, stderr = replaced
        output.warn(stderr)
        output.write_all(1, stdout)
        return rc
    _debug(call)
    _take_time(call)
    stdout = COMMANDS[parsed.command](call)
    output.write_all(1, output.exact_on_pipes(faults.after(call, stdout)))
    return 0


def _take_time(call: Call) -> None:
    profile = call.state()["latency"]
    low, high = QUICK_LATENCY if call.parsed.command in QUICK and profile != "none" else LATENCY[profile]
    chance = os.urandom(1)[0] / 255
    call.wait(low + (high - low) * chance)


def _debug(call: Call) -> None:
    if call.parsed.on("debug") or call.env.get("OP_DEBUG") == "true":
        output.warn(b"9:08AM | DEBUG | NM request: NmRequestAccounts\n9:08AM | DEBUG | NM response: Success\n")
