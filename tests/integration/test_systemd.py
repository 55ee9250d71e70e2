"""The shipped units, unchanged, under a real user manager: what they promise happens."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.standins.op_world import OpWorld
from tests.standins.systemd_user import PATIENCE, ROOT, SystemdUser, Unavailable

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

pytestmark = pytest.mark.systemd

PROGRAMS = Path(sys.prefix) / "bin"  # what installers put there is what a person has
SERVICE = "tokenbroker.service"
SOCKETS = ("tokenbroker.socket", "tokenbroker-admin.socket")
# Shorter times than the shipped ones; shorter pauses also come nearer to systemd's limit on starts.
HASTE = """
[Service]
WatchdogSec=3s
RestartSec=100ms
StandardError=append:%h/broker.log
"""
CONFIG = """
version = 1
[vault]
backend = "op"
op = "{home}/bin/op"
[issuers.main]
preset = "oidc"
token_endpoint = "{issuer}"
[clients.mine]
issuer = "main"
agent_type = "interactive"
owner = "owner@example.com"
client_id = "op://Agents/m2m/username"
client_secret = "op://Agents/m2m/credential"
[profiles.search]
clients = ["mine"]
audience = "https://search.example.com"
scopes = ["search:read"]
[[rules]]
profile = "*"
decide = "allow"
treat_as = "interactive"
"""
MORE = """
[profiles.added]
clients = ["mine"]
audience = "https://added.example.com"
"""
# Stands before `op` and notes the group that a setgid program gets there, as 1Password's own `op` is one.
SETGID_OP = """\
#!/bin/sh
"{home}/bin/group" -g > "{home}/group"
exec "{home}/stand-in/op" "$@"
"""
OTHER_GROUP = 59_999
TOKEN = (PROGRAMS / "broker-token", "search")
PRINTED = (0, "opaque\n", "")


class Issuer(ThreadingHTTPServer):
    """Gives everybody the same token, once `open` is set."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.open = threading.Event()
        self.asked = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/token"


class _Answer(BaseHTTPRequestHandler):
    server: Issuer

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.set()
        self.server.open.wait(PATIENCE)
        body = b'{"access_token": "opaque", "token_type": "Bearer", "expires_in": 3600}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Installed(SystemdUser):
    """A user who has done what docs/operations.md says, with 1Password at hand."""

    issuer: Issuer

    @property
    def config(self) -> Path:
        return self.home / ".config/tokenbroker/config.toml"

    def install(self, issuer: Issuer) -> None:
        """Put everything where it belongs, as this user's own. Raises `Unavailable`."""
        code, _, said = self.run(PROGRAMS / "broker", "--version")
        if code != 0:
            raise Unavailable(f"another user cannot run {PROGRAMS / 'broker'}: {said.strip()}")
        self.issuer = issuer
        units = self.home / ".config/systemd/user"
        shutil.copytree(ROOT / "systemd", units)
        (units / f"{SERVICE}.d").mkdir()
        (units / f"{SERVICE}.d/haste.conf").write_text(HASTE)
        (self.home / ".local/bin").mkdir(parents=True)
        (self.home / ".local/bin/broker").symlink_to(PROGRAMS / "broker")
        self._install_op()
        self.config.parent.mkdir()
        self.configure(CONFIG)
        for folder, folders, files in os.walk(self.home):
            for name in (".", *folders, *files):
                os.chown(Path(folder, name), self.uid, self.uid, follow_symlinks=False)
        group = self.home / "bin/group"
        os.chown(group, self.uid, OTHER_GROUP)
        group.chmod(0o2755)
        self.systemctl("daemon-reload")

    def configure(self, text: str) -> None:
        """Write the configuration."""
        self.config.write_text(text.format(home=self.home, issuer=self.issuer.url))

    def _install_op(self) -> None:
        (self.home / "world").mkdir()
        world = OpWorld.create(self.home / "world")
        world.set(latency="none", time_scale=0.001)
        world.add_item("Agents", "m2m", {"username": "client-id", "credential": "s3cret"})
        world.install(self.home / "stand-in")
        (self.home / "bin").mkdir()
        shutil.copy("/usr/bin/id", self.home / "bin/group")
        (self.home / "bin/op").write_text(SETGID_OP.format(home=self.home))
        (self.home / "bin/op").chmod(0o755)

    def token(self) -> tuple[int, str, str]:
        """Ask for a token as any program would."""
        return self.run(*TOKEN)

    def active(self, *units: str) -> list[str]:
        """Return the state of each unit."""
        return [self.show(unit, "ActiveState") for unit in units]

    def pid(self) -> str:
        """Return the broker's pid."""
        return self.show(SERVICE, "MainPID")

    def log(self) -> str:
        """Return what the broker said."""
        broker = self.home / "broker.log"
        return super().log() + (broker.read_text() if broker.exists() else "")


@pytest.fixture(scope="module")
def installed() -> Iterator[Installed]:
    """The user, with everything installed and nothing started."""
    issuer = Issuer()
    thread = threading.Thread(target=issuer.serve_forever, daemon=True)
    thread.start()
    try:
        with Installed.start() as user:
            user.install(issuer)
            yield user
    except Unavailable as error:
        pytest.skip(str(error))
    finally:
        issuer.open.set()
        issuer.shutdown()
        issuer.server_close()
        thread.join()


@pytest.fixture
def user(installed: Installed) -> Iterator[Installed]:
    """The user at the start of a day: the sockets are there, the broker does not run."""
    installed.configure(CONFIG)
    installed.issuer.open.set()
    installed.issuer.asked.clear()
    installed.systemctl("enable", "--now", SOCKETS[0])
    yield installed
    installed.issuer.open.set()
    installed.systemctl("stop", *SOCKETS, SERVICE)


def test_the_first_call_starts_the_broker(user: Installed) -> None:
    """Enabling one socket unit is all that a person does; and nothing is started before it is needed."""
    assert user.active(*SOCKETS, SERVICE) == ["active", "active", "inactive"]
    assert user.token() == PRINTED
    assert user.active(*SOCKETS, SERVICE) == ["active"] * 3
    assert user.show(SERVICE, "StatusText") == "serving"


def test_only_its_user_reaches_the_sockets(user: Installed) -> None:
    """Private from their first moment, with folders that are."""
    folder = user.runtime / "tokenbroker"
    places = (folder, folder / "broker.sock", folder / "admin", folder / "admin/admin.sock")
    assert [oct(place.stat().st_mode & 0o777) for place in places] == ["0o700", "0o600", "0o700", "0o600"]
    assert {place.stat().st_uid for place in places} == {user.uid}


def test_the_admin_socket_alone_starts_all(user: Installed) -> None:
    """Whoever starts it first, in whatever order, gets one broker on both sockets."""
    user.systemctl("stop", *SOCKETS)
    user.systemctl("start", SOCKETS[1])
    code, out, err = user.run(PROGRAMS / "broker", "status")
    assert (code, err) == (0, ""), user.log()
    assert f"pid {user.pid()}" in out
    assert user.token() == PRINTED


def test_a_setgid_program_keeps_its_group(user: Installed) -> None:
    """As `op` must, or 1Password's app refuses it: nothing in the unit sets no_new_privs."""
    if os.statvfs(user.home).f_flag & os.ST_NOSUID:
        pytest.skip("the folder for temporary files is mounted nosuid")
    assert user.token() == PRINTED
    assert (user.home / "group").read_text() == f"{OTHER_GROUP}\n"


def test_stop_leaves_the_sockets(user: Installed) -> None:
    """The next call starts a new broker; stopping the socket is what ends it for good."""
    assert user.token() == PRINTED
    user.systemctl("stop", SERVICE)
    assert user.active(*SOCKETS, SERVICE) == ["active", "active", "inactive"]
    assert user.token() == PRINTED
    user.systemctl("stop", SOCKETS[0])
    assert user.active(*SOCKETS, SERVICE) == ["inactive"] * 3
    code, out, err = user.token()
    assert (code, out) == (3, "")
    assert err.endswith("hint: start it with `systemctl --user start tokenbroker.socket`\n")


def test_a_restart_loses_no_request(user: Installed) -> None:
    """One that waits for the issuer is finished by the old broker; one that comes meanwhile is served by the new."""
    user.issuer.open.clear()
    early = user.popen(*TOKEN)
    assert user.issuer.asked.wait(PATIENCE), user.log()
    old = user.pid()
    user.systemctl("restart", "--no-block", SERVICE)
    user.wait_for(SERVICE, "SubState", "stop-sigterm")
    late = user.popen(*TOKEN)
    user.issuer.open.set()
    for request in (early, late):
        assert (*_finished(request), request.returncode) == ("opaque\n", "", 0), user.log()
    assert user.wait_for(SERVICE, "MainPID", unlike=old)


def test_reload_takes_a_good_configuration_and_refuses_a_bad_one(user: Installed) -> None:
    """The bad one costs nothing but a line in `systemctl status`; the broker is the same process throughout."""
    assert user.token() == PRINTED
    pid = user.pid()
    user.configure("nonsense")
    user.systemctl("reload", SERVICE)
    user.wait_for(SERVICE, "StatusText", "serving; the new configuration was refused")
    assert user.token() == PRINTED
    user.configure(CONFIG + MORE)
    user.systemctl("reload", SERVICE)
    user.wait_for(SERVICE, "StatusText", "serving")
    assert "added" in user.run(PROGRAMS / "broker-token", "--list")[1]
    assert user.pid() == pid


def test_a_hang_is_ended_without_a_core(user: Installed) -> None:
    """The watchdog kills a broker that stands still, and a new one serves."""
    assert user.token() == PRINTED
    pid = user.pid()
    limits = Path(f"/proc/{pid}/limits").read_text()
    os.kill(int(pid), signal.SIGSTOP)
    user.wait_for(SERVICE, "MainPID", unlike=pid)
    assert user.token() == PRINTED
    assert [line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core")] == [["0", "0"]]
    assert not list(user.home.glob("core*"))


def test_crash_after_crash_does_not_take_the_sockets_along(user: Installed) -> None:
    """More starts in a short time than systemd's usual limit of five."""
    assert user.token() == PRINTED
    for crash in range(1, 8):
        os.kill(int(user.pid()), signal.SIGKILL)
        user.wait_for(SERVICE, "NRestarts", str(crash))
        user.wait_for(SERVICE, "SubState", "running")
    assert user.active(*SOCKETS) == ["active", "active"]
    assert user.token() == PRINTED


def test_who_starts_a_broker_with_a_wrong_configuration_is_told(user: Installed) -> None:
    """At once, instead of after a time-out; once the file is mended and read again, the same broker serves."""
    user.configure("nonsense")
    code, out, err = user.token()
    assert (code, out) == (1, "")
    assert "config.toml line 1" in err
    assert "hint: " in err
    pid = user.pid()
    user.configure(CONFIG)
    assert user.run(PROGRAMS / "broker", "reload") == (0, "reloaded: 1 profile\n", "")
    assert user.token() == PRINTED
    assert user.pid() == pid


def _finished(process: subprocess.Popen[str]) -> tuple[str, str]:
    try:
        return process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
