"""What can be wrong at the issuer: each says what happened and the next step, and costs no other profile its token."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jwt
import pytest

from tests.e2e.rig import API, OWNER, Background, Rig
from tests.e2e.standard import SECRET, configuration, fill_vault
from tests.standins.fault_issuer import FaultIssuer, answer, error, raw, reset

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.standins.fault_issuer import Behaviour
    from tokenbroker.dev.issuer import DevIssuer


@dataclass(frozen=True)
class Case:
    """One fault: how the issuer behaves, or which tables lead to it, and what `broker-token` then says."""

    code: int
    message: str
    hint: str
    behaviour: Behaviour | None = None
    client: str = ""
    profile: str = ""


def minted(**claims: object) -> dict[str, object]:
    """Return a token answer with these claims."""
    good = {"aud": API, "owner": OWNER, "agent_type": "interactive", "scope": "search:read"}
    token = jwt.encode({**good, **claims}, "a key that nobody verifies with, of 32 bytes")
    return {"access_token": token, "token_type": "Bearer", "expires_in": 300}


LOGIN_PAGE = "<html><title>Sign in</title><p>session secret-of-the-page</html>"
CASES = {
    "wrong-secret": Case(
        1,
        "{issuer} refused the client: invalid_client",
        "what the client's client_secret refers to may have been rotated: put the new one there, then `broker unlock`; "
        "or set another `auth`, if the issuer wants one",
        client='issuer = "main"\nclient_id = "id-autonomous"\nclient_secret = "op://Agents/m2m/credential"',
        profile=f'audience = "{API}"',
    ),
    "wrong-audience": Case(
        1,
        "{issuer} refused the request: invalid_target",
        "check audience = 'https://elsewhere.example' in the profile, and that the issuer lets this client have it",
        profile='audience = "https://elsewhere.example"',
        client='issuer = "main"\nclient_id = "op://Agents/m2m/username"\nclient_secret = "op://Agents/m2m/credential"',
    ),
    "scope-not-granted": Case(
        1,
        "{issuer} refused the request: invalid_scope",
        "grant the scopes to this client at the issuer, or correct scopes in the profile (asked: admin)",
        profile=f'audience = "{API}"\nscopes = ["admin"]',
        client='issuer = "main"\nclient_id = "op://Agents/m2m/username"\nclient_secret = "op://Agents/m2m/credential"',
    ),
    "html": Case(
        1,
        "{issuer} answered with a web page instead of a token",
        "check url or token_endpoint in [issuers.html], then run `broker doctor`",
        answer(LOGIN_PAGE, content_type="text/html"),
    ),
    "not-http": Case(
        75,
        "{issuer} cannot be reached: its answer is not HTTP",
        "run the command again in 1 s",
        raw(b"SSH-2.0-OpenSSH_9.7\r\n"),
    ),
    "cut-off": Case(75, "{issuer} cannot be reached: the connection was closed", "run the command again in 1 s", reset),
    "maintenance": Case(
        75, "{issuer} cannot answer now: 503", "run the command again in 30 s", error("x", 503, {"Retry-After": "30"})
    ),
    "other-audience": Case(
        1,
        "the token's audience is https://other.example, asked was https://api.example",
        "check audience or resource in [profiles.other-audience], and the API's identifier at the issuer",
        answer(minted(aud="https://other.example")),
    ),
    "other-owner": Case(
        1,
        "the token's claim owner is mallory@example.com, client `other-owner` has owner owner@example.com",
        "correct owner in [clients.other-owner], or the claim at issuer `other-owner`",
        answer(minted(owner="mallory@example.com")),
    ),
    "fewer-scopes": Case(
        1,
        "issuer `fewer-scopes` did not grant scope search:read to client `fewer-scopes`; it granted none",
        "grant it at the issuer, or remove it from [profiles.fewer-scopes] scopes",
        answer({**minted(), "scope": ""}),
    ),
}
AT_FAULT = 'issuer = "{name}"\nclient_id = "op://Agents/m2m/username"\nclient_secret = "op://Agents/m2m/credential"'
WANTED = f'audience = "{API}"\nscopes = ["search:read"]'


def tables(name: str, endpoint: str, case: Case) -> str:
    """Return the tables for one case."""
    return (
        f'[issuers.{name}]\ntoken_endpoint = "{endpoint}"\n'
        f'[clients.{name}]\nagent_type = "interactive"\nowner = "{OWNER}"\n'
        f"{case.client or AT_FAULT.format(name=name)}\n"
        f'[profiles.{name}]\nclients = ["{name}"]\n{case.profile or WANTED}\n'
    )


@dataclass(frozen=True)
class Setup:
    """A daemon with one profile per fault, and how messages name each one's issuer."""

    rig: Rig
    issuers: dict[str, str]


@pytest.fixture(scope="module")
def setup(beside: Background, issuer: DevIssuer) -> Iterator[Setup]:
    """Share one daemon among all faults: none may disturb another."""
    with Rig() as rig:
        fill_vault(rig.op)
        issuers, text = {}, []
        for name, case in CASES.items():
            endpoint = issuer.url
            if case.behaviour is not None:
                endpoint = beside.enter(FaultIssuer(case.behaviour)).url
            entry = "main" if "main" in case.client else name
            issuers[name] = f"issuer `{entry}` ({endpoint.split('/')[2]})"
            text.append(tables(name, endpoint, case))
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            host = f"127.0.0.1:{closed.getsockname()[1]}"
            issuers["down"] = f"issuer `down` ({host})"
            text.append(tables("down", f"http://{host}/token", Case(75, "", "")))
            rig.configure(configuration(issuer.url, *text))
            with rig.serve():
                assert rig.token("search").token
                yield Setup(rig, issuers)


@pytest.mark.parametrize("name", CASES)
def test_fault_is_explained_and_kept_to_its_profile(setup: Setup, name: str) -> None:
    case, rig = CASES[name], setup.rig
    before = rig.token("search").token
    ran = rig.token(name)
    assert (ran.code, ran.out) == (case.code, "")
    assert ran.message.startswith(case.message.format(issuer=setup.issuers[name]))
    assert ran.hint.startswith(case.hint)
    assert "secret-of-the-page" not in ran.err
    assert SECRET not in ran.err
    assert rig.token("search").token == before
    [entry] = [token for token in rig.status()["tokens"] if token["profile"] == name]
    assert entry["last_error"]["message"] == ran.message
    assert entry["fingerprint"] is None


def test_issuer_that_is_down_is_exit_75_try_again(setup: Setup) -> None:
    ran = setup.rig.token("down")
    assert (ran.code, ran.out) == (75, "")
    assert ran.message == f"{setup.issuers['down']} cannot be reached: connection refused"
    assert ran.hint == "run the command again in 1 s"
    assert setup.rig.token("search").token


def test_unknown_profile_names_the_nearest_one(setup: Setup) -> None:
    ran = setup.rig.token("serch")
    assert (ran.code, ran.out, ran.message) == (1, "", "unknown profile `serch`")
    assert ran.hint == "did you mean `search`? list them with `broker-token --list`"
    assert "search" in setup.rig.token("--list").out


def test_scope_beyond_the_profile_is_refused_before_the_issuer_is_asked(setup: Setup, issuer: DevIssuer) -> None:
    before = issuer.requests
    ran = setup.rig.token("search", "--scope", "admin")
    assert (ran.code, ran.message) == (1, "profile `search` does not include scope admin; it has search:read")
    assert ran.hint.startswith("ask for less, or add it to [profiles.search]")
    assert issuer.requests == before
