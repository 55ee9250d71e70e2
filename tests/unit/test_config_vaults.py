"""Two vaults in one configuration: which client's references belong to which, and where a vault's own token may be."""

from __future__ import annotations

import pytest

from tests.unit.config_documents import EXAMPLE, changed, refusal
from tokenbroker.config import VaultConfig
from tokenbroker.config.text import parse

TWO_VAULTS = changed(
    "[unlock]",
    '[vault.autonomous]\nbackend = "service-account"\ncredential = "systemd://op"\ntimeout = "20s"\n\n[unlock]',
)


def test_autonomous_clients_have_a_vault_of_their_own() -> None:
    config = parse(TWO_VAULTS)
    assert config.autonomous_vault == VaultConfig("service-account", credential="systemd://op", timeout=20)
    person, cron = config.refs(autonomous=False), config.refs(autonomous=True)
    assert {ref.uri.split("/")[3] for ref in person} == {"m2m-interactive"}
    assert {ref.uri.split("/")[3] for ref in cron} == {"m2m-autonomous"}
    assert set(config.refs()) == {*person, *cron}


def test_without_one_they_share_the_persons() -> None:
    config = parse(EXAMPLE)
    assert config.autonomous_vault is None
    assert (config.refs(autonomous=False), config.refs(autonomous=True)) == (config.refs(), ())


def test_each_client_is_held_to_the_references_of_its_vault() -> None:
    """The person's secrets are in the keyring, those of cron at 1Password."""
    mixed = TWO_VAULTS.replace('backend = "op" ', 'backend = "keyring" ')
    mixed = mixed.replace('account = "my.1password.com"\nop = "/opt/homebrew/bin/op"\n', "")
    good = mixed.replace("op://Agents/m2m-interactive", "keyring://agents")
    assert {ref.uri.split(":")[0] for ref in parse(good).refs()} == {"keyring", "op"}
    assert "clients.mine.client_id: expected a reference such as keyring://" in refusal(mixed).message


@pytest.mark.parametrize(
    ("where", "good"),
    [
        ("keyring://tokenbroker/ci", True),
        ("keyring://a%20b/c", True),
        ("keyring://a", False),
        ("systemd://op-token", True),
        ("systemd://../x", False),
        ("fd://3", True),
        ("fd://2", False),
        ("fd://12345", False),
        ("/etc/op-token", False),
        ("file:///etc/op-token", False),
        ("env://OP_SERVICE_ACCOUNT_TOKEN", False),
    ],
)
def test_where_a_vaults_own_token_may_be(where: str, good: bool) -> None:  # noqa: FBT001  # a table
    document = TWO_VAULTS.replace("systemd://op", where)
    if good:
        vault = parse(document).autonomous_vault
        assert vault is not None
        assert vault.credential == where
    else:
        assert where not in str(refusal(document))


def test_a_rule_for_one_time_passwords_names_no_profile() -> None:
    config = parse(changed('profile = "sea*"', 'otp = "op://Agents/github/one-time password?attribute=otp"'))
    assert (config.rules[1].profile, config.rules[1].otp) == (None, "op://Agents/github/one-time password")
