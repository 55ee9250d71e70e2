"""`broker-token` finds its interpreter and its package from wherever it was installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.installed import CLIENT, install, run
from tests.standins.fake_daemon import FakeDaemon, token_number

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = token_number(0).access_token


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("venv") / "v", editable=True)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose name leaves room for a socket's."""
    with tempfile.TemporaryDirectory(prefix="tb") as name:
        yield Path(name)


@pytest.fixture
def daemon(folder: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(folder / "b.sock") as running:
        yield running


# Every layout is tried both ways: the script must find its interpreter, and the interpreter the package.
@pytest.mark.parametrize("arguments", [("search",), ("search", "--format", "token")], ids=["script", "cli"])
class TestInstalled:
    """The command works from wherever installers put it."""

    def check(self, command: Path | str, daemon: FakeDaemon, arguments: tuple[str, ...], **environ: str) -> None:
        assert run(command, *arguments, BROKER_SOCKET=daemon.path, **environ) == (0, f"{TOKEN}\n", "")

    def test_plain_in_a_folder_with_a_space(
        self, tmp_path: Path, daemon: FakeDaemon, arguments: tuple[str, ...]
    ) -> None:
        self.check(install(tmp_path / "my $HOME's venv", editable=False), daemon, arguments)

    def test_through_links(self, command: Path, tmp_path: Path, daemon: FakeDaemon, arguments: tuple[str, ...]) -> None:
        """An absolute link as uv tool and pipx make it, and a relative link to that."""
        (tmp_path / "a b").mkdir()
        (tmp_path / "absolute").symlink_to(command)
        (tmp_path / "a b" / "relative").symlink_to("../absolute")
        self.check(tmp_path / "a b" / "relative", daemon, arguments)

    def test_from_path(self, command: Path, daemon: FakeDaemon, arguments: tuple[str, ...]) -> None:
        self.check("env", daemon, ("broker-token", *arguments), PATH=f"{command.parent}:{os.defpath}")

    def test_without_an_interpreter_beside_it(
        self, command: Path, tmp_path: Path, daemon: FakeDaemon, arguments: tuple[str, ...]
    ) -> None:
        """`python3` on PATH is used, as for a script in /usr/local/bin."""
        alone = shutil.copy(command, tmp_path)
        self.check(alone, daemon, arguments, PATH=f"{command.parent}:{os.defpath}")

    def test_for_one_user(self, tmp_path: Path, daemon: FakeDaemon, arguments: tuple[str, ...]) -> None:
        """As `pip install --user` does: the script in ~/.local/bin, the package in ~/.local/lib."""
        if sys.platform != "linux":
            pytest.skip("the user's site-packages are elsewhere there")
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        packages = tmp_path / ".local" / "lib" / version / "site-packages"
        shutil.copytree(CLIENT / "tokenbroker_client", packages / "tokenbroker_client")
        (tmp_path / ".local" / "bin").mkdir()
        script = shutil.copy(CLIENT / "bin" / "broker-token", tmp_path / ".local" / "bin")
        base = Path(sys._base_executable).parent  # type: ignore[attr-defined]
        self.check(script, daemon, arguments, HOME=str(tmp_path), PATH=f"{base}:{os.defpath}")

    def test_not_by_a_module_that_lies_around(
        self,
        command: Path,
        tmp_path: Path,
        daemon: FakeDaemon,
        arguments: tuple[str, ...],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Neither the current folder nor PYTHONPATH can plant code in it."""
        for module in ("site.py", "socket.py", "json.py", "tokenbroker_client.py"):
            (tmp_path / module).write_text("raise SystemExit('planted')")
        monkeypatch.chdir(tmp_path)
        self.check(command, daemon, arguments, PYTHONPATH=str(tmp_path), PYTHONSTARTUP=str(tmp_path / "site.py"))


def test_the_plain_call_needs_nothing_but_the_script(tmp_path: Path, daemon: FakeDaemon) -> None:
    """That is what makes it fast: it is answered although the package cannot even be imported."""
    command = install(tmp_path / "v", editable=True)
    next(tmp_path.rglob("*.pth")).unlink()
    environ = {"BROKER_SOCKET": daemon.path, "BROKER_INTERACTION": "never"}
    assert run(command, "search", **environ) == (0, f"{TOKEN}\n", "")


def test_without_its_package_it_says_so(tmp_path: Path) -> None:
    command = install(tmp_path / "v", editable=True)
    next(tmp_path.rglob("*.pth")).unlink()
    code, out, err = run(command, "--version")
    assert (code, out) == (1, "")
    assert err.startswith("broker-token: error: package tokenbroker_client is not installed for ")


def test_the_wheel_carries_the_command(tmp_path: Path) -> None:
    """Unchanged, executable, and where pip copies it into `bin` instead of generating a script."""
    pytest.importorskip("hatchling")
    source = tmp_path / "client"
    shutil.copytree(CLIENT, source)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=source,
        check=True,
        capture_output=True,
    )
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".data/scripts/broker-token")]
        assert archive.read(name) == (CLIENT / "bin" / "broker-token").read_bytes()
        assert archive.getinfo(name).external_attr >> 16 & 0o111
