"""Ways in which `op` misbehaves (contract §8.10). A test plants them in the state; a call takes the first that fits."""

# pathlib is slow to import; see the package's rule 2.
# ruff: noqa: PTH110

from __future__ import annotations

import os
import sys
import time

from tests.standins.op import auth, output
from tests.standins.op.output import OpError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tests.standins.op.call import Call

GARBAGE = b"\x1b[?25l\xff\xfe<html>502 Bad Gateway</html>\x00 not json"
SERVER_ERROR = "(500) Internal Server Error: Something went wrong. Please try again later."
PANIC = (
    b"panic: runtime error: index out of range [0] with length 0\n\ngoroutine 1 [running]:\n"
    b"main.main()\n\t/builds/op/main.go:20 +0x1f\nexit status 2\n"
)
SIGKILL = 9
LONGEST_DAEMON = 60  # seconds; the real one stays for 24 hours
DRIP = b"[WARN] still talking to the server, this may take a moment\n"


def take(call: Call) -> dict[str, Any]:
    """Return the fault planted for this command and this way to sign in, counting it down; empty for none."""
    how = auth.method(call)
    with call.store.change() as state:
        for fault in state["faults"]:
            if fault["command"] not in {"*", call.parsed.command} or fault["by"] not in {None, how}:
                continue
            if fault["times"] is not None:
                fault["times"] -= 1
                if fault["times"] <= 0:
                    state["faults"].remove(fault)
            return dict(fault)
    return {}


def before(call: Call) -> None:
    """Do what the fault does before the command's own work. May never return."""
    kind = call.fault.get("kind")
    if kind == "hang":
        call.hang()
    if kind == "ignore-sigterm":
        import signal  # noqa: PLC0415  # slow to import, and few calls need it

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        call.store.append({"event": "deaf", "call": call.id})
        call.hang()
    if kind == "slow-stderr":
        for byte in DRIP:
            output.warn(bytes([byte]))
            time.sleep(float(call.fault.get("seconds", 1.0)) / len(DRIP))
    if kind == "signal":
        os.kill(os.getpid(), int(call.fault.get("number", SIGKILL)))
    if kind == "error":
        raise OpError(call.fault["text"], rc=call.fault.get("rc"), init=call.fault.get("init", False))


def replace(call: Call) -> tuple[int, bytes, bytes] | None:
    """Return status, stdout and stderr in the command's stead; `None` if it is to run."""
    kind = call.fault.get("kind")
    if kind == "garbage":
        return 0, GARBAGE, b""
    if kind == "panic":
        return 2, b"", PANIC
    if kind == "rc0-with-error":  # before 2.32.1, for server errors it did not know
        return 0, b"", output.stamped(str(call.fault.get("text", SERVER_ERROR)))
    return None


def after(call: Call, stdout: bytes) -> bytes:
    """Return what the fault leaves of stdout."""
    kind = call.fault.get("kind")
    if kind == "truncated":
        return stdout[: len(stdout) // 2]
    if kind == "warning":
        output.warn(output.raw(str(call.fault.get("text", "A new version of op is available.")) + "\n"))
    if kind == "grandchild":
        _leave_child(call)
    return stdout


def _leave_child(call: Call) -> None:
    """Start `op daemon`, which keeps our pipes open after we are gone; in our process group, or its own session."""
    import subprocess  # noqa: PLC0415  # slow to import, and few calls need it

    launcher = [sys.executable, "-I", "-S", sys.argv[0]]
    detached = bool(call.fault.get("detached"))
    child = subprocess.Popen([*launcher, "daemon"], stdin=subprocess.DEVNULL, start_new_session=detached)
    call.note_child(child.pid)
    child.returncode = 0  # ours no more: keep Popen from warning that it still runs


def daemon(state_path: str) -> int:
    """Be the cache daemon: do nothing, as long as its world exists and no longer than a minute."""
    for _ in range(LONGEST_DAEMON * 5):
        if not os.path.exists(state_path):
            break
        time.sleep(0.2)
    return 0
