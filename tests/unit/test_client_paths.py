"""Every program of one user looks for the sockets in the same place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tokenbroker_client import paths

if TYPE_CHECKING:
    from pathlib import Path

NOBODY = 4242424  # a uid without a folder in /run/user
HOME = "/home/ada"


def test_the_variable_wins_on_every_platform() -> None:
    for platform in ("linux", "darwin"):
        assert paths.socket_path({"BROKER_SOCKET": "/x/b.sock"}, platform, NOBODY, HOME) == "/x/b.sock"


def test_linux_uses_the_runtime_folder(tmp_path: Path) -> None:
    found = paths.socket_path({"XDG_RUNTIME_DIR": str(tmp_path)}, "linux", NOBODY, HOME)
    assert found == f"{tmp_path}/tokenbroker/broker.sock"


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        pytest.param({}, "/home/ada/.cache", id="no runtime folder"),
        pytest.param({"XDG_RUNTIME_DIR": "/nowhere/at/all"}, "/home/ada/.cache", id="a runtime folder that is gone"),
        pytest.param({"XDG_RUNTIME_DIR": "."}, "/home/ada/.cache", id="a relative runtime folder is ignored"),
        pytest.param({"XDG_CACHE_HOME": "/c"}, "/c", id="a cache of one's own"),
        pytest.param({"XDG_CACHE_HOME": "c"}, "/home/ada/.cache", id="a relative cache is ignored"),
        pytest.param({"BROKER_SOCKET": ""}, "/home/ada/.cache", id="an empty variable is not set"),
    ],
)
def test_linux_falls_back_to_the_cache(environ: dict[str, str], folder: str) -> None:
    assert paths.socket_path(environ, "linux", NOBODY, HOME) == f"{folder}/tokenbroker/broker.sock"


def test_linux_finds_the_login_folder_where_cron_sets_no_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cron jobs and terminals meet at the same socket."""
    monkeypatch.setattr("os.path.isdir", lambda folder: folder == f"/run/user/{NOBODY}")
    assert paths.socket_path({}, "linux", NOBODY, str(tmp_path)) == f"/run/user/{NOBODY}/tokenbroker/broker.sock"


def test_macos_has_one_path_for_every_shell() -> None:
    environ = {"TMPDIR": "/var/folders/x", "XDG_RUNTIME_DIR": "/"}
    expected = "/Users/ada/Library/Caches/tokenbroker/broker.sock"
    assert paths.socket_path(environ, "darwin", 501, "/Users/ada") == expected


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        pytest.param({"BROKER_SOCKET": "/x/b.sock"}, "/x/admin/admin.sock", id="in the folder of the first"),
        pytest.param({"BROKER_SOCKET": "b.sock"}, "./admin/admin.sock", id="of a relative first"),
        pytest.param({"BROKER_SOCKET": "/x/b.sock", "BROKER_ADMIN_SOCKET": "/y/a"}, "/y/a", id="its own variable wins"),
    ],
)
def test_the_admin_socket(environ: dict[str, str], expected: str) -> None:
    assert paths.admin_socket_path(environ, "linux", NOBODY, HOME) == expected


@pytest.mark.parametrize(
    ("platform", "limit"),
    [pytest.param("linux", 107, id="linux holds 107 bytes"), pytest.param("darwin", 103, id="macOS holds 103")],
)
def test_a_path_that_the_kernel_would_cut_is_refused(platform: str, limit: int) -> None:
    paths.check_length("/" + "x" * (limit - 1), platform)
    with pytest.raises(paths.SocketPathTooLong, match=f"is {limit + 1} bytes long, and this system holds {limit}"):
        paths.check_length("/é" + "x" * (limit - 2), platform)
