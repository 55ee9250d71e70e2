"""JSON that somebody else wrote, decoded within bounds. PURE.

`json.loads` holds the interpreter, and with it the event loop, from beginning to end, whichever thread it runs in. What
it costs is the number of things, not their length: 2 MiB in one string are decoded in 4 ms, 2 MiB of brackets in 100.
"""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn

MAX_ITEM: Final = (6 << 20) + (256 << 10)  # bytes; a value of 1 MiB may be 6 in JSON
LONG: Final = 128 << 10  # bytes; more is decoded in two steps of up to 15 ms, in a thread if others wait
MAX_STRINGS: Final = 10_000  # keys and values; an item of 800 fields
MAX_BESIDE: Final = 96 * 1024  # characters outside of strings
_DECODER: Final = json.JSONDecoder()


class NotDecoded(ValueError):
    """This is not JSON, or more of it than is taken. Never holds any of it."""


def decode(raw: bytes, most: int = MAX_ITEM) -> Any:
    """Return what `raw`, UTF-8 of at most `most` bytes, stands for. Raises `NotDecoded`, and nothing else."""
    if len(raw) > most:
        raise NotDecoded("longer than is taken")
    try:
        text = raw.decode()
        _weigh(text)
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):  # an error of `json` would hold all of the text
        pass
    raise NotDecoded("not JSON, or too much of it")


def _weigh(text: str) -> None:
    """Raise `ValueError` when `text` holds more things than are taken; costs no more than a bound itself."""
    at = strings = beside = 0
    while (quote := text.find('"', at)) >= 0:
        beside += quote - at
        strings += 1
        if strings > MAX_STRINGS or beside > MAX_BESIDE:
            raise ValueError("too many things")
        _, at = _DECODER.raw_decode(text, quote)
    if beside + len(text) - at > MAX_BESIDE:
        raise ValueError("too many things")


def _refuse(name: str) -> NoReturn:
    """Refuse `NaN` and `Infinity`, which JSON has not and Python takes."""
    raise ValueError(name)


def is_text(value: object) -> bool:
    """Tell whether it is a text without lone surrogates, which JSON can spell and UTF-8 cannot."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
