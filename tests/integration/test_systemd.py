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
    from collections.abc import Iterator

pytestmark = [pytest.mark.systemd, pytest.mark.xdist_group("systemd")]

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
        """Put everything where it belongs, as this user's own."""
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
        return self.run(PROGRAMS / "broker-token", "search")

    def log(self) -> str:
        """Return what manager and broker said."""
        broker = self.home / "broker.log"
        return super().log() + (broker.read_text() if broker.exists() else "")
