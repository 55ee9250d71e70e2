"""GitHub's own exchange: an app's JWT for a token of one of its installations. Not OAuth, and the same port.

Scopes stand for permissions: `contents:read` asks for `{"contents": "read"}`. Documented by GitHub under "REST API
endpoints for GitHub Apps" and "Generating a JSON Web Token (JWT) for a GitHub App".
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from tokenbroker.errors import IssuerMisconfigured
from tokenbroker.issuers import github_answers
from tokenbroker.issuers.assertions import assertion
from tokenbroker.issuers.authentication import Occasion
from tokenbroker.issuers.connections import Connections
from tokenbroker.issuers.discovery import configured
from tokenbroker.issuers.exchange import Attempt
from tokenbroker.issuers.keys import signing_key
from tokenbroker.model import Grant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tokenbroker.config import IssuerConfig
    from tokenbroker.model import Credentials, IssuerAnswer, Revocation, Secret
    from tokenbroker.ports import Clock

DEFAULT_URL: Final = "https://api.github.com"
BACKDATE: Final = 60  # seconds, as GitHub advises, against clocks that differ
LIFETIME: Final = 300  # seconds from now; GitHub refuses more than 600, by its own clock

_HEADERS: Final = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}
_PERMISSION = re.compile(r"([a-z][a-z0-9_]{0,63}):(read|write|admin)")
_INSTALLATION = re.compile(r"[0-9]{1,20}")


class GitHubApp:
    """The installations of GitHub Apps, at github.com or an Enterprise Server (`https://HOST/api/v3`)."""

    def __init__(
        self,
        config: IssuerConfig,
        *,
        clock: Clock,
        env: Mapping[str, str],
        jti: Callable[[], str] = secrets.token_urlsafe,
    ) -> None:
        """Serve `config`; `env` gives `HTTPS_PROXY` and `NO_PROXY`, `jti` a name never used before per JWT."""
        self._config = config
        self._clock = clock
        self._jti = jti
        self._connections = Connections(config, env)

    async def issue(
        self,
        credentials: Credentials,
        *,
        scopes: tuple[str, ...],
        audience: str | None,  # noqa: ARG002  # the port's
        resource: str | None,  # noqa: ARG002
        extra: Mapping[str, str],
        grant: Grant = Grant(type="github-app"),  # noqa: B008  # a frozen value
    ) -> IssuerAnswer:
        """See `Issuer.issue`. `audience` and `resource` only name the profile: GitHub's tokens have neither."""
        config = self._config
        installation = _installation(grant, config)
        if extra or config.extra_params:
            raise IssuerMisconfigured(
                f"issuer `{config.name}`: GitHub takes no extra_params",
                hint=f"remove extra_params and organization from [issuers.{config.name}] and the profile",
            )
        asked: dict[str, object] = {"permissions": _permissions(scopes, config)} if scopes else {}
        if grant.repositories:
            asked["repositories"] = list(grant.repositories)
        url = f"{self._base()}/app/installations/{installation}/access_tokens"
        signed = await asyncio.to_thread(self._sign, credentials, url)  # RSA takes milliseconds
        attempt = self._attempt(url, (signed,), scopes)
        reply = await self._connections.transport().exchange(
            "POST",
            url,
            attempt,
            body=json.dumps(asked).encode(),
            headers={**_bearer(signed), "Content-Type": "application/json"},
        )
        return github_answers.token(reply, attempt, grant, default_ttl=config.default_ttl, max_ttl=config.max_ttl)

    async def revoke(self, credentials: Credentials, token: Secret) -> Revocation:  # noqa: ARG002  # the port's
        """See `Issuer.revoke`. The token itself is all that GitHub wants to see."""
        url = f"{self._base()}/installation/token"
        attempt = self._attempt(url, (token,), ())
        reply = await self._connections.transport().exchange("DELETE", url, attempt, headers=_bearer(token))
        return github_answers.revoked(reply, attempt)

    async def close(self) -> None:
        """Close connections; a later `issue` raises `IssuerUnavailable`. May be called twice."""
        await self._connections.close()

    def _base(self) -> str:
        url = self._config.url or DEFAULT_URL
        configured("url", url, self._config)
        return url.rstrip("/")

    def _attempt(self, url: str, hidden: tuple[Secret, ...], scopes: tuple[str, ...]) -> Attempt:
        return Attempt(
            issuer=self._config.name,
            host=urlsplit(url).netloc,
            started=self._clock.now(),
            auth="private_key_jwt",
            grant="github-app",
            scopes=scopes,
            secrets=hidden,
        )

    def _sign(self, credentials: Credentials, url: str) -> Secret:
        """Make the app's JWT: `iss` is the app's client id, or its number."""
        now = int(self._clock.now().wall)
        occasion = Occasion(config=self._config, issuer=self._base(), token_endpoint=url, now=float(now), jti=self._jti)
        claims = {"iss": credentials.client_id, "iat": now - BACKDATE, "exp": now + LIFETIME}
        key = signing_key(credentials, self._config)
        return assertion(key, claims=claims, occasion=occasion, algorithm="RS256", header={})


def _bearer(token: Secret) -> dict[str, str]:
    return {**_HEADERS, "Authorization": f"Bearer {token.reveal()}"}


def _installation(grant: Grant, config: IssuerConfig) -> str:
    if grant.type != "github-app":
        raise IssuerMisconfigured(
            f"issuer `{config.name}` is GitHub's app API, which knows no grant {grant.type}",
            hint="remove grant from [clients], or refer to another issuer there",
        )
    if grant.installation is None or not _INSTALLATION.fullmatch(grant.installation):
        raise IssuerMisconfigured(
            f"issuer `{config.name}`: the client's installation is not a number",
            hint="set installation in [clients] to the number at the end of the installation's address on GitHub",
        )
    return grant.installation


def _permissions(scopes: tuple[str, ...], config: IssuerConfig) -> dict[str, str]:
    asked: dict[str, str] = {}
    for scope in scopes:
        known = _PERMISSION.fullmatch(scope)
        if known is None or known[1] in asked:
            raise IssuerMisconfigured(
                f"issuer `{config.name}`: scope {scope!r} is not one GitHub permission, such as contents:read",
                hint="correct scopes in the profile: NAME:read, NAME:write or NAME:admin, with _ for a space, each "
                "name once",
            )
        asked[known[1]] = known[2]
    return asked
