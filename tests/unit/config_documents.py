"""Configurations that the tests of the parser change one thing in."""

from __future__ import annotations

import pytest

from tokenbroker.config.text import parse
from tokenbroker.errors import ConfigError

EXAMPLE = """\
version = 1

[vault]
backend = "op"                 # op | service-account | connect | sdk | keyring | dev
account = "my.1password.com"
op = "/opt/homebrew/bin/op"

[unlock]
max_age  = "12h"               # then a person is asked again
idle     = "never"             # forget secrets after this long without use
on_sleep = "keep"              # keep | lock
on_vault_lock = "lock"

[issuers.main]
preset = "auth0"
url    = "https://tenant.eu.auth0.com/"
organization = "org_abc"
claims = { owner = "https://example.com/owner" }

[clients.mine]
issuer = "main"
agent_type = "interactive"
owner = "owner@example.com"
client_id     = "op://Agents/m2m-interactive/username"
client_secret = "op://Agents/m2m-interactive/credential"

[clients.mine-cron]
issuer = "main"
agent_type = "autonomous"
owner = "owner@example.com"
client_id  = "op://Agents/m2m-autonomous/username"
private_key = "op://Agents/m2m-autonomous/private key"
auth = "private_key_jwt"

[profiles.search]
clients  = ["mine", "mine-cron"]
audience = "https://search.example.com"
scopes   = ["search:write", "search:read", "search:write"]

[[rules]]
profile = "search"
peer    = { exe = "/usr/bin/python3*", agent_type = "interactive" }
decide  = "ask"

[[rules]]
profile = "sea*"
decide = "allow"
treat_as = "interactive"
"""


def changed(old: str, new: str) -> str:
    """Return the example with one thing changed."""
    assert EXAMPLE.count(old) == 1
    return EXAMPLE.replace(old, new)


def refusal(text: str, *, allow_dev: bool = False) -> ConfigError:
    """Return the error with which `text` is refused."""
    with pytest.raises(ConfigError) as caught:
        parse(text, allow_dev=allow_dev)
    return caught.value


def client(reference: str, *, backend: str = "op") -> str:
    """Return a document whose only reference is this one."""
    return (
        f'version = 1\nvault.backend = "{backend}"\n[issuers.i]\nurl = "https://i.example"\n[clients.c]\nissuer = "i"\n'
        f'agent_type = "autonomous"\nowner = "o"\nclient_id = "literal id"\nclient_secret = "{reference}"\n'
    )
