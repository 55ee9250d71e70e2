"""A bound token used by programs that do not hold its key: real sockets, HTTP libraries, a strict API."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import threading
from contextlib import AsyncExitStack, contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.both_apis import both_apis
from tests.integration.http_peer import short_folder
from tests.integration.test_client import with_async_httpx, with_httpx, with_requests
from tests.service.test_proofs import Bench
from tokenbroker.api.http import HttpServer
from tokenbroker.dev.verifier import Nonces, Proofs
from tokenbroker.dev.verifier.refusal import Refused
from tokenbroker.events import Events
from tokenbroker.system import sockets
from tokenbroker_client import calls, wire
from tokenbroker_client.aio import AsyncClient
from tokenbroker_client.auth import BrokerAuth
from tokenbroker_client.client import BadAnswer, BrokerRefused, Client, UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class Broker:
    """A broker of bound tokens on a real socket; its vault, issuer and clock are fakes."""

    def __init__(self, bench: Bench, path: str) -> None:
        self.bench = bench
        self.path = path
        self.events = Events(lambda: bench.clock.now().wall)

    def made(self) -> int:
        return self.events.counts["proof made"]


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    async with AsyncExitStack() as stack:
        bench = await stack.enter_async_context(Bench())
        place = stack.enter_context(short_folder()) / "b" / "a.sock"
        running = Broker(bench, str(place))
        public, _ = both_apis(bench, running.events, about=dict, reload=lambda: None)
        bound = sockets.listen(place, uid=os.getuid())
        server = HttpServer(public, on_connect=public.connected)
        await server.serve(bound.sock)
        stack.callback(bound.close)
        stack.callback(server.close)
        yield running


class Api(ThreadingHTTPServer):
    """A protected API that takes the tokens of `bench` with a proof, and wants a nonce if there are `nonces`."""

    daemon_threads = True

    def __init__(self, bench: Bench, nonces: Nonces | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.bench = bench
        self.judge = Proofs(self.url, nonces=nonces, clock=lambda: bench.clock.now().wall)
        self.nonces = nonces
        self.answers: list[tuple[str, int]] = []
        self.bodies: list[bytes] = []
        self.refuses: set[str] = set()
        """Tokens that it takes no more."""


class _Handler(BaseHTTPRequestHandler):
    server: Api

    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
        status, headers = 200, {}
        path = self.path.partition("?")[0]
        if path == "/moved":
            status, headers = 307, {"Location": "/search"}
        else:
            try:
                self._judge(path)
            except Refused as refused:
                status = int(refused.status)
                headers = {"WWW-Authenticate": f'DPoP error="{refused.error}"'}
                if refused.nonce:
                    headers["DPoP-Nonce"] = refused.nonce
        self.server.answers.append((path, status))
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def _judge(self, path: str) -> None:
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        number = token.removeprefix("bound-")
        if scheme != "DPoP" or token in self.server.refuses or not number.isdigit():
            raise Refused(HTTPStatus.UNAUTHORIZED, "invalid_token", "no")
        bound = {"cnf": {"jkt": self.server.bench.keys[int(number)].thumbprint}}
        proofs = self.headers.get_all("DPoP") or []
        self.server.judge.check(proofs, token=token, bound=bound, method=self.command, path=path)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving(bench: Bench, nonces: Nonces | None = None) -> Iterator[Api]:
    with Api(bench, nonces) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


LIBRARIES = pytest.mark.parametrize(
    "post",
    [
        pytest.param(with_httpx, id="httpx"),
        pytest.param(with_async_httpx, id="async httpx"),
        pytest.param(with_requests, id="requests"),
    ],
)


async def status(post: Any, *arguments: Any) -> int:
    if inspect.iscoroutinefunction(post):
        return await post(*arguments)  # type: ignore[no-any-return]  # one of the three
    return await asyncio.to_thread(post, *arguments)


@LIBRARIES
async def test_each_request_has_a_proof_of_its_own(broker: Broker, post: Any) -> None:
    auth = BrokerAuth("search", socket=broker.path)
    with serving(broker.bench) as api:
        assert [await status(post, f"{api.url}/search?q={n}", auth) for n in range(3)] == [200] * 3
    assert broker.made() == 3
    assert len(broker.bench.issuer.calls) == 1


@LIBRARIES
async def test_the_nonce_of_an_api_is_learned_once(broker: Broker, post: Any) -> None:
    """The body is sent again, the token is not reported as refused, and the next request has the nonce at once."""
    names = count()
    auth = BrokerAuth("search", socket=broker.path)
    with serving(broker.bench, Nonces(lambda: f"n-{next(names)}")) as api:
        assert [await status(post, f"{api.url}/search", auth) for _ in range(2)] == [200, 200]
        assert [code for _, code in api.answers] == [401, 200, 200]
        assert api.bodies == [b"body"] * 3
    assert len(broker.bench.issuer.calls) == 1


class Fickle(Nonces):
    """Content with no nonce."""

    def accepts(self, nonce: object, *, now: float) -> bool:
        return False


@LIBRARIES
async def test_an_api_that_takes_no_nonce_is_not_asked_for_ever(broker: Broker, post: Any) -> None:
    with serving(broker.bench, Fickle(lambda: "n")) as api:
        assert await status(post, f"{api.url}/search", BrokerAuth("search", socket=broker.path)) == 401
        assert len(api.answers) == 3
    assert len(broker.bench.issuer.calls) == 1


@LIBRARIES
async def test_a_token_that_the_api_refuses_is_replaced_once(broker: Broker, post: Any) -> None:
    with serving(broker.bench) as api:
        api.refuses = {"bound-0"}
        assert await status(post, f"{api.url}/search", BrokerAuth("search", socket=broker.path)) == 200
        assert [code for _, code in api.answers] == [401, 200]
    assert len(broker.bench.issuer.calls) == 2


@LIBRARIES
async def test_a_redirect_gets_a_proof_of_its_own(broker: Broker, post: Any) -> None:
    with serving(broker.bench) as api:
        assert await status(post, f"{api.url}/moved", BrokerAuth("search", socket=broker.path)) == 200
        assert api.answers == [("/moved", 307), ("/search", 401), ("/search", 200)]
        assert api.bodies == [b"body"] * 3
    assert len(broker.bench.issuer.calls) == 1


@LIBRARIES
async def test_a_token_that_is_renewed_in_between_is_asked_for_again(
    broker: Broker, post: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    auth = BrokerAuth("search", socket=broker.path)
    drop = [True]

    def renew() -> None:
        if drop.pop() if drop else False:
            [entry] = list(broker.bench.cache)
            assert entry.slot.token is not None
            broker.bench.broker.rejected("search", entry.slot.token.fingerprint, broker.bench.me)

    public = calls.proof

    def proof(*arguments: Any) -> calls.Call:
        renew()
        return public(*arguments)

    monkeypatch.setattr(calls, "proof", proof)
    with serving(broker.bench) as api:
        assert await status(post, f"{api.url}/search", auth) == 200
        assert api.answers == [("/search", 200)]
    assert len(broker.bench.issuer.calls) == 2


@pytest.mark.parametrize("kind", [Client, AsyncClient], ids=["blocking", "asyncio"])
async def test_both_clients_ask_for_proofs(broker: Broker, kind: type[Client | AsyncClient]) -> None:
    client = kind(broker.path)

    async def call(verb: str, *arguments: Any, **options: Any) -> Any:
        method = getattr(client, verb)
        if inspect.iscoroutinefunction(method):
            return await method(*arguments, **options)
        return await asyncio.to_thread(method, *arguments, **options)

    token = await call("token", "search")
    assert (token.token_type, token.authorization) == ("DPoP", "DPoP bound-0")
    answer = await call("proof", token, "GET", "https://api.example.com/?q", nonce="n-1")
    assert (answer.token_type, answer.fingerprint) == ("DPoP", token.fingerprint)
    assert answer.thumbprint == broker.bench.keys[0].thumbprint
    for method, url in (("", "https://h/"), ("GET", "https://h/ü"), ("GET", "\udc80")):
        with pytest.raises(UsageError):
            await call("proof", token, method, url)
    broker.bench.control.lock("a test")
    with pytest.raises(BrokerRefused) as caught:
        await call("proof", token, "GET", "https://api.example.com/")
    assert caught.value.code == "unknown_token"


async def test_the_socket_refuses_what_is_no_request_for_a_proof(broker: Broker) -> None:
    token = await AsyncClient(broker.path).token("search")
    good = {"profile": "search", "fingerprint": token.fingerprint, "method": "GET", "url": "https://h/"}

    async def send(**changed: Any) -> tuple[int, Any]:
        body = json.dumps({name: value for name, value in {**good, **changed}.items() if value is not ...}).encode()
        response = await AsyncClient(broker.path).send(calls.Call("POST", wire.PROOF_PATH, body))
        return response.status, json.loads(response.body)

    assert (await send(unknown=1))[0] == 200
    for changed in (
        {"profile": ...},
        {"fingerprint": "x"},
        {"fingerprint": None},
        {"method": "G T"},
        {"url": 7},
        {"url": "ftp://h/"},
        {"url": "https://h/" + "x" * 5000},
        {"nonce": 'a"b'},
        {"nonce": ""},
    ):
        code, answer = await send(**changed)
        assert (code, answer["code"]) == (400, "usage"), changed
        assert "proof" not in answer
    assert (await AsyncClient(broker.path).send(calls.Call("GET", wire.PROOF_PATH))).status == 405
    assert broker.made() == 1


async def test_an_answer_that_is_no_proof_is_refused(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proof goes into a header: a line break in it would be another header."""
    client = AsyncClient(broker.path)
    token = await client.token("search")
    monkeypatch.setattr(calls, "proof", lambda *_: calls.ME)
    with pytest.raises(BadAnswer):
        await client.proof(token, "GET", "https://h/")
