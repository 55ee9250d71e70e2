"""The development world: what it gives a broker works together."""

from __future__ import annotations

import sys

import httpx
import pytest

from tests.no_tls import NO_TLS
from tokenbroker.dev.world import DevWorld
from tokenbroker.errors import ConfigError
from tokenbroker.model import AgentType, SecretRef


async def test_every_name_in_the_configuration_is_defined() -> None:
    async with DevWorld.start() as world:
        config = world.config
        assert config.vault.backend == "dev"
        assert set(config.refs()) == set(world.secrets)
        assert all(ref.uri.startswith("dev://") for ref in config.refs())
        assert {client.issuer for client in config.clients.values()} == set(config.issuers)
        assert {name for profile in config.profiles.values() for name in profile.clients} == set(config.clients)


@pytest.mark.parametrize(
    ("client", "path", "status"),
    [
        pytest.param("dev-interactive", "/search", 200, id="interactive searches"),
        pytest.param("dev-interactive", "/billing", 200, id="interactive sees bills"),
        pytest.param("dev-autonomous", "/search", 200, id="autonomous searches"),
        pytest.param("dev-autonomous", "/billing", 403, id="autonomous sees no bills"),
    ],
)
async def test_the_secrets_open_what_the_client_may_have(client: str, path: str, status: int) -> None:
    """Each client gets a token with its secrets from the vault, and the API takes it where it reaches."""
    async with DevWorld.start(lifetime=5) as world, httpx.AsyncClient(trust_env=False, verify=NO_TLS) as http:
        config = world.config.clients[client]
        assert isinstance(config.client_id, SecretRef)
        assert config.client_secret is not None
        form = {
            "grant_type": "client_credentials",
            "audience": world.config.profiles["search"].audience or "",
            "client_id": world.secrets[config.client_id].reveal(),
            "client_secret": world.secrets[config.client_secret].reveal(),
        }
        answer = (await http.post(f"{world.issuer.url}/token", data=form)).json()
        assert answer["expires_in"] == 5
        headers = {"Authorization": f"Bearer {answer['access_token']}"}
        assert (await http.get(world.api.url + path, headers=headers)).status_code == status


async def test_the_api_opens_billing_to_the_interactive_client_alone() -> None:
    """Whatever scopes the issuer puts into the other one's token."""
    async with DevWorld.start() as world, httpx.AsyncClient(trust_env=False, verify=NO_TLS) as http:
        for agent_type, status in (("interactive", 200), ("autonomous", 403)):
            ref = world.config.clients[f"dev-{agent_type}"].client_id
            assert isinstance(ref, SecretRef)
            client = world.issuer.client(world.secrets[ref].reveal())
            assert client is not None
            token = world.issuer.mint(client, world.api.url, "billing:read")["access_token"]
            answer = await http.get(f"{world.api.url}/billing", headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == status
        assert answer.json()["error"] == "access_denied"


async def test_rules_refuse_billing_to_autonomous_peers_first() -> None:
    async with DevWorld.start() as world:
        first, second = world.config.rules
        assert (first.profile, first.decide, first.peer.agent_type) == ("billing", "deny", AgentType.AUTONOMOUS)
        assert (second.profile, second.decide) == ("*", "allow")


async def test_two_worlds_share_nothing() -> None:
    async with DevWorld.start() as one, DevWorld.start() as other:
        assert one.issuer.url != other.issuer.url
        assert not set(one.secrets.values()) & set(other.secrets.values())
        assert "Secret" in repr(one.secrets)


async def test_a_missing_extra_is_said_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("authorization", "issuer"):
        monkeypatch.delitem(sys.modules, f"tokenbroker.dev.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "authlib.oauth2", None)

    with pytest.raises(ConfigError) as caught:
        async with DevWorld.start():
            pass

    assert caught.value.message == "the development parts are not installed: authlib.oauth2 is missing"
    assert "tokenbroker[dev-issuer]" in (caught.value.hint or "")
