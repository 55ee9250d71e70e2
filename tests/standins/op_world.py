"""A small world of 1Password for tests: accounts, vaults, items, the app and its person, and an `op` to put on PATH.

    world = OpWorld.create(tmp_path)
    world.add_item("Agents", "m2m", {"username": "abc", "credential": "s3cret"})
    op = world.install(tmp_path / "bin")
    subprocess.run([op, "read", "op://Agents/m2m/credential"], stdout=subprocess.PIPE)
    assert world.prompts() == 1

Durations given to it are seconds of `op`'s own life, which `time_scale` (0.01) makes short. The clock by which grants,
sessions and limits end is the machine's plus what `advance` added, and is not scaled.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tests.standins.op.state import DEFAULTS, Store
from tests.standins.op_things import Field, File, make_field, make_file, make_id, sections_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Prompt = Literal["approve", "dismiss", "ignore", "hang"]
TtyPolicy = Literal["tty", "shared-no-tty", "always-prompt"]
TTY_POLICIES: tuple[TtyPolicy, ...] = ("tty", "shared-no-tty", "always-prompt")
"""What the app makes of callers without a terminal; the reports disagree, so run under each."""
AppFault = Literal[
    "not-running", "not-running-2024", "wrong-gid", "stall", "stall-deadline", "locked-old-flow", "offline", "tcc"
]
FaultKind = Literal[
    "garbage",
    "truncated",
    "value",
    "slow-stderr",
    "ignore-sigterm",
    "hang",
    "grandchild",
    "rc0-with-error",
    "panic",
    "error",
    "warning",
    "signal",
]
Mode = Literal["user", "manual", "sa", "connect", "none"]

ROOT = Path(__file__).resolve().parents[2]
SHEBANG_LIMIT = 120  # bytes; the smallest limit of the systems we run on is 127
HOSTILE_VALUES = {
    "reserved characters": "a+b%2F/c&d=e?f#g",
    "spaces and umlauts": " ü grün € ",
    "trailing newline": "line\n",
    "windows line ends": "one\r\ntwo\r\n",
    "nul": "before\0after",
    "quotes and commas": 'tok,"en"',
    "braces": "{{ op://Agents/m2m/username }}",
    "delete and escape": "a\x7fb\x1b[31mc",
    "one mebibyte": "x" * (1 << 20),
}
"""Values that a careless reader damages: claim → value."""


@dataclass(frozen=True, slots=True)
class Call:
    """One logged run of the stand-in."""

    id: str
    argv: list[str]
    env: list[str]
    """Names of all environment variables that it was given."""
    env_values: dict[str, str]
    """Values of those that are never secret."""
    secrets_in_argv: list[int]
    """Positions of arguments that hold a concealed value of this world."""
    secrets_in_env: list[str]
    isatty: list[bool]
    """Whether descriptors 0, 1, 2 are terminals."""
    tty: str
    """The controlling terminal; empty for none."""
    sid: int
    pgid: int
    pid: int
    ppid: int
    cwd: str
    sa_token: str
    """SHA-256 of the service account's token in the environment; empty for none."""
    others: int
    """How many other calls were alive when this one began."""
    start: float
    end: float | None
    """Epoch seconds; `None` if it still runs or was killed."""
    rc: int | None
    outcome: str
    """`ok`, the text of the error, `running`, or `killed`."""
    prompted: bool


class OpWorld:
    """The state that the stand-in reads, changed from a test at any time, also while calls run."""

    def __init__(self, store: Store) -> None:
        """Hold a world that exists; `create` makes one."""
        self.store = store

    @classmethod
    def create(cls, folder: Path, *, mode: Mode = "user", account: str = "my.1password.com") -> OpWorld:
        """Make a world in `folder` with one account, no vaults, the app running, unlocked and willing."""
        store = Store(str(folder / "op-world.json"))
        state = copy.deepcopy(DEFAULTS)
        state["mode"] = mode
        store.create(state)
        world = cls(store)
        world.add_account(account)
        return world

    # what there is

    def add_account(self, url: str, *, email: str = "user@example.com") -> str:
        """Add an account and return its id. In mode `manual` it has a shorthand, its first label."""
        with self.store.change() as state:
            account = {"url": url, "email": email}
            account |= {"user_uuid": make_id(f"user {url}").upper(), "account_uuid": make_id(f"account {url}").upper()}
            if state["mode"] == "manual":
                account["shorthand"] = url.split(".", maxsplit=1)[0]
            state["accounts"].append(account)
        return account["account_uuid"]

    def add_vault(self, name: str, *, account: str | None = None) -> str:
        """Add a vault, to the first account unless told, and return its id."""
        with self.store.change() as state:
            return _add_vault(state, name, account)

    def add_item(
        self,
        vault: str,
        title: str,
        fields: Mapping[str, str | Field] | Sequence[tuple[str, str | Field]] | None = None,
        *,
        category: str = "API_CREDENTIAL",
        archived: bool = False,
        files: Mapping[str, str | File] | None = None,
        urls: tuple[str, ...] = (),
        tags: tuple[str, ...] = (),
    ) -> str:
        """Add an item, and its vault if there is none of that name, and return its id.

        `fields`: label → value. A bare value is concealed unless the label is one of a plain thing (`username`,
        `hostname`, `client id`, …). Titles may repeat; labels may too, in a list of pairs.
        """
        with self.store.change() as state:
            known = {v["name"]: v["id"] for v in state["vaults"]}
            vault_id = known.get(vault) or _add_vault(state, vault, None)
            item_id = make_id(f"item {len(state['items'])} {vault} {title}")
            item: dict[str, Any] = {"id": item_id, "title": title, "version": 1}
            item |= {"vault": {"id": vault_id, "name": vault}, "category": category}
            item |= {"last_edited_by": make_id("editor").upper()}
            item |= {"created_at": "2026-01-31T10:00:00Z", "updated_at": "2026-02-01T10:00:00Z"}
            item |= {"tags": list(tags)} if tags else {}
            item |= {"urls": [{"href": url, "primary": i == 0} for i, url in enumerate(urls)]} if urls else {}
            pairs = list(fields.items() if isinstance(fields, Mapping) else fields or [])
            item["fields"] = [make_field((vault, title, category), *pair, at=at) for at, pair in enumerate(pairs)]
            item |= {"files": [make_file(item_id, name, text) for name, text in files.items()]} if files else {}
            item |= sections_of([*item["fields"], *item.get("files", [])])
            item |= {"state": "ARCHIVED"} if archived else {}
            state["items"].append(item)
        return item_id

    def set_field(self, item_id: str, label: str, value: str) -> None:
        """Give a field another value, as a rotation does."""
        with self.store.change() as state:
            item = next(i for i in state["items"] if i["id"] == item_id)
            next(f for f in item["fields"] if f["label"] == label)["value"] = value

    def remove_item(self, item_id: str) -> None:
        """Delete an item for good."""
        with self.store.change() as state:
            state["items"] = [item for item in state["items"] if item["id"] != item_id]

    # the app and its person

    def app(
        self,
        *,
        running: bool | None = None,
        integration: bool | None = None,
        integration_without_settings: bool | None = None,
        whoami_works: bool | None = None,
        asks_every_call: bool | None = None,
        fault: AppFault | Literal["keep"] | None = "keep",
    ) -> None:
        """Change facts of the app; what is not given stays. `fault=None` mends it."""
        changes = {"running": running, "integration": integration, "whoami_works": whoami_works}
        changes |= {"integration_without_settings": integration_without_settings, "asks_every_call": asks_every_call}
        with self.store.change() as state:
            state["app"] |= {key: value for key, value in changes.items() if value is not None}
            if fault != "keep":
                state["app"]["fault"] = fault

    def person(self, prompt: Prompt, *, delay: float | None = None) -> None:
        """Say what the person does with dialogs, also with one that is open; `delay` is scaled."""
        with self.store.change() as state:
            state["app"]["prompt"] = prompt
            if delay is not None:
                state["app"]["prompt_delay"] = delay

    def answer(self, answer: Literal["approve", "dismiss"]) -> None:
        """Answer the dialog that is open now. Raises `LookupError` if there is none."""
        with self.store.change() as state:
            if state["dialog"] is None:
                raise LookupError("no dialog is open")
            if self.store.is_alive(state["dialog"]["call"]):
                state["dialog"]["answer"] = answer
            else:
                state["dialog"] = None

    def lock_app(self) -> None:
        """Lock the app: every grant ends; calls past their authorisation finish."""
        with self.store.change() as state:
            state["app"]["locked"] = True
            state["grants"] = {}

    def locked(self) -> bool:
        """Tell whether the app is locked."""
        return bool(self.store.look()["app"]["locked"])

    def tty_policy(self, policy: TtyPolicy) -> None:
        """Say what the app makes of callers without a terminal."""
        self.set(tty_policy=policy)

    def advance(self, seconds: float) -> None:
        """Move the world's clock on (not scaled)."""
        with self.store.change() as state:
            state["clock_offset"] += seconds

    def set(self, **values: Any) -> None:
        """Set top-level keys of the state, e.g. `time_scale`, `latency`, `mode`; see `DEFAULTS`."""
        with self.store.change() as state:
            unknown = set(values) - set(state)
            if unknown:
                raise KeyError(*unknown)
            state.update(values)

    def service_account(self, **values: Any) -> None:
        """Set keys of the service account: `vaults`, `generation`, `first_call_unauthenticated`, `fault`."""
        with self.store.change() as state:
            state["sa"].update(values)

    def refuse_token(self, token: str, why: Literal["deleted", "device-mismatch"] = "deleted") -> None:
        """Have 1Password refuse this token of a service account from now on."""
        with self.store.change() as state:
            state["sa"]["refused"][hashlib.sha256(token.encode()).hexdigest()] = why

    def limit(self, name: str, limit: int, used: int = 0) -> None:
        """Set an allowance, e.g. `token read`, and what is used of it in a window that begins now."""
        with self.store.change() as state:
            since = time.time() + state["clock_offset"] if used else None
            state["ratelimit"][name] |= {"limit": limit, "used": used, "since": since}

    # misbehaviour

    def fault(
        self,
        kind: FaultKind,
        *,
        command: str = "*",
        by: Literal["app", "sa"] | None = None,
        times: int | None = 1,
        **details: Any,
    ) -> None:
        """Plant a fault for `command` (`read`, `item get`, …; `*` any); `times=None` keeps it until `mend`.

        `by` is whose calls it waits for: the app's, or a service account's; `None`: whichever call comes first.
        Details: `value` needs `value`; `error` takes `text`, `rc`, `init`; `slow-stderr` takes `seconds` (real);
        `grandchild` takes `detached`; `rc0-with-error` and `warning` take `text`; `signal` takes `number`.
        """
        with self.store.change() as state:
            state["faults"].append({"kind": kind, "command": command, "by": by, "times": times, **details})

    def mend(self) -> None:
        """Take all planted faults away."""
        self.set(faults=[])

    # what happened

    def calls(self) -> list[Call]:
        """Return the calls so far, oldest first."""
        log = self.store.log()
        ends = {record["call"]: record for record in log if record["event"] == "end"}
        prompted = {record["call"] for record in log if record["event"] == "prompt"}
        return [
            self._call(r, ends.get(r["call"]), prompted=r["call"] in prompted) for r in log if r["event"] == "start"
        ]

    def _call(self, start: dict[str, Any], end: dict[str, Any] | None, *, prompted: bool) -> Call:
        known = {key: value for key, value in start.items() if key not in {"event", "call"}}
        unfinished = "running" if self.store.is_alive(start["call"]) else "killed"
        ended = end or {"end": None, "rc": None, "outcome": unfinished}
        known |= {key: ended[key] for key in ("end", "rc", "outcome")}
        return Call(id=start["call"], prompted=prompted, **known)

    def prompts(self) -> int:
        """Return how many dialogs were opened."""
        return int(self.store.look()["prompts"])

    def dialog_open(self) -> bool:
        """Tell whether a dialog is on the screen."""
        return self.store.look()["dialog"] is not None

    def overlapping(self) -> list[Call]:
        """Return the calls that began while another was alive: empty if there was never more than one at a time."""
        return [call for call in self.calls() if call.others]

    def leaks(self) -> list[Call]:
        """Return the calls that held a concealed value in an argument or an environment variable."""
        return [call for call in self.calls() if call.secrets_in_argv or call.secrets_in_env]

    def wait_until(self, claim: Callable[[OpWorld], bool], *, timeout: float = 5.0) -> None:
        """Wait for something that the stand-in does, e.g. `OpWorld.dialog_open`. Raises `TimeoutError`."""
        deadline = time.monotonic() + timeout
        while not claim(self):
            if time.monotonic() > deadline:
                raise TimeoutError("the stand-in did not get there")
            time.sleep(0.005)

    # the program

    def install(self, bin_dir: Path) -> Path:
        """Write `op` into `bin_dir`, made if need be, with this world's path inside, and return its path."""
        bin_dir.mkdir(parents=True, exist_ok=True)
        program = bin_dir / "op"
        program.write_text(
            f"{_shebang(os.path.realpath(sys.executable))}import sys\n"
            f"sys.path.insert(0, {str(ROOT)!r})\n"
            "from tests.standins.op.main import main\n"
            f"sys.exit(main({self.store.path!r}, sys.argv[1:]))\n"
        )
        program.chmod(0o755)
        return program

    def close(self) -> None:
        """End the processes that the stand-in left behind, and calls that still run."""
        children = [record["child"] for record in self.store.log() if record["event"] == "child"]
        running = [call.pid for call in self.calls() if call.outcome == "running"]
        for pid in children + running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _shebang(python: str) -> str:
    """Return the first lines of a Python script; through sh where the path does not fit after `#!`.

    sh adds PWD and its like to the environment on some systems, which the log then names too.
    """
    line = f"#!{python} -IS\n"
    if len(line) < SHEBANG_LIMIT and " " not in python:
        return line
    return f"#!/bin/sh\n'''exec' {shlex.quote(python)} -IS \"$0\" \"$@\"\n' '''\n"


def _add_vault(state: dict[str, Any], name: str, account: str | None) -> str:
    vault = {"id": make_id(f"vault {len(state['vaults'])} {name}"), "name": name, "content_version": 1}
    state["vaults"].append(vault | ({"account": account} if account else {}))
    return str(vault["id"])
