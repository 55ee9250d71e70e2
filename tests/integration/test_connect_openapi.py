"""Our requests to a Connect server and the stand-in's answers, checked by prism against an OpenAPI document.

`CONNECT_OPENAPI=/path/to/spec.yaml` takes 1Password's own (repository 1Password/connect, docs/openapi), which has no
licence to be copied here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from tests.no_tls import NO_TLS
from tests.standins.connect_server import TOKEN, ConnectServer, status
from tests.standins.prism import Prism, with_base_in_paths
from tokenbroker.config import VaultConfig
from tokenbroker.errors import SecretNotFound, VaultUnavailable
from tokenbroker.model import Secret, SecretRef
from tokenbroker.vaults.connect.vault import ConnectVault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.node, pytest.mark.asyncio(loop_scope="module")]

DOCUMENT = Path(os.environ.get("CONNECT_OPENAPI") or Path(__file__).parents[1] / "standins/connect/openapi.yaml")
TITLE = 'it\'s "a" #1 & 50% /x'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[ConnectServer]:
    """Give a server with one of everything that a document of 1Password's can describe."""
    async with ConnectServer() as made:
        agents = made.add_vault("Agents")
        made.add_vault("Empty", type="PERSONAL")
        fields: list[dict[str, Any]] = [
            {"id": "username", "type": "STRING", "purpose": "USERNAME", "label": "username", "value": "me"},
            {"id": "f1", "type": "CONCEALED", "label": "credential", "value": "v", "section": {"id": "s1"}},
            {"id": "f2", "type": "TOTP", "label": "otp", "value": "SEED", "totp": "123456"},
        ]
        item = made.add_item(agents, "m2m", fields, sections=[{"id": "s1", "label": "Keys"}], tags=["a"])
        made.add_item(agents, TITLE, fields)
        made.add_item(agents, "old", fields, state="ARCHIVED")
        made.add_file(agents, item, "key.pem", b"PEM\n", section={"id": "s1"})
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prism(server: ConnectServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Prism]:
    """Give one prism in front of that server, as it takes a second to start."""
    async with Prism.between(DOCUMENT, server.url, tmp_path_factory.mktemp("prism")) as running:
        yield running


@pytest.fixture
def vault(prism: Prism) -> ConnectVault:
    """Give a vault that reaches the server by prism."""
    return ConnectVault(VaultConfig(backend="connect", url=prism.url, credential="fd://3"), credential=token)


async def token() -> Secret:
    return Secret(TOKEN)


async def test_every_request_and_answer_is_as_the_document_says(
    server: ConnectServer, prism: Prism, vault: ConnectVault
) -> None:
    """Whole: listings, items by title and by id, a file, what is missing, what is archived, health."""
    (agents, *_), (item, odd, old) = server.vaults, next(iter(server.items.values()))
    missing = ["op://Agents/none/x", "op://Agents/abcdefghijklmnopqrstuvwxyz/x", f"op://Agents/{old}/username",
               "op://Empty/m2m/x"]  # fmt: skip
    wanted = {
        "op://Agents/m2m/username": "me",
        "op://agents/M2M/keys/credential": "v",
        "op://Agents/m2m/otp?attribute=otp": "123456",
        "op://Agents/m2m/key.pem": "PEM\n",
        f"op://{agents}/{odd}/username": "me",
        f"op://{agents}/{item}/username": "me",
    }
    found = await vault.read([SecretRef(uri) for uri in (*wanted, *missing)])
    assert {uri: found[SecretRef(uri)] for uri in wanted} == {uri: Secret(value) for uri, value in wanted.items()}
    assert {type(found[SecretRef(uri)]) for uri in missing} == {SecretNotFound}
    assert await vault.probe() == "1.8.1; vaults: 2"
    assert await prism.objections() == []
    assert {path.rpartition("/")[2] for path in server.paths} >= {"vaults", "items", "content", "heartbeat", "health"}


async def test_refusals_have_the_documents_form(server: ConnectServer, prism: Prism) -> None:
    async def another() -> Secret:
        return Secret("another")

    config = VaultConfig(backend="connect", url=prism.url, credential="fd://3")
    with pytest.raises(VaultUnavailable, match="refuses the access token"):
        await ConnectVault(config, credential=another).read([SecretRef("op://Agents/m2m/username")])
    assert await prism.objections() == []


async def test_an_answer_that_is_not_as_the_document_says_is_caught(
    server: ConnectServer, prism: Prism, vault: ConnectVault
) -> None:
    """Else the first test would prove nothing."""
    server.vaults["v" + "0" * 25]["id"] = "short"
    try:
        with pytest.raises(VaultUnavailable):
            await vault.read([SecretRef("op://Agents/m2m/username")])
    finally:
        server.vaults["v" + "0" * 25]["id"] = "v" + "0" * 25
    assert any("#VIOLATIONS" in one for one in await prism.objections())


async def test_a_request_that_is_not_as_the_document_says_is_caught(
    server: ConnectServer, prism: Prism, vault: ConnectVault
) -> None:
    import httpx  # noqa: PLC0415  # for this one

    before = len(server.requests)
    async with httpx.AsyncClient(
        headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False, verify=NO_TLS
    ) as client:
        short = await client.get(f"{prism.url}/v1/vaults/short/items")
        unknown = await client.get(f"{prism.url}/vaults")
        unsigned = await client.get(f"{prism.url}/v1/vaults", headers={"Authorization": ""})
    assert "pattern" in short.text
    assert unknown.status_code == 404
    assert unsigned.status_code == 401
    assert len(server.requests) == before
    assert len(await prism.objections()) == 3


async def test_a_refusal_in_another_form_is_caught(server: ConnectServer, prism: Prism, vault: ConnectVault) -> None:
    server.fail(status(401, message=17), times=1)  # type: ignore[arg-type]  # the fault that is planted
    with pytest.raises(VaultUnavailable):
        await vault.read([SecretRef("op://Agents/m2m/username")])
    assert any("#VIOLATIONS" in one for one in await prism.objections())


async def test_the_base_moves_into_the_paths() -> None:
    """Prism does not look at it, and so would accept requests that lack it."""
    moved = with_base_in_paths(DOCUMENT.read_text())
    assert "\n  /v1/vaults:\n" in moved
    assert "\n  /vaults" not in moved
    assert "\n  /heartbeat:\n" in moved
