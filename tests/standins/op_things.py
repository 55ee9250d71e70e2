"""Items for the stand-in of `op`, in the JSON of 1Password (contract 1.4), and tokens of service accounts."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
PLAIN_LABELS = {"username", "hostname", "type", "filename", "client id", "client_id", "url", "account", "notesplain"}
TEMPLATE_PURPOSES = {"username": "USERNAME", "password": "PASSWORD", "notesPlain": "NOTES"}
TEMPLATE_IDS = {*TEMPLATE_PURPOSES, "credential", "type", "filename", "validFrom", "expires", "hostname"}


@dataclass(frozen=True, slots=True)
class Field:
    """One field, where a bare value is not enough."""

    value: str = ""
    type: str = "CONCEALED"
    section: str | None = None
    section_id: str | None = None
    """Tells two sections of one label apart."""
    id: str | None = None
    openssh: str | None = None
    """What `?ssh-format=openssh` prints, for SSHKEY."""


@dataclass(frozen=True, slots=True)
class File:
    """One attached file, where its text is not enough."""

    text: str
    section: str | None = None


def make_id(seed: str) -> str:
    """Return 26 characters of lower-case base32, the same for the same seed."""
    return "".join(ALPHABET[byte % 32] for byte in hashlib.sha256(seed.encode()).digest()[:26])


def service_account_token(name: str = "any") -> str:
    """Return a token of the right form, another for each name."""
    body = json.dumps({"signInAddress": "my.1password.com", "email": f"{name}@1passwordserviceaccounts.com"})
    return "ops_" + base64.urlsafe_b64encode(body.encode()).decode().rstrip("=")


def sections_of(things: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the `sections` of an item's JSON, as its fields and files name them."""
    found = {thing["section"]["id"]: thing["section"] for thing in things if "section" in thing}
    return {"sections": list(found.values())} if found else {}


def make_field(item: tuple[str, str, str], label: str, spec: str | Field, *, at: int) -> dict[str, Any]:
    """Return a field's JSON; `item`: vault, title and category, `at`: how many fields stand before it."""
    vault, title, category = item
    if isinstance(spec, str):
        spec = Field(spec, type="STRING" if label.lower() in PLAIN_LABELS else "CONCEALED")
    seed = f"field {title} {spec.section} {spec.section_id} {label} {at}"
    own_id = spec.id or (label if label in TEMPLATE_IDS else make_id(seed))
    field: dict[str, Any] = {"id": own_id, "type": spec.type, "label": label, "value": spec.value}
    path = [vault, title, label]
    if spec.section is not None:
        field["section"] = _section(spec.section, spec.section_id)
        path.insert(2, spec.section)
    if label in TEMPLATE_PURPOSES and (category == "LOGIN" or label == "notesPlain"):
        field["purpose"] = TEMPLATE_PURPOSES[label]
    if spec.openssh is not None:
        field["openssh"] = spec.openssh
    return field | {"reference": "op://" + "/".join(path)}


def _section(label: str, own_id: str | None = None) -> dict[str, str]:
    return {"id": own_id or f"Section_{make_id(label)}", "label": label}


def make_file(item_id: str, name: str, spec: str | File) -> dict[str, Any]:
    """Return an attached file's JSON, with the content that only the stand-in has."""
    text, section = (spec, None) if isinstance(spec, str) else (spec.text, spec.section)
    own_id = make_id(f"file {item_id} {name}")
    where = f"/v1/vaults/items/{item_id}/files/{own_id}/content"
    facts = {
        "id": own_id,
        "name": name,
        "size": len(text.encode("utf-8", "surrogateescape")),
        "content_path": where,
        "content": text,
    }
    return facts | ({"section": _section(section)} if section else {})
