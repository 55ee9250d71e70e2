"""Whether each reference resolves, found out by reading: the one check that may put a question on the screen.

It is made only when the person says so (`broker doctor --read`), through the daemon where one runs, so that the prompt
is the one prompt, and no value is shown or kept here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenbroker.cli.admin import ask
from tokenbroker.cli.checks import Finding, fault_of, ok
from tokenbroker.cli.text import about
from tokenbroker.errors import BrokerError
from tokenbroker_client.errors import ClientError, NoBroker

if TYPE_CHECKING:
    import argparse

    from tokenbroker.config import Config, VaultConfig
    from tokenbroker.model import SecretRef
    from tokenbroker.paths import Surroundings


async def read_references(arguments: argparse.Namespace, config: Config, here: Surroundings) -> list[Finding]:
    """Have every reference read. What the daemon read stands in its status, which is judged elsewhere."""
    try:
        ask(arguments, here, "POST", "/v1/unlock")
    except NoBroker:
        found = await _read(config.vault, config.refs(autonomous=False), here)
        if config.autonomous_vault is not None:
            found += await _read(config.autonomous_vault, config.refs(autonomous=True), here)
        return found
    except ClientError as error:
        return [fault_of("unlock", error)]
    return []


async def _read(config: VaultConfig, refs: tuple[SecretRef, ...], here: Surroundings) -> list[Finding]:
    from tokenbroker.system.clock import SystemClock  # noqa: PLC0415  # for those who read
    from tokenbroker.system.hardening import harden  # noqa: PLC0415
    from tokenbroker.vaults.factory import VaultFactory  # noqa: PLC0415

    harden(platform=here.platform)  # secrets will be in this process for a moment
    try:
        vault = VaultFactory(here.environ, here.home, uid=here.uid, clock=SystemClock()).build(config)
        try:
            values = await vault.read(refs)
        finally:
            await vault.close()
    except BrokerError as error:
        return [fault_of("unlock", error)]
    return [_resolved(ref, values.get(ref)) for ref in refs]


def _resolved(ref: SecretRef, value: object) -> Finding:
    if isinstance(value, BrokerError):
        told = type(value)(f"not read: {about(str(ref), value.message)}", hint=value.hint)
        return fault_of("reference", told, otherwise=f'op read "{ref}"')
    return ok("reference", f"{ref}: read")
