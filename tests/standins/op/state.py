"""The state file, its lock, the log of calls, and which calls are alive.

Rule 1: whoever changes the state holds the lock; nobody waits for anything else while holding it.
Rule 2: a call is alive while it holds the lock on its own marker, which the kernel lets go when the process dies,
        however it dies. A pid proves less: it stays while a zombie does, and is reused.
"""

# pathlib is slow to import; see the package's rule 2.
# ruff: noqa: S302, PTH103, PTH105, PTH108, PTH123, PTH208

from __future__ import annotations

import fcntl
import marshal
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

POLL = 0.005  # seconds between looks at the state while waiting for a person

DEFAULTS: dict[str, Any] = {
    "version": "2.40.0",
    "mode": "user",  # user | manual | sa | connect | none
    "accounts": [],
    "vaults": [],
    "items": [],
    "app": {
        "running": True,
        "integration": True,
        "locked": False,
        "prompt": "approve",  # approve | dismiss | ignore | hang
        "prompt_delay": 6.0,  # seconds before scaling: a person answers in 5 to 9
        "fault": None,  # a key of grants.APP_FAULTS, or `tcc`
        "integration_without_settings": True,  # open question 9.3 of the contract
        "whoami_works": False,
        "asks_every_call": False,  # also of callers with a terminal: what a launchd service may turn out to get
    },
    "tty_policy": "tty",  # tty | shared-no-tty | always-prompt
    "grants": {},
    "dialog": None,
    "prompts": 0,
    "sessions": {},
    "password": "correct horse",
    "last_signin": None,
    "clock_offset": 0.0,
    "time_scale": 0.01,
    "seen_in": None,  # folder in which each call leaves a file, named by its pid, and goes on once that is removed
    "latency": "terminal",  # none | terminal | sandbox | launchd
    "totp_in_json": True,  # one report says that `item get` gives the seed alone
    "cached": [],
    "cache_answers_while_locked": True,
    "sa": {
        "vaults": None,  # ids it may see; None: all
        "generation": "new",  # new | 2.18
        "first_call_unauthenticated": False,
        "authenticated": False,
        "fault": None,  # deleted | device-mismatch
        "refused": {},  # SHA-256 of a token → deleted | device-mismatch
        "cache": [],
    },
    "connect": {"reachable": True},
    "ratelimit": {
        "token write": {"limit": 1000, "used": 0, "window": 3600, "since": None},
        "token read": {"limit": 10000, "used": 0, "window": 3600, "since": None},
        "account read_write": {"limit": 50000, "used": 0, "window": 86400, "since": None},
    },
    "faults": [],
}


class Store:
    """One world on disk: `PATH`, `PATH.lock`, `PATH.log`, and `PATH.calls/` with a marker per live call."""

    def __init__(self, path: str) -> None:
        """Name the files; nothing is opened."""
        self.path = path
        self.log_path = f"{path}.log"
        self._calls = f"{path}.calls"

    def create(self, state: dict[str, Any]) -> None:
        """Write a first state."""
        os.makedirs(self._calls, exist_ok=True)
        self._save(state)

    def look(self) -> dict[str, Any]:
        """Return the state as it is now."""
        with self._locked():
            return self._load()

    def change(self) -> _Change:
        """Give, in a `with` block, the state to be changed in place; saved at the end, unless by an error."""
        return _Change(self)

    def append(self, record: dict[str, Any]) -> None:
        """Add one record to the log, whole even beside other writers."""
        fd = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as log:
            log.write(marshal.dumps(record))

    def log(self) -> list[dict[str, Any]]:
        """Return the log's records, oldest first."""
        records: list[dict[str, Any]] = []
        try:
            with open(self.log_path, "rb") as log:
                while True:
                    records.append(marshal.load(log))
        except (FileNotFoundError, EOFError):
            return records

    def begin(self, call: str) -> int:
        """Mark `call` alive until this process ends, and return how many others are alive at this moment."""
        with self._locked():
            others = len(self.alive())
            fd = os.open(f"{self._calls}/{call}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
            return others

    def end(self, call: str) -> None:
        """Mark `call` as finished."""
        with self._locked():
            os.unlink(f"{self._calls}/{call}")

    def alive(self) -> set[str]:
        """Return the calls whose process lives."""
        return {call for call in os.listdir(self._calls) if self.is_alive(call)}

    def is_alive(self, call: str) -> bool:
        """Tell whether the process of `call` lives and has not finished."""
        try:
            fd = os.open(f"{self._calls}/{call}", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def _locked(self) -> _Lock:
        return _Lock(f"{self.path}.lock")

    def _load(self) -> dict[str, Any]:
        with open(self.path, "rb") as file:
            state: dict[str, Any] = marshal.load(file)
        return state

    def _save(self, state: dict[str, Any]) -> None:
        with open(f"{self.path}.new", "wb") as file:
            marshal.dump(state, file)
        os.replace(f"{self.path}.new", self.path)


class _Lock:
    """Holds the world's lock for the length of a `with` block."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


class _Change:
    """A `with` block that changes the state; see `Store.change`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = store._locked()

    def __enter__(self) -> dict[str, Any]:
        self._lock.__enter__()
        self._state = self._store._load()
        self._before = marshal.dumps(self._state)
        return self._state

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and marshal.dumps(self._state) != self._before:
                self._store._save(self._state)
        finally:
            self._lock.__exit__()


def now(state: dict[str, Any]) -> float:
    """Return the world's time in epoch seconds: the machine's and the offset that tests move."""
    return time.time() + float(state["clock_offset"])


def scaled(state: dict[str, Any], seconds: float) -> float:
    """Return how long `seconds` of `op`'s life last in this world."""
    return seconds * float(state["time_scale"])
