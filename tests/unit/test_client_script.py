"""bin/broker-token repeats some of the package without imports; here the two are held together."""

from __future__ import annotations

import ast
import functools
import os
import socket
from pathlib import Path
from types import CodeType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.standins.fake_daemon import http
from tokenbroker_client import environment, http1, paths, wire
from tokenbroker_client.errors import UsageError

SCRIPT = Path(__file__).parents[2] / "client" / "bin" / "broker-token"
NOBODY = 4242424


@functools.cache
def compiled() -> CodeType:
    """Return the script without its last lines, which run it."""
    tree = ast.parse(SCRIPT.read_text())
    tree.body = [node for node in tree.body if not isinstance(node, ast.Try)][:-1]
    return compile(tree, str(SCRIPT), "exec")


def load(environ: dict[str, str], platform: str = "linux") -> SimpleNamespace:
    """Return the script's functions, in a given environment; nothing is run."""
    names: dict[str, Any] = {}
    exec(compiled(), names)  # noqa: S102  # our own file
    names["environ"] = {os.fsencode(name): os.fsencode(value) for name, value in environ.items()}
    names["sys"] = SimpleNamespace(platform=platform)
    return SimpleNamespace(names=names, **names)


@pytest.mark.parametrize("platform", ["linux", "darwin"])
@pytest.mark.parametrize(
    "environ",
    [
        pytest.param({}, id="bare"),
        pytest.param({"BROKER_SOCKET": "/x/b.sock"}, id="explicit"),
        pytest.param({"BROKER_SOCKET": ""}, id="explicit but empty"),
        pytest.param({"XDG_RUNTIME_DIR": "/"}, id="runtime folder"),
        pytest.param({"XDG_RUNTIME_DIR": "/nowhere/at/all"}, id="runtime folder that is gone"),
        pytest.param({"XDG_RUNTIME_DIR": "/dev/null"}, id="runtime folder that is none"),
        pytest.param({"XDG_RUNTIME_DIR": "."}, id="relative runtime folder"),
        pytest.param({"XDG_CACHE_HOME": "/c"}, id="cache"),
        pytest.param({"XDG_CACHE_HOME": "c"}, id="relative cache"),
    ],
)
def test_the_script_looks_where_the_package_looks(environ: dict[str, str], platform: str) -> None:
    environ = {"HOME": "/home/ada"} | environ
    script = load(environ, platform)
    assert os.fsdecode(script.socket_path(NOBODY)) == paths.socket_path(environ, platform, NOBODY, "/home/ada")


@pytest.mark.parametrize("ours", ["", "allow", "never", "Never", "maybe"])
@pytest.mark.parametrize("gcm", ["", "0", "1", "FALSE", "never"])
@pytest.mark.parametrize("context", ["", "interactive", "mid-session-refresh", "scheduled-task", "background"])
def test_the_script_prompts_when_the_package_would(ours: str, gcm: str, context: str) -> None:
    """What the package refuses is handed on to it."""
    environ = {"BROKER_INTERACTION": ours, "GCM_INTERACTIVE": gcm, "CLAUDE_HELPER_CONTEXT": context}
    script = load(environ)
    try:
        expected = environment.interaction(environ)
    except UsageError:
        with pytest.raises(script.Unusual):
            script.form(["broker-token", "search"])
    else:
        sent = wire.decode_request(script.form(["broker-token", "search"]))
        assert sent == wire.TokenRequest(profile="search", interaction=expected)


@given(st.text())
def test_the_script_asks_for_the_named_profile_or_hands_on(profile: str) -> None:
    script = load({})
    try:
        body = script.form(["broker-token", profile])
    except script.Unusual:
        return
    assert wire.decode_request(body).profile == profile


visible = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7F))


@given(visible | st.text())
def test_the_script_prints_the_token_that_the_package_reads_or_hands_on(token: str) -> None:
    answer = http(200, wire.encode_token(wire.TokenAnswer(token)))
    script = load({})
    try:
        found = script.token_of(answer)
    except script.Unusual:
        return
    assert found.decode() == token == wire.decode_token(http1.decode(answer, ended=True).body).access_token  # type: ignore[union-attr]


def test_an_ordinary_token_is_not_handed_on() -> None:
    """The fast way is really taken, up to the longest token."""
    for token in ("eyJh.e30._-", "x" * wire.MAX_TOKEN):
        assert load({}).token_of(http(200, wire.encode_token(wire.TokenAnswer(token)))).decode() == token


WHOLE = http(200, wire.encode_token(wire.TokenAnswer("eyJh.e30._-")))


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(http(403, wire.encode_token(wire.TokenAnswer("t"))), id="a refusal"),
        pytest.param(http(200, b'{"token_type":"Bearer","access_token":"t"}'), id="another order"),
        pytest.param(http(200, b'{"access_token":"t'), id="an open string"),
        pytest.param(http(200, b'{"access_token":"t"'), id="an open object"),
        pytest.param(http(200, wire.encode_token(wire.TokenAnswer("x" * (wire.MAX_TOKEN + 1)))), id="too long"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n" + wire.encode_token(wire.TokenAnswer("t")), id="no length"),
        pytest.param(http(200, wire.encode_token(wire.TokenAnswer("t", token_type="DPoP"))), id="bound to a key"),
        pytest.param(b"", id="nothing"),
        pytest.param(TimeoutError(), id="no answer in time"),
    ],
)
def test_an_unusual_answer_is_handed_on(answer: bytes | TimeoutError) -> None:
    script = load({})
    with pytest.raises(script.Unusual):
        script.token_of(answer)


@given(st.integers(0, len(WHOLE) - 1))
def test_no_part_of_an_answer_yields_a_token(length: int) -> None:
    """A token that was cut off must never be printed."""
    script = load({})
    with pytest.raises(script.Unusual):
        script.token_of(WHOLE[:length])


@pytest.mark.parametrize(
    ("terminal", "seconds"),
    [
        pytest.param(False, environment.HELPER_TIMEOUT, id="a helper"),
        pytest.param(True, environment.PERSON_TIMEOUT, id="a person at a terminal"),
    ],
)
def test_the_script_waits_as_long_as_the_package(terminal: bool, seconds: float) -> None:  # noqa: FBT001  # a column
    script = load({})
    timeouts: list[float] = []

    class Silent:
        """A socket on which nothing comes, and that keeps what it was told."""

        def settimeout(self, value: float) -> None:
            timeouts.append(value)

        def sendall(self, data: bytes) -> None:
            assert data

        def recv(self, _size: int) -> bytes:
            raise TimeoutError

    script.names.update(monotonic=lambda: 1000.0, isatty=lambda _fd: terminal)
    assert isinstance(script.ask(Silent(), b""), TimeoutError)
    assert timeouts == [seconds, seconds]


def test_the_script_trusts_whom_the_package_trusts() -> None:
    """The offset of the uid in the kernel's answer is the one that the kernel uses."""
    left, right = socket.socketpair(socket.AF_UNIX)
    with left, right:
        cred = left.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        assert int.from_bytes(cred[4:8], "little") == os.getuid()
