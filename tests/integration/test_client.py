"""The Python client against a real socket, and other people's HTTP libraries against a real API."""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import requests

from tests.standins.fake_daemon import PROFILES, FakeDaemon, Step, http, refusal, token_number
from tokenbroker_client import transport, wire
from tokenbroker_client.aio import AsyncClient
from tokenbroker_client.auth import BrokerAuth, async_token_provider, token_provider
from tokenbroker_client.client import BadAnswer, BrokerRefused, Client, NoAnswer, NoBroker, UsageError
from tokenbroker_client.environment import here

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose name leaves room for a socket's."""
    with tempfile.TemporaryDirectory(prefix="tb") as name:
        yield Path(name)


@pytest.fixture
def daemon(folder: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(folder / "b.sock") as running:
        yield running


class Either:
    """Both clients behind one face, so that each claim is made of both."""

    def __init__(self, kind: type[Client | AsyncClient], path: str, **options: Any) -> None:
        self._client = kind(path, **options)

    async def call(self, verb: str, *arguments: Any, **options: Any) -> Any:
        result = getattr(self._client, verb)(*arguments, **options)
        return await result if inspect.isawaitable(result) else result


@pytest.fixture(params=[Client, AsyncClient], ids=["blocking", "asyncio"])
def kind(request: pytest.FixtureRequest) -> type[Client | AsyncClient]:
    return request.param  # type: ignore[no-any-return]  # one of the two above


async def test_a_token(daemon: FakeDaemon, kind: type[Client | AsyncClient]) -> None:
    assert await Either(kind, daemon.path).call("token", "search") == token_number(0)


async def test_everything_that_can_be_asked(daemon: FakeDaemon, kind: type[Client | AsyncClient]) -> None:
    await Either(kind, daemon.path).call(
        "token",
        audience="https://a/",
        scopes=["x", "y"],
        min_ttl=300,
        reason="nightly report",
        agent_type="autonomous",
        interaction="never",
    )
    [asked] = daemon.seen
    assert wire.decode_request(asked.body) == wire.TokenRequest(
        audience="https://a/",
        scopes=("x", "y"),
        min_ttl=300,
        reason="nightly report",
        agent_type="autonomous",
        interaction="never",
    )
    assert asked.headers["content-type"] == "application/x-www-form-urlencoded"


async def test_scopes_in_one_string_are_scopes(daemon: FakeDaemon, kind: type[Client | AsyncClient]) -> None:
    await Either(kind, daemon.path).call("token", "search", scopes="x y")
    assert daemon.seen[0].form["scope"] == "x y"


async def test_the_environment_forbids_prompts(daemon: FakeDaemon, kind: type[Client | AsyncClient]) -> None:
    """What the caller says goes before it."""
    client = Either(kind, daemon.path, here=replace(here(), environ={"BROKER_INTERACTION": "never"}))
    await client.call("token", "search")
    await client.call("token", "search", interaction="allow")
    assert [request.form.get("interaction", "allow") for request in daemon.seen] == ["never", "allow"]


async def test_a_rejection(daemon: FakeDaemon, kind: type[Client | AsyncClient]) -> None:
    client = Either(kind, daemon.path)
    first = await client.call("token", "search")
    assert await client.call("rejected", "search", first.fingerprint) is True
    assert await client.call("token", "search") == token_number(1)
    assert await client.call("rejected", "search", first.fingerprint) is False


async def test_looking_around(daemon: FakeDaemon, kind: type[Client | AsyncClient]) -> None:
    client = Either(kind, daemon.path)
    assert await client.call("profiles") == PROFILES
    assert await client.call("me") == {"agent_type": "interactive"}


async def test_the_socket_is_found_without_being_named(folder: Path, kind: type[Client | AsyncClient]) -> None:
    """Even when the daemon starts after the client was made."""
    client = Either(kind, "", here=replace(here(), environ={"XDG_RUNTIME_DIR": str(folder)}, platform="linux"))
    with FakeDaemon(folder / "tokenbroker" / "broker.sock"):
        assert await client.call("token", "search") == token_number(0)


async def test_a_refusal_tells_everything(daemon: FakeDaemon, kind: type[Client | AsyncClient]) -> None:
    daemon.script(refusal(503, "busy", "too much", hint="wait", retryable=True, retry_after=3, correlation_id="c-1"))
    with pytest.raises(BrokerRefused) as caught:
        await Either(kind, daemon.path).call("token", "search")
    error = caught.value
    assert (error.code, error.message, error.hint, error.retryable) == ("busy", "too much", "wait", True)
    assert (error.retry_after, error.correlation_id, error.exit_code) == (3, "c-1", 75)


WHOLE = http(200, wire.encode_token(token_number(0)))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param(b"", NoAnswer, id="hangs up"),
        pytest.param(WHOLE[:20], NoAnswer, id="dies in the head"),
        pytest.param(WHOLE[:-1], NoAnswer, id="dies in the body"),
        pytest.param(None, NoAnswer, id="says nothing"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n\r\n", BadAnswer, id="speaks another protocol"),
        pytest.param(http(200, b"{"), BadAnswer, id="garbage"),
        pytest.param(http(500, b"oops"), BadAnswer, id="an error that is none of ours"),
        pytest.param(http(200, b"x" * 1_100_000), BadAnswer, id="too much"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"x" * 20_000, BadAnswer, id="headers without end"),
    ],
)
async def test_bad_answers(
    daemon: FakeDaemon, kind: type[Client | AsyncClient], answer: Step, error: type[Exception]
) -> None:
    daemon.script(answer)
    with pytest.raises(error):
        await Either(kind, daemon.path, timeout=0.3 if answer is None else 20).call("token", "search")


async def test_nobody_listens(folder: Path, kind: type[Client | AsyncClient]) -> None:
    with pytest.raises(NoBroker, match=f"no broker is listening on {folder}/b.sock"):
        await Either(kind, f"{folder}/b.sock").call("token", "search")


async def test_a_full_queue_is_waited_for(folder: Path, kind: type[Client | AsyncClient]) -> None:
    """A burst of callers is not told that nobody listens; the wait is bounded as any other."""
    path = f"{folder}/b.sock"
    waiting: list[socket.socket] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        try:
            while True:
                waiting.append(transport.attempt(path, here()))
        except BlockingIOError:
            start = time.monotonic()
            with pytest.raises(NoAnswer, match=r"takes no more callers|did not answer within 0.1 s"):
                await Either(kind, path, timeout=0.1).call("token", "search")
            assert time.monotonic() - start > 0.05
        finally:
            for connection in waiting:
                connection.close()
    assert waiting


async def test_a_socket_of_somebody_else_is_asked_nothing(daemon: FakeDaemon, kind: type[Client | AsyncClient]) -> None:
    surroundings = here()
    if surroundings.uid == 0:
        os.chown(daemon.path, 65534, 65534)
    else:
        surroundings = replace(surroundings, uid=surroundings.uid + 1)
    with pytest.raises(NoBroker, match=r"the socket .* belongs to uid \d+, not to uid"):
        await Either(kind, daemon.path, here=surroundings).call("token", "search")
    assert not daemon.seen


async def test_a_folder_of_somebody_else_is_refused(folder: Path, kind: type[Client | AsyncClient]) -> None:
    """Its owner could put another socket there between two calls."""
    if os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    with FakeDaemon(folder / "theirs" / "b.sock") as daemon:
        os.chown(folder / "theirs", 65534, 65534)
        with pytest.raises(NoBroker, match=r"the folder .* belongs to uid 65534"):
            await Either(kind, daemon.path).call("token", "search")
        assert not daemon.seen


async def test_a_socket_out_of_reach_is_told_from_one_that_is_not_there(
    folder: Path, kind: type[Client | AsyncClient]
) -> None:
    if os.getuid() == 0:
        pytest.skip("nothing is out of root's reach")
    (folder / "closed").mkdir(mode=0)
    with pytest.raises(NoBroker, match="probably because of a sandbox"):
        await Either(kind, f"{folder}/closed/b.sock").call("token", "search")


async def test_what_cannot_be_a_request_is_not_sent(daemon: FakeDaemon) -> None:
    with pytest.raises(UsageError):
        transport.request(daemon.path, "GET", "/v1/x y")
    assert not daemon.seen


async def test_a_cancelled_call_closes_its_connection(daemon: FakeDaemon) -> None:
    """And nothing is left over; the loop of this test would complain."""
    daemon.script(None)
    call = asyncio.ensure_future(AsyncClient(daemon.path).token("search"))
    await asyncio.to_thread(daemon.asked.wait)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await AsyncClient(daemon.path).token("search") == token_number(0)


async def test_many_threads_share_one_client(daemon: FakeDaemon) -> None:
    client = Client(daemon.path)
    answers = await asyncio.gather(*(asyncio.to_thread(client.token, f"p{n}") for n in range(20)))
    assert [answer.profile for answer in answers] == [f"p{n}" for n in range(20)]


async def test_token_providers(daemon: FakeDaemon) -> None:
    assert token_provider("search", socket=daemon.path)() == token_number(0).access_token
    assert await async_token_provider("search", socket=daemon.path)() == token_number(0).access_token


class Api(ThreadingHTTPServer):
    """A protected API on loopback that takes the token `accepts` alone, and keeps what it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.accepts = token_number(0).access_token
        self.calls: list[tuple[str, str | None, bytes]] = []
        self.redirect: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Api

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        presented = self.headers.get("Authorization")
        self.server.calls.append((self.path, presented, body))
        if self.server.redirect:
            self.send_response(307)
            self.send_header("Location", self.server.redirect)
        else:
            self.send_response(200 if presented == f"Bearer {self.server.accepts}" else 401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving() -> Iterator[Api]:
    with Api() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def api() -> Iterator[Api]:
    with serving() as server:
        yield server


def with_httpx(url: str, auth: BrokerAuth, content: Any = b"body") -> int:
    with httpx.Client(trust_env=False) as client:
        return client.post(url, auth=auth, content=content, follow_redirects=True).status_code


async def with_async_httpx(url: str, auth: BrokerAuth, content: Any = b"body") -> int:
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.post(url, auth=auth, content=content, follow_redirects=True)).status_code


def with_requests(url: str, auth: BrokerAuth, content: Any = b"body") -> int:
    with requests.Session() as session:
        session.trust_env = False
        return session.post(url, auth=auth, data=content, timeout=10).status_code


LIBRARIES = pytest.mark.parametrize(
    "post",
    [
        pytest.param(with_httpx, id="httpx"),
        pytest.param(with_async_httpx, id="async httpx"),
        pytest.param(with_requests, id="requests"),
    ],
)


async def status(post: Any, *arguments: Any) -> int:
    result = post(*arguments)
    return await result if inspect.isawaitable(result) else result  # type: ignore[no-any-return]  # one of the three


@LIBRARIES
async def test_a_library_takes_a_token_for_each_request(daemon: FakeDaemon, api: Api, post: Any) -> None:
    auth = BrokerAuth("search", socket=daemon.path)
    assert [await status(post, api.url, auth), await status(post, api.url, auth)] == [200, 200]
    assert [request.path for request in daemon.seen] == ["/token", "/token"]


@LIBRARIES
async def test_a_token_that_the_api_refuses_is_replaced_once(daemon: FakeDaemon, api: Api, post: Any) -> None:
    """The broker is told, and the request is sent again with its body."""
    api.accepts = token_number(1).access_token
    assert await status(post, api.url, BrokerAuth("search", socket=daemon.path)) == 200
    assert [request.path for request in daemon.seen] == ["/token", "/rejected", "/token"]
    assert [body for _, _, body in api.calls] == [b"body", b"body"]


@LIBRARIES
async def test_an_api_that_refuses_every_token_is_not_asked_for_ever(daemon: FakeDaemon, api: Api, post: Any) -> None:
    api.accepts = "none"
    assert await status(post, api.url, BrokerAuth("search", socket=daemon.path)) == 401
    assert len(api.calls) == 2
    assert daemon.rejections == 1


@LIBRARIES
async def test_another_host_never_gets_the_token(daemon: FakeDaemon, api: Api, post: Any) -> None:
    """Neither by a redirect, nor by a redirect to a host that then asks for it by a 401."""
    with serving() as stranger:
        stranger.accepts = "everything"
        api.redirect = f"http://localhost:{stranger.server_port}/"
        await status(post, api.url, BrokerAuth("search", socket=daemon.path))
        assert [presented for path, presented, _ in stranger.calls if presented] == []
        assert stranger.calls


async def test_a_stream_that_was_sent_is_not_sent_again(daemon: FakeDaemon, api: Api) -> None:
    """The caller sees the 401, instead of an error about a consumed stream."""
    api.accepts = token_number(1).access_token

    async def parts() -> AsyncIterator[bytes]:
        yield b"body"

    sent = {"Content-Length": "4"}
    auth = BrokerAuth("search", socket=daemon.path)
    async with httpx.AsyncClient(trust_env=False, headers=sent) as client:
        assert (await client.post(api.url, auth=auth, content=parts())).status_code == 401
    with httpx.Client(trust_env=False, headers=sent) as blocking:
        assert blocking.post(api.url, auth=auth, content=iter([b"body"])).status_code == 401  # noqa: ASYNC212  # the other client
    assert len(api.calls) == 2


async def test_a_file_is_sent_again_from_where_it_stood(daemon: FakeDaemon, api: Api, tmp_path: Path) -> None:
    api.accepts = token_number(1).access_token
    (tmp_path / "file").write_bytes(b"headbody")
    with (tmp_path / "file").open("rb") as file:
        file.seek(4)
        assert with_requests(api.url, BrokerAuth("search", socket=daemon.path), file) == 200
    assert [body for _, _, body in api.calls] == [b"body", b"body"]


def test_importing_the_auth_module_loads_no_http_library() -> None:
    """Programs that use one of them do not pay for the others."""
    code = "import sys, tokenbroker_client.auth; sys.exit(bool({'httpx', 'requests'} & set(sys.modules)))"
    client = Path(__file__).parents[2] / "client"
    subprocess.run([sys.executable, "-S", "-c", code], env={"PYTHONPATH": str(client)}, check=True)
