"""Where the sockets are. The daemon and every client use these functions, so they look in the same place.

Rules of this file: environment, platform, uid and home folder are arguments; of the file system only the existence of
folders is asked. bin/broker-token repeats `socket_path` without imports; a test holds the two together.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

LAUNCHD_LABEL: Final = "tokenbroker"
SYSTEMD_SOCKET_UNIT: Final = "tokenbroker.socket"

MAX_PATH_LINUX: Final = 107  # bytes of sun_path that can be used (unix(7))
MAX_PATH_MACOS: Final = 103  # bytes; sun_path is 104 there and one is for the final NUL


class SocketPathTooLong(ValueError):
    """A socket path that the kernel cannot hold."""

    hint = "set BROKER_SOCKET to a shorter path, for the broker and for its callers alike"


def socket_path(environ: Mapping[str, str], platform: str, uid: int, home: str) -> str:
    """Return the path of the broker's socket; `platform` is `sys.platform`."""
    if explicit := environ.get("BROKER_SOCKET"):
        return explicit
    if platform == "darwin":
        # Not $TMPDIR, which differs between a terminal, a cron job and an ssh session.
        return f"{home}/Library/Caches/tokenbroker/broker.sock"
    return f"{_linux_folder(environ, uid, home)}/tokenbroker/broker.sock"


def _linux_folder(environ: Mapping[str, str], uid: int, home: str) -> str:
    # "All paths set in these environment variables must be absolute"; others are ignored (XDG Base Directory).
    # cron sets no XDG_RUNTIME_DIR, but the folder is there as long as the user has any login.
    for folder in (environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{uid}"):
        if folder.startswith("/") and os.path.isdir(folder):  # noqa: PTH112  # pathlib's import costs a third of a start
            return folder
    cache = environ.get("XDG_CACHE_HOME", "")
    return cache if cache.startswith("/") else f"{home}/.cache"


def admin_socket_path(environ: Mapping[str, str], platform: str, uid: int, home: str) -> str:
    """Return the path of the administrative socket: in a folder of its own, which a sandbox need not be given."""
    if explicit := environ.get("BROKER_ADMIN_SOCKET"):
        return explicit
    folder = socket_path(environ, platform, uid, home).rpartition("/")[0] or "."
    return f"{folder}/admin/admin.sock"


def check_length(path: str, platform: str) -> None:
    """Raise `SocketPathTooLong` when the kernel would cut or refuse `path`."""
    limit = MAX_PATH_MACOS if platform == "darwin" else MAX_PATH_LINUX
    length = len(os.fsencode(path))
    if length > limit:
        raise SocketPathTooLong(f"socket path {path} is {length} bytes long, and this system holds {limit}")
