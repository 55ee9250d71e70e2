"""What the edge understands, and what it refuses, byte by byte over a real socket."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.integration.http_peer import echo, hang_up, one_answer, parse_head, serving
from tokenbroker.api.http import Connection, Limits, Request, Response
from tokenbroker.api.messages import Refusal
from tokenbroker.api.reader import RequestReader

FORM = b"grant_type=client_credentials&profile=search"
POST = b"POST /token?x=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 44\r\nConnection: close\r\n\r\n" + FORM


def chunked(*chunks: bytes) -> bytes:
    """Frame a body in chunks, with an extension and a trailer."""
    return b"".join(b"%x;e=1\r\n%s\r\n" % (len(c), c) for c in chunks) + b"0\r\nTrailer: t\r\n\r\n"


def get(*headers: bytes, target: bytes = b"/", host: bytes | None = b"localhost") -> bytes:
    """Frame a GET that asks for the connection to close."""
    lines = [b"GET %s HTTP/1.1" % target, *([b"Host: " + host] if host is not None else []), b"Connection: close"]
    return b"\r\n".join([*lines, *headers]) + b"\r\n\r\n"


def post(*headers: bytes, body: bytes = b"") -> bytes:
    """Frame a POST."""
    return b"\r\n".join([b"POST / HTTP/1.1", b"Host: localhost", *headers]) + b"\r\n\r\n" + body


async def understood(*pieces: bytes) -> dict[str, Any]:
    """Return what the server understood."""
    async with serving(echo) as served:
        answer = await served.exchange(*pieces)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n"), answer
    found: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return found


async def test_a_form_is_understood() -> None:
    """Method, path, query, headers and body come through, header names in lower case."""
    assert await understood(POST) == {
        "method": "POST",
        "path": "/token",
        "query": "x=1",
        "headers": {"host": "localhost", "content-length": "44", "connection": "close"},
        "body": FORM.decode(),
    }


async def test_a_request_in_single_bytes_is_the_same_request() -> None:
    """Where the packets end means nothing."""
    assert await understood(*[POST[i : i + 1] for i in range(len(POST))]) == await understood(POST)


async def test_a_chunked_body_is_joined_and_its_trailer_is_no_header() -> None:
    """A body may come without a length; what follows it cannot change the head that was judged."""
    found = await understood(
        post(b"Transfer-Encoding: chunked", b"Connection: close", body=chunked(FORM[:10], FORM[10:]))
    )
    assert found["body"] == FORM.decode()
    assert "trailer" not in found["headers"]


def test_what_was_asked_and_answered_is_not_in_a_repr() -> None:
    """So that it cannot get into a log by way of one."""
    request = Request("POST", "/token", "q=s3cr3t", {"a": "s3cr3t"}, b"s3cr3t", Connection(None))  # type: ignore[arg-type]
    assert "s3cr3t" not in f"{request!r} {Response(200, b's3cr3t')!r}"


async def test_a_repeated_header_is_joined() -> None:
    """RFC 9110 §5.3."""
    assert (await understood(get(b"X-A: 1", b"x-a: 2")))["headers"]["x-a"] == "1, 2"


@pytest.mark.parametrize(
    "host",
    [
        pytest.param(h, id=f"host {h.decode()!r} is this machine")
        for h in [
            b"localhost",
            b"LOCALHOST:80",
            b"127.0.0.1",
            b"127.0.0.1:8080",
            b"[::1]",
            b"tokenbroker",
            b"d",
            b"",
            b"broker.sock",
        ]
    ],
)
async def test_local_hosts_are_served(host: bytes) -> None:
    """Whatever a client puts for a host where there is none."""
    assert (await understood(get(host=host)))["path"] == "/"


async def test_http_1_0_is_answered_and_closed() -> None:
    """No Host is needed, and keep-alive is not offered."""
    assert (await understood(b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"))["path"] == "/x"


REFUSED = [
    pytest.param(get(b"Origin: http://evil.example"), 403, "denied", id="a page's fetch is refused"),
    pytest.param(get(b"Origin: null"), 403, "denied", id="an opaque origin is refused"),
    pytest.param(get(b"Referer: http://localhost/"), 403, "denied", id="a browser's navigation is refused"),
    pytest.param(get(b"Sec-Fetch-Site: none"), 403, "denied", id="an address typed into a browser is refused"),
    pytest.param(get(host=b"evil.example"), 403, "denied", id="a rebound name is refused"),
    pytest.param(get(host=b"evil.example:80"), 403, "denied", id="a rebound name with a port is refused"),
    pytest.param(get(host=b"127.0.0.1.evil.example"), 403, "denied", id="a name that begins well is refused"),
    pytest.param(get(host=b"localhost."), 403, "denied", id="a name with a final dot is refused"),
    pytest.param(get(host=None), 400, "usage", id="HTTP/1.1 without Host is refused"),
    pytest.param(get(b"Host: localhost"), 400, "usage", id="two Hosts are refused"),
    pytest.param(get(target=b"http://localhost/"), 400, "usage", id="a proxy's request is refused"),
    pytest.param(b"OPTIONS * HTTP/1.1\r\nHost: d\r\n\r\n", 400, "usage", id="a target without a path is refused"),
    pytest.param(b"CONNECT a:1 HTTP/1.1\r\nHost: d\r\n\r\n", 501, "usage", id="a tunnel is refused"),
    pytest.param(
        b"GET / HTTP/1.1\r\nHost: d\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        501,
        "usage",
        id="an upgrade is refused",
    ),
    pytest.param(b"GET / HTTP/2.0\r\nHost: d\r\n\r\n", 505, "usage", id="another version is refused"),
    pytest.param(b"GET /\r\n\r\n", 505, "usage", id="HTTP/0.9 is refused"),
    pytest.param(b"BREW / HTTP/1.1\r\nHost: d\r\n\r\n", 501, "usage", id="an unknown method is refused"),
    pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 501, "usage", id="TLS is refused"),
    pytest.param(b"GET / HTTP/1.1\nHost: d\n\n", 400, "usage", id="bare line feeds are refused"),
    pytest.param(get(b"X : 1"), 400, "usage", id="a space before the colon is refused"),
    pytest.param(get(b"X: 1", b" folded"), 400, "usage", id="a folded header is refused"),
    pytest.param(get(b"X: a\x00b"), 400, "usage", id="a NUL is refused"),
    pytest.param(
        post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=chunked(b"")), 400, "usage", id="TE and CL"
    ),
    pytest.param(
        post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=chunked(b"")), 400, "usage", id="CL and TE"
    ),
    pytest.param(post(b"Content-Length: 1", b"Content-Length: 2", body=b"ab"), 400, "usage", id="two lengths"),
    pytest.param(post(b"Content-Length: +1", body=b"a"), 400, "usage", id="a signed length"),
    pytest.param(
        post(b"Transfer-Encoding: gzip, chunked", body=chunked(b"")), 501, "usage", id="a coding before chunked"
    ),
    pytest.param(
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b""), 400, "usage", id="chunks in HTTP/1.0"
    ),
    pytest.param(post(b"Transfer-Encoding: chunked", body=b"zz\r\n"), 400, "usage", id="a chunk without a size"),
    pytest.param(post(b"Content-Length: 16385"), 413, "usage", id="a body too large is refused before it is sent"),
    pytest.param(
        post(b"Content-Length: 16385", b"Expect: 100-continue"), 413, "usage", id="a body too large is never asked for"
    ),
    pytest.param(
        post(b"Transfer-Encoding: chunked", body=chunked(*[b"x" * 4096] * 4, b"x")), 413, "usage", id="chunks too large"
    ),
    pytest.param(
        post(b"Transfer-Encoding: chunked", body=b"1;" + b"e" * 90_000), 413, "usage", id="an endless chunk extension"
    ),
    pytest.param(
        post(b"Transfer-Encoding: chunked", body=b"0\r\n" + b"T: t\r\n" * 3000), 431, "usage", id="endless trailers"
    ),
    pytest.param(post(b"Expect: 200-ok"), 417, "usage", id="another expectation is refused"),
    pytest.param(get(b"X: " + b"x" * 8192), 431, "usage", id="a header too large is refused"),
    pytest.param(get(*[b"X: y"] * 1500), 431, "usage", id="headers too many are refused"),
    pytest.param(b"GET / HTTP/1.1\r\nX: " + b"x" * 8192, 431, "usage", id="a header without an end is refused"),
    pytest.param(b"GET /%s HTTP/1.0\r\n\r\n" % (b"x" * 8192), 431, "usage", id="a target too large is refused"),
    pytest.param(b"GET /" + b"x" * 9000, 431, "usage", id="a target without an end is refused"),
]


@pytest.mark.parametrize(("data", "status", "code"), REFUSED)
async def test_refusals(data: bytes, status: int, code: str) -> None:
    """No handler sees it; the peer gets one answer that says what was wrong, and the connection ends."""
    seen: list[Request] = []

    def handler(request: Request) -> Response:
        seen.append(request)
        return echo(request)

    async with serving(handler, new_id=lambda: "id-1") as served:
        answer = await served.exchange(data)
    head, _, body = answer.partition(b"\r\n\r\n")
    found, headers = parse_head(head)
    problem = json.loads(body)
    assert (found, problem["code"], problem["correlation_id"]) == (status, code, "id-1"), answer
    assert headers["connection"] == "close"
    assert headers["cache-control"] == "no-store"
    assert not seen


async def test_a_body_of_exactly_the_limit_is_taken() -> None:
    """The limit is the largest that passes."""
    body = b"x" * 16384
    assert (await understood(post(b"Content-Length: 16384", b"Connection: close", body=body)))["body"] == body.decode()


async def test_a_refused_peer_that_goes_on_sending_still_reads_its_answer() -> None:
    """The answer is not lost to a reset while the peer writes what nobody wants."""
    async with serving(echo) as served:
        answer = await served.exchange(post(b"Content-Length: 1000000"), *[b"x" * 50_000] * 20)
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_the_body_is_asked_for_when_it_is_waited_for() -> None:
    """`Expect: 100-continue` (RFC 9110 §10.1.1)."""
    async with serving(echo) as served:
        reader, writer = await served.connect()
        writer.write(post(b"Content-Length: 2", b"Expect: 100-continue"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ab")
        status, _, body = await one_answer(reader)
        await hang_up(writer)
    assert (status, json.loads(body)["body"]) == (200, "ab")


async def test_the_body_is_asked_for_only_when_it_is_its_turn() -> None:
    """An interim answer never comes between a request and the answer to it."""
    gate = asyncio.Event()

    async def slow(request: Request) -> Response:
        await gate.wait()
        return echo(request)

    async with serving(slow) as served:
        reader, writer = await served.connect()
        writer.write(post(b"Content-Length: 0") + post(b"Content-Length: 2", b"Expect: 100-continue"))
        await asyncio.sleep(0.01)
        gate.set()
        assert (await one_answer(reader))[0] == 200
        assert (await one_answer(reader))[0] == 100
        writer.write(b"ab")
        assert (await one_answer(reader))[0] == 200
        await hang_up(writer)


async def test_head_has_the_length_and_no_body() -> None:
    """RFC 9110 §9.3.2."""
    async with serving(lambda _request: Response(200, b"12345")) as served:
        answer = await served.exchange(b"HEAD / HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n")
    assert b"Content-Length: 5\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


async def test_every_answer_forbids_caching_and_names_no_server() -> None:
    """RFC 6749 §5.1 asks for both headers."""
    async with serving(lambda _request: Response(405, b"", headers=(("Allow", "POST"),))) as served:
        status, headers = parse_head(await served.exchange(get()))
    assert status == 405
    assert headers == {
        "content-type": "application/json",
        "cache-control": "no-store",
        "pragma": "no-cache",
        "connection": "close",
        "content-length": "0",
        "allow": "POST",
    }


async def test_a_header_that_would_split_the_answer_is_a_fault(caplog: pytest.LogCaptureFixture) -> None:
    """A handler cannot be made to write a second answer."""
    async with serving(lambda _request: Response(200, headers=(("X", "a\r\nSet-Cookie: b"),))) as served:
        answer = await served.exchange(get())
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"Set-Cookie" not in answer + caplog.text.encode()


@settings(max_examples=150)
@given(data=st.data())
def test_how_bytes_are_cut_does_not_matter(data: st.DataObject) -> None:
    """Any sequence of requests, cut anywhere, gives the same requests."""
    wanted = data.draw(
        st.lists(
            st.sampled_from(
                [
                    post(b"Content-Length: 2", body=b"ab"),
                    get(),
                    *[post(b"Transfer-Encoding: chunked", body=chunked(b"abc", b"d")), b"GET /\xff"],
                ]
            ),
            max_size=4,
        )
    )
    stream = b"".join(wanted)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=6)))

    def read(*pieces: bytes) -> list[object]:
        reader = RequestReader(Connection(None), Limits())  # type: ignore[arg-type]  # nothing here has a socket
        for piece in pieces:
            reader.feed(piece)
        return [
            x if isinstance(x, Refusal) else (x.method, x.path, x.headers, x.body, x.keep_alive) for x in reader.ready
        ]

    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert read(*pieces) == read(stream)


@settings(max_examples=200)
@given(junk=st.lists(st.binary(max_size=200), max_size=10))
def test_no_bytes_make_the_reader_raise(junk: list[bytes]) -> None:
    """Whatever comes, there is at most one refusal, and it is last."""
    reader = RequestReader(Connection(None), Limits())  # type: ignore[arg-type]  # nothing here has a socket
    for piece in junk:
        reader.feed(piece)
    refusals = [i for i, item in enumerate(reader.ready) if isinstance(item, Refusal)]
    assert refusals in ([], [len(reader.ready) - 1])
