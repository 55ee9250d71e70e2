"""Who is asking: Connect, a service account, the desktop app, a manual session, or nobody (contract §8.1)."""

from __future__ import annotations

from tests.standins.op import output
from tests.standins.op.grants import authorize, grant_key, has_grant, reach_app
from tests.standins.op.output import OpError
from tests.standins.op.state import now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tests.standins.op.call import Call

NOT_SIGNED_IN = "You are not currently signed in. Please run `op signin --help` for instructions"
SESSION_IDLE = 30 * 60  # seconds; "Sessions expire after 30 minutes of inactivity"
NO_ACCOUNTS = """\
No accounts configured for use with 1Password CLI.

* To use the 1Password app integration, see https://developer.1password.com/docs/cli/app-integration
* To add an account manually, run `op account add`.
* To use a service account, see https://developer.1password.com/docs/service-accounts
* To use a Connect server, see https://developer.1password.com/docs/connect

Do you want to add an account manually now? [Y/n] """  # the words of the four bullets are a guess

SA_DELETED = (
    "Authentication: (failed to auth.LookupAuth), Network: (failed to request.DoUnencrypted), Server: (403) "
    "(Forbidden (Service Account Deleted)), The Service Account used in this integration has been deleted."
)
SA_DEVICE = "Signin credentials are not compatible with the provided user auth from server"
SA_UNDECODED = "Validation: (failed to session.DecodeSACredentials), Server: (failed to DecodeSACredentials), "
BASE64URL = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


class PanicError(Exception):
    """Go fell over: status 2 and a trace on stderr."""


def method(call: Call) -> str:
    """Return how this call authenticates: `connect`, `sa`, `app`, `manual`, or `none`."""
    if call.env.get("OP_CONNECT_HOST") and call.env.get("OP_CONNECT_TOKEN"):
        return "connect"
    if call.env.get("OP_SERVICE_ACCOUNT_TOKEN"):
        return "sa"
    state = call.state()
    if state["mode"] in {"none", "sa", "connect"}:
        return "none"
    if _integrated(call, state):
        return "app"
    return "manual"


def _integrated(call: Call, state: dict[str, Any]) -> bool:
    if call.env.get("OP_BIOMETRIC_UNLOCK_ENABLED", "true").lower() == "false" or state["mode"] != "user":
        return False
    skips = call.env.get("OP_LOAD_DESKTOP_APP_SETTINGS") == "false"
    return bool(state["app"]["integration"] and (state["app"]["integration_without_settings"] or not skips))


def sign_in(call: Call) -> dict[str, Any] | None:
    """Authenticate as every command that needs the server does; return the account, if it is a person's.

    Raises `OpError`, or `PanicError` for the build that fell over on a corrupt token.
    """
    how = method(call)
    if how == "connect":
        if not call.state()["connect"]["reachable"]:
            host = call.env["OP_CONNECT_HOST"]
            raise OpError(f'could not retrieve vaults: Get "{host}/v1/vaults": dial tcp: connect: connection refused')
        return None
    if how == "sa":
        check_service_account(call)
        return None
    if how == "none":
        no_accounts(call)
        raise OpError("", init=True)
    account = choose_account(call)
    if how == "app":
        authorize(call, account["account_uuid"])
    else:
        check_session(call, account)
    return account


def choose_account(call: Call, *, init: bool = True) -> dict[str, Any]:
    """Return the account that was asked for, else the last one signed in to, else the only one."""
    state = call.state()
    accounts: list[dict[str, Any]] = state["accounts"]
    wanted = call.option("account", "OP_ACCOUNT")
    if wanted:
        for account in accounts:
            if wanted.lower().rstrip("/").removeprefix("https://") in _names(account):
                return account
        raise OpError(f"no account found for filter {wanted}", init=init)
    for account in accounts:
        if account["account_uuid"] == state["last_signin"] or len(accounts) == 1:
            return account
    if output.is_tty(0):
        output.warn(b"Select account  [Use arrows to move, type to filter]\n")
        call.hang()
    raise OpError("interactive IO not available" if accounts else "no account found for filter ", init=init)


def _names(account: dict[str, Any]) -> set[str]:
    keys = ("url", "user_uuid", "account_uuid", "shorthand")
    return {str(account[key]).lower() for key in keys if account.get(key)}


def no_accounts(call: Call) -> None:
    """Print the offer to add an account; wait for ever where someone could answer it."""
    output.warn(output.raw(NO_ACCOUNTS))
    if output.is_tty(0):
        call.hang()
    output.warn(b"\n")


def check_session(call: Call, account: dict[str, Any]) -> None:
    """Find a manual session's token, and refresh it."""
    candidates = [call.parsed.flags.get("session"), call.env.get("OP_SESSION")]
    names = (account.get("shorthand"), account["user_uuid"], account["account_uuid"])
    candidates += [call.env.get(f"OP_SESSION_{name}") for name in names if name]
    with call.store.change() as state:
        for token in candidates:
            session = state["sessions"].get(token)
            if session is None or session["account"] != account["account_uuid"]:
                continue
            if now(state) - session["used"] > SESSION_IDLE:
                raise OpError("session expired, sign in to create a new session")
            session["used"] = now(state)
            return
    raise OpError(NOT_SIGNED_IN)


def check_service_account(call: Call) -> None:
    """Check the token's form and the account's fate."""
    decode_token(call)
    sa = call.state()["sa"]
    fault = sa["fault"] or sa["refused"].get(call.sa_token_hash)
    if fault:
        raise OpError(SA_DELETED if fault == "deleted" else SA_DEVICE, init=True)
    with call.store.change() as state:
        state["sa"]["authenticated"] = True


def decode_token(call: Call) -> None:
    """Raise unless the service account's token decodes to JSON."""
    token = call.env["OP_SERVICE_ACCOUNT_TOKEN"]
    if not token.startswith("ops_"):
        raise OpError("unrecognized auth type", init=True)
    body = token.removeprefix("ops_").rstrip("=")
    bad = next((i for i, char in enumerate(body) if char not in BASE64URL), None)
    if bad is None and _is_json(body):
        return
    if call.state()["sa"]["generation"] == "2.18":
        raise PanicError
    where = len(body) if bad is None else bad
    raise OpError(f"{SA_UNDECODED}illegal base64 data at input byte {where}", init=True)


def _is_json(body: str) -> bool:
    import base64  # noqa: PLC0415  # only service accounts need these
    import json  # noqa: PLC0415

    try:
        json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except ValueError:
        return False
    return True


def whoami(call: Call) -> dict[str, str]:
    """Return what `op whoami` prints. Never prompts; says little about whether reading would work (§1.2)."""
    how = method(call)
    if how == "sa":
        return _whoami_service_account(call)
    if how == "connect":
        raise OpError("account is not signed in")
    if how == "none":
        raise OpError(f"no account found for filter {call.option('account', 'OP_ACCOUNT')}")
    account = choose_account(call, init=False)
    if how == "app":
        reach_app(call)
        state = call.state()
        key = grant_key(state["tty_policy"], account["account_uuid"], call.id)
        if not (state["app"]["whoami_works"] and has_grant(state, key)):
            raise OpError("account is not signed in")
    else:
        try:
            check_session(call, account)
        except OpError:
            raise OpError("account is not signed in") from None
    return {**account, "url": f"https://{account['url']}/"}


def _whoami_service_account(call: Call) -> dict[str, str]:
    decode_token(call)
    sa = call.state()["sa"]
    if sa["first_call_unauthenticated"] and not sa["authenticated"]:
        raise OpError("service account token set, but not authenticated yet")
    check_service_account(call)
    url = f"https://{(call.state()['accounts'] or [{'url': 'example-account.1password.com'}])[0]['url']}"
    old = {"URL": url, "ServiceAccountType": "SERVICE_ACCOUNT"}
    if sa["generation"] == "2.18":
        return old
    ids = {"user_uuid": "SERVICEACCOUNTUSERUUID0000", "account_uuid": "SERVICEACCOUNTUUID00000000"}
    return {"url": url, **ids, "user_type": "SERVICE_ACCOUNT", **old}
