"""The Issuer port for any OAuth 2.0 server: find the token endpoint, authenticate, ask once, read the answer."""

from __future__ import annotations

import asyncio
import importlib
import secrets
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode, urlsplit

from tokenbroker.errors import IssuerMisconfigured, IssuerUnavailable
from tokenbroker.issuers.authentication import Occasion, authenticate
from tokenbroker.issuers.discovery import Discovery
from tokenbroker.issuers.exchange import Attempt
from tokenbroker.issuers.response import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tokenbroker.config import IssuerConfig
    from tokenbroker.issuers.authentication import Proof
    from tokenbroker.issuers.discovery import Endpoint
    from tokenbroker.issuers.exchange import Reply
    from tokenbroker.issuers.transport import Transport
    from tokenbroker.model import Credentials, IssuerAnswer
    from tokenbroker.ports import Clock

_TRANSPORT: Final = "tokenbroker.issuers.transport"
_FORM: Final = {"Content-Type": "application/x-www-form-urlencoded"}
_RESERVED: Final = frozenset({"grant_type", "redirect_uri", "scope", "audience", "resource"})


def warm() -> None:
    """Import aiohttp now, 150 ms of work, so that the first exchange does not pay. Safe to run in a thread."""
    importlib.import_module(_TRANSPORT)


class TokenEndpoint:
    """An issuer reached by HTTP. Imports and opens nothing before the first `issue`."""

    def __init__(
        self,
        config: IssuerConfig,
        *,
        clock: Clock,
        env: Mapping[str, str],
        jti: Callable[[], str] = secrets.token_urlsafe,
    ) -> None:
        """Serve `config`; `env` gives `HTTPS_PROXY` and `NO_PROXY`, `jti` a name never used before per assertion."""
        self._config = config
        self._clock = clock
        self._env = env
        self._jti = jti
        self._transport: Transport | None = None
        self._closed = False
        self._discovery = Discovery(config, clock=clock, get=self._get)

    async def issue(
        self,
        credentials: Credentials,
        *,
        scopes: tuple[str, ...],
        audience: str | None,
        resource: str | None,
        extra: Mapping[str, str],
    ) -> IssuerAnswer:
        """See `Issuer.issue`. `extra` wins over the issuer's own `extra_params` and `organization`."""
        config = self._config
        wanted = _parameters(config, scopes, audience, resource, extra)
        endpoint = await self._discovery.endpoint()
        proof = await self._prove(credentials, endpoint)
        attempt = Attempt(
            issuer=config.name,
            host=urlsplit(endpoint.url).netloc,
            started=self._clock.now(),
            auth=credentials.auth,
            scopes=scopes,
            audience=audience,
            resource=resource,
            other_encoding=proof.other_encoding,
            secrets=proof.secrets,
        )
        body = urlencode([*wanted, *proof.form]).encode()
        reply = await self._http().exchange(
            "POST", endpoint.url, attempt, body=body, headers={**_FORM, **proof.headers}
        )
        return parse(reply, attempt, default_ttl=config.default_ttl, max_ttl=config.max_ttl)

    async def close(self) -> None:
        """Close connections; a later `issue` raises `IssuerUnavailable`. May be called twice."""
        self._closed = True
        await self._discovery.close()
        if self._transport is not None:
            await self._transport.close()

    async def _prove(self, credentials: Credentials, endpoint: Endpoint) -> Proof:
        occasion = Occasion(
            config=self._config,
            issuer=endpoint.issuer,
            token_endpoint=endpoint.url,
            now=self._clock.now().wall,
            jti=self._jti(),
        )
        if credentials.auth != "private_key_jwt":
            return authenticate(credentials, occasion)
        return await asyncio.to_thread(authenticate, credentials, occasion)

    async def _get(self, url: str, attempt: Attempt) -> Reply:
        return await self._http().exchange("GET", url, attempt, headers={})

    def _http(self) -> Transport:
        if self._closed:
            raise IssuerUnavailable(f"issuer `{self._config.name}`: its connections are closed")
        if self._transport is None:
            self._transport = importlib.import_module(_TRANSPORT).Transport(self._config, env=self._env)
        return self._transport


def _parameters(
    config: IssuerConfig,
    scopes: tuple[str, ...],
    audience: str | None,
    resource: str | None,
    extra: Mapping[str, str],
) -> list[tuple[str, str]]:
    """Return the request's parameters (RFC 6749 §4.4.2, RFC 8707 §2), each once (RFC 6749 §3.2).

    Raises `IssuerMisconfigured` for an extra parameter that would replace one of the protocol's own.
    """
    own = {"grant_type": "client_credentials"}
    if scopes:
        own["scope"] = " ".join(scopes)
    if audience is not None:
        own["audience"] = audience
    if resource is not None:
        own["resource"] = resource
    organization = {"organization": config.organization} if config.organization else {}
    added = {**config.extra_params, **organization, **extra}
    for name in added:
        if name in _RESERVED or name.startswith("client_"):
            raise IssuerMisconfigured(
                f"issuer `{config.name}`: extra_params may not set {name}",
                hint=f"remove {name} from extra_params of [issuers.{config.name}] or of the profile",
            )
    return [*own.items(), *added.items()]
