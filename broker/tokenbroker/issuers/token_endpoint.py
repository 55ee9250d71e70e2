"""The Issuer port for any OAuth 2.0 server: find its endpoints, authenticate, ask once, read the answer, look into it.

A step each has its own module: `discovery`, `grants`, `authentication`, `dpop`, `response`, `inspection`.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode, urlsplit

from tokenbroker.issuers import grants
from tokenbroker.issuers.authentication import Occasion, Proof, authenticate, shows_certificate, takes_a_while
from tokenbroker.issuers.connections import Connections
from tokenbroker.issuers.discovery import Discovery
from tokenbroker.issuers.dpop import HEADER, DpopKey, Nonces, asks_for_nonce
from tokenbroker.issuers.exchange import Attempt
from tokenbroker.issuers.inspection import Inspection
from tokenbroker.issuers.quotas import quotas
from tokenbroker.issuers.response import confirm, parse
from tokenbroker.issuers.revocation import revoked
from tokenbroker.model import Grant, Revocation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tokenbroker.config import IssuerConfig
    from tokenbroker.issuers.discovery import Endpoints
    from tokenbroker.issuers.exchange import Reply
    from tokenbroker.model import Credentials, IssuerAnswer, Secret
    from tokenbroker.ports import Clock

_FORM: Final = {"Content-Type": "application/x-www-form-urlencoded"}


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
        self._jti = jti
        self._connections = Connections(config, env)
        self._discovery = Discovery(config, clock=clock, get=self._get)
        self._nonces = Nonces()
        self._inspection = Inspection(config, clock=clock, get=self._get)

    async def issue(
        self,
        credentials: Credentials,
        *,
        scopes: tuple[str, ...],
        audience: str | None,
        resource: str | None,
        extra: Mapping[str, str],
        grant: Grant = Grant(),  # noqa: B008  # a frozen value
    ) -> IssuerAnswer:
        """See `Issuer.issue`. `extra` wins over the issuer's own `extra_params` and `organization`."""
        config = self._config
        wanted = grants.Wanted(grant, scopes, audience, resource, extra)
        grants.check(wanted, config)
        endpoints = _fitting(await self._discovery.endpoints(), credentials)
        url = endpoints.token
        # In a thread: the first one loads cryptography.
        key = await asyncio.to_thread(DpopKey.make, self._jti) if credentials.dpop else None
        reply, attempt = await self._post(url, wanted, credentials, endpoints, key)
        if key is not None and self._nonces.learn(url, reply) and asks_for_nonce(reply):
            # Once more (RFC 9449 §8), made anew from the start: the jti of an assertion is used up (RFC 7523 §3).
            reply, attempt = await self._post(url, wanted, credentials, endpoints, key)
            self._nonces.learn(url, reply)
        answer = parse(reply, attempt, default_ttl=config.default_ttl, max_ttl=config.max_ttl, proof_key=key)
        grants.check_issued(answer.issued_type, wanted, attempt)
        answer = replace(
            answer, quotas=quotas(reply.headers), issuer=endpoints.issuer if endpoints.identified else None
        )
        answer = await self._look_into(answer, credentials, attempt)
        confirm(answer, attempt)
        return answer

    async def revoke(self, credentials: Credentials, token: Secret) -> Revocation:
        """See `Issuer.revoke`."""
        endpoints = _fitting(await self._discovery.all_endpoints(), credentials)
        if endpoints.revocation is None:
            return Revocation.UNSUPPORTED
        form = [("token", token.reveal()), ("token_type_hint", "access_token")]
        reply, attempt = await self._ask_about(endpoints.revocation, form, token, credentials, endpoints)
        return revoked(reply, attempt)

    async def close(self) -> None:
        """Close connections; a later `issue` raises `IssuerUnavailable`. May be called twice."""
        await self._discovery.close()
        await self._inspection.close()
        await self._connections.close()

    def _occasion(self, endpoints: Endpoints, url: str) -> Occasion:
        return Occasion(
            config=self._config,
            issuer=endpoints.issuer,
            token_endpoint=url,
            now=self._clock.now().wall,
            jti=self._jti,
        )

    def _attempt(self, url: str, credentials: Credentials, proof: Proof) -> Attempt:
        return Attempt(
            issuer=self._config.name,
            host=urlsplit(url).netloc,
            started=self._clock.now(),
            auth=credentials.auth,
            other_encoding=proof.other_encoding,
            beyond_ascii=proof.beyond_ascii,
            secrets=proof.secrets,
        )

    async def _prepare(
        self, credentials: Credentials, wanted: grants.Wanted, occasion: Occasion
    ) -> tuple[list[tuple[str, str]], Proof]:
        """Return the parameters of the grant, and what authenticates the client."""

        def prepare() -> tuple[list[tuple[str, str]], Proof]:
            form, hidden = grants.parameters(wanted, credentials, occasion)
            proof = authenticate(credentials, occasion, grant=wanted.grant.type)
            return form, replace(proof, secrets=(*proof.secrets, *hidden))

        if takes_a_while(credentials):
            return await asyncio.to_thread(prepare)
        return prepare()

    async def _post(
        self, url: str, wanted: grants.Wanted, credentials: Credentials, endpoints: Endpoints, key: DpopKey | None
    ) -> tuple[Reply, Attempt]:
        """Make one token request, with a proof of `key` (RFC 9449 §5)."""
        form, proof = await self._prepare(credentials, wanted, self._occasion(endpoints, url))
        attempt = replace(
            self._attempt(url, credentials, proof),
            scopes=wanted.scopes,
            audience=wanted.audience,
            resource=wanted.resource,
            grant=wanted.grant.type,
            dpop=key is not None,
            auth_methods=endpoints.auth_methods,
        )
        headers = {**_FORM, **proof.headers}
        if key is not None:
            now = attempt.started.wall
            headers[HEADER] = key.prove("POST", url, token=None, nonce=self._nonces.of(url), now=now)
        body = urlencode([*form, *proof.form]).encode()
        return await self._connections.transport().exchange(
            "POST", url, attempt, body=body, headers=headers, certificate=proof.certificate
        ), attempt

    async def _look_into(self, answer: IssuerAnswer, credentials: Credentials, attempt: Attempt) -> IssuerAnswer:
        """Check the token's signature, or ask what it holds, where that is possible and wanted."""
        if not self._inspection.wanted(answer):
            return self._inspection.unseen(answer)
        endpoints = _fitting(await self._discovery.all_endpoints(), credentials)

        async def introspect(url: str) -> Reply:
            form = [("token", answer.access_token.reveal()), ("token_type_hint", "access_token")]
            reply, _ = await self._ask_about(url, form, answer.access_token, credentials, endpoints)
            return reply

        return await self._inspection.look_into(answer, endpoints, attempt, introspect)

    async def _ask_about(
        self, url: str, form: list[tuple[str, str]], token: Secret, credentials: Credentials, endpoints: Endpoints
    ) -> tuple[Reply, Attempt]:
        """Send a token to an endpoint of the issuer that wants the client to authenticate as at the token endpoint."""
        _, proof = await self._prepare(credentials, grants.NOTHING, self._occasion(endpoints, endpoints.token))
        attempt = self._attempt(url, credentials, replace(proof, secrets=(*proof.secrets, token)))
        body = urlencode([*form, *proof.form]).encode()
        headers = {**_FORM, **proof.headers}
        return await self._connections.transport().exchange(
            "POST", url, attempt, body=body, headers=headers, certificate=proof.certificate
        ), attempt

    async def _get(self, url: str, attempt: Attempt) -> Reply:
        return await self._connections.transport().exchange("GET", url, attempt, headers={})


def _fitting(endpoints: Endpoints, credentials: Credentials) -> Endpoints:
    return endpoints.for_certificates() if shows_certificate(credentials) else endpoints
