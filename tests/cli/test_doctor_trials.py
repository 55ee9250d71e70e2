"""`broker doctor` has the running daemon try each client once, and tells what came of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.test_doctor import doctor, pairs
from tests.e2e.rig import API, OWNER, Background
from tests.e2e.standard import CRON_SECRET, SECRET, configuration
from tests.standins.second_issuer.faces import RFC9068
from tests.standins.second_issuer.server import SecondIssuer
from tests.standins.second_issuer.state import Client
from tokenbroker.cli.checks import Finding, State, fault, note, ok
from tokenbroker.cli.checks.trials import check_trials, untold
from tokenbroker.trials import MOST

if TYPE_CHECKING:
    from tests.e2e.rig import Daemon, Rig
    from tokenbroker.dev.issuer import DevIssuer

NOW = 1000.0
WHO = "client `mine`, profile `search`"


def token(**more: Any) -> dict[str, Any]:
    found = {"profile": "search", "client": "mine", "scope": "read", "expires_at": NOW + 3600, "checked": "signature"}
    return {**found, "bound_to": None, "retry_in": None, "remarks": [], **more}


def one(code: str | None = None, hint: str | None = None, **more: Any) -> dict[str, Any]:
    problem = None if code is None else {"code": code, "message": "it said no", "hint": hint}
    return {"client": "mine", "token": token(**more), "problem": problem}


def judged(tried: dict[str, Any]) -> Finding:
    (found,) = check_trials([tried], NOW)
    return found


@pytest.mark.parametrize(
    ("checked", "says"),
    [
        ("signature", "its signature and claims are right"),
        ("introspection", "the issuer confirms what it holds"),
        ("claims", "its claims are right, its signature was not checked"),
        ("nothing", "it is opaque, so that only the API can tell what it holds"),
    ],
)
def test_how_far_a_token_could_be_checked_is_said(checked: str, says: str) -> None:
    """Honest about the tokens that nobody but the API can read."""
    assert judged(one(checked=checked)) == ok("client", f"{WHO}: a token with scope read, 1 h left; {says}")


@pytest.mark.parametrize(
    ("checked", "says"),
    [
        ("signature", "its signature is right"),
        ("introspection", "the issuer confirms what it holds"),
        ("claims", "its signature was not checked"),
    ],
)
def test_claims_that_are_not_there_are_not_called_right(checked: str, says: str) -> None:
    """What could not be compared is named instead."""
    remark = "it has no claim owner, which could not be compared"
    assert judged(one(checked=checked, remarks=[remark])).message.endswith(f" left; {says}; {remark}")


def test_what_is_odd_beside_is_said() -> None:
    """The claims are right all the same."""
    remarks = ["it has scope admin, which was not asked for", "and more"]
    found = judged(one(remarks=remarks, bound_to="certificate"))
    assert f"its signature and claims are right; {'; '.join(remarks)}; it is bound to" in found.message


@pytest.mark.parametrize(("bound", "says"), [("dpop", "a proof for each request"), ("certificate", "cannot use it")])
def test_a_bound_token_is_said_to_be_of_no_use_by_itself(bound: str, says: str) -> None:
    """A program that ignores it gets 401 from the API, and the reason is here."""
    assert says in judged(one(bound_to=bound)).message


def test_no_scope_is_said() -> None:
    assert "a token with no scope, " in judged(one(scope="")).message


@pytest.mark.parametrize("code", ["locked", "prompt_dismissed", "prompt_unanswered", "cooling_down"])
def test_who_would_have_to_ask_a_person_was_not_tried(code: str) -> None:
    """That is no fault."""
    assert judged(one(code)) == note("client", f"{WHO}: not tried: it said no", "broker unlock")


@pytest.mark.parametrize("code", ["secret_not_found", "secret_ambiguous", "vault_unavailable", "vault_not_installed"])
def test_what_the_vault_did_not_give_is_its_own_finding(code: str) -> None:
    """The fault is told once, where the reference is."""
    assert judged(one(code, "look there")) == note("client", f"{WHO}: not tried: it said no", "look there")


@pytest.mark.parametrize(
    ("code", "hint", "told"),
    [
        pytest.param("issuer_needs_person", "raise the quota", "raise the quota", id="the issuer's own hint"),
        pytest.param("issuer_configuration", "mend it, then run `broker doctor`", "mend it, then `broker reload`",
                     id="not the doctor again"),
        pytest.param("credential_rejected", None, "broker unlock", id="a refused credential without a hint"),
        pytest.param("issuer_unavailable", None, "broker status", id="anything without a hint"),
    ],
)  # fmt: skip
def test_a_refusal_is_a_fault_with_the_next_command(code: str, hint: str | None, told: str) -> None:
    """And when it is tried again."""
    assert judged(one(code, hint)) == fault("client", f"{WHO}: it said no", told)
    assert judged(one(code, hint, retry_in=60.0)).message == f"{WHO}: it said no; tried again in 1 min"


def test_that_nothing_was_tried_or_not_everything_is_said() -> None:
    """A configuration without profiles, and one with more clients than are tried."""
    assert [found.state for found in check_trials([], NOW)] == [State.NOTE]
    assert f"at most {MOST} clients" in [*check_trials([one()] * MOST, NOW)][-1].message


def test_only_what_a_trial_tells_is_not_told_again() -> None:
    """A token that is still good and cannot be renewed was tried with success: its trouble must not get lost."""
    said, renewal = {"message": "it said no"}, {"message": "renewal failed"}
    for error, trial, left in [
        (said, one("issuer_configuration"), None),
        (renewal, one("issuer_configuration"), renewal),
        (renewal, one(), renewal),
        (said, one("locked"), said),
        (None, one(), None),
    ]:
        assert [each["last_error"] for each in untold([token(last_error=error)], [trial])] == [left]
    other = token(profile="write", last_error=said)
    assert untold([other], [one("issuer_configuration")]) == [other]


def test_a_locked_daemon_tries_nothing(rig: Rig, daemon: Daemon) -> None:
    """Nobody is prompted, the exit status is 0, and the next command is there."""
    ran = doctor(rig)
    told = [(message, hint) for message, hint in pairs(ran, "note") if message.startswith("client ")]
    assert ran.code == 0
    assert [hint for _, hint in told] == ["broker unlock", "broker unlock"]
    assert all("not tried: its secrets are not in memory" in message for message, _ in told)


def test_an_unlocked_daemon_tries_each_client_and_keeps_the_token(rig: Rig, daemon: Daemon) -> None:
    """The program that asks next gets what the doctor had minted."""
    assert rig.broker("unlock").code == 0
    ran = doctor(rig)
    told = [message for message, _ in pairs(ran, "ok") if message.startswith("client ")]
    assert ran.code == 0
    assert [message.partition(":")[0] for message in told] == [WHO, "client `mine-cron`, profile `search`"]
    assert all("a token with scope search:read, " in message for message in told)
    assert "2 valid tokens in memory" in ran.out
    fingerprints = {one["fingerprint"] for one in rig.status()["tokens"]}
    asked = json.loads(rig.token("search", "--json").token)
    assert asked["source"] == "cache"
    assert asked["fingerprint"] in fingerprints


def test_json_has_the_trials(rig: Rig, daemon: Daemon) -> None:
    """With the check's stable name, and no token in it."""
    assert rig.broker("unlock").code == 0
    ran = doctor(rig, "--json")
    found = [one for one in json.loads(ran.out) if one["check"] == "client"]
    assert [one["state"] for one in found] == ["ok", "ok"]
    assert "eyJ" not in ran.out


def test_without_tokens_no_issuer_is_asked(rig: Rig, daemon: Daemon) -> None:
    """For those whose tokens are counted."""
    assert rig.broker("unlock").code == 0
    ran = doctor(rig, "--no-tokens")
    assert ran.code == 0
    assert "\nok    client `" not in ran.out
    assert not rig.status()["tokens"]


def test_a_client_that_is_wrong_is_a_fault_and_told_once(rig: Rig, daemon: Daemon) -> None:
    """The other one is tried all the same; neither secret is shown."""
    rig.configure(rig.config.read_text().replace(f'owner = "{OWNER}"', 'owner = "somebody@example.com"', 1))
    assert rig.broker("reload").code == 0
    assert rig.broker("unlock").code == 0
    for _ in range(2):
        ran = doctor(rig)
        ((message, hint),) = pairs(ran, "FAULT")
        assert message.startswith(f"{WHO}: the token's claim owner is {OWNER}, client `mine` has ")
        assert hint
        assert len([text for text, _ in pairs(ran, "ok") if text.startswith("client `mine-cron`")]) == 1
        assert not {SECRET, CRON_SECRET} & set(ran.out.split())
    assert rig.broker("revoke", "--all").code in {0, 1}


def test_claims_that_a_token_does_not_have_are_told(rig: Rig) -> None:
    """By the doctor and by the status, of an issuer that signs, leaves claims out and grants more than is asked."""
    scope = {"scope": "search:read admin"}
    bare = Client("id-interactive", [SECRET], audiences=(API,), scopes=("search:read",), owner=None, claims=scope)
    whole = Client("id-autonomous", [CRON_SECRET], "client_secret_basic", audiences=(API,), scopes=("search:read",))
    whole.owner, whole.agent_type = OWNER, "autonomous"
    remarks = [
        "it has no claim aud, owner, which could not be compared",
        "it has scope admin, which was not asked for",
    ]
    with Background() as beside:
        dialect = replace(RFC9068, audience=False)
        second = beside.enter(SecondIssuer.start(clients=[bare, whole], dialect=dialect))
        rig.configure(configuration(second.url))
        with rig.serve():
            assert rig.broker("unlock").code == 0
            told = [message for message, _ in pairs(doctor(rig), "ok") if message.startswith("client ")]
            assert [one["remarks"] for one in rig.status()["tokens"]] == [remarks, [remarks[0].replace(", owner", "")]]
    assert told[0].endswith("left; its signature is right; " + "; ".join(remarks))


def test_another_configuration_is_not_tried(rig: Rig, daemon: Daemon, issuer: DevIssuer) -> None:
    """The daemon that runs another file is not told to use its clients."""
    assert rig.broker("unlock").code == 0
    other = rig.home / "other.toml"
    other.write_text(rig.config.read_text())
    ran = rig.run("broker", "doctor", "--config", str(other))
    assert "\nok    client `" not in ran.out
    assert not rig.status()["tokens"]
