"""The contract of `ports.Vault`, held by every adapter and by the fake."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Protocol

import pytest
from keyring.backend import KeyringBackend

from tests.contract.kits_connect import ConnectKit
from tests.contract.kits_sdk import SdkKit
from tests.contract.kits_service_account import ServiceAccountKit
from tests.fakes_vault import FakeVault
from tests.standins.op_world import OpWorld
from tokenbroker.config import VaultConfig
from tokenbroker.errors import SecretNotFound, VaultError
from tokenbroker.model import Secret, SecretRef
from tokenbroker.vaults.dev import DevVault
from tokenbroker.vaults.keyring import KeyringVault
from tokenbroker.vaults.op.app import OpVault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from tokenbroker.ports import Vault

# Claim → text. What `op inject` strips from values (other control characters) is op's own, and not promised.
TEXTS = {
    "plus": "a+b",
    "percent": "100%2F%",
    "slash": "/a//b/",
    "ampersand": "a&b=c?d#e",
    "space": " lead and trail ",
    "umlaut": "grün ü €",
    "quotes": "\"double\" 'single' `back`",
    "braces": "{{ op://Agents/m2m/username }} {{}} $HOME",
    "backslash": "a\\n\\\\b",
    "newlines": "-----BEGIN KEY-----\nabc\n-----END KEY-----\n",
    "angle": "<0:1><00000000000000000000000000000000:1>",
    "long": "x" * (1 << 20),
}


class Kit(Protocol):
    """How one kind of vault is made and held up."""

    def ref(self, name: str) -> SecretRef:
        """Return the reference under which the secret `name` is, or would be, kept."""
        ...

    def make(self, texts: Mapping[str, str]) -> Vault:
        """Return a vault with these secrets."""
        ...

    async def hold(self) -> None:
        """Make the next read wait for ever; to be called before it."""
        ...

    async def held(self) -> None:
        """Return once a read waits."""
        ...

    async def release(self) -> None:
        """Let later reads go through, and check that the cancelled one left nothing."""
        ...


class FakeKit:
    def ref(self, name: str) -> SecretRef:
        return SecretRef(f"fake://{name}")

    def make(self, texts: Mapping[str, str]) -> FakeVault:
        self.vault = FakeVault({self.ref(name).uri: text for name, text in texts.items()})
        return self.vault

    async def hold(self) -> None:
        self.vault.gate.clear()

    async def held(self) -> None:
        await self.vault.started.wait()

    async def release(self) -> None:
        assert self.vault.running == 0
        self.vault.gate.set()


class DevKit:
    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()

    def ref(self, name: str) -> SecretRef:
        return SecretRef(f"dev://{name}")

    async def _prompt(self) -> bool:
        self.asked.set()
        await self.gate.wait()
        return True

    def make(self, texts: Mapping[str, str]) -> DevVault:
        return DevVault({self.ref(name): Secret(text) for name, text in texts.items()}, prompt=self._prompt)

    async def hold(self) -> None:
        self.gate.clear()

    async def held(self) -> None:
        await self.asked.wait()

    async def release(self) -> None:
        self.gate.set()


class MemoryKeyring(KeyringBackend):
    """A real backend of the library, over a dictionary."""

    priority = -1.0  # the library registers every class; this one it must never pick

    def __init__(self, passwords: Mapping[tuple[str, str], str] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the library has no annotations here
        self.passwords = dict(passwords or {})
        self.gate = threading.Event()
        self.gate.set()
        self.asked = threading.Event()

    def get_password(self, service: str, username: str) -> str | None:
        self.asked.set()
        self.gate.wait(10)
        return self.passwords.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.passwords[service, username] = password


class KeyringKit:
    def ref(self, name: str) -> SecretRef:
        return SecretRef(f"keyring://token%2Fbroker%20%C3%BC/{name}")

    def make(self, texts: Mapping[str, str]) -> KeyringVault:
        self.backend = MemoryKeyring({("token/broker ü", name): text for name, text in texts.items()})
        return KeyringVault(backend=self.backend, allow=lambda backend: isinstance(backend, MemoryKeyring))

    async def hold(self) -> None:
        self.backend.gate.clear()

    async def held(self) -> None:
        await asyncio.to_thread(self.backend.asked.wait, 10)

    async def release(self) -> None:
        self.backend.gate.set()
        for thread in threading.enumerate():
            if thread.name == "keyring":
                await asyncio.to_thread(thread.join, 10)


class OpKit:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.world = OpWorld.create(folder)
        self.world.set(latency="none", time_scale=0.001)

    def ref(self, name: str) -> SecretRef:
        return SecretRef(f"op://Agents/m2m/{name}")

    def make(self, texts: Mapping[str, str]) -> OpVault:
        self.world.add_item("Agents", "m2m", {"username": "me", **texts})
        program = self.world.install(self.folder / "bin")
        return OpVault(VaultConfig(op=str(program)), environ=os.environ, home=self.folder)

    async def hold(self) -> None:
        self.world.person("hang")

    async def held(self) -> None:
        await asyncio.to_thread(self.world.wait_until, OpWorld.dialog_open)

    async def release(self) -> None:
        assert {call.outcome for call in self.world.calls()} == {"killed"}
        self.world.answer("dismiss")  # the person closes the dialog that nobody waits for
        self.world.person("approve")


@pytest.fixture(params=["fake", "dev", "keyring", "op", "service-account", "sdk", "connect"])
def kit(request: pytest.FixtureRequest, tmp_path: Path) -> Kit:
    """Give each kind of vault in turn."""
    makers: dict[str, Callable[[], Kit]] = {
        "fake": FakeKit, "dev": DevKit, "keyring": KeyringKit, "op": lambda: OpKit(tmp_path),
        "sdk": lambda: SdkKit(tmp_path), "connect": ConnectKit, "service-account": lambda: ServiceAccountKit(tmp_path),
    }  # fmt: skip
    return makers[request.param]()


@pytest.fixture
async def vault(kit: Kit) -> AsyncIterator[Vault]:
    """Give a vault with every text in it."""
    made = kit.make(TEXTS)
    yield made
    await made.close()


async def test_every_text_comes_back_byte_for_byte(kit: Kit, vault: Vault) -> None:
    """All secrets are read at once, and none is trimmed, decoded, expanded or cut."""
    refs = {name: kit.ref(name) for name in TEXTS}
    found = await vault.read(list(refs.values()))
    shown = {name: value.reveal() if isinstance(value, Secret) else value for name, value in
             ((name, found[ref]) for name, ref in refs.items())}  # fmt: skip
    assert shown == TEXTS


async def test_missing_reference_has_its_error_and_spoils_no_other(kit: Kit, vault: Vault) -> None:
    good, missing = kit.ref("plus"), kit.ref("nowhere")
    found = await vault.read([missing, good])
    assert found[good] == Secret("a+b")
    assert isinstance(found[missing], SecretNotFound)
    assert set(found) == {good, missing}


async def test_error_of_a_reference_names_it_and_a_next_step(kit: Kit, vault: Vault) -> None:
    missing = kit.ref("nowhere")
    error = (await vault.read([missing]))[missing]
    assert isinstance(error, VaultError)
    assert missing.uri in error.message
    assert error.hint
    assert not error.message.endswith(".")


async def test_reference_of_another_vault_is_not_found(vault: Vault) -> None:
    foreign = SecretRef("elsewhere://a/b/c/d/e/f")
    assert isinstance((await vault.read([foreign]))[foreign], SecretNotFound)


async def test_reading_nothing_gives_nothing(vault: Vault) -> None:
    assert await vault.read([]) == {}


async def test_repeated_reference_is_read_once(kit: Kit, vault: Vault) -> None:
    assert await vault.read([kit.ref("plus"), kit.ref("plus")], fresh=True) == {kit.ref("plus"): Secret("a+b")}


async def test_cancelled_read_ends_what_it_started_and_the_next_one_works(kit: Kit, vault: Vault) -> None:
    await kit.hold()
    reading = asyncio.create_task(vault.read([kit.ref("plus")]))
    await kit.held()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await kit.release()
    assert await vault.read([kit.ref("space")]) == {kit.ref("space"): Secret(TEXTS["space"])}


async def test_closing_twice_does_no_harm(kit: Kit, vault: Vault) -> None:
    await vault.read([kit.ref("plus")])
    await vault.close()
    await vault.close()


async def test_closing_before_any_read_does_no_harm(vault: Vault) -> None:
    await vault.close()


async def test_vault_has_a_name_and_says_whether_it_may_prompt(vault: Vault) -> None:
    assert vault.name in {"fake", "dev", "keyring", "op", "service-account", "sdk", "connect"}
    assert vault.may_prompt is (vault.name not in {"connect", "service-account"})


async def test_repr_of_an_answer_shows_no_secret(kit: Kit, vault: Vault) -> None:
    assert "a+b" not in repr(await vault.read([kit.ref("plus")]))
