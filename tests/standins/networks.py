"""Networks that people have: names, addresses, proxies and servers that fail, each beside what is to be said of it.

The names end in `.test`; `Names` answers for them in place of the resolver, in one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import gzip
import socket
import ssl
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from tests.standins.fault_issuer import FaultIssuer, answer, dribble, reset, silence
from tests.standins.private_ca import PrivateCa
from tokenbroker.errors import IssuerError, IssuerMisconfigured, IssuerUnavailable, IssuerUntrusted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.standins.fault_issuer import Behaviour

    Place = Callable[["Site"], AbstractAsyncContextManager["Reached"]]

HOUR = dt.timedelta(hours=1)


class Names:
    """What names resolve to; `None` never answers. Used as `with Names() as names:`, for the whole process."""

    def __init__(self) -> None:
        self.known: dict[str, Sequence[str] | None] = {"hanging.test": None}
        self._real = socket.getaddrinfo

    def __enter__(self) -> Self:
        socket.getaddrinfo = self._resolve  # a resolver that is told what to say
        return self

    def __exit__(self, *_: object) -> None:
        socket.getaddrinfo = self._real

    def _resolve(self, host: Any, port: Any, *wanted: Any, **more: Any) -> Any:
        if not isinstance(host, str) or not host.endswith(".test"):
            return self._real(host, port, *wanted, **more)
        addresses = self.known.get(host, ())
        if addresses is None:
            threading.Event().wait()
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [self._numeric(address, port) for address in addresses]

    def _numeric(self, address: str, port: int) -> Any:
        return self._real(address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[0]


@dataclass
class Site:
    """What the places of one test or benchmark share."""

    folder: Path
    names: Names

    def __post_init__(self) -> None:
        self.ca = PrivateCa(self.folder)


@dataclass
class Reached:
    """How to get there: keys of the configuration and the environment."""

    config: dict[str, Any]
    env: dict[str, str] = field(default_factory=dict)
    server: Any = None


@dataclass(frozen=True)
class Trouble:
    """A network, and what is to be said when it stands in the way."""

    place: Place
    kind: type[IssuerError]
    says: str
    limit: float = 0.5
    """Seconds by which it is to be told, with the timeouts that are the defaults."""


@contextlib.asynccontextmanager
async def listener(behave: Callable[..., Any], **more: Any) -> AsyncIterator[int]:
    """Listen on loopback; what is connected is given to `behave(reader, writer)`."""
    writers: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await behave(reader, writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, **more)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


@contextlib.contextmanager
def full(host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """Yield the port of a socket that takes no more connections, as an address from which no packet comes back."""
    with socket.socket() as taken, contextlib.ExitStack() as held:
        taken.bind((host, port))
        taken.listen(0)
        for _ in range(4):
            one = held.enter_context(socket.socket())
            one.setblocking(False)  # noqa: FBT003  # as socket has it
            one.connect_ex(taken.getsockname())
        yield taken.getsockname()[1]


async def hold(_: object, __: object) -> None:
    """Say nothing, and keep the connection."""


def plain(behaviour: Behaviour) -> Place:
    """Run a token endpoint that behaves so."""

    @contextlib.asynccontextmanager
    async def place(_: Site) -> AsyncIterator[Reached]:
        async with FaultIssuer(behaviour) as server:
            yield Reached({"token_endpoint": server.url}, server=server)

    return place


def named(name: str) -> Place:
    """Have a token endpoint of this name."""

    @contextlib.asynccontextmanager
    async def place(_: Site) -> AsyncIterator[Reached]:
        yield Reached({"token_endpoint": f"https://{name}/token"})

    return place


@contextlib.asynccontextmanager
async def refused(_: Site) -> AsyncIterator[Reached]:
    """Have nobody listen."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        yield Reached({"token_endpoint": f"http://127.0.0.1:{free.getsockname()[1]}/token"})


@contextlib.asynccontextmanager
async def black_hole(_: Site) -> AsyncIterator[Reached]:
    """Have no packet come back."""
    with full() as port:
        yield Reached({"token_endpoint": f"http://127.0.0.1:{port}/token"})


@contextlib.asynccontextmanager
async def slow_tls(_: Site) -> AsyncIterator[Reached]:
    """Have the handshake never end."""
    async with listener(hold) as port:
        yield Reached({"token_endpoint": f"https://127.0.0.1:{port}/token"})


def certified(name: str, *, trusted: bool = True, ends: dt.timedelta = HOUR, signed: bool = True) -> Place:
    """Run a TLS server for `issuer.test` whose certificate is this."""

    @contextlib.asynccontextmanager
    async def place(site: Site) -> AsyncIterator[Reached]:
        public, private = site.folder / f"{name}-{ends}-{signed}.pem", site.folder / f"{name}-{ends}-{signed}.key"
        for path, text in zip((public, private), site.ca.pair(name, ends=ends, signed=signed), strict=True):
            path.write_text(text)
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(public, private)
        site.names.known["issuer.test"] = ["127.0.0.1"]
        async with FaultIssuer(tls=tls) as server:
            port = server.origin.rpartition(":")[2]
            ours = {"ca_file": str(site.ca.file)} if trusted else {}
            yield Reached({"token_endpoint": f"https://issuer.test:{port}/token", **ours}, server=server)

    return place


def proxied(reply: bytes | None) -> Place:
    """Have a proxy that answers so, or never."""

    @contextlib.asynccontextmanager
    async def place(_: Site) -> AsyncIterator[Reached]:
        async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            if reply is not None:
                writer.write(reply)
                writer.close()

        async with listener(behave) as port:
            yield Reached({"token_endpoint": "https://away.test/token"}, {"HTTPS_PROXY": f"http://127.0.0.1:{port}"})

    return place


@contextlib.asynccontextmanager
async def no_proxy_there(_: Site) -> AsyncIterator[Reached]:
    """Have a proxy configured where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        yield Reached({"token_endpoint": "https://away.test/token"}, {"HTTPS_PROXY": address})


@contextlib.asynccontextmanager
async def thief(_: Site) -> AsyncIterator[Reached]:
    """Have the token endpoint redirect elsewhere."""
    async with FaultIssuer() as elsewhere, FaultIssuer(answer(b"", 307, {"Location": elsewhere.url})) as server:
        yield Reached({"token_endpoint": server.url}, server=elsewhere)


PAGE = answer("<html>sign in", content_type="text/html")
BOMB = answer(gzip.compress(b"a" * 10_000_000), headers={"Content-Encoding": "gzip"})

TROUBLES: dict[str, Trouble] = {
    "the name does not exist": Trouble(named("dead.test"), IssuerUnavailable, "name cannot be resolved", 2.5),
    "the resolver hangs": Trouble(named("hanging.test"), IssuerUnavailable, "no address for its name within", 6),
    "nobody listens": Trouble(refused, IssuerUnavailable, "connection refused", 2.5),
    "no packet comes back": Trouble(black_hole, IssuerUnavailable, "no connection within", 4),
    "the connection is reset": Trouble(plain(reset), IssuerUnavailable, "cannot be reached", 2.5),
    "the TLS handshake hangs": Trouble(slow_tls, IssuerUnavailable, "no connection within", 4),
    "silence": Trouble(plain(silence), IssuerUnavailable, "did not answer within", 9),
    "a byte at a time": Trouble(plain(dribble(b"HTTP/1.1 200 OK\r\nX: y")), IssuerUnavailable, "did not answer", 9),
    "a gzip bomb": Trouble(plain(BOMB), IssuerMisconfigured, "compressed"),
    "a web page": Trouble(plain(PAGE), IssuerMisconfigured, "web page instead of a token, as captive portals"),
    "a redirect to a thief": Trouble(thief, IssuerMisconfigured, r"redirect \(307\) to 127\.0\.0\.1"),
    "an unknown authority": Trouble(certified("issuer.test", trusted=False), IssuerUntrusted, "captive portal"),
    "an expired certificate": Trouble(certified("issuer.test", ends=-HOUR), IssuerUntrusted, "it has expired"),
    "a self-signed certificate": Trouble(certified("issuer.test", signed=False), IssuerUntrusted, "self-signed"),
    "another host's certificate": Trouble(certified("portal.test"), IssuerUntrusted, "it is for another host"),
    "a proxy that is down": Trouble(no_proxy_there, IssuerUnavailable, "by the proxy .* connection refused", 2.5),
    "a proxy that hangs": Trouble(proxied(None), IssuerUnavailable, "by the proxy .* no connection within", 6),
    "a proxy's password is wrong": Trouble(
        proxied(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"), IssuerMisconfigured, "407"
    ),
    "a proxy that is broken": Trouble(
        proxied(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"), IssuerUnavailable, "by the proxy", 2.5
    ),
}
