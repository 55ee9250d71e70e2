"""The development issuer: a real OAuth authorization server for one machine and one run. Never for production.

The protocol is in `authorization.py`; here are the tokens, the keys, the addresses and what a test may make go wrong.
Client secrets and the signing key are made at start, kept in memory and gone with the process.
"""

from __future__ import annotations

import secrets
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from tokenbroker.dev.authorization import AUTH_METHODS, Server, read_form
from tokenbroker.dev.loopback import LOOPBACK, LoopbackServer

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable

    from aiohttp.typedefs import Handler

    from tokenbroker.dev.authorization import DevClient

PATH = "/development"  # part of the issuer's identifier, so that every token says what it is
ALGORITHM = "ES256"
MAX_BODY = 16 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong at the issuer until it is taken away again."""

    down: bool = False
    """Every connection is cut without an answer, the one for keys included."""
    status: int | None = None
    """The token endpoint answers with this status and no OAuth error."""
    retry_after: str | None = None
    """`Retry-After` of that answer: seconds, or an HTTP date."""
    hold: asyncio.Event | None = None
    """The token endpoint waits for this event before it looks at the request."""


@dataclass(slots=True)
class SigningKey:
    """A private key and the name under which its public half is published."""

    private: ec.EllipticCurvePrivateKey = field(repr=False)
    kid: str

    @classmethod
    def generate(cls) -> SigningKey:
        """Make a new one."""
        return cls(ec.generate_private_key(ec.SECP256R1()), secrets.token_hex(8))

    def jwk(self) -> dict[str, Any]:
        """Return the public half (RFC 7517)."""
        public = ECAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        return {**public, "kid": self.kid, "use": "sig", "alg": ALGORITHM}


class DevIssuer:
    """The server, its clients and what can be seen and set from outside: `async with DevIssuer.start() as issuer`."""

    def __init__(self, origin: str, *, lifetime: int, clock: Callable[[], float]) -> None:
        """Be the issuer at `origin`; tokens live `lifetime` seconds from `clock`, which gives epoch seconds."""
        self.url = origin + PATH
        self.jwks_uri = f"{self.url}/jwks"
        self.lifetime = lifetime
        self.fault = Fault()
        self.requests = 0
        """Requests that reached the token endpoint, faults included."""
        self.exchanges = 0
        """Tokens given out."""
        self.revoked: set[str] = set()
        """`jti` of tokens that their client revoked."""
        self._clock = clock
        self._origin = origin
        self._clients: dict[str, DevClient] = {}
        self._key = SigningKey.generate()
        self._server = Server(self)

    @classmethod
    @asynccontextmanager
    async def start(
        cls, *, lifetime: int = 300, host: str = LOOPBACK, clock: Callable[[], float] = time.time
    ) -> AsyncIterator[DevIssuer]:
        """Run an issuer on a free port. Raises `ValueError` if `host` is not a loopback address."""
        async with LoopbackServer.bind(host) as server:
            issuer = cls(server.url, lifetime=lifetime, clock=clock)
            await server.serve(issuer._app())
            yield issuer

    def register(self, client: DevClient) -> None:
        """Add `client`, or replace the one of the same name, as a rotation of its secret does."""
        self._clients[client.client_id] = client

    def unregister(self, client_id: str) -> None:
        """Forget a client, as a deprovisioned owner's is forgotten."""
        self._clients.pop(client_id, None)

    def client(self, client_id: str) -> DevClient | None:
        """Return the client of that name, `None` if there is none."""
        return self._clients.get(client_id)

    def rotate_key(self) -> None:
        """Sign with a new key from now on and publish it alone."""
        self._key = SigningKey.generate()

    def mint(self, client: DevClient, audience: str, scope: str) -> dict[str, Any]:
        """Make a token (RFC 9068) and count it; the answer's body (RFC 6749 §5.1)."""
        now = int(self._clock())
        claims = {
            "iss": self.url,
            "sub": client.client_id,  # "an identifier the authorization server uses to indicate the client", §2.2
            "aud": audience,
            "iat": now,
            "exp": now + self.lifetime,
            "jti": secrets.token_urlsafe(16),
            "client_id": client.client_id,
            "scope": scope,
            "owner": client.owner,
            "agent_type": client.agent_type.value,
            "act": {"sub": client.client_id},
        }
        token = jwt.encode(claims, self._key.private, ALGORITHM, {"typ": "at+jwt", "kid": self._key.kid})
        self.exchanges += 1
        return {"access_token": token, "token_type": "Bearer", "expires_in": self.lifetime, "scope": scope}

    def read(self, token: str) -> dict[str, Any] | None:
        """Return the claims of a token of ours, expired or not, `None` for anything else."""
        try:
            unbounded = {"verify_aud": False, "verify_exp": False, "verify_iat": False}
            return jwt.decode(token, self._key.private.public_key(), [ALGORITHM], options=unbounded)  # type: ignore[arg-type]
        except jwt.InvalidTokenError:
            return None

    def live(self, token: str) -> dict[str, Any] | None:
        """Return the claims of a token that is still good: not expired, not revoked, its client still registered."""
        claims = self.read(token)
        if claims is None or claims["exp"] <= self._clock() or claims["jti"] in self.revoked:
            return None
        return claims if claims["client_id"] in self._clients else None

    def metadata(self) -> dict[str, Any]:
        """Return the authorization server metadata (RFC 8414 §2)."""
        scopes = {scope for client in self._clients.values() for granted in client.grants.values() for scope in granted}
        methods = list(AUTH_METHODS)
        return {
            "issuer": self.url,
            "token_endpoint": f"{self.url}/token",
            "token_endpoint_auth_methods_supported": methods,
            "jwks_uri": self.jwks_uri,
            # "Claims with zero elements MUST be omitted", §3.2; yet this one is REQUIRED, and empty without a redirect.
            "response_types_supported": [],
            **({"scopes_supported": sorted(scopes)} if scopes else {}),
            "grant_types_supported": ["client_credentials"],
            "revocation_endpoint": f"{self.url}/revoke",
            "revocation_endpoint_auth_methods_supported": methods,
            "introspection_endpoint": f"{self.url}/introspect",
            "introspection_endpoint_auth_methods_supported": methods,
        }

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[self._misbehave], client_max_size=MAX_BODY)
        described = (
            f"/.well-known/oauth-authorization-server{PATH}",
            f"/.well-known/openid-configuration{PATH}",
            f"{PATH}/.well-known/openid-configuration",
        )
        app.add_routes([web.get(path, self._describe) for path in described])
        app.add_routes(
            [
                web.get(f"{PATH}/jwks", self._keys),
                web.post(f"{PATH}/token", self._token),
                web.post(f"{PATH}/revoke", self._revoke),
                web.post(f"{PATH}/introspect", self._introspect),
            ]
        )
        return app

    @web.middleware
    async def _misbehave(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.requests += request.path == f"{PATH}/token"
        if not self.fault.down:
            return await handler(request)
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=503)  # goes nowhere: the connection is cut

    async def _describe(self, _request: web.Request) -> web.Response:
        return web.json_response(self.metadata())

    async def _keys(self, _request: web.Request) -> web.Response:
        return web.json_response({"keys": [self._key.jwk()]})

    async def _token(self, request: web.Request) -> web.Response:
        fault = self.fault
        if fault.hold is not None:
            await fault.hold.wait()
        if fault.status is not None:
            headers = {"Retry-After": fault.retry_after} if fault.retry_after is not None else None
            return web.Response(status=fault.status, text="the development issuer was told to fail", headers=headers)
        return self._server.create_token_response(await read_form(request))  # type: ignore[no-any-return]

    async def _revoke(self, request: web.Request) -> web.Response:
        return self._server.create_endpoint_response("revocation", await read_form(request))  # type: ignore[no-any-return]

    async def _introspect(self, request: web.Request) -> web.Response:
        return self._server.create_endpoint_response("introspection", await read_form(request))  # type: ignore[no-any-return]
