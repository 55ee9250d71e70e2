"""A wrong config.toml: at the start nothing runs, at a reload the old one stays; file, line and key are named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.rig import Rig, wait_until
from tests.e2e.standard import configuration

if TYPE_CHECKING:
    from tests.e2e.rig import Daemon
    from tokenbroker.dev.issuer import DevIssuer

CASES = [
    pytest.param('scopes = ["search:read"]', 'scopes = "search:read"', "profiles.search.scopes: expected a list of",
                 id="a string where a list belongs"),
    pytest.param('backend = "op"', 'backend = "opp"', "vault.backend: expected op, service-account, connect, sdk or "
                 "keyring, found `opp`",
                 id="unknown backend"),
    pytest.param('decide = "allow"', 'decide = "alow"', "rules[0].decide: expected", id="a slip in a rule"),
    pytest.param('audience = "', 'audiance = "', "profiles.search.audiance: ", id="a misspelt key"),
    pytest.param('clients = ["mine", "mine-cron"]', 'clients = ["mine", "mine-corn"]', "profiles.search.clients",
                 id="a client that is nowhere"),
    pytest.param('auth = "client_secret_basic"', 'auth = "client_secret_basic', "", id="not TOML"),
]  # fmt: skip


def spoilt(rig: Rig, old: str, new: str) -> int:
    """Write `new` for the first `old` in config.toml; return the line."""
    text = rig.config.read_text()
    at = text.index(old)
    rig.configure(text[:at] + new + text[at + len(old) :])
    return text.count("\n", 0, at) + 1


@pytest.mark.parametrize(("old", "new", "says"), CASES)
def test_daemon_does_not_start_and_names_file_line_and_key(rig: Rig, old: str, new: str, says: str) -> None:
    line = spoilt(rig, old, new)
    ran = rig.broker("serve", "--config", str(rig.config), "--socket", str(rig.socket))
    assert (ran.code, ran.out) == (1, "")
    assert ran.message.startswith(f"{rig.config} line {line}: {says}")
    assert ran.hint
    assert not rig.socket.exists()


def test_secret_written_into_the_file_is_refused_and_not_shown(rig: Rig) -> None:
    line = spoilt(rig, "op://Agents/m2m/credential", "hunter2-a-real-secret")
    ran = rig.broker("serve", "--config", str(rig.config), "--socket", str(rig.socket))
    assert ran.code == 1
    assert ran.message.startswith(f"{rig.config} line {line}: clients.mine.client_secret: found a literal value")
    assert "hunter2" not in ran.err


def test_missing_file_says_how_to_make_one(rig: Rig) -> None:
    rig.config.unlink()
    ran = rig.broker("serve")
    assert (ran.code, ran.hint) == (1, "write a first configuration with `broker init`")
    assert ran.message.endswith("config.toml: no such file")


@pytest.mark.parametrize("how", ["SIGHUP", "broker reload"])
def test_running_daemon_keeps_what_it_has(rig: Rig, daemon: Daemon, issuer: DevIssuer, how: str) -> None:
    """The token stays, `broker status` shows what is wrong, and a corrected file makes it good."""
    before = rig.token("search").token
    line = spoilt(rig, 'scopes = ["search:read"]', 'scopes = "search:read"')
    says = f"{rig.config} line {line}: profiles.search.scopes: expected a list of strings, found a string"
    if how == "SIGHUP":
        daemon.hang_up()
        wait_until(lambda: rig.status()["config_error"] is not None)
    else:
        ran = rig.broker("reload")
        assert (ran.code, ran.message) == (1, says)
    assert rig.status()["config_error"]["message"] == says
    assert f"refused  {says}: mend it" in rig.broker("status").out
    assert rig.token("search").token == before

    rig.configure(configuration(issuer.url).replace("[profiles.write]", "[profiles.writing]"))
    assert rig.broker("reload").out == "reloaded: 2 profiles\n"
    assert rig.status()["config_error"] is None
    assert rig.token("search").token == before, "nothing changed for this profile"
    assert rig.token("writing").token
    assert rig.token("write").message == "unknown profile `write`"
    assert rig.op.prompts() == 1
