"""The development API: two routes behind the verifier, for the demonstration and for tests. Never for production."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import web

from tokenbroker.dev.loopback import LOOPBACK, LoopbackServer
from tokenbroker.dev.verifier import CALLER, LEEWAY, MAX_TOKEN, KeySet, Verifier, protect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ROUTES = {"/search": ("search:read",), "/billing": ("billing:read",)}
"""Path → scopes needed."""
METADATA_PATH = "/.well-known/oauth-protected-resource"


class DevApi:
    """`GET /search` and `GET /billing`, which answer with what the token said of the caller."""

    def __init__(self, url: str, issuer: str) -> None:
        """Be the protected resource `url`, with tokens from `issuer`."""
        self.url = url
        """Also its audience (RFC 9728: the resource identifier)."""
        self.metadata_url = url + METADATA_PATH
        self._issuer = issuer

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        *,
        issuer: str,
        jwks_uri: str,
        host: str = LOOPBACK,
        leeway: float = LEEWAY,
        clock: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> AsyncIterator[DevApi]:
        """Run an API on a free port. Raises `ValueError` if `host` is not a loopback address.

        `leeway` is seconds of difference between two clocks; `clock` gives epoch seconds, `elapsed` never goes back.
        """
        async with (
            LoopbackServer.bind(host) as server,
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
        ):
            api = cls(server.url, issuer)
            keys = KeySet(jwks_uri, session, clock=elapsed)
            verifier = Verifier(keys, issuer=issuer, audience=api.url, clock=clock, leeway=leeway)
            # Longer than the longest token, so that the verifier refuses it and not aiohttp.
            await server.serve(api._app(verifier), max_field_size=2 * MAX_TOKEN)
            yield api

    def metadata(self) -> dict[str, object]:
        """Return the protected resource metadata (RFC 9728 §2)."""
        return {
            "resource": self.url,
            "resource_name": "tokenbroker development API",
            "authorization_servers": [self._issuer],
            "scopes_supported": sorted({scope for scopes in ROUTES.values() for scope in scopes}),
            "bearer_methods_supported": ["header"],
        }

    def _app(self, verifier: Verifier) -> web.Application:
        guard = protect(verifier, ROUTES, public=(METADATA_PATH,), resource_metadata=self.metadata_url)
        app = web.Application(middlewares=[guard])
        app.add_routes([web.get(path, self._answer) for path in ROUTES])
        app.add_routes([web.get(METADATA_PATH, self._describe)])
        return app

    async def _answer(self, request: web.Request) -> web.Response:
        caller = request[CALLER]
        return web.json_response(
            {
                "path": request.path,
                "owner": caller.owner,
                "agent_type": caller.agent_type,
                "client_id": caller.client_id,
                "actor": caller.actor,
                "scopes": sorted(caller.scopes),
            }
        )

    async def _describe(self, _request: web.Request) -> web.Response:
        return web.json_response(self.metadata())
