"""The development API and its verifier, over HTTP: each check has a token that fails it alone."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.no_tls import NO_TLS
from tokenbroker.dev.api import DevApi
from tokenbroker.dev.authorization import DevClient
from tokenbroker.dev.issuer import DevIssuer, Fault, SigningKey
from tokenbroker.dev.loopback import MARK
from tokenbroker.model import AgentType, Secret

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

SCOPES = frozenset({"search:read", "billing:read"})


@dataclass
class Scene:
    """An issuer and an API that trusts it, with clocks that a test may move."""

    http: httpx.AsyncClient
    wall: float = field(default_factory=time.time)
    elapsed: float = 1000.0
    issuer: DevIssuer = field(init=False)
    api: DevApi = field(init=False)
    client: DevClient = field(init=False)

    async def start(self, stack: AsyncExitStack) -> Scene:
        clock: Callable[[], float] = lambda: self.wall  # noqa: E731
        self.issuer = await stack.enter_async_context(DevIssuer.start(clock=clock))
        starting = DevApi.start(
            issuer=self.issuer.url, jwks_uri=self.issuer.jwks_uri, clock=clock, elapsed=lambda: self.elapsed
        )
        self.api = await stack.enter_async_context(starting)
        grants = {self.api.url: SCOPES}
        self.client = DevClient("agent", Secret("s"), "ada@example.com", AgentType.INTERACTIVE, grants)
        return self

    def token(self, scope: str = "search:read") -> str:
        return str(self.issuer.mint(self.client, self.api.url, scope)["access_token"])

    def altered(self, head: dict[str, Any] | None = None, **claims: Any) -> str:
        """Sign with the issuer's own key a token that differs from a good one in this; `None` leaves a thing out."""
        good = self.issuer.read(self.token())
        assert good is not None
        body = {name: value for name, value in {**good, **claims}.items() if value is not None}
        headers = {"typ": "at+jwt", "kid": self.issuer._key.kid, **(head or {})}
        return jwt.encode(body, self.issuer._key.private, "ES256", headers)

    async def get(self, token: str, path: str = "/search") -> httpx.Response:
        return await self.http.get(self.api.url + path, headers={"Authorization": f"Bearer {token}"})


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx.AsyncClient(trust_env=False, verify=NO_TLS))
        yield await Scene(http).start(stack)


def encoded(**parts: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).rstrip(b"=").decode()


def with_head(token: str, **head: Any) -> str:
    """Replace members of the header, leaving the signature as it was."""
    return f"{encoded(**{**jwt.get_unverified_header(token), **head})}.{token.split('.', 1)[1]}"


async def test_a_good_token_is_let_through(scene: Scene) -> None:
    answer = await scene.get(scene.token())

    assert answer.status_code == 200
    assert answer.headers[MARK]
    assert answer.json() == {
        "path": "/search",
        "owner": "ada@example.com",
        "agent_type": "interactive",
        "client_id": "agent",
        "actor": "agent",
        "scopes": ["search:read"],
    }


async def test_the_scheme_is_case_insensitive(scene: Scene) -> None:
    headers = {"Authorization": f"bearer {scene.token()}"}

    assert (await scene.http.get(f"{scene.api.url}/search", headers=headers)).status_code == 200


REFUSED: dict[str, tuple[Callable[[Scene], str], str]] = {
    "alg none": (lambda s: with_head(s.token(), alg="none"), "the algorithm is not accepted"),
    "alg none, no signature": (
        lambda s: with_head(s.token(), alg="none").rsplit(".", 1)[0] + ".",
        "the algorithm is not accepted",
    ),
    "HS256 with the public key as its secret": (
        lambda s: jwt.encode(
            s.issuer.read(s.token()) or {},
            json.dumps(s.issuer._key.jwk()) * 2,
            "HS256",
            {"typ": "at+jwt", "kid": s.issuer._key.kid},
        ),
        "the algorithm is not accepted",
    ),
    "another algorithm than the key's": (
        lambda s: jwt.encode(
            s.issuer.read(s.token()) or {},
            rsa.generate_private_key(public_exponent=65537, key_size=2048),
            "RS256",
            {"typ": "at+jwt", "kid": s.issuer._key.kid},
        ),
        "the algorithm is not the key's",
    ),
    "an ID token": (lambda s: s.altered({"typ": "JWT"}), "the token is not an access token"),
    "no kid": (lambda s: with_head(s.token(), kid=None), "the token names no key"),
    "unknown kid": (lambda s: s.altered({"kid": "unknown"}), "the key is unknown"),
    "critical header": (lambda s: s.altered({"crit": ["x"], "x": 1}), "the token is not a JWT"),
    "forged": (
        lambda s: jwt.encode(
            s.issuer.read(s.token()) or {},
            ec.generate_private_key(ec.SECP256R1()),
            "ES256",
            {"typ": "at+jwt", "kid": s.issuer._key.kid},
        ),
        "the signature is not valid",
    ),
    "tampered": (
        lambda s: ".".join(
            [
                s.token().split(".")[0],
                encoded(**{**(s.issuer.read(s.token()) or {}), "scope": "billing:read"}),
                s.token().split(".")[2],
            ]
        ),
        "the signature is not valid",
    ),
    "garbage": (lambda _: "garbage", "the token is not a JWT"),
    "too long": (lambda _: "x" * (16 * 1024 + 1), "the token is too long"),
    "wrong issuer": (lambda s: s.altered(iss=s.issuer.url + "/"), "the issuer is another"),
    "wrong audience": (lambda s: s.altered(aud=s.api.url + "/"), "the audience is another"),
    "no issuer": (lambda s: s.altered(iss=None), "the claim iss is missing"),
    "no audience": (lambda s: s.altered(aud=None), "the claim aud is missing"),
    "no expiry": (lambda s: s.altered(exp=None), "the claim exp is missing"),
    "no iat": (lambda s: s.altered(iat=None), "the claim iat is missing"),
    "expired": (lambda s: s.altered(exp=int(s.wall) - 31), "the token has expired"),
    "expiry is a text": (lambda s: s.altered(exp="9999999999"), "the claim exp is not a number"),
    "expiry is a truth value": (lambda s: s.altered(exp=True), "the claim exp is not a number"),
    "issued in the future": (lambda s: s.altered(iat=int(s.wall) + 32), "the token is not valid yet"),
    "not before a later time": (lambda s: s.altered(nbf=int(s.wall) + 32), "the token is not valid yet"),
    "no sub": (lambda s: s.altered(sub=None), "the claim sub is missing"),
    "no jti": (lambda s: s.altered(jti=None), "the claim jti is missing"),
    "no client": (lambda s: s.altered(client_id=None), "the claim client_id is missing"),
    "scope is a number": (lambda s: s.altered(scope=1), "the claim scope is not a list of texts"),
    "no owner": (lambda s: s.altered(owner=None), "the claim owner is missing"),
    "empty owner": (lambda s: s.altered(owner=""), "the claim owner is missing"),
    "no agent_type": (lambda s: s.altered(agent_type=None), "the claim agent_type is missing"),
    "unknown agent_type": (lambda s: s.altered(agent_type="robot"), "the agent_type is unknown"),
    "bound to a key": (
        lambda s: s.altered(cnf={"jkt": "x"}),
        "the token is bound to a key and cannot be a bearer token",
    ),
}


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED.keys())
async def test_a_token_that_fails_one_check_is_refused(scene: Scene, make: Callable[[Scene], str], reason: str) -> None:
    """401 with the reason, where the metadata is, and nothing of the token."""
    token = make(scene)

    answer = await scene.get(token)

    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_token")
    assert answer.json()["error_description"] == reason
    challenge = answer.headers["WWW-Authenticate"]
    assert challenge.startswith('Bearer error="invalid_token", error_description="')
    assert f'resource_metadata="{scene.api.metadata_url}"' in challenge
    assert token not in answer.text + challenge


@pytest.mark.parametrize(
    "authorization",
    [
        pytest.param(None, id="none at all"),
        pytest.param("Basic YTpi", id="Basic"),
        pytest.param("Bearer", id="no token"),
    ],
)
async def test_a_request_without_a_token_gets_a_challenge_without_error(
    scene: Scene, authorization: str | None
) -> None:
    """Without one the answer "SHOULD NOT include an error code" (RFC 6750 §3.1)."""
    headers = {} if authorization is None else {"Authorization": authorization}

    answer = await scene.http.get(f"{scene.api.url}/search", headers=headers)

    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == f'Bearer resource_metadata="{scene.api.metadata_url}"'


async def test_two_authorization_headers_are_refused(scene: Scene) -> None:
    headers = [("Authorization", f"Bearer {scene.token()}")] * 2

    answer = await scene.http.get(f"{scene.api.url}/search", headers=headers)

    assert answer.status_code == 400
    assert 'error="invalid_request"' in answer.headers["WWW-Authenticate"]


async def test_a_missing_scope_is_403_and_names_the_scope(scene: Scene) -> None:
    answer = await scene.get(scene.token("search:read"), "/billing")

    assert answer.status_code == 403
    challenge = answer.headers["WWW-Authenticate"]
    assert 'error="insufficient_scope"' in challenge
    assert 'scope="billing:read"' in challenge


@pytest.mark.parametrize(
    "claims",
    [
        pytest.param({"client_id": None, "azp": "agent"}, id="Auth0's client"),
        pytest.param({"scope": None, "scp": ["search:read"]}, id="Okta's scopes"),
        pytest.param({"scope": None, "permissions": ["search:read", "x"]}, id="Auth0's permissions"),
        pytest.param({"exp": 1.5e10}, id="an expiry with a fraction"),
        pytest.param({"act": None}, id="no actor"),
    ],
)
async def test_other_issuers_names_are_understood(scene: Scene, claims: dict[str, Any]) -> None:
    assert (await scene.get(scene.altered(**claims))).status_code == 200


async def test_several_audiences_may_include_ours(scene: Scene) -> None:
    assert (await scene.get(scene.altered(aud=["https://x.example.com", scene.api.url]))).status_code == 200


async def test_the_clocks_may_differ_by_thirty_seconds(scene: Scene) -> None:
    token = scene.token()
    scene.wall += scene.issuer.lifetime + 28
    assert (await scene.get(token)).status_code == 200
    scene.wall += 3
    assert (await scene.get(token)).status_code == 401


async def test_unknown_path_is_not_found_even_with_a_token(scene: Scene) -> None:
    assert (await scene.get(scene.token(), "/admin")).status_code == 404


async def test_metadata_is_public_and_names_the_issuer(scene: Scene) -> None:
    document = (await scene.http.get(scene.api.metadata_url)).json()

    assert (document["resource"], document["authorization_servers"]) == (scene.api.url, [scene.issuer.url])
    assert document["scopes_supported"] == ["billing:read", "search:read"]


async def test_without_any_key_the_answer_is_503(scene: Scene) -> None:
    """A good token must not be thrown away because the API cannot judge it."""
    scene.issuer.fault = Fault(down=True)

    answer = await scene.get(scene.token())

    assert answer.status_code == 503
    assert "WWW-Authenticate" not in answer.headers
    assert answer.headers["Retry-After"]


async def test_known_keys_outlive_an_issuer_that_is_down(scene: Scene) -> None:
    token = scene.token()
    assert (await scene.get(token)).status_code == 200
    scene.issuer.fault = Fault(down=True)
    scene.elapsed += 3600

    assert (await scene.get(token)).status_code == 200


async def test_a_new_key_is_found_but_not_asked_for_too_often(scene: Scene) -> None:
    """A rotated key is fetched at its first use, 30 s after the last fetch at the soonest."""
    assert (await scene.get(scene.token())).status_code == 200
    scene.issuer.rotate_key()
    token = scene.token()
    scene.elapsed += 29
    assert (await scene.get(token)).status_code == 401
    scene.elapsed += 1
    assert (await scene.get(token)).status_code == 200


async def test_a_new_key_of_an_issuer_that_is_down_is_503(scene: Scene) -> None:
    assert (await scene.get(scene.token())).status_code == 200
    scene.issuer.rotate_key()
    scene.issuer.fault = Fault(down=True)
    scene.elapsed += 30

    assert (await scene.get(scene.token())).status_code == 503


async def test_a_withdrawn_key_is_forgotten(scene: Scene) -> None:
    token = scene.token()
    assert (await scene.get(token)).status_code == 200
    scene.issuer._key = SigningKey.generate()
    scene.elapsed += 300

    assert (await scene.get(token)).status_code == 401


@pytest.mark.parametrize("level", [logging.DEBUG, logging.ERROR])
async def test_a_malformed_header_is_not_logged(scene: Scene, caplog: pytest.LogCaptureFixture, level: int) -> None:
    """Its beginning, a token's perhaps, is what aiohttp would log before the verifier sees anything."""
    with caplog.at_level(level):
        assert await raw_request(scene, "GET /search", "Authorization: Bearer SECRET-TOKEN\x01\x00") == 400
    assert "SECRET" not in caplog.text


async def raw_request(scene: Scene, line: str, *headers: str) -> int:
    """Send a request line as it is, which no HTTP client would do, and return the status."""
    host, _, port = scene.api.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write("\r\n".join([f"{line} HTTP/1.1", "Host: x", "Connection: close", *headers, "", ""]).encode())
    answer = await reader.read()
    writer.close()
    return int(answer.split()[1])


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET /search", 401),
        ("HEAD /search", 401),
        ("OPTIONS /search", 404),
        ("GET /search/", 404),
        ("GET //search", 400),
        ("GET /%73earch", 400),
        ("GET /x/../search", 400),
        ("GET /.well-known/oauth-protected-resource/../../search", 400),
        ("GET /.well-known/oauth-protected-resource%2f..%2f..%2fsearch", 400),
        ("GET /search%2f", 400),
        ("GET http://x/search", 400),
        ("GET /search?x=1", 401),
    ],
)
async def test_no_path_leads_around_the_check(scene: Scene, line: str, status: int) -> None:
    assert await raw_request(scene, line) == status


async def test_head_is_answered_like_get(scene: Scene) -> None:
    assert await raw_request(scene, "HEAD /search", f"Authorization: Bearer {scene.token()}") == 200


async def test_a_client_without_a_grant_is_refused(scene: Scene) -> None:
    """Its token is good and has the scope; that is not enough."""
    async with DevApi.start(
        issuer=scene.issuer.url, jwks_uri=scene.issuer.jwks_uri, grants=[("agent", "/search")]
    ) as api:
        client = DevClient("stranger", Secret("s"), "ada@example.com", AgentType.INTERACTIVE, {api.url: SCOPES})
        for who, status in ((scene.client, 200), (client, 403)):
            token = scene.issuer.mint(who, api.url, "search:read")["access_token"]
            answer = await scene.http.get(f"{api.url}/search", headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == status
        assert answer.json()["error"] == "access_denied"
