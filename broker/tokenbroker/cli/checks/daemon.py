"""The running daemon, by what it says of itself while locked: nothing here can cause a prompt. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tokenbroker.cli.checks import Finding, fault, note, ok, onward
from tokenbroker.cli.text import about, count, span
from tokenbroker.config.sections import PROMPTLESS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tokenbroker.config import Config
    from tokenbroker.model import SecretRef
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
        *_vaults(status, config if same else None),
        *_desk(status.get("desk", {})),
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


def _vaults(status: dict[str, Any], config: Config | None) -> Iterator[Finding]:
    """Judge the person's vault, and that of autonomous clients where they have one."""
    for name, autonomous in (("vault", False), ("autonomous_vault", True)):
        vault = status.get(name)
        if vault is not None:
            yield _vault(vault, "for autonomous clients, " if autonomous else "")
            yield from _references(vault, config.refs(autonomous=autonomous) if config is not None else ())


def _vault(vault: dict[str, Any], whose: str) -> Finding:
    state, backend = vault["state"].replace("_", " "), f"{whose}{vault['backend']}"
    last = vault["last_error"]
    if vault["state"] == "unlocked":
        return ok("unlock", f"{backend} is unlocked, {count(vault['secrets'], 'secret')} in memory")
    if last is None:
        asks = vault["backend"] not in PROMPTLESS
        then = "the next interactive program causes one prompt" if asks else "the next program opens it, asking nobody"
        return note("unlock", f"{backend} is {state}; {then}", "broker unlock")
    message = f"{backend} is {state}; last: {last['message']}"
    if last["code"] in _PERSON:
        return note("unlock", message, "broker unlock")
    return fault("unlock", message, onward(last["hint"], "broker unlock", then=_RELOAD))


def _references(vault: dict[str, Any], references: Iterable[SecretRef]) -> Iterator[Finding]:
    """Say of each reference whether it was read; a reference is not secret."""
    failures = vault["failures"]
    for reference, problem in failures.items():
        hint = onward(problem["hint"], "broker unlock", then=_RELOAD)
        yield fault("reference", f"not read: {about(reference, problem['message'])}", hint)
    state = "read" if vault["state"] == "unlocked" else "not read yet"
    for known in references:
        if str(known) not in failures:
            yield ok("reference", f"{known}: {state}")


def _desk(desk: dict[str, Any]) -> Iterator[Finding]:
    """Say which events that are to lock the vault go unnoticed."""
    for event, one in desk.items():
        words = event.replace("_", " ")
        if one["followed"]:
            yield ok("desk", f"locks on {words}")
        elif one["does"] == "lock" and event != "vault_lock":
            yield note("desk", f"{words} is to lock the vault and is not noticed: {one['why']}")


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
