"""The configuration file: TOML text to `Config`, or a `ConfigError` that names file, line, key and the next step.

A wrong file is refused whole. Of several faults the first in the file is told. `parse` is pure; `load` reads a file.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tokenbroker.config import Config, RuleConfig, UnlockConfig, VaultConfig, sections
from tokenbroker.config.clients import Surroundings, client
from tokenbroker.config.fields import Problem, check_name, expected, inside, kind, path_text, unknown_key
from tokenbroker.config.issuers import issuer
from tokenbroker.config.profiles import check_cycles, profile
from tokenbroker.config.toml_lines import TomlLines
from tokenbroker.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path
    from types import TracebackType

    T = TypeVar("T")

VERSION: Final = 1
MAX_SIZE: Final = 1024 * 1024  # bytes; a large team's file has some tens of thousands
_TABLES: Final = ("version", "vault", "unlock", "issuers", "clients", "profiles", "rules")
_TOML_POSITION: Final = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
_TOML_NAMES: Final = re.compile(r" \(.*\)|(?<=key) '.*'|(?<=key) \".*\"", re.DOTALL)


def load(path: Path, *, allow_dev: bool = False) -> Config:
    """Read and parse the file at `path`. Raises `ConfigError`, also when it cannot be read."""
    try:
        data = _read(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file", hint="write a first configuration with `broker init`") from None
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno).lower() if isinstance(error, OSError) and error.errno else str(error)
        raise ConfigError(f"{path}: cannot be read: {reason}", hint="check it with `broker doctor`") from None
    if len(data) > MAX_SIZE:
        raise _too_large(str(path))
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path} line {line}: expected UTF-8, found other bytes", hint="save it as UTF-8") from None
    return parse(text, path, allow_dev=allow_dev)


def parse(text: str, path: Path | None = None, *, allow_dev: bool = False) -> Config:
    """Parse `text`; `path` is for messages and for `Config.path`. Raises `ConfigError` and nothing else."""
    name = "config.toml" if path is None else str(path)
    if len(text) > MAX_SIZE:
        raise _too_large(name)
    document = _toml(text, name)
    lines = TomlLines(text)
    faults = _Faults()
    # Another version may mean anything by the rest, so nothing else is said of such a file.
    with faults:
        _check_version(document)
    config = Config() if faults.found else _config(document, path, lines, faults, allow_dev=allow_dev)
    if faults.found:
        first = min(faults.found, key=lambda problem: lines.line(problem.at))
        where = f"{name} line {lines.line(first.at)}: {path_text(first.at)}"
        raise ConfigError(f"{where}: {first.text}", hint=first.hint or "correct it, then run `broker doctor`")
    return config


class _Faults:
    """Collects what is wrong: a problem raised in a `with` block of it ends that block, and the work goes on."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def __enter__(self) -> None:
        """Begin a block."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Keep a problem; let anything else through."""
        if not isinstance(error, Problem):
            return False
        self.found.append(error)
        return True


def _config(
    document: dict[str, Any], path: Path | None, lines: TomlLines, faults: _Faults, *, allow_dev: bool
) -> Config:
    """Parse every table, adding what is wrong to `faults`; the value is of use only when nothing was."""
    for key in document:
        if key not in _TABLES:
            with faults, inside(key):
                raise unknown_key(key, _TABLES)
    vault: VaultConfig | None = None
    autonomous: VaultConfig | None = None
    with faults, inside("vault"):
        vault, autonomous = sections.vault(document.get("vault", {}), allow_dev=allow_dev)
    unlock = UnlockConfig()
    with faults, inside("unlock"):
        unlock = sections.unlock(document.get("unlock", {}))
    issuers = _each(document, "issuers", issuer, faults)
    around = Surroundings(
        backend=vault.backend if vault is not None else None,
        autonomous_backend=(autonomous or vault).backend if vault is not None else None,
        issuer_names=_names(document, "issuers"),
        client_names=_names(document, "clients"),
        profile_names=_names(document, "profiles"),
        issuers=issuers,
    )
    clients = _each(document, "clients", lambda name, value: client(name, value, around), faults)
    profiles = _each(document, "profiles", lambda name, value: profile(name, value, around, clients), faults)
    with faults:
        check_cycles(profiles, clients)
    rules = _rules(document, around.profile_names, lines, faults)
    return Config(path, vault or VaultConfig(), unlock, issuers, clients, profiles, rules, autonomous)


def _each(document: dict[str, Any], key: str, parse_one: Callable[[str, object], T], faults: _Faults) -> dict[str, T]:
    """Parse each table of `[key.NAME]`; one that is wrong is left out."""
    found: dict[str, T] = {}
    tables = document.get(key, {})
    if not isinstance(tables, dict):
        with faults, inside(key):
            raise expected(f"tables such as [{key}.main]", kind(tables))
        return found
    for name, value in tables.items():
        with faults, inside(key, name):
            check_name(name)
            found[name] = parse_one(name, value)
    return found


def _rules(
    document: dict[str, Any], profile_names: Collection[str], lines: TomlLines, faults: _Faults
) -> tuple[RuleConfig, ...]:
    found: list[RuleConfig] = []
    values = document.get("rules", [])
    if not isinstance(values, list):
        with faults, inside("rules"):
            raise expected("a list of tables, each beginning with [[rules]]", kind(values))
        return ()
    for index, value in enumerate(values):
        with faults, inside("rules", index):
            found.append(sections.rule(value, profile_names, lines.line(("rules", index))))
    return tuple(found)


def _names(document: dict[str, Any], key: str) -> Collection[str]:
    tables = document.get(key, {})
    return tables.keys() if isinstance(tables, dict) else ()


def _check_version(document: dict[str, Any]) -> None:
    with inside("version"):
        if "version" not in document:
            raise Problem("required, and not there", hint=f"add `version = {VERSION}` as the first line")
        found = document["version"]
        if isinstance(found, bool) or not isinstance(found, int):
            raise expected(str(VERSION), kind(found), hint=f"write `version = {VERSION}`")
        if found != VERSION:
            newer = found > VERSION
            raise Problem(
                f"this broker supports version {VERSION}, found {'a newer one' if newer else 'another number'}",
                hint="update tokenbroker" if newer else f"write `version = {VERSION}`",
            )


def _toml(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        position = _TOML_POSITION.search(message)
        line = position[1] if position and position[1] else text.count("\n") + 1
        # A name in the message can be a value that lost its quotes; the line says enough.
        what = _TOML_NAMES.sub("", _TOML_POSITION.sub("", message))
        raise ConfigError(
            f"{name} line {line}: not TOML: {what[:1].lower()}{what[1:]}",
            hint="strings stand in double quotes; correct it, then run `broker doctor`",
        ) from None
    except (RecursionError, ValueError):
        # Nesting without end, and numbers of thousands of digits; tomllib gives no position for either.
        raise ConfigError(
            f"{name}: not TOML that can be read: a value is too deep or too long", hint="run `broker doctor`"
        ) from None


def _read(path: Path) -> bytes:
    """Read at most one byte more than is allowed. A FIFO or device is refused before it can make anyone wait."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:  # noqa: PTH123  # a descriptor has no path
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("not a regular file")
        _refuse_unsafe(path, found, os.getuid())
        return file.read(MAX_SIZE + 1)


def _refuse_unsafe(path: Path, found: os.stat_result, uid: int) -> None:
    """Raise for a file that somebody else may have written: it says where secrets are sent, and what runs as `op`.

    Root may use a file of any user, as in a container that a folder is mounted into.
    """
    if uid != 0 and found.st_uid not in {0, uid}:
        raise ConfigError(f"{path}: belongs to another user (uid {found.st_uid})", hint=f"ls -l {path}")
    if found.st_mode & stat.S_IWOTH:
        raise ConfigError(f"{path}: can be written by every user", hint=f"chmod o-w {path}")


def _too_large(name: str) -> ConfigError:
    return ConfigError(f"{name}: expected at most 1 MiB, found more", hint="check which file BROKER_CONFIG names")
