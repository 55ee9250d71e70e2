"""Finding a reference's field in the JSON of `op item get` (contract 1.4). PURE.

Rule of this file: two fields that fit are an error, never a choice.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tokenbroker.errors import SecretAmbiguous, SecretNotFound, VaultError
from tokenbroker.model import Secret
from tokenbroker.vaults.op_template import GarbledOutput

if TYPE_CHECKING:
    from tokenbroker.vaults.op_reference import OpReference

# Query of a reference → key of the field in the JSON.
_ATTRIBUTES = {None: "value", "attribute=value": "value", "attribute=otp": "totp", "attribute=totp": "totp"}


def fields_of(output: bytes) -> list[dict[str, Any]]:
    """Return the fields of one item. Raises `GarbledOutput` when `output` is not an item's JSON."""
    try:
        item = json.loads(output)
        fields = item["fields"]
    except (ValueError, KeyError, TypeError):
        raise GarbledOutput("not the JSON of an item") from None
    if not isinstance(fields, list) or not all(isinstance(field, dict) for field in fields):
        raise GarbledOutput("not the JSON of an item")
    return fields


def pick_field(fields: list[dict[str, Any]], reference: OpReference) -> Secret | VaultError:
    """Return the value that `reference` names, or the error that it deserves."""
    fitting = [field for field in fields if _named(field, reference.field) and _in_section(field, reference.section)]
    if reference.section is None:
        fitting = [field for field in fitting if not field.get("section")] or fitting
    if len(fitting) > 1:
        return SecretAmbiguous(f"{reference.ref}: more than one field has this name", hint=_list_fields(reference))
    if not fitting:
        return SecretNotFound(f"{reference.ref}: the item has no such field", hint=_list_fields(reference))
    value = fitting[0].get(_ATTRIBUTES.get(reference.query, ""))
    if not isinstance(value, str) or not value:
        return SecretNotFound(f"{reference.ref}: the field is empty", hint=_list_fields(reference))
    return Secret(value)


def _list_fields(reference: OpReference) -> str:
    return f'see its fields with `op item get "{reference.item}" --vault "{reference.vault}"`'


def _named(thing: dict[str, Any], name: str) -> bool:
    wanted = name.casefold()
    return any(str(thing.get(key, "")).casefold() == wanted for key in ("id", "label"))


def _in_section(field: dict[str, Any], section: str | None) -> bool:
    return section is None or _named(field.get("section") or {}, section)
