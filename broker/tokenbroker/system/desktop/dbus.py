"""One connection to a D-Bus message bus: calls with a deadline, signals with their sender.

jeepney knows the wire format; its own connections are not used. The asyncio one has no deadlines, passes no
descriptors, and its receiver dies of a reply to a call that was given up (jeepney 0.9, io/common.py: `set_result` on a
cancelled future). Rules of this file:
1. jeepney is imported in a thread at the first connection: it takes tens of milliseconds.
2. Signals are handed on where they are read, synchronously and in the order of the bus.
3. What a peer sends has the signature that was expected, or it is refused: no other file looks at a type.
4. Descriptors are taken only on a connection opened for one, and never inherited: a child that kept the inhibitor of
   sleep would hold up every sleep.
5. A reply is a method return or an error, and comes from whom the call went to, or from the bus itself. So a call goes
   to a unique name: that of the present owner, asked of the bus each time. Serials alone are easily guessed.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import itertools
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

BUS: Final = "org.freedesktop.DBus"
BUS_PATH: Final = "/org/freedesktop/DBus"
NO_OWNER: Final = "org.freedesktop.DBus.Error.NameHasNoOwner"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"
SYSTEM_BUS: Final = "unix:path=/run/dbus/system_bus_socket"
TIMEOUT: Final = 5.0  # seconds for one call; what answers does so in milliseconds
_CHUNK: Final = 65536
_CLOEXEC: Final = getattr(socket, "MSG_CMSG_CLOEXEC", 0)  # Linux and newer macOS


class BusError(Exception):
    """A bus or a service did not do what it was asked; the text says so in a few words.

    `name` is the D-Bus error of a service that refused, empty when there was no answer.
    """

    def __init__(self, text: str, *, name: str = "") -> None:
        """Say `text`."""
        super().__init__(text)
        self.name = name


class BusLost(BusError):
    """The connection is no more, or never was."""


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal as the bus delivered it. `sender` is a unique name, set by the bus."""

    sender: str
    path: str
    interface: str
    member: str
    signature: str
    body: tuple[Any, ...]


def system_bus(environ: Mapping[str, str]) -> str:
    """Return the address of the system bus."""
    return environ.get("DBUS_SYSTEM_BUS_ADDRESS") or SYSTEM_BUS


def session_bus(environ: Mapping[str, str]) -> str | None:
    """Return the address of the user's bus; `None` when nothing says where it would be."""
    runtime = environ.get("XDG_RUNTIME_DIR")
    return environ.get("DBUS_SESSION_BUS_ADDRESS") or (f"unix:path={runtime}/bus" if runtime else None)


def _ignore(_signal: Signal) -> None:
    """Take no notice."""


def _nothing() -> None:
    """Do nothing."""


class Bus:
    """An open connection; made by `connect`."""

    def __init__(
        self, sock: socket.socket, *, fds: bool, on_signal: Callable[[Signal], None], on_lost: Callable[[], None]
    ) -> None:
        """Read from `sock`, which is authenticated and does not block, from now on."""
        from jeepney import Parser  # noqa: PLC0415  # rule 1

        self._sock = sock
        self._fds = fds
        self._on_signal = on_signal
        self._on_lost = on_lost
        self._parser = Parser()
        self._serials = itertools.count(1)
        self._waiting: dict[int, tuple[str, asyncio.Future[Any]]] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._readable)

    async def call(
        self, service: str, path: str, interface: str, member: str, *arguments: object,
        takes: str = "", gives: str = "", patience: float = TIMEOUT, start: bool = True,
    ) -> tuple[Any, ...]:  # fmt: skip
        """Call a method and return its results, which have the signature `gives`.

        `takes` is the signature of `arguments`, `patience` the longest wait in seconds; `start`: whether the bus may
        start a service that is not there.
        Raises `BusError`, and `BusLost` when the connection is no more.
        """
        from jeepney import DBusAddress, new_method_call  # noqa: PLC0415  # rule 1

        try:
            async with asyncio.timeout(patience):
                to = await self._owner(service, patience, start=start)
                message = new_method_call(DBusAddress(path, to, interface), member, takes or None, arguments)
                reply = await self._reply(to, message)
        except TimeoutError:
            raise BusError(f"{service} does not answer") from None
        return _results(service, member, reply, gives)

    async def get(self, service: str, path: str, interface: str, name: str, signature: str) -> Any:
        """Return a property, which has `signature`. Raises as `call` does."""
        (held,) = await self.call(
            service, path, PROPERTIES, "Get", interface, name, takes="ss", gives="v", start=False
        )  # fmt: skip
        if held[0] != signature:
            raise BusError(f"{service} gives {name} a strange type")
        return held[1]

    async def listen(self, **rule: str) -> None:
        """Have the bus deliver signals that match `rule` (keys of a D-Bus match rule). Raises as `call` does."""
        text = ",".join(f"{key}='{value}'" for key, value in {"type": "signal", **rule}.items())
        await self.call(BUS, BUS_PATH, BUS, "AddMatch", text, takes="s")

    def close(self) -> None:
        """Close it; calls that still wait raise `BusLost`. May be called twice."""
        if self._sock.fileno() < 0:
            return
        self._loop.remove_reader(self._sock)
        self._sock.close()
        for _, future in self._waiting.values():
            if not future.done():
                future.set_exception(BusLost("the bus hung up"))

    async def _owner(self, service: str, patience: float, *, start: bool) -> str:
        """Return the unique name of who has the name `service` (rule 5). Raises as `call` does."""
        if service == BUS or service.startswith(":"):
            return service

        try:
            return await self._named("GetNameOwner", service, patience)
        except BusError as error:
            if not start or error.name != NO_OWNER:
                raise
        await self._named("StartServiceByName", service, patience)
        return await self._named("GetNameOwner", service, patience)

    async def _named(self, member: str, service: str, patience: float) -> str:
        """Ask the bus about the name `service`. Raises as `call` does, and names the service."""
        arguments, takes, gives = ((service,), "s", "s") if member == "GetNameOwner" else ((service, 0), "su", "u")
        try:
            (result,) = await self.call(
                BUS, BUS_PATH, BUS, member, *arguments, takes=takes, gives=gives, patience=patience
            )  # fmt: skip
        except BusLost:
            raise
        except BusError as error:
            raise BusError(f"{service} is not on the bus", name=error.name) from None
        return str(result)

    async def _reply(self, to: str, message: Any) -> Any:
        """Send `message` to the unique name `to`, and return the message that answers."""
        serial = next(self._serials)
        data = message.serialise(serial)
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting[serial] = (to, future)
        try:
            self._send(data)
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                discard(future.result().body)  # it came in the same moment
            raise
        finally:
            del self._waiting[serial]

    def _send(self, data: bytes) -> None:
        """Send one message. They are short: a bus that does not take one whole has stopped reading."""
        try:
            if self._sock.send(data) == len(data):
                return
        except OSError:
            pass
        self._lose()
        raise BusLost("the bus hung up")

    def _readable(self) -> None:
        # With descriptors no more than one message is read, so that they are matched to the right one.
        size, space = (self._parser.bytes_desired(), socket.CMSG_SPACE(4 * 16)) if self._fds else (_CHUNK, 0)
        try:
            data, ancillary, _flags, _address = self._sock.recvmsg(size, space, _CLOEXEC)
            self._parse(data, ancillary)
        except BlockingIOError:
            return
        except Exception:  # noqa: BLE001  # what cannot be read or parsed is no bus; jeepney raises many kinds
            data = b""
        if not data:
            self._lose()
            return
        self._deliver()

    def _parse(self, data: bytes, ancillary: list[tuple[int, int, bytes]]) -> None:
        from jeepney import FileDescriptor  # noqa: PLC0415  # rule 1

        self._parser.add_data(data, fds=FileDescriptor.from_ancdata(ancillary))

    def _next(self) -> Any:
        try:
            return self._parser.get_next_message()
        except Exception:  # noqa: BLE001  # as in _readable
            self._lose()
            return None

    def _deliver(self) -> None:
        from jeepney import MessageType  # noqa: PLC0415  # rule 1

        while self._sock.fileno() >= 0 and (message := self._next()) is not None:
            waiting = self._answered(message)
            if waiting is not None:
                waiting.set_result(message)
            elif message.header.message_type is MessageType.signal:
                self._on_signal(_signal(message))
            else:
                discard(message.body)

    def _answered(self, message: Any) -> asyncio.Future[Any] | None:
        """Return what waits for `message`, if that is a reply (rule 5)."""
        from jeepney import HeaderFields, MessageType  # noqa: PLC0415  # rule 1

        fields = message.header.fields
        if message.header.message_type not in {MessageType.method_return, MessageType.error}:
            return None
        to, future = self._waiting.get(fields.get(HeaderFields.reply_serial, 0), ("", None))
        if future is None or future.done() or fields.get(HeaderFields.sender) not in {to, BUS}:
            return None
        return future

    def _lose(self) -> None:
        if self._sock.fileno() >= 0:
            self.close()
            self._on_lost()


async def connect(
    address: str,
    *,
    fds: bool = False,
    on_signal: Callable[[Signal], None] = _ignore,
    on_lost: Callable[[], None] = _nothing,
) -> Bus:
    """Connect to the bus at `address` (a D-Bus server address) and say hello.

    `fds`: take descriptors in replies. `on_lost` is called once if the bus hangs up. Raises `BusLost`, also when
    jeepney is not installed.
    """
    try:
        await asyncio.to_thread(importlib.import_module, "jeepney")
    except ImportError:
        raise BusLost("the package jeepney is not installed") from None
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)  # noqa: FBT003  # the standard library's signature
    try:
        async with asyncio.timeout(TIMEOUT):
            await asyncio.get_running_loop().sock_connect(sock, _path(address))
            await _authenticate(sock, fds=fds)
        bus = Bus(sock, fds=fds, on_signal=on_signal, on_lost=on_lost)
    except (OSError, ValueError) as error:  # ValueError: jeepney's AuthenticationError
        sock.close()
        raise BusLost(_why(address, error)) from None
    except BaseException:
        sock.close()
        raise
    try:
        await bus.call(BUS, BUS_PATH, BUS, "Hello", gives="s")
    except BaseException as error:
        bus.close()
        if isinstance(error, BusError):
            raise BusLost(str(error)) from None
        raise
    return bus


def _signal(message: Any) -> Signal:
    from jeepney import HeaderFields  # noqa: PLC0415  # rule 1

    fields = message.header.fields
    return Signal(
        sender=fields.get(HeaderFields.sender, ""),
        path=fields[HeaderFields.path],
        interface=fields[HeaderFields.interface],
        member=fields[HeaderFields.member],
        signature=fields.get(HeaderFields.signature, ""),
        body=message.body,
    )


def _why(address: str, error: Exception) -> str:
    """Say what is wrong, without what the other side sent."""
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return f"there is no bus at {address}"
    return f"the bus at {address} cannot be reached"


def _path(address: str) -> str:
    """Return the socket of the first usable part of `address`. Raises ValueError if there is none."""
    from jeepney.bus import get_connectable_addresses  # noqa: PLC0415  # rule 1

    with contextlib.suppress(RuntimeError):
        for path in get_connectable_addresses(address):
            return str(path)
    raise ValueError("no usable address")


async def _authenticate(sock: socket.socket, *, fds: bool) -> None:
    """Run the EXTERNAL handshake; the kernel tells the bus who we are. Raises ValueError or OSError."""
    from jeepney.auth import BEGIN, Authenticator  # noqa: PLC0415  # rule 1

    loop = asyncio.get_running_loop()
    authenticator = Authenticator(enable_fds=fds)
    for line in authenticator:
        await loop.sock_sendall(sock, line)
        data = await loop.sock_recv(sock, 1024)
        if not data:
            raise ConnectionResetError
        authenticator.feed(data)
    await loop.sock_sendall(sock, BEGIN)


def _results(service: str, member: str, reply: Any, gives: str) -> tuple[Any, ...]:
    """Return what a reply brings. Raises `BusError` if that is an error, or something else than `gives`."""
    from jeepney import HeaderFields, MessageType  # noqa: PLC0415  # rule 1

    fields = reply.header.fields
    if reply.header.message_type is MessageType.error:
        name = fields.get(HeaderFields.error_name, "")
        raise BusError(f"{service} refuses {member}: {name.rpartition('.')[2]}", name=name)
    if fields.get(HeaderFields.signature, "") != gives:
        discard(reply.body)
        raise BusError(f"{service} answers {member} strangely")
    body: tuple[Any, ...] = reply.body
    return body


def discard(body: tuple[Any, ...]) -> None:
    """Close descriptors that came with a message that nobody waits for."""
    from jeepney import FileDescriptor  # noqa: PLC0415  # rule 1

    for item in body:
        if isinstance(item, FileDescriptor):
            item.close()
