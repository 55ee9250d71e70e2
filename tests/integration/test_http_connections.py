"""How connections live and end: order, slowness, silence, vanishing peers, streams, drain."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import socket
import struct
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.http_peer import PATIENCE, echo, hang_up, one_answer, parse_head, serving, until
from tokenbroker.api.http import Limits, Request, Response, Stream
from tokenbroker.errors import Denied, IssuerUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

GET = b"GET / HTTP/1.1\r\nHost: d\r\n\r\n"
SHORT = 0.05


def numbered(count: int) -> bytes:
    """Frame requests for `/0`, `/1` and so on."""
    return b"".join(b"GET /%d HTTP/1.1\r\nHost: d\r\n\r\n" % i for i in range(count))


class Gate:
    """A handler that answers when it is told to, and counts what becomes of it."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.started: list[str] = []
        self.cancelled = 0

    async def __call__(self, request: Request) -> Response | Stream:
        """Wait at the gate, then echo."""
        self.started.append(request.path)
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return echo(request)


async def ended(reader: asyncio.StreamReader) -> bytes:
    """Return what comes until the connection ends, cleanly or not."""
    with contextlib.suppress(ConnectionError):
        return await asyncio.wait_for(reader.read(), PATIENCE)
    return b""


async def test_hundreds_may_knock_at_once() -> None:
    """Two hundred connects that do not block all find room in the queue, before any is accepted, and are answered."""
    async with serving(echo) as served:
        knocking = [socket.socket(socket.AF_UNIX) for _ in range(200)]
        for sock in knocking:
            sock.settimeout(0)
            sock.connect(served.path)
            sock.send(GET)
        loop = asyncio.get_running_loop()
        answers = await asyncio.wait_for(asyncio.gather(*(loop.sock_recv(sock, 12) for sock in knocking)), PATIENCE)
        assert answers == [b"HTTP/1.1 200"] * 200
        for sock in knocking:
            sock.close()


async def test_a_connection_serves_many_requests() -> None:
    """Keep-alive is the rule of HTTP/1.1, and the peer may end it."""
    async with serving(echo) as served:
        reader, writer = await served.connect()
        for _ in range(3):
            writer.write(GET)
            status, headers, _ = await one_answer(reader)
            assert (status, "connection" in headers) == (200, False)
        writer.write(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert (await one_answer(reader))[1]["connection"] == "close"
        assert await ended(reader) == b""
        await hang_up(writer)


async def test_pipelined_requests_are_answered_in_order() -> None:
    """Even when some are answered at once and some later."""

    def handler(request: Request) -> Any:
        async def later() -> Response:
            await asyncio.sleep(0)
            return echo(request)

        return later() if int(request.path[1:]) % 2 else echo(request)

    async with serving(handler) as served:
        reader, writer = await served.connect()
        writer.write(numbered(100))
        paths = [json.loads((await one_answer(reader))[2])["path"] for _ in range(100)]
        await hang_up(writer)
    assert paths == [f"/{i}" for i in range(100)]


async def test_what_waits_behind_a_slow_answer_is_bounded() -> None:
    """The kernel holds the rest back; all of it is answered in the end."""
    gate = Gate()
    count = 5_000
    async with serving(gate) as served:
        reader, writer = await served.connect()
        writer.write(numbered(count))
        await until(lambda: gate.started)
        await asyncio.sleep(0.02)
        (channel,) = served.server.channels
        assert 0 < len(channel._reader.ready) < 1000
        gate.open.set()
        for _ in range(count):
            await one_answer(reader)
        await hang_up(writer)
    assert gate.started == [f"/{i}" for i in range(count)]


async def test_a_refusal_comes_after_the_answers_that_are_due() -> None:
    """Nonsense behind a good request does not take its answer away."""
    gate = Gate()
    async with serving(gate) as served:
        reader, writer = await served.connect()
        writer.write(GET + b"nonsense\r\n\r\n")
        await until(lambda: gate.started)
        gate.open.set()
        answer = await ended(reader)
        await hang_up(writer)
    first, second = answer.index(b"HTTP/1.1 200 "), answer.index(b"HTTP/1.1 501 ")
    assert first < second


@pytest.mark.parametrize(
    "beginning",
    [
        pytest.param(b"G", id="one byte"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: d\r\nContent-Length: 5\r\n\r\nab", id="half a body"),
        pytest.param(GET + b"GET / HT", id="half of a second request"),
    ],
)
async def test_a_slow_request_is_refused(beginning: bytes) -> None:
    """From its first byte a request has its time, and no more."""
    async with serving(echo, limits=Limits(request_time=SHORT)) as served:
        answer = await served.exchange(beginning)
    assert answer.count(b"HTTP/1.1 408 ") == 1
    assert answer.count(b"HTTP/1.1 200 ") == beginning.count(GET)


async def test_dripping_does_not_win_time() -> None:
    """A byte now and then does not start the clock again."""
    async with serving(echo, limits=Limits(request_time=SHORT)) as served:
        reader, writer = await served.connect()
        answer = asyncio.create_task(ended(reader))
        writer.write(b"GET / HTTP/1.1\r\nX: ")
        while not answer.done():
            writer.write(b"x")
            await asyncio.sleep(SHORT / 20)
        await hang_up(writer)
    assert answer.result().startswith(b"HTTP/1.1 408 ")


async def test_a_slow_answer_is_not_a_slow_request() -> None:
    """A person may take a minute over a prompt; the peer that waits is neither slow nor idle."""
    gate = Gate()
    async with serving(gate, limits=Limits(request_time=SHORT, idle_time=SHORT)) as served:
        reader, writer = await served.connect()
        writer.write(GET)
        await asyncio.sleep(SHORT * 3)
        gate.open.set()
        assert (await one_answer(reader))[0] == 200
        await hang_up(writer)


@pytest.mark.parametrize("first", [pytest.param(b"", id="never spoke"), pytest.param(GET, id="spoke once")])
async def test_an_idle_connection_is_closed_quietly(first: bytes) -> None:
    """No answer is invented for a request that was not made."""
    async with serving(echo, limits=Limits(idle_time=SHORT)) as served:
        answer = await served.exchange(first)
    assert answer.count(b"HTTP/1.1 ") == answer.count(b"HTTP/1.1 200 ") == bool(first)


async def test_line_breaks_do_not_keep_a_connection_alive() -> None:
    """They are allowed before a request (RFC 9112 §2.2) and are not one."""
    async with serving(echo, limits=Limits(idle_time=SHORT)) as served:
        reader, writer = await served.connect()
        end = asyncio.create_task(ended(reader))
        while not end.done():
            writer.write(b"\r\n")
            await asyncio.sleep(SHORT / 20)
        await hang_up(writer)
    assert end.result() == b""


async def test_a_peer_that_does_not_read_is_cut_off() -> None:
    """Answers that nobody takes do not pile up for ever."""
    answered = 0

    def handler(_request: Request) -> Response:
        nonlocal answered
        answered += 1
        return Response(200, b"x" * 400_000)

    async with serving(handler, limits=Limits(idle_time=SHORT)) as served:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(served.path)
        sock.send(GET * 10)
        await until(lambda: served.server.channels)
        await until(lambda: not served.server.channels)
        sock.close()
    assert answered == 1


async def test_a_vanished_peer_cancels_its_own_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once: nobody is asked on behalf of a process that is gone; the others' work goes on."""
    monkeypatch.setattr("tokenbroker.api.channel._GONE_CHECK", 10 * PATIENCE)
    gate = Gate()
    async with serving(gate) as served:
        reader, writer = await served.connect()
        _, leaver = await served.connect()
        writer.write(GET)
        leaver.write(GET)
        await until(lambda: len(gate.started) == 2)
        await hang_up(leaver)
        await until(lambda: gate.cancelled)
        gate.open.set()
        assert (await one_answer(reader))[0] == 200
        await hang_up(writer)
    assert gate.cancelled == 1


async def test_a_peer_that_has_only_finished_sending_gets_its_answer() -> None:
    """`printf … | nc -N -U socket` closes its sending half first."""
    gate = Gate()
    async with serving(gate) as served:
        reader, writer = await served.connect()
        writer.write(GET + GET)
        writer.write_eof()
        await until(lambda: gate.started)
        await asyncio.sleep(0.01)
        gate.open.set()
        assert (await ended(reader)).count(b"HTTP/1.1 200 ") == 2
        await hang_up(writer)
    assert gate.cancelled == 0


async def test_a_peer_that_finished_sending_and_then_vanished_is_noticed() -> None:
    """There is no event for it, so it is looked for."""
    gate = Gate()
    async with serving(gate) as served:
        _, writer = await served.connect()
        writer.write(GET)
        writer.write_eof()
        await until(lambda: gate.started)
        await asyncio.sleep(0.01)
        assert not gate.cancelled
        await hang_up(writer)
        await until(lambda: gate.cancelled)


@pytest.mark.parametrize("half", [b"", b"GET / HT", b"POST / HTTP/1.1\r\nHost: d\r\nContent-Length: 9\r\n\r\nabc"])
async def test_half_a_request_and_gone_leaves_nothing(half: bytes) -> None:
    """No handler runs, no connection stays."""
    gate = Gate()
    async with serving(gate) as served:
        _, writer = await served.connect()
        writer.write(half)
        await until(lambda: served.server.channels)
        await hang_up(writer)
        await until(lambda: not served.server.channels)
    assert gate.started == []


async def test_one_connection_too_many_is_told_so() -> None:
    """And when another has ended there is room again."""
    async with serving(echo, limits=Limits(connections=2)) as served:
        reader, writer = await served.connect()
        _, second = await served.connect()
        await until(lambda: len(served.server.channels) == 2)
        third, closer = await served.connect()
        status, headers, body = await one_answer(third)
        assert (status, headers["connection"], json.loads(body)["retryable"]) == (503, "close", True)
        await hang_up(closer)
        writer.write(GET)
        assert (await one_answer(reader))[0] == 200
        await hang_up(writer)
        await until(lambda: len(served.server.channels) == 1)
        assert (await served.exchange(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))).startswith(
            b"HTTP/1.1 200 "
        )
        await hang_up(second)


async def test_on_connect_sees_the_kernels_peer_and_makes_the_state() -> None:
    """The handler finds what was made of the socket."""

    def credentials(sock: socket.socket) -> Any:
        return (
            sock.getpeername()
            if not hasattr(socket, "SO_PEERCRED")
            else struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        )

    states: list[Any] = []

    def handler(request: Request) -> Response:
        states.append(request.connection.state)
        return echo(request)

    async with serving(handler, on_connect=credentials) as served:
        reader, writer = await served.connect()
        writer.write(GET + GET)
        await one_answer(reader)
        await one_answer(reader)
        expected = credentials(writer.get_extra_info("socket"))
        await hang_up(writer)
    assert states == [expected, expected]


async def test_a_peer_that_on_connect_refuses_gets_that_as_its_answer() -> None:
    """Once, whatever it asks; no handler runs."""
    gate = Gate()

    def refuse(_sock: socket.socket) -> None:
        raise Denied("uid 4 is not the owner of this broker", hint="run `broker serve` as that user")

    async with serving(gate, on_connect=refuse) as served:
        answer = await served.exchange(GET + GET)
    status, _ = parse_head(answer)
    body = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (status, body["code"], body["hint"]) == (403, "denied", "run `broker serve` as that user")
    assert gate.started == []


async def test_a_refused_peer_that_says_nothing_is_cut_off() -> None:
    """A stranger holds no connection."""

    def refuse(_sock: socket.socket) -> None:
        raise Denied("no")

    async with serving(echo, on_connect=refuse, limits=Limits(request_time=SHORT)) as served:
        assert await served.exchange() == b""


@pytest.mark.parametrize("late", [pytest.param(False, id="at once"), pytest.param(True, id="later")])
async def test_a_broker_error_becomes_its_answer(*, late: bool) -> None:
    """With the code, the hint, and `Retry-After` rounded up."""
    error = IssuerUnavailable("issuer did not answer", hint="try again", retry_after=1.2)

    def handler(_request: Request) -> Any:
        async def later() -> Response:
            raise error

        if late:
            return later()
        raise error

    async with serving(handler, new_id=lambda: "id-1") as served:
        reader, writer = await served.connect()
        writer.write(GET)
        status, headers, body = await one_answer(reader)
        await hang_up(writer)
    assert (status, headers["retry-after"]) == (503, "2")
    assert json.loads(body) == {
        "error": "temporarily_unavailable",
        "error_description": "issuer did not answer",
        "code": "issuer_unavailable",
        "hint": "try again",
        "retryable": True,
        "retry_after": 1.2,
        "correlation_id": "id-1",
    }


@pytest.mark.parametrize("late", [pytest.param(False, id="at once"), pytest.param(True, id="later")])
async def test_an_unforeseen_error_is_a_500_without_details(caplog: pytest.LogCaptureFixture, *, late: bool) -> None:
    """The log has its class, its place and the same correlation id, and not its text. The connection lives on."""

    def handler(request: Request) -> Any:
        async def later() -> Response:
            raise RuntimeError("s3cr3t")

        if request.path == "/ok":
            return echo(request)
        if late:
            return later()
        raise RuntimeError("s3cr3t")

    async with serving(handler, new_id=lambda: "id-1") as served:
        reader, writer = await served.connect()
        writer.write(GET + GET.replace(b"/ ", b"/ok "))
        status, _, body = await one_answer(reader)
        assert (await one_answer(reader))[0] == 200
        await hang_up(writer)
    assert status == 500
    assert json.loads(body)["correlation_id"] == "id-1"
    assert "s3cr3t" not in body.decode() + caplog.text
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert "RuntimeError" in record.getMessage()
    assert "id-1" in record.getMessage()
    assert "test_http_connections.py" in record.getMessage()


class Events:
    """A stream of events that is fed by the test."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.closed = asyncio.Event()

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield what is put in, until `None`."""
        try:
            while (event := await self.queue.get()) is not None:
                yield event
        finally:
            self.closed.set()

    async def __call__(self, _request: Request) -> Stream:
        """Answer with the stream."""
        return Stream("text/event-stream", self.stream())


async def test_a_stream_lasts_until_it_ends() -> None:
    """Each event leaves when it comes; the end of the connection is the end of the stream."""
    events = Events()
    async with serving(events) as served:
        reader, writer = await served.connect()
        writer.write(GET)
        status, headers = parse_head(await reader.readuntil(b"\r\n\r\n"))
        assert (status, headers["content-type"], headers["connection"]) == (200, "text/event-stream", "close")
        for event in (b"data: 1\n\n", b"data: 2\n\n"):
            events.queue.put_nowait(event)
            assert await reader.readuntil(b"\n\n") == event
        events.queue.put_nowait(None)
        assert await ended(reader) == b""
        await hang_up(writer)


async def test_a_vanished_peer_closes_its_stream() -> None:
    """Its iterator is closed, so that nobody goes on collecting events for it."""
    events = Events()
    async with serving(events) as served:
        reader, writer = await served.connect()
        writer.write(GET)
        await reader.readuntil(b"\r\n\r\n")
        await hang_up(writer)
        await asyncio.wait_for(events.closed.wait(), PATIENCE)


async def test_a_stream_waits_for_a_peer_that_does_not_read_but_not_for_ever() -> None:
    """Events are not piled up in memory."""
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b"x" * 10_000

    async def handler(_request: Request) -> Stream:
        return Stream("text/event-stream", endless())

    async with serving(handler, limits=Limits(idle_time=SHORT)) as served:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(served.path)
        sock.send(GET)
        await until(lambda: served.server.channels)
        await until(lambda: not served.server.channels)
        sock.close()
    assert sent < 1000


async def test_a_stream_that_fails_ends_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    """Its head has been sent, so there is no status left to say it with."""

    async def broken() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        raise RuntimeError("s3cr3t")

    async def handler(_request: Request) -> Stream:
        return Stream("text/event-stream", broken())

    async with serving(handler) as served:
        answer = await served.exchange(GET)
    assert b"s3cr3t" not in answer + caplog.text.encode()
    assert answer.count(b"HTTP/1.1 ") == 1
    assert "RuntimeError" in caplog.text


async def test_drain_finishes_what_is_in_flight_and_closes_the_rest() -> None:
    """Idle connections and streams end at once; a request in flight is answered; nobody new gets in."""
    gate, events = Gate(), Events()

    def handler(request: Request) -> Any:
        return events(request) if request.path == "/events" else gate(request)

    async with serving(handler) as served:
        idle, idler = await served.connect()
        stream, streamer = await served.connect()
        busy, worker = await served.connect()
        streamer.write(GET.replace(b"/ ", b"/events "))
        await stream.readuntil(b"\r\n\r\n")
        worker.write(GET)
        await until(lambda: gate.started)
        drained = asyncio.create_task(served.server.drain(PATIENCE))
        assert await ended(idle) == b""
        assert await ended(stream) == b""
        with pytest.raises(ConnectionRefusedError):
            await served.connect()
        assert not drained.done()
        gate.open.set()
        status, headers, _ = await one_answer(busy)
        assert (status, headers["connection"]) == (200, "close")
        await asyncio.wait_for(drained, PATIENCE)
        for writer in (idler, streamer, worker):
            await hang_up(writer)


async def test_drain_serves_a_request_that_is_still_in_the_kernel() -> None:
    """Who was let in is answered, though the server has read nothing yet."""
    async with serving(echo) as served:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(served.path)
        sock.send(GET)
        await served.server.drain(PATIENCE)
        sock.settimeout(PATIENCE)
        answer = sock.recv(100)
        sock.close()
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_drain_does_not_wait_for_ever() -> None:
    """What does not finish in its grace is cancelled."""
    gate = Gate()
    async with serving(gate) as served:
        reader, writer = await served.connect()
        writer.write(GET)
        await until(lambda: gate.started)
        await served.server.drain(SHORT)
        assert await ended(reader) == b""
        await hang_up(writer)
        await until(lambda: gate.cancelled)


async def test_quiet_connections_do_not_keep_others_out() -> None:
    """When there is no room, the connection that asked nothing for longest makes place; one that is served stays."""
    gate = Gate()
    async with serving(gate, limits=Limits(connections=2, spare_time=SHORT)) as served:
        quiet, hoarder = await served.connect()
        busy, writer = await served.connect()
        writer.write(GET)
        await until(lambda: gate.started)
        await asyncio.sleep(2 * SHORT)
        newcomer, third = await served.connect()
        third.write(GET)
        await until(lambda: len(gate.started) == 2)
        gate.open.set()
        assert (await one_answer(busy))[0] == (await one_answer(newcomer))[0] == 200
        assert await ended(quiet) == b""
        for each in (hoarder, writer, third):
            await hang_up(each)


async def test_flood_of_connections_is_not_told_one_by_one_why() -> None:
    """Those who are turned away linger to read their answer; beyond twice the limit nobody does."""
    async with serving(echo, limits=Limits(connections=2)) as served:
        taken = [await served.connect() for _ in range(4)]
        await until(lambda: len(served.server.channels) == 4)
        reader, writer = await served.connect()
        assert await ended(reader) == b""
        for _, each in (*taken, (reader, writer)):
            await hang_up(each)


class State:
    """What `on_connect` makes: on Linux it holds a descriptor."""


async def test_nothing_of_a_connection_outlives_it() -> None:
    """Not even until the garbage collector comes by, after an answer, in the middle of one, or without any request."""
    states: list[weakref.ref[State]] = []

    def connected(_sock: socket.socket) -> State:
        state = State()
        states.append(weakref.ref(state))
        return state

    async def slow(_request: Request) -> Response:
        await asyncio.sleep(PATIENCE)
        return Response(204)

    gc.disable()
    try:
        async with serving(
            lambda request: slow(request) if request.path == "/slow" else echo(request), on_connect=connected
        ) as served:
            for sent in (GET, GET.replace(b"/ ", b"/slow ", 1), b"GET", b""):
                reader, writer = await served.connect()
                writer.write(sent)
                if sent is GET:
                    await one_answer(reader)
                await asyncio.sleep(SHORT / 10)
                await hang_up(writer)
            await until(lambda: not served.server.channels)
            await asyncio.sleep(SHORT / 10)
            assert [state() for state in states] == [None] * 4
    finally:
        gc.enable()
