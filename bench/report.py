"""Rows of the table, and the table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One figure beside its reference."""

    what: str
    ours: str
    reference: str = ""
    ratio: float | None = None
    target: str = ""
    met: bool | None = None
    """`None`: told for information, without a target."""


COLUMNS = ("what", "ours", "reference", "ratio", "target", "")


def cells(row: Row) -> tuple[str, ...]:
    """Return a row's texts in the order of `COLUMNS`."""
    verdict = "" if row.met is None else "met" if row.met else "MISSED"
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    return (row.what, row.ours, row.reference, ratio, row.target, verdict)


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table with aligned columns."""
    lines = [COLUMNS, *map(cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "| " + " | ".join(f"{text:{width}}" for text, width in zip(line, widths, strict=True)) + " |" for line in lines
    )
