"""Where the answer of `broker doctor op` is kept: a private file in the state folder, written whole or not at all.

Nothing in it is secret, but the daemon acts on it: so only what its own user alone can have written is believed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tokenbroker.errors import BrokerError
from tokenbroker.vaults.op.grants import from_json, to_json

if TYPE_CHECKING:
    from tokenbroker.vaults.op.grants import Grants

NAME: Final = "op-grants.json"
_LARGEST: Final = 64 * 1024  # bytes; ours has less than one thousand

log = logging.getLogger(__name__)


def load_grants(path: Path, *, op_version: str | None, now: float) -> Grants | None:
    """Return the kept answer; `None` when there is none, or none to be used, which the log then says.

    `op_version` `None`: not known, so the answer is taken whichever version it is about. `now` in epoch seconds.
    """
    try:
        text = _read(path)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        text = None
    grants = from_json(text) if text is not None else None
    reason = grants.unusable(op_version=op_version, now=now) if grants else "it is damaged, or not ours alone"
    if reason is not None:
        log.info("Ignoring what `broker doctor op` found out: %s", reason)
        return None
    return grants


def save_grants(path: Path, grants: Grants) -> None:
    """Write the answer with mode 0600 into a folder of mode 0700, in one step.

    Raises `BrokerError` when it cannot be written, also when the folder or the file is a link or not ours alone.
    """
    try:
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        _refuse(path)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # made with mode 0600
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(to_json(grants))
                file.flush()
                os.fsync(descriptor)
            Path(name).replace(path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                Path(name).unlink()
    except OSError as error:
        raise BrokerError(
            f"{path} cannot be written: {os.strerror(error.errno or 0).lower()}", hint=f"ls -ld {path.parent}"
        ) from None


def _refuse(path: Path) -> None:
    folder = path.parent.lstat()
    if not stat.S_ISDIR(folder.st_mode) or folder.st_uid != os.getuid() or folder.st_mode & 0o022:
        raise BrokerError(
            f"{path.parent} is not a folder that only you can write, so nothing is kept there",
            hint=f"ls -ld {path.parent}",
        )
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise BrokerError(f"{path} is not a plain file, so it is not replaced", hint=f"ls -l {path}")


def _read(path: Path) -> str | None:
    """Return the text; `None` for a link, or what somebody else could have written or planted there."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
        return file.read(_LARGEST).decode() if ours and found.st_size < _LARGEST else None
