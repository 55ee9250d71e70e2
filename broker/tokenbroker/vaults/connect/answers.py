"""What a Connect server's answers mean (contract 4). PURE.

Rules of this file:
1. Nothing of the server's text goes into an error: a message of its may quote what was asked or kept.
2. An item is given in the shape of `op item get`, so that one function finds the field for every backend.
3. What is not understood is refused whole; what is merely unknown, such as a new type of vault, is passed over.
"""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tokenbroker.errors import PASSING, VaultError, VaultUnavailable
from tokenbroker.vaults.json_answer import NotDecoded, decode, is_text
from tokenbroker.vaults.op.item import OpItem
from tokenbroker.vaults.op.limits import UNTOLD_PAUSE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tokenbroker.vaults.op.reference import OpReference

UNLOCK = "run `broker unlock`"
_ID = re.compile(r"[a-z0-9]{26}")
_FILE_ID = re.compile(r"[A-Za-z0-9]{1,64}")
_SPACE = re.compile(r"[ \t\r\n]*")
_NO_LONGER_KEPT = {"ARCHIVED", "DELETED"}
_VERSION = re.compile(r"[\w.+-]{1,32}", re.ASCII)
_DECODER = json.JSONDecoder()
_USUAL = 4 * 1024  # characters of a vault or an item in a listing
_LONGEST_MEMBER = 64 * 1024  # and of one with a long description: decoded in 2 ms at the worst
_LONGEST_WAIT = 24 * 3600.0  # seconds; a `Retry-After` beyond it is a fault, not advice


class Absent(Exception):
    """There is nothing under the address, or this token may not see it: 400, 403 or 404."""


class TokenRefused(Exception):
    """The server refuses the access token: 401."""


class TooBig(Exception):
    """The answer is longer than tokenbroker takes."""


class Malformed(Exception):
    """The answer is not what a Connect server says. Never holds any of it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A vault or an item as a listing shows it."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Item:
    """One item; its content in the shape of `op item get`, and in no `repr`."""

    id: str
    archived: bool
    content: OpItem = field(repr=False)


_OF_ONE_ANSWER: Mapping[int, type[Exception]] = {
    400: Absent, 401: TokenRefused, 403: Absent, 404: Absent, 413: TooBig
}  # fmt: skip


def judge(status: int, retry_after: str | None, where: str) -> Exception | None:
    """Return what an HTTP status means; `None` for a success. `where` names the server."""
    if status == 200:  # noqa: PLR2004  # OK; no other success has a body that is ours
        return None
    if status in _OF_ONE_ANSWER:
        return _OF_ONE_ANSWER[status](f"status {status}")
    if status == 429:  # noqa: PLR2004  # RFC 6585 §4
        told = _seconds(retry_after)
        return VaultUnavailable(
            f"{where} limits the rate of requests",
            hint=f"wait, then {UNLOCK}",
            retry_after=UNTOLD_PAUSE if told is None else told,
        )
    if 300 <= status < 400:  # noqa: PLR2004  # the redirects
        return VaultUnavailable(
            f"{where} redirects elsewhere, where the access token is not sent",
            hint="set `url` of the vault to the server's own address",
        )
    return VaultUnavailable(
        f"{where} answered with an error: {status}",
        hint=check_health(where),
        retry_after=PASSING if status >= 500 else None,  # noqa: PLR2004  # the server's own trouble
    )


def check_health(where: str) -> str:
    """Return the hint for a server that answers, but not as it should."""
    return f"look at it with `curl {where.rpartition(' ')[2]}/health`, then {UNLOCK}"


def _seconds(retry_after: str | None) -> float | None:
    """Read `Retry-After` in seconds (RFC 9110 §10.2.3); a date is left unread."""
    if retry_after is None or not re.fullmatch(r"[0-9]{1,6}", retry_after.strip()):
        return None
    return min(float(retry_after), _LONGEST_WAIT)


def parse_entries(body: bytes, name: str) -> list[Entry]:
    """Return the vaults (`name`: `name`) or items (`name`: `title`) of a listing, without those that are archived.

    Raises `Malformed`.
    """
    with contextlib.suppress(ValueError, RecursionError):  # not raised from them: they would hold all of the text
        return list(_entries(body.decode(), name))
    raise Malformed("not a listing")


def _entries(text: str, name: str) -> Iterator[Entry]:
    for one in _each(text):
        if not isinstance(one, dict):
            raise ValueError("not a listing")  # noqa: TRY004  # as an error of `json` is one
        if is_id(one.get("id")) and not _gone(one):
            title = one.get(name)
            yield Entry(one["id"], title if isinstance(title, str) else "")


def _gone(thing: Mapping[str, Any]) -> bool:
    state = thing.get("state")
    return isinstance(state, str) and state in _NO_LONGER_KEPT


def _decoded(body: bytes) -> Any:
    """Return what the JSON of one thing holds; `None` when it is none, or too much."""
    with contextlib.suppress(NotDecoded):
        return decode(body)
    return None


def _each(text: str) -> Iterator[Any]:
    """Yield the members of a JSON array one by one.

    `json.loads` would hold the interpreter, and with it the event loop, for the length of a large listing, whichever
    thread it runs in.
    """
    at = _skip(text, 0)
    if text[at:].strip() == "null":  # how Go writes an empty list that it never made
        return
    closing = at + 1
    if text[at : at + 1] != "[":
        raise ValueError("not an array")
    at = _skip(text, closing)
    while text[at : at + 1] != "]":
        one, length = _member(text, at)
        yield one
        at = _skip(text, at + length)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "]":
            raise ValueError("not an array")
    if text[at + 1 :].strip():
        raise ValueError("text after the array")


def _member(text: str, at: int) -> tuple[Any, int]:
    """Return the object that begins at `at`, and its length, which is bounded. Raises `ValueError`."""
    with contextlib.suppress(ValueError):
        return _DECODER.raw_decode(text[at : at + _USUAL])
    return _DECODER.raw_decode(text[at : at + _LONGEST_MEMBER])


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def is_id(text: object) -> bool:
    """Tell whether `text` has the form of a vault's or item's id; a title may have it too."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def named(entries: Sequence[Entry], name: str) -> list[str]:
    """Return the ids of the entries that `name` means: the one of this id, else all of this name in any case."""
    if any(entry.id == name for entry in entries):
        return [name]
    return [entry.id for entry in entries if entry.name.casefold() == name.casefold()]


def parse_item(body: bytes) -> Item:
    """Return one item. Raises `Malformed`."""
    found = _decoded(body)
    if not isinstance(found, dict) or not is_id(found.get("id")):
        raise Malformed("not an item")
    sections = {one["id"]: one for one in _dicts(found, "sections") if isinstance(one.get("id"), str)}
    return Item(
        id=found["id"],
        archived=_gone(found),
        content=OpItem(
            fields=[_in_op_shape(one, sections) for one in _dicts(found, "fields")],
            files=[_in_op_shape(one, sections) for one in _dicts(found, "files")],
        ),
    )


def _dicts(thing: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    value = thing.get(key) or []
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise Malformed(f"`{key}` is no list of objects")
    return value


def _in_op_shape(thing: Mapping[str, Any], sections: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Name the section, of which Connect gives the id alone, and leave out text that no text can hold."""
    shaped = {key: value for key, value in thing.items() if not isinstance(value, str) or is_text(value)}
    section = shaped.pop("section", None)
    identity = section.get("id") if isinstance(section, dict) else None
    if isinstance(identity, str) and identity:
        shaped["section"] = {"id": identity, "label": sections.get(identity, {}).get("label") or ""}
    return shaped


def file_named(item: OpItem, reference: OpReference) -> str | None:
    """Return the id of the file that stands where `reference` names a field, of which `op_item.pick` found one."""
    fitting = [
        one
        for one in item.files
        if reference.field.casefold() in {str(one.get(key, "")).casefold() for key in ("id", "name")}
        and (reference.section is None or _within(one, reference.section))
    ]
    fitting.sort(key=lambda one: "section" in one)  # the top level goes first
    file = fitting[0].get("id") if fitting else None
    return file if isinstance(file, str) and _FILE_ID.fullmatch(file) else None


def _within(file: Mapping[str, Any], section: str) -> bool:
    return section.casefold() in {str(name).casefold() for name in file.get("section", {}).values()}


def parse_health(body: bytes) -> str:
    """Return the server's version and which of its parts are not active, in words of ours. Raises `Malformed`."""
    found = _decoded(body)
    version = found.get("version") if isinstance(found, dict) else None
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise Malformed("not a health report")
    active = all(one.get("status") == "ACTIVE" for one in _dicts(found, "dependencies"))
    return version if active else f"{version}, not all of it active"


def misunderstood(where: str) -> VaultError:
    """Return the error for an answer that no Connect server gives."""
    return VaultUnavailable(
        f"{where} answered with something that is not 1Password Connect's", hint=check_health(where)
    )
