"""Finding a reference's field in the JSON of `op item get` (contract 1.4). PURE.

Rule of this file: two things that fit are an error, never a choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenbroker.errors import SecretAmbiguous, SecretNotFound, VaultError
from tokenbroker.model import Secret
from tokenbroker.vaults.json_answer import NotDecoded, decode, is_text
from tokenbroker.vaults.op.template import GarbledOutput

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenbroker.vaults.op.reference import OpReference

Things = list[dict[str, Any]]

# Query of a reference → key of the field in the JSON. Any other query is for `op read`.
_ATTRIBUTES = {None: "value", "attribute=value": "value", "attribute=otp": "totp", "attribute=totp": "totp"}


@dataclass(frozen=True, slots=True)
class OpItem:
    """One item: its fields, and the names of its files."""

    fields: Things
    files: Things


def parse_item(output: bytes) -> OpItem:
    """Return one item. Raises `GarbledOutput` when `output` is not an item's JSON."""
    try:
        item = decode(output)
    except NotDecoded:
        item = None
    if not isinstance(item, dict) or "fields" not in item:
        raise GarbledOutput("not the JSON of an item")
    fields, files = item["fields"], item.get("files", [])
    for things in (fields, files):
        if not isinstance(things, list) or not all(isinstance(thing, dict) for thing in things):
            raise GarbledOutput("not the JSON of an item")
    return OpItem(fields, files)


def pick(item: OpItem, reference: OpReference, *, clean: Callable[[str], str] = str) -> Secret | VaultError | None:
    """Return the value that `reference` names, made fit by `clean`, or the error that it deserves.

    `None`: it is there, and only `op read` gives it: the content of a file, a key in another format, a one-time
    password that the JSON lacks.
    """
    fitting = _fitting(item.fields, reference) or _fitting(item.files, reference)
    if len(fitting) > 1:
        return SecretAmbiguous(f"{reference.ref}: more than one field has this name", hint=_list_fields(reference))
    if not fitting:
        return SecretNotFound(f"{reference.ref}: the item has no such field", hint=_list_fields(reference))
    key = _ATTRIBUTES.get(reference.query)
    if any(fitting[0] is file for file in item.files) or key is None or (key == "totp" and key not in fitting[0]):
        return None
    value = fitting[0].get(key)
    if not isinstance(value, str) or not value or not is_text(value):
        return SecretNotFound(f"{reference.ref}: the field is empty", hint=_list_fields(reference))
    return Secret(clean(value))


def _fitting(things: Things, reference: OpReference) -> Things:
    """Return what has the name, in the section if one is named; without one the top level goes first."""
    named = [one for one in things if _named(one, reference.field) and _in_section(one, reference.section)]
    if reference.section is None:
        return [one for one in named if not one.get("section")] or named
    return named


def _list_fields(reference: OpReference) -> str:
    return f'see its fields with `op item get "{reference.item}" --vault "{reference.vault}"`'


def _named(thing: dict[str, Any], name: str) -> bool:
    wanted = name.casefold()
    names = (thing.get(key) for key in ("id", "label", "name"))
    return any(isinstance(one, str) and one.casefold() == wanted for one in names)


def _in_section(thing: dict[str, Any], section: str | None) -> bool:
    own = thing.get("section")
    return section is None or (isinstance(own, dict) and _named(own, section))
