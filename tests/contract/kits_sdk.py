"""How the vault behind 1Password's SDK is held to the contract: the real SDK, over a stand-in of the app's library."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.standins.sdk_app import SdkApp
from tokenbroker.config import VaultConfig
from tokenbroker.model import SecretRef
from tokenbroker.vaults.sdk.vault import SdkVault

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class SdkKit:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.app = SdkApp(folder / "app")

    def ref(self, name: str) -> SecretRef:
        return SecretRef(f"op://Agents/m2m/{name}")

    def make(self, texts: Mapping[str, str]) -> SdkVault:
        self.app.keep({self.ref(name).uri: text for name, text in texts.items()})
        config = VaultConfig(backend="sdk", account="Example", prompt_timeout=20.0)
        return SdkVault(config, environ={}, home=self.folder, grace=0.2, library=self.app.library)

    async def hold(self) -> None:
        self.app.person("hang")

    async def held(self) -> None:
        await asyncio.to_thread(self.app.wait_for, "prompt hang")

    async def release(self) -> None:
        assert self.app.story() == ["prompt hang"]
        self.app.person("approve")
