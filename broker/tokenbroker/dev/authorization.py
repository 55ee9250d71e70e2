"""Authlib's authorization server, bent to what the development issuer needs. Never for production.

Authlib does the protocol, and this file three things that it does not:

1. HTTP Basic is decoded as RFC 6749 §2.3.1 says (form-encoded before base64). Authlib decodes it with `unquote`,
   which leaves `+` alone, so an authlib client and an authlib server agree with each other and with nobody else.
2. `audience` (Auth0's name) and `resource` (RFC 8707) choose the token's audience, each with its own scopes.
3. Tokens are not logged: authlib's own grant writes them at debug level.
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote_plus

from aiohttp import web
from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import (
    AuthorizationServer,
    ClientCredentialsGrant,
    InvalidClientError,
    InvalidScopeError,
    OAuth2Request,
)
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7662 import IntrospectionEndpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tokenbroker.dev.issuer import DevIssuer
    from tokenbroker.model import AgentType, Secret

AUTH_METHODS = ("client_secret_basic", "client_secret_post")


@dataclass(frozen=True, slots=True)
class DevClient:
    """A registered OAuth client, in the form that authlib asks its questions."""

    client_id: str
    secret: Secret
    owner: str
    agent_type: AgentType
    grants: Mapping[str, frozenset[str]]
    """Audience → the scopes that this client may have there."""

    def get_client_id(self) -> str:
        """Return the identifier."""
        return self.client_id

    def check_client_secret(self, text: str) -> bool:
        """Compare in constant time."""
        return secrets.compare_digest(self.secret.reveal().encode(), text.encode())

    def check_endpoint_auth_method(self, method: str, _endpoint: str) -> bool:
        """Allow either way to present a secret."""
        return method in AUTH_METHODS

    def check_grant_type(self, grant_type: str) -> bool:
        """Allow the client credentials grant alone."""
        return grant_type == "client_credentials"


class InvalidTargetError(OAuth2Error):  # type: ignore[misc]  # authlib is not typed
    """The client has no such audience (RFC 8707 §2)."""

    error = "invalid_target"


class Form(OAuth2Request):  # type: ignore[misc]  # authlib is not typed
    """A form-encoded request in authlib's terms."""

    def __init__(self, request: web.Request, fields: dict[str, str]) -> None:
        super().__init__(request.method, str(request.url), headers=request.headers)
        self.payload = BasicOAuth2Payload(fields)

    @property
    def form(self) -> dict[str, str]:
        """Return the fields of the body."""
        return self.payload.data  # type: ignore[no-any-return]


async def read_form(request: web.Request) -> Form:
    """Return the form in the body of `request`. Raises `HTTPBadRequest` if it is none."""
    try:
        pairs = parse_qsl((await request.read()).decode(), keep_blank_values=True)
    except UnicodeDecodeError:
        pairs = []
    fields = dict(pairs)
    if not pairs or len(fields) != len(pairs):  # "parameters MUST NOT be included more than once", RFC 6749 §3.2
        raise web.HTTPBadRequest(text=json.dumps({"error": "invalid_request"}), content_type="application/json")
    return Form(request, fields)


class _Grant(ClientCredentialsGrant):  # type: ignore[misc]  # authlib is not typed
    """The grant of RFC 6749 §4.4 for one audience."""

    TOKEN_ENDPOINT_AUTH_METHODS = AUTH_METHODS

    def create_token_response(self) -> tuple[int, dict[str, Any], Any]:
        client: DevClient = self.request.client
        audience = _audience(client, self.request.payload.data)
        allowed = client.grants[audience]
        asked = frozenset((self.request.payload.scope or "").split()) or allowed
        if not asked <= allowed:
            raise InvalidScopeError
        body = self.server.issuer.mint(client, audience, " ".join(sorted(asked)))
        return 200, body, self.TOKEN_RESPONSE_HEADER


def _audience(client: DevClient, fields: Mapping[str, str]) -> str:
    """Return the audience asked for by either name; a client with only one need not ask."""
    named = {fields[name] for name in ("audience", "resource") if fields.get(name)} or set(client.grants)
    if len(named) != 1 or not named <= set(client.grants):
        raise InvalidTargetError
    return named.pop()


class _Revocation(RevocationEndpoint):  # type: ignore[misc]  # authlib is not typed
    """RFC 7009: notes the token's `jti`. An API that checks signatures alone does not come to know of it."""

    CLIENT_AUTH_METHODS = AUTH_METHODS

    def query_token(self, token: str, _hint: str | None) -> _Issued | None:
        claims = self.server.issuer.read(token)
        return _Issued(claims) if claims else None

    def revoke_token(self, token: _Issued, _request: Form) -> None:
        self.server.issuer.revoked.add(token.claims["jti"])


class _Introspection(IntrospectionEndpoint):  # type: ignore[misc]  # authlib is not typed
    """RFC 7662: what a token says and whether it is still good, to the client that it was given to and to no other."""

    CLIENT_AUTH_METHODS = AUTH_METHODS

    def query_token(self, token: str, _hint: str | None) -> _Issued | None:
        claims = self.server.issuer.live(token)
        return _Issued(claims) if claims else None

    def check_permission(self, token: _Issued, client: DevClient, _request: Form) -> bool:
        return token.check_client(client)

    def introspect_token(self, token: _Issued) -> dict[str, Any]:
        return {"active": True, "token_type": "Bearer", **token.claims}


@dataclass(frozen=True, slots=True)
class _Issued:
    claims: Mapping[str, Any]

    def check_client(self, client: DevClient) -> bool:
        return client.client_id == str(self.claims["client_id"])

    def is_expired(self) -> bool:
        return False  # `live` has looked, by the issuer's own clock

    def is_revoked(self) -> bool:
        return False  # as above


class Server(AuthorizationServer):  # type: ignore[misc]  # authlib is not typed
    """Authlib's server with aiohttp's answers."""

    def __init__(self, issuer: DevIssuer) -> None:
        super().__init__()
        self.issuer = issuer
        self.register_client_auth_method("client_secret_basic", _authenticate_basic)
        self.register_grant(_Grant)
        self.register_endpoint(_Revocation)
        self.register_endpoint(_Introspection)

    def query_client(self, client_id: str) -> DevClient | None:
        """Ask the issuer for a client."""
        return self.issuer.client(client_id)

    def create_oauth2_request(self, request: Form) -> Form:
        """Take the request as it is: `read_form` has made it, and reading a body cannot be done from here."""
        return request

    def send_signal(self, name: str, *args: object, **kwargs: object) -> None:
        """Tell nobody: authlib's signals carry clients and tokens."""

    def handle_response(self, status: int, body: object, headers: Any) -> web.Response:
        """Make aiohttp's answer."""
        return web.Response(status=status, text=json.dumps(body), headers=dict(headers))


def _authenticate_basic(query_client: Callable[[str], DevClient | None], request: Form) -> DevClient | None:
    """Authenticate by HTTP Basic, form-decoding both halves (RFC 6749 §2.3.1)."""
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        text = base64.b64decode(encoded, validate=True).decode("ascii")
        name, _, secret = text.partition(":")
        client = query_client(unquote_plus(name, errors="strict"))
        secret = unquote_plus(secret, errors="strict")
    except (binascii.Error, UnicodeDecodeError):
        client = None
    if client is None or not client.check_client_secret(secret):
        raise InvalidClientError(status_code=401)
    return client
