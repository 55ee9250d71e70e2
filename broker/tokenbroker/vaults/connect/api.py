"""HTTP to a 1Password Connect server, within bounds: it imports httpx and the SDK when loaded, so load it in a thread.

Of `onepasswordconnectsdk` the session and the paths are used; docs/decisions.md says why not the rest. What the session
does by itself and this forbids: trusting proxies and ~/.netrc of the environment, taking its timeout from a variable,
reading bodies of any length, unpacking, logging every address.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import ssl
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio
import httpx
from onepasswordconnectsdk.async_client import AsyncClient
from onepasswordconnectsdk.config import ClientConfig
from onepasswordconnectsdk.utils import PathBuilder

from tokenbroker import __version__
from tokenbroker.errors import PASSING, VaultError, VaultUnavailable
from tokenbroker.trust import trusting
from tokenbroker.vaults.connect.answers import (
    UNLOCK,
    Absent,
    Entry,
    Item,
    Malformed,
    TooBig,
    check_health,
    judge,
    misunderstood,
    parse_entries,
    parse_health,
    parse_item,
)
from tokenbroker.vaults.json_answer import MAX_ITEM

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenbroker.config import VaultConfig
    from tokenbroker.model import Secret

MAX_BODY: Final = 8 << 20  # bytes; 20,000 items of a listing are about that
MAX_FILE: Final = 1 << 20  # bytes; keys and certificates are kept as files, not archives
CONCURRENCY: Final = 4  # requests at once; the server is small and others use it too
T = TypeVar("T")
_HEADERS: Final = {"Accept-Encoding": "identity", "User-Agent": f"tokenbroker/{__version__}"}


class ConnectApi:
    """One server, one token, for the length of one reading. Errors are `VaultError`, or those of `connect_answers`."""

    def __init__(self, config: VaultConfig, token: Secret) -> None:
        """Make the session; takes tens of milliseconds, so call it in a thread. Raises `VaultUnavailable`."""
        self._url = (config.url or "").rstrip("/")
        self._where = f"the Connect server at {self._url}"
        self._timeout = config.timeout
        self._ca_file = config.ca_file
        self._slots = asyncio.Semaphore(CONCURRENCY)
        _load_the_rest()
        self._session: httpx.AsyncClient = AsyncClient(
            self._url,
            _header_value(token, config),
            ClientConfig(
                verify=self._trust(),
                timeout=None,  # `asyncio.timeout` bounds the whole exchange; httpx would bound each part of it
                trust_env=False,
                follow_redirects=False,
                limits=httpx.Limits(max_connections=CONCURRENCY),
            ),
        ).session

    async def close(self) -> None:
        """Close all connections."""
        await self._session.aclose()

    async def vaults(self) -> list[Entry]:
        """List the vaults that the token may see. Raises `VaultUnavailable` when there is none."""
        try:
            body = await self._get(PathBuilder().vaults().build())
        except Absent:
            raise misunderstood(self._where) from None
        except TooBig:
            raise self._too_long() from None
        found = await self._parsed(lambda: parse_entries(body, "name"))
        if not found:
            raise VaultUnavailable(
                f"{self._where} shows this access token no vault",
                hint=f"give the token a vault with `op connect vault grant`, then {UNLOCK}",
            )
        return found

    async def items(self, vault: str) -> list[Entry]:
        """List the items of the vault of this id, without archived ones. Raises `Absent`."""
        try:
            body = await self._get(PathBuilder().vaults(vault).items().build())
        except TooBig:
            raise self._too_long() from None
        return await self._parsed(lambda: parse_entries(body, "title"))

    async def item(self, vault: str, item: str) -> Item:
        """Read one item by ids. Raises `Absent`, `TooBig`."""
        body = await self._get(PathBuilder().vaults(vault).items(item).build(), most=MAX_ITEM)
        return await self._parsed(lambda: parse_item(body))

    async def file(self, vault: str, item: str, file: str) -> bytes:
        """Read the content of a file by ids. Raises `Absent`, `TooBig`."""
        path = PathBuilder().vaults(vault).items(item).files(file).content().build()
        return await self._get(path, most=MAX_FILE)

    async def heartbeat(self) -> None:
        """Ask whether the server is alive."""
        try:
            await self._get("/heartbeat")
        except (Absent, TooBig):
            raise misunderstood(self._where) from None

    async def health(self) -> str:
        """Return the server's version, and whether all of it is active."""
        try:
            body = await self._get("/health")
        except (Absent, TooBig):
            raise misunderstood(self._where) from None
        return await self._parsed(lambda: parse_health(body))

    def _too_long(self) -> VaultError:
        return VaultUnavailable(
            f"{self._where} answered with a listing longer than tokenbroker takes",
            hint="write ids instead of titles in the references, then run `broker reload`",
        )

    async def _parsed(self, parse: Callable[[], T]) -> T:
        """Run `parse`, which decodes piece by piece, in a thread, as a listing may be long."""
        try:
            return await asyncio.to_thread(parse)
        except Malformed:
            raise misunderstood(self._where) from None

    async def _get(self, path: str, *, most: int = MAX_BODY) -> bytes:
        """Return the body of a success, bounded in time and size. Cancelling closes the connection."""
        problem: Exception | None
        async with self._slots:
            try:
                async with (
                    asyncio.timeout(self._timeout),
                    self._session.stream("GET", path, headers=_HEADERS) as response,
                ):
                    problem = judge(response.status_code, response.headers.get("Retry-After"), self._where)
                    if problem is None:
                        return await _body(response, most)
            except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:  # TimeoutError is an OSError
                problem = self._problem(error)
        # Not raised inside the handler: httpx's errors hold the request, Authorization included.
        raise problem

    def _problem(self, error: Exception) -> VaultError:
        """Say what a failed exchange means, without the exception's own text, which may quote the answer."""
        untrusted = next((one for one in _chain(error) if isinstance(one, ssl.SSLCertVerificationError)), None)
        if untrusted is not None:
            return self._untrusted(untrusted)
        match error:
            case TimeoutError():
                what = f"{self._where} did not answer within {self._timeout:g} s"
            case httpx.UnsupportedProtocol() | httpx.InvalidURL():
                return VaultUnavailable(f"{self._where} cannot be reached", hint="correct `url` of the vault")
            case httpx.ConnectError():
                what = f"{self._where} cannot be reached"
            case httpx.TransportError():
                what = f"{self._where} closed the connection in the middle of an answer"
            case _:
                return misunderstood(self._where)
        return VaultUnavailable(what, hint=check_health(self._where), retry_after=PASSING)

    def _untrusted(self, error: ssl.SSLCertVerificationError) -> VaultError:
        # OpenSSL's own words for a numbered fault; the certificate's names are not in them but for a mismatch.
        why = "it is for another name" if "mismatch" in error.verify_message.lower() else error.verify_message
        why = re.sub(r"[^a-z ]", "", why.lower()).strip()
        return VaultUnavailable(
            f"{self._where} shows a certificate that is not trusted: {why}",
            hint=f"check that {self._ca_file} holds the authority that signed it"
            if self._ca_file
            else "if it is a private authority, set `ca_file` beside `url`",
        )

    def _trust(self) -> ssl.SSLContext:
        """Return whom to trust: the system's authorities, or those of `ca_file` alone. httpx would take certifi's."""
        if not self._url.startswith("https://"):
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # not used; it trusts nobody, and costs nothing to make
        try:
            return trusting(self._ca_file)
        except OSError as error:  # ssl.SSLError is one
            why = os.strerror(error.errno) if not isinstance(error, ssl.SSLError) and error.errno else "no certificates"
        raise VaultUnavailable(
            f"ca_file {self._ca_file} cannot be used: {why.lower()}",
            hint="correct `ca_file` of the vault: a PEM file of certificates",
        )


def _load_the_rest() -> None:
    """Import what httpx would import with its first request, on the event loop; and quieten it.

    httpx logs each address at INFO.
    """
    anyio.run(anyio.sleep, 0)
    for library in ("httpx", "httpcore"):
        logging.getLogger(library).setLevel(logging.WARNING)


def _header_value(token: Secret, config: VaultConfig) -> str:
    """Return the token; httpx would quote one that fits no header in its error. Raises `VaultUnavailable`."""
    text = token.reveal().strip()
    if not re.fullmatch(r"[!-~]+", text):
        raise VaultUnavailable(
            f"what is kept at {config.credential} is not an access token of 1Password Connect",
            hint=f"put the token alone at {config.credential}, then {UNLOCK}",
        )
    return text


async def _body(response: httpx.Response, most: int) -> bytes:
    """Read the body as it came, never unpacked, up to `most` bytes. Raises `TooBig`."""
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > most:
            raise TooBig(f"more than {most} bytes")
    return bytes(body)


def _chain(error: BaseException | None) -> list[Any]:
    """Return an exception with all that led to it."""
    found: list[Any] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
