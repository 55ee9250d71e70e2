"""How the contract suite of `ports.Vault` makes and holds up a Connect server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.standins.connect_server import TOKEN, ConnectServer
from tokenbroker.config import VaultConfig
from tokenbroker.model import Secret, SecretRef
from tokenbroker.vaults.connect.vault import ConnectVault

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from tokenbroker.errors import VaultError


async def token() -> Secret:
    """Give what the stand-in takes."""
    return Secret(TOKEN)


class ServedVault(ConnectVault):
    """A vault whose server starts with its first read, as making one may not wait, and stops with it."""

    def __init__(self, server: ConnectServer) -> None:
        super().__init__(VaultConfig(backend="connect", url=server.url, credential="fd://3"), credential=token)
        self._server = server

    async def read(
        self, refs: Collection[SecretRef], *, fresh: bool = False
    ) -> Mapping[SecretRef, Secret | VaultError]:
        await self._server.start()
        return await super().read(refs, fresh=fresh)

    async def close(self) -> None:
        await super().close()
        await self._server.stop()


class ConnectKit:
    def __init__(self) -> None:
        self.server = ConnectServer()

    def ref(self, name: str) -> SecretRef:
        return SecretRef(f"op://Agents/m2m/{name}")

    def make(self, texts: Mapping[str, str]) -> ServedVault:
        self.server.add_item(self.server.add_vault("Agents"), "m2m", texts)
        return ServedVault(self.server)

    async def hold(self) -> None:
        self.server.gate.clear()

    async def held(self) -> None:
        await self.server.waiting.wait()

    async def release(self) -> None:
        await asyncio.wait_for(self.server.abandoned.wait(), 5)
        assert self.server.busy == 0
        self.server.gate.set()
