"""Half an answer is never taken for a whole one, and no answer is read without end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbroker_client import http1
from tokenbroker_client.wire import WireError

WHOLE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\ncontent-LENGTH: 2\r\n\r\n{}"


def test_an_answer_is_read() -> None:
    response = http1.decode(WHOLE, ended=False)
    assert response == (200, {"content-type": "application/json", "content-length": "2"}, b"{}")


@given(st.integers(0, len(WHOLE) - 1))
def test_every_part_of_an_answer_is_waited_for_and_missed(length: int) -> None:
    part = WHOLE[:length]
    assert http1.decode(part, ended=False) is None
    with pytest.raises(http1.Truncated):
        http1.decode(part, ended=True)


def test_bytes_after_the_answer_are_ignored() -> None:
    response = http1.decode(WHOLE + b"more", ended=False)
    assert response is not None
    assert response.body == b"{}"


def test_without_a_length_the_end_of_the_connection_ends_the_answer() -> None:
    data = b"HTTP/1.0 200 OK\r\n\r\n{}"
    assert http1.decode(data, ended=False) is None
    assert http1.decode(data, ended=True) == (200, {}, b"{}")


def test_no_content_is_complete_at_once() -> None:
    assert http1.decode(b"HTTP/1.1 204 No Content\r\n\r\n", ended=False) == (204, {}, b"")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n\r\n", id="another protocol"),
        pytest.param(b"HTTP/2 200\r\n\r\n", id="another version"),
        pytest.param(b"HTTP/1.1 2\xb2 OK\r\n\r\n", id="a status that is no number"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", id="a negative length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\n", id="two lengths"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", id="an absurd length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", id="chunks"),
        pytest.param(b"x" * (http1.MAX_HEAD + 1), id="a head without end"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (http1.MAX_ANSWER + 1), id="a body without end"),
    ],
)
def test_what_cannot_be_an_answer_is_refused_at_once(data: bytes) -> None:
    with pytest.raises(WireError):
        http1.decode(data, ended=False)


@given(st.binary(), st.booleans())
def test_any_bytes_are_read_or_refused(data: bytes, ended: bool) -> None:  # noqa: FBT001  # drawn by hypothesis
    try:
        response = http1.decode(b"HTTP/1.1 " + data, ended=ended)
    except WireError:
        return
    assert not ended or response is not None


def test_a_body_is_in_no_repr() -> None:
    assert "SECRET" not in repr(http1.Response(200, {}, b"SECRET"))


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        pytest.param("/token\r\nX: y", {}, id="a path with a line break"),
        pytest.param("/token HTTP/1.1", {}, id="a path with a space"),
        pytest.param("/token", {"X": "a\r\nY: b"}, id="a header with a line break"),
    ],
)
def test_a_request_cannot_break_out_of_its_line(path: str, headers: dict[str, str]) -> None:
    with pytest.raises(WireError):
        http1.encode("GET", path, b"", headers)
