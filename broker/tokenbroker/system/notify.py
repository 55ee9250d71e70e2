"""Tell systemd how the service is (sd_notify(3)); without systemd, tell nobody.

Telling is a courtesy: a failure to do so changes nothing and is not reported.
"""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping


class Notifier:
    """Speaks to the notification socket of this service."""

    def __init__(self, address: str | None, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Speak to `address`, a path or, after an `@`, an abstract name; `None`: to nobody.

        `monotonic` must be CLOCK_MONOTONIC, by which systemd tells a reload from an older one.
        """
        self._address = address.replace("@", "\0", 1) if address and address.startswith("@") else address
        self._monotonic = monotonic

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str]) -> Notifier:
        """Take the address out of `environ`, so that no child speaks in our name."""
        return cls(environ.pop("NOTIFY_SOCKET", None))

    def send(self, *assignments: str) -> None:
        """Send `NAME=value` lines as one message. Does not block and does not raise."""
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0)
            sock.sendto("\n".join(assignments).encode(), self._address)

    def ready(self, status: str) -> None:
        """Say that start or reload is over."""
        self.send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Say that a reload has begun; `ready` ends it."""
        self.send("RELOADING=1", f"MONOTONIC_USEC={int(self._monotonic() * 1e6)}")

    def stopping(self) -> None:
        """Say that the end has begun."""
        self.send("STOPPING=1")

    def status(self, status: str) -> None:
        """Put one line into `systemctl --user status`. Never a name of a secret, never a token."""
        self.send(f"STATUS={status}")

    def watchdog(self) -> None:
        """Say that the service still turns; due every `watchdog_interval`."""
        self.send("WATCHDOG=1")


def watchdog_interval(environ: MutableMapping[str, str], *, pid: int) -> float | None:
    """Return the seconds between two `watchdog` messages, `None` when nobody waits for them; clears the variables.

    It is half of what systemd waits (sd_watchdog_enabled(3)).
    """
    usec = environ.pop("WATCHDOG_USEC", "")
    meant_for = environ.pop("WATCHDOG_PID", str(pid))
    if meant_for != str(pid) or not usec.isascii() or not usec.isdigit() or int(usec) == 0:
        return None
    return int(usec) / 2e6
