"""Private message buses (the real dbus-daemon), and services on them: each with a connection and thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jeepney import (
    DBusAddress,
    HeaderFields,
    Message,
    MessageType,
    new_error,
    new_method_call,
    new_method_return,
    new_signal,
)
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import DBusConnection, Proxy, open_dbus_connection
from jeepney.wrappers import unwrap_msg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Handler = Callable[[Message], tuple[str, tuple[Any, ...]]]

NEEDED = shutil.which("dbus-daemon") is None and not os.environ.get("CI")  # in CI it must be there
REASON = "needs dbus-daemon (Debian: apt-get install dbus-daemon)"

CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={path}</listen>
  <servicedir>{services}</servicedir>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
  </policy>
</busconfig>
"""
ACTIVATION = "[D-BUS Service]\nName={name}\nExec={command}\n"


class PrivateBus:
    """One bus below a short private folder; can be restarted at the same address."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="bus-"))
        path, self._services = self._folder / "bus", self._folder / "services"
        self._services.mkdir()
        self._config = self._folder / "bus.conf"
        self._config.write_text(CONFIG.format(path=path, services=self._services))
        self.address = f"unix:path={path}"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, and return when it listens."""
        command = ["dbus-daemon", "--nofork", "--nopidfile", "--config-file", str(self._config), "--print-address"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self._process.stdout is not None
        assert self._process.stdout.readline(), "dbus-daemon did not start"

    def stop(self) -> None:
        """End it at once."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def make_startable(self, name: str, command: str) -> None:
        """Have the bus start `command` for `name` when it is called."""
        (self._services / f"{name}.service").write_text(ACTIVATION.format(name=name, command=command))
        with self.stranger() as stranger:
            stranger.bus_proxy.ReloadConfig()

    @contextlib.contextmanager
    def stranger(self) -> Iterator[DBusConnection]:
        """Give a connection of some other program."""
        with open_dbus_connection(self.address) as connection:
            yield connection

    def close(self) -> None:
        """End it and remove its folder."""
        self.stop()
        shutil.rmtree(self._folder)

    def signal(self, path: str, interface: str, member: str, signature: str = "", body: tuple[Any, ...] = (), *,
               to: str | None = None) -> None:  # fmt: skip
        """Send a signal that is nobody's, and return when the bus has seen it."""
        with self.stranger() as stranger:
            stranger.send(make_signal(path, interface, member, signature, body, to=to))
            Proxy(message_bus, stranger).GetId()

    def names(self) -> list[str]:
        """Return all names on the bus but that of who asks."""
        with self.stranger() as stranger:
            return [name for name in stranger.bus_proxy.ListNames()[0] if name != stranger.unique_name]


def make_signal(
    path: str, interface: str, member: str, signature: str, body: tuple[Any, ...], *, to: str | None = None
) -> Message:
    message = new_signal(DBusAddress(path, interface=interface), member, signature or None, body)
    if to:
        message.header.fields[HeaderFields.destination] = to
    return message


class Refuse(Exception):
    """A D-Bus error to answer with."""


class Service:
    """A program that owns a name. A handler answers on the service's thread; it may wait there."""

    def __init__(self, address: str, name: str) -> None:
        self.name = name
        self._connection = open_dbus_connection(address, enable_fds=True)
        self._sending = threading.Lock()
        self._seen = threading.Event()
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.answers: list[tuple[str, tuple[Any, ...]]] = []
        """The calls that were answered."""
        self._called = threading.Condition()
        self.mute = threading.Event()
        """While set, calls are taken and never answered."""
        self.ready = threading.Event()
        """Calls are answered when it is set, in order."""
        self.ready.set()
        assert self._connection.bus_proxy.RequestName(name) == (1,)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def handle(self, interface: str, member: str, message: Message) -> tuple[str, tuple[Any, ...]]:
        """Return signature and body of the answer, or raise `Refuse`."""
        raise Refuse("org.freedesktop.DBus.Error.UnknownMethod")

    def sent(self) -> None:
        """Take note that an answer has left."""

    async def called(self, member: str, times: int = 1, *, answered: bool = False) -> list[tuple[Any, ...]]:
        """Wait until `member` was called so often, or `answered`, and return what with."""

        def made() -> list[tuple[Any, ...]]:
            return [body for name, body in (self.answers if answered else self.calls) if name == member]

        def wait() -> bool:
            with self._called:
                return self._called.wait_for(lambda: len(made()) >= times, 10)

        assert await asyncio.to_thread(wait), f"{member} was called {len(made())} times"
        return made()

    def emit(self, path: str, interface: str, member: str, signature: str = "", body: tuple[Any, ...] = ()) -> None:
        """Send a signal to all that listen; return when the bus has seen it, if this service is not held up."""
        self._seen.clear()
        with self._sending:
            self._connection.send(make_signal(path, interface, member, signature, body))
            self._connection.send(message_bus.GetId())
        if self.ready.is_set():
            assert self._seen.wait(10)

    def close(self) -> None:
        """Leave the bus."""
        self.ready.set()
        with contextlib.suppress(OSError):
            self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._connection.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                message = self._connection.receive()
                if message.header.message_type is MessageType.method_call:
                    self._answer(message)
                elif message.header.message_type is MessageType.method_return:
                    self._seen.set()

    def _answer(self, message: Message) -> None:
        fields = message.header.fields
        interface, member = fields.get(HeaderFields.interface, ""), fields[HeaderFields.member]
        with self._called:
            self.calls.append((member, message.body))
            self._called.notify_all()
        self.ready.wait(20)
        if self.mute.is_set():
            return
        try:
            signature, body = self.handle(interface, member, message)
        except Refuse as refusal:
            reply = new_error(message, str(refusal))
        else:
            reply = new_method_return(message, signature or None, body)
        with self._sending:
            self._connection.send(reply)
        self.sent()
        with self._called:
            self.answers.append((member, message.body))
            self._called.notify_all()


def call(bus: str, target: DBusAddress, member: str, signature: str, body: tuple[Any, ...]) -> tuple[Any, ...]:
    """Call a method from a program of its own. Raises DBusErrorResponse."""
    with open_dbus_connection(bus) as connection:
        message = new_method_call(target, member, signature, body)
        result: tuple[Any, ...] = unwrap_msg(connection.send_and_get_reply(message, timeout=10))
        return result
