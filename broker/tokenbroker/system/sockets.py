"""Make a listening Unix socket that only its owner can reach, and be the only broker on it.

Rules of this file:
1. There is no moment at which anybody else could connect: the folder is private before the socket exists, and the
   socket is created with mode 0600, not given it afterwards.
2. A lock file beside the socket, held for life, decides between two brokers. Only its holder looks at the socket's
   file, replaces it or removes it, so two that start at once cannot both find it stale. The lock file itself stays:
   removing it would let a third lock another file of the same name.
3. What is not ours is refused, never repaired: links, other people's folders, folders that hold other things.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tokenbroker.errors import AlreadyListening, SocketRefused
from tokenbroker_client import paths

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_OTHERS_MAY_WRITE: Final = 0o022
_ANYBODY_ELSE: Final = 0o077
_ADMIN_FOLDER: Final = "admin"  # of the administrative socket, inside the folder of the first
_BACKLOG: Final = 128
_OWN_FOLDER: Final = "set BROKER_SOCKET to a path in a folder of its own, for example `~/.tokenbroker/broker.sock`"
# macOS: SOL_LOCAL and LOCAL_PEERPID of <sys/un.h>; Python has no names for them.
_SOL_LOCAL: Final = 0
_LOCAL_PEERPID: Final = 2


@dataclass(slots=True)
class BoundSocket:
    """A listening socket, the file that it is reached by, and the lock that makes it the only one."""

    sock: socket.socket
    path: Path
    _identity: tuple[int, int]
    _lock: int

    def close(self) -> None:
        """Stop listening, remove the file if it is still ours, let go of the lock. May be called twice."""
        if self._lock < 0:
            return
        self.sock.close()
        with contextlib.suppress(FileNotFoundError):
            if _identity(self.path) == self._identity:
                self.path.unlink()
        os.close(self._lock)
        self._lock = -1


def listen(path: Path, *, uid: int, platform: str = sys.platform) -> BoundSocket:
    """Listen on `path` as the only broker of `uid`.

    Creates the folder if need be. Changes the process's umask for an instant, so it must not run beside other threads.
    Raises AlreadyListening, or SocketRefused for a path or folder that will not do.
    """
    _check_path(path, platform)
    _prepare_folder(path, uid)
    lock = _take_lock(path)
    try:
        _clear_stale(path, uid, platform)
        sock = _bind(path)
    except BaseException:
        os.close(lock)
        raise
    return BoundSocket(sock, path, _identity(path), lock)


def _check_path(path: Path, platform: str) -> None:
    """Refuse a path that cannot be a socket's address."""
    if not path.is_absolute():
        raise SocketRefused(f"socket path is not absolute: {path}", hint="set BROKER_SOCKET to an absolute path")
    limit = paths.MAX_PATH_MACOS if platform == "darwin" else paths.MAX_PATH_LINUX
    length = len(os.fsencode(path))
    if length > limit:
        raise SocketRefused(
            f"socket path is {length} bytes long, and the system's limit is {limit}: {path}",
            hint="set BROKER_SOCKET to a shorter path",
        )


def _prepare_folder(path: Path, uid: int) -> None:
    """Create the folder with mode 0700, or make sure of the one that is there."""
    folder = path.parent
    missing = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
    for place in reversed(missing):
        with contextlib.suppress(FileExistsError), _explained(place):
            place.mkdir(mode=0o700)
    for place in folder.parents:
        with _explained(place):
            mode = place.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise SocketRefused(f"folder {place} may be changed by anybody", hint=f"chmod o-w {place}")
    _check_folder(path, uid)


def _check_folder(path: Path, uid: int) -> None:
    """Refuse a folder that is not private to `uid`; close one to readers if it holds nothing but ours."""
    folder = path.parent
    found = folder.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise SocketRefused(f"socket folder {folder} is a symbolic link", hint=f"rm {folder}")
    if not stat.S_ISDIR(found.st_mode):
        raise SocketRefused(f"socket folder {folder} is not a folder", hint=f"rm {folder}")
    if found.st_mode & stat.S_IWOTH:
        raise SocketRefused(f"socket folder {folder} may be changed by anybody", hint=_OWN_FOLDER)
    if found.st_uid != uid:
        raise SocketRefused(f"socket folder {folder} belongs to uid {found.st_uid}, not to uid {uid}", hint=_OWN_FOLDER)
    if found.st_mode & _OTHERS_MAY_WRITE:
        raise SocketRefused(f"socket folder {folder} may be changed by others", hint=f"chmod 700 {folder}")
    if found.st_mode & _ANYBODY_ELSE:
        if not {entry.name for entry in folder.iterdir()} <= {path.name, _lock_path(path).name, _ADMIN_FOLDER}:
            raise SocketRefused(f"socket folder {folder} is open to others and holds other things", hint=_OWN_FOLDER)
        folder.chmod(0o700)


def _lock_path(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _take_lock(path: Path) -> int:
    """Lock the place, and write our pid down for the next one to name. Raises AlreadyListening."""
    place = _lock_path(path)
    with _explained(place):
        lock = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(lock, 20, 0).decode("ascii", "replace").strip()
        os.close(lock)
        raise _already(path, pid if pid.isdigit() else None) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _clear_stale(path: Path, uid: int, platform: str) -> None:
    """Remove a socket that nobody listens on; refuse anything else that is there."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISLNK(found.st_mode):
        raise SocketRefused(f"socket path {path} is a symbolic link", hint=f"rm {path}")
    if not stat.S_ISSOCK(found.st_mode):
        raise SocketRefused(f"socket path {path} is not a socket", hint=f"rm {path}")
    if found.st_uid != uid:
        raise SocketRefused(f"socket {path} belongs to uid {found.st_uid}, not to uid {uid}", hint=_OWN_FOLDER)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0)
        code = probe.connect_ex(str(path))
        if code != errno.ECONNREFUSED:  # a full queue (EAGAIN) has somebody behind it too
            raise _already(path, _peer_pid(probe, platform) if code == 0 else None)
    path.unlink()


def _bind(path: Path) -> socket.socket:
    """Bind and listen; the file has mode 0600 from its first moment (rule 1)."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        with _explained(path):
            sock.bind(str(path))
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(before)
    return sock


def _already(path: Path, pid: str | None) -> AlreadyListening:
    """Say who is there; `systemd` itself is, while it waits to start the broker."""
    who = f" (pid {pid})" if pid else ""
    return AlreadyListening(f"a broker is already listening on {path}{who}", hint="broker status")


def _peer_pid(sock: socket.socket, platform: str) -> str | None:
    """Return the pid that listens at the other end of a connected socket, where the system says."""
    try:
        if platform != "darwin":
            return str(struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])
        return str(sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID))
    except OSError:
        return None


def _identity(path: Path) -> tuple[int, int]:
    """Return what names one file for as long as it exists."""
    found = path.lstat()
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what the system says of `path` into our own error."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise SocketRefused(
            f"{path} cannot be used: {os.strerror(error.errno or 0).lower()}", hint=_OWN_FOLDER
        ) from error
