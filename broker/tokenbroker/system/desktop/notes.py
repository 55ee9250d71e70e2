"""What a note on the screen may hold."""

from __future__ import annotations

from typing import Final

LONGEST_TITLE: Final = 80  # characters; what desktops show of one
LONGEST_TEXT: Final = 300


def plain(text: str, longest: int) -> str:
    """Return `text` on one line, without what cannot be printed, and not longer than `longest` characters.

    Names of programs come from outside: a line break could make a second sentence that seems to be ours.
    """
    shown = "".join(character if character.isprintable() else " " for character in text)
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"
