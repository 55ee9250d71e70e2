"""An issuer in memory, held to its port by tests/contract/test_issuer.py, and what tests of issuers share."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenbroker.errors import CredentialRejected, IssuerUnavailable
from tokenbroker.model import Credentials, Grant, Instant, IssuerAnswer, Revocation, Secret

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from tokenbroker.errors import IssuerError


class StillClock:
    """A clock that stands until it is told to go on."""

    def __init__(self, wall: float = 1_800_000_000.0) -> None:
        self._now = Instant(wall=wall, elapsed=1000.0)

    def now(self) -> Instant:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now = Instant(self._now.wall + seconds, self._now.elapsed + seconds)

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)
        await asyncio.sleep(0)


@dataclass(frozen=True)
class Call:
    """One token request, as the port was asked."""

    credentials: Credentials
    scopes: tuple[str, ...]
    audience: str | None
    resource: str | None
    extra: Mapping[str, str]
    grant: Grant = Grant()  # noqa: RUF009  # a frozen value


class FakeIssuer:
    """Mints `token-1`, `token-2`, …, or does next what `script` says.

    `gate` holds requests while it is not set, so that a test decides when the issuer answers. With `accepts` set, any
    other client secret is rejected.
    """

    def __init__(self, *, lifetime: float = 3600.0, accepts: Secret | None = None) -> None:
        self.calls: list[Call] = []
        self.cancelled = 0
        self.closed = False
        self.lifetime = lifetime
        self.accepts = accepts
        self.script: list[IssuerAnswer | IssuerError] = []
        self.revoked: list[Secret] = []
        self.revocation = Revocation.REVOKED
        self.on_revoke: Callable[[Credentials, Secret], Awaitable[Revocation]] | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()

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
        if self.closed:
            raise IssuerUnavailable("issuer `fake`: its connections are closed")
        self.calls.append(Call(credentials, scopes, audience, resource, extra, grant))
        serial = len(self.calls)
        self.asked.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.script:
            scripted = self.script.pop(0)
            if isinstance(scripted, IssuerAnswer):
                return scripted
            raise scripted
        if self.accepts is not None and credentials.client_secret != self.accepts:
            raise CredentialRejected("issuer `fake` refused the client: invalid_client")
        return IssuerAnswer(Secret(f"token-{serial}"), "Bearer", self.lifetime, scopes or None)

    async def revoke(self, credentials: Credentials, token: Secret) -> Revocation:
        if self.closed:
            raise IssuerUnavailable("issuer `fake`: its connections are closed")
        if self.on_revoke is not None:
            return await self.on_revoke(credentials, token)
        self.revoked.append(token)
        return self.revocation

    async def close(self) -> None:
        self.closed = True


def unsigned_jwt(claims: Mapping[str, Any], header: Mapping[str, Any] | None = None) -> str:
    """Return a JWT with `claims` whose signature nobody checks."""
    return ".".join(
        base64.urlsafe_b64encode(part).rstrip(b"=").decode()
        for part in (
            json.dumps(header or {"alg": "ES256", "typ": "at+jwt"}).encode(),
            json.dumps(claims).encode(),
            b"signature",
        )
    )
