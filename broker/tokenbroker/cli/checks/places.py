"""Around the broker: the sockets' files, the environment, and what starts it."""

from __future__ import annotations

import plistlib
import re
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tokenbroker.cli.checks import Finding, fault, note, ok

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tokenbroker.paths import Surroundings

UNITS: Final = ("tokenbroker.socket", "tokenbroker-admin.socket", "tokenbroker.service")
_OP_HIJACKERS: Final = ("OP_CONNECT_HOST", "OP_CONNECT_TOKEN", "OP_SERVICE_ACCOUNT_TOKEN")
_OURS: Final = ("BROKER_CONFIG", "BROKER_SOCKET", "BROKER_ADMIN_SOCKET", "BROKER_INTERACTION")
_EXEC: Final = re.compile(r"^ExecStart=[-@:+!]*(\S+)", re.MULTILINE)


def check_socket(path: Path, what: str, uid: int) -> list[Finding]:
    """Look at the files of one socket: nobody else may reach it, or put another in its place."""
    check = "socket"
    try:
        folder, found = path.parent.lstat(), path.lstat()
    except FileNotFoundError:
        return [note(check, f"{what} {path} is not there; the broker makes it")]
    except OSError as error:
        return [fault(check, f"{what} {path} cannot be looked at: {error.strerror}", f"ls -ld {path.parent}")]
    trouble = [
        *_folder(path.parent, folder.st_mode, folder.st_uid, uid),
        *_file(path, found.st_mode, found.st_uid, uid),
    ]
    return trouble or [ok(check, f"{what} {path} is private")]


def _folder(path: Path, mode: int, owner: int, uid: int) -> Iterator[Finding]:
    if not stat.S_ISDIR(mode):
        yield fault("socket", f"{path} is not a folder but a link or file", f"rm {path}")
    elif owner != uid:
        yield fault("socket", f"{path} belongs to uid {owner}, not to uid {uid}", f"ls -ld {path}")
    elif mode & 0o077:
        yield fault("socket", f"{path} is open to others (mode {stat.S_IMODE(mode):o})", f"chmod 700 {path}")


def _file(path: Path, mode: int, owner: int, uid: int) -> Iterator[Finding]:
    if not stat.S_ISSOCK(mode):
        yield fault("socket", f"{path} is not a socket", f"rm {path}")
    elif owner != uid:
        yield fault("socket", f"{path} belongs to uid {owner}, not to uid {uid}", f"ls -l {path}")
    elif mode & 0o077:
        yield fault("socket", f"{path} is open to others (mode {stat.S_IMODE(mode):o})", f"chmod 600 {path}")


def check_environment(environ: Mapping[str, str], *, backend: str | None) -> list[Finding]:
    """Say which variables change what happens. Only values of known, harmless variables are shown. Pure."""
    check = "environment"
    found = []
    for name in _OP_HIJACKERS:
        if name in environ and backend in {None, "op"}:
            text = f"{name} is set here; the broker does not pass it on, your own `op` obeys it"
            found.append(note(check, text, f"unset {name}"))
    found += [ok(check, f"{name}={environ[name]}") for name in _OURS if name in environ]
    for name in sorted(environ):
        if name.startswith("BROKER_") and name not in _OURS:
            found.append(note(check, f"{name} means nothing to the broker", f"unset {name}"))
    return found


def check_units(here: Surroundings) -> list[Finding]:
    """See whether systemd or launchd knows how to start the broker."""
    return _launchd(here) if here.platform == "darwin" else _systemd(here)


def _systemd(here: Surroundings) -> list[Finding]:
    folders = [Path(folder).expanduser() for folder in _unit_folders(here)]
    found = {name: path for name in UNITS if (path := _first(folder / name for folder in folders))}
    if not found:
        return [note("units", "no systemd user units: the broker runs only while `broker serve` does", "broker serve")]
    missing = [name for name in UNITS if name not in found]
    if missing:
        where = found[next(iter(found))].parent
        return [fault("units", f"systemd unit {missing[0]} is missing beside the others", f"ls {where}/tokenbroker*")]
    program = _program(_text(found["tokenbroker.service"]), here.home)
    if program is not None and not program.is_file():
        return [fault("units", f"tokenbroker.service starts {program}, which is not there", _link(program, here))]
    wanted = any((folder / "sockets.target.wants" / "tokenbroker.socket").is_symlink() for folder in folders)
    if not wanted:
        command = "systemctl --user enable --now tokenbroker.socket"
        return [note("units", "systemd units are installed and not enabled", command)]
    return [ok("units", f"systemd units in {found['tokenbroker.service'].parent}, enabled")]


def _unit_folders(here: Surroundings) -> tuple[str, ...]:
    """Return systemd's own search path for user units, the part that people use (systemd.unit(5))."""
    config = here.environ.get("XDG_CONFIG_HOME") or f"{here.home}/.config"
    data = here.environ.get("XDG_DATA_HOME") or f"{here.home}/.local/share"
    system = ("/etc/systemd/user", "/usr/local/lib/systemd/user", "/usr/lib/systemd/user")
    return (f"{config}/systemd/user", f"{data}/systemd/user", *system)


def _program(unit: str, home: Path) -> Path | None:
    """Return the absolute path of a unit's program; `%h` is the home folder (systemd.unit(5))."""
    found = _EXEC.search(unit)
    path = Path(found[1].replace("%h", str(home))) if found else None
    return path if path is not None and path.is_absolute() else None


def _launchd(here: Surroundings) -> list[Finding]:
    path = here.home / "Library/LaunchAgents/tokenbroker.plist"
    if not path.is_file():
        return [note("units", f"no {path}: the broker runs only while `broker serve` does", "broker serve")]
    try:
        program = Path(plistlib.loads(path.read_bytes())["ProgramArguments"][0])
    except (OSError, ValueError, KeyError, IndexError, TypeError, plistlib.InvalidFileException):
        return [fault("units", f"{path} is not a launch agent that can be read", f"plutil -lint {path}")]
    if not program.is_absolute() or not program.is_file():
        return [fault("units", f"{path} starts {program}, which is not there", f"open -t {path}")]
    return [ok("units", f"launch agent {path}")]


def _link(program: Path, here: Surroundings) -> str:
    """Return the command that puts our own program where a unit expects it."""
    ours = shutil.which("broker", path=here.environ.get("PATH"))
    return f"ln -s {ours} {program}" if ours else f"ls -l {program}"


def _first(paths: Iterator[Path]) -> Path | None:
    return next((path for path in paths if path.is_file()), None)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
