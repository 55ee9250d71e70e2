"""Which `op` program is run, and with which environment.

Rules of this file:
1. A program that somebody else could have written is refused: it would be handed the template and print our secrets.
2. The environment is an allow-list. `OP_SERVICE_ACCOUNT_TOKEN` and `OP_CONNECT_*` would silently take precedence over
   the app (contract 1.1), and the daemon's own environment is nobody else's business.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from tokenbroker.errors import VaultNotInstalled, VaultUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

# launchd's PATH has none of the Homebrew places (contract 2), so they are tried by name.
USUAL_PLACES = ("/opt/homebrew/bin", "/usr/local/bin", "/usr/bin", "/home/linuxbrew/.linuxbrew/bin", "/snap/bin")
SANE_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
INSTALL_HINT = "install it as https://developer.1password.com/docs/cli/get-started says, then run `broker doctor`"

_PASSED = frozenset({
    "HOME", "USER", "LOGNAME", "LANG", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "OP_CONFIG_DIR",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
})  # fmt: skip
_PASSED_TO_REACH_THE_APP = frozenset({
    "DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "OP_ACCOUNT",
    # Whether the app is reached with this set is unknown (contract 9.3): ours to pass on, not to set.
    "OP_LOAD_DESKTOP_APP_SETTINGS",
})  # fmt: skip


def op_environment(environ: Mapping[str, str], home: Path) -> dict[str, str]:
    """Return the environment of an `op` child that turns to the app, made from the daemon's by the allow-list."""
    return _environment(environ, home, _PASSED | _PASSED_TO_REACH_THE_APP) | {"OP_BIOMETRIC_UNLOCK_ENABLED": "true"}


def service_account_environment(environ: Mapping[str, str], home: Path, token: str | None) -> dict[str, str]:
    """Return the environment of an `op` child of a service account: no way to the app, and the token if it needs one.

    This variable is the one way in which `op` takes it (contract 1.1). Without the app's settings `op` stays out of the
    app's folder, for which macOS would ask a person (contract 2).
    """
    without_app = {"OP_BIOMETRIC_UNLOCK_ENABLED": "false", "OP_LOAD_DESKTOP_APP_SETTINGS": "false"}
    given = {} if token is None else {"OP_SERVICE_ACCOUNT_TOKEN": token}
    return _environment(environ, home, _PASSED) | without_app | given


def _environment(environ: Mapping[str, str], home: Path, names: frozenset[str]) -> dict[str, str]:
    passed = {name: value for name, value in environ.items() if name in names or name.startswith("LC_")}
    return passed | {"HOME": str(home), "PATH": SANE_PATH}


def find_op(configured: str | None, environ: Mapping[str, str], home: Path) -> Path:
    """Return the absolute path of `op`: the configured one, else the first on PATH, else of the usual places.

    Raises `VaultNotInstalled` when there is none, `VaultUnavailable` when it is not safe to run.
    """
    path = Path(configured) if configured else _search(environ, home)
    if path is None:
        raise VaultNotInstalled("the 1Password command-line program `op` is not installed", hint=INSTALL_HINT)
    if not _runnable(path):
        raise VaultNotInstalled(
            f"vault.op: {path} is not a program that can be run",
            hint="correct `op` in section [vault] of the configuration, or remove the line, then run `broker doctor`",
        )
    _refuse_unsafe(path)
    return path


def _search(environ: Mapping[str, str], home: Path) -> Path | None:
    folders = [*environ.get("PATH", "").split(os.pathsep), *USUAL_PLACES, f"{home}/.local/bin", f"{home}/bin"]
    candidates = (Path(folder, "op") for folder in folders)
    return next((path for path in candidates if _runnable(path)), None)


def _runnable(path: Path) -> bool:
    # A relative path, or an empty entry of PATH, would mean the current folder, where anybody's file may lie.
    return path.is_absolute() and path.is_file() and os.access(path, os.X_OK)


def _refuse_unsafe(path: Path) -> None:
    """Raise unless only root and this user can have written the file that `path` leads to, or could replace it."""
    real = path.resolve()
    file, folder = real.stat(), real.parent.stat()
    if file.st_uid not in {0, os.getuid()}:
        problem, hint = f"belongs to another user (uid {file.st_uid})", f"ls -l {real}"
    elif file.st_mode & stat.S_IWOTH:
        problem, hint = "can be written by every user", f"chmod o-w {real}"
    elif folder.st_mode & stat.S_IWOTH and not folder.st_mode & stat.S_ISVTX:
        problem, hint = "lies in a folder that every user can write", f"chmod o-w {real.parent}"
    else:
        return
    raise VaultUnavailable(f"{real} {problem} and is not run", hint=f"check it with `{hint}`")
