"""What a person is told to do about a refusal: by the evidence there is, the most likely step first."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tokenbroker.issuers.exchange import Attempt, Reply
from tokenbroker.issuers.problems import refusal
from tokenbroker.model import Instant
from tokenbroker.scrub import scrub

if TYPE_CHECKING:
    from tokenbroker.errors import IssuerError

NOW = 1_800_000_000.0
POST = Attempt("main", "login.example.com", Instant(NOW, 5.0), auth="client_secret_post", scopes=("a", "b"))
BASIC = replace(POST, auth="client_secret_basic")
SIGNED = replace(POST, auth="private_key_jwt")
GOOGLE = replace(POST, auth="none", grant="jwt-bearer")
GITHUB = replace(SIGNED, grant="github-app")
ROTATED = "refers to may have been rotated: put the new one there, then `broker unlock`"
TRACE = "255d1aef-8c98-452f-ac51-23d051240864"
CORRELATION = "fe37af96-abe7-4dc4-b99e-949bb6cc9f87"


def judge(body: dict[str, Any], attempt: Attempt, status: int = 400) -> IssuerError:
    return refusal(Reply(status, {}, json.dumps(body).encode()), attempt)


def entra(number: int, error: str) -> dict[str, Any]:
    words = f"AADSTS{number}: words"
    return {"error": error, "error_codes": [number], "error_description": words, "trace_id": TRACE}


REFUSED = {"error": "invalid_client"}


@pytest.mark.parametrize(
    ("body", "attempt", "hint"),
    [
        pytest.param(
            REFUSED,
            POST,
            f"what the client's client_secret {ROTATED}; or set another `auth`, if the issuer wants one",
            id="a secret",
        ),
        pytest.param(
            REFUSED,
            SIGNED,
            f"what the client's private_key {ROTATED}; or correct key_id, assertion_audience or assertion_alg to what "
            "the issuer wants, or set another `auth`",
            id="a key",
        ),
        pytest.param(
            REFUSED, replace(POST, auth="tls_client_auth"), f"what the client's certificate {ROTATED}; or set another "
            "`auth`, if the issuer wants one", id="a certificate",
        ),
        pytest.param(
            REFUSED,
            GOOGLE,
            f"what the client's private_key {ROTATED}; or correct key_id, assertion_audience or assertion_alg to what "
            "the issuer wants",
            id="a key by which nobody authenticates",
        ),
        pytest.param(
            REFUSED, GITHUB, f"what the client's private_key {ROTATED}; or correct client_id in [clients]", id="an app"
        ),
        pytest.param(
            REFUSED,
            replace(POST, auth_methods=("client_secret_basic", "private_key_jwt")),
            "the issuer's metadata names client_secret_basic, private_key_jwt; "
            'set auth = "client_secret_basic" in [clients]',
            id="a method that the metadata does not name",
        ),
        pytest.param(
            REFUSED,
            replace(SIGNED, auth_methods=("client_secret_post",)),
            'the issuer\'s metadata names client_secret_post; set auth = "client_secret_post" in [clients]',
            id="no named method fits the key",
        ),
        pytest.param(
            REFUSED,
            replace(POST, auth_methods=("client_secret_post", "private_key_jwt")),
            f"what the client's client_secret {ROTATED}; or set another `auth`, if the issuer wants one",
            id="a method that the metadata names",
        ),
        pytest.param(
            REFUSED | {"error_description": "Request denied: Unsupported authentication method"},
            BASIC,
            "set auth in [clients] to the method that the issuer has for this client (used: client_secret_basic)",
            id="the issuer speaks of the method, PingOne",
        ),
        pytest.param(
            REFUSED,
            replace(BASIC, other_encoding="raw"),
            f"what the client's client_secret {ROTATED}; or "
            'try basic_encoding = "raw" in [issuers.main], or another `auth`: the client\'s id or secret has '
            "characters that issuers decode differently",
            id="characters that are decoded differently",
        ),
        pytest.param(
            {"error": "invalid_request", "error_description": "authorization header value is not properly encoded"},
            replace(POST, auth="client_secret_basic", other_encoding="raw", beyond_ascii=True),
            'set auth = "client_secret_post" in [clients]: the client\'s id or secret has characters beyond ASCII, '
            "which issuers decode differently",
            id="oidc-provider: Basic with more than ASCII",
        ),
        pytest.param(
            entra(7000215, "invalid_client"),
            POST,
            "the secret's value, not its id, belongs where the client's client_secret refers; if it was rotated, put "
            "the new one there, then `broker unlock`",
            id="Entra: the secret's id instead of its value",
        ),
        pytest.param(
            {"error": "invalid_grant", "error_description": "Invalid grant: account not found"},
            GOOGLE,
            "the service account is gone, or client_id in [clients] is not its address: restore it or make another",
            id="Google: the service account is gone",
        ),
        pytest.param(
            {"error": "invalid_grant"},
            POST,
            "set dpop = true in [issuers.main] if the client's tokens are bound to a key (DPoP)",
            id="oidc-provider: no proof",
        ),
        pytest.param(
            {"error": "invalid_grant"},
            SIGNED,
            "set dpop = true in [issuers.main] if the client's tokens are bound to a key (DPoP); or what the client's "
            f"private_key {ROTATED}",
            id="oidc-provider: no proof, or another key",
        ),
        pytest.param(
            entra(90002, "invalid_request"),
            replace(POST, audience="api"),
            "correct the tenant in url of [issuers.main]",
            id="Entra: no such tenant",
        ),
        pytest.param(
            entra(500011, "invalid_resource"),
            replace(POST, scopes=("api://x/.default",)),
            "correct scopes in the profile (asked: api://x/.default): what precedes /.default names an API of the "
            "tenant",
            id="Entra: no such API",
        ),
        pytest.param(
            {"errorCode": "E0000014", "errorSummary": "Update of credentials failed.", "errorId": "oaeFDV3HiAQ"},
            replace(POST, audience="api"),
            "find errorId oaeFDV3HiAQ in the issuer's log, or ask its support; then run `broker doctor`",
            id="Okta: a number",
        ),
        pytest.param(
            {"error": "something_new"},
            replace(POST, audience="api"),
            "look into the issuer's log; then run `broker doctor`",
            id="a code that nobody knows",
        ),
        pytest.param(
            {"error": "invalid_target"},
            replace(POST, audience="api"),
            "check audience = 'api' in the profile, and that the issuer lets this client have it",
            id="a target alone is about the audience",
        ),
    ],
)  # fmt: skip
def test_the_evidence_decides_what_comes_first(body: dict[str, Any], attempt: Attempt, hint: str) -> None:
    """Cause by cause; what nobody knows is not put down to the audience."""
    assert judge(body, attempt).hint == hint


def test_metadata_changes_no_class() -> None:
    """It may lie: a refusal by a method that it does not name is a refusal like any other."""
    assert type(judge(REFUSED, replace(POST, auth_methods=("private_key_jwt",)))) is type(judge(REFUSED, POST))


def test_a_bound_client_is_not_told_to_bind() -> None:
    """With a proof sent, `invalid_grant` has another cause."""
    assert "dpop" not in str(judge({"error": "invalid_grant"}, replace(POST, dpop=True)).hint)


def test_both_ids_of_entra_are_told() -> None:
    """Its support asks for both; a long pair is one."""
    body = entra(50049, "x") | {"correlation_id": CORRELATION}
    assert judge(body, POST).message.endswith(f", trace_id {TRACE}, correlation_id {CORRELATION}")
    long = entra(50049, "x") | {"correlation_id": "c" * 100}
    assert judge(long, POST).message.endswith(f", trace_id {TRACE}")


@pytest.mark.parametrize(
    ("text", "limit", "shown"),
    [
        pytest.param("one two three", 13, "one two three", id="what fits stays"),
        pytest.param("one two three", 12, "one two…", id="at the last whole word"),
        pytest.param("one two three", 8, "one two…", id="right behind a word"),
        pytest.param("one two, three", 11, "one two…", id="without the comma"),
        pytest.param("a wordthatislong", 9, "a wordth…", id="a long word is cut"),
    ],
)
def test_words_are_cut_between_words(text: str, limit: int, shown: str) -> None:
    """And the cut is seen."""
    assert scrub(text, (), limit) == shown
