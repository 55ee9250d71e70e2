"""The kept answer of `broker doctor op`: private, whole, and believed only when nobody else can have written it."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import pytest

from tokenbroker.errors import BrokerError
from tokenbroker.vaults.op.grants import Grants, Place, Scope, to_json
from tokenbroker.vaults.op.grants_file import NAME, load_grants, save_grants

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

AT = 1_790_000_000.0
ANSWER = Grants("2.40.0", AT, {Place.TERMINAL: Scope.SESSION})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the file's place, in a folder that is not there yet."""
    return tmp_path / "state/tokenbroker" / NAME


def load(path: Path, *, op: str | None = "2.40.0", now: float = AT + 60) -> Grants | None:
    return load_grants(path, op_version=op, now=now)


def test_answer_is_kept_privately_and_alone(path: Path) -> None:
    for answer in (Grants("2.39.0", AT, {}), ANSWER):
        save_grants(path, answer)
        assert load(path, op=None) == answer
    assert [oct(one.stat().st_mode & 0o777) for one in (path, path.parent)] == ["0o600", "0o700"]
    assert list(path.parent.iterdir()) == [path]


def test_no_answer_is_none_and_nothing_to_say(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert load(path) is None
    assert caplog.text == ""


def _link(path: Path) -> None:
    (path.parent / "elsewhere").write_text(to_json(ANSWER))
    path.symlink_to(path.parent / "elsewhere")


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _writable(path: Path) -> None:
    path.write_text(to_json(ANSWER))
    path.chmod(0o620)


@pytest.mark.parametrize(
    "plant",
    [
        pytest.param(lambda path: path.write_text("{"), id="damaged"),
        pytest.param(lambda path: path.write_bytes(b"\xff\xfe"), id="no text"),
        pytest.param(lambda path: path.write_text(to_json(ANSWER) + " " * 65536), id="too large"),
        pytest.param(lambda path: path.mkdir(), id="a folder"),
        pytest.param(_link, id="a link, even to a good answer"),
        pytest.param(_pipe, id="a pipe that nobody writes to"),
        pytest.param(_writable, id="a file that a group can write"),
    ],
)
def test_what_cannot_be_believed_is_ignored_with_a_note(
    path: Path, caplog: pytest.LogCaptureFixture, plant: Callable[[Path], object]
) -> None:
    caplog.set_level(logging.INFO)
    path.parent.mkdir(parents=True)
    plant(path)
    assert load(path) is None
    assert "Ignoring what `broker doctor op` found out: it is damaged, or not ours alone" in caplog.text


@pytest.mark.parametrize(
    ("op", "now", "reason"),
    [
        pytest.param("2.41.0", AT + 60, "it is about op 2.40.0, and this is op 2.41.0", id="another op"),
        pytest.param("2.40.0", AT + 91 * 86400, "it is older than 90 days", id="old"),
    ],
)
def test_answer_about_something_else_is_ignored_with_a_note(
    path: Path, caplog: pytest.LogCaptureFixture, op: str, now: float, reason: str
) -> None:
    caplog.set_level(logging.INFO)
    save_grants(path, ANSWER)
    assert load(path, op=op, now=now) is None
    assert reason in caplog.text


def test_folder_that_others_can_write_is_refused(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.parent.chmod(0o770)
    with pytest.raises(BrokerError, match="not a folder that only you can write"):
        save_grants(path, ANSWER)
    assert list(path.parent.iterdir()) == []


def test_folder_that_is_a_link_is_refused(path: Path, tmp_path: Path) -> None:
    path.parent.parent.mkdir()
    (tmp_path / "elsewhere").mkdir()
    path.parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BrokerError, match="not a folder that only you can write"):
        save_grants(path, ANSWER)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_link_is_not_replaced(path: Path) -> None:
    path.parent.mkdir(parents=True)
    _link(path)
    with pytest.raises(BrokerError, match="not a plain file"):
        save_grants(path, ANSWER)
    assert path.is_symlink()


def test_place_that_is_no_folder_is_named(path: Path) -> None:
    path.parent.parent.write_text("")
    with pytest.raises(BrokerError, match="cannot be written") as caught:
        save_grants(path, ANSWER)
    assert caught.value.hint == f"ls -ld {path.parent}"
