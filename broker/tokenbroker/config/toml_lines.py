"""Where each key of a TOML document stands, since `tomllib` gives values without positions.

Best effort, and pure. It is meant for text that `tomllib` has accepted, and checks nothing; on other text it gives
some line and neither raises nor loops. Nothing recurses, so that nesting cannot exhaust the stack.
"""

from __future__ import annotations

import re
import tomllib
from typing import Final

Path = tuple[str | int, ...]
"""Keys and list indexes from the root, e.g. `("rules", 2, "decide")`."""

_BLANK: Final = re.compile(r"[ \t]*")
_GAP: Final = re.compile(r"(?:[ \t\r\n,]|\#[^\n]*)*")  # between values a comma says no more than a space
_REST_OF_LINE: Final = re.compile(r"[^\n]*\n?")
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
# Not possessive, though no branch overlaps another: Python 3.11 before 3.11.5 matches those wrongly in groups.
_STRING: Final = re.compile(
    r'''"""(?:[^"\\]|\\.|"(?!""))*"{3,5}'''
    r"""|'''(?:[^']|'(?!''))*'{3,5}"""
    r'''|"(?:[^"\\\n]|\\.)*"'''
    r"""|'[^'\n]*'""",
    re.DOTALL,
)
_MAX_DEPTH: Final = 8  # brackets; what is deeper is located at the outermost of these, since paths grow with depth
_SCALAR: Final = re.compile(r"[^,\]}\n#]+")


class TomlLines:
    """The 1-based line of every key in one document."""

    def __init__(self, text: str) -> None:
        """Scan `text` once."""
        self._text = text
        self._pos = 0
        self._counted = 0
        self._line = 1
        self._lines: dict[Path, int] = {}
        self._last_index: dict[Path, int] = {}  # per array of tables
        self._scan()

    def line(self, path: Path) -> int:
        """Return the line of `path`; of the innermost table around it when it stands nowhere; else 1."""
        for length in range(len(path), 0, -1):
            found = self._lines.get(path[:length])
            if found is not None:
                return found
        return 1

    def _scan(self) -> None:
        table: Path = ()
        while self._take(_GAP) is not None and self._pos < len(self._text):
            if self._starts("[["):
                table = self._header(array=True)
            elif self._starts("["):
                table = self._header(array=False)
            else:
                here = self._here()
                path = self._note_key(table, self._key(), here)
                self._take_literal("=")
                self._value(path)
            self._take(_REST_OF_LINE)

    def _header(self, *, array: bool) -> Path:
        """Read `[a.b]` or `[[a.b]]`; a name that is an array of tables means its latest element."""
        here = self._here()
        self._pos += 2 if array else 1
        path: Path = ()
        parts = self._key()
        for number, part in enumerate(parts, start=1):
            path = (*path, part)
            self._lines.setdefault(path, here)
            last = number == len(parts)
            if array and last:
                self._last_index[path] = self._last_index.get(path, -1) + 1
            if path in self._last_index:
                path = (*path, self._last_index[path])
        self._lines[path] = here
        return path

    def _note_key(self, table: Path, parts: list[str], here: int) -> Path:
        for length in range(1, len(parts) + 1):
            self._lines.setdefault((*table, *parts[:length]), here)
        return (*table, *parts)

    def _value(self, path: Path) -> None:
        """Pass over one value, noting what stands inside it."""
        frames: list[tuple[Path, int | None]] = []  # open brackets: their path, and the next index or None in a table
        inner: Path | None = path
        while inner is not None:
            if self._take_literal("["):
                frames.append((inner, 0))
            elif self._take_literal("{"):
                frames.append((inner, None))
            elif self._take(_STRING) is None:
                self._take(_SCALAR)
            inner = self._next_inside(frames)

    def _next_inside(self, frames: list[tuple[Path, int | None]]) -> Path | None:
        """Go to where the next value inside the open brackets begins, and return its path; `None`: there is none."""
        while frames:
            self._take(_GAP)
            if self._pos >= len(self._text):
                return None
            if self._take_literal("]") or self._take_literal("}"):
                frames.pop()
                continue
            parent, index = frames[-1]
            here = self._here()
            if index is None:
                path = (*parent, *self._key())
                self._take_literal("=")
            else:
                frames[-1] = (parent, index + 1)
                path = (*parent, index)
            if len(frames) > _MAX_DEPTH:
                return parent
            # What shares its parent's line is found through the parent, which keeps this table small.
            if self.line(parent) != here:
                self._lines.setdefault(path, here)
            return path
        return None

    def _key(self) -> list[str]:
        parts: list[str] = []
        while True:
            self._take(_BLANK)
            quoted = self._take(_STRING)
            part = _unquote(quoted) if quoted is not None else self._take(_BARE_KEY)
            if part is None:
                return parts
            parts.append(part)
            if not self._take_literal("."):
                return parts

    def _here(self) -> int:
        self._line += self._text.count("\n", self._counted, self._pos)
        self._counted = self._pos
        return self._line

    def _starts(self, literal: str) -> bool:
        return self._text.startswith(literal, self._pos)

    def _take(self, pattern: re.Pattern[str]) -> str | None:
        found = pattern.match(self._text, self._pos)
        if found is None:
            return None
        self._pos = found.end()
        return found.group()

    def _take_literal(self, literal: str) -> bool:
        """Take `literal` if it is next, blanks before it aside."""
        self._take(_BLANK)
        if not self._starts(literal):
            return False
        self._pos += len(literal)
        return True


def _unquote(quoted: str) -> str:
    try:
        return str(tomllib.loads(f"key = {quoted}")["key"])
    except ValueError:
        return quoted
