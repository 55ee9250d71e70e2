"""The questions of `broker init`: each preset asks what its product needs, and what is accepted makes a right file."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

import pytest

from tests.cli.test_init import ANSWERS, FOUND, all_questions, init, lines, new, question
from tokenbroker.cli.first_config import render
from tokenbroker.cli.help import PRESET_NAMES
from tokenbroker.cli.questions import Answers, Found, questions, refusal
from tokenbroker.config.presets import PRESETS
from tokenbroker.config.text import parse

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.rig import Rig
    from tokenbroker.dev.issuer import DevIssuer

__all__ = ["new"]  # a fixture


@pytest.mark.parametrize(
    ("name", "given", "answer", "accepted"),
    [
        pytest.param("audience", {"preset": "auth0"}, "", False, id="auth0 needs an audience"),
        pytest.param("audience", {"preset": "oidc"}, "", True, id="others need none"),
        pytest.param("scopes", {"preset": "okta"}, "", False, id="okta needs a scope"),
        pytest.param("scopes", {"preset": "entra"}, "api://x/read", False, id="entra wants .default"),
        pytest.param("scopes", {"preset": "entra"}, "api://x/.default", True, id="entra gets .default"),
        pytest.param("scopes", {"preset": "cognito"}, "RESOURCE-SERVER/read", False, id="a placeholder in a scope"),
        pytest.param("scopes", {"preset": "zitadel"}, "profile", False, id="zitadel needs openid"),
        pytest.param("scopes", {"preset": "google"}, "", False, id="google needs a scope"),
        pytest.param("scopes", {"preset": "github-app"}, "contents:read issues:write", True, id="permissions"),
        pytest.param("scopes", {"preset": "github-app"}, "repo", False, id="a scope is no permission"),
        pytest.param(
            "url", {"preset": "entra"}, "https://login.microsoftonline.com/TENANT-ID/v2.0", False, id="tenant"
        ),
        pytest.param("url", {"preset": "auth0"}, "https://mine.REGION.auth0.com/", False, id="one of two placeholders"),
        pytest.param("url", {"preset": "auth0"}, "https://mine.eu.auth0.com/", True, id="auth0's with its slash"),
        pytest.param("url", {"preset": "keycloak"}, "https://x.example/realms/REALMS", True, id="not a placeholder"),
        pytest.param("token_endpoint", {"preset": "cognito"}, "", False, id="cognito's endpoint is elsewhere"),
        pytest.param("method", {"preset": "entra"}, "basic", False, id="a method has its full name"),
        pytest.param("method", {"preset": "zitadel"}, "jwt-bearer", True, id="zitadel has keys"),
        pytest.param("client_id", {"preset": "google"}, "robot@p.iam.gserviceaccount.com", True, id="an address"),
        pytest.param("client_id", {"preset": "google"}, "NAME@PROJECT.iam.gserviceaccount.com", False, id="an example"),
        pytest.param("client_id", {"preset": "github-app"}, "Zx8kPq2LmN4vR7tYbC1dWs9f", False, id="a secret is no id"),
        pytest.param("client_id", {"preset": "github-app"}, "1234567", True, id="an app's number"),
        pytest.param("client_id", {"preset": "github-app"}, "Iv23liZx8kPq2LmN4vR7", True, id="an app's client id"),
        pytest.param("installation", {"preset": "github-app"}, "acme", False, id="an installation is a number"),
        pytest.param("scopes", {}, "a b  c", True, id="scopes are separated by spaces"),
        pytest.param("scopes", {}, 'a"b', False, id="scopes have no quotes"),
        pytest.param("vault", {}, "Agents of ours", True, id="a vault's name has spaces"),
        pytest.param("vault", {}, "Büro", False, id="a vault with other characters goes by its id"),
        pytest.param("item", {}, "Auth0-M2M-Search-Interactive-Prod", True, id="a long name is no secret"),
        pytest.param("item", {}, "Zx8kPq2LmN4vR7tYbC1dWs9f", False, id="a secret is no item"),
        pytest.param("account", {"backend": "sdk"}, "", False, id="the SDK needs the account's name"),
        pytest.param("vault_url", {"backend": "connect"}, "http://c.example", False, id="a Connect server by TLS"),
        pytest.param("credential", {"backend": "connect"}, "eyJhbGciOiJFUzI1NiJ9", False, id="a token is no place"),
        pytest.param("service", {"backend": "keyring"}, "a/b", True, id="a keyring service may hold anything"),
        pytest.param("client_id", {}, "0oa1b2c3", True, id="the client id is no secret"),
        pytest.param("client_id", {}, "op://Agents/0oa1b2c3/username", True, id="the client id may go by reference"),
        pytest.param("client_id", {}, "keyring://a/b", False, id="the client id in another vault"),
        pytest.param("client_id", {}, "Zx8kPq2LmN4vR7tYbC1dWs9f", False, id="a client id that may be a secret"),
        pytest.param("scopes", {"preset": "github-app"}, "", True, id="no permissions: all of the installation"),
        pytest.param("owner", {}, "a\tb", False, id="no control characters"),
        pytest.param("profile", {}, "no spaces", False, id="a profile is a word"),
        pytest.param("program", {}, "/usr/bin/python3*", True, id="a glob over a path"),
        pytest.param("program", {}, "any", True, id="any program"),
    ],
)
def test_answers_are_judged(name: str, given: dict[str, str], answer: str, accepted: bool) -> None:  # noqa: FBT001  # parametrized
    """By the parsers of the configuration, and a reason never repeats a long answer."""
    reason = refusal(question(name, given), answer)
    assert (reason is None) is accepted
    assert len(answer) < 9 or answer not in (reason or "")


def test_the_slash_that_auth0_needs_is_put_into_ones_hand() -> None:
    reason = refusal(question("url", {"preset": "auth0"}), "https://mine.eu.auth0.com")
    assert 'write url = "https://mine.eu.auth0.com/"' in (reason or "")


@pytest.mark.parametrize(
    ("preset", "method"), [(name, method) for name, preset in PRESETS.items() for method in preset.methods]
)
def test_what_is_proposed_is_accepted(preset: str, method: str) -> None:
    """`empty: none` too, and whatever else Return alone stands for."""
    for backend in ("op", "sdk", "connect", "keyring"):
        given = {"preset": preset, "method": method, "backend": backend, "client_id": "7", "installation": "7"}
        for one in all_questions(given | {"scopes": PRESETS[preset].scope_needed or ""}, Found("https://i.example/t")):
            assert one.default is None or refusal(one, one.default) is None, one.name


def test_the_owners_explanation_is_true() -> None:
    """A token that does not say whose it is, is taken, unless the configuration says where it must."""
    assert "compared where it is there, and `claims` in [issuers] says where" in (question("owner", {}).explain or "")


@pytest.mark.parametrize(
    "given",
    [
        pytest.param({"owner": 'O\'Neill "the \\ owner" ü#'}, id="quotes in a name"),
        pytest.param({"backend": "keyring", "service": "a/b c"}, id="keyring"),
        pytest.param({"backend": "service-account"}, id="service account"),
        pytest.param({"backend": "service-account", "credential": "systemd://op"}, id="service account by systemd"),
        pytest.param({"backend": "connect", "vault_url": "https://c.example/x/"}, id="connect"),
        pytest.param({"backend": "sdk", "account": "Example Ltd"}, id="sdk"),
        pytest.param({"program": "/opt/my app/[ab]*"}, id="a program"),
        pytest.param({"profile": "search.v2"}, id="a name with a dot"),
        pytest.param({"preset": "entra", "audience": "", "scopes": "api://x/.default"}, id="entra"),
        pytest.param(
            {"preset": "zitadel", "scopes": "openid", "method": "jwt-bearer", "client_id": "7"}, id="a user's key"
        ),
        pytest.param(
            {"preset": "entra", "scopes": "api://x/.default", "method": "private_key_jwt"}, id="a certificate"
        ),
        pytest.param({"preset": "okta", "method": "private_key_jwt", "key_id": "k"}, id="a key with its id"),
        pytest.param({"preset": "keycloak", "method": "tls_client_auth"}, id="mutual TLS"),
        pytest.param({"preset": "google", "client_id": "a@b", "scopes": "x"}, id="google"),
        pytest.param(
            {"preset": "github-app", "client_id": "7", "scopes": "contents:read", "installation": "9", "url": ""},
            id="github",
        ),
        pytest.param(
            {"preset": "google", "client_id": "a@b", "scopes": "x", "backend": "keyring"}, id="google, keyring"
        ),
        pytest.param({"account": "my.1password.com", "token_endpoint": "https://i.example/t"}, id="all of it"),
    ],
)
def test_what_is_accepted_is_valid(given: dict[str, str]) -> None:
    """Every accepted set of answers makes a file that the parser takes, with the same values in it."""
    answers: Answers = {}
    for one in questions(answers):
        answer = given.get(one.name, ANSWERS.get(one.name, "")) or one.default or ""
        assert refusal(one, answer) is None, one.name
        answers[one.name] = answer
    config = parse(render(answers))
    assert config.vault.credential == answers.get("credential")
    assert config.vault.url == (answers["vault_url"].rstrip("/") if "vault_url" in answers else None)
    assert config.clients["main"].owner == answers["owner"]
    assert config.profiles[answers["profile"]].scopes == tuple(answers["scopes"].split())
    names = ("client_id", "client_secret", "private_key", "certificate")
    written = [answers[name] for name in names if "://" in answers.get(name, "")]
    assert [str(ref) for ref in config.refs()] == written
    assert config.clients["main"].key_id == (answers.get("key_id") or None)
    assert config.rules[0].peer.exe == (None if answers["program"] == "any" else answers["program"])


NAMES = {"url", "method", "audience", "scopes", "client_id", "client_secret"}


@pytest.mark.parametrize(
    ("preset", "asked"),
    [
        ("auth0", NAMES | {"organization"}),
        ("okta", NAMES - {"audience"}),
        ("entra", NAMES - {"audience"}),
        ("keycloak", NAMES - {"audience"}),
        ("cognito", NAMES - {"audience"}),
        ("pingone", NAMES - {"audience"}),
        ("google", {"scopes", "client_id", "private_key"}),
        ("github-app", {"url", "scopes", "repositories", "client_id", "installation", "private_key"}),
        ("zitadel", NAMES - {"audience"}),
        ("workos", NAMES - {"audience", "method"}),
        ("stytch", NAMES - {"audience", "method"}),
        ("descope", NAMES - {"audience", "method"} | {"resource"}),
        ("hydra", NAMES),
        ("oidc", NAMES),
    ],
)
def test_each_preset_asks_what_its_product_needs(preset: str, asked: set[str]) -> None:
    """And no more; the rest is asked by all, and comes in one order."""
    names = [one.name for one in all_questions({"preset": preset}, Found("https://i.example/token"))]
    common = ["backend", "account", "vault", "item", "agent_type", "owner", "profile", "program"]
    assert set(names) == {"preset", *asked, *common}
    assert [name for name in names if name in ANSWERS] == [name for name in ANSWERS if name in names]


def test_the_questions_have_the_products_own_examples() -> None:
    """What its user sees in its console."""
    for name, preset in PRESETS.items():
        given = {"preset": name, "scopes": "openid", "client_id": "7", "installation": "7"}
        told = "\n".join(one.explain or "" for one in all_questions(given))
        if preset.token_endpoint is None:
            assert preset.url_example in told
        assert preset.scope_example is None or preset.scope_example in told
        assert preset.endpoint_example is None or preset.endpoint_example in told
        assert preset.methods[0] in {preset.auth, preset.grant}


def test_an_endpoint_elsewhere_is_proposed_and_one_at_the_issuers_host_not_asked_for() -> None:
    """What discovery finds saves typing, and a person agrees to where a secret goes."""
    elsewhere = question(
        "token_endpoint", {"preset": "cognito"}, Found("https://d.example/oauth2/token", elsewhere=True)
    )
    assert elsewhere.default == "https://d.example/oauth2/token"
    assert "secrets are sent there" in (elsewhere.explain or "")
    for preset in ("descope", "oidc"):
        asked = all_questions({"preset": preset}, Found("https://i.example/token"))
        assert "token_endpoint" not in [one.name for one in asked]


def test_a_preset_on_the_command_line_is_not_asked_for(rig: Rig, new: Path, issuer: DevIssuer) -> None:
    """The questions begin with the URL, and the product's name stands in the file."""
    answers = lines(url=issuer.url, without=("preset", *FOUND))
    code, out, _ = init(rig, new, answers, "--preset", "hydra")
    assert code == 0
    assert "issuer product" not in out
    assert tomllib.loads(new.read_text())["issuers"]["main"]["preset"] == "hydra"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("auht0", "did you mean `auth0`?"), ("entraid", "did you mean `entra`?"), ("zzz", "take one of auth0, okta, ")],
)
def test_a_preset_that_is_not_there(rig: Rig, new: Path, name: str, hint: str) -> None:
    """Nothing is asked, and the nearest is named."""
    code, out, err = init(rig, new, "", "--preset", name)
    assert (code, out) == (2, "")
    assert err.startswith(f"broker: error: there is no preset '{name}'\nbroker: hint: {hint}")


def test_the_help_lists_the_presets(rig: Rig) -> None:
    """As they are, without loading them for each command."""
    assert set(PRESET_NAMES) == set(PRESETS)
    told = " ".join(rig.broker("init", "--help").out.split())
    assert f"the issuer's product: {', '.join(PRESET_NAMES)}".replace("github- app", "github-app") in told
