"""Peers that misbehave on the socket, and sockets in places where none should be: refused, and nobody else notices."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from typing import TYPE_CHECKING

import pytest

from tests.e2e.rig import BIN, Rig, finished
from tests.e2e.standard import configuration, fill_vault
from tests.standins.op_world import OpWorld

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenbroker.dev.issuer import DevIssuer

GOOD = b"grant_type=client_credentials&profile=search"


@pytest.fixture(scope="module")
def shared(issuer: DevIssuer) -> Iterator[Rig]:
    """A user whose daemon serves all of these peers, one after the other."""
    with Rig() as rig:
        fill_vault(rig.op)
        rig.configure(configuration(issuer.url))
        with rig.serve():
            assert rig.token("search").token
            yield rig
            assert rig.token("search").token


def request(body: bytes, *, length: int | None = None, head: bytes = b"") -> bytes:
    """Return a token request as bytes; `length` makes Content-Length lie."""
    size = len(body) if length is None else length
    form = b"Content-Type: application/x-www-form-urlencoded"
    return b"POST /token HTTP/1.1\r\nHost: broker\r\n%sContent-Length: %d\r\n%s\r\n\r\n%s" % (head, size, form, body)


def connect(rig: Rig) -> socket.socket:
    """Connect as a peer."""
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(20)
    peer.connect(str(rig.socket))
    return peer


def everything(peer: socket.socket) -> tuple[int, dict[str, str]]:
    """Read until the daemon hangs up; return status and body."""
    data = b""
    while chunk := peer.recv(65536):
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        pytest.param(request(b"x" * (1 << 20)), 413, "usage", id="a body of one megabyte"),
        pytest.param(request(GOOD, head=b"X: %s\r\n" % (b"x" * 100_000)), 431, "usage", id="a header of 100 kB"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 501, "usage", id="a TLS hello"),
        pytest.param(request(GOOD, head=b"Content-Length: 3\r\n"), 400, "usage", id="two lengths"),
    ],
)
def test_hostile_request_is_refused_in_the_protocols_words(shared: Rig, data: bytes, status: int, code: str) -> None:
    with connect(shared) as peer:
        with contextlib.suppress(BrokenPipeError):  # refused before it was all sent; the answer is there none the less
            peer.sendall(data)
        answered, body = everything(peer)
    assert (answered, body["code"]) == (status, code)
    assert body["error"] == "invalid_request"
    assert body["error_description"]


def test_half_a_request_is_given_up_and_meanwhile_others_are_served(shared: Rig) -> None:
    """One peer stops within its body, one within its headers: both are told 408 after five seconds."""
    with connect(shared) as half, connect(shared) as less:
        half.sendall(request(GOOD, length=len(GOOD) + 10))
        began = time.monotonic()
        less.sendall(request(GOOD)[:20])
        assert shared.token("search").seconds < 2
        for peer in (half, less):
            status, body = everything(peer)
            assert (status, body["error_description"]) == (408, "request did not arrive in time")
    assert 4 < time.monotonic() - began < 15


def test_peer_that_vanishes_cancels_nobody_elses_fetch(rig: Rig) -> None:
    """It asks, causes the prompt, and goes away; who joined it is served from the same prompt."""
    rig.op.person("hang")
    with rig.serve():
        with connect(rig) as gone:
            gone.sendall(request(GOOD))
            rig.op.wait_until(OpWorld.dialog_open)
            waiting = rig.start(BIN / "broker-token", "search")
        rig.op.answer("approve")
        assert finished(waiting).token
        assert rig.op.prompts() == 1


def test_second_instance_names_the_first(shared: Rig) -> None:
    ran = shared.broker("serve", "--config", str(shared.config), "--socket", str(shared.socket))
    pid = shared.status()["pid"]
    assert (ran.code, ran.out) == (1, "")
    assert ran.message == f"a broker is already listening on {shared.socket} (pid {pid})"
    assert ran.hint == "broker status"
    assert shared.token("search").token


def test_socket_path_that_is_too_long_is_refused_on_both_sides(shared: Rig) -> None:
    path = f"{shared.folder}/{'x' * 120}/broker.sock"
    daemon = shared.broker("serve", "--config", str(shared.config), "--socket", path)
    assert daemon.code == 1
    assert f"socket path is {len(path)} bytes long" in daemon.message
    assert daemon.hint == "set BROKER_SOCKET to a shorter path"
    client = shared.token("search", "--socket", path)
    assert (client.code, client.out) == (2, "")
    assert f"socket path {path} is {len(path)} bytes long" in client.message
    assert client.hint == "set BROKER_SOCKET to a shorter path, for the broker and for its callers alike"


@pytest.mark.parametrize("mode", [0o777, 0o1777], ids=["world-writable", "sticky like /tmp"])
def test_socket_in_a_folder_of_everybody_is_refused(shared: Rig, mode: int) -> None:
    folder = shared.folder / f"open-{mode:o}"
    folder.mkdir()
    folder.chmod(mode)
    ran = shared.broker("serve", "--config", str(shared.config), "--socket", str(folder / "broker.sock"))
    assert (ran.code, ran.message) == (1, f"socket folder {folder} may be changed by anybody")
    assert ran.hint.startswith("set BROKER_SOCKET to a path in a folder of its own")
    assert list(folder.iterdir()) == []


def test_no_broker_is_exit_3_and_says_how_to_start_it(rig: Rig) -> None:
    ran = rig.token("search")
    assert (ran.code, ran.out, ran.message) == (3, "", f"no broker is listening on {rig.socket}")
    assert ran.hint.startswith("start it with `")
