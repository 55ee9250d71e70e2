"""The verbs that look: status and sessions. They never prompt and never show a token."""

from __future__ import annotations

import json
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from tokenbroker.cli.admin import ask
from tokenbroker.cli.text import about, count, span, table
from tokenbroker.config.sections import PROMPTLESS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from tokenbroker.paths import Surroundings

WATCH_INTERVAL: Final = 1.0  # seconds between two looks
ENDED_SHOWN: Final = 10  # sessions; a loop of one-shot programs leaves hundreds
_CLEAR: Final = "\033[H\033[J"  # ECMA-48: cursor home, erase to the end


def status(arguments: argparse.Namespace, here: Surroundings) -> int:
    """Print the state of the daemon, the vault and the tokens."""
    state = ask(arguments, here, "GET", "/v1/status")
    print(json.dumps(state, indent=2) if arguments.json else status_text(state, time.time()))
    return 0


def sessions(arguments: argparse.Namespace, here: Surroundings) -> int:
    """Print who is using what; with --watch until Ctrl-C."""
    if not arguments.watch:
        found = ask(arguments, here, "GET", "/v1/sessions")
        print(json.dumps(found, indent=2) if arguments.json else sessions_text(found, time.time()))
        return 0
    while True:
        found = ask(arguments, here, "GET", "/v1/sessions")
        if arguments.json:
            print(json.dumps(found), flush=True)
        elif sys.stdout.isatty():
            width = shutil.get_terminal_size().columns
            print(_CLEAR + sessions_text(found, time.time(), width=width), flush=True)
        else:
            print(sessions_text(found, time.time()), end="\n\n", flush=True)
        time.sleep(WATCH_INTERVAL)


def status_text(state: dict[str, Any], now: float) -> str:
    """Lay out `GET /v1/status` for a person."""
    lines = [
        f"broker   running for {span(now - state['started_at'])}, pid {state['pid']}, version {state['version']}",
        f"config   {state['config'] or 'development parts, nothing real'}: {count(state['profiles'], 'profile')}",
        *_vault_lines("vault   ", state["vault"], now),
        *(_vault_lines("cron    ", state["autonomous_vault"], now) if state["autonomous_vault"] else []),
        *_desk_lines(state["desk"]),
        *_issuer_lines(state["issuers"], now),
    ]
    if state["last_lock"]:
        lines.append(f"locked   {_lock_line(state['last_lock'], now)}")
    if state["config_error"]:
        lines.append(f"refused  {state['config_error']['message']}: mend it, then `broker reload`")
    if not state["tokens"]:
        return "\n".join([*lines, "tokens   none"])
    rows = [
        (t["profile"], t["client"], t["agent_type"] or "?", _left(t, now), t["source"] or "-", _trouble(t))
        for t in state["tokens"]
    ]
    head = ("PROFILE", "CLIENT", "AGENT TYPE", "LEFT", "SOURCE", "LAST ERROR")
    return "\n".join([*lines, "", table(head, rows), *_bound_lines(state["tokens"])])


def sessions_text(found: dict[str, Any], now: float, *, width: int | None = None) -> str:
    """Lay out `GET /v1/sessions` for a person."""
    if not found["sessions"]:
        return "no program has asked for a token yet"
    shown, left_out = _shown(found["sessions"])
    rows = []
    for s in shown:
        state = "revoked" if s["revoked"] else "ended" if s["ended_at"] else "runs"
        who = (s["id"], str(s["pid"] or "?"), s["agent_type"], state, span(now - s["started_at"]))
        exe = s["exe"] or "unknown"
        for t in s["tokens"] or [None]:
            held = ("-", "-", "-") if t is None else (t["profile"], span(t["expires_at"] - now), str(t["served"]))
            rows.append((*who, *held, exe))
    head = ("SESSION", "PID", "AGENT TYPE", "STATE", "AGE", "PROFILE", "LEFT", "SERVED", "PROGRAM")
    more = f"\nand {left_out} more that have ended; all of them with --json" if left_out else ""
    return table(head, rows, width=width) + more


def _shown(sessions: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """Return what runs, what is revoked and what ended last, in the order given; and how many are left out."""
    ended = [s for s in sessions if s["ended_at"] and not s["revoked"]]
    old = {s["id"] for s in sorted(ended, key=lambda s: s["ended_at"], reverse=True)[ENDED_SHOWN:]}
    return [s for s in sessions if s["id"] not in old], len(old)


def _vault_lines(head: str, vault: dict[str, Any], now: float) -> Iterator[str]:
    yield f"{head} {_vault_line(vault, now)}"
    for asker in vault["asked_by"]:
        said = f', which says "{asker["claimed_reason"]}"' if asker["claimed_reason"] else ""
        yield f"  asked for {asker['program']}: {asker['wants']}{said}"
    for ref, problem in vault["failures"].items():
        yield f"  not read  {about(ref, problem['message'])}"
    for one in vault["limits"]:
        window = "not begun" if one["resets_at"] is None else f"ends in {span(one['resets_at'] - now)}"
        counted = ", estimated" if one["estimated"] else ""
        what = f"{one['type']} {one['action'].replace('_', '/')}"
        yield f"  {what}: {one['used']} of {one['limit']} used, window {window}{counted}"


def _issuer_lines(issuers: list[dict[str, Any]], now: float) -> Iterator[str]:
    """Say what an issuer lets us have no more of, and which is left alone; one that simply answers is not news."""
    for issuer in issuers:
        if issuer["left_alone"]:
            yield f"issuer   {issuer['name']} is left alone for a while: {issuer['left_alone']['message']}"
        for quota in issuer["quotas"]:
            whose = f"client {quota['client']}" if quota["client"] else f"organization {quota['organization'] or '?'}"
            bucket = quota["bucket"].replace("_", " ")
            left, full = f"{quota['remaining']} of {quota['limit']}", span(quota["resets_at"] - now)
            yield f"quota    {issuer['name']}, {whose}: {left} {bucket} left, full again in {full}"


def _desk_lines(desk: dict[str, Any]) -> Iterator[str]:
    """Say what locks, and which of it cannot be followed; what is kept, and what nobody could follow, is not news."""
    for event, one in desk.items():
        if one["followed"]:
            yield f"desk     locks on {event.replace('_', ' ')}"
        elif one["does"] == "lock" and event != "vault_lock":
            yield f"desk     {event.replace('_', ' ')} is not noticed: {one['why']}"


def _lock_line(lock: dict[str, Any], now: float) -> str:
    forgot = lock["forgot"]
    what = f"{count(forgot['secrets'], 'secret')} and {count(forgot['tokens'], 'token')}"
    return f"{span(now - lock['at'])} ago, {lock['reason']}: forgot {what}"


def _vault_line(vault: dict[str, Any], now: float) -> str:
    text = f"{vault['backend']}: {vault['state'].replace('_', ' ')}"
    if vault["unlocked_at"] is not None:
        text += f" for {span(now - vault['unlocked_at'])}, {count(vault['secrets'], 'secret')} in memory"
    if vault["ends_at"] is not None:
        text += f", ends in {span(vault['ends_at'] - now)}"
    if vault["retry_in"]:
        asks = vault["backend"] not in PROMPTLESS
        pause = "nobody is asked" if asks else "it is not read again"
        text += f", {pause} for {span(vault['retry_in'])}{': open it with `broker unlock`' if asks else ''}"
    if vault["last_error"]:
        text += f"; last: {vault['last_error']['message']}"
    return text


def _bound_lines(tokens: list[dict[str, Any]]) -> Iterator[str]:
    """Name the tokens of which a program that is handed one can make nothing by that alone."""
    needs = {"dpop": "a proof for each request (DPoP)", "certificate": "the client's certificate"}
    for token in tokens:
        if token["bound_to"]:
            yield f"the token of {token['profile']}, client {token['client']}, needs {needs[token['bound_to']]}"


def _left(token: dict[str, Any], now: float) -> str:
    return "none" if token["expires_at"] is None else span(token["expires_at"] - now)


def _trouble(token: dict[str, Any]) -> str:
    if token["fetching"]:
        return "fetching"
    if token["last_error"] is None:
        return "-"
    again = f" (again in {span(token['retry_in'])})" if token["retry_in"] else ""
    return f"{token['last_error']['message']}{again}"
