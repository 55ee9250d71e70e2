"""Tables and times for people. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_UNITS: Final = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, width: int | None = None) -> str:
    """Lay out columns by two spaces; with `width`, lines are cut there. Readable without colour."""
    grid = [list(head), *[[plain(cell) for cell in row] for row in rows]]
    widths = [max(len(row[column]) for row in grid) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in grid]
    return "\n".join(line if width is None or len(line) <= width else line[: width - 1] + "…" for line in lines)


def span(seconds: float) -> str:
    """Give a time span in at most two units: `12 min`, `3 h 5 min`."""
    left = max(0, round(seconds))
    parts = []
    for unit, size in _UNITS:
        amount, left = divmod(left, size)
        if amount:
            parts.append(f"{amount} {unit}")
    return " ".join(parts[:2]) or "0 s"


def count(number: int, noun: str) -> str:
    """Give `1 token`, `2 tokens`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def about(subject: str, message: str) -> str:
    """Name the subject of a message that does not name it itself."""
    return message if subject in message else f"{subject}: {message}"


def plain(text: str) -> str:
    """Keep a program's path, or what an issuer said, from writing control characters to the terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)
