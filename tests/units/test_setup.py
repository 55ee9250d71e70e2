"""The set-up scripts on machines that lack something, played by a PATH of stand-ins; nothing is really installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
SYSTEM = ("awk", "bash", "cat", "cksum", "dirname", "grep", "mkdir", "mktemp", "rm", "sh", "tail", "tee")
FITS = "3 11"

# Answers the questions of scripts/setup as a Python of that version; its venv's `python` only notes what pip was asked.
PYTHON = """#!/bin/sh
case "$*" in
    *print*) echo "{version} $0" ;;
    *"import ensurepip"*) exit {ensurepip} ;;
    *"-m venv"*) mkdir -p .venv/bin && cp "$(dirname "$0")/venv-python" .venv/bin/python ;;
    *fcntl*) exec {real} "$@" ;;
    *) exit 0 ;;
esac
"""
VENV_PYTHON = """#!/bin/sh
case "$*" in *"pip install"*) ;; *) exit 0 ;; esac
echo "$*" >>"{notes}"
[ ! -p "{gate}" ] || cat "{gate}"
[ ! -f "{broken}" ] || {{ cat "{broken}" >&2; exit 1; }}
"""


@dataclass
class Machine:
    """A copy of what set-up reads, and a PATH with nothing on it but what a test puts there."""

    root: Path
    bin: Path

    @property
    def notes(self) -> Path:
        return self.root / "notes"

    @property
    def gate(self) -> Path:
        return self.root / "gate"

    @property
    def broken(self) -> Path:
        return self.root / "broken"

    def program(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    def python(self, name: str = "python3", version: str = FITS, *, ensurepip: bool = True) -> None:
        self.program(name, PYTHON.format(version=version, ensurepip=int(not ensurepip), real=sys.executable))
        self.program("venv-python", VENV_PYTHON.format(notes=self.notes, gate=self.gate, broken=self.broken))

    def system(self, name: str, *, uid: int = 0) -> None:
        self.program("uname", f"#!/bin/sh\necho {name}\n")
        self.program("id", f"#!/bin/sh\necho {uid}\n")

    def start(self, *command: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.root / command[0], *command[1:]],
            env={"PATH": str(self.bin), "HOME": str(self.root), **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str, **env: str) -> tuple[int, str]:
        with self.start(*command, **env) as process:
            output, _ = process.communicate(timeout=20)
        return process.returncode, output

    def setup(self, extras: str = "test") -> tuple[int, str]:
        return self.run("scripts/setup", extras)

    def installed(self) -> list[str]:
        """Return each call of pip's or npm's install."""
        return self.notes.read_text().splitlines() if self.notes.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    root, programs = tmp_path / "a clone", tmp_path / "bin"
    programs.mkdir()
    for name in ("scripts/setup", "scripts/setup-node", ".ci/run", "pyproject.toml", "client/pyproject.toml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, root / name)
    (root / "client/bin").mkdir()
    (root / "client/bin/broker-token").write_text("")
    for name in (*SYSTEM, "cp"):
        (programs / name).symlink_to(shutil.which(name) or pytest.skip(f"{name} is not installed"))
    machine = Machine(root, programs)
    machine.system("Linux")
    return machine


def test_packages_are_installed_once_and_both_distributions_in_one_call(machine: Machine) -> None:
    machine.python()

    first, second = machine.setup(), machine.setup()

    assert first == (0, "setup: installing into .venv (extras: test); this is done once\n")
    assert second == (0, "")
    (call,) = machine.installed()
    assert call.endswith("-e ./client -e .[test]")


@pytest.mark.parametrize("name", ["pyproject.toml", "client/pyproject.toml", "client/bin/broker-token"])
def test_a_changed_file_is_installed_again(machine: Machine, name: str) -> None:
    machine.python()
    machine.setup()
    with (machine.root / name).open("a") as file:
        file.write("# changed\n")

    assert machine.setup()[0] == 0
    assert len(machine.installed()) == 2


def test_each_set_of_extras_is_remembered(machine: Machine) -> None:
    machine.python()
    for extras in ("dev-issuer", "test", "dev-issuer", "test"):
        machine.setup(extras)

    assert [call.rsplit("[", 1)[1] for call in machine.installed()] == ["dev-issuer]", "test]"]


def test_a_moved_clone_gets_a_new_environment(machine: Machine) -> None:
    """Programs in .venv hold its path."""
    machine.python()
    machine.setup()
    moved = Machine(machine.root.rename(machine.root.with_name("moved")), machine.bin)
    moved.python()
    (moved.root / ".venv/old").touch()

    assert moved.setup()[0] == 0
    assert not (moved.root / ".venv/old").exists()


def test_an_interrupted_installation_is_begun_anew(machine: Machine) -> None:
    machine.python()
    os.mkfifo(machine.gate)
    interrupted = machine.start("scripts/setup", "test")
    with machine.gate.open("w"):  # opens when pip runs
        interrupted.kill()
        interrupted.communicate()
    machine.gate.unlink()
    (machine.root / ".venv/half").touch()

    assert machine.setup()[0] == 0
    assert len(machine.installed()) == 2
    assert not (machine.root / ".venv/half").exists()


def test_two_at_once_install_once(machine: Machine) -> None:
    """The second waits for the first, then finds nothing to do."""
    machine.python()
    os.mkfifo(machine.gate)
    first = machine.start("scripts/setup", "test")
    with machine.gate.open("w"):
        second = machine.start("scripts/setup", "test")
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(0.5)
        assert len(machine.installed()) == 1
    for process in (first, second):
        process.communicate(timeout=20)

    assert (first.returncode, second.returncode) == (0, 0)
    assert len(machine.installed()) == 1


def test_a_shim_that_fails_is_passed_over(machine: Machine) -> None:
    """Pyenv leaves a shim on PATH for versions that are installed but not chosen."""
    machine.program("python3.13", "#!/bin/sh\necho 'pyenv: python3.13: command not found' >&2\nexit 127\n")
    machine.python("python3.11")

    assert machine.setup()[0] == 0


def test_a_python_without_ensurepip_is_passed_over_for_one_with_it(machine: Machine) -> None:
    machine.python("python3.12", "3 12", ensurepip=False)
    machine.python("python3.11")

    assert machine.setup()[0] == 0


@pytest.mark.parametrize(
    ("uid", "command"),
    [
        pytest.param(0, "apt-get install python3.11-venv", id="root"),
        pytest.param(1000, "sudo apt-get install python3.11-venv", id="a user"),
    ],
)
def test_debian_without_venv_is_told_the_package(machine: Machine, uid: int, command: str) -> None:
    machine.system("Linux", uid=uid)
    machine.program("apt-get", "#!/bin/sh\n")
    machine.python(ensurepip=False)

    code, output = machine.setup()

    assert code == 1
    assert "setup: error: Python 3.11 is here without its venv and ensurepip modules\n" in output
    assert f"setup: hint: install them with `{command}`, then run make again\n" in output


@pytest.mark.parametrize(
    ("system", "manager", "command"),
    [
        pytest.param("Darwin", "brew", "brew install python@3.13", id="macOS"),
        pytest.param("Linux", "apt-get", "apt-get install python3.11 python3.11-venv", id="Debian"),
        pytest.param("Linux", "dnf", "dnf install python3.11", id="Fedora"),
    ],
)
def test_too_old_a_python_is_named_with_the_command(machine: Machine, system: str, manager: str, command: str) -> None:
    machine.system(system)
    machine.program(manager, "#!/bin/sh\n")
    machine.python(version="3 9")

    code, output = machine.setup()

    assert code == 1
    assert "setup: error: no Python 3.11 or newer was found (python3 is Python 3.9)\n" in output
    assert f"`{command}`" in output
    assert not (machine.root / ".venv").exists()


def test_no_python_at_all_is_said(machine: Machine) -> None:
    code, output = machine.setup()

    assert code == 1
    assert "setup: error: no Python 3.11 or newer was found\n" in output


@pytest.mark.parametrize(
    ("words", "error"),
    [
        pytest.param("[Errno 111] Connection refused", "no package index can be reached", id="no network"),
        pytest.param("ERROR: no matching distribution", "see above, or", id="anything else"),
    ],
)
def test_pips_failure_is_shown_explained_and_not_remembered(machine: Machine, words: str, error: str) -> None:
    machine.python()
    machine.broken.write_text(words)
    code, output = machine.setup()
    assert code == 1
    assert words in output
    assert f"setup: error: the packages could not be installed: {error}" in output
    assert "setup: hint: " in output

    machine.broken.unlink()
    assert machine.setup()[0] == 0


def test_uv_is_used_where_it_works(machine: Machine) -> None:
    machine.python()
    machine.program(
        "uv",
        f'#!/bin/sh\necho "uv $*" >>"{machine.notes}"\n'
        f'[ "$1" != venv ] || {{ mkdir -p .venv/bin && cp "{machine.bin}/venv-python" .venv/bin/python; }}\n',
    )

    assert machine.setup()[0] == 0
    assert machine.installed()[-1] == "uv pip install -q --python .venv/bin/python -e ./client -e .[test]"


def node(machine: Machine, version: str) -> None:
    machine.python()
    machine.setup()
    machine.notes.unlink()
    machine.program("node", f"#!/bin/sh\necho {version}\n")
    machine.program("npm", f'#!/bin/sh\necho "$*" >>"{machine.notes}"\nexit $(cat "{machine.broken}" 2>/dev/null)\n')


def test_node_packages_are_pinned_and_installed_once(machine: Machine) -> None:
    node(machine, "20")

    assert machine.run("scripts/setup-node")[0] == 0
    assert machine.run("scripts/setup-node") == (0, "")
    (call,) = machine.installed()
    assert call.endswith(
        "--no-package-lock --prefix .cache/node oidc-provider@9.13.3 jose@6.2.18 @stoplight/prism-cli@5.14.2"
    )


@pytest.mark.parametrize(
    ("version", "why"),
    [
        pytest.param(None, "npm is not installed", id="none"),
        pytest.param("18", "Node.js 18 is older than 20", id="too old"),
    ],
)
def test_without_node_its_tests_are_skipped_except_in_ci(machine: Machine, version: str | None, why: str) -> None:
    if version:
        node(machine, version)

    assert machine.run("scripts/setup-node") == (0, f"setup: {why}; tests that need Node.js are skipped\n")
    assert machine.run("scripts/setup-node", CI="true") == (1, f"setup: error: {why}\n")


def test_npms_failure_is_not_remembered(machine: Machine) -> None:
    node(machine, "20")
    machine.broken.write_text("1")
    assert machine.run("scripts/setup-node", CI="true")[0] == 1
    machine.broken.unlink()
    assert machine.run("scripts/setup-node", CI="true")[0] == 0


@pytest.mark.parametrize(
    ("fails", "tests", "code", "words"),
    [
        pytest.param("", "3 passed, 1 skipped", 0, "ci: everything passed", id="all passes"),
        pytest.param("lint", "3 passed", 1, "ci: error: failed: lint", id="lint fails"),
        pytest.param("types", "3 passed", 1, "ci: error: failed: types", id="types fail"),
        pytest.param("test", "1 failed, 3 passed", 1, "ci: error: failed: test", id="a test fails"),
        pytest.param("lint test", "no tests ran", 1, "ci: error: failed: lint test", id="two parts fail"),
        pytest.param("", "4 skipped", 1, "ci: error: no test ran", id="every test is skipped"),
        pytest.param("", "0 passed", 1, "ci: error: no test ran", id="no test passes"),
    ],
)
def test_ci_fails_when_any_part_fails_or_no_test_ran(
    machine: Machine, fails: str, tests: str, code: int, words: str
) -> None:
    """Every part runs, and all its output is seen, whatever the parts before it did."""
    for name in ("npm", "uv"):
        machine.program(name, "#!/bin/sh\n")
    machine.program(
        "make",
        f'#!/bin/sh\necho "ran $1"\n[ "$1" != test ] || echo "{tests} in 1.2s"\n'
        f'case " {fails} " in *" $1 "*) exit 2 ;; esac\n',
    )

    result, output = machine.run(".ci/run")

    assert result == code
    assert words in output
    assert [line for line in output.splitlines() if line.startswith("ran")] == ["ran lint", "ran types", "ran test"]
