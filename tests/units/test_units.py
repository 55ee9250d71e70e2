"""The units that systemd and launchd are given: they parse, and they keep clear of the traps that we know."""

from __future__ import annotations

import os
import plistlib
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tokenbroker.system.activation import _LAUNCHD_NAMES, _NAMES
from tokenbroker_client import paths

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "systemd"
PLIST = ROOT / "launchd" / "tokenbroker.plist"
SOCKETS = {"tokenbroker.socket": "broker", "tokenbroker-admin.socket": "admin"}

# Each of these sets no_new_privs in a user unit, by itself or through seccomp or a user namespace (systemd.exec(5));
# then setgid programs such as `op` lose their group.
BREAKS_OP = {
    "NoNewPrivileges", "LockPersonality", "MemoryDenyWriteExecute", "RestrictAddressFamilies", "RestrictNamespaces",
    "RestrictRealtime", "RestrictSUIDSGID", "SystemCallFilter", "SystemCallArchitectures", "SystemCallLog",
    "ProtectClock", "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables",
    "PrivateDevices", "PrivateUsers", "DynamicUser", "CapabilityBoundingSet", "AmbientCapabilities",
}  # fmt: skip
# Ignored by systemd 252 for users; later versions set PrivateUsers= for them, which hides /proc/PEER/exe.
MOUNTS = {
    "ProtectSystem", "ProtectHome", "ProtectProc", "ProcSubset", "ProtectControlGroups", "PrivateTmp", "PrivateNetwork",
    "PrivateMounts", "PrivateIPC", "ReadOnlyPaths", "ReadWritePaths", "InaccessiblePaths", "TemporaryFileSystem",
    "BindPaths", "BindReadOnlyPaths", "RootDirectory", "MountAPIVFS", "NoExecPaths", "ExecPaths",
}  # fmt: skip


def directives(name: str) -> dict[str, dict[str, str]]:
    """Parse a unit; a key that stands twice in a section is an error here."""
    sections: dict[str, dict[str, str]] = {}
    for line in (UNITS / name).read_text().splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            assert key not in section, f"{name}: {key} stands twice"
            section[key] = value
    return sections


@pytest.fixture
def service() -> dict[str, str]:
    """The `[Service]` section."""
    return directives("tokenbroker.service")["Service"]


@pytest.fixture
def checked(tmp_path: Path) -> Path:
    """A copy of the units whose program exists, with a runtime folder for systemd to look into."""
    for unit in UNITS.iterdir():
        text = re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={shutil.which('true')}", unit.read_text())
        (tmp_path / unit.name).write_text(text)
    (tmp_path / "run").mkdir(mode=0o700)
    return tmp_path


def verify(folder: Path) -> str:
    """Return all that systemd has to say; its exit code is 0 for a misspelt key."""
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", *sorted(str(p) for p in folder.glob("tokenbroker*"))],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "XDG_RUNTIME_DIR": str(folder / "run")},
    )
    return done.stdout + done.stderr


@pytest.mark.systemd
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_has_nothing_to_say(checked: Path) -> None:
    """Not even a warning; and it would have, for a key misspelt."""
    assert verify(checked) == ""
    unit = checked / "tokenbroker.service"
    unit.write_text(unit.read_text().replace("WatchdogSignal=", "WatchdogSingal="))
    assert "WatchdogSingal" in verify(checked)


def test_every_unit_is_looked_at_here() -> None:
    """A unit that is added gets its own tests."""
    assert {unit.name for unit in UNITS.iterdir()} == {"tokenbroker.service", *SOCKETS}
    assert paths.SYSTEMD_SOCKET_UNIT in SOCKETS


def test_nothing_keeps_op_from_its_group(service: dict[str, str]) -> None:
    """1Password's app answers `op` by its setgid group."""
    assert not BREAKS_OP & service.keys()


def test_nothing_hides_the_peers(service: dict[str, str]) -> None:
    """No mount namespace, in this systemd or a later one."""
    assert not MOUNTS & service.keys()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param("WatchdogSignal", "SIGKILL", id="a hang leaves no core by its signal"),
        pytest.param("LimitCORE", "0", id="a crash leaves no core"),
        pytest.param("UMask", "0077", id="files are private"),
        pytest.param("MemorySwapMax", "0", id="secrets are not swapped out"),
        pytest.param("Type", "notify", id="clients wait until it is ready"),
        pytest.param("NotifyAccess", "main", id="no child speaks for it"),
        pytest.param("KillMode", "mixed", id="it ends its own children"),
        pytest.param("ExecReload", "kill -HUP $MAINPID", id="reload is a SIGHUP"),
        pytest.param("Restart", "on-failure", id="it comes back after a crash"),
        pytest.param("Sockets", " ".join(SOCKETS), id="it is given both sockets"),
    ],
)
def test_service_lines(service: dict[str, str], key: str, value: str) -> None:
    """Each stands for itself."""
    assert service[key] == value


def test_a_broker_that_cannot_start_does_not_fail_its_socket(service: dict[str, str]) -> None:
    """No limit on starts, and a pause between them instead."""
    assert directives("tokenbroker.service")["Unit"]["StartLimitIntervalSec"] == "0"
    assert int(service["RestartSec"].removesuffix("s")) >= 1


def test_the_program_is_started_by_its_absolute_path(service: dict[str, str]) -> None:
    """`python -m` would import what lies in the current folder."""
    assert service["ExecStart"] == "%h/.local/bin/broker serve"


@pytest.mark.parametrize(("unit", "name"), SOCKETS.items())
def test_socket_units(unit: str, name: str) -> None:
    """Private from the start, named as the broker expects, for the one service, and where clients look."""
    environ = {"XDG_RUNTIME_DIR": "/"}  # a folder that exists everywhere
    place = {"broker": paths.socket_path, "admin": paths.admin_socket_path}[name](environ, "linux", 1000, "/home/u")
    assert name in _NAMES
    assert directives(unit)["Socket"] == {
        "ListenStream": "%t" + place.removeprefix("/"),
        "FileDescriptorName": name,
        "Service": "tokenbroker.service",
        "SocketMode": "0600",
        "DirectoryMode": "0700",
        "RemoveOnStop": "yes",
    }


def filled(home: str) -> dict[str, Any]:
    """Return the property list as it is installed."""
    text = PLIST.read_text().replace("@BROKER@", f"{home}/.local/bin/broker").replace("@HOME@", home)
    assert "@" not in text.partition("<plist")[2]
    found: dict[str, Any] = plistlib.loads(text.encode())
    return found


def test_launchd_socket_modes_are_decimal() -> None:
    """`600` would be mode 01130."""
    sockets = filled("/Users/someone")["Sockets"]
    assert sockets.keys() == _LAUNCHD_NAMES.keys()
    for entry in sockets.values():
        assert type(entry["SockPathMode"]) is int
        assert entry["SockPathMode"] == 0o600


def test_launchd_sockets_are_where_clients_look() -> None:
    """In every shell the same, absolute, and short enough for a long user name."""
    home = "/Users/" + "n" * 31  # the longest short name that macOS makes
    sockets = filled(home)["Sockets"]
    assert sockets["Broker"]["SockPathName"] == paths.socket_path({}, "darwin", 501, home)
    assert sockets["Admin"]["SockPathName"] == paths.admin_socket_path({}, "darwin", 501, home)
    for entry in sockets.values():
        paths.check_length(entry["SockPathName"], "darwin")


def test_launchd_starts_the_program_by_its_absolute_path() -> None:
    """Under the label that hints name; nothing in it needs a shell."""
    agent = filled("/Users/someone")
    assert agent["Label"] == paths.LAUNCHD_LABEL
    assert agent["ProgramArguments"] == ["/Users/someone/.local/bin/broker", "serve"]
    assert not re.search(r"[~$]", str(agent))


def test_launchd_leaves_no_core_and_no_open_file() -> None:
    """As the service of systemd."""
    agent = filled("/Users/someone")
    assert agent["SoftResourceLimits"] == agent["HardResourceLimits"] == {"Core": 0}
    assert agent["Umask"] == 0o077
