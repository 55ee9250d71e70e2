"""An access token given to the service by systemd: `LoadCredential=`, `SetCredential=` and their encrypted kin.

systemd puts each credential into a file of mode 0400 in a folder that `$CREDENTIALS_DIRECTORY` names
(systemd.exec(5)). For a service that runs as another user than its manager the file belongs to root, and an access
control list lets that user read it; the group bits of its mode then show the list's mask, not a group's right.
"""

from __future__ import annotations

import os
import stat
import struct
import sys
from pathlib import Path
from typing import Final

from tokenbroker.errors import NoCredential

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_LIST: Final = "system.posix_acl_access"
_LIST_VERSION: Final = 2  # linux/posix_acl_xattr.h
_USER_OBJ, _USER, _MASK = 0x01, 0x02, 0x10
_ENTRY: Final = struct.Struct("<HHI")


def next_step(name: str) -> str:
    """Return the command that gives the service a credential of this name."""
    return f"add `LoadCredential={name}:PATH` to [Service] with `systemctl --user edit tokenbroker.service`, restart it"


def read(folder: str | None, name: str, uid: int, limit: int) -> bytes:
    """Return at most `limit` bytes of the credential `name` in `folder`; `uid` is who may own it, besides root.

    Raises `NoCredential` when there is none, or when anybody else could read it.
    """
    if not folder or not Path(folder).is_absolute():
        raise _refusal(name, "systemd gave this process no credentials")
    try:
        # Non-blocking, as a FIFO in its place would wait for ever.
        fd = os.open(Path(folder, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _refusal(name, "systemd gave this process no credential of this name") from None
    except OSError as error:
        raise _refusal(name, f"the credential cannot be opened: {os.strerror(error.errno or 0).lower()}") from None
    try:
        problem = _problem(fd, uid)
        if problem is not None:
            raise _refusal(name, problem)
        return os.read(fd, limit)
    finally:
        os.close(fd)


def _problem(fd: int, uid: int) -> str | None:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return "the credential is not a file"
    if status.st_uid not in {0, uid}:
        return f"the credential belongs to another user (uid {status.st_uid})"
    if status.st_mode & _OTHERS and not _is_listed_for(fd, uid):
        return "others can read or write the credential"
    return None


def _is_listed_for(fd: int, uid: int) -> bool:
    """Tell whether the mode's group bits are the mask of a list that lets `uid` read, and nobody else."""
    if sys.platform != "linux":
        return False
    try:
        return lets_only_read(os.getxattr(fd, _LIST), uid)
    except OSError:  # it has no list, or the file system knows none
        return False


def lets_only_read(raw: bytes, uid: int) -> bool:
    """Tell whether the access control list `raw`, as the kernel gives it, is for nobody but the owner and `uid`."""
    if len(raw) % _ENTRY.size != 4 or raw[:4] != struct.pack("<I", _LIST_VERSION):  # noqa: PLR2004  # the header
        return False
    for tag, rights, who in _ENTRY.iter_unpack(raw[4:]):
        ours = tag in {_USER_OBJ, _MASK} or (tag == _USER and who == uid)
        if not ours and rights:
            return False
    return True


def _refusal(name: str, problem: str) -> NoCredential:
    return NoCredential(f"systemd://{name}: {problem}", hint=next_step(name))
