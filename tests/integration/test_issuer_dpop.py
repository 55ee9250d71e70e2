"""Tokens that are bound to a key: asked of the certified oidc-provider, and of servers that misbehave."""

from __future__ import annotations

import asyncio
import base64
import json
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.fakes_issuer import StillClock
from tests.integration.test_issuer_oidc_provider import RealClock, signer
from tests.standins.fault_issuer import FaultIssuer, answer, error
from tests.standins.oidc_provider import OidcProvider, client
from tokenbroker.config import IssuerConfig
from tokenbroker.dev.verifier import Proofs
from tokenbroker.errors import IssuerNeedsPerson, IssuerUnavailable, TokenMismatch
from tokenbroker.issuers.token_endpoint import TokenEndpoint
from tokenbroker.model import Credentials, Instant, Secret

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.standins.fault_issuer import Received
    from tokenbroker.model import IssuerAnswer

SECRET = "p@ss+wo%rd/&= x, long enough"
API = "https://api.example"
KEY = ec.generate_private_key(ec.SECP256R1())
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
BOUND = Credentials("bound", auth="client_secret_basic", client_secret=Secret(SECRET), dpop=True)
ASSERTING = Credentials("asserting", auth="private_key_jwt", private_key=Secret(PEM), key_id="k1", dpop=True)
POSTED = Credentials("client", client_secret=Secret(SECRET), dpop=True)
DPOP = {"access_token": "t", "token_type": "DPoP", "expires_in": 60}
NONCE = {"DPoP-Nonce": "n-1"}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=[False, True], ids=["no nonce", "nonce"])
async def idp(request: pytest.FixtureRequest) -> AsyncIterator[OidcProvider]:
    clients = [
        client("bound", SECRET, dpop_bound_access_tokens=True),
        {**signer("asserting", KEY, "ES256"), "dpop_bound_access_tokens": True},
    ]
    async with OidcProvider.start(clients=clients, dpop_nonce=request.param) as provider:
        yield provider


class WrongClock(RealClock):
    """Twenty minutes ahead."""

    def now(self) -> Instant:
        right = super().now()
        return Instant(right.wall + 1200, right.elapsed)


async def ask(endpoint: TokenEndpoint, credentials: Credentials, resource: str | None = None) -> IssuerAnswer:
    async with asyncio.timeout(10):
        return await endpoint.issue(credentials, scopes=("search:read",), audience=None, resource=resource, extra={})


async def ask_once(server: FaultIssuer, credentials: Credentials = POSTED) -> IssuerAnswer:
    endpoint = TokenEndpoint(IssuerConfig("main", token_endpoint=server.url), clock=StillClock(), env={})
    try:
        return await ask(endpoint, credentials)
    finally:
        await endpoint.close()


@pytest.mark.node
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("credentials", [BOUND, ASSERTING], ids=["secret", "assertion"])
async def test_the_provider_binds_the_token_to_the_key(idp: OidcProvider, credentials: Credentials) -> None:
    """With a nonce too, which it gives by a refusal: then the assertion is a new one, or it would call it replayed."""
    endpoint = TokenEndpoint(IssuerConfig("main", url=idp.issuer), clock=RealClock(), env={})
    try:
        first, second = [await ask(endpoint, credentials, API) for _ in range(2)]
    finally:
        await endpoint.close()
    for each in (first, second):
        assert each.token_type == "DPoP"
        assert each.proof_key is not None
        assert each.claims is not None
        assert each.claims["cnf"] == {"jkt": each.proof_key.thumbprint}
    assert first.claims != second.claims
    assert first.proof_key is not second.proof_key


@pytest.mark.node
@pytest.mark.asyncio(loop_scope="module")
async def test_the_first_requests_may_come_at_once(idp: OidcProvider) -> None:
    """Each is told the nonce for itself."""
    endpoint = TokenEndpoint(IssuerConfig("main", url=idp.issuer), clock=RealClock(), env={})
    try:
        answers = await asyncio.gather(*(ask(endpoint, ASSERTING, API) for _ in range(4)))
    finally:
        await endpoint.close()
    assert len({each.access_token.reveal() for each in answers}) == 4


@pytest.mark.node
@pytest.mark.asyncio(loop_scope="module")
async def test_a_proof_for_the_api_fits_the_providers_token(idp: OidcProvider) -> None:
    """Judged by the protected side's own verifier."""
    clock = RealClock()
    endpoint = TokenEndpoint(IssuerConfig("main", url=idp.issuer), clock=clock, env={})
    try:
        got = await ask(endpoint, BOUND, API)
    finally:
        await endpoint.close()
    assert got.proof_key is not None
    assert got.claims is not None
    now = clock.now().wall
    proof = got.proof_key.prove("PUT", f"{API}/a?b", token=got.access_token, nonce=None, now=now)
    Proofs(API).check([proof], token=got.access_token.reveal(), bound=got.claims, method="PUT", path="/a")


@pytest.mark.node
@pytest.mark.asyncio(loop_scope="module")
async def test_a_clock_that_is_wrong_is_named(idp: OidcProvider, request: pytest.FixtureRequest) -> None:
    """The provider takes proofs of five minutes; with its nonce in them it looks at no clock (RFC 9449 §11.1)."""
    endpoint = TokenEndpoint(IssuerConfig("main", url=idp.issuer), clock=WrongClock(), env={})
    try:
        if request.node.callspec.params["idp"]:
            assert (await ask(endpoint, BOUND, API)).proof_key is not None
            return
        with pytest.raises(IssuerNeedsPerson, match=r"this machine's clock is 1\d\d\d s ahead") as caught:
            await ask(endpoint, BOUND, API)
    finally:
        await endpoint.close()
    assert str(caught.value.hint).startswith("set this machine's clock")


def proof_of(received: Received) -> dict[str, Any]:
    payload = received.headers["dpop"].split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return claims


@pytest.mark.parametrize("status", [400, 401])
async def test_a_nonce_is_used_at_once_and_from_then_on(status: int) -> None:
    refusal = error("use_dpop_nonce", status, NONCE)
    renewed = answer(DPOP, headers={"DPoP-Nonce": "n-2"})
    async with FaultIssuer(refusal, renewed, answer(DPOP)) as server:
        endpoint = TokenEndpoint(IssuerConfig("main", token_endpoint=server.url), clock=StillClock(), env={})
        try:
            for _ in range(3):
                assert (await ask(endpoint, POSTED)).token_type == "DPoP"
        finally:
            await endpoint.close()
        proofs, url = [proof_of(each) for each in server.requests], server.url
    assert [proof.get("nonce") for proof in proofs] == [None, "n-1", "n-2", "n-2"]
    assert len({proof["jti"] for proof in proofs}) == 4
    assert {proof["htu"] for proof in proofs} == {url}


async def test_nothing_that_may_be_used_once_is_sent_twice() -> None:
    async with FaultIssuer(error("use_dpop_nonce", 400, NONCE), answer(DPOP)) as server:
        await ask_once(server, ASSERTING)
        assertions = [dict(each.form)["client_assertion"] for each in server.requests]
        keys = [jwt.get_unverified_header(each.headers["dpop"])["jwk"] for each in server.requests]
    names = {jwt.decode(each, options={"verify_signature": False})["jti"] for each in assertions}
    assert len(names) == 2
    assert keys[0] == keys[1]


async def test_an_issuer_that_is_never_content_is_asked_twice_and_no_more() -> None:
    async with FaultIssuer(error("use_dpop_nonce", 400, NONCE)) as server:
        with pytest.raises(IssuerUnavailable, match="takes none that it gave"):
            await ask_once(server)
        assert len(server.requests) == 2


@pytest.mark.parametrize("headers", [{}, {"DPoP-Nonce": "a b"}, {"DPoP-Nonce": "x" * 2000}])
async def test_a_nonce_that_is_none_is_not_tried(headers: dict[str, str]) -> None:
    async with FaultIssuer(error("use_dpop_nonce", 400, headers)) as server:
        with pytest.raises(IssuerUnavailable):
            await ask_once(server)
        assert len(server.requests) == 1


async def test_a_server_that_ignores_the_proof_is_found_out() -> None:
    async with FaultIssuer(answer({**DPOP, "token_type": "Bearer"})) as server:
        with pytest.raises(TokenMismatch, match="of type Bearer, asked was DPoP"):
            await ask_once(server)


async def test_a_refused_proof_is_not_tried_again() -> None:
    date = {"Date": formatdate(StillClock().now().wall + 3600, usegmt=True)}
    async with FaultIssuer(error("invalid_dpop_proof", 400, {**NONCE, **date})) as server:
        with pytest.raises(IssuerNeedsPerson, match="clock is 3600 s behind"):
            await ask_once(server)
        assert len(server.requests) == 1


async def test_without_dpop_there_is_no_proof() -> None:
    async with FaultIssuer(answer({**DPOP, "token_type": "Bearer"})) as server:
        assert (await ask_once(server, Credentials("c", client_secret=Secret(SECRET)))).proof_key is None
        assert "dpop" not in server.requests[0].headers
