"""The verbs that act: unlock, lock, revoke, reload."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tokenbroker.cli.admin import ask
from tokenbroker.cli.text import about, count, span

if TYPE_CHECKING:
    import argparse

    from tokenbroker.paths import Surroundings


def unlock(arguments: argparse.Namespace, here: Surroundings) -> int:
    """Open the vault; name every reference that could not be read."""
    answer = ask(arguments, here, "POST", "/v1/unlock")
    vaults = [answer, answer["autonomous_vault"]] if answer.get("autonomous_vault") else [answer]
    return max([_unlocked(vault) for vault in vaults])


def _unlocked(vault: dict[str, Any]) -> int:
    if vault["state"] != "unlocked":
        why = vault["last_error"]["message"] if vault["last_error"] else "see `broker status`"
        print(f"not unlocked: {vault['backend']}: {why}")
        return 1
    print(f"unlocked: {vault['backend']}, {count(vault['secrets'], 'secret')} in memory")
    for ref, problem in vault["failures"].items():
        print(f"  not read: {about(ref, problem['message'])}")
    return 1 if vault["failures"] else 0


def lock(arguments: argparse.Namespace, here: Surroundings) -> int:
    """Forget everything, and say what that was."""
    forgot = ask(arguments, here, "POST", "/v1/lock")["forgot"]
    pending = f"; gave up {count(forgot['pending'], 'thing')} under way" if forgot["pending"] else ""
    print(f"locked: forgot {count(forgot['secrets'], 'secret')} and {count(forgot['tokens'], 'token')}{pending}")
    return 0


def revoke(arguments: argparse.Namespace, here: Surroundings) -> int:
    """Serve something no more, and say what stays valid."""
    if arguments.all:
        which: dict[str, object] = {"all": True}
    elif arguments.profile:
        which = {"profile": arguments.profile}
    else:
        which = {"session": arguments.session}
    revoked = ask(arguments, here, "POST", "/v1/revoke", which)["revoked"]
    print(f"revoked: {_revoked(revoked)}, {count(revoked['tokens'], 'token')}")
    if revoked["at_issuers"] is not None:
        return _at_issuers(revoked["at_issuers"])
    if revoked["tokens"]:
        print("what programs already hold stays valid at the API until it expires")
    return 0


def _at_issuers(told: dict[str, Any]) -> int:
    """Say what the issuers made of it; 1 when one could not be told."""
    if told["revoked"]:
        print(f"taken back by the issuer: {count(told['revoked'], 'token')}; APIs that do not ask it accept them still")
    for number, why in ((told["unsupported"], "the issuer cannot take back"), (told["failed"], "not taken back")):
        if number:
            left = span(told["valid_until"] - time.time())
            print(f"{why}: {count(number, 'token')}, which APIs accept for {left} more at most")
    for problem in told["problems"]:
        print(f"  {problem}")
    return 1 if told["failed"] else 0


def _revoked(what: dict[str, Any]) -> str:
    if "session" in what:
        return f"session {what['session']}"
    return f"profile {what['profile']}" if what["profile"] else "all profiles"


def reload(arguments: argparse.Namespace, here: Surroundings) -> int:
    """Read the configuration again."""
    print(f"reloaded: {count(ask(arguments, here, 'POST', '/v1/reload')['profiles'], 'profile')}")
    return 0
