"""The issuers: do they answer, and where is the token endpoint? Requests without credentials, bounded in time."""

from __future__ import annotations

import asyncio
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from tokenbroker.cli.checks import Finding, fault_of, ok
from tokenbroker.errors import IssuerError
from tokenbroker.issuers.discovery import Discovery, Endpoints
from tokenbroker.issuers.exchange import Attempt
from tokenbroker.system.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenbroker.config import Config, IssuerConfig
    from tokenbroker.issuers.exchange import Reply

BOUND: Final = 5.0  # seconds for one issuer; all are asked at once


async def check_issuers(config: Config, environ: Mapping[str, str]) -> list[Finding]:
    """Reach every issuer once."""
    return list(await asyncio.gather(*(_issuer(issuer, environ) for issuer in config.issuers.values())))


async def look_up(config: IssuerConfig, environ: Mapping[str, str]) -> Endpoints:
    """Return the endpoints: what discovery finds, or the configured one if its host answers at all.

    GitHub has no metadata, and is asked where its API is. Raises `IssuerError`.
    """
    from tokenbroker.issuers.transport import Transport  # noqa: PLC0415  # loads aiohttp

    if config.grant == "github-app" and config.url is not None:
        config = replace(config, token_endpoint=config.url)
    bounded = replace(config, timeout=min(config.timeout, BOUND))
    transport = Transport(bounded, env=environ)

    async def get(url: str, attempt: Attempt) -> Reply:
        return await transport.exchange("GET", url, attempt, headers={})

    clock = SystemClock()
    discovery = Discovery(bounded, clock=clock, get=get)
    try:
        endpoint = await discovery.endpoints()
        if config.token_endpoint is not None:
            # RFC 6749 §3.2: tokens are had by POST alone, so a GET without credentials is refused, which is an answer.
            await get(endpoint.token, Attempt(config.name, urlsplit(endpoint.token).netloc, clock.now()))
        return endpoint
    finally:
        await discovery.close()
        await transport.close()


async def _issuer(config: IssuerConfig, environ: Mapping[str, str]) -> Finding:
    try:
        endpoint = await look_up(config, environ)
    except IssuerError as error:
        # curl reads the same proxy variables, and says more of what is wrong with a network than is fit for one line.
        return fault_of("issuer", error, otherwise=f"curl -I {shlex.quote(config.token_endpoint or config.url or '')}")
    told = config.token_endpoint is not None or config.grant == "github-app"
    how = "answers at" if told else "found by discovery:"
    return ok("issuer", f"issuer `{config.name}` {how} {endpoint.token}")
