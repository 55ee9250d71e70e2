"""Reading values out of a parsed TOML document, one small parser per kind of value.

Rules of this file:
1. A parser takes a value of any kind and returns what it means, or raises `Problem`: what was expected, what found.
2. A problem carries the path from the value to the fault; whoever holds the value adds the path to it.
3. A found string is shown only when it is too short to be a secret. Parsers of what may hold one show nothing.
"""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from tokenbroker.suggest import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from tokenbroker.config.toml_lines import Path

    Parser = Callable[[object], Any]

NAME_RULE: Final = "a name of letters, digits, `.`, `_` and `-` that begins with a letter or digit"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LONGEST_TEXT: Final = 4096  # characters; a glob of a whole file would keep `fnmatch` busy for half a minute
_LONGEST_KEY: Final = 64  # characters of a key that a message shows
# Issuers' secrets have 32 characters and more; the words that a person types in the wrong place have fewer.
_SHOWN: Final = re.compile(r"[A-Za-z0-9._*?/+-]{1,20}")


class Problem(Exception):  # never leaves the parser, which turns it into a ConfigError
    """One thing wrong with the document, at `at`, a path that grows on the way up."""

    def __init__(self, text: str, *, hint: str | None = None, at: Path = ()) -> None:
        """Say what is wrong in `text`, and the next step in `hint`."""
        super().__init__(text)
        self.text = text
        self.hint = hint
        self.at = at


def expected(what: str, found: str, *, hint: str | None = None) -> Problem:
    """Return the usual problem: one thing was expected, another found."""
    return Problem(f"expected {what}, found {found}", hint=hint)


@contextmanager
def inside(*keys: str | int) -> Iterator[None]:
    """Place the problems raised within the block under `keys`."""
    try:
        yield
    except Problem as problem:
        problem.at = (*keys, *problem.at)
        raise


def kind(value: object) -> str:
    """Name the kind of a value without telling the value."""
    match value:
        case bool():
            return "a boolean"
        case str():
            return "a string" if value.strip() else "an empty string"
        case int() | float():
            return "a number"
        case dict():
            return "a table"
        case list():
            return "a list" if value else "an empty list"
        case _:
            return "a date or time"


def shown(value: object) -> str:
    """Show a string that is too short to be a secret; of anything else only its kind."""
    if not isinstance(value, str):
        return kind(value)
    if _SHOWN.fullmatch(value):
        return f"`{value}`"
    return "another string" if value.strip() else "an empty string"


def path_text(path: Path) -> str:
    """Write a path as a person would: `clients.mine.scopes[1]`, lists counted from 0."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{_key_text(part)}"
    return text.removeprefix(".")


def text(value: object) -> str:
    """Parse a string with something in it, not endless, without control characters."""
    if not isinstance(value, str) or not value.strip():
        raise expected("a non-empty string", kind(value))
    if len(value) > _LONGEST_TEXT:
        raise expected(f"at most {_LONGEST_TEXT} characters", "more")
    if not value.isprintable():
        raise expected("a string without control characters", "one with them")
    return value


def boolean(value: object) -> bool:
    """Parse `true` or `false`."""
    if not isinstance(value, bool):
        raise expected("true or false", kind(value), hint="write it without quotes")
    return value


def share(value: object) -> float:
    """Parse a share of a whole: a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise expected("a number from 0 to 1", kind(value))
    if not 0 <= value <= 1:
        raise expected("a number from 0 to 1", "another")
    return float(value)


def choice(*options: str) -> Parser:
    """Make a parser of one of `options`."""

    def parse(value: object) -> str:
        if isinstance(value, str) and value in options:
            return value
        raise expected(either(options), shown(value), hint=did_you_mean(value, options))

    return parse


def name_of(what: str, known: Collection[str], *, define: str) -> Parser:
    """Make a parser of a name that the document defines elsewhere; `define` shows how, with NAME for the name."""

    def parse(value: object) -> str:
        if isinstance(value, str) and value in known:
            return value
        listed = f"use one of {', '.join(sorted(known)[:10])}" if known else f"define one as {define}"
        raise expected(f"the name of {what}", shown(value), hint=did_you_mean(value, known) or listed)

    return parse


def list_of(parse_item: Parser, what: str) -> Parser:
    """Make a parser of a list; `what` says of what, in the plural."""

    def parse(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise expected(f"a list of {what}", kind(value))
        items = []
        for index, item in enumerate(value):
            with inside(index):
                items.append(parse_item(item))
        return tuple(items)

    return parse


def not_empty(parse_list: Parser, what: str) -> Parser:
    """Make a parser that wants at least one element."""

    def parse(value: object) -> tuple[Any, ...]:
        items: tuple[Any, ...] = parse_list(value)
        if not items:
            raise expected(f"a list of {what}", "an empty list")
        return items

    return parse


def table_of(parse_item: Parser, what: str) -> Parser:
    """Make a parser of a table with free keys; `what` says of what, in the plural."""

    def parse(value: object) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise expected(f"a table of {what}", kind(value))
        items = {}
        for key, item in value.items():
            with inside(key):
                items[key] = parse_item(item)
        return items

    return parse


def fields(value: object, known: Mapping[str, Parser], *, required: Collection[str] = ()) -> dict[str, Any]:
    """Parse a table whose keys are fixed, in the order in which they stand; only those present are returned."""
    if not isinstance(value, dict):
        raise expected("a table", kind(value))
    found: dict[str, Any] = {}
    for key, item in value.items():
        with inside(key):
            if key not in known:
                raise unknown_key(key, known)
            found[key] = known[key](item)
    for key in required:
        if key not in found:
            with inside(key):
                raise Problem("required, and not there", hint=f"add the key `{key}`")
    return found


def unknown_key(key: str, known: Collection[str]) -> Problem:
    """Return the problem of a key that means nothing here."""
    return Problem(f"unknown key, expected {either(known)}", hint=did_you_mean(key, known))


def check_name(name: str) -> None:
    """Refuse a name that could not stand in a URL, a log line or a shell word."""
    if not _NAME.fullmatch(name):
        raise expected(NAME_RULE, "other characters")


def either(options: Collection[str]) -> str:
    """Write `a, b or c`."""
    *first, last = options
    return f"{', '.join(first)} or {last}" if first else last


def did_you_mean(value: object, known: Collection[str]) -> str | None:
    """Ask whether the nearest known name was meant."""
    found = nearest(value, known) if isinstance(value, str) else None
    return f"did you mean `{found}`?" if found else None


def _key_text(key: str) -> str:
    if len(key) > _LONGEST_KEY or not key.isprintable():
        return '"…"'
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)
