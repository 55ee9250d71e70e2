"""Tokens from the real things: a keyring daemon on a private bus, a user manager of systemd, a shell's redirection."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.standins.systemd_user import SystemdUser, Unavailable
from tokenbroker.errors import Locked
from tokenbroker.vaults.credential.keyring import look_up

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
TOKEN = "ops_eyJ0b2tlbiI6MX0"
PRINTS = f"""
import asyncio, os, sys
sys.path.insert(0, {str(ROOT / "broker")!r})
from tokenbroker.errors import BrokerError
from tokenbroker.vaults.credential.sources import CredentialSources
async def main():
    try:
        print((await CredentialSources(os.environ, os.getuid()).source(sys.argv[1])()).reveal())
    except BrokerError as error:
        print("refused:", error)
asyncio.run(main())
"""


# --- the Secret Service -----------------------------------------------------------------------------------------------


@pytest.fixture
def secret_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run gnome-keyring with an unlocked collection, on a bus of its own."""
    if shutil.which("gnome-keyring-daemon") is None or shutil.which("dbus-daemon") is None:
        pytest.skip("needs gnome-keyring and dbus-daemon")
    address = f"unix:path={tmp_path}/bus"
    bus = subprocess.Popen(
        ["dbus-daemon", "--session", "--nofork", "--print-address", f"--address={address}"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert bus.stdout is not None
    bus.stdout.readline()  # it listens
    for name, value in {
        "DBUS_SESSION_BUS_ADDRESS": address,
        "HOME": str(tmp_path),
        "XDG_RUNTIME_DIR": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    daemon = subprocess.Popen(
        ["gnome-keyring-daemon", "--foreground", "--unlock", "--components=secrets"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert daemon.stdin is not None
    assert daemon.stdout is not None
    daemon.stdin.write(b"password")
    daemon.stdin.close()
    daemon.stdout.readline()  # GNOME_KEYRING_CONTROL=…: it is up
    yield
    for process in (daemon, bus):
        process.terminate()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def wait_for_name() -> None:
    """Wait until the daemon has its name on the bus."""
    subprocess.run(
        ["gdbus", "wait", "--session", "--timeout=10", "org.freedesktop.secrets"], check=True, capture_output=True
    )


@pytest.mark.usefixtures("secret_service")
def test_locked_keyring_is_told_and_nobody_is_asked() -> None:
    """Unlocked, the entry is found; locked, the answer comes at once, where the library itself would show a dialog."""
    import secretstorage  # noqa: PLC0415  # of Linux

    wait_for_name()
    connection = secretstorage.dbus_init()
    collection = secretstorage.get_default_collection(connection)
    collection.create_item("token", {"service": "tokenbroker", "username": "op"}, TOKEN.encode())
    assert look_up("tokenbroker", "op") == TOKEN
    assert look_up("tokenbroker", "nobody") is None
    collection.lock()
    with pytest.raises(Locked, match="the keyring is locked"):
        look_up("tokenbroker", "op")
    assert collection.is_locked()
    connection.close()


# --- systemd ----------------------------------------------------------------------------------------------------------

UNIT = """
[Service]
Type=oneshot
LoadCredential=loaded:%h/token
SetCredential=literal:{token}-set
ExecStart={python} %h/prints.py systemd://loaded
ExecStart={python} %h/prints.py systemd://literal
ExecStart={python} %h/prints.py systemd://other
ExecStart=/bin/sh -c 'stat -c "%%a %%u" "$CREDENTIALS_DIRECTORY/loaded"'
StandardOutput=append:%h/out
StandardError=append:%h/out
"""


@pytest.mark.systemd
def test_credentials_of_a_real_user_manager_are_read() -> None:
    """As systemd gives them: a file of the service's user, which nobody else can read."""
    try:
        user = SystemdUser.start()
    except Unavailable as reason:
        pytest.skip(str(reason))
    with user:
        units = user.home / ".config/systemd/user"
        units.mkdir(parents=True)
        (units / "prints.service").write_text(UNIT.format(token=TOKEN, python=sys.executable))
        (user.home / "prints.py").write_text(PRINTS)
        (user.home / "token").write_text(f"{TOKEN}\n")
        subprocess.run(["chown", "-R", str(user.uid), str(user.home)], check=True)
        user.systemctl("daemon-reload")
        user.systemctl("start", "prints.service")
        assert (user.home / "out").read_text().splitlines() == [
            TOKEN,
            f"{TOKEN}-set",
            "refused: systemd://other: systemd gave this process no credential of this name",
            f"400 {user.uid}",
        ]


# --- a shell ----------------------------------------------------------------------------------------------------------

BASH = shutil.which("bash")


@pytest.mark.skipif(BASH is None, reason="needs bash")
@pytest.mark.parametrize(
    ("redirection", "printed"),
    [
        pytest.param(f"3< <(echo {TOKEN})", TOKEN, id="process substitution, as the hint says"),
        pytest.param(f"3<<< {TOKEN}", TOKEN, id="here-string"),
        pytest.param("", "refused: fd://3: ", id="forgotten"),
        pytest.param("3< open-to-all", "refused: fd://3: the descriptor is a file that others can read", id="file"),
        pytest.param("3< /dev/null", "refused: fd://3: what is kept there is no token: it is empty", id="nothing"),
    ],
)
def test_descriptor_of_a_shell_is_read(tmp_path: Path, redirection: str, printed: str) -> None:
    (tmp_path / "prints.py").write_text(PRINTS)
    (tmp_path / "open-to-all").write_text(TOKEN)
    (tmp_path / "open-to-all").chmod(0o644)
    done = subprocess.run(
        [str(BASH), "-c", f"'{sys.executable}' prints.py fd://3 {redirection}"],
        cwd=tmp_path, capture_output=True, text=True, timeout=30, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.stdout.startswith(printed), done.stderr
