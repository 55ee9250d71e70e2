"""The development issuer, asked by a client that shares no code with it."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

import httpx
import jwt
import pytest
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata

from tests.no_tls import NO_TLS
from tokenbroker.dev.authorization import DevClient
from tokenbroker.dev.issuer import DevIssuer, Fault
from tokenbroker.dev.loopback import MARK
from tokenbroker.model import AgentType, Secret

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

SEARCH, BILLING = "https://search.example.com", "https://billing.example.com"
AWKWARD = "p@ss+wo%rd/&= x:ü"


@pytest.fixture
async def issuer() -> AsyncIterator[DevIssuer]:
    async with DevIssuer.start(lifetime=120) as issuer:
        issuer.register(client())
        yield issuer


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, verify=NO_TLS) as http:
        yield http


def client(
    name: str = "agent +1/ü", secret: str = AWKWARD, grants: dict[str, frozenset[str]] | None = None
) -> DevClient:
    scopes = {SEARCH: frozenset({"search:read", "search:write"})} if grants is None else grants
    return DevClient(name, Secret(secret), "ada@example.com", AgentType.AUTONOMOUS, scopes)


def basic(name: str = "agent +1/ü", secret: str = AWKWARD) -> dict[str, str]:
    pair = f"{quote_plus(name)}:{quote_plus(secret)}"
    return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


async def ask(
    http: httpx.AsyncClient, issuer: DevIssuer, headers: Mapping[str, str] | None = None, **fields: str
) -> httpx.Response:
    """Ask for a token, authenticated by `headers`, Basic if there are none."""
    form = {"grant_type": "client_credentials", **fields}
    return await http.post(f"{issuer.url}/token", data=form, headers=basic() if headers is None else headers)


async def test_post_takes_a_secret_with_awkward_characters(issuer: DevIssuer, http: httpx.AsyncClient) -> None:
    answer = await ask(http, issuer, {}, client_id="agent +1/ü", client_secret=AWKWARD)

    assert answer.status_code == 200
    assert answer.json()["token_type"] == "Bearer"


@pytest.mark.parametrize(
    "encode",
    [pytest.param(quote_plus, id="space as plus"), pytest.param(lambda text: quote(text, safe=""), id="space as %20")],
)
async def test_basic_is_form_decoded(issuer: DevIssuer, http: httpx.AsyncClient, encode: Callable[[str], str]) -> None:
    """Both halves are form-encoded before base64 (RFC 6749 §2.3.1), with either form of a space."""
    pair = f"{encode('agent +1/ü')}:{encode(AWKWARD)}"

    answer = await ask(http, issuer, {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()})

    assert answer.status_code == 200


@pytest.mark.parametrize(
    "authorization",
    [
        pytest.param(basic(secret="other")["Authorization"], id="another secret"),
        pytest.param(basic(name="nobody")["Authorization"], id="an unknown client"),
        pytest.param("Basic " + base64.b64encode(f"agent +1/ü:{AWKWARD}".encode()).decode(), id="not form-encoded"),
        pytest.param("Basic %%%", id="not base64"),
        pytest.param("Basic " + base64.b64encode(b"a:%ff").decode(), id="not UTF-8"),
        pytest.param("", id="nothing"),
    ],
)
async def test_wrong_credentials_are_invalid_client(
    issuer: DevIssuer, http: httpx.AsyncClient, authorization: str
) -> None:
    answer = await ask(http, issuer, {"Authorization": authorization})

    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    assert issuer.exchanges == 0


async def test_token_has_the_claims_of_rfc_9068_and_ours(issuer: DevIssuer, http: httpx.AsyncClient) -> None:
    answer = (await ask(http, issuer, scope="search:read")).json()
    keys = jwt.PyJWKSet.from_dict((await http.get(issuer.jwks_uri)).json())
    header = jwt.get_unverified_header(answer["access_token"])

    claims = jwt.decode(answer["access_token"], keys[header["kid"]], audience=SEARCH, issuer=issuer.url)

    assert header["typ"] == "at+jwt"
    assert (answer["scope"], answer["expires_in"]) == ("search:read", 120)
    assert claims.pop("exp") - claims.pop("iat") == 120
    assert len(claims.pop("jti")) > 16
    assert claims == {
        "iss": issuer.url,
        "sub": "agent +1/ü",
        "aud": SEARCH,
        "client_id": "agent +1/ü",
        "scope": "search:read",
        "owner": "ada@example.com",
        "agent_type": "autonomous",
        "act": {"sub": "agent +1/ü"},
    }


async def test_no_scope_means_every_scope_of_the_audience(issuer: DevIssuer, http: httpx.AsyncClient) -> None:
    """The default is said in the answer, as RFC 6749 §3.3 asks."""
    assert (await ask(http, issuer)).json()["scope"] == "search:read search:write"


@pytest.mark.parametrize("name", ["audience", "resource"])
async def test_each_audience_has_its_own_scopes(issuer: DevIssuer, http: httpx.AsyncClient, name: str) -> None:
    issuer.register(client(grants={SEARCH: frozenset({"search:read"}), BILLING: frozenset({"billing:read"})}))

    good = await ask(http, issuer, None, **{name: BILLING, "scope": "billing:read"})
    crossed = await ask(http, issuer, None, **{name: BILLING, "scope": "search:read"})

    assert issuer.read(good.json()["access_token"])["aud"] == BILLING  # type: ignore[index]
    assert (crossed.status_code, crossed.json()["error"]) == (400, "invalid_scope")


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        pytest.param({"grant_type": "password"}, "unsupported_grant_type", id="another grant"),
        pytest.param({"scope": "search:delete"}, "invalid_scope", id="a scope that the client has not"),
        pytest.param({"audience": "https://other.example.com"}, "invalid_target", id="an unknown audience"),
        pytest.param({"audience": SEARCH, "resource": BILLING}, "invalid_target", id="two audiences"),
    ],
)
async def test_what_the_client_may_not_have_is_refused(
    issuer: DevIssuer, http: httpx.AsyncClient, fields: dict[str, str], error: str
) -> None:
    answer = await ask(http, issuer, None, **fields)

    assert (answer.status_code, answer.json()["error"]) == (400, error)
    assert issuer.exchanges == 0


@pytest.mark.parametrize("body", ["grant_type=client_credentials&scope=a&scope=b", "", "\udcff"])
async def test_a_malformed_form_is_invalid_request(issuer: DevIssuer, http: httpx.AsyncClient, body: str) -> None:
    content = body.encode(errors="surrogateescape")
    answer = await http.post(f"{issuer.url}/token", content=content, headers=basic())

    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


@pytest.mark.parametrize("well_known", ["oauth-authorization-server", "openid-configuration"])
async def test_metadata_stands_where_rfc_8414_puts_it(
    issuer: DevIssuer, http: httpx.AsyncClient, well_known: str
) -> None:
    origin, path = issuer.url.removesuffix("/development"), "/development"

    inserted = (await http.get(f"{origin}/.well-known/{well_known}{path}")).json()
    appended = (await http.get(f"{issuer.url}/.well-known/openid-configuration")).json()

    assert inserted == appended
    assert inserted["issuer"] == issuer.url
    assert (await http.post(inserted["token_endpoint"], data={"grant_type": "client_credentials"})).status_code == 401


async def test_every_answer_is_marked_and_the_name_says_development(issuer: DevIssuer, http: httpx.AsyncClient) -> None:
    answers = [await ask(http, issuer), await http.get(issuer.jwks_uri), await http.get(f"{issuer.url}/nothing")]

    assert {answer.headers[MARK] for answer in answers} == {"not for production"}
    assert issuer.url.endswith("/development")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])  # noqa: S104  # must be refused
async def test_only_loopback_is_listened_on(host: str) -> None:
    with pytest.raises(ValueError, match="loopback"):
        async with DevIssuer.start(host=host):
            pass


async def test_a_rotated_secret_replaces_the_old_one(issuer: DevIssuer, http: httpx.AsyncClient) -> None:
    issuer.register(client(secret="new"))

    assert (await ask(http, issuer)).status_code == 401
    assert (await ask(http, issuer, basic(secret="new"))).status_code == 200


async def test_an_unregistered_client_is_refused(issuer: DevIssuer, http: httpx.AsyncClient) -> None:
    issuer.unregister("agent +1/ü")

    assert (await ask(http, issuer)).status_code == 401


async def test_a_status_fault_is_answered_and_mended(issuer: DevIssuer, http: httpx.AsyncClient) -> None:
    issuer.fault = Fault(status=429, retry_after="7")
    failed = await ask(http, issuer)
    issuer.fault = Fault()
    mended = await ask(http, issuer)

    assert (failed.status_code, failed.headers["Retry-After"]) == (429, "7")
    assert mended.status_code == 200
    assert (issuer.requests, issuer.exchanges) == (2, 1)


async def test_an_issuer_that_is_down_cuts_the_connection(issuer: DevIssuer, http: httpx.AsyncClient) -> None:
    issuer.fault = Fault(down=True)

    with pytest.raises(httpx.TransportError):
        await ask(http, issuer)
    with pytest.raises(httpx.TransportError):
        await http.get(issuer.jwks_uri)
    assert (issuer.requests, issuer.exchanges) == (1, 0)


async def test_a_held_request_waits_for_its_event(issuer: DevIssuer, http: httpx.AsyncClient) -> None:
    hold = asyncio.Event()
    issuer.fault = Fault(hold=hold)
    waiting = asyncio.create_task(ask(http, issuer))
    await http.get(issuer.jwks_uri)  # the rest of the issuer goes on answering
    assert not waiting.done()
    hold.set()

    assert (await waiting).status_code == 200


async def test_revocation_notes_the_token_of_its_own_client_alone(issuer: DevIssuer, http: httpx.AsyncClient) -> None:
    issuer.register(client("other"))
    token = (await ask(http, issuer)).json()["access_token"]
    revoke = f"{issuer.url}/revoke"

    foreign = await http.post(revoke, data={"token": token}, headers=basic("other"))
    unknown = await http.post(revoke, data={"token": "nonsense"}, headers=basic())
    anonymous = await http.post(revoke, data={"token": token})
    assert (foreign.status_code, unknown.status_code, anonymous.status_code) == (400, 200, 401)
    assert not issuer.revoked

    assert (await http.post(revoke, data={"token": token}, headers=basic())).status_code == 200
    assert len(issuer.revoked) == 1


async def introspect(
    http: httpx.AsyncClient, issuer: DevIssuer, token: str, headers: Mapping[str, str] | None = None
) -> httpx.Response:
    return await http.post(
        f"{issuer.url}/introspect", data={"token": token}, headers=basic() if headers is None else headers
    )


async def test_introspection_says_what_the_token_says(issuer: DevIssuer, http: httpx.AsyncClient) -> None:
    """RFC 7662 §2.2, with our claims beside the standard ones."""
    token = (await ask(http, issuer, scope="search:read")).json()["access_token"]

    answer = await introspect(http, issuer, token)

    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    assert answer.json() == {"active": True, "token_type": "Bearer", **(issuer.read(token) or {})}
    assert answer.json()["act"] == {"sub": "agent +1/ü"}


async def test_introspection_tells_other_clients_nothing(issuer: DevIssuer, http: httpx.AsyncClient) -> None:
    issuer.register(client("other"))
    token = (await ask(http, issuer)).json()["access_token"]

    assert (await introspect(http, issuer, token, basic("other"))).json() == {"active": False}
    assert (await introspect(http, issuer, "nonsense")).json() == {"active": False}
    assert (await introspect(http, issuer, token, {})).status_code == 401


async def test_a_revoked_token_is_not_active(issuer: DevIssuer, http: httpx.AsyncClient) -> None:
    token = (await ask(http, issuer)).json()["access_token"]
    await http.post(f"{issuer.url}/revoke", data={"token": token}, headers=basic())

    assert (await introspect(http, issuer, token)).json() == {"active": False}


async def test_an_expired_token_and_a_forgotten_clients_token_are_not_active(http: httpx.AsyncClient) -> None:
    now = [1_800_000_000.0]
    async with DevIssuer.start(lifetime=120, clock=lambda: now[0]) as issuer:
        issuer.register(client())
        token = (await ask(http, issuer)).json()["access_token"]
        assert issuer.live(token)
        issuer.unregister("agent +1/ü")
        assert issuer.live(token) is None
        issuer.register(client())
        now[0] += 120
        assert (await introspect(http, issuer, token)).json() == {"active": False}


async def test_metadata_is_complete(issuer: DevIssuer, http: httpx.AsyncClient) -> None:
    """Authlib's own validator of RFC 8414 takes it, each endpoint answers, and each list says what is true.

    But for two things: it wants https, and a response type where an issuer without redirects has none.
    """
    document = (await http.get(f"{issuer.url}/.well-known/openid-configuration")).json()
    secure = {name: str(value).replace("http:", "https:") for name, value in document.items() if isinstance(value, str)}
    AuthorizationServerMetadata({**document, **secure, "response_types_supported": ["none"]}).validate()

    assert document["response_types_supported"] == []

    assert document["scopes_supported"] == ["search:read", "search:write"]
    for kind in ("token", "revocation", "introspection"):
        assert document[f"{kind}_endpoint_auth_methods_supported"] == ["client_secret_basic", "client_secret_post"]
        assert (await http.post(document[f"{kind}_endpoint"], data={"x": "y"})).status_code in {400, 401}
    assert (await http.get(document["jwks_uri"])).json()["keys"]


async def test_no_secret_and_no_token_is_logged(
    issuer: DevIssuer, http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Authlib's own grant logs each token at debug level; this issuer's does not."""
    caplog.set_level(logging.DEBUG)
    token = (await ask(http, issuer)).json()["access_token"]
    await http.post(f"{issuer.url}/revoke", data={"token": token}, headers=basic())

    assert caplog.records
    assert token.rsplit(".", 1)[1] not in caplog.text
    assert AWKWARD not in caplog.text + repr(client()) + repr(issuer.client("agent +1/ü"))


async def test_the_environment_is_left_alone(issuer: DevIssuer, http: httpx.AsyncClient) -> None:
    """Plain http on loopback needs no switch that would allow it for the whole process."""
    assert (await ask(http, issuer)).status_code == 200
    assert "AUTHLIB_INSECURE_TRANSPORT" not in os.environ
