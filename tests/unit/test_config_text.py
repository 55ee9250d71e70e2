"""The configuration parser: what it takes, and the exact words in which it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.config_documents import EXAMPLE, changed, refusal
from tokenbroker.config import Config, IssuerConfig, PeerPattern, RuleConfig
from tokenbroker.config.text import parse
from tokenbroker.model import AgentType, SecretRef


def test_the_example_of_the_design_is_understood() -> None:
    """Every part of the documented example arrives where it belongs."""
    config = parse(EXAMPLE, Path("/etc/x.toml"))
    assert config.path == Path("/etc/x.toml")
    assert (config.vault.backend, config.vault.account, config.vault.op) == (
        "op",
        "my.1password.com",
        "/opt/homebrew/bin/op",
    )
    assert (config.unlock.max_age, config.unlock.idle) == (43_200, None)
    issuer = config.issuers["main"]
    assert (issuer.name, issuer.preset, issuer.auth, issuer.organization) == (
        "main",
        "auth0",
        "client_secret_post",
        "org_abc",
    )
    assert issuer.claims == {"org_id": "org_id", "owner": "https://example.com/owner"}  # the first is the preset's
    mine, cron = config.clients["mine"], config.clients["mine-cron"]
    assert mine.client_secret == SecretRef("op://Agents/m2m-interactive/credential")
    assert (mine.agent_type, cron.agent_type, cron.auth) == ("interactive", "autonomous", "private_key_jwt")
    assert len(config.refs()) == 4
    assert config.profiles["search"].scopes == ("search:read", "search:write")
    assert config.rules == (
        RuleConfig("search", "ask", PeerPattern("/usr/bin/python3*", AgentType.INTERACTIVE), line=40),
        RuleConfig("sea*", "allow", treat_as=AgentType.INTERACTIVE, line=45),
    )


def test_the_other_keys_of_an_issuer_are_understood() -> None:
    """Every documented key of an issuer arrives where it belongs."""
    issuer = parse(
        "version = 1\n[issuers.i]\n"
        'token_endpoint = "https://i.example/token?v=2"\nauth = "client_secret_basic"\nbasic_encoding = "raw"\n'
        'default_ttl = "5m"\nmax_ttl = "1h"\ntimeout = 5\nca_file = "/etc/ca.pem"\nproxy = "http://proxy:3128"\n'
        'granted_scopes = "subset"\nextra_params = { dialect = "rfc9068" }\n'
    ).issuers["i"]
    assert issuer == IssuerConfig(
        name="i",
        token_endpoint="https://i.example/token?v=2",
        auth="client_secret_basic",
        basic_encoding="raw",
        default_ttl=300,
        max_ttl=3600,
        timeout=5,
        ca_file="/etc/ca.pem",
        proxy="http://proxy:3128",
        granted_scopes="subset",
        extra_params={"dialect": "rfc9068"},
    )


def test_a_version_is_all_that_a_file_needs() -> None:
    """The smallest file gives the defaults, with which nobody is given anything."""
    assert parse("version = 1") == Config()


REFUSALS = [
    pytest.param("", "config.toml line 1: version: required, and not there", id="no version"),
    pytest.param(
        "x = 1\nversion = 2",
        "config.toml line 2: version: this broker supports version 1, found a newer one",
        id="a newer version is told which is supported, and nothing else",
    ),
    pytest.param("version = true", "config.toml line 1: version: expected 1, found a boolean", id="true is not 1"),
    pytest.param(
        "version = 1\nurl = https://x",
        "config.toml line 2: not TOML: invalid value",
        id="a syntax error has its line",
    ),
    pytest.param(
        "version = 1\nx = [",
        "config.toml line 2: not TOML: invalid value",
        id="a syntax error at the end has the last line",
    ),
    pytest.param(
        "version = 1\n[vault]\n[vault]",
        "config.toml line 3: not TOML: cannot declare twice",
        id="a table twice",
    ),
    pytest.param(
        "version = 1\n[profile.x]",
        "config.toml line 2: profile: unknown key, "
        "expected version, vault, unlock, issuers, clients, profiles or rules",
        id="an unknown table",
    ),
    pytest.param(
        "version = 1\nissuers = 3",
        "config.toml line 2: issuers: expected tables such as [issuers.main], found a number",
        id="no tables",
    ),
    pytest.param(
        'version = 1\n[issuers]\npreset = "oidc"',
        "config.toml line 3: issuers.preset: expected a table, found a string",
        id="a table without its name",
    ),
    pytest.param(
        'version = 1\n[rules]\nprofile = "x"',
        "config.toml line 2: rules: expected a list of tables, each beginning with [[rules]], found a table",
        id="one bracket too few",
    ),
    pytest.param(
        EXAMPLE + '[profiles."my api"]\nclients = ["mine"]',
        'config.toml line 49: profiles."my api": expected a name of letters, digits, `.`, `_` and `-` '
        "that begins with a letter or digit, found other characters",
        id="a name with a space",
    ),
    pytest.param(
        changed("idle     = ", "idel     = ").replace('decide  = "ask"', 'decide  = "aks"'),
        "config.toml line 10: unlock.idel: unknown key, expected max_age, idle, on_sleep, "
        "on_screen_lock, on_vault_lock, tokens_on_lock or announce",
        id="of several faults the first in the file is told",
    ),
    pytest.param(
        changed('backend = "op" ', 'backend = "sdk" '),
        "config.toml line 6: vault.op: backend `sdk` has no such key; it has backend, account or prompt_timeout",
        id="a key of another backend",
    ),
    pytest.param(
        changed('op = "/opt/homebrew/bin/op"\n', "").replace('backend = "op" ', 'backend = "connect" '),
        "config.toml line 5: vault.account: backend `connect` has no such key; "
        "it has backend, url, credential, ca_file or timeout",
        id="an account for a Connect server",
    ),
    pytest.param(
        changed("[unlock]", '[vault.autonomous]\nbackend = "service-account"\n\n[unlock]'),
        "config.toml line 8: vault.autonomous.credential: required, and not there",
        id="a service account without its token's place",
    ),
    pytest.param(
        changed("[unlock]", '[vault.autonomous]\nbackend = "op"\n\n[unlock]'),
        "config.toml line 9: vault.autonomous.backend: backend `op` may ask a person, and autonomous programs have "
        "none near them",
        id="a vault that prompts for autonomous clients",
    ),
    pytest.param(
        changed(
            "[unlock]",
            '[vault.autonomous]\nbackend = "service-account"\ncredential = "ops_eyJzaWduSW4iOnt9"\n[unlock]',
        ),
        "config.toml line 10: vault.autonomous.credential: expected keyring://SERVICE/USERNAME, systemd://NAME or "
        "fd://N, found another value, which is not shown",
        id="a service account's token in the file",
    ),
    pytest.param(
        changed("[unlock]", '[vault.autonomous]\nbackend = "connect"\nurl = "http://c.example.com"\n[unlock]'),
        "config.toml line 10: vault.autonomous.url: expected an https URL, found plain http to a host that is not "
        "loopback",
        id="a Connect server without TLS",
    ),
    pytest.param(
        changed('on_sleep = "keep" ', 'on_sleep = "lock"\nannounce = "yes"'),
        "config.toml line 12: unlock.announce: expected true or false, found a string",
        id="a quoted boolean",
    ),
    pytest.param(
        changed('profile = "sea*"', 'otp = "op://Agents/*"\nprofile = "sea*"'),
        "config.toml line 46: rules[1].otp: expected either `profile` or `otp` in one rule, found both",
        id="a rule for two things",
    ),
    pytest.param(
        changed('profile = "sea*"', 'otp = "op://Agents/x"'),
        "config.toml line 46: rules[1].otp: expected a reference such as op://Vault/Item/one-time password, or a glob "
        "over one, found another string",
        id="a rule for one-time passwords without a field",
    ),
    pytest.param(
        changed('profile = "sea*"', 'otp = "Agents/*"'),
        "config.toml line 46: rules[1].otp: expected a reference such as op://Vault/Item/one-time password, or a glob "
        "over one, found `Agents/*`",
        id="a rule for one-time passwords without op://",
    ),
    pytest.param(
        changed('backend = "op" ', 'backend = "dev" '),
        "config.toml line 4: vault.backend: backend `dev` works only with `broker serve --dev`",
        id="the development backend",
    ),
    pytest.param(
        changed('backend = "op" ', 'backend = "keyrin" '),
        "config.toml line 4: vault.backend: expected op, service-account, connect, sdk or keyring, found `keyrin`",
        id="an unknown backend",
    ),
    pytest.param(
        changed('"/opt/homebrew/bin/op"', '"bin/op"'),
        "config.toml line 6: vault.op: expected an absolute path, found one that does not begin with `/`",
        id="a relative path",
    ),
    pytest.param(
        changed('on_sleep = "keep"', 'on_sleep = ["keep"]'),
        "config.toml line 11: unlock.on_sleep: expected keep or lock, found a list",
        id="a list where a word belongs",
    ),
    pytest.param(
        changed('url    = "https://tenant.eu.auth0.com/"', ""),
        "config.toml line 14: issuers.main: expected `url` or `token_endpoint`, found neither",
        id="an issuer without address",
    ),
    pytest.param(
        changed("https://tenant.eu.auth0.com/", "http://tenant.eu.auth0.com/"),
        "config.toml line 16: issuers.main.url: expected an https URL, found plain http to a host that is not loopback",
        id="plain http",
    ),
    pytest.param(
        changed("https://tenant.eu.auth0.com/", "https://me:hunter2@tenant.eu.auth0.com/"),
        "config.toml line 16: issuers.main.url: expected a URL without user information, "
        "found one with it, which is not shown",
        id="a password in a URL",
    ),
    pytest.param(
        changed("https://tenant.eu.auth0.com/", "https://tenant.eu.auth0.com/#x"),
        "config.toml line 16: issuers.main.url: expected a URL without a fragment, found one with a fragment",
        id="a fragment",
    ),
    pytest.param(
        changed("https://tenant.eu.auth0.com/", "https://tenant.eu.auth0.com/?x=1"),
        "config.toml line 16: issuers.main.url: expected a URL without a query (RFC 8414 §2), found one with a query",
        id="an issuer identifier with a query",
    ),
    pytest.param(
        changed('owner = "https://example.com/owner"', 'onwer = "x"'),
        "config.toml line 18: issuers.main.claims.onwer: unknown key, expected owner, agent_type or org_id",
        id="a claim that nothing reads",
    ),
    pytest.param(
        changed("[clients.mine]", '[issuers.main.extra_params]\n"client_assertion_type" = "x"\n[clients.mine]'),
        "config.toml line 21: issuers.main.extra_params.client_assertion_type: "
        "a parameter that the broker sends itself",
        id="a parameter that is the broker's",
    ),
    pytest.param(
        changed('preset = "auth0"', "default_ttl = 60\nmax_ttl = 30"),
        "config.toml line 15: issuers.main.default_ttl: expected `default_ttl` to be at most `max_ttl`, found more",
        id="a default above the maximum",
    ),
    pytest.param(
        changed('preset = "auth0"', 'proxy = "http://proxy:3128/path"'),
        "config.toml line 15: issuers.main.proxy: expected a proxy as scheme, host and port, "
        "found a URL with more than that",
        id="a proxy with a path",
    ),
    pytest.param(
        changed('preset = "auth0"', 'proxy = "http://me:hunter2@proxy:3128"'),
        "config.toml line 15: issuers.main.proxy: expected a URL without user information, "
        "found one with it, which is not shown",
        id="a proxy with a password",
    ),
    pytest.param(
        changed('issuer = "main"\nagent_type = "interactive"', 'issuer = "mian"\nagent_type = "interactive"'),
        "config.toml line 21: clients.mine.issuer: expected the name of an issuer, found `mian`",
        id="an issuer that is not defined",
    ),
    pytest.param(
        changed('agent_type = "autonomous"\nowner = "owner@example.com"', 'agent_type = "autonomous"\nowner = " "'),
        "config.toml line 30: clients.mine-cron.owner: expected a non-empty string, found an empty string",
        id="nobody as owner",
    ),
    pytest.param(
        changed('agent_type = "autonomous"\n', ""),
        "config.toml line 27: clients.mine-cron.agent_type: required, and not there",
        id="a client without agent_type",
    ),
    pytest.param(
        changed("op://Agents/m2m-interactive/credential", "hunter2"),
        "config.toml line 25: clients.mine.client_secret: found a literal value, which is not shown; "
        "expected a reference such as op://Vault/Item/field",
        id="a literal secret",
    ),
    pytest.param(
        changed("op://Agents/m2m-interactive/credential", "keyring://agents/me"),
        "config.toml line 25: clients.mine.client_secret: expected a reference such as op://Vault/Item/field, "
        "which backend `op` reads, found one that begins with keyring://",
        id="a reference to another backend",
    ),
    pytest.param(
        changed("op://Agents/m2m-interactive/credential", "op://Agénts/m2m/credential"),
        "config.toml line 25: clients.mine.client_secret: expected op://vault/item/[section/]field of letters, digits, "
        "`-`, `_`, `.` and spaces, found another form",
        id="a reference with characters that op does not take",
    ),
    pytest.param(
        changed('client_secret = "op://Agents/m2m-interactive/credential"\n', ""),
        "config.toml line 20: clients.mine.client_secret: required by auth `client_secret_post`, and not there",
        id="no secret for a method that needs one",
    ),
    pytest.param(
        changed('auth = "private_key_jwt"\n', ""),
        "config.toml line 27: clients.mine-cron.client_secret: required by auth `client_secret_post`, and not there",
        id="a key alone does not choose the method",
    ),
    pytest.param(
        changed('auth = "private_key_jwt"', 'auth = "private_key_jwt"\nclient_secret = "op://a/b/c"'),
        "config.toml line 34: clients.mine-cron.client_secret: auth `private_key_jwt` has no use for it",
        id="a secret that the method does not use",
    ),
    pytest.param(
        changed('["mine", "mine-cron"]', "[]"),
        "config.toml line 36: profiles.search.clients: expected a list of client names, found an empty list",
        id="a profile without clients",
    ),
    pytest.param(
        changed('["mine", "mine-cron"]', '[\n "mine",\n "mine-corn"]'),
        "config.toml line 38: profiles.search.clients[1]: expected the name of a client, found `mine-corn`",
        id="a client that is not defined, on its own line",
    ),
    pytest.param(
        changed('["search:write", "search:read", "search:write"]', '"search:read"'),
        "config.toml line 38: profiles.search.scopes: expected a list of strings, found a string",
        id="scopes as a string",
    ),
    pytest.param(
        changed('["search:write", "search:read", "search:write"]', '["search:read search:write"]'),
        "config.toml line 38: profiles.search.scopes[0]: expected one scope of printable ASCII without spaces, "
        '`"` and `\\` (RFC 6749 §3.3), found other characters',
        id="two scopes in one string",
    ),
    pytest.param(
        changed('audience = "https://search.example.com"', 'resource = "search.example.com"'),
        "config.toml line 37: profiles.search.resource: expected an absolute URI without a fragment (RFC 8707 §2), "
        "found another string",
        id="a resource that is no URI",
    ),
    pytest.param(
        changed('audience = "https://search.example.com"', ""),
        "config.toml line 35: profiles.search.audience: required by preset `auth0`, and not there",
        id="what the preset of the profile's issuer insists on",
    ),
    pytest.param(
        changed('profile = "search"', 'profile = "serach"'),
        "config.toml line 41: rules[0].profile: expected the name of a profile or a glob that matches one, "
        "found `serach`",
        id="a rule for no profile",
    ),
    pytest.param(
        changed('profile = "sea*"', 'profile = "ses*"'),
        "config.toml line 46: rules[1].profile: expected the name of a profile or a glob that matches one, "
        "found `ses*`",
        id="a glob that matches nothing",
    ),
    pytest.param(
        changed('decide = "allow"', 'decide = "yes"'),
        "config.toml line 47: rules[1].decide: expected allow, ask or deny, found `yes`",
        id="an unknown decision",
    ),
    pytest.param(
        changed('"/usr/bin/python3*"', '"python3"'),
        "config.toml line 42: rules[0].peer.exe: expected an absolute path or a glob over one, "
        "found a relative path, which matches nothing",
        id="a pattern that can match no program",
    ),
    pytest.param(
        changed('profile = "sea*"', f'profile = "{"*a" * 3000}"'),
        "config.toml line 46: rules[1].profile: expected at most 4096 characters, found more",
        id="a glob that would keep the reader busy",
    ),
    pytest.param(
        changed('profile = "sea*"', "profile = 7"),
        "config.toml line 46: rules[1].profile: expected a non-empty string, found a number",
        id="a rule for a number",
    ),
    pytest.param(
        changed("[unlock]", f'"{"k" * 65}" = 1\n[unlock]'),
        'config.toml line 8: vault."…": unknown key, expected backend, account, op, prompt_timeout or autonomous',
        id="a key too long to be shown",
    ),
    pytest.param(
        changed("[clients.mine]", '[issuers.main.extra_params]\n"" = "x"\n[clients.mine]'),
        'config.toml line 21: issuers.main.extra_params."": expected the name of a parameter, found an empty one',
        id="a parameter without name",
    ),
    pytest.param(
        changed("[clients.mine]", "[issuers.main.extra_params]\nn = 1\n[clients.mine]"),
        "config.toml line 21: issuers.main.extra_params.n: expected a non-empty string, found a number",
        id="a parameter that is no string",
    ),
    pytest.param(
        changed('"op://Agents/m2m-interactive/username"', '"client-ü"'),
        "config.toml line 24: clients.mine.client_id: "
        "expected a client id of printable ASCII (RFC 6749 appendix A.1), found other characters",
        id="a client id beyond ASCII",
    ),
    pytest.param(
        changed('"op://Agents/m2m-interactive/credential"', "7"),
        "config.toml line 25: clients.mine.client_secret: expected a reference such as op://Vault/Item/field, "
        "found a number",
        id="a number as secret",
    ),
    pytest.param(
        changed('owner = "https://example.com/owner"', 'owner = "a\\nb"'),
        "config.toml line 18: issuers.main.claims.owner: expected a string without control characters, "
        "found one with them",
        id="a control character",
    ),
    pytest.param(
        changed('["search:write", "search:read", "search:write"]', "[1]"),
        "config.toml line 38: profiles.search.scopes[0]: expected a string, found a number",
        id="a scope that is no string",
    ),
]


@pytest.mark.parametrize(("text", "message"), REFUSALS)
def test_refusals(text: str, message: str) -> None:
    """A wrong file is refused whole, naming file, line, key, what was found and what was expected."""
    error = refusal(text)
    assert error.message == message
    assert error.hint


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        pytest.param(changed("scopes   =", "scope    ="), "did you mean `scopes`?", id="a key"),
        pytest.param(changed("[unlock]", "[unlocked]"), "did you mean `unlock`?", id="a table"),
        pytest.param(changed('preset = "auth0"', 'preset = "Auth0"'), "did you mean `auth0`?", id="a preset"),
        pytest.param(changed('"mine-cron"]', '"mine-corn"]'), "did you mean `mine-cron`?", id="a client"),
        pytest.param(changed('profile = "search"', 'profile = "serach"'), "did you mean `search`?", id="a profile"),
        pytest.param(
            changed('auth = "private_key_jwt"\n', ""), 'set auth = "private_key_jwt" on the client', id="auth"
        ),
        pytest.param(
            changed('preset = "auth0"', 'proxy = "http://me:hunter2@proxy:3128"'),
            "remove `proxy`, and set HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT, percent-encoded, in the environment "
            "of `broker serve`: this file holds no password",
            id="a proxy's password",
        ),
        pytest.param(changed('decide = "allow"', "decide = 1"), "correct it, then run `broker doctor`", id="no name"),
    ],
)
def test_hints(text: str, hint: str) -> None:
    """The hint is the nearest name where there is one, else a command."""
    assert refusal(text).hint == hint
