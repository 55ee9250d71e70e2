"""The commands about accounts, vaults and items. Each returns what goes to stdout (contract §8.3, §8.4)."""

from __future__ import annotations

import sys

from tests.standins.op import auth, grants, items, output
from tests.standins.op.output import OpError
from tests.standins.op.state import now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tests.standins.op.call import Call

NO_STDIN = "expected data on stdin but none found"


def account_list(call: Call) -> bytes:
    """List accounts: no authorisation, but with the integration on the app must answer."""
    if auth.method(call) == "app":
        grants.reach_app(call)
    state = call.state()
    accounts = [] if state["mode"] in {"none", "sa", "connect"} else state["accounts"]
    keys = ("shorthand", "url", "email", "user_uuid", "account_uuid")
    if call.json:
        return output.as_json([{key: a[key] for key in keys if a.get(key)} for a in accounts])
    rows = [(a["url"], a["email"], a["user_uuid"]) for a in accounts]
    return output.table([("URL", "EMAIL", "USER ID"), *rows]) if rows else b""


def account_get(call: Call) -> bytes:
    """Show the account; asks for authorisation."""
    account = _person(call)
    facts = {"id": account["account_uuid"], "name": account["url"].split(".")[0], "domain": account["url"]}
    return _facts(call, facts | {"type": "BUSINESS", "state": "ACTIVE"})


def user_get(call: Call) -> bytes:
    """Show the user; asks for authorisation."""
    account = _person(call)
    facts = {"id": account["user_uuid"], "name": account["email"].split("@")[0], "email": account["email"]}
    return _facts(call, facts | {"type": "MEMBER", "state": "ACTIVE"})


def _person(call: Call) -> dict[str, Any]:
    account = auth.sign_in(call)
    if account is None:
        raise OpError("(403) Forbidden: You aren't authorized to access this resource.")
    return account


def _facts(call: Call, facts: dict[str, str]) -> bytes:
    if call.json:
        return output.as_json(facts)
    return output.raw("".join(f"{key + ':':<16}{value}\n" for key, value in facts.items()))


def whoami(call: Call) -> bytes:
    """Say who is signed in; see `auth.whoami`."""
    return _facts(call, auth.whoami(call))


def signin(call: Call) -> bytes:
    """Authorise with the app, silently, or start a manual session and print its token."""
    how = auth.method(call)
    if how == "none":
        auth.no_accounts(call)
        raise OpError("")
    account = auth.choose_account(call)
    if how == "app":
        grants.authorize(call, account["account_uuid"])
        token = ""
    else:
        if not call.parsed.on("raw") and not call.parsed.on("force") and output.is_tty(1):
            raise OpError(
                "Output of 'op signin' is meant to be executed by your terminal. Please run 'eval $(op signin)'. "
                "You can use the '-f' flag to override this warning."
            )
        token = _manual_session(call, account)
    with call.store.change() as state:
        state["last_signin"] = account["account_uuid"]
    if not token or call.parsed.on("raw"):
        return output.raw(f"{token}\n") if token else b""
    return output.raw(f'export OP_SESSION_{account.get("shorthand", account["user_uuid"])}="{token}"\n')


def _manual_session(call: Call, account: dict[str, Any]) -> str:
    output.warn(output.raw(f"Enter the password for {account['email']} at {account['url']}: "))
    if output.is_socket(0):
        raise OpError("operation not supported on socket")
    if not output.is_pipe(0) and not output.is_tty(0):
        raise OpError("operation not supported by device")
    password = sys.stdin.readline().rstrip("\n")
    output.warn(b"\n")
    import secrets  # noqa: PLC0415  # only here

    token = secrets.token_urlsafe(32)  # 43 characters; the form is a guess
    with call.store.change() as state:
        if password != state["password"]:
            raise OpError("(401) Unauthorized: You entered an incorrect password.")  # the wording is a guess
        state["sessions"][token] = {"account": account["account_uuid"], "used": now(state)}
    return token


def signout(call: Call) -> bytes:
    """End this terminal's grant and session, or every one."""
    everything = call.parsed.on("all")
    if not everything and auth.method(call) == "none":
        return b""
    account = "" if everything else auth.choose_account(call)["account_uuid"]
    key = None if everything else grants.grant_key(call.state()["tty_policy"], account, call.id)
    with call.store.change() as state:
        grants.revoke(state, account, key)
        kept = {t: s for t, s in state["sessions"].items() if not everything and s["account"] != account}
        state["sessions"] = kept
    return b""


def _metadata_account(call: Call) -> dict[str, Any] | None:
    """Authenticate for vault and item lists, which a locked app may leave to the cache."""
    state, name = call.state(), call.parsed.command
    if auth.method(call) == "app" and state["app"]["running"] and state["app"]["locked"] and call.cache:
        account = auth.choose_account(call)
        if state["cache_answers_while_locked"] and f"{name} {account['account_uuid']}" in state["cached"]:
            return account
    signed_in = auth.sign_in(call)
    if signed_in is not None and call.cache:
        with call.store.change() as state:
            entry = f"{name} {signed_in['account_uuid']}"
            if entry not in state["cached"]:
                state["cached"].append(entry)
    return signed_in


def vault_list(call: Call) -> bytes:
    """List vaults."""
    vaults = items.visible_vaults(call, _metadata_account(call))
    if call.json:
        keys = ("id", "name", "content_version")
        return output.as_json([{key: vault[key] for key in keys} for vault in vaults])
    return output.table([("ID", "NAME"), *((vault["id"], vault["name"]) for vault in vaults)])


def vault_get(call: Call) -> bytes:
    """Show one vault."""
    query = _only_argument(call)
    vault = items.find_vault(items.visible_vaults(call, auth.sign_in(call)), query)
    if call.json:
        return output.as_json({key: value for key, value in vault.items() if key != "account"})
    return _facts(call, {"ID": vault["id"], "Name": vault["name"]})


def item_list(call: Call) -> bytes:
    """List items without their fields."""
    vaults = items.visible_vaults(call, _metadata_account(call))
    query = call.parsed.flags.get("vault")
    seen = {items.find_vault(vaults, query)["id"]} if query else {vault["id"] for vault in vaults}
    found = [i for i in call.state()["items"] if i["vault"]["id"] in seen and _wanted(call, i)]
    if call.json:
        return output.as_json([items.summary(item) for item in found])
    rows = [(i["id"], i["title"], i["vault"]["name"], i["updated_at"]) for i in found]
    return output.table([("ID", "TITLE", "VAULT", "EDITED"), *rows])


def _wanted(call: Call, item: dict[str, Any]) -> bool:
    flags = call.parsed.flags
    categories = {c.strip().lower().replace(" ", "_") for c in flags.get("categories", "").split(",") if c}
    tags = {tag for tag in flags.get("tags", "").split(",") if tag}
    return (
        (item.get("state") != "ARCHIVED" or _archived(call))
        and (not categories or item["category"].lower() in categories)
        and (not tags or bool(tags & set(item.get("tags", []))))
        and (not call.parsed.on("favorite") or bool(item.get("favorite")))
    )


def _archived(call: Call) -> bool:
    return call.parsed.on("include-archive") or call.env.get("OP_INCLUDE_ARCHIVE") == "true"


def _only_argument(call: Call) -> str:
    if len(call.parsed.args) != 1:
        raise OpError(f"accepts 1 arg(s), received {len(call.parsed.args)}", bare=True)
    return call.parsed.args[0]


def item_get(call: Call) -> bytes:
    """Show one item, or with `-` those whose JSON comes through a pipe."""
    query = _only_argument(call)
    queries = _piped_queries() if query == "-" else [(query, call.parsed.flags.get("vault"))]
    account = auth.sign_in(call)
    vaults = items.visible_vaults(call, account)
    shown = []
    for name, vault_name in queries:
        if vault_name is None and auth.method(call) == "sa" and len(vaults) > 1:
            raise OpError(items.QUERY_NEEDED)
        vault = items.find_vault(vaults, vault_name) if vault_name else None
        item = items.find_item(call, vaults, name, vault, archived=_archived(call))
        items.charge(call, item, by_id=item["id"] == name, cached_cost=0)
        shown.append(items.shown(call, item))
    return b"".join(_render_item(call, item) for item in shown)


def _piped_queries() -> list[tuple[str, str | None]]:
    if not output.is_pipe(0):
        raise OpError(NO_STDIN)
    import json  # noqa: PLC0415  # slow to import

    text, decoder, queries = sys.stdin.read().strip(), json.JSONDecoder(), []
    while text:
        value, end = decoder.raw_decode(text)
        queries += [(i["id"], i.get("vault", {}).get("id")) for i in (value if isinstance(value, list) else [value])]
        text = text[end:].lstrip()
    return queries


def _render_item(call: Call, item: dict[str, Any]) -> bytes:
    flags = call.parsed.flags
    if call.parsed.on("otp"):
        code = next((field["totp"] for field in item["fields"] if "totp" in field), None)
        if code is None:
            raise OpError(f'"{item["title"]}" doesn\'t have a one-time password.')  # the wording is a guess
        return output.raw(f"{code}\n")
    if call.parsed.on("share-link"):
        return output.raw(f"https://start.1password.com/open/i?v={item['vault']['id']}&i={item['id']}\n")
    if "fields" in flags:
        chosen = items.select_fields(item, flags["fields"])
        if call.json:
            return output.as_json(chosen[0] if len(chosen) == 1 else chosen)
        return output.raw(output.csv_line(_masked(call, item, field) for field in chosen))
    return output.as_json(item) if call.json else _for_people(call, item)


def _masked(call: Call, item: dict[str, Any], field: dict[str, Any]) -> str:
    """Return a field's value as people are shown it: concealed unless `--reveal` (since 2.30.0)."""
    value = str(field.get("value", ""))
    hidden = field["type"] in {"CONCEALED", "SSHKEY", "OTP"} and value and not call.parsed.on("reveal")
    return f"[use 'op item get {item['id']} --reveal' to reveal]" if hidden else value


def _for_people(call: Call, item: dict[str, Any]) -> bytes:
    head = {
        "ID": item["id"],
        "Title": item["title"],
        "Vault": f"{item['vault']['name']} ({item['vault']['id']})",
        "Created": item["created_at"],
        "Updated": item["updated_at"],
        "Favorite": str(bool(item.get("favorite"))).lower(),
        "Version": str(item["version"]),
        "Category": item["category"],
    }
    lines = [f"{key + ':':<13}{value}" for key, value in head.items()]
    named = [(field["label"], _masked(call, item, field)) for field in item["fields"] if "value" in field]
    lines += ["Fields:", *(f"  {label + ':':<12} {value}" for label, value in named)]
    return output.raw("\n".join(lines) + "\n")
