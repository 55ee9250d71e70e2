"""The desktop app: grants, the dialog, and the ways in which it is not there (contract §2, §8.2).

A grant belongs to (account, controlling terminal, start of that terminal's session). It ends after 10 minutes without
use, after 12 hours, and when the app locks. There is one dialog at a time; while it is open every other call that
needs one waits. A dialog whose caller was killed stays on the screen until it is answered or expires, and then
grants nothing.
"""

from __future__ import annotations

import time

from tests.standins.op.output import OpError
from tests.standins.op.state import POLL, now, scaled
from tests.standins.op.terminal import controlling_tty, session_start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tests.standins.op.call import Call

IDLE = 600  # seconds without use
MAX_AGE = 12 * 3600  # seconds
DIALOG = 60  # seconds that an unanswered dialog stays
ORPHAN = 90  # seconds until a dialog nobody waits for vanishes: "1-2 min"

COULD_NOT_CONNECT = (
    "connecting to desktop app: 1Password CLI couldn't connect to the 1Password desktop app. To fix this, update the "
    "1Password app to the latest version and restart the app. If you're still having trouble, visit "
    "https://developer.1password.com/docs/cli/app-integration#troubleshooting for more help."
)
DISMISSED = "authorization prompt dismissed, please try again"
TIMEOUT = "authorization timeout"

COULD_NOT_CONNECT_2024 = (
    "Connecting to desktop app: 1Password CLI couldn't connect to the 1Password Desktop App. To fix this, update the "
    "desktop app to the latest version. If you're still having trouble connecting, restart the app. If you're using "
    "version 8.10.12 or earlier of the app, the 1Password CLI binary must be located in /usr/local/bin/op."
)
CONNECTION_RESET = (
    "connecting to desktop app: read: connection reset, make sure the CLI is correctly installed and Connect with "
    "1Password CLI is enabled in the 1Password app"
)
LOCKED = "1Password app is locked. Please open 1Password, unlock it with your password, and then try again"
OFFLINE = "RequestDelegatedSession: cannot setup session. Please check the logs of the 1Password app."

# name → (text, whether `error initializing client: ` stands before it, seconds it takes)
APP_FAULTS: dict[str, tuple[str, bool, float]] = {
    "not-running": (COULD_NOT_CONNECT, False, 4.3),
    "not-running-2024": (COULD_NOT_CONNECT_2024, False, 4.3),
    "wrong-gid": (CONNECTION_RESET, False, 0.1),
    "stall": ("connecting to desktop app: connecting to desktop app timed out", True, 10.0),
    "stall-deadline": ("read: context deadline exceeded", True, 10.0),
    "locked-old-flow": (LOCKED, False, 0.1),
    "offline": (OFFLINE, True, 1.0),
}
REACHES_THE_APP = {"offline", "locked-old-flow"}


def grant_key(policy: str, account: str, call_id: str) -> str:
    """Return what the app would know this caller by.

    Without a terminal the reports disagree, so `policy` says: `tty` keeps to the documented rule with an empty
    terminal name, so that one session shares a grant and a new session asks again; `shared-no-tty` takes all such
    callers for one; `always-prompt` takes each call for a new one.
    """
    tty = controlling_tty()
    if policy == "every call":
        return f"{account}|call {call_id}"
    if not tty and policy == "shared-no-tty":
        return f"{account}|no tty"
    if not tty and policy == "always-prompt":
        return f"{account}|call {call_id}"
    return f"{account}|{tty}|{session_start()}"


def reach_app(call: Call) -> None:
    """Talk to the app at all; raise `OpError` when it cannot be reached, block where macOS would ask for consent."""
    state = call.state()
    app = state["app"]
    fault = app["fault"] if app["running"] else (app["fault"] or "not-running")
    if fault == "tcc" and call.env.get("OP_LOAD_DESKTOP_APP_SETTINGS") != "false":
        call.hang()
    if fault in APP_FAULTS and fault not in REACHES_THE_APP:
        _fail(call, fault)


def authorize(call: Call, account: str) -> None:
    """Come back with a grant for `account`, asking the person if there is none. Raises `OpError`."""
    reach_app(call)
    fault = call.state()["app"]["fault"]
    if fault in REACHES_THE_APP:
        _fail(call, fault)
    state = call.state()
    policy = "every call" if state["app"]["asks_every_call"] else state["tty_policy"]
    key = grant_key(policy, account, call.id)
    while not _try(call, key):
        time.sleep(POLL)


def has_grant(state: dict[str, Any], key: str) -> bool:
    """Tell whether the app would let this caller in without asking."""
    grant = state["grants"].get(key)
    if grant is None or state["app"]["locked"]:
        return False
    moment = now(state)
    return bool(moment - grant["used"] <= IDLE and moment - grant["granted"] <= MAX_AGE)


def revoke(state: dict[str, Any], account: str, key: str | None) -> None:
    """Sign out: drop one caller's grant, or with no key all of an account's, or with neither all there are."""
    doomed = [k for k in state["grants"] if (k == key if key else k.startswith(f"{account}|") or not account)]
    for k in doomed:
        del state["grants"][k]


def _fail(call: Call, fault: str) -> None:
    text, init, seconds = APP_FAULTS[fault]
    call.wait(seconds)
    raise OpError(text, init=init)


def _try(call: Call, key: str) -> bool:
    """Take one look: use a grant, open the dialog, or see what became of ours."""
    with call.store.change() as state:
        dialog = state["dialog"]
        if dialog is not None and dialog["call"] != call.id:
            _clear_orphan(call, state, dialog)
            return False
        if dialog is None:
            if has_grant(state, key):
                state["grants"][key]["used"] = now(state)
                return True
            _open(call, state, key)
            return False
        outcome = _outcome(state, dialog)
        if outcome is None:
            return False
        state["dialog"] = None
        if outcome == "approve":
            state["app"]["locked"] = False
            state["grants"][key] = {"granted": now(state), "used": now(state)}
    if outcome != "approve":
        raise OpError(DISMISSED if outcome == "dismiss" else TIMEOUT, init=True)
    return True


def _open(call: Call, state: dict[str, Any], key: str) -> None:
    state["dialog"] = {"call": call.id, "key": key, "opened": time.time(), "answer": None}
    state["prompts"] += 1
    call.note_prompt()


def _outcome(state: dict[str, Any], dialog: dict[str, Any]) -> str | None:
    """Return `approve`, `dismiss`, `timeout`, or `None` while the dialog is open.

    `answer` is what a test said by hand; else the person behaves as the app's `prompt` says now.
    """
    if dialog["answer"]:
        return str(dialog["answer"])
    prompt, age = state["app"]["prompt"], time.time() - dialog["opened"]
    if prompt in {"approve", "dismiss"}:
        return str(prompt) if age >= scaled(state, state["app"]["prompt_delay"]) else None
    if prompt == "ignore" and age >= scaled(state, DIALOG):
        return "timeout"
    return None


def _clear_orphan(call: Call, state: dict[str, Any], dialog: dict[str, Any]) -> None:
    """Take away a dead caller's dialog once it is answered or has expired. Its answer helps nobody."""
    if call.store.is_alive(dialog["call"]):
        return
    expired = time.time() - dialog["opened"] >= scaled(state, ORPHAN)
    if expired or _outcome(state, dialog) is not None:
        state["dialog"] = None
