"""Revocation (RFC 7009) at a certified provider and at servers that do it their own way."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes_issuer import StillClock
from tests.standins import fault_issuer
from tests.standins.fault_issuer import FaultIssuer
from tests.standins.oidc_provider import OidcProvider, client
from tokenbroker.config import IssuerConfig
from tokenbroker.errors import CredentialRejected, IssuerError, IssuerMisconfigured, IssuerUnavailable
from tokenbroker.issuers.token_endpoint import TokenEndpoint
from tokenbroker.model import Credentials, Revocation, Secret
from tokenbroker.system.clock import SystemClock

if TYPE_CHECKING:
    from tests.standins.fault_issuer import Behaviour

CLIENT = Credentials("me", auth="client_secret_basic", client_secret=Secret("s3cr+t%/&="))
TOKEN = Secret("opaque-token")


async def revoke(config: IssuerConfig, credentials: Credentials = CLIENT, token: Secret = TOKEN) -> Revocation:
    """Ask once."""
    endpoint = TokenEndpoint(config, clock=StillClock(), env={})
    try:
        return await endpoint.revoke(credentials, token)
    finally:
        await endpoint.close()


@pytest.mark.node
async def test_an_opaque_token_is_dead_after_its_revocation_and_a_jwt_cannot_be_revoked() -> None:
    """The provider itself says so, by introspection and by `unsupported_token_type`."""
    async with OidcProvider.start(clients=[client("me", "s3cr+t%/&=")]) as provider:
        endpoint = TokenEndpoint(IssuerConfig("main", url=provider.issuer), clock=SystemClock(), env={})
        wanted: dict[str, Any] = {"scopes": ("search:read",), "audience": None, "extra": {}}
        jwt = await endpoint.issue(CLIENT, resource="https://api.example", **wanted)
        assert jwt.claims is not None
        assert await endpoint.revoke(CLIENT, jwt.access_token) is Revocation.UNSUPPORTED
        assert await endpoint.revoke(CLIENT, Secret("never issued")) is Revocation.REVOKED
        with pytest.raises(CredentialRejected):
            await endpoint.revoke(Credentials("me", "client_secret_basic", Secret("wrong")), jwt.access_token)
        await endpoint.close()


async def test_the_request_is_what_rfc_7009_says() -> None:
    """The token and what kind it is, by a client that authenticates as at the token endpoint."""
    async with FaultIssuer(fault_issuer.answer(b"", 200)) as server:
        config = IssuerConfig("main", token_endpoint=server.url, revocation_endpoint=f"{server.url}/revoke")
        assert await revoke(config) is Revocation.REVOKED
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/token/revoke")
    assert request.form == [("token", TOKEN.reveal()), ("token_type_hint", "access_token")]
    assert request.headers["authorization"].startswith("Basic ")


async def test_without_an_endpoint_nothing_is_asked() -> None:
    """Neither a configured one nor one in the metadata: the token cannot be revoked, and that is said."""
    assert await revoke(IssuerConfig("main", token_endpoint="https://nowhere.invalid/token")) is Revocation.UNSUPPORTED


def metadata(server: FaultIssuer, **members: str) -> Behaviour:
    """Answer every look-up with metadata of this server."""
    document = {"issuer": server.url, "token_endpoint": f"{server.url}/token", **members}
    return fault_issuer.answer(json.dumps(document).encode(), 200)


async def test_an_endpoint_elsewhere_gets_no_secret() -> None:
    """The metadata may name a revocation endpoint of another host; a person has to write that down first."""
    async with FaultIssuer() as thief, FaultIssuer() as server:
        server.script(metadata(server, revocation_endpoint=f"{thief.url}/revoke"))
        assert await revoke(IssuerConfig("main", url=server.url)) is Revocation.UNSUPPORTED
        assert thief.requests == []


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        pytest.param(fault_issuer.answer(b"", 204), Revocation.REVOKED, id="no content"),
        pytest.param(fault_issuer.answer(b"<html>", 200), Revocation.REVOKED, id="a page, which nobody reads"),
        pytest.param(fault_issuer.error("unsupported_token_type"), Revocation.UNSUPPORTED, id="not this type"),
        pytest.param(fault_issuer.answer(b"", 404), Revocation.UNSUPPORTED, id="announced and not there"),
        pytest.param(fault_issuer.answer(b"", 503), IssuerUnavailable, id="not now"),
        pytest.param(fault_issuer.error("invalid_client", 401), CredentialRejected, id="not this client"),
        pytest.param(fault_issuer.error("invalid_request"), IssuerMisconfigured, id="not so"),
        pytest.param(fault_issuer.reset, IssuerUnavailable, id="a reset"),
    ],
)
async def test_what_issuers_answer(behaviour: Behaviour, expected: Revocation | type[IssuerError]) -> None:
    """Each answer is told apart, and none shows the token."""
    async with FaultIssuer(behaviour) as server:
        config = IssuerConfig("main", token_endpoint=server.url, revocation_endpoint=f"{server.url}/revoke")
        if isinstance(expected, Revocation):
            assert await revoke(config) is expected
            return
        with pytest.raises(expected) as caught:
            await revoke(config)
        assert TOKEN.reveal() not in f"{caught.value}{caught.value.hint}"
