"""The ASGI middleware, by hand and under Starlette."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from tests.unit.verifier_tokens import (
    AUDIENCE,
    HOLDER,
    METADATA,
    NOW,
    Documents,
    good,
    jkt,
    proof,
    public,
    signed,
    verifier,
)  # fmt: skip
from tokenbroker.dev.verifier import Proofs
from tokenbroker.dev.verifier.asgi import DENIAL, Protect

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from starlette.requests import Request

    Message = MutableMapping[str, Any]


async def show(request: Request) -> JSONResponse:
    caller = request.state.caller
    return JSONResponse({"owner": caller.owner, "client": caller.client_id, "path": request.url.path})


async def health(request: Request) -> PlainTextResponse:
    return PlainTextResponse("caller" if hasattr(request.state, "caller") else "nobody")


def client(**options: Any) -> httpx.AsyncClient:
    routes = [Route("/search", show), Route("/items/{id}", show), Route("/health", health), Route("/secret", health)]
    app = Protect(Starlette(routes=routes), verifier(**options))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=AUDIENCE)


def bearer(**claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {signed(good(**claims))}"}


async def test_a_starlette_handler_learns_who_calls() -> None:
    async with client() as http:
        answer = await http.get("/search", headers=bearer())
        named = await http.get("/items/a%20b", headers=bearer())
    assert (answer.status_code, answer.json()) == (
        200,
        {"owner": "ada@example.com", "client": "agent", "path": "/search"},
    )
    assert named.json()["path"].endswith("b")


async def test_without_a_token_401_says_where_the_metadata_is() -> None:
    async with client() as http:
        answer = await http.get("/search")
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, f'Bearer resource_metadata="{METADATA}"')
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json()["error_description"] == "a token is needed"


async def test_a_missing_scope_is_403_and_names_it() -> None:
    async with client() as http:
        answer = await http.get("/search", headers=bearer(scope="other"))
    challenge = answer.headers["WWW-Authenticate"]
    assert answer.status_code == 403
    assert 'error="insufficient_scope"' in challenge
    assert 'scope="search:read"' in challenge
    assert f'resource_metadata="{METADATA}"' in challenge


async def test_keys_that_cannot_be_had_are_503() -> None:
    async with client(documents=Documents(down=True)) as http:
        answer = await http.get("/search", headers=bearer())
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")


async def test_two_authorization_headers_are_400() -> None:
    async with client() as http:
        answer = await http.get("/search", headers=[*bearer().items(), *bearer().items()])
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health", 200), ("HEAD", "/health", 200), ("GET", "/secret", 404), ("HEAD", "/search", 401),
        ("OPTIONS", "/search", 404), ("GET", "/search/", 404), ("GET", "/%73earch", 400), ("GET", "//search", 400),
        ("GET", "/items/..%2Fsearch", 400), ("GET", "/health/..%2fsearch", 400),
    ],
)  # fmt: skip
async def test_no_path_and_no_method_leads_around_the_check(method: str, path: str, status: int) -> None:
    async with client() as http:
        answer = await http.request(method, httpx.URL(AUDIENCE).copy_with(raw_path=path.encode()))
    assert answer.status_code == status
    if method == "HEAD":
        assert not answer.content


async def test_a_bound_token_is_taken_with_its_proof() -> None:
    token = signed(good(cnf={"jkt": jkt(public(HOLDER))}))
    async with client(proofs=Proofs(AUDIENCE, clock=lambda: NOW)) as http:
        headers = {"Authorization": f"DPoP {token}", "DPoP": proof(token)}
        first = await http.get("/search?page=2", headers=headers)
        again = await http.get("/search", headers=headers)
        bare = await http.get("/search", headers={"Authorization": f"Bearer {token}", "DPoP": proof(token, jti="p2")})
        offered = await http.get("/search")
    assert (first.status_code, again.status_code, bare.status_code) == (200, 401, 401)
    assert again.headers["WWW-Authenticate"].startswith('DPoP error="invalid_dpop_proof"')
    assert offered.headers.get_list("WWW-Authenticate")[1].startswith('DPoP algs="')


class Called:
    """An application that only notes what it was called with."""

    def __init__(self) -> None:
        self.scopes: list[Message] = []

    async def __call__(self, scope: Message, _receive: Any, _send: Any) -> None:
        self.scopes.append(scope)


async def run(scope: Message, **options: Any) -> tuple[list[Message], list[Message]]:
    """Put one scope through the middleware; return what was sent and the scopes that reached the application."""
    app, sent = Called(), list[Any]()

    async def receive() -> Message:
        return {"type": f"{scope['type']}.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await Protect(app, verifier(**options))(scope, receive, send)
    return sent, app.scopes


def http_scope(path: str = "/search", raw: bytes | None = b"/search", **more: Any) -> Message:
    headers = [(name.lower().encode(), value.encode()) for name, value in bearer().items()]
    return {"type": "http", "method": "GET", "path": path, "raw_path": raw, "headers": headers, **more}


async def test_lifespan_goes_through_untouched() -> None:
    scope = {"type": "lifespan", "state": {}}
    sent, reached = await run(scope)
    assert not sent
    assert reached == [scope]


async def test_a_kind_of_connection_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="webtransport"):
        await run({"type": "webtransport", "path": "/search", "headers": []})


async def test_the_state_of_the_server_is_not_written_to() -> None:
    """It belongs to all requests: a caller in it would be seen by the next one."""
    state = {"pool": 1, "caller": "planted"}
    _, (scope,) = await run(http_scope(state=state))
    assert scope["state"]["caller"].owner == "ada@example.com"
    assert scope["state"]["pool"] == 1
    assert state == {"pool": 1, "caller": "planted"}
    _, (public_scope,) = await run(http_scope("/health", b"/health", state=state))
    assert "caller" not in public_scope["state"]


@pytest.mark.parametrize(
    ("path", "raw", "status"),
    [
        pytest.param("/search", None, None, id="no raw path"),
        pytest.param("/search", b"/search?x=1", None, id="a raw path with its query"),
        pytest.param("/items/../search", None, 400, id="no raw path, dots"),
        pytest.param("/items/%2e", None, 400, id="no raw path, encoded twice"),
        pytest.param("/search", b"/health", 400, id="two paths"),
        pytest.param("/health", b"/search", 400, id="two paths, the other way round"),
    ],
)
async def test_the_path_is_read_where_the_server_puts_it(path: str, raw: bytes | None, status: int | None) -> None:
    sent, reached = await run(http_scope(path, raw))
    assert bool(reached) is (status is None)
    assert [message["status"] for message in sent[:1]] == ([] if status is None else [status])


async def test_header_names_are_read_in_any_case() -> None:
    headers = [(b"Authorization", bearer()["Authorization"].encode()), (b"AUTHORIZATION", b"Bearer x")]
    sent, reached = await run(http_scope(headers=headers))
    assert (sent[0]["status"], reached) == (400, [])


def websocket(*, authorised: bool, extensions: Message | None = None, path: str = "/feed") -> Message:
    headers = [(b"authorization", bearer(scope="feed:read")["Authorization"].encode())] if authorised else []
    return {"type": "websocket", "path": path, "raw_path": path.encode(), "headers": headers, "extensions": extensions}


FEED = {"GET /page": ["page:read"], "WEBSOCKET /feed": ["feed:read"]}


async def test_a_websocket_is_opened_with_a_token() -> None:
    sent, (scope,) = await run(websocket(authorised=True), routes=FEED)
    assert not sent
    assert scope["state"]["caller"].client_id == "agent"


@pytest.mark.parametrize(
    ("authorised", "path"), [(False, "/feed"), (True, "/page"), (True, "/feed/"), (True, "/%66eed")]
)
async def test_a_websocket_is_closed_before_it_opens(path: str, *, authorised: bool) -> None:
    """Which servers answer with 403. A GET of the same path gives no right to a websocket."""
    sent, reached = await run(websocket(authorised=authorised, path=path), routes=FEED)
    assert [message["type"] for message in sent] == ["websocket.close"]
    assert not reached


async def test_a_websocket_is_refused_with_the_whole_answer_where_the_server_can() -> None:
    sent, reached = await run(websocket(authorised=False, extensions={DENIAL: {}}), routes=FEED)
    start, body = sent
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 401)
    assert (b"www-authenticate", f'Bearer resource_metadata="{METADATA}"'.encode()) in start["headers"]
    assert json.loads(body["body"])["error_description"] == "a token is needed"
    assert not reached
