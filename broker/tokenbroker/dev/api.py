"""The development API: two routes behind the verifier, for the demonstration and for tests. Never for production."""

from __future__ import annotations

import logging
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from tokenbroker.dev.loopback import LOOPBACK, LoopbackServer
from tokenbroker.dev.verifier import ANY, Expected, KeySet, Routes, Verifier
from tokenbroker.dev.verifier.checks import MAX_LEEWAY, MAX_TOKEN
from tokenbroker.dev.verifier.web import CALLER, protect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection

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
        grants: Collection[tuple[str, str]] = ((ANY, ANY),),
        host: str = LOOPBACK,
        leeway: float = MAX_LEEWAY,
        clock: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> AsyncIterator[DevApi]:
        """Run an API on a free port. Raises `ValueError` if `host` is not a loopback address.

        `grants` are pairs of client id and path, `*` for any; `leeway` is seconds of difference between two clocks;
        `clock` gives epoch seconds, `elapsed` never goes back.
        """
        async with LoopbackServer.bind(host) as server:
            api = cls(server.url, issuer)
            verifier = Verifier(
                KeySet.at(jwks_uri, clock=elapsed),
                Expected(issuer=issuer, audience=api.url, leeway=leeway),
                _routes(grants),
                resource_metadata=api.metadata_url,
                clock=clock,
            )
            # Longer than the longest token, so that the verifier refuses it and not aiohttp.
            await server.serve(api._app(verifier), max_field_size=2 * MAX_TOKEN, logger=_discreet())
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
        app = web.Application(middlewares=[protect(verifier)])
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


def _discreet() -> logging.Logger:
    """Return aiohttp's logger without what it says of malformed requests: it quotes headers, which may hold a token."""
    logger = logging.Logger("aiohttp.server.discreet")  # noqa: LOG001  # this server's alone
    logger.parent = logging.getLogger("aiohttp.server")
    logger.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))
    return logger


def _routes(grants: Collection[tuple[str, str]]) -> Routes:
    return Routes(
        {f"GET {path}": scopes for path, scopes in ROUTES.items()},
        grants=[(client, path if path == ANY else f"GET {path}") for client, path in grants],
        public=[f"GET {METADATA_PATH}"],
    )
