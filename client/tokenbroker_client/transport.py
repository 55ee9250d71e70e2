"""One HTTP request over a Unix socket, blocking and bounded in time and size.

The argument for safety: before a byte is sent, the socket and its folder must belong to this user or root, and so must
the process that listens, as the kernel tells it. So another user who plants a socket in the way learns nothing.
"""

from __future__ import annotations

import os
import socket
import stat
import sys
import time
from typing import TYPE_CHECKING, Final

from tokenbroker_client import http1, messages, paths
from tokenbroker_client.environment import Here
from tokenbroker_client.environment import here as read_here
from tokenbroker_client.errors import BadAnswer, ClientError, UsageError
from tokenbroker_client.wire import WireError

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_TIMEOUT: Final = 90.0  # seconds for the whole request; a person may have to answer a prompt
_COMPARE: Final = "compare `broker --version` with `broker-token --version`"
_CHUNK: Final = 65536
RETRY_PAUSE: Final = 0.02  # seconds between attempts while the listener's queue is full

_SO_PEERCRED_LENGTH: Final = 12  # pid, uid, gid as 32-bit numbers (unix(7))
_SOL_LOCAL: Final = 0  # sys/un.h of macOS
_LOCAL_PEERCRED: Final = 1  # as above; answers with a struct xucred
_XUCRED_LENGTH: Final = 76  # version, uid, count (padded), 16 groups: sys/ucred.h


def request(  # noqa: PLR0917  # the first six are in the order of HTTP
    socket_path: str,
    method: str,
    path: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    *,
    here: Here | None = None,
) -> http1.Response:
    """Send one request and return `(status, headers, body)`, header names in lower case.

    Raises `NoBroker` when nobody trustworthy listens, `NoAnswer` when the answer is late or cut off, `BadAnswer` when
    it is not HTTP or too large, `UsageError` when `socket_path` is too long. `timeout` is for the whole exchange.
    """
    here = here or read_here()
    deadline = time.monotonic() + timeout
    message = encode(method, path, body, headers)
    with _connect(socket_path, deadline, here) as sock:
        try:
            return _exchange(sock, message, deadline)
        except TimeoutError:
            raise messages.timed_out(timeout) from None
        except OSError:
            raise messages.cut_off() from None


def encode(method: str, path: str, body: bytes, headers: Mapping[str, str] | None) -> bytes:
    """Return the request's bytes; raises `UsageError` when it cannot be sent as HTTP."""
    try:
        return http1.encode(method, path, body, headers)
    except WireError as error:
        raise UsageError(str(error)) from None


def decode(data: bytes, *, ended: bool) -> http1.Response | None:
    """Read an answer as `http1.decode` does, raising `NoAnswer` and `BadAnswer`."""
    try:
        return http1.decode(data, ended=ended)
    except http1.Truncated:
        raise messages.cut_off() from None
    except WireError as error:
        raise bad_answer(error) from None


def bad_answer(error: WireError, status: int | None = None) -> BadAnswer:
    """Turn what is wrong with an answer into the error for the caller."""
    answer = "answer" if status is None else f"answer (HTTP {status})"
    return BadAnswer(f"the broker's {answer} cannot be used: {error}", hint=_COMPARE)


def attempt(path: str, here: Here) -> socket.socket:
    """Connect once, without waiting; the socket that is returned does not block.

    Raises `BlockingIOError` while the listener's queue is full, `ClientError` for everything else.
    """
    try:
        paths.check_length(path, here.platform)
    except paths.SocketPathTooLong as error:
        raise UsageError(str(error), hint=error.hint) from None
    try:
        _check_files(path, here)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:
        raise messages.unreachable(error, path, here) from None
    try:
        sock.settimeout(0)
        sock.connect(path)
        _check_server(sock, path, here)
    except BlockingIOError:
        sock.close()
        raise
    except OSError as error:
        sock.close()
        raise messages.unreachable(error, path, here) from None
    except ClientError:
        sock.close()
        raise
    return sock


def _connect(path: str, deadline: float, here: Here) -> socket.socket:
    # Linux refuses a connection that does not block with EAGAIN when the queue is full, whatever its timeout.
    while True:
        try:
            return attempt(path, here)
        except BlockingIOError as error:
            if time.monotonic() + RETRY_PAUSE > deadline:
                raise messages.unreachable(error, path, here) from None
        time.sleep(RETRY_PAUSE)


def _check_files(path: str, here: Here) -> None:
    """Refuse a link, and a socket or folder of somebody else; raises `OSError` when there is none."""
    folder = os.path.dirname(path) or "."  # noqa: PTH120  # pathlib's import costs a third of a start
    for what, name, found in (("the socket", path, os.lstat(path)), ("the folder", folder, os.stat(folder))):  # noqa: PTH116  # as above
        if found.st_uid not in {0, here.uid}:
            raise messages.foreign(what, name, found.st_uid, here)
        if stat.S_ISLNK(found.st_mode):
            raise UsageError(f"{what} {name} is a symbolic link", hint=f"name its target: `readlink -f {name}`")


def _check_server(sock: socket.socket, path: str, here: Here) -> None:
    uid = server_uid(sock)
    if uid not in {0, here.uid}:
        raise messages.foreign("the server on", path, uid, here)


def server_uid(sock: socket.socket) -> int | None:
    """Return the uid of the process that listens, as it was when it began to; `None` where the kernel cannot tell."""
    if sys.platform == "linux":
        found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _SO_PEERCRED_LENGTH)
    elif sys.platform == "darwin":
        found = sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_LENGTH)
    else:
        return None
    return int.from_bytes(found[4:8], sys.byteorder)


def _exchange(sock: socket.socket, message: bytes, deadline: float) -> http1.Response:
    sock.settimeout(_left(deadline))
    sock.sendall(message)
    data = bytearray()
    while True:
        sock.settimeout(_left(deadline))
        chunk = sock.recv(_CHUNK)
        data += chunk
        if response := decode(bytes(data), ended=not chunk):
            return response


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
