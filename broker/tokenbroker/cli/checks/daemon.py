"""The running daemon, by what it says of itself while locked: nothing here can cause a prompt. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tokenbroker.cli.checks import Finding, fault, note, ok, onward
from tokenbroker.cli.text import about, count, span

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenbroker.config import Config
    from tokenbroker.paths import Surroundings

_RELOAD: Final = ", then `broker reload`"
_PERSON: Final = frozenset({"locked", "prompt_dismissed", "prompt_unanswered", "cooling_down"})


def check_status(
    status: dict[str, Any], *, version: str, file: str, config: Config | None, here: Surroundings, now: float
) -> list[Finding]:
    """Judge `GET /v1/status`; `config` is that of `file`, which may not be the one that the daemon runs."""
    same = status["config"] == file
    return [
        _version(status, version, here, now),
        *_configuration(status, file),
        *_hardening(status),
        _vault(status["vault"]),
        *_references(status["vault"], config if same else None),
        *_tokens(status["tokens"]),
    ]


def restart_command(here: Surroundings) -> str:
    """Return the command that starts the daemon anew."""
    if here.platform == "darwin":
        return f"launchctl kickstart -k gui/{here.uid}/tokenbroker"
    return "systemctl --user restart tokenbroker, or end `broker serve` and start it again"


def _version(status: dict[str, Any], version: str, here: Surroundings, now: float) -> Finding:
    who = f"daemon, pid {status['pid']}, version {status['version']}"
    if status["version"] != version:
        return fault("daemon", f"{who}: this command is version {version}", restart_command(here))
    return ok("daemon", f"{who}, running for {span(now - status['started_at'])}")


def _configuration(status: dict[str, Any], file: str) -> Iterator[Finding]:
    if status.get("config_error"):
        problem = status["config_error"]
        message = f"the daemon refused the changed configuration and runs the old one: {problem['message']}"
        yield fault("reload", message, onward(problem["hint"], "correct it, then `broker reload`", then=_RELOAD))
    if status["config"] is None:
        yield note("daemon", "the daemon runs on development parts, not on this configuration")
    elif status["config"] != file:
        hint = f"broker doctor --config {status['config']}"
        yield note("daemon", f"the daemon runs another configuration: {status['config']}", hint)


def _hardening(status: dict[str, Any]) -> Iterator[Finding]:
    measures = status.get("hardening")
    if not measures:
        return
    missing = {name: why for name, why in measures.items() if why != "on"}
    for name, why in missing.items():
        yield note("hardening", f"the daemon could not take the measure {name}: {why}")
    if not missing:
        yield ok("hardening", f"the daemon is hardened: {', '.join(measures)}")


def _vault(vault: dict[str, Any]) -> Finding:
    state, backend = vault["state"].replace("_", " "), vault["backend"]
    last = vault["last_error"]
    if vault["state"] == "unlocked":
        return ok("unlock", f"{backend} is unlocked, {count(vault['secrets'], 'secret')} in memory")
    if last is None:
        return note("unlock", f"{backend} is {state}; the next interactive program causes one prompt", "broker unlock")
    message = f"{backend} is {state}; last: {last['message']}"
    if last["code"] in _PERSON:
        return note("unlock", message, "broker unlock")
    return fault("unlock", message, onward(last["hint"], "broker unlock", then=_RELOAD))


def _references(vault: dict[str, Any], config: Config | None) -> Iterator[Finding]:
    """Say of each reference whether it was read; a reference is not secret."""
    failures = vault["failures"]
    for reference, problem in failures.items():
        hint = onward(problem["hint"], "broker unlock", then=_RELOAD)
        yield fault("reference", f"not read: {about(reference, problem['message'])}", hint)
    state = "read" if vault["state"] == "unlocked" else "not read yet"
    for known in config.refs() if config is not None else ():
        if str(known) not in failures:
            yield ok("reference", f"{known}: {state}")


def _tokens(tokens: list[dict[str, Any]]) -> Iterator[Finding]:
    for token in tokens:
        if token["last_error"] is not None:
            problem = token["last_error"]
            again = f"; tried again in {span(token['retry_in'])}" if token["retry_in"] else ""
            message = f"profile `{token['profile']}`, client `{token['client']}`: {problem['message']}{again}"
            otherwise = "broker unlock" if problem["code"] == "credential_rejected" else "broker status"
            yield fault("token", message, onward(problem["hint"], otherwise, then=_RELOAD))
    live = sum(1 for token in tokens if token["expires_at"] is not None)
    yield ok("token", f"{count(live, 'valid token')} in memory")
