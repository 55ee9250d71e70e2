"""The parameters of each grant, and what an issuer's answer to it means."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tokenbroker.config import IssuerConfig
from tokenbroker.config.fields import Problem
from tokenbroker.config.issuers import extra_params
from tokenbroker.errors import (
    CredentialRejected,
    IssuerError,
    IssuerMisconfigured,
    IssuerNeedsPerson,
    SubjectRefused,
    TokenMismatch,
)
from tokenbroker.issuers import grants
from tokenbroker.issuers.authentication import Occasion
from tokenbroker.issuers.exchange import Attempt, Reply
from tokenbroker.issuers.grants import Wanted
from tokenbroker.issuers.problems import refusal
from tokenbroker.issuers.response import parse
from tokenbroker.model import Credentials, Grant, Instant, Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

NOW = 1_800_000_000.0
ISSUER = "https://login.example.com/"
ENDPOINT = "https://login.example.com/token"


@cache
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def pem() -> Secret:
    return Secret(key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


def make(wanted: Wanted, **issuer: Any) -> tuple[dict[str, str], tuple[Secret, ...]]:
    config = IssuerConfig("main", **issuer)
    occasion = Occasion(config=config, issuer=ISSUER, token_endpoint=ENDPOINT, now=NOW, jti=lambda: "j1")
    pairs, hidden = grants.parameters(wanted, Credentials("client", auth="none", private_key=pem()), occasion)
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs), hidden


def signed(form: Mapping[str, str], **issuer: Any) -> dict[str, Any]:
    audience = ENDPOINT if issuer.get("assertion_audience") == "token_endpoint" else ISSUER
    options: Any = {"verify_exp": False, "verify_iat": False}
    claims: dict[str, Any] = jwt.decode(
        form["assertion"], key().public_key(), ["ES256"], audience=audience, options=options
    )
    return claims


def test_jwt_bearer_signs_who_asks() -> None:
    """RFC 7523 §3: `iss` and `sub` are the client, the scopes stand beside the assertion, which is kept from errors."""
    form, hidden = make(Wanted(Grant("jwt-bearer"), ("a", "b"), "https://api"))
    assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
    assert (form["scope"], form["audience"]) == ("a b", "https://api")
    claims = signed(form)
    assert (claims["iss"], claims["sub"], claims["jti"]) == ("client", "client", "j1")
    assert claims["exp"] - claims["iat"] == 60
    assert "scope" not in claims
    assert Secret(form["assertion"]) in hidden


def test_googles_assertion_has_scopes_and_no_subject() -> None:
    """Google reads the scopes within; a `sub` would ask for delegation."""
    google = {"assertion_scope": True, "assertion_subject": "none", "assertion_audience": "token_endpoint"}
    form, _ = make(Wanted(Grant("jwt-bearer"), ("a", "b")), **google)
    claims = signed(form, **google)
    assert claims["scope"] == "a b"
    assert "sub" not in claims
    assert "scope" not in form


def test_a_configured_subject_is_on_whose_behalf() -> None:
    """With delegation the assertion's `sub` is the person, whatever the preset."""
    form, _ = make(Wanted(Grant("jwt-bearer", subject="alice")), assertion_subject="none")
    assert signed(form)["sub"] == "alice"


def test_token_exchange_names_its_types() -> None:
    """Short names are those of RFC 8693 §3, a URI goes as it is, and both tokens are kept from errors."""
    grant = Grant(
        "token-exchange",
        subject_token=Secret("subject"),
        subject_token_type="id_token",
        actor_token=Secret("actor"),
        actor_token_type="urn:example:own",
        requested_token_type="jwt",
    )
    form, hidden = make(Wanted(grant, ("a",), "https://api", "https://resource"))
    assert form == {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": "subject",
        "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
        "actor_token": "actor",
        "actor_token_type": "urn:example:own",
        "requested_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "scope": "a",
        "audience": "https://api",
        "resource": "https://resource",
    }
    assert set(hidden) == {Secret("subject"), Secret("actor")}


def test_nothing_is_sent_of_an_actor_that_is_not_there() -> None:
    """RFC 8693 §2.1: `actor_token_type` must not be there without `actor_token`."""
    form, _ = make(Wanted(Grant("token-exchange", subject_token=Secret("subject"))))
    assert set(form) == {"grant_type", "subject_token", "subject_token_type"}


@pytest.mark.parametrize("grant", ["token-exchange", "github-app", "urn:some:draft"])
def test_what_cannot_be_made_is_a_configuration_error(grant: str) -> None:
    with pytest.raises(IssuerMisconfigured, match=f"grant {grant}"):
        make(Wanted(Grant(grant)))


@pytest.mark.parametrize("name", ["assertion", "subject_token", "actor_token_type", "client_id", "grant_type"])
def test_an_extra_parameter_replaces_none_of_the_grants(name: str) -> None:
    with pytest.raises(IssuerMisconfigured, match=f"may not set {name}"):
        grants.check(Wanted(extra={name: "x"}), IssuerConfig("main"))


def attempt(grant: str, auth: str = "none") -> Attempt:
    return Attempt(issuer="main", host="login.example.com", started=Instant(NOW, 1.0), grant=grant, auth=auth)


def refused(code: str, grant: str, status: int = 400, auth: str = "none", date: str | None = None) -> IssuerError:
    headers = {} if date is None else {"date": date}
    return refusal(Reply(status, headers, json.dumps({"error": code}).encode()), attempt(grant, auth))


@pytest.mark.parametrize(
    ("code", "status", "grant", "auth", "kind"),
    [
        ("invalid_grant", 400, "jwt-bearer", "none", CredentialRejected),
        ("invalid_grant", 400, "jwt-bearer", "client_secret_post", CredentialRejected),
        ("invalid_grant", 400, "client_credentials", "client_secret_post", IssuerMisconfigured),
        ("invalid_request", 400, "token-exchange", "client_secret_post", SubjectRefused),
        ("invalid_grant", 400, "token-exchange", "private_key_jwt", SubjectRefused),
        ("invalid_token", 400, "token-exchange", "client_secret_post", SubjectRefused),
        ("invalid_client", 401, "token-exchange", "client_secret_post", CredentialRejected),
        ("invalid_scope", 400, "token-exchange", "client_secret_post", IssuerMisconfigured),
        ("invalid_request", 400, "jwt-bearer", "none", IssuerMisconfigured),
    ],
)
def test_a_refusal_by_grant(code: str, status: int, grant: str, auth: str, kind: type[IssuerError]) -> None:
    """A refused assertion is the client's credential; a refused subject token is not."""
    assert type(refused(code, grant, status, auth)) is kind


def test_a_clock_that_is_off_is_named_before_the_key() -> None:
    """Google says `invalid_grant` for a wrong clock too; its `Date` tells."""
    error = refused("invalid_grant", "jwt-bearer", date="Fri, 15 Jan 2027 07:50:00 GMT")
    assert isinstance(error, IssuerNeedsPerson)
    assert "clock is 600 s ahead" in error.message


def test_a_token_of_no_use_is_refused_in_clear_words() -> None:
    """`N_A` stands for a token that is no access token (RFC 8693 §2.2.1)."""
    body = json.dumps({"access_token": "t", "token_type": "N_A", "issued_token_type": "x"}).encode()
    with pytest.raises(IssuerMisconfigured, match="no access token"):
        parse(Reply(200, {}, body), attempt("token-exchange"), default_ttl=300, max_ttl=3600)


def test_another_type_than_asked_is_refused_with_both_named() -> None:
    """The type that was issued is compared with the one that was asked for."""
    wanted = Wanted(Grant("token-exchange", requested_token_type="access_token"))
    grants.check_issued("urn:ietf:params:oauth:token-type:access_token", wanted, attempt("token-exchange"))
    grants.check_issued(None, wanted, attempt("token-exchange"))
    with pytest.raises(TokenMismatch, match=r"type .*:id_token, asked was .*:access_token"):
        grants.check_issued("urn:ietf:params:oauth:token-type:id_token", wanted, attempt("token-exchange"))


@pytest.mark.parametrize(
    "name",
    ["grant_type", "client_x", "client_secret", "scope", "actor_token_type", "requested_token_type", "assertion"],
)
def test_no_extra_parameter_replaces_one_of_ours(name: str) -> None:
    """One list for the file and for the request: what loads does not fail later."""
    with pytest.raises(Problem, match="sends itself"):
        extra_params({name: "x"})
    with pytest.raises(IssuerMisconfigured, match=f"may not set {name}"):
        grants.check(Wanted(extra={name: "x"}), IssuerConfig("main"))


def test_other_parameters_are_taken() -> None:
    assert extra_params({"dialect": "rfc9068"}) == {"dialect": "rfc9068"}
    grants.check(Wanted(extra={"dialect": "rfc9068"}), IssuerConfig("main"))
