"""Take over listening sockets that systemd or launchd made (sd_listen_fds(3), launch_activate_socket(3)).

Rules of this file:
1. Each socket is `broker` or `admin` by its name, or for want of one by its path: which one answers administrative
   verbs is never a matter of order.
2. What is handed over is checked like anything from outside: a listening Unix stream socket, or it is refused.
3. The variables that speak of it are taken out of the environment, so that no child believes them to be its own.
"""

from __future__ import annotations

import ctypes
import os
import socket
from typing import TYPE_CHECKING, Any, Final

from tokenbroker.errors import SocketRefused

if TYPE_CHECKING:
    from collections.abc import Iterable, MutableMapping

_NAMES: Final = frozenset({"broker", "admin"})
_ADMIN_FILE: Final = "admin.sock"  # as tokenbroker_client.paths and the units name it
_FIRST_FD: Final = 3  # SD_LISTEN_FDS_START
_LAUNCHD_NAMES: Final = {"Broker": "broker", "Admin": "admin"}  # keys of the plist's `Sockets`
# macOS <sys/errno.h>: ESRCH: not started by launchd; ENOENT: no such socket in the plist.
_NOT_ACTIVATED: Final = frozenset({2, 3})
_SO_ACCEPTCONN: Final = getattr(socket, "SO_ACCEPTCONN", None)


def activated_sockets(environ: MutableMapping[str, str], *, pid: int, platform: str) -> dict[str, socket.socket]:
    """Return the sockets that this process was started with, by name; empty if it was started by hand.

    Removes systemd's variables from `environ`. Raises SocketRefused for sockets that are not what the units describe.
    """
    if platform == "darwin":
        return launchd_sockets(ctypes.CDLL(None))
    return systemd_sockets(environ, pid=pid)


def systemd_sockets(environ: MutableMapping[str, str], *, pid: int) -> dict[str, socket.socket]:
    """Take the descriptors of `LISTEN_FDS` if they are meant for `pid`."""
    meant_for = environ.pop("LISTEN_PID", "")
    count = environ.pop("LISTEN_FDS", "")
    given = environ.pop("LISTEN_FDNAMES", None)  # optional: sd_listen_fds(3)
    if meant_for != str(pid):
        return {}
    number = int(count) if count.isascii() and count.isdigit() else 0
    names = [""] * number if given is None else given.split(":")
    if not 0 < number == len(names):
        raise SocketRefused(
            f"systemd passed LISTEN_FDS={count} with {len(names)} names",
            hint="compare the units with those that tokenbroker ships: `systemctl --user cat tokenbroker.socket`",
        )
    return _named((name, _FIRST_FD + index) for index, name in enumerate(names))


def launchd_sockets(library: Any) -> dict[str, socket.socket]:
    """Take the sockets of the job's plist by `launch_activate_socket` of `library`. Works once in a process's life."""
    found: list[tuple[str, int]] = []
    for key, name in _LAUNCHD_NAMES.items():
        descriptors, count = ctypes.POINTER(ctypes.c_int)(), ctypes.c_size_t()
        code = library.launch_activate_socket(key.encode(), ctypes.byref(descriptors), ctypes.byref(count))
        if code in _NOT_ACTIVATED:
            continue
        if code:
            raise SocketRefused(f"launchd gave no socket {key}: {os.strerror(code).lower()}")
        found += [(name, descriptors[index]) for index in range(count.value)]
        library.free(descriptors)
    return _named(found)


def _named(found: Iterable[tuple[str, int]]) -> dict[str, socket.socket]:
    """Make checked sockets of descriptors."""
    sockets: dict[str, socket.socket] = {}
    for given, descriptor in found:
        name = given or _by_path(descriptor)
        if name not in _NAMES or name in sockets:
            raise SocketRefused(
                f"activation passed a socket named {name!r}, expected one `broker` and one `admin`",
                hint="set FileDescriptorName= in the socket units as those that tokenbroker ships do",
            )
        sockets[name] = _checked(name, descriptor)
    if sockets and "broker" not in sockets:
        raise SocketRefused(
            "activation passed no socket named `broker`", hint="systemctl --user start tokenbroker.socket"
        )
    return sockets


def _by_path(descriptor: int) -> str:
    """Tell a socket that came without a name by where it is bound."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as sock:
            address = sock.getsockname()
    except OSError:
        return "broker"  # `_checked` says what is wrong with it
    return "admin" if isinstance(address, str) and os.path.basename(address) == _ADMIN_FILE else "broker"  # noqa: PTH119  # a str


def _checked(name: str, descriptor: int) -> socket.socket:
    """Make a socket of a descriptor, or refuse it (rule 2)."""
    try:
        os.set_inheritable(descriptor, False)  # noqa: FBT003  # the standard library's signature
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise SocketRefused(f"activation passed something other than a socket as `{name}`") from error
    # macOS cannot be asked whether a Unix socket listens; accept() will say.
    listening = _SO_ACCEPTCONN is None or sock.getsockopt(socket.SOL_SOCKET, _SO_ACCEPTCONN)
    if (sock.family, sock.type) != (socket.AF_UNIX, socket.SOCK_STREAM) or not listening:
        sock.detach()  # not ours to close
        raise SocketRefused(
            f"activation passed as `{name}` something other than a listening Unix stream socket",
            hint="set ListenStream= in the socket units as those that tokenbroker ships do",
        )
    return sock
