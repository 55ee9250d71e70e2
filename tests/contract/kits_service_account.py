"""How a service account's vault is held to the contract: the real helper process, over the stand-in of `op`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.fakes_clock import FakeClock
from tests.standins.op_things import service_account_token
from tests.standins.op_world import OpWorld
from tokenbroker.config import VaultConfig
from tokenbroker.model import Secret, SecretRef
from tokenbroker.vaults.op.service_account import ServiceAccountVault

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class ServiceAccountKit:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.world = OpWorld.create(folder, mode="sa")
        self.world.set(latency="none", time_scale=0.001)

    def ref(self, name: str) -> SecretRef:
        return SecretRef(f"op://Agents/m2m/{name}")

    async def _token(self) -> Secret:
        return Secret(service_account_token())

    def make(self, texts: Mapping[str, str]) -> ServiceAccountVault:
        self.world.add_item("Agents", "m2m", {"username": "me", **texts})
        config = VaultConfig(backend="service-account", op=str(self.world.install(self.folder / "bin")))
        return ServiceAccountVault(config, environ={}, home=self.folder, credential=self._token, clock=FakeClock())

    async def hold(self) -> None:
        self.world.fault("hang", command="inject", times=None)

    async def held(self) -> None:
        await asyncio.to_thread(self.world.wait_until, lambda w: [c.argv[0] for c in w.calls()][-1:] == ["inject"])

    async def release(self) -> None:
        assert [call.outcome for call in self.world.calls()] == ["ok", "killed"], "the limits, then the read"
        self.world.mend()
