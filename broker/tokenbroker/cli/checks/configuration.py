"""The configuration file: is it there, ours, valid, and can each profile be had?"""

from __future__ import annotations

import stat
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from tokenbroker.cli.checks import Finding, fault, fault_of, note, ok
from tokenbroker.cli.text import count
from tokenbroker.config import text as config_text
from tokenbroker.errors import ConfigError
from tokenbroker.model import AgentType

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tokenbroker.config import Config, ProfileConfig, RuleConfig

_OTHERS_MAY_WRITE: Final = 0o022
_OTHERS_MAY_READ: Final = 0o044


def check_file(path: Path, uid: int) -> tuple[list[Finding], Config | None]:
    """Read the file at `path`; return what was found, and the configuration if it is valid."""
    private = list(_permissions(path, uid))
    try:
        config = config_text.load(path)
    except ConfigError as error:
        return [fault_of("config", error, otherwise=f"ls -l {path}"), *private], None
    return [ok("config", f"configuration {path}: {contents(config)}"), *private], config


def contents(config: Config) -> str:
    """Count what is in a configuration."""
    parts = (
        (len(config.profiles), "profile"),
        (len(config.clients), "client"),
        (len(config.issuers), "issuer"),
        (len(config.rules), "rule"),
        (len(config.refs()), "secret reference"),
    )
    return ", ".join(count(number, noun) for number, noun in parts)


def check_profiles(config: Config) -> list[Finding]:
    """Say of each profile who can have it, by rules and clients. Pure."""
    if not config.profiles:
        return [note("profile", "there is no profile, so nobody can ask for a token", "add one as [profiles.NAME]")]
    return [_profile(config, profile) for profile in config.profiles.values()]


def minters(config: Config, profile: ProfileConfig) -> dict[AgentType, str]:
    """Return who can have `profile`: agent type to the client that would mint, for some program at least. Pure."""
    found: dict[AgentType, str] = {}
    for agent_type in AgentType:
        for rule in _deciding(config, profile, agent_type):
            if rule.decide == "allow" and (client := _client(config, profile, rule.treat_as or agent_type)):
                found.setdefault(agent_type, client)
    return found


def _profile(config: Config, profile: ProfileConfig) -> Finding:
    check, name = "profile", f"profile `{profile.name}`"
    if not any(rule.profile is not None and fnmatchcase(profile.name, rule.profile) for rule in config.rules):
        return note(
            check,
            f"{name}: no rule matches it, so every program is denied",
            f'add [[rules]] profile = "{profile.name}"',
        )
    found = minters(config, profile)
    served = ", ".join(f"{agent_type} programs by client `{client}`" for agent_type, client in found.items())
    if (rule := _asking(config, profile)) is not None:
        where = f"line {rule.line} of {config.path}" if rule.line and config.path else "its [[rules]]"
        return note(
            check,
            f'{name}: {served or "every program is denied"}; a rule says `decide = "ask"`: this version has nobody to '
            "ask, so it denies",
            f'set decide = "allow" in {where}, then `broker reload`',
        )
    if not found:
        return note(
            check,
            f"{name}: every program is denied: no rule allows it to programs that it has a client for",
            "correct [[rules]] in the configuration, then `broker reload`",
        )
    missing = next((agent_type for agent_type in AgentType if agent_type not in found), None)
    if missing is None:
        return ok(check, f"{name}: {served}")
    return note(check, f"{name}: {served}; {missing} programs are denied", _way(config, profile, missing))


def _asking(config: Config, profile: ProfileConfig) -> RuleConfig | None:
    rules = (rule for agent_type in AgentType for rule in _deciding(config, profile, agent_type))
    return next((rule for rule in rules if rule.decide == "ask"), None)


def _way(config: Config, profile: ProfileConfig, missing: AgentType) -> str:
    """Say what would have to change, if it is not meant so."""
    ruled = any(rule.decide == "allow" for rule in _deciding(config, profile, missing))
    what = f"a client with agent_type {missing}" if ruled else f"a rule that allows {missing} programs"
    return f"if that is not meant, add {what} for [profiles.{profile.name}]"


def _deciding(config: Config, profile: ProfileConfig, agent_type: AgentType) -> Iterator[RuleConfig]:
    """Yield the rules that can decide for programs of `agent_type`, up to the one that decides for all of them."""
    for rule in config.rules:
        if rule.profile is None or not fnmatchcase(profile.name, rule.profile):
            continue
        if rule.peer.agent_type not in {None, agent_type}:
            continue
        yield rule
        if rule.peer.exe is None:
            return


def _client(config: Config, profile: ProfileConfig, agent_type: AgentType) -> str | None:
    return next((name for name in profile.clients if config.clients[name].agent_type is agent_type), None)


def _permissions(path: Path, uid: int) -> Iterator[Finding]:
    """Say who else could write the file, or replace it, and so send the secrets elsewhere."""
    check = "config_permissions"
    try:
        places = [(place, place.stat()) for place in (path, path.resolve().parent)]
    except OSError:
        return  # said already: it cannot be read
    for place, found in places:
        mode = stat.S_IMODE(found.st_mode)
        if found.st_uid not in {0, uid}:
            yield fault(check, f"{place} belongs to uid {found.st_uid}, not to uid {uid}", f"ls -ld {place}")
        elif mode & _OTHERS_MAY_WRITE and not (place != path and mode & stat.S_ISVTX):
            yield fault(check, f"{place} may be changed by others (mode {mode:o})", f"chmod go-w {place}")
        elif place == path and mode & _OTHERS_MAY_READ:
            yield note(check, f"{place} may be read by others (mode {mode:o})", f"chmod 600 {place}")
        elif place == path:
            yield ok(check, f"{place} is private (mode {mode:o})")
