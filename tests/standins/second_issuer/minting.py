"""Access tokens: RFC 9068 and the dialects of particular issuers, opaque ones, and the answer that carries them."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.standins.second_issuer import jose
from tests.standins.second_issuer.state import Minted

if TYPE_CHECKING:
    from tests.standins.second_issuer.state import Client, State


@dataclass(frozen=True)
class Grant:
    """What was granted. `asked` are the scopes of the request, in its order."""

    client: Client
    audience: tuple[str, ...]
    scopes: tuple[str, ...]
    asked: tuple[str, ...] = ()
    subject: str | None = None
    organization: str | None = None
    opaque: bool = False
    claims: dict[str, Any] = field(default_factory=dict)


def token_claims(grant: Grant, state: State, confirmation: dict[str, str]) -> dict[str, Any]:
    """Return the claims of a token, named as the face's dialect names them."""
    face, client, dialect = state.face, grant.client, state.face.dialect
    now = int(state.clock.now())
    origin = state.token_endpoint.removesuffix(face.token_path)
    claims: dict[str, Any] = {
        "iss": face.token_issuer.format(origin=origin) if face.token_issuer else state.issuer,
        "sub": grant.subject or client.subject or dialect.subject.format(client=client.id),
        "iat": now,
        "exp": now + (face.lifetime if not grant.opaque else face.opaque_lifetime or face.lifetime),
        **dialect.more,
    }
    if dialect.audience and grant.audience:
        claims["aud"] = grant.audience[0] if len(grant.audience) == 1 else list(grant.audience)
    if dialect.client:
        claims[dialect.client] = client.id
    if dialect.jti:
        claims["jti"] = secrets.token_urlsafe(12)
    claims |= _scopes(dialect.scope, grant)
    private = {"owner": client.owner, "agent_type": client.agent_type, "org_id": grant.organization}
    claims |= {face.claim_names.get(name, name): value for name, value in private.items() if value is not None}
    if confirmation:
        claims["cnf"] = confirmation
    return claims | client.claims | grant.claims


def _scopes(name: str, grant: Grant) -> dict[str, Any]:
    if not grant.scopes:
        return {}
    if name == "roles" and grant.subject is not None:
        name = "scp"  # Entra: roles are an app's own, scp is what a user delegated
        return {name: " ".join(grant.scopes)}
    return {name: " ".join(grant.scopes) if name == "scope" else list(grant.scopes)}


def mint(grant: Grant, state: State, confirmation: dict[str, str]) -> Minted:
    """Issue an access token and remember it."""
    wanted = grant.client.token_format or state.face.token_format
    claims = token_claims(grant, state, confirmation)
    if wanted == "opaque" or grant.opaque:
        minted = Minted(secrets.token_urlsafe(32), grant.client.id, claims, is_jwt=False)
    else:
        minted = Minted(sign(claims, state), grant.client.id, claims, is_jwt=True)
    state.minted.append(minted)
    return minted


def sign(claims: dict[str, Any], state: State, typ: str | None = None) -> str:
    """Sign `claims` with the key in use."""
    key = next(key for key in reversed(state.keys) if key.alg == state.face.signing_alg)
    header = {"alg": key.alg, "kid": key.kid, "typ": typ or state.face.dialect.typ}
    return jose.sign({name: value for name, value in header.items() if value is not None}, claims, key.private)


def answer(minted: Minted, grant: Grant, state: State, token_type: str) -> dict[str, Any]:
    """Return the body of RFC 6749 §5.1."""
    face = state.face
    body: dict[str, Any] = {"access_token": minted.token, "token_type": token_type}
    seconds = minted.claims["exp"] - minted.claims["iat"]
    match face.expires_in:
        case "int":
            body["expires_in"] = seconds
        case "float":
            body["expires_in"] = float(seconds)
        case "string":
            body["expires_in"] = str(seconds)
        case "absent":
            pass
    narrowed = bool(grant.asked) and set(grant.asked) != set(grant.scopes)
    if grant.scopes and (face.scope_member == "always" or (face.scope_member == "narrowed" and narrowed)):
        body["scope"] = " ".join(grant.scopes)
    return body
