from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tokenbroker.errors import VaultNotInstalled, VaultUnavailable
from tokenbroker.vaults.op import program as op_program
from tokenbroker.vaults.op.program import find_op, op_environment

if TYPE_CHECKING:
    from pathlib import Path


def program(folder: Path, *, mode: int = 0o755) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "op"
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


@pytest.fixture(autouse=True)
def no_usual_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's own `op` is none of these tests' business."""
    monkeypatch.setattr(op_program, "USUAL_PLACES", ())


def test_configured_program_wins_over_path(tmp_path: Path) -> None:
    mine, other = program(tmp_path / "a"), program(tmp_path / "b")
    assert find_op(str(mine), {"PATH": str(other.parent)}, tmp_path) == mine


def test_program_is_found_on_path_past_files_that_cannot_run(tmp_path: Path) -> None:
    program(tmp_path / "a", mode=0o644)
    (tmp_path / "b/op").mkdir(parents=True)
    good = program(tmp_path / "c")
    path = os.pathsep.join(str(tmp_path / name) for name in ("none", "a", "b", "c"))
    assert find_op(None, {"PATH": path}, tmp_path) == good


def test_program_is_found_where_launchds_path_does_not_lead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = program(tmp_path / "homebrew")
    monkeypatch.setattr(op_program, "USUAL_PLACES", (str(usual.parent),))
    assert find_op(None, {"PATH": "/nonexistent"}, tmp_path) == usual


def test_program_is_found_in_the_home_folder(tmp_path: Path) -> None:
    own = program(tmp_path / ".local/bin")
    assert find_op(None, {}, tmp_path) == own


def test_current_folder_is_never_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty entry of PATH means the current folder, where anybody's file may lie."""
    program(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VaultNotInstalled, match="not installed"):
        find_op(None, {"PATH": os.pathsep.join(["", "."])}, tmp_path / "home")


@pytest.mark.parametrize("configured", ["/nonexistent/op", "op", ""], ids=["missing", "relative", "empty"])
def test_program_that_is_not_there_is_told_with_a_next_step(configured: str, tmp_path: Path) -> None:
    with pytest.raises(VaultNotInstalled) as raised:
        find_op(configured, {}, tmp_path)
    assert raised.value.hint is not None
    assert "broker doctor" in raised.value.hint


def test_program_that_everybody_can_write_is_refused(tmp_path: Path) -> None:
    path = program(tmp_path / "bin", mode=0o757)
    with pytest.raises(VaultUnavailable, match="written by every user") as raised:
        find_op(str(path), {}, tmp_path)
    assert f"chmod o-w {path}" in (raised.value.hint or "")


def test_link_to_a_program_that_everybody_can_write_is_refused(tmp_path: Path) -> None:
    path = program(tmp_path / "bin", mode=0o757)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(VaultUnavailable, match="written by every user"):
        find_op(str(tmp_path / "link"), {}, tmp_path)


def test_program_in_a_folder_that_everybody_can_write_is_refused(tmp_path: Path) -> None:
    path = program(tmp_path / "bin")
    path.parent.chmod(0o777)
    (tmp_path / "link").symlink_to(path)
    for way in (path, tmp_path / "link"):
        with pytest.raises(VaultUnavailable, match="folder that every user can write"):
            find_op(str(way), {}, tmp_path)


def test_program_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = program(tmp_path / "bin")
    if os.getuid() == 0:
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(VaultUnavailable, match="belongs to another user"):
        find_op(str(path), {}, tmp_path)


def test_environment_is_an_allow_list(tmp_path: Path) -> None:
    """What would change whom `op` asks, and whatever else the daemon has, stays behind."""
    environ = {
        "HOME": "/elsewhere", "USER": "me", "PATH": "/evil", "LANG": "C.UTF-8", "LC_TIME": "de_DE",
        "XDG_RUNTIME_DIR": "/run/user/1", "HTTPS_PROXY": "http://proxy", "OP_CONFIG_DIR": "/c",
        "OP_SERVICE_ACCOUNT_TOKEN": "ops_x", "OP_CONNECT_HOST": "h", "OP_CONNECT_TOKEN": "t", "OP_SESSION": "s",
        "OP_SESSION_my": "s", "OP_DEBUG": "true", "OP_FORMAT": "json", "OP_BIOMETRIC_UNLOCK_ENABLED": "false",
        "OP_CACHE": "false", "LD_PRELOAD": "/evil.so", "DYLD_INSERT_LIBRARIES": "/evil", "AWS_SECRET_ACCESS_KEY": "x",
        "SSH_AUTH_SOCK": "/x",
    }  # fmt: skip
    assert op_environment(environ, tmp_path) == {
        "HOME": str(tmp_path), "USER": "me", "PATH": op_program.SANE_PATH, "LANG": "C.UTF-8", "LC_TIME": "de_DE",
        "XDG_RUNTIME_DIR": "/run/user/1", "HTTPS_PROXY": "http://proxy", "OP_CONFIG_DIR": "/c",
        "OP_BIOMETRIC_UNLOCK_ENABLED": "true",
    }  # fmt: skip


def test_service_accounts_environment_has_its_token_and_no_way_to_the_app(tmp_path: Path) -> None:
    daemons = {"OP_CONNECT_HOST": "h", "OP_CONNECT_TOKEN": "t", "OP_ACCOUNT": "a", "DISPLAY": ":0", "LC_ALL": "C",
               "OP_SERVICE_ACCOUNT_TOKEN": "ops_other", "OP_CONFIG_DIR": "/c", "https_proxy": "http://p"}  # fmt: skip
    given = op_program.service_account_environment(daemons, tmp_path, "ops_mine")
    assert given == {
        "HOME": str(tmp_path), "PATH": op_program.SANE_PATH, "LC_ALL": "C", "OP_CONFIG_DIR": "/c",
        "https_proxy": "http://p", "OP_BIOMETRIC_UNLOCK_ENABLED": "false", "OP_LOAD_DESKTOP_APP_SETTINGS": "false",
        "OP_SERVICE_ACCOUNT_TOKEN": "ops_mine",
    }  # fmt: skip
    assert "OP_SERVICE_ACCOUNT_TOKEN" not in op_program.service_account_environment(daemons, tmp_path, None)


def test_setting_that_keeps_op_out_of_the_apps_folder_is_passed_on_and_never_made(tmp_path: Path) -> None:
    """Whether the app is still reached with it is unknown: a person may try, we do not decide."""
    name = "OP_LOAD_DESKTOP_APP_SETTINGS"
    assert op_environment({name: "false"}, tmp_path)[name] == "false"
    assert name not in op_environment({}, tmp_path)
