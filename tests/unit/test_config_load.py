"""Configuration files and texts that nobody wrote on purpose: all are `ConfigError`, and no secret is ever shown."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.config_documents import EXAMPLE, refusal
from tokenbroker.config.text import MAX_SIZE, _refuse_unsafe, load, parse
from tokenbroker.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable


def test_load_reads_a_file(tmp_path: Path) -> None:
    """A file is parsed, and remembered in the value."""
    path = tmp_path / "config.toml"
    path.write_text(EXAMPLE)
    assert load(path) == parse(EXAMPLE, path)


def _absent(path: Path) -> None:
    pass


def _not_utf8(path: Path) -> None:
    path.write_bytes(b"version = 1\n\xff = 2")


def _huge(path: Path) -> None:
    path.write_bytes(b"version = 1\n" + b"#" * MAX_SIZE)


@pytest.mark.parametrize(
    ("make", "message", "hint"),
    [
        pytest.param(_absent, ": no such file", "write a first configuration with `broker init`", id="absent"),
        pytest.param(Path.mkdir, ": cannot be read: is a directory", "check it with `broker doctor`", id="a folder"),
        pytest.param(os.mkfifo, ": cannot be read: not a regular file", "check it with `broker doctor`", id="a FIFO"),
        pytest.param(_not_utf8, " line 2: expected UTF-8, found other bytes", "save it as UTF-8", id="not UTF-8"),
        pytest.param(_huge, ": expected at most 1 MiB, found more", None, id="over 1 MiB"),
    ],
)
def test_files_that_cannot_be_used(
    tmp_path: Path, make: Callable[[Path], None], message: str, hint: str | None
) -> None:
    """Whatever is wrong with the file itself is a `ConfigError` too, and nothing waits."""
    path = tmp_path / "config.toml"
    make(path)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.message == f"{path}{message}"
    assert hint is None or caught.value.hint == hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    """A file that may not be read is a `ConfigError` with the system's reason."""
    path = tmp_path / "config.toml"
    path.touch(mode=0)
    with pytest.raises(ConfigError, match="cannot be read: permission denied"):
        load(path)


def test_a_path_that_no_file_can_have() -> None:
    """A path with a zero byte is a `ConfigError`, like any other that cannot be opened."""
    with pytest.raises(ConfigError):
        load(Path("a\0b"))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("x = " + "[" * 50_000, id="nesting without end"),
        pytest.param("x = " + "9" * 5_000, id="a number of thousands of digits"),
        pytest.param("version = 1\n" + "#" * MAX_SIZE, id="a text over 1 MiB"),
    ],
)
def test_texts_that_exhaust_the_reader(text: str) -> None:
    """Whatever `tomllib` cannot take is a `ConfigError`."""
    assert refusal(text).message.startswith("config.toml: ")


def parses_or_refuses(text: str) -> None:
    """Parse, and let through nothing but `ConfigError`."""
    try:
        parse(text)
    except ConfigError as error:
        assert error.message.startswith("config.toml")  # noqa: PT017
        assert "\n" not in error.message  # noqa: PT017


@given(st.text(max_size=200))
def test_any_text_parses_or_is_refused(text: str) -> None:
    """No text makes the parser fail in another way."""
    parses_or_refuses(text)


LINES = EXAMPLE.splitlines()
VALUES = st.sampled_from(
    [
        "1",
        "-0.5",
        "true",
        '""',
        '"x"',
        '"\\u0000"',
        "[]",
        '["a"]',
        "[[1]]",
        "{}",
        "{ a = 1 }",
        "1979-05-27",
        "nan",
        '"*"',
    ]
)


@settings(max_examples=200)
@given(st.data())
def test_any_change_of_the_example_parses_or_is_refused(data: st.DataObject) -> None:
    """Lines dropped, doubled, swapped or given other values make no failure but a `ConfigError`."""
    lines = list(LINES)
    for _ in range(data.draw(st.integers(1, 3))):
        index = data.draw(st.integers(0, len(lines) - 1))
        given_another_value = f"{lines[index].split('=')[0]} = {data.draw(VALUES)}"
        lines[index : index + 1] = data.draw(
            st.sampled_from(
                [[], [lines[index]] * 2, [lines[index][:-1]], ["unknown = 1"], [given_another_value]],
            )
        )
    parses_or_refuses("\n".join(lines))


VALUED = [index for index, line in enumerate(LINES) if '"' in line and "{" not in line and "[" not in line]
EXTRA = {
    "[issuers.main]": [
        "token_endpoint",
        "proxy",
        "ca_file",
        "auth",
        "basic_encoding",
        "timeout",
        "granted_scopes",
        "x",
    ],
    "[clients.mine]": ["private_key", "key_id", "auth", "basic_encoding", "secret"],
    "[profiles.search]": ["resource", "organization", "extra_params"],
}
SECRETS = st.text(alphabet="abcXYZ0189-_.~+/=!%&$@ é", min_size=21, max_size=64).filter(
    lambda text: text.strip() == text
)


@settings(max_examples=200)
@given(
    st.sampled_from(
        [(index, None, None) for index in VALUED] + [(0, t, key) for t, keys in EXTRA.items() for key in keys]
    ),
    SECRETS,
    st.sampled_from(["{}", "op://{}", "https://user:{}@host/", "op://Vault/Item/{}", "-----BEGIN {}"]),
    st.sampled_from(['"{}"', "{}", '["{}"]', '{{ client_secret = "{}" }}', "'''\n{}'''"]),
)
def test_no_secret_is_shown(place: tuple[int, str | None, str | None], secret: str, form: str, quotes: str) -> None:
    """A secret in the place of any value, in quotes or not, is in neither the message nor the hint."""
    index, table, key = place
    lines = list(LINES)
    value = quotes.format(form.format(secret))
    if table is None:
        lines[index] = f"{lines[index].split('=')[0]} = {value}"
    else:
        lines.insert(lines.index(table) + 1, f"{key} = {value}")
    try:
        parse("\n".join(lines))
    except ConfigError as error:
        assert secret not in f"{error.message} {error.hint} {error!r}"  # noqa: PT017
        assert error.__cause__ is None  # noqa: PT017


@pytest.mark.parametrize("mode", [0o602, 0o646, 0o666])
def test_file_that_everybody_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    """It says where secrets are sent."""
    path = tmp_path / "config.toml"
    path.write_text(EXAMPLE)
    path.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert (caught.value.message, caught.value.hint) == (
        f"{path}: can be written by every user",
        f"chmod o-w {path}",
    )


@pytest.mark.parametrize(
    ("uid", "owner", "refused"),
    [(1000, 1000, False), (1000, 0, False), (1000, 1001, True), (0, 1000, False), (0, 0, False)],
    ids=["ours", "root's", "somebody's", "root uses ours", "root uses its own"],
)
def test_file_of_another_user_is_refused(uid: int, owner: int, refused: bool) -> None:  # noqa: FBT001
    """Root's is an administrator's; to root a file is given by whoever mounted it."""
    found = os.stat_result((0o100644, 0, 0, 1, owner, owner, 0, 0, 0, 0))
    with pytest.raises(ConfigError, match="belongs to another user") if refused else contextlib.nullcontext():
        _refuse_unsafe(Path("/c.toml"), found, uid)
