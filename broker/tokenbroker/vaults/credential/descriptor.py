"""An access token handed over as an open descriptor: `broker serve 3< <(program that prints it)`.

Rules of this file:
1. Only what came from whoever started the broker is read: a number written by mistake may be one of our own pipes.
2. It is read once, to its end, bounded in size and time, and closed.
"""

from __future__ import annotations

import os
import select
import stat
import time
from typing import Final

from tokenbroker.errors import NoCredential

HAND_OVER: Final = "hand it over when the broker starts: `broker serve 3< <(…)`, where … prints the token"
_OTHERS: Final = stat.S_IRGRP | stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH


def take_over(number: int, uid: int) -> None:
    """Make the descriptor ours alone. Raises `NoCredential` when it was not handed over, or others could read it.

    A regular file must belong to `uid` or root.
    """
    problem = _problem(number, uid)
    if problem is not None:
        raise NoCredential(f"fd://{number}: {problem}", hint=HAND_OVER)
    os.set_inheritable(number, False)  # noqa: FBT003  # the name says it


def _problem(number: int, uid: int) -> str | None:
    try:
        status = os.fstat(number)
        # What Python opens is closed on exec (PEP 446), so what is not came from outside.
        handed_over = os.get_inheritable(number)
    except OSError:
        return "no such descriptor is open"
    if not handed_over:
        return "this descriptor is one of the broker's own, none was handed over under this number"
    if stat.S_ISREG(status.st_mode):
        if status.st_uid not in {0, uid}:
            return f"the descriptor is a file of another user (uid {status.st_uid})"
        return "the descriptor is a file that others can read or write" if status.st_mode & _OTHERS else None
    if stat.S_ISFIFO(status.st_mode) or stat.S_ISCHR(status.st_mode):
        return None
    return "the descriptor is neither a pipe nor a file"


def read_to_end(number: int, limit: int, patience: float) -> bytes:
    """Read the descriptor to its end, or `limit` bytes, and close it; blocks for `patience` seconds at most.

    Raises `NoCredential`.
    """
    deadline, raw = time.monotonic() + patience, bytearray()
    try:
        # Waited for, and not made non-blocking: that would hold for whoever has the other copy of it too.
        while len(raw) < limit and select.select([number], [], [], max(0.0, deadline - time.monotonic()))[0]:
            data = os.read(number, limit - len(raw))
            if not data:
                return bytes(raw)
            raw += data
    except (OSError, ValueError) as error:  # ValueError: a number that select cannot take
        raise NoCredential(f"fd://{number}: it cannot be read: {type(error).__name__}", hint=HAND_OVER) from None
    finally:
        os.close(number)
    if len(raw) < limit:
        raise NoCredential(
            f"fd://{number}: nobody wrote a token and closed the other end within {patience:g} s", hint=HAND_OVER
        )
    return bytes(raw)
