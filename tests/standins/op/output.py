"""What `op` prints and how it fails: error form, JSON, CSV, tables, and stdout that is exact only on a pipe.

Contract §1.4 (CSV, JSON), §1.5 (pipes), §1.7 (errors and exit codes).
"""

from __future__ import annotations

import os
import stat
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

INIT = "error initializing client: "


class OpError(Exception):
    """A failure that `op` reports; `rc` is its exit status."""

    def __init__(self, text: str, *, rc: int | None = None, init: bool = False, bare: bool = False) -> None:
        """Keep the text after the timestamp.

        `init`: the failure came before there was a client, so other commands put `error initializing client: `
        before it. `bare`: `read` puts nothing before it. A raw HTTP 400 or 404 exits 4, everything else 1.
        """
        super().__init__(text)
        self.text = text
        self.init = init
        self.bare = bare
        self.rc = rc if rc is not None else (4 if text.startswith(("(400)", "(404)")) else 1)


def stamped(text: str) -> bytes:
    """Return the line `[ERROR] 2026/01/31 23:59:59 text`, in local time."""
    return f"[ERROR] {time.strftime('%Y/%m/%d %H:%M:%S')} {text}\n".encode("utf-8", "surrogateescape")


def write_all(fd: int, data: bytes) -> None:
    """Write everything to a descriptor. Raises `BrokenPipeError` when the reader went away."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def warn(data: bytes) -> None:
    """Write to stderr."""
    write_all(2, data)


def is_pipe(fd: int) -> bool:
    """Tell whether a descriptor is a true pipe, which is what `op` checks (Go's ModeNamedPipe)."""
    try:
        return stat.S_ISFIFO(os.fstat(fd).st_mode)
    except OSError:
        return False


def is_socket(fd: int) -> bool:
    """Tell whether a descriptor is a socket, as Node gives its children."""
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        return False


def is_tty(fd: int) -> bool:
    """Tell whether a descriptor is a terminal; a closed one is not."""
    try:
        return os.isatty(fd)
    except OSError:
        return False


def raw(text: str) -> bytes:
    """Encode a value; lone surrogates stand for bytes that are not UTF-8."""
    return text.encode("utf-8", "surrogateescape")


def exact_on_pipes(data: bytes) -> bytes:
    """Return what really reaches stdout: anything but a pipe loses invalid UTF-8 and DEL."""
    if is_pipe(1):
        return data
    return data.decode("utf-8", "replace").replace("\x7f", "").encode()


def as_json(value: Any) -> bytes:
    """Return indented JSON and a newline."""
    import json  # noqa: PLC0415  # slow to import, as it brings `re`

    text = json.dumps(value, indent=2, ensure_ascii=False)
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode() + b"\n"


def csv_line(values: Iterable[str]) -> str:
    """Return one record as Go's encoding/csv writes it, with its newline."""
    return ",".join(_csv_field(value) for value in values) + "\n"


def _csv_field(value: str) -> str:
    quoted = value == "\\." or any(c in value for c in ',"\r\n') or (value != "" and value[0].isspace())
    return '"' + value.replace('"', '""') + '"' if quoted else value


def table(rows: Sequence[Sequence[str]]) -> bytes:
    """Return columns padded with four spaces between, as `op` prints lists to people."""
    widths = [max(len(row[i]) for row in rows) + 4 for i in range(len(rows[0]))]
    lines = ["".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return raw("\n".join(lines) + "\n")
