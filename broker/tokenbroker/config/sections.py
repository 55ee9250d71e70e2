"""The tables `[vault]`, `[unlock]` and `[[rules]]`: a table of TOML to one value of `config`.

What a table refers to is an argument. Each raises `Problem` placed relative to its table. `[issuers]`, `[clients]` and
`[profiles]` have modules of their own.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from tokenbroker.config import PeerPattern, RuleConfig, UnlockConfig, VaultConfig
from tokenbroker.config.fields import (
    Problem,
    boolean,
    choice,
    did_you_mean,
    either,
    expected,
    fields,
    inside,
    kind,
    shown,
    text,
    unknown_key,
)
from tokenbroker.config.values import (
    absolute_path,
    agent_type,
    credential,
    duration,
    duration_or_never,
    otp_pattern,
    service_url,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from tokenbroker.config.fields import Parser

VAULT_KEYS: Final[Mapping[str, Mapping[str, Parser]]] = {
    "op": {"account": text, "op": absolute_path, "prompt_timeout": duration},
    "service-account": {"credential": credential, "op": absolute_path, "timeout": duration},
    "connect": {"url": service_url, "credential": credential, "ca_file": absolute_path, "timeout": duration},
    "sdk": {"account": text, "prompt_timeout": duration},
    "keyring": {"prompt_timeout": duration},
    "dev": {},
}
"""Backend → the keys that mean something to it."""
VAULT_NEEDS: Final = {"service-account": ("credential",), "connect": ("url", "credential"), "sdk": ("account",)}
BACKENDS: Final = tuple(backend for backend in VAULT_KEYS if backend != "dev")
PROMPTLESS: Final = ("service-account", "connect")
"""Backends that never ask a person, so that autonomous programs can use them at any time."""


def vault(value: object, *, allow_dev: bool) -> tuple[VaultConfig, VaultConfig | None]:
    """Parse `[vault]` and, within it, `[vault.autonomous]`."""
    own = {key: item for key, item in value.items() if key != "autonomous"} if isinstance(value, dict) else value
    person = _vault(own, BACKENDS, allow_dev=allow_dev, also={"autonomous"})
    if not isinstance(value, dict) or "autonomous" not in value:
        return person, None
    with inside("autonomous"):
        return person, _vault(value["autonomous"], PROMPTLESS, allow_dev=allow_dev)


def _vault(value: object, backends: tuple[str, ...], *, allow_dev: bool, also: Collection[str] = ()) -> VaultConfig:
    """Parse one vault: which of `backends` it is decides which keys it has."""
    if not isinstance(value, dict):
        raise expected("a table", kind(value))
    with inside("backend"):
        backend = _backend(value.get("backend", backends[0]), backends, allow_dev=allow_dev)
    known: dict[str, Parser] = {"backend": str, **VAULT_KEYS[backend]}
    for key in value:
        if key not in known and any(key in keys for keys in VAULT_KEYS.values()):
            with inside(key):
                raise Problem(f"backend `{backend}` has no such key; it has {either(known)}", hint="remove the line")
        if key not in known:
            with inside(key):
                raise unknown_key(key, [*known, *also])
    return VaultConfig(**fields({"backend": backend, **value}, known, required=VAULT_NEEDS.get(backend, ())))


def _backend(found: object, backends: tuple[str, ...], *, allow_dev: bool) -> str:
    if found == "dev" and not allow_dev:
        raise Problem("backend `dev` works only with `broker serve --dev`", hint="run `broker serve --dev`")
    if found in BACKENDS and found not in backends:
        raise Problem(
            f"backend `{found}` may ask a person, and autonomous programs have none near them",
            hint=f"use {either(backends)}",
        )
    return str(choice(*backends, *(["dev"] if allow_dev else []))(found))


def unlock(value: object) -> UnlockConfig:
    """Parse `[unlock]`."""
    lock = choice("keep", "lock")
    known = {
        "max_age": duration_or_never,
        "idle": duration_or_never,
        "on_sleep": lock,
        "on_screen_lock": lock,
        "on_vault_lock": lock,
        "tokens_on_lock": choice("drop", "keep"),
        "announce": boolean,
    }
    return UnlockConfig(**fields(value, known))


def rule(value: object, profile_names: Collection[str], line: int) -> RuleConfig:
    """Parse one of `[[rules]]`, which stands at `line`."""

    def pattern(glob: object) -> str:
        wanted = text(glob)
        if wanted in profile_names or any(fnmatchcase(name, wanted) for name in profile_names):
            return wanted
        hint = did_you_mean(wanted, profile_names) or "define it as [profiles.NAME], or remove the rule"
        raise expected("the name of a profile or a glob that matches one", shown(wanted), hint=hint)

    known = {
        "profile": pattern,
        "otp": otp_pattern,
        "peer": lambda peer: PeerPattern(**fields(peer, {"exe": _exe, "agent_type": agent_type})),
        "decide": choice("allow", "ask", "deny"),
        "treat_as": agent_type,
    }
    for_otp = isinstance(value, dict) and "otp" in value
    found = fields(value, known, required=("decide",) if for_otp else ("profile", "decide"))
    if for_otp and "profile" in found:
        with inside("otp"):
            raise expected("either `profile` or `otp` in one rule", "both", hint="write two rules")
    return RuleConfig(**{"profile": None, **found}, line=line)


def _exe(value: object) -> str:
    exe = text(value)
    if exe[0] not in "/*?[":
        raise expected(
            "an absolute path or a glob over one",
            "a relative path, which matches nothing",
            hint="begin it with `/` or `*/`",
        )
    return exe
