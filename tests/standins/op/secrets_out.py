"""The commands that give out secret values: `read`, `inject`, `run`; and the service account's limits."""

# pathlib is slow to import; see the package's rule 2.
# ruff: noqa: PTH110, PTH123

from __future__ import annotations

import os

from tests.standins.op import auth, output, refs
from tests.standins.op.commands import NO_STDIN
from tests.standins.op.output import OpError
from tests.standins.op.state import now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from tests.standins.op.call import Call

MASK = b"<concealed by 1Password>"


class ExitError(Exception):
    """A command of `run` ended with this status."""

    def __init__(self, rc: int) -> None:
        """Keep the status."""
        super().__init__(rc)
        self.rc = rc


def read(call: Call) -> bytes:
    """Print one value and a newline, or write it to a file of mode 0600."""
    if len(call.parsed.args) != 1:
        raise OpError(f"accepts 1 arg(s), received {len(call.parsed.args)}", bare=True)
    text = call.parsed.args[0]
    try:
        ref = refs.parse_reference(text)
        value = refs.resolve(call, ref, auth.sign_in(call))
    except OpError as error:
        raise refs.could_not_read(text, error) from None
    if "value" in call.fault:
        value = output.raw(call.fault["value"])
    data = value if call.parsed.on("no-newline") else value + b"\n"
    return _to_file(call, data) if "out-file" in call.parsed.flags else data


def _to_file(call: Call, data: bytes) -> bytes:
    path = call.parsed.flags["out-file"]
    if os.path.exists(path) and not call.parsed.on("force"):
        raise OpError(f"file {path} already exists, use --force to overwrite it", bare=True)  # the wording is a guess
    mode = int(call.parsed.flags.get("file-mode", "0600"), 8)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    output.write_all(fd, data)
    os.close(fd)
    return b""


def inject(call: Call) -> bytes:
    """Fill a template from a file, or from stdin if that is a true pipe. One bad reference fails all of it."""
    template = _template(call)
    wanted = refs.template_references(template)
    account = _sign_in_for(call, wanted)
    call.wait(0.0 if call.state()["latency"] == "none" else 1.3)  # on top of a read's: 2.5 s a batch
    values = {}
    for ref in wanted:
        try:
            value = refs.resolve(call, ref, account)
        except OpError as error:
            raise refs.could_not_read(ref.text, error) from None
        values[ref.text] = str(call.fault.get("value", value.decode("utf-8", "surrogateescape")))
    data = output.raw(refs.fill(template, values))
    return _to_file(call, data) if "out-file" in call.parsed.flags else data


def _template(call: Call) -> str:
    if "in-file" in call.parsed.flags:
        try:
            with open(call.parsed.flags["in-file"], "rb") as file:
                return file.read().decode("utf-8", "surrogateescape")
        except OSError as error:
            raise OpError(f"open {error.filename}: {(error.strerror or '').lower()}", bare=True) from None
    if not output.is_pipe(0):
        raise OpError(NO_STDIN)
    with open(0, "rb", closefd=False) as stdin:
        return stdin.read().decode("utf-8", "surrogateescape")


def _sign_in_for(call: Call, wanted: list[refs.Reference]) -> dict[str, Any] | None:
    if not wanted:
        return None
    try:
        return auth.sign_in(call)
    except OpError as error:
        raise refs.could_not_read(wanted[0].text, error) from None


def run(call: Call) -> bytes:
    """Run a command with the references in its environment replaced, and its output masked."""
    env = dict(call.env)
    if "env-file" in call.parsed.flags:
        with open(call.parsed.flags["env-file"], encoding="utf-8") as file:
            lines = file.read().splitlines()
        pairs = (line.partition("=") for line in lines if "=" in line and not line.lstrip().startswith("#"))
        env |= {name.strip(): value.strip().strip('"') for name, _, value in pairs}
    wanted = {name: refs.parse_reference(value) for name, value in env.items() if value.lower().startswith("op://")}
    account = _sign_in_for(call, list(wanted.values()))
    found = {}
    for name, ref in wanted.items():
        try:
            found[name] = refs.resolve(call, ref, account)
        except OpError as error:
            raise refs.could_not_read(ref.text, error) from None
    env |= {name: os.fsdecode(value) for name, value in found.items()}
    _run(call, env, [value for value in found.values() if value])
    return b""


def _run(call: Call, env: Mapping[str, str], secrets: list[bytes]) -> None:
    import subprocess  # noqa: PLC0415  # slow to import, and few calls need it

    masking = not call.parsed.on("no-masking") and call.env.get("OP_RUN_NO_MASKING") != "true"
    done = subprocess.run(call.parsed.args, env=env, capture_output=masking)
    for fd, data in ((1, done.stdout), (2, done.stderr)) if masking else ():
        for secret in secrets:
            data = data.replace(secret, MASK)  # noqa: PLW2901  # one stream, masked step by step
        output.write_all(fd, data)
    raise ExitError(done.returncode)


def ratelimit(call: Call) -> bytes:
    """Show what is left of a service account's limits; costs nothing."""
    if auth.method(call) == "sa":
        auth.check_service_account(call)
    else:
        auth.sign_in(call)
    state = call.state()
    rows: list[dict[str, Any]] = []
    for name, limit in state["ratelimit"].items():
        kind, action = name.split()
        running = limit["since"] is not None and now(state) - limit["since"] < limit["window"]
        used = limit["used"] if running else 0
        reset = round(limit["window"] - (now(state) - limit["since"])) if running else 0
        counts = {"limit": limit["limit"], "used": used, "remaining": limit["limit"] - used, "reset": reset}
        rows.append({"type": kind, "action": action, **counts})
    if call.json:
        return output.as_json(rows)
    cells = [[str(row[key]) for key in ("type", "action", "limit", "used", "remaining")] for row in rows]
    head = ["TYPE", "ACTION", "LIMIT", "USED", "REMAINING", "RESET"]
    return output.table([head, *([*c, _reset(row["reset"])] for c, row in zip(cells, rows, strict=True))])


def _reset(seconds: int) -> str:
    if not seconds:
        return "N/A"
    hours = seconds // 3600
    return f"{hours} hours from now" if hours > 1 else f"{seconds // 60} minutes from now"
