"""The place where secrets are kept: is its program there and fit? Nothing is read from it, so nobody is asked."""

from __future__ import annotations

import grp
import os
import stat
from typing import TYPE_CHECKING, Final

from tokenbroker.cli.checks import Finding, fault, fault_of, note, ok
from tokenbroker.errors import VaultError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tokenbroker.config import Config
    from tokenbroker.paths import Surroundings

OP_GROUP: Final = "onepassword-cli"  # contract onepassword.md 2: on Linux the app refuses an `op` without it


async def check_vault(config: Config, here: Surroundings) -> list[Finding]:
    """Look at what `[vault] backend` needs on this machine."""
    return await _op(config, here) if config.vault.backend == "op" else _keyring()


async def _op(config: Config, here: Surroundings) -> list[Finding]:
    from tokenbroker.vaults.op import OpVault  # noqa: PLC0415  # one backend is loaded, not both
    from tokenbroker.vaults.op_program import find_op  # noqa: PLC0415

    vault = OpVault(config.vault, environ=here.environ, home=here.home)
    try:
        path = find_op(config.vault.op, here.environ, here.home)
        version = await vault.probe()
    except VaultError as error:
        return [fault_of("vault", error, otherwise="op --version")]
    finally:
        await vault.close()
    return [_version(version, path), *_fit(path, configured=config.vault.op is not None, here=here)]


def _version(version: str, path: Path) -> Finding:
    if version.partition(".")[0] in {"0", "1"}:
        return fault(
            "vault",
            f"1Password CLI {version} at {path} is too old; 2 or newer is needed",
            "update it as https://developer.1password.com/docs/cli/get-started says",
        )
    return ok("vault", f"1Password CLI {version} at {path}")


def _fit(path: Path, *, configured: bool, here: Surroundings) -> Iterator[Finding]:
    if not configured and str(path.parent) not in here.environ.get("PATH", "").split(os.pathsep):
        yield note("vault", f"{path.parent} is not on PATH; the broker finds `op` there all the same")
    if here.platform == "linux":
        found = path.resolve().stat()
        group = group_name(found.st_gid)
        if not found.st_mode & stat.S_ISGID or group != OP_GROUP:
            yield note(
                "vault",
                f"{path.resolve()} is not setgid {OP_GROUP}, without which the 1Password app refuses it",
                f"sudo chgrp {OP_GROUP} {path.resolve()} && sudo chmod g+s {path.resolve()}",
            )


def group_name(gid: int) -> str | None:
    """Return a group's name; `None` when it has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return None


def _keyring() -> list[Finding]:
    from keyring import get_keyring  # noqa: PLC0415  # heavy, and only for those who use it

    from tokenbroker.vaults.keyring import full_name, is_allowed  # noqa: PLC0415

    try:
        backend = get_keyring()
        name, allowed = full_name(backend), is_allowed(backend)
    except Exception as error:  # noqa: BLE001  # backends raise D-Bus errors and others of their own
        return [fault("vault", f"the keyring cannot be used: {type(error).__name__}", "keyring diagnose")]
    if allowed:
        return [ok("vault", f"keyring backend {name}")]
    return [
        fault(
            "vault",
            f"keyring backend {name} is not one that keeps secrets encrypted, and is not used",
            "run `keyring --list-backends`, then set PYTHON_KEYRING_BACKEND to the system's own for the daemon",
        )
    ]
