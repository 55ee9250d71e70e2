"""The grants: client credentials (RFC 6749 §4.4), JWT bearer (RFC 7523 §2.1), token exchange (RFC 8693)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.standins.second_issuer import assertions, authentication, jose, targets
from tests.standins.second_issuer.assertions import Rules
from tests.standins.second_issuer.minting import Grant
from tests.standins.second_issuer.refusals import Refused
from tests.standins.second_issuer.state import CLIENT_CREDENTIALS, JWT_BEARER, TOKEN_EXCHANGE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.standins.second_issuer.call import Call, Parameters
    from tests.standins.second_issuer.state import Client, State

TOKEN_TYPES = {f"urn:ietf:params:oauth:token-type:{name}": name for name in ("access_token", "jwt", "id_token")}
ISSUABLE = {"access_token", "jwt"}


def grant(call: Call, form: Parameters, state: State) -> tuple[Grant, dict[str, Any]]:
    """Return what is granted, and members that go into the answer besides the usual ones."""
    grant_type = form.need("grant_type")
    handlers: dict[str, Callable[[Call, Parameters, State], tuple[Grant, dict[str, Any]]]] = {
        CLIENT_CREDENTIALS: _client_credentials,
        JWT_BEARER: _jwt_bearer,
        TOKEN_EXCHANGE: _token_exchange,
    }
    if grant_type not in handlers or grant_type not in state.face.grants:
        raise Refused("unsupported_grant", grant_type)
    granted, more = handlers[grant_type](call, form, state)
    if grant_type not in granted.client.grants:
        raise Refused("forbidden_grant", f"{granted.client.id} may not use {grant_type}")
    return granted, more


def _client_credentials(call: Call, form: Parameters, state: State) -> tuple[Grant, dict[str, Any]]:
    client = authentication.authenticate(call, form, state)
    if client.auth == "none":  # RFC 6749 §4.4: confidential clients only
        raise Refused("forbidden_grant", "a public client")
    asked = targets.asked_scopes(form.get("scope"))
    return _granted(client, form, state, asked), {}


def _granted(client: Client, form: Parameters, state: State, asked: tuple[str, ...], **more: Any) -> Grant:
    scopes = targets.scopes(client, asked, state.face)
    audience = targets.audience(client, form, asked, state.face)
    opaque = not audience and state.face.without_audience == "opaque"
    organization = targets.organization(client, form.get("organization"))
    return Grant(client, audience, scopes, asked, organization=organization, opaque=opaque, **more)


def _jwt_bearer(call: Call, form: Parameters, state: State) -> tuple[Grant, dict[str, Any]]:
    face = state.face
    token = form.need("assertion")
    client = state.client(assertions.claimed_client(token, "bad_grant"))
    if call.header("authorization") or form.get("client_assertion") or form.get("client_secret"):
        if authentication.authenticate(call, form, state).id != client.id:
            raise Refused("bad_grant", "the assertion is another client's")
    elif client.auth != "none":
        raise Refused("no_authentication", f"{client.id} is registered for {client.auth}")
    rules = Rules(
        algs=face.assertion_algs,
        audiences=state.audiences(face.assertion_audiences),
        lifetime=face.assertion_lifetime,
        skew=face.skew,
        headers=face.assertion_headers,
        jti=False,
    )
    try:
        assertions.check(
            token, client, rules, state, lambda jws: [assertions.key_named(jws, client, face.assertion_headers)]
        )
        if face.bearer_sub_is_iss:
            assertions.subject_is(token, client.id)
    except jose.Malformed as error:
        raise Refused("bad_grant", str(error)) from error
    claims = jose.parse(token).claims
    subject = claims.get("sub")
    if face.bearer_scope == "assertion" and "iat" not in claims:
        raise Refused("bad_grant", "iat is missing")
    scope = claims.get("scope") if face.bearer_scope == "assertion" else form.get("scope")
    asked = targets.asked_scopes(scope if isinstance(scope, str) else None)
    return _granted(client, form, state, asked, subject=subject if isinstance(subject, str) else None), {}


def _token_exchange(call: Call, form: Parameters, state: State) -> tuple[Grant, dict[str, Any]]:
    client = authentication.authenticate(call, form, state)
    subject = _token(form.need("subject_token"), form.need("subject_token_type"), state)
    if (form.get("actor_token") is None) != (form.get("actor_token_type") is None):
        raise Refused("malformed", "actor_token and actor_token_type go together")  # RFC 8693 §2.1
    requested = form.get("requested_token_type") or "urn:ietf:params:oauth:token-type:access_token"
    if TOKEN_TYPES.get(requested) not in ISSUABLE:
        raise Refused("malformed", f"requested_token_type {requested}")
    claims: dict[str, Any] = {name: subject[name] for name in ("owner", "org_id") if name in subject}
    actor = _actor(client, form, state)
    if actor is not None:
        _may_act(subject, actor)
        if "act" in subject:  # RFC 8693 §4.1: the outermost is the current actor, earlier ones nest in it
            actor = {**actor, "act": subject["act"]}
        claims["act"] = actor
    elif "act" in subject:
        claims["act"] = subject["act"]
    asked = targets.asked_scopes(form.get("scope"))
    granted = _granted(client, form, state, asked, subject=subject["sub"], claims=claims)
    return granted, {"issued_token_type": requested}


def _actor(client: Client, form: Parameters, state: State) -> dict[str, Any] | None:
    token, token_type = form.get("actor_token"), form.get("actor_token_type")
    if token is None or token_type is None:
        return {"sub": client.id} if state.face.exchange_actor == "client" else None
    return {"sub": _token(token, token_type, state)["sub"]}


def _may_act(subject: dict[str, Any], actor: dict[str, Any]) -> None:
    allowed = subject.get("may_act")
    if isinstance(allowed, dict) and allowed.get("sub") != actor["sub"]:
        raise Refused("bad_token", f"{actor['sub']} may not act for {subject['sub']}")


def _token(token: str, token_type: str, state: State) -> dict[str, Any]:
    """Return the claims of a token that this issuer gave out; RFC 8693 §2.2.2: invalid_request if it is not good."""
    kind = TOKEN_TYPES.get(token_type)
    if kind is None:
        raise Refused("malformed", f"unknown token type {token_type}")
    minted = state.active(token)
    if minted is None:
        raise Refused("bad_token", "the token is unknown, expired or revoked")
    if kind != "access_token" and not minted.is_jwt:
        raise Refused("bad_token", f"the token is no {kind}")
    return minted.claims
