"""One run of the stand-in: its command line, environment, place in the world, and its line in the log."""

# pathlib is slow to import; see the package's rule 2.
# ruff: noqa: PTH109, PTH110

from __future__ import annotations

import os
import time

from tests.standins.op.output import is_tty
from tests.standins.op.state import POLL, scaled
from tests.standins.op.terminal import controlling_tty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, NoReturn

    from tests.standins.op.args import Parsed
    from tests.standins.op.state import Store

SHOWN = frozenset(
    {
        "HOME",
        "LANG",
        "LC_ALL",
        "OP_ACCOUNT",
        "OP_BIOMETRIC_UNLOCK_ENABLED",
        "OP_CACHE",
        "OP_DEBUG",
        "OP_FORMAT",
        "OP_INTEGRATION_BUILDNUMBER",
        "OP_INTEGRATION_ID",
        "OP_INTEGRATION_NAME",
        "OP_LOAD_DESKTOP_APP_SETTINGS",
        "PATH",
    }
)
LONGEST_WAIT = 10.0  # seconds until a call goes on unseen
SHORTEST_SECRET = 4  # characters; a shorter value would be found anywhere


class Call:
    """What the commands are given."""

    def __init__(self, store: Store, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Keep the parts; `begin` enters the world."""
        self.store = store
        self.argv = list(argv)
        self.env = env
        self.id = f"{time.time_ns()}-{os.getpid()}"
        self.parsed: Parsed
        self.fault: dict[str, Any] = {}
        self.prompted = False

    def begin(self) -> None:
        """Mark the call alive and log its start, environment variables by name only."""
        others = self.store.begin(self.id)
        secrets = secret_values(self.state())
        self.store.append(
            {
                "event": "start",
                "call": self.id,
                "start": time.time(),
                "argv": self.argv,
                "env": sorted(self.env),
                "env_values": {name: self.env[name] for name in sorted(SHOWN & set(self.env))},
                "secrets_in_argv": [i for i, word in enumerate(self.argv) if any(s in word for s in secrets)],
                "secrets_in_env": sorted(n for n, value in self.env.items() if any(s in value for s in secrets)),
                "isatty": [is_tty(fd) for fd in (0, 1, 2)],
                "sa_token": self.sa_token_hash,
                "tty": controlling_tty(),
                "sid": os.getsid(0),
                "pgid": os.getpgid(0),
                "pid": os.getpid(),
                "ppid": os.getppid(),
                "cwd": os.getcwd(),
                "others": others,
            }
        )
        self._be_seen()

    def _be_seen(self) -> None:
        """Wait for whoever watches processes, where somebody does; else a call is over before they look."""
        folder = self.state()["seen_in"]
        if folder is None:
            return
        mark, end = f"{folder}/{os.getpid()}", time.monotonic() + LONGEST_WAIT
        os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        while os.path.exists(mark) and time.monotonic() < end:
            time.sleep(POLL)

    @property
    def sa_token_hash(self) -> str:
        """SHA-256 of the service account's token that was given; empty for none."""
        token = self.env.get("OP_SERVICE_ACCOUNT_TOKEN", "")
        if not token:
            return ""
        import hashlib  # noqa: PLC0415  # only service accounts need it

        return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()

    def note_prompt(self) -> None:
        """Log that a dialog was opened for this call."""
        self.prompted = True
        self.store.append({"event": "prompt", "call": self.id, "at": time.time()})

    def note_child(self, pid: int) -> None:
        """Log a process left behind, so that tests can end it."""
        self.store.append({"event": "child", "call": self.id, "child": pid})

    def end(self, rc: int, outcome: str) -> None:
        """Log the end; `outcome` is `ok` or the error's text."""
        self.store.append({"event": "end", "call": self.id, "end": time.time(), "rc": rc, "outcome": outcome})
        self.store.end(self.id)

    def state(self) -> dict[str, Any]:
        """Return the world as it is now."""
        return self.store.look()

    def option(self, flag: str, variable: str, default: str = "") -> str:
        """Return a flag's text, else the environment's, else the default."""
        return self.parsed.flags.get(flag) or self.env.get(variable) or default

    @property
    def json(self) -> bool:
        """Whether JSON was asked for."""
        return self.option("format", "OP_FORMAT") == "json"

    @property
    def cache(self) -> bool:
        """Whether the cache may be used; it is by default."""
        return self.option("cache", "OP_CACHE", "true").lower() not in {"false", "0", "f"}

    def wait(self, seconds: float) -> None:
        """Let `seconds` of `op`'s time pass, scaled."""
        time.sleep(scaled(self.state(), seconds))

    def hang(self) -> NoReturn:
        """Wait until killed."""
        while True:
            time.sleep(3600)


def secret_values(state: Mapping[str, Any]) -> set[str]:
    """Return every concealed value and key in the world that is long enough to be recognised."""
    concealed = {"CONCEALED", "SSHKEY", "OTP"}
    fields = (field for item in state["items"] for field in item.get("fields", []))
    values = {field.get("value", "") for field in fields if field["type"] in concealed}
    return {value for value in values if len(value) >= SHORTEST_SECRET}
