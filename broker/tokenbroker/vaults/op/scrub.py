"""What `op` says on stderr, fit to be shown to others. PURE.

Rule of this file: what could name a person, an account, an item or a machine becomes `…`; rather too much than too
little, as the words around it are what is wanted.
"""

from __future__ import annotations

import re
from typing import Final

_LONGEST_TEXT: Final = 400  # characters
_LOOKED_AT: Final = 2048  # characters; the patterns take the square of it, and everyone waits
_PERSONAL: Final = (
    re.compile(r"op://\S+"),
    re.compile(r'"[^"\n]*"|“[^”\n]*”'),
    re.compile(r"(?<!\w)'[^'\n]*'(?!\w)"),  # not the apostrophes of "couldn't" and "you're"
    re.compile(r"[^\s@<>]+@[^\s@<>]+"),
    re.compile(r"(?<=item )\S.*?(?= in vault )|(?<=in vault )\S+|(?<=for filter )\S+|(?<=for account )\S+"),
    re.compile(r"\b(?!developer\.|support\.|www\.)[\w-]+(?:\.[\w-]+)*\.1password\.(?:com|ca|eu)\b", re.IGNORECASE),
    re.compile(r"\b[a-z2-7]{26}\b|\b[A-Z2-7]{26}\b|\b[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}\b"),
    re.compile(r"\bops_\S+|\b(?=\w*\d)[\w+/=-]{32,}"),
    re.compile(r"(?<![\w/:.])/(?!usr/|opt/)[^\s:,]+"),  # paths of people and of sockets; not those of programs
    re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"),
)
_STAMP: Final = re.compile(r"\[ERROR\] \d{4}/\d\d/\d\d \d\d:\d\d:\d\d ")


def scrub(text: str, *names: str) -> str:
    """Return what `op` said on one line, without references, names in quotes, addresses, ids, paths and `names`."""
    said = _STAMP.sub("", _beginning(text))
    for name in filter(None, names):
        said = re.sub(re.escape(name), "…", said, flags=re.IGNORECASE)
    for pattern in _PERSONAL:
        said = pattern.sub("…", said)
    said = " ".join("".join(c if c.isprintable() else " " for c in said).split())
    return said if len(said) <= _LONGEST_TEXT else f"{said[: _LONGEST_TEXT - 1]}…"


def _beginning(text: str) -> str:
    """Return as many whole lines as are looked at: half a name would not be recognized as one."""
    return text if len(text) <= _LOOKED_AT else text[:_LOOKED_AT].rpartition("\n")[0]
