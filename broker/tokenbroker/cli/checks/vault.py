"""The places where secrets are kept: are they there and fit? No secret is read, so nobody is asked."""

from __future__ import annotations

import grp
import os
import stat
from typing import TYPE_CHECKING, Final

from tokenbroker.cli.checks import Finding, State, fault, fault_of, note, ok
from tokenbroker.errors import VaultError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tokenbroker.config import Config, VaultConfig
    from tokenbroker.paths import Surroundings

OP_GROUP: Final = "onepassword-cli"  # contract onepassword.md 2: on Linux the app refuses an `op` without it


async def check_vault(config: Config, here: Surroundings) -> list[Finding]:
    """Look at what the vaults of the configuration need on this machine."""
    found = await _one(config.vault, here)
    return found if config.autonomous_vault is None else [*found, *await _one(config.autonomous_vault, here)]


async def _one(config: VaultConfig, here: Surroundings) -> list[Finding]:
    match config.backend:
        case "keyring":
            return await _probed("keyring", config, here)
        case "op":
            return await _op(config, here)
        case "service-account":
            return [*await _credential(config, here), *await _op(config, here)]
        case "connect":
            return await _connect(config, here)
        case _:
            return await _probed("1Password SDK", config, here)


async def _op(config: VaultConfig, here: Surroundings) -> list[Finding]:
    from tokenbroker.vaults.op.app import OpVault  # noqa: PLC0415  # one backend is loaded, not all
    from tokenbroker.vaults.op.program import find_op  # noqa: PLC0415

    vault = OpVault(config, environ=here.environ, home=here.home)
    try:
        path = find_op(config.op, here.environ, here.home)
        version = await vault.probe()
    except VaultError as error:
        return [fault_of("vault", error, otherwise="op --version")]
    finally:
        await vault.close()
    fit = _fit(path, configured=config.op is not None, here=here, app=config.backend == "op")
    return [_version(version, path), *fit]


async def _credential(config: VaultConfig, here: Surroundings) -> list[Finding]:
    """Say whether the vault's own access token is where it should be, as far as this process can see."""
    from tokenbroker.vaults.credential.sources import CredentialSources  # noqa: PLC0415

    where = config.credential or ""
    if not where.startswith("keyring://"):
        place = "systemd gives it to the service" if where.startswith("systemd://") else "it is handed to the daemon"
        return [note("vault", f"the access token at {where} cannot be seen from here: {place}", "broker status")]
    try:
        await CredentialSources(here.environ, uid=here.uid).source(where)()
    except VaultError as error:
        return [fault_of("vault", error)]
    return [ok("vault", f"the access token is at {where}")]


async def _connect(config: VaultConfig, here: Surroundings) -> list[Finding]:
    found = await _credential(config, here)
    if any(one.state is not State.OK for one in found):
        return found
    return [*found, *await _probed(f"Connect server {config.url}", config, here)]


async def _probed(what: str, config: VaultConfig, here: Surroundings) -> list[Finding]:
    """Ask a backend for its version, which causes no prompt."""
    from tokenbroker.system.clock import SystemClock  # noqa: PLC0415
    from tokenbroker.vaults.factory import VaultFactory  # noqa: PLC0415

    vault = VaultFactory(here.environ, here.home, uid=here.uid, clock=SystemClock()).build(config)
    try:
        return [ok("vault", f"{what}: {await vault.probe()}")]
    except VaultError as error:
        return [fault_of("vault", error)]
    finally:
        await vault.close()


def _version(version: str, path: Path) -> Finding:
    if version.partition(".")[0] in {"0", "1"}:
        return fault(
            "vault",
            f"1Password CLI {version} at {path} is too old; 2 or newer is needed",
            "update it as https://developer.1password.com/docs/cli/get-started says",
        )
    return ok("vault", f"1Password CLI {version} at {path}")


def _fit(path: Path, *, configured: bool, here: Surroundings, app: bool) -> Iterator[Finding]:
    if not configured and str(path.parent) not in here.environ.get("PATH", "").split(os.pathsep):
        yield note("vault", f"{path.parent} is not on PATH; the broker finds `op` there all the same")
    if app and here.platform == "linux":
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
