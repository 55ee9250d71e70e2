"""The text given to `op inject`, and the values taken back out of what it prints.

PURE. Rules of this file:
1. Values are framed by marks that hold a nonce drawn per call, so that no secret can pretend to be a frame: any text
   parses back, whatever it contains.
2. What does not parse is refused whole. A value is never guessed.

Known of `op inject`: it appends one newline to the whole, and it removes control characters other than newline and tab
from values (contract 1.6). `as_injected` does the same to what was read in other ways, so that a value does not depend
on what else was read with it. OAuth secrets hold none (RFC 6749 appendix A.2), and PEM keys do without.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenbroker.model import SecretRef


_LINE_END = b"\r\n"


_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class GarbledOutput(ValueError):
    """`op` printed something that is not the filled template. Never holds any of it."""


def as_injected(value: str) -> str:
    """Return `value` without the control characters that `op inject` removes."""
    return _CONTROL.sub("", value)


def _mark(nonce: str, index: int) -> str:
    return f"<{nonce}:{index}>"


def _slot(ref: SecretRef) -> str:
    return "{{ " + ref.uri + " }}"


def build_template(refs: Sequence[SecretRef], nonce: str) -> bytes:
    """Return a template that asks for every one of `refs`; `nonce` is unguessable and new for each call."""
    framed = "".join(_mark(nonce, index) + _slot(ref) for index, ref in enumerate(refs))
    return (framed + _mark(nonce, len(refs))).encode()


def parse_filled(output: bytes, refs: Sequence[SecretRef], nonce: str) -> dict[SecretRef, str | None]:
    """Take the values out of a filled template.

    A value is `None` when nothing usable stands there: it is empty, is not UTF-8, or is the slot itself, unfilled.
    Raises `GarbledOutput` when a mark is missing, repeated or out of order, or when there is text outside the marks.
    """
    values: dict[SecretRef, str | None] = {}
    at = _after(output, 0, _mark(nonce, 0))
    for index, ref in enumerate(refs):
        end = output.find(_mark(nonce, index + 1).encode(), at)
        if end < 0:
            raise GarbledOutput("a mark is missing")
        values[ref] = _usable(output[at:end], ref)
        at = _after(output, end, _mark(nonce, index + 1))
    if len(output) - at > len(_LINE_END) or output[at:] not in {b"", b"\n", _LINE_END}:
        raise GarbledOutput("there is text after the last mark")
    return values


def _after(output: bytes, at: int, mark: str) -> int:
    if not output.startswith(mark.encode(), at):
        raise GarbledOutput("a mark is not where it belongs")
    return at + len(mark.encode())


def _usable(value: bytes, ref: SecretRef) -> str | None:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return None if text in ("", _slot(ref)) else text  # a set would hash the value
