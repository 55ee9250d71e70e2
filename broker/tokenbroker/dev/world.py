"""Everything that a broker needs around it, in one process: issuer, API, clients, secrets and a configuration."""

from __future__ import annotations

import secrets
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenbroker.config import (
    ClientConfig,
    Config,
    IssuerConfig,
    PeerPattern,
    ProfileConfig,
    RuleConfig,
    VaultConfig,
)
from tokenbroker.errors import ConfigError
from tokenbroker.model import AgentType, Secret, SecretRef

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from tokenbroker.dev.api import DevApi
    from tokenbroker.dev.issuer import DevIssuer

OWNER = "developer@example.com"
SCOPES = {
    AgentType.INTERACTIVE: frozenset({"search:read", "billing:read"}),
    AgentType.AUTONOMOUS: frozenset({"search:read"}),
}
"""What the issuer lets each client have, whatever the broker's rules say."""
GRANTS = {AgentType.INTERACTIVE: ("/search", "/billing"), AgentType.AUTONOMOUS: ("/search",)}
"""Which paths the API opens to each client, whatever scopes its token has."""
AUTH = {AgentType.INTERACTIVE: "client_secret_post", AgentType.AUTONOMOUS: "client_secret_basic"}


@dataclass(frozen=True, slots=True)
class DevWorld:
    """A running issuer and API, and what a broker must be given to work with them."""

    issuer: DevIssuer
    api: DevApi
    config: Config
    """Vault backend `dev`; clients `dev-interactive` and `dev-autonomous`; profiles `search` and `billing`."""
    secrets: Mapping[SecretRef, Secret]
    """What the development vault holds."""

    @classmethod
    @asynccontextmanager
    async def start(cls, *, lifetime: int = 300, owner: str = OWNER) -> AsyncIterator[DevWorld]:
        """Run it all on loopback; tokens live `lifetime` seconds. Raises `ConfigError` if a part is not installed."""
        try:
            from tokenbroker.dev.api import DevApi  # noqa: PLC0415  # authlib and aiohttp load when they are needed
            from tokenbroker.dev.authorization import DevClient  # noqa: PLC0415
            from tokenbroker.dev.issuer import DevIssuer  # noqa: PLC0415
        except ImportError as error:
            raise ConfigError(
                f"the development parts are not installed: {error.name} is missing",
                hint="install them with `pip install 'tokenbroker[dev-issuer]'`",
            ) from None
        vault: dict[SecretRef, Secret] = {}
        names = {agent_type: f"dev-{agent_type}-{secrets.token_hex(4)}" for agent_type in SCOPES}
        grants = [(names[agent_type], path) for agent_type, paths in GRANTS.items() for path in paths]
        async with (
            DevIssuer.start(lifetime=lifetime) as issuer,
            DevApi.start(issuer=issuer.url, jwks_uri=issuer.jwks_uri, grants=grants) as api,
        ):
            for agent_type, scopes in SCOPES.items():
                client_id, secret = names[agent_type], Secret(secrets.token_urlsafe(32))
                issuer.register(DevClient(client_id, secret, owner, agent_type, {api.url: scopes}))
                vault[_ref(agent_type, "client_id")] = Secret(client_id)
                vault[_ref(agent_type, "client_secret")] = secret
            yield cls(issuer, api, _config(issuer.url, api.url, owner), vault)


def _ref(agent_type: AgentType, field: str) -> SecretRef:
    return SecretRef(f"dev://agents/{agent_type}/{field}")


def _config(issuer: str, audience: str, owner: str) -> Config:
    clients = (_client(agent_type, owner) for agent_type in SCOPES)
    both = tuple(f"dev-{agent_type}" for agent_type in SCOPES)
    profiles = (
        ProfileConfig("search", both, audience=audience, scopes=("search:read",)),
        ProfileConfig("billing", ("dev-interactive",), audience=audience, scopes=("billing:read",)),
    )
    return Config(
        vault=VaultConfig(backend="dev"),
        issuers={"development": IssuerConfig("development", url=issuer)},
        clients={client.name: client for client in clients},
        profiles={profile.name: profile for profile in profiles},
        rules=(
            RuleConfig("billing", "deny", PeerPattern(agent_type=AgentType.AUTONOMOUS)),
            RuleConfig("*", "allow"),
        ),
    )


def _client(agent_type: AgentType, owner: str) -> ClientConfig:
    return ClientConfig(
        name=f"dev-{agent_type}",
        issuer="development",
        agent_type=agent_type,
        owner=owner,
        client_id=_ref(agent_type, "client_id"),
        client_secret=_ref(agent_type, "client_secret"),
        auth=AUTH[agent_type],
    )
