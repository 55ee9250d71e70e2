"""The configuration that most of these tests use, as a new user would write it, and what it refers to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.e2e.rig import API, OWNER, dev_client

if TYPE_CHECKING:
    from tests.standins.op_world import OpWorld
    from tokenbroker.dev.issuer import DevIssuer

SECRET = "s3cr+t%/& =distinctive-interactive"
CRON_SECRET = "s3cr+t%/& =distinctive-autonomous"
SCOPES = "search:read search:write"

_CONFIGURATION = """\
version = 1

[vault]
backend = "op"
account = "my.1password.com"

[issuers.main]
url = "{issuer}"

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
client_id = "op://Agents/m2m-cron/username"
client_secret = "op://Agents/m2m-cron/credential"
auth = "client_secret_basic"

[profiles.search]
clients = ["mine", "mine-cron"]
audience = "{audience}"
scopes = ["search:read"]

[profiles.write]
clients = ["mine"]
resource = "{audience}/write"
scopes = ["search:read", "search:write"]
"""
# A test run has no terminal, and may have an IDE or a CI runner above it: what it counts as is said here.
INTERACTIVE = """
[[rules]]
profile = "*"
decide = "allow"
treat_as = "interactive"
"""
BY_EVIDENCE = """
[[rules]]
profile = "*"
decide = "allow"
"""


def configuration(issuer: str, *more: str, audience: str = API, rules: str = INTERACTIVE) -> str:
    """Return config.toml; `more` are further tables."""
    text = _CONFIGURATION.format(issuer=issuer, owner=OWNER, audience=audience)
    return "\n".join([text, *more, rules])


def fill_vault(op: OpWorld) -> None:
    """Put the two clients' credentials into the vault."""
    op.add_item("Agents", "m2m", {"username": "id-interactive", "credential": SECRET})
    op.add_item("Agents", "m2m-cron", {"username": "id-autonomous", "credential": CRON_SECRET})


def register(issuer: DevIssuer, *, audience: str = API) -> None:
    """Make the two clients known to the issuer."""
    grants = {audience: SCOPES, f"{audience}/write": SCOPES}
    issuer.register(dev_client("id-interactive", SECRET, "interactive", grants))
    issuer.register(dev_client("id-autonomous", CRON_SECRET, "autonomous", {audience: "search:read"}))
