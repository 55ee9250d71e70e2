"""Secret references: their syntax, what they name, and templates that hold them (contract §1.5, §1.6)."""

from __future__ import annotations

from tests.standins.op.items import charge, find_item, find_vault, one_time_password, visible_vaults
from tests.standins.op.output import INIT, OpError, raw
from tests.standins.op.state import now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from tests.standins.op.call import Call

ALLOWED = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_. ")
SHAPE = (
    'secret reference has invalid format - must be "op://<vault>/<item>/[section/]field[?attribute=<attribute-value>]"'
)
ATTRIBUTES = {"type", "value", "id", "purpose", "otp", "content", "size", "name"}
BARE = ALLOWED - {" "} | set("?=/")  # what a reference outside braces may hold
STRIPPED = dict.fromkeys([*range(0x09), *range(0x0B, 0x20), 0x7F])  # every control character but tab and newline


class Reference:
    """`op://vault/item/[section/]field[?key=value]`."""

    def __init__(self, text: str, parts: list[str], key: str, value: str) -> None:
        """Keep the text and its three or four parts, whose form has been checked."""
        self.text = text
        self.vault, self.item = parts[:2]
        self.section = parts[2] if len(parts) > 3 else ""
        self.field = parts[-1]
        self.key = key
        self.value = value

    @property
    def place(self) -> str:
        """The field as error texts name it."""
        return f"{self.section}.{self.field}" if self.section else self.field


def parse_reference(text: str) -> Reference:
    """Understand a reference. Raises `OpError`."""
    if not text.lower().startswith("op://"):
        raise _invalid('secret reference is not prefixed with "op://"')
    path, _, query = text[5:].partition("?")
    parts = path.split("/")
    bad = next((char for char in path if char not in ALLOWED and char != "/"), None)
    if bad is not None:
        raise _invalid(f"invalid character in secret reference: '{bad}'")
    if len(parts) not in {3, 4} or not all(part.strip() for part in parts):
        raise _invalid(SHAPE)
    key, _, value = query.partition("=")
    if query and key not in {"attribute", "attr", "ssh-format"}:
        raise _invalid("secret reference has invalid query parameter key")
    if query and value not in (ATTRIBUTES if key != "ssh-format" else {"openssh"}):
        raise _invalid("secret reference has invalid query parameter value")
    return Reference(text, parts, key, value)


def _invalid(text: str) -> OpError:
    return OpError(f"invalid secret reference: {text}", bare=True)


def could_not_read(reference: str, error: OpError) -> OpError:
    """Return the error as `read` wraps it."""
    if error.bare:
        return error
    init = error.init or error.text.startswith(("You are not", "connecting to", "Connecting to", "session expired"))
    return OpError(f"could not read secret '{reference}': {INIT if init else ''}{error.text}")


def resolve(call: Call, ref: Reference, account: dict[str, Any] | None) -> bytes:
    """Return the bytes that a reference stands for. Raises `OpError`, not yet wrapped."""
    vaults = visible_vaults(call, account)
    try:
        vault = find_vault(vaults, ref.vault)
        item = find_item(call, vaults, ref.item, vault, archived=False)
    except OpError as error:
        raise OpError(f"could not get item {ref.vault}/{ref.item}: {error.text}") from None
    charge(call, item, by_id=item["id"] == ref.item and vault["id"] == ref.vault, cached_cost=1)
    field = _find_field(item, ref)
    if field is not None:
        return raw(_field_value(call, field, ref))
    for file in item.get("files", []):
        in_section = not ref.section or ref.section.lower() in _section_names(file)
        if in_section and ref.field.lower() in {file["name"].lower(), file["id"].lower()}:
            return raw(str(file[ref.value if ref.value in {"type", "size", "id", "name"} else "content"]))
    raise OpError(f"item '{ref.vault}/{ref.item}' does not have a field '{ref.place}'")


def _find_field(item: dict[str, Any], ref: Reference) -> dict[str, Any] | None:
    """Return the field; without a section those outside all sections come first, then a single one inside any."""
    named = [f for f in item["fields"] if ref.field.lower() in {f["label"].lower(), f["id"].lower()}]
    if ref.section:
        return next((f for f in named if ref.section.lower() in _section_names(f)), None)
    top = [f for f in named if "section" not in f]
    return (top or named)[0] if top or len(named) == 1 else None


def _section_names(field: dict[str, Any]) -> set[str]:
    section = field.get("section", {})
    return {str(section[key]).lower() for key in ("id", "label") if section.get(key)}


def _field_value(call: Call, field: dict[str, Any], ref: Reference) -> str:
    if ref.key == "ssh-format":
        return str(field.get("openssh", field.get("value", "")))
    if ref.value == "otp":
        if field["type"] != "OTP":
            raise OpError(f"field '{ref.place}' is not a one-time password")  # the wording is a guess
        return one_time_password(field["value"], now(call.state()))
    if ref.value == "type":
        return str(field["type"]).lower()
    return str(field.get(ref.value or "value", ""))


def template_references(template: str) -> list[Reference]:
    """Return the references of a template in order, before anything is authorised. Raises `OpError`."""
    found: list[Reference] = []

    def note(ref: Reference) -> str:
        found.append(ref)
        return ""

    _walk(template, note)
    return found


def fill(template: str, values: dict[str, str]) -> str:
    """Return the template with its references replaced, control characters gone, and a newline at its end."""
    return _walk(template, lambda ref: values[ref.text]).translate(STRIPPED) + "\n"


def _walk(template: str, replace: Callable[[Reference], str]) -> str:
    done, at = [], 0
    for start, end, inner in _enclosed(template):
        done += [template[at:start], _one(template, start, inner, replace)]
        at = end
    return "".join([*done, template[at:]])


def _enclosed(template: str) -> Iterator[tuple[int, int, str]]:
    """Find `{{ … }}` and bare references: start, end, and what stands inside. `re` would be half of a start."""
    at = 0
    while at < len(template):
        if template.startswith("{{", at) and (close := template.find("}}", at + 2)) >= 0:
            yield at, close + 2, template[at + 2 : close].strip()
            at = close + 2
        elif template[at : at + 5].lower() == "op://":
            end = at + 5
            while end < len(template) and template[end] in BARE:
                end += 1
            yield at, end, template[at:end]
            at = end
        else:
            at += 1


def _one(template: str, start: int, inner: str, replace: Callable[[Reference], str]) -> str:
    if inner.startswith('"') and inner.endswith('"') and inner != '"':
        return inner[1:-1]
    if not inner.lower().startswith("op://"):
        raise OpError(
            "parsing error: only secret references or quoted strings can be enclosed in unescaped {{ }}s", bare=True
        )
    path = inner.partition("?")[0]
    bad = next((i for i, char in enumerate(path) if i > 4 and char not in ALLOWED and char != "/"), None)
    if bad is not None:
        at = template.index(inner, start) + bad
        line, column = template.count("\n", 0, at) + 1, at - template.rfind("\n", 0, at)
        raise OpError(f"parsing error at {line}:{column}: invalid character: {inner[bad]}", bare=True)
    return replace(parse_reference(inner))
