"""A real `op` stand-in and a configuration for the real daemon that reads from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.standins.op_world import OpWorld

if TYPE_CHECKING:
    from pathlib import Path

CLIENT_ID = "m2m"
CLIENT_SECRET = "what the benchmark's issuer accepts"  # noqa: S105  # made up
OWNER = "owner@example.com"
AUDIENCE = "https://search.example.com"
SCOPE = "search:read"

CONFIG = """\
version = 1
[vault]
backend = "op"
account = "my.1password.com"
op = "{op}"
[issuers.main]
token_endpoint = "{endpoint}"
[clients.mine]
issuer = "main"
agent_type = "interactive"
owner = "{owner}"
client_id = "op://Agents/m2m/username"
client_secret = "op://Agents/m2m/credential"
[clients.mine-cron]
issuer = "main"
agent_type = "autonomous"
owner = "{owner}"
client_id = "op://Agents/m2m/username"
client_secret = "op://Agents/m2m/credential"
[profiles.search]
clients = ["mine", "mine-cron"]
audience = "{audience}"
scopes = ["{scope}"]
[[rules]]
profile = "*"
decide = "allow"
{extra}"""


def vault(place: Path, *, prompt: float = 0.0) -> OpWorld:
    """Make a world whose person approves after `prompt` real seconds and whose `op` is as quick as it can be."""
    world = OpWorld.create(place)
    world.set(time_scale=1.0, latency="none")
    world.person("approve", delay=prompt)
    world.add_item("Agents", "m2m", {"username": CLIENT_ID, "credential": CLIENT_SECRET})
    return world


def configuration(place: Path, world: OpWorld, endpoint: str, *, interactive: bool = True) -> Path:
    """Write a configuration; `interactive`: the benchmark's own processes count as a person's."""
    path = place / "config.toml"
    path.write_text(
        CONFIG.format(
            op=world.install(place / "bin"),
            endpoint=endpoint,
            owner=OWNER,
            audience=AUDIENCE,
            scope=SCOPE,
            extra='treat_as = "interactive"\n' if interactive else "",
        )
    )
    path.chmod(0o600)
    return path
