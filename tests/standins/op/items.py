"""Vaults, items and fields: finding them, and the texts when they cannot be found (contract §1.3, §1.4, §1.7)."""

from __future__ import annotations

from tests.standins.op import auth
from tests.standins.op.output import OpError
from tests.standins.op.state import now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tests.standins.op.call import Call

    Item = dict[str, Any]
    Vault = dict[str, Any]

BY_UUID = "Specify the item with its UUID, name, or domain."
QUERY_NEEDED = (
    "a vault query must be provided when this command is called by a service account. Please specify one either "
    "through the --vault flag or through piped input"
)
HIDDEN_IN_LISTS = {"fields", "files", "sections", "state"}


def visible_vaults(call: Call, account: dict[str, Any] | None) -> list[Vault]:
    """Return the vaults that this caller may see."""
    state = call.state()
    vaults: list[Vault] = state["vaults"]
    if account is not None:
        return [v for v in vaults if v.get("account", state["accounts"][0]["account_uuid"]) == account["account_uuid"]]
    allowed = state["sa"]["vaults"] if auth.method(call) == "sa" else None
    return [v for v in vaults if allowed is None or v["id"] in allowed]


def find_vault(vaults: list[Vault], query: str) -> Vault:
    """Return the vault with this id, or this name in any case. Raises `OpError`."""
    for vault in vaults:
        if vault["id"] == query or vault["name"].lower() == query.lower():
            return vault
    raise OpError(f'"{query}" isn\'t a vault in this account. Specify the vault with its ID or name.')


def find_item(call: Call, vaults: list[Vault], query: str, vault: Vault | None, *, archived: bool) -> Item:
    """Return the one item that `query` names: id, share link, title in any case, or domain. Raises `OpError`."""
    seen = {vault["id"]} if vault else {v["id"] for v in vaults}
    here = [item for item in call.state()["items"] if item["vault"]["id"] in seen]
    matches = _matches(here, query)
    live = [item for item in matches if archived or item.get("state") != "ARCHIVED"]
    if len(live) == 1:
        return live[0]
    if live:
        lines = "".join(f'\n\t* for the item "{i["title"]}" in vault {i["vault"]["name"]}: {i["id"]}' for i in live)
        raise OpError(f'More than one item matches "{query}". Try again and specify the item by its ID: {lines}')
    if matches:
        name = matches[0]["vault"]["name"]
        raise OpError(f"could not find item {query} in vault {name}, because it has been deleted or archived.")
    where = f' in the "{vault["name"]}" vault' if vault else ""
    raise OpError(f'"{query}" isn\'t an item{where}. {BY_UUID}')


def _matches(items: list[Item], query: str) -> list[Item]:
    if query.startswith("https://start.1password.com/open/"):
        query = query.rpartition("i=")[2].partition("&")[0]
    by_id = [item for item in items if item["id"] == query]
    by_title = [item for item in items if item["title"].lower() == query.lower()]
    return by_id or by_title or [item for item in items if query.lower() in _domains(item)]


def _domains(item: Item) -> set[str]:
    return {url["href"].rpartition("://")[2].partition("/")[0].lower() for url in item.get("urls", [])}


def shown(call: Call, item: Item) -> Item:
    """Return an item as JSON shows it: no empty `value`, one-time passwords as of now."""
    fields = []
    for field in item.get("fields", []):
        copy = {k: v for k, v in field.items() if k != "openssh" and not (k == "value" and v == "")}
        if "value" in call.fault and field["type"] == "CONCEALED":
            copy["value"] = call.fault["value"]
        if field["type"] == "OTP" and field.get("value") and call.state()["totp_in_json"]:
            copy["totp"] = one_time_password(field["value"], now(call.state()))
        fields.append(copy)
    files = [{k: v for k, v in file.items() if k != "content"} for file in item.get("files", [])]
    result = {k: v for k, v in item.items() if k not in {"fields", "files", "state"}}
    result["fields"] = fields
    return result | ({"files": files} if files else {})


def summary(item: Item) -> Item:
    """Return an item as `item list` shows it: no fields."""
    return {key: value for key, value in item.items() if key not in HIDDEN_IN_LISTS}


def select_fields(item: Item, selector: str) -> list[Item]:
    """Return what `--fields` asks for: `label=a,label=b`, `a,b` or `type=concealed`. Raises `OpError`."""
    chosen: list[Item] = []
    for part in selector.split(","):
        kind, equals, value = part.partition("=")
        if equals and kind == "type":
            chosen += [f for f in item["fields"] if f["type"].lower() == value.lower()]
            continue
        label = value if equals and kind == "label" else part
        # The first of several with one label: `op` may return the one that was not meant.
        found = next((f for f in item["fields"] if label.lower() in {f["label"].lower(), f["id"].lower()}), None)
        if found is None:
            raise OpError(f'"{label}" isn\'t a field in the "{item["title"]}" item.')
        chosen.append(found)
    return chosen


def one_time_password(value: str, moment: float) -> str:
    """Return the code of RFC 6238 for a base32 secret or an otpauth URI."""
    import base64  # noqa: PLC0415  # few calls need these
    import hmac  # noqa: PLC0415
    from urllib.parse import parse_qs, urlsplit  # noqa: PLC0415

    options = {key: values[0] for key, values in parse_qs(urlsplit(value).query).items()}
    secret = options.get("secret", value) if value.startswith("otpauth://") else value
    secret = secret.replace(" ", "").upper()
    key = base64.b32decode(secret + "=" * (-len(secret) % 8))
    counter = int(moment // int(options.get("period", 30)))
    digest = hmac.digest(key, counter.to_bytes(8, "big"), options.get("algorithm", "SHA1").lower())
    start = digest[-1] & 0xF
    digits = int(options.get("digits", 6))
    code = int.from_bytes(digest[start : start + 4], "big") & 0x7FFFFFFF
    return str(code % 10**digits).zfill(digits)


def charge(call: Call, item: Item, *, by_id: bool, cached_cost: int) -> None:
    """Count what a service account's read costs (§3); raise 429 when a limit is reached."""
    if auth.method(call) != "sa":
        return
    with call.store.change() as state:
        moment, cache = now(state), state["sa"]["cache"]
        cost = cached_cost if call.cache and item["id"] in cache else (2 if by_id else 3)
        for name in ("token read", "account read_write"):
            limit = state["ratelimit"][name]
            if limit["since"] is None or moment - limit["since"] >= limit["window"]:
                limit.update(since=moment if cost else None, used=0)
            if limit["used"] + cost > limit["limit"]:
                minutes = round((limit["window"] - (moment - limit["since"])) / 60)
                raise OpError(
                    "(429) Too Many Requests: You've reached the maximum number of this type of requests this service "
                    f"account is allowed to make. Please retry in {minutes} minutes or try other requests."
                )
            limit["used"] += cost
        if item["id"] not in cache:
            cache.append(item["id"])
