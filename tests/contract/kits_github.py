"""GitHub's adapter behind the Issuer contract: the suite's scopes stand for two permissions of an installation."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.fakes_issuer import StillClock
from tests.standins import fault_issuer
from tokenbroker.config import IssuerConfig
from tokenbroker.errors import CredentialRejected, IssuerMisconfigured, IssuerNeedsPerson, IssuerUnavailable
from tokenbroker.issuers.github_app import GitHubApp
from tokenbroker.model import Credentials, Grant, Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.standins.fault_issuer import FaultIssuer
    from tokenbroker.errors import IssuerError
    from tokenbroker.model import IssuerAnswer, Revocation
    from tokenbroker.ports import Issuer

PERMISSIONS = {"read": "contents:read", "write": "issues:write"}
GRANT = Grant("github-app", installation="7")


@cache
def app_key() -> Secret:
    """Return a private key as GitHub gives it out."""
    key = rsa.generate_private_key(65537, 2048)
    return Secret(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode())


class _Translated:
    """The adapter, asked in the suite's words."""

    def __init__(self, adapter: GitHubApp) -> None:
        self._adapter = adapter

    async def issue(
        self,
        credentials: Credentials,
        *,
        scopes: tuple[str, ...],
        audience: str | None,
        resource: str | None,
        extra: Mapping[str, str],
        grant: Grant = GRANT,
    ) -> IssuerAnswer:
        answer = await self._adapter.issue(
            replace(credentials, private_key=app_key()),
            scopes=tuple(PERMISSIONS[scope] for scope in scopes),
            audience=audience,
            resource=resource,
            extra=extra,
            grant=GRANT,
        )
        words = {permission: scope for scope, permission in PERMISSIONS.items()}
        return replace(answer, scope=answer.scope and tuple(words[each] for each in answer.scope))

    async def revoke(self, credentials: Credentials, token: Secret) -> Revocation:
        return await self._adapter.revoke(credentials, token)

    async def close(self) -> None:
        await self._adapter.close()


class GitHubBench:
    """GitHub, whose answers are in the test's hands."""

    def __init__(self, server: FaultIssuer) -> None:
        self.server = server
        self._clock = StillClock()
        config = IssuerConfig("main", url=server.origin, grant="github-app")
        self.issuer: Issuer = _Translated(GitHubApp(config, clock=self._clock, env={}))
        self.grants("read write")

    def grants(self, scope: str | None) -> None:
        until = datetime.fromtimestamp(self._clock.now().wall + 60, UTC).isoformat()
        body: dict[str, object] = {"token": "token", "expires_at": until}
        if scope is not None:
            body["permissions"] = dict(PERMISSIONS[word].split(":") for word in scope.split())
        self.server.script(fault_issuer.answer(body, 201))

    def refuses(self, kind: type[IssuerError], retry_after: float | None = None) -> None:
        wait = {} if retry_after is None else {"Retry-After": f"{retry_after:.0f}"}
        status = {IssuerUnavailable: 503, CredentialRejected: 401, IssuerNeedsPerson: 403, IssuerMisconfigured: 422}
        self.server.script(fault_issuer.answer({"message": "No"}, status[kind], wait))

    def hangs(self) -> None:
        self.server.script(fault_issuer.silence)

    async def asked(self) -> None:
        await self.server.received.wait()

    async def hung_up(self) -> None:
        await self.server.disconnected.wait()

    @property
    def requests(self) -> int:
        return len(self.server.requests)
