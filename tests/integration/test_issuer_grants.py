"""jwt-bearer (RFC 7523) and token exchange (RFC 8693) against issuers that were written apart from the client."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.contract.kits_github import app_key
from tests.standins.second_issuer import Client, SecondIssuer, jose
from tokenbroker.config import IssuerConfig
from tokenbroker.config.presets import PRESETS
from tokenbroker.errors import (
    CredentialRejected,
    IssuerMisconfigured,
    IssuerNeedsPerson,
    SubjectRefused,
    TokenMismatch,
)
from tokenbroker.issuers.token_endpoint import TokenEndpoint
from tokenbroker.model import Credentials, Grant, Secret
from tokenbroker.system.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tokenbroker.model import IssuerAnswer

CLOUD = "https://www.googleapis.com/auth/cloud-platform"
BEARER = Grant("jwt-bearer")
SECRET = "correct horse"


def registered(client_id: str, **more: Any) -> Client:
    key: Any = load_pem_private_key(app_key().reveal().encode(), None)
    jwk = jose.to_jwk(key.public_key(), kid="k1")
    return Client(client_id, keys=[jwk], **{"auth": "none", **more})


@asynccontextmanager
async def preset(name: str, *clients: Client, **issuer: Any) -> AsyncIterator[tuple[SecondIssuer, TokenEndpoint]]:
    """Run a face of the second issuer, and our adapter with the preset of that name."""
    async with SecondIssuer.start(name, clients) as server:
        data = {**PRESETS[name].defaults(), "token_issuer": None, **issuer}
        config = IssuerConfig("main", preset=name, url=server.url, token_endpoint=server.token_endpoint, **data)
        adapter = TokenEndpoint(config, clock=SystemClock(), env={})
        try:
            yield server, adapter
        finally:
            await adapter.close()


async def ask(
    adapter: TokenEndpoint, client_id: str, grant: Grant, *scopes: str, auth: str = "none", **more: Any
) -> IssuerAnswer:
    credentials = Credentials(client_id, auth=auth, private_key=app_key(), key_id="k1", **more)
    return await adapter.issue(credentials, scopes=scopes, audience=None, resource=None, extra={}, grant=grant)


async def test_a_google_service_account() -> None:
    """Google's preset: scope within, no `sub`, nothing but grant and assertion in the form."""
    email = "robot@project.iam.gserviceaccount.com"
    async with preset("google", registered(email, scopes=(CLOUD,))) as (server, adapter):
        answer = await ask(adapter, email, BEARER, CLOUD)
        assert answer.lifetime == 3599
        form = dict(server.token_requests[0].form)
        assert set(form) == {"grant_type", "assertion"}
        assert "sub" not in jwt.decode(form["assertion"], options={"verify_signature": False})


async def test_googles_lifetime_as_a_string() -> None:
    """Google has been seen to send `expires_in` as a string."""
    async with preset("google", registered("robot", scopes=(CLOUD,))) as (server, adapter):
        server.switch(expires_in="string")
        assert (await ask(adapter, "robot", BEARER, CLOUD)).lifetime == 3599


async def test_delegation_names_the_person() -> None:
    """With a subject the token is about that person."""
    async with preset("oidc", registered("robot"), auth="none") as (server, adapter):
        await ask(adapter, "robot", Grant("jwt-bearer", subject="alice@example.com"))
        assert server.minted[0].claims["sub"] == "alice@example.com"


async def test_a_zitadel_service_account() -> None:
    """Zitadel's preset with a key: `iss` and `sub` are the user, `aud` the issuer, the scopes in the form."""
    scopes = ("openid", "urn:zitadel:iam:org:project:id:42:aud")
    async with preset("zitadel", registered("1234", scopes=scopes)) as (server, adapter):
        answer = await ask(adapter, "1234", BEARER, *scopes)
        assert answer.claims is not None
        assert "42" in answer.claims["aud"]
        assert dict(server.token_requests[0].form)["scope"] == " ".join(scopes)


async def test_the_client_may_authenticate_beside_the_grant() -> None:
    """Box wants client id and secret beside the assertion."""
    box = registered("box", auth="client_secret_post", secrets=["s+1 ü"])
    async with preset("oidc", box) as (_, adapter):
        await ask(adapter, "box", BEARER, auth="client_secret_post", client_secret=Secret("s+1 ü"))
        with pytest.raises(CredentialRejected):
            await ask(adapter, "box", BEARER, auth="client_secret_post", client_secret=Secret("wrong"))


async def test_a_refused_assertion() -> None:
    """Another key is a rejected credential; a wrong clock is the clock's fault."""
    async with preset("google", registered("robot", scopes=(CLOUD,))) as (server, adapter):
        server.clock.offset = 7200.0
        with pytest.raises(IssuerNeedsPerson, match=r"clock is 7[0-9]{3} s behind"):
            await ask(adapter, "robot", BEARER, CLOUD)
        server.clock.offset = 0.0
        server.clients["robot"].keys[0] = jose.to_jwk(server.state.keys[0].private.public_key(), kid="k1")
        with pytest.raises(CredentialRejected) as raised:
            await ask(adapter, "robot", BEARER, CLOUD)
        assert "eyJ" not in str(raised.value)
        assert "private_key" in str(raised.value.hint)


def exchange(subject: str, **more: Any) -> Grant:
    return Grant("token-exchange", subject_token=Secret(subject), **more)


async def test_a_token_is_exchanged_for_another() -> None:
    """The new token is about the same person, and says who acts."""
    agent = Client("agent", [SECRET], scopes=("read",))
    async with preset("oidc", agent) as (server, adapter):
        mine, actor = server.subject_token("alice"), server.subject_token("agent-7")
        grant = exchange(mine, actor_token=Secret(actor), requested_token_type="access_token")
        answer = await ask(adapter, "agent", grant, "read", auth="client_secret_post", client_secret=Secret(SECRET))
        assert answer.claims is not None
        assert (answer.claims["sub"], answer.claims["act"]) == ("alice", {"sub": "agent-7"})
        assert answer.issued_type == "urn:ietf:params:oauth:token-type:access_token"


async def test_a_dead_subject_token_is_not_the_clients_fault() -> None:
    """The issuer refuses the token, in the words of RFC 8693 §2.2.2; neither token is in the error."""
    async with preset("oidc", Client("agent", [SECRET])) as (_, adapter):
        with pytest.raises(SubjectRefused) as raised:
            await ask(adapter, "agent", exchange("gone-5f2"), auth="client_secret_post", client_secret=Secret(SECRET))
        assert "gone-5f2" not in f"{raised.value!r}"
        with pytest.raises(CredentialRejected):
            await ask(
                adapter,
                "agent",
                exchange("gone-5f2"),
                auth="client_secret_post",
                client_secret=Secret("another secret"),
            )


async def test_another_type_of_token_is_refused() -> None:
    """What was issued is compared with what was asked for, also when the issuer answers 200."""
    from tests.standins.second_issuer import reply  # noqa: PLC0415

    async with preset("oidc", Client("agent", [SECRET])) as (server, adapter):
        body = {"access_token": "t", "token_type": "N_A", "issued_token_type": "urn:x:y"}
        server.script(reply(200, body), reply(200, {**body, "token_type": "Bearer"}))
        grant = exchange("t", requested_token_type="jwt")
        for kind in (IssuerMisconfigured, TokenMismatch):
            with pytest.raises(kind):
                await ask(adapter, "agent", grant, auth="client_secret_post", client_secret=Secret(SECRET))


async def test_authlibs_own_reading_of_the_assertion() -> None:
    """A third end, by other authors: authlib's server side (RFC 7523 §2.1) accepts what we sign."""
    from authlib.oauth2.rfc7523 import JWTBearerGrant  # noqa: PLC0415
    from joserfc.jwk import RSAKey  # noqa: PLC0415

    async with preset("oidc", registered("robot"), auth="none") as (server, adapter):
        await ask(adapter, "robot", BEARER)
        assertion = dict(server.token_requests[0].form)["assertion"]
        public = RSAKey.import_key(json.loads(json.dumps(server.clients["robot"].keys[0])))

        class Read(JWTBearerGrant):  # type: ignore[misc]  # authlib has no types
            def get_audiences(self) -> list[str]:
                return [server.url]

            def resolve_issuer_client(self, issuer: str) -> str:
                return issuer

            def resolve_client_public_key(self, client: str) -> Any:
                return public

        claims = Read(request=None, server=None).process_assertion_claims(assertion)
        assert (claims["iss"], claims["sub"], claims["aud"]) == ("robot", "robot", server.url)
