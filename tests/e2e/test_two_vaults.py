"""One daemon, two keys: a person's 1Password app for programs with a person near, a service account for cron."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.e2e.rig import Daemon, Rig, wait_until
from tests.e2e.standard import BY_EVIDENCE, INTERACTIVE, configuration, fill_vault
from tests.standins.op_things import Field, service_account_token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.rig import Ran
    from tokenbroker.dev.issuer import DevIssuer

TOKEN = service_account_token()
AUTONOMOUS = """
[vault.autonomous]
backend = "service-account"
credential = "systemd://op"
"""
OTP = """
[[rules]]
otp = "op://Agents/github/*"
decide = "allow"
treat_as = "interactive"
"""


@pytest.fixture
def rig(issuer: DevIssuer) -> Iterator[Rig]:
    with Rig() as made:
        fill_vault(made.op)
        made.op.add_item("Agents", "github", {"one-time password": Field("JBSWY3DPEHPK3PXP", "OTP")})
        credentials = made.folder / "credentials"
        credentials.mkdir(mode=0o700)
        (credentials / "op").write_text(TOKEN)
        (credentials / "op").chmod(0o400)
        made.configure(configuration(issuer.url, AUTONOMOUS, rules=OTP + INTERACTIVE))
        yield made


@pytest.fixture
def daemon(rig: Rig) -> Iterator[Daemon]:
    with rig.serve(CREDENTIALS_DIRECTORY=str(rig.folder / "credentials")) as running:
        yield running


def cron(rig: Rig) -> Ran:
    return rig.token("search", "--as", "autonomous")


def test_cron_is_served_without_anybody_there(rig: Rig, daemon: Daemon) -> None:
    """The person's app is locked and nobody answers its dialogs; nobody is asked."""
    rig.op.person("ignore")
    assert cron(rig).token
    assert rig.op.prompts() == 0
    status = rig.status()
    assert (status["vault"]["state"], status["autonomous_vault"]["state"]) == ("locked", "unlocked")
    assert status["autonomous_vault"]["backend"] == "service-account"


def test_each_reads_its_own_references_with_its_own_authorization(rig: Rig, daemon: Daemon) -> None:
    assert cron(rig).token != rig.token("search").token
    reads = [call for call in rig.op.calls() if call.argv[0] == "inject"]
    assert sorted("OP_SERVICE_ACCOUNT_TOKEN" in call.env for call in reads) == [False, True]
    assert rig.op.prompts() == 1


def test_a_refused_prompt_and_a_deleted_account_do_not_disturb_each_other(rig: Rig, daemon: Daemon) -> None:
    rig.op.person("dismiss")
    assert rig.token("search").code == 4
    assert cron(rig).token
    rig.op.refuse_token(TOKEN)
    rig.op.person("approve")
    assert rig.broker("lock").code == 0
    assert cron(rig).code == 1
    unlocked = rig.broker("unlock")
    assert unlocked.out.startswith("unlocked: op, 2 secrets in memory\nnot unlocked: service-account: ")
    assert unlocked.code == 1
    assert rig.token("search").token


def test_the_allowance_is_shown(rig: Rig, daemon: Daemon) -> None:
    assert cron(rig).token
    wait_until(lambda: bool(rig.status()["autonomous_vault"]["limits"]))
    limits = {(one["type"], one["action"]): one for one in rig.status()["autonomous_vault"]["limits"]}
    assert limits["token", "read"]["used"] > 0
    assert "token read: " in rig.broker("status").out


def test_the_token_can_come_from_a_descriptor_and_survives_a_reload(rig: Rig, issuer: DevIssuer) -> None:
    reader, writer = os.pipe()
    os.write(writer, f"{TOKEN}\n".encode())
    os.close(writer)
    table = AUTONOMOUS.replace("systemd://op", f"fd://{reader}")
    rig.configure(configuration(issuer.url, table))
    with rig.serve(pass_fds=[reader]):
        os.close(reader)
        assert cron(rig).token
        rig.configure(configuration(issuer.url, f"{table}op = '{rig.bin}/op'\n"))
        assert rig.broker("reload").code == 0
        assert rig.status()["autonomous_vault"]["state"] == "locked"
        assert cron(rig).token


def test_another_timeout_is_no_other_vault(rig: Rig, daemon: Daemon, issuer: DevIssuer) -> None:
    """Nothing is forgotten for it, and nobody is asked again."""
    assert cron(rig).token
    first = rig.token("search").token
    text = configuration(issuer.url, f"{AUTONOMOUS}timeout = '20s'\n", rules=OTP + INTERACTIVE)
    rig.configure(text.replace("account =", 'prompt_timeout = "41s"\naccount ='))
    assert rig.broker("reload").code == 0
    assert rig.token("search").token == first
    assert [rig.status()[name]["state"] for name in ("vault", "autonomous_vault")] == ["unlocked", "unlocked"]
    assert rig.op.prompts() == 1


def test_a_reload_takes_the_second_vault_away_and_brings_it_back(rig: Rig, daemon: Daemon, issuer: DevIssuer) -> None:
    assert cron(rig).token
    rig.configure(configuration(issuer.url))
    assert rig.broker("reload").code == 0
    assert rig.status()["autonomous_vault"] is None
    assert cron(rig).code == 5
    rig.configure(configuration(issuer.url, AUTONOMOUS))
    assert rig.broker("reload").code == 0
    assert cron(rig).token
    assert rig.op.prompts() == 0


def test_a_daemon_whose_token_is_out_of_reach_serves_the_person_and_says_why(rig: Rig) -> None:
    with rig.serve():  # without CREDENTIALS_DIRECTORY
        assert rig.token("search").token
        ran = cron(rig)
        assert ran.code == 1
        assert "LoadCredential=op:" in ran.hint


def test_one_time_passwords_by_rule(rig: Rig, daemon: Daemon) -> None:
    ran = rig.broker("otp", "op://Agents/github/one-time password")
    assert (ran.code, ran.err, len(ran.out.strip())) == (0, "", 6)
    assert ran.out.strip().isdigit()
    denied = rig.broker("otp", "op://Agents/m2m/credential")
    assert (denied.code, denied.out) == (4, "")
    assert denied.hint.startswith('add a [[rules]] entry with otp = "op://Agents/m2m/credential"')
    missing = rig.broker("otp", "op://Agents/github/nothing")
    assert (missing.code, missing.out) == (1, "")
    rig.broker("lock")
    locked = rig.broker("otp", "op://Agents/github/one-time password", "--no-prompt")
    assert (locked.code, locked.hint) == (5, "unlock it with `broker unlock`")
    assert rig.broker("otp", "nonsense").code == 1


def test_an_autonomous_program_reads_one_time_passwords_from_its_own_vault(rig: Rig, daemon: Daemon) -> None:
    rig.op.person("ignore")
    ran = rig.broker("otp", "op://Agents/github/one-time password", "--as", "autonomous")
    assert (ran.code, ran.err) == (0, "")
    assert rig.op.prompts() == 0


def test_a_real_session_of_cron_counts_as_autonomous(rig: Rig, issuer: DevIssuer) -> None:
    """By evidence alone: no terminal, no agent; the service account serves it."""
    rig.configure(configuration(issuer.url, AUTONOMOUS, rules=BY_EVIDENCE))
    with rig.serve(CREDENTIALS_DIRECTORY=str(rig.folder / "credentials")):
        assert rig.token("search", "--as", "autonomous").token
