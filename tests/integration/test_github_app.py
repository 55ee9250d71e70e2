"""GitHub's exchange, against a stand-in that checks the app's JWT by itself."""

from __future__ import annotations

import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.contract.kits_github import app_key
from tests.standins.second_issuer import Client, Installation, Quota, SecondIssuer, jose, reply
from tokenbroker.config import IssuerConfig
from tokenbroker.errors import (
    CredentialRejected,
    IssuerError,
    IssuerMisconfigured,
    IssuerNeedsPerson,
    IssuerUnavailable,
    TokenMismatch,
)
from tokenbroker.issuers.factory import build_issuer
from tokenbroker.issuers.github_app import GitHubApp
from tokenbroker.issuers.token_endpoint import TokenEndpoint
from tokenbroker.model import Credentials, Grant, Revocation, Secret
from tokenbroker.system.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tokenbroker.model import IssuerAnswer


class World:
    """One app, installed as number 7, and our adapter."""

    def __init__(self, github: SecondIssuer) -> None:
        self.github = github
        self.installation = github.installations[7] = Installation("Iv1.app")
        config = IssuerConfig("gh", url=github.origin, grant="github-app")
        self.adapter = GitHubApp(config, clock=SystemClock(), env={})
        self.credentials = Credentials("Iv1.app", auth="none", private_key=app_key())

    async def ask(
        self, *scopes: str, installation: str = "7", repositories: tuple[str, ...] = (), **extra: str
    ) -> IssuerAnswer:
        grant = Grant("github-app", installation=installation, repositories=repositories)
        return await self.adapter.issue(
            self.credentials, scopes=scopes, audience=None, resource=None, extra=extra, grant=grant
        )


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    key: Any = load_pem_private_key(app_key().reveal().encode(), None)
    app = Client("Iv1.app", keys=[jose.to_jwk(key.public_key())], auth="none")
    async with SecondIssuer.start("github-app", [app]) as github:
        made = World(github)
        try:
            yield made
        finally:
            await made.adapter.close()


async def test_a_token_of_an_installation() -> None:
    """The JWT passes, the token lives an hour, and its permissions are its scopes."""
    async with world() as here:
        answer = await here.ask("contents:read")
        assert answer.access_token.reveal().startswith("ghs_")
        assert 3590 <= answer.lifetime <= 3600
        assert answer.scope == ("contents:read", "metadata:read")
        call = here.github.token_requests[0]
        assert json.loads(call.body) == {"permissions": {"contents": "read"}}
        assert call.one("accept") == "application/vnd.github+json"
        assert call.one("x-github-api-version") == "2022-11-28"


async def test_without_scopes_it_has_what_the_installation_has() -> None:
    """Nothing is asked for, and everything is named."""
    async with world() as here:
        assert (await here.ask()).scope == ("contents:write", "metadata:read")
        assert json.loads(here.github.token_requests[0].body) == {}


async def test_confined_to_repositories() -> None:
    """The repositories are asked for, and those of the answer are compared."""
    async with world() as here:
        await here.ask(repositories=("one",))
        assert json.loads(here.github.token_requests[0].body) == {"repositories": ["one"]}
        body = {"token": "ghs_x", "expires_at": "2099-01-01T00:00:00Z", "repository_selection": "all"}
        here.github.script(reply(201, body))
        with pytest.raises(TokenMismatch, match="for the repositories all, asked was one"):
            await here.ask(repositories=("one",))


@pytest.mark.parametrize(
    ("asked", "kind", "words"),
    [
        ({"installation": "8"}, IssuerMisconfigured, "no installation 8 of this app: 404"),
        ({"scopes": ("issues:write",)}, IssuerMisconfigured, "permissions requested are not granted"),
        ({"repositories": ("three",)}, IssuerMisconfigured, "repository that does not exist"),
    ],
)
async def test_what_only_the_configuration_mends(asked: Any, kind: type[IssuerError], words: str) -> None:
    """An unknown installation and what it does not have are told in GitHub's own words; hints name what was asked."""
    async with world() as here:
        with pytest.raises(kind, match=words) as raised:
            await here.ask(*asked.pop("scopes", ()), **asked)
        assert raised.value.hint is not None


@pytest.mark.parametrize(
    ("scopes", "installation"),
    [(("contents",), "7"), (("contents:all",), "7"), (("contents:read", "contents:write"), "7"), ((), "../7")],
)
async def test_nothing_is_sent_for_what_cannot_be_asked(scopes: tuple[str, ...], installation: str) -> None:
    """Scopes that are no permissions, and an installation that is no number, never leave."""
    async with world() as here:
        with pytest.raises(IssuerMisconfigured):
            await here.ask(*scopes, installation=installation)
        with pytest.raises(IssuerMisconfigured, match="extra_params"):
            await here.ask(foo="bar")
        assert here.github.requests == []


async def test_another_key_is_a_rejected_credential() -> None:
    """A JWT that GitHub cannot verify is told as the private key's fault, and the JWT is in no error."""
    async with world() as here:
        here.github.clients["Iv1.app"].keys.clear()
        with pytest.raises(CredentialRejected, match="could not be decoded") as raised:
            await here.ask()
        assert "private_key" in str(raised.value.hint)
        assert "eyJ" not in str(raised.value)


async def test_a_clock_that_is_off_is_named() -> None:
    """GitHub's 401 for a JWT from the future is no reason to read the key again."""
    async with world() as here:
        here.github.clock.offset = -900.0
        with pytest.raises(IssuerNeedsPerson, match=r"clock is (899|900|901) s ahead"):
            await here.ask()


@pytest.mark.parametrize("offset", [-55.0, 240.0])
async def test_a_clock_that_is_a_little_off_does_no_harm(offset: float) -> None:
    """The JWT is dated back, and the lifetime is told by GitHub's clock."""
    async with world() as here:
        here.github.clock.offset = offset
        assert 3590 <= (await here.ask()).lifetime <= 3600


async def test_a_suspended_installation_needs_a_person() -> None:
    async with world() as here:
        here.installation.suspended = True
        with pytest.raises(IssuerNeedsPerson, match="suspended"):
            await here.ask()


@pytest.mark.parametrize(
    ("status", "headers", "message", "wait"),
    [
        (403, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "in 1000 s"}, "API rate limit", 1000),
        (429, {"retry-after": "30"}, "You have exceeded a secondary rate limit", 30),
        (403, {}, "You have exceeded a secondary rate limit", 60),
        (403, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "99999999999"}, "API rate limit", 3600),
    ],
)
async def test_rate_limits_say_when(status: int, headers: dict[str, str], message: str, wait: float) -> None:
    """Primary and secondary limits are passing trouble, with the time that GitHub names."""
    headers = {name: f"{time.time() + 1000:.0f}" if value == "in 1000 s" else value for name, value in headers.items()}
    async with world() as here:
        here.github.script(reply(status, {"message": message}, headers))
        with pytest.raises(IssuerUnavailable) as raised:
            await here.ask()
        assert raised.value.retry_after == pytest.approx(wait, abs=60 if wait == 1000 else 0)


async def test_the_stand_ins_own_limit() -> None:
    """The stand-in, written apart from the adapter, limits as GitHub does."""
    async with world() as here:
        here.github.quota = Quota(remaining=1)
        await here.ask()
        with pytest.raises(IssuerUnavailable) as raised:
            await here.ask()
        assert raised.value.retry_after is not None


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (502, "<html>", IssuerUnavailable),
        (201, "<html>", IssuerMisconfigured),
        (201, '{"token": "ghs_', IssuerUnavailable),
        (201, {"expires_at": "2099-01-01T00:00:00Z"}, IssuerMisconfigured),
        (201, {"token": "a b", "expires_at": "2099-01-01T00:00:00Z"}, IssuerMisconfigured),
        (201, {"token": "ghs_x", "expires_at": "2001-01-01T00:00:00Z"}, IssuerUnavailable),
        (301, "", IssuerMisconfigured),
        (200, {"access_token": "x"}, IssuerMisconfigured),
    ],
)
async def test_answers_that_are_none(status: int, body: Any, kind: type[IssuerError]) -> None:
    """Whatever else comes has its class, and no token is made of it."""
    async with world() as here:
        here.github.script(reply(status, body))
        with pytest.raises(kind):
            await here.ask()


@pytest.mark.parametrize(("expires_at", "lifetime"), [("soon", 300.0), (None, 300.0), ("2099-01-01", 86400.0)])
async def test_a_lifetime_that_is_none_or_endless(expires_at: str | None, lifetime: float) -> None:
    """Without a time that can be read the default holds, and never more than the maximum."""
    async with world() as here:
        here.github.script(reply(201, {"token": "ghs_x", "expires_at": expires_at}))
        assert (await here.ask()).lifetime == lifetime


async def test_a_token_of_the_new_form_is_opaque() -> None:
    """GitHub's stateless tokens, `ghs_APP_JWT`, are long and no JWT to us."""
    async with world() as here:
        token = "ghs_1234_" + ".".join(["eyJhbGciOiJIUzI1NiJ9" * 10, "eyJhIjoxfQ", "c2ln"])
        here.github.script(reply(201, {"token": token, "expires_at": "2099-01-01T00:00:00Z"}))
        answer = await here.ask()
        assert (answer.access_token.reveal(), answer.claims) == (token, None)


async def test_revoking_ends_the_token() -> None:
    """A token is taken back once; one that is dead already counts as revoked."""
    async with world() as here:
        token = (await here.ask()).access_token
        assert await here.adapter.revoke(here.credentials, token) is Revocation.REVOKED
        assert here.github.minted[0].revoked
        assert await here.adapter.revoke(here.credentials, token) is Revocation.REVOKED
        here.github.script(reply(500, ""), at="revoke")
        with pytest.raises(IssuerUnavailable):
            await here.adapter.revoke(here.credentials, Secret("ghs_x"))


def test_the_grant_chooses_the_adapter() -> None:
    """An issuer of grant github-app is reached by GitHub's own exchange, all others by a token endpoint."""
    for grant, kind in (
        ("github-app", GitHubApp),
        ("client_credentials", TokenEndpoint),
        ("jwt-bearer", TokenEndpoint),
    ):
        config = IssuerConfig("main", grant=grant)  # type: ignore[arg-type]  # names of `GrantType`
        assert isinstance(build_issuer(config, clock=SystemClock(), env={}), kind)


async def test_another_grant_is_refused() -> None:
    """A client that overrides the grant is told that GitHub knows one alone."""
    async with world() as here:
        with pytest.raises(IssuerMisconfigured, match="knows no grant client_credentials"):
            await here.adapter.issue(here.credentials, scopes=(), audience=None, resource=None, extra={}, grant=Grant())
