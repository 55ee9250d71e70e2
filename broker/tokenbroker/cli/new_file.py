"""Write a private file whole or not at all, and never over another by accident."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tokenbroker.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator


def refuse_existing(path: Path) -> None:
    """Raise `ConfigError` when anything stands at `path`, a dangling link included."""
    if os.path.lexists(path):
        raise ConfigError(f"{path} is there already", hint="replace it with `broker init --force`, which keeps a copy")


def keep_copy(path: Path) -> Path | None:
    """Copy the file at `path` to one beside it with `.bak` added; return its path, `None` when there was no file."""
    with _explained(path):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
    copy = path.resolve().with_name(f"{path.resolve().name}.bak")
    _write(copy, content, replace=True)
    return copy


def write(path: Path, text: str, *, replace: bool) -> None:
    """Write `text` to `path` with mode 0600, in one step; a folder that has to be made has mode 0700.

    Through a link to a file the file is replaced, not the link. Raises `ConfigError`, also for an existing file
    unless `replace`.
    """
    _write(path.resolve(), text.encode(), replace=replace)


def _write(path: Path, content: bytes, *, replace: bool) -> None:
    with _explained(path):
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # made with mode 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            _put(Path(name), path, replace=replace)
        finally:
            Path(name).unlink(missing_ok=True)


def _put(made: Path, path: Path, *, replace: bool) -> None:
    if replace:
        made.replace(path)
        return
    try:
        path.hardlink_to(made)  # unlike a rename this fails when somebody else was faster
    except FileExistsError:
        refuse_existing(path)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what the system says of `path` into our own error."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {os.strerror(error.errno or 0).lower()}", hint=f"ls -ld {path.parent}"
        ) from None
