"""Tokens of real issuers, looked into: their keys, a rotation, forgeries, introspection, the dialects of products."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.fakes_clock import FakeClock
from tests.standins.fault_issuer import FaultIssuer, answer
from tests.standins.oidc_provider import OidcProvider, client
from tests.standins.second_issuer.server import SecondIssuer
from tests.standins.second_issuer.state import Client, new_keys
from tokenbroker import claims
from tokenbroker.config import ClientConfig, IssuerConfig
from tokenbroker.errors import IssuerMisconfigured, TokenMismatch
from tokenbroker.issuers.token_endpoint import TokenEndpoint
from tokenbroker.model import AgentType, Checked, Credentials, Instant, IssuerAnswer, Secret, SecretRef, TokenKey
from tokenbroker.system.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SECRET = "a secret that is long enough"  # a test's
OURS = Credentials("mine", auth="client_secret_post", client_secret=Secret(SECRET))
API = "https://api.example"


class Moved(FakeClock):
    """Real time to begin with, moved by the test."""

    def __init__(self) -> None:
        now: Instant = SystemClock().now()
        super().__init__(now.wall, now.elapsed)


@asynccontextmanager
async def endpoint(url: str, **config: Any) -> AsyncIterator[tuple[TokenEndpoint, Moved]]:
    clock = Moved()
    found = TokenEndpoint(IssuerConfig("main", url=url, **config), clock=clock, env={})
    try:
        yield found, clock
    finally:
        await found.close()


async def issue(at: TokenEndpoint, scopes: tuple[str, ...] = ("search:read",), **target: Any) -> IssuerAnswer:
    asked = {"audience": None, "resource": None} | target
    return await at.issue(OURS, scopes=scopes, extra={}, **asked)


@pytest.mark.node
async def test_oidc_provider_signs_its_jwts_and_explains_its_opaque_tokens() -> None:
    ours = client("mine", SECRET, token_endpoint_auth_method="client_secret_post", owner="o@example.com")
    async with OidcProvider.start(clients=[ours]) as idp, endpoint(idp.issuer) as (at, _):
        signed = await issue(at, resource=API)
        opaque = await issue(at, ())
    assert (signed.checked, opaque.checked) == (Checked.SIGNATURE, Checked.INTROSPECTION)
    assert opaque.claims is not None
    assert (opaque.claims["client_id"], opaque.claims["iss"]) == ("mine", idp.issuer)
    assert claims.jti(opaque) is None


@pytest.mark.node
async def test_oidc_provider_signs_what_a_configuration_requires() -> None:
    ours = client("mine", SECRET, token_endpoint_auth_method="client_secret_post")
    async with OidcProvider.start(clients=[ours]) as idp, endpoint(idp.issuer, signature="require") as (at, _):
        assert (await issue(at, resource=API)).checked is Checked.SIGNATURE
        with pytest.raises(TokenMismatch, match="opaque"):
            await issue(at, ())


def registered(**more: Any) -> Client:
    return Client("mine", [SECRET], scopes=("search:read",), audiences=(API,), **more)


async def test_a_rotation_at_the_issuer_is_followed() -> None:
    """The new key is asked for when its first token comes, if the last question was 30 s ago; before, it is unknown."""
    async with SecondIssuer.start(clients=[registered()]) as idp, endpoint(idp.url) as (at, clock):
        assert (await issue(at, audience=API)).checked is Checked.SIGNATURE
        idp.state.keys[:] = new_keys()
        await clock.advance(1)
        unknown = await issue(at, audience=API)
        assert (unknown.checked, "is not among those" in unknown.remarks[0]) == (Checked.CLAIMS, True)
        await clock.advance(30)
        assert (await issue(at, audience=API)).checked is Checked.SIGNATURE


@pytest.mark.parametrize(
    ("how", "checked"),
    [
        pytest.param({}, Checked.INTROSPECTION, id="where it is offered"),
        pytest.param({"float_exp": True}, Checked.INTROSPECTION, id="with times that are floats"),
        pytest.param({"introspection": "off"}, Checked.NOTHING, id="where it is not"),
        pytest.param({"introspection": "unauthorized"}, Checked.NOTHING, id="refused with 401"),
        pytest.param({"introspection": "forbidden"}, Checked.NOTHING, id="refused with 403"),
    ],
)
async def test_introspection(how: dict[str, Any], checked: Checked) -> None:
    """One question per token, and none for a while where it was refused."""
    async with (
        SecondIssuer.start(clients=[registered()], token_format="opaque", **how) as idp,
        endpoint(idp.url) as (at, _),
    ):
        for _ in range(3):
            assert (await issue(at, audience=API)).checked is checked
        questions = [call for call in idp.requests if "introspect" in call.path]
    offered = {"off": 0, "unauthorized": 1, "forbidden": 1}
    assert len(questions) == offered.get(how.get("introspection", ""), 3)


async def test_required_introspection_that_is_refused_names_the_way_out() -> None:
    async with (
        SecondIssuer.start(clients=[registered()], token_format="opaque", introspection="forbidden") as idp,
        endpoint(idp.url, introspection="require") as (at, _),
    ):
        with pytest.raises(IssuerMisconfigured, match="403") as caught:
            await issue(at, audience=API)
    assert 'introspection = "auto" in [issuers.main]' in str(caught.value.hint)


@pytest.mark.parametrize(
    ("face", "scopes", "audience", "config"),
    [
        pytest.param("auth0", ("search:read",), API, {}, id="auth0: azp"),
        pytest.param("okta", ("search:read",), None, {}, id="okta: cid and scp"),
        pytest.param("entra", (f"{API}/.default",), None, {"token_issuer": "any"}, id="entra: appid or azp, roles"),
        pytest.param("cognito", ("search:read",), None, {}, id="cognito: no audience"),
    ],
)
async def test_dialects(face: str, scopes: tuple[str, ...], audience: str | None, config: dict[str, Any]) -> None:
    """Products name things differently; what they issue for our client passes, and for another one does not."""
    issuer, key = IssuerConfig("main", **config), TokenKey("search", "mine", scopes, audience)
    ours = ClientConfig("mine", "main", AgentType.INTERACTIVE, "alice@example.com", "mine", SecretRef("op://v/i/f"))
    async with SecondIssuer.start(face, clients=[registered()]) as idp:
        elsewhere = {"token_endpoint": idp.token_endpoint} if face == "cognito" else {}
        async with endpoint(idp.url, **config, **elsewhere) as (at, _):
            came = await issue(at, scopes, audience=audience)
    assert came.checked is Checked.SIGNATURE
    assert claims.check(came, key, ours, issuer, claims.Asked("mine")) is not None
    with pytest.raises(TokenMismatch, match="another client"):
        claims.check(came, key, ours, issuer, claims.Asked("theirs"))


@pytest.mark.parametrize(("kid", "says"), [("k", "did not sign"), ("z", "can have signed")])
async def test_a_forged_token_is_refused(kid: str, says: str) -> None:
    """Whoever answers in the issuer's place does not have its key, by whatever name."""
    true, false = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    published = {**jwt.algorithms.ECAlgorithm.to_jwk(true.public_key(), as_dict=True), "kid": "k"}
    forged = jwt.encode({"sub": "x"}, false, "ES256", {"kid": kid, "jwk": {"kty": "EC"}})
    async with FaultIssuer() as idp:
        metadata = {"issuer": idp.origin, "token_endpoint": idp.url, "jwks_uri": f"{idp.origin}/jwks"}
        idp.script(answer(metadata), answer({"access_token": forged}), answer(json.dumps({"keys": [published]})))
        async with endpoint(idp.origin) as (at, _):
            with pytest.raises(TokenMismatch, match=f"ES256, kid {kid}.* {says}") as caught:
                await issue(at)
    assert forged not in f"{caught.value}{caught.value.hint}"
