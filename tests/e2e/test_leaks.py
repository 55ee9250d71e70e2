"""Secrets and tokens of a whole eventful run are looked for wherever they must not be."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import quote, quote_plus

import pytest

from tests.e2e.rig import API, OWNER, Background, Daemon, Rig, wait_until
from tests.e2e.standard import CRON_SECRET, SECRET, configuration, fill_vault
from tests.standins.fault_issuer import FaultIssuer, answer, error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenbroker.dev.issuer import DevIssuer

HIDDEN_TOKEN = "opaque-token-that-comes-beside-an-error"
TABLES = """\
[issuers.{name}]
token_endpoint = "{endpoint}"

[clients.{name}]
issuer = "{name}"
agent_type = "interactive"
owner = "{owner}"
client_id = "op://Agents/m2m/username"
client_secret = "op://Agents/m2m/credential"

[profiles.{name}]
clients = ["{name}"]
audience = "{audience}"
"""


class Watch:
    """Arguments and environments of the daemon and of everything that it starts, from /proc, while it runs."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.seen: dict[str, bytes] = {}
        """Command line, and all that was found of it."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.01):
            for pid in self._family():
                with contextlib.suppress(OSError):  # it ended, or is closed to readers, as the daemon is
                    words = Path(f"/proc/{pid}/cmdline").read_bytes()
                    self.seen[words.replace(b"\0", b" ").decode(errors="replace")] = words
                    self.seen[f"environment of {words!r}"] = Path(f"/proc/{pid}/environ").read_bytes()

    def _family(self) -> set[int]:
        parents = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        family = {self._pid}
        while more := {pid for pid, parent in parents.items() if parent in family} - family:
            family |= more
        return family


class Events:
    """What the event stream says, from its start."""

    def __init__(self, rig: Rig) -> None:
        self._end = socket.socket(socket.AF_UNIX)
        self._end.connect(str(rig.admin))
        self._end.sendall(b"GET /v1/events HTTP/1.1\r\nHost: broker\r\n\r\n")
        self._data = bytearray()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while chunk := self._end.recv(65536):
            self._data += chunk

    def all(self) -> bytes:
        """Wait for the stream's end, which is the daemon's."""
        self._thread.join(20)
        self._end.close()
        return bytes(self._data)


def forms(secret: str) -> Iterator[bytes]:
    """Yield a secret as it may appear: plain, in a URL, in a form, in JSON, in Basic."""
    for text in (secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1], repr(secret)[1:-1]):
        yield text.encode()
    for text in (secret, f"id-autonomous:{quote_plus(secret)}"):
        yield base64.b64encode(text.encode())[:-4]
    # Of a token, also its parts: the payload alone tells, the signature alone proves.
    yield from (part.encode() for part in secret.split(".") if len(part) > 20 and not part.startswith("eyJhbGci"))


def eventful_run(rig: Rig, daemon: Daemon) -> tuple[set[str], dict[str, bytes]]:
    """Do everything that a user can; return the tokens that were handed out, and what was shown."""
    tokens, shown = set(), {}
    for call in (("search",), ("write",), ("search", "--as", "autonomous"), ("write", "--scope", "search:write")):
        tokens.add(rig.token(*call).token)
    tokens.add(rig.token("search", "--rejected").token)
    for profile in ("echo", "chatty", "web", "nobody"):
        ran = rig.token(profile)
        assert ran.code != 0
        shown[f"broker-token {profile}"] = (ran.out + ran.err).encode()
    rig.ask("POST", "/token", b"grant_type=client_credentials&profile=search&scope=%E2%82%AC")
    for path in ("/v1/status", "/v1/sessions", "/metrics", "/healthz"):
        shown[f"admin {path}"] = rig.ask("GET", path, admin=True)[1].encode()
    for path in ("/v1/profiles", "/v1/me", "/healthz", "/token", "/rejected"):
        shown[f"public {path}"] = rig.ask("GET", path)[1].encode()
    for verb in ("status", "status --json", "sessions", "sessions --json", "revoke --profile write", "reload", "lock"):
        ran = rig.broker(*verb.split())
        assert ran.code == 0, ran.err
        shown[f"broker {verb}"] = (ran.out + ran.err).encode()
    good = rig.config.read_text()
    rig.configure(good.replace("op://Agents/m2m/credential", SECRET))
    daemon.hang_up()
    wait_until(lambda: rig.status()["config_error"] is not None)
    shown["status with a refused configuration"] = rig.broker("status").out.encode()
    rig.configure(good)
    tokens.add(rig.token("search").token)
    return tokens, shown


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_leaks_from_an_eventful_run(beside: Background, issuer: DevIssuer) -> None:
    """Not into arguments or environments, logs at their most talkative, answers, the event stream or any file."""
    faults = {
        "echo": FaultIssuer(error("invalid_request", 400, error_description=f"bad client_secret {SECRET}, sorry")),
        "chatty": FaultIssuer(answer({"access_token": HIDDEN_TOKEN, "error": "invalid_client"}, 401)),
        "web": FaultIssuer(answer(f"<html>{SECRET}</html>", content_type="text/html")),
    }
    with Rig() as rig:
        fill_vault(rig.op)
        rig.op.person("approve", delay=20)  # 0.2 s in which `op` can be looked at
        tables = [
            TABLES.format(name=name, endpoint=beside.enter(fault).url, owner=OWNER, audience=API)
            for name, fault in faults.items()
        ]
        rig.configure(configuration(issuer.url, *tables))
        with rig.serve("--log-level", "debug") as daemon, Watch(daemon.process.pid) as watch:
            events = Events(rig)
            tokens, shown = eventful_run(rig, daemon)
        shown |= watch.seen | {"log": daemon.log.encode(), "events": events.all()}
        for folder in (rig.home, rig.runtime, rig.state):
            files = [Path(place, name) for place, _, names in os.walk(folder) for name in names]
            shown |= {str(path): path.read_bytes() for path in files if path.is_file()}
        assert len(tokens) == 6
        assert any("op_terminal.py" in name for name in shown), "the helper was seen"
        assert any(f"{rig.bin}/op inject" in name for name in shown), "op was seen"
        assert b"token fetched" in shown["events"]
        found = {
            f"{secret[:12]}… in {where}"
            for secret in (SECRET, CRON_SECRET, HIDDEN_TOKEN, *tokens)
            for form in forms(secret)
            for where, text in shown.items()
            if form in text
        }
        assert found == set()
        assert rig.op.leaks() == []
