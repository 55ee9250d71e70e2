"""The nearest known name, for "did you mean"."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

LONGEST = 64  # characters; difflib is quadratic, and nobody mistypes a longer name by one letter


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate most like `name`, letter case aside, or `None` when none is like it."""
    if len(name) > LONGEST:
        return None
    known = {candidate.casefold(): candidate for candidate in candidates}
    found = difflib.get_close_matches(name.casefold(), known, n=1, cutoff=0.6)
    return known[found[0]] if found else None
