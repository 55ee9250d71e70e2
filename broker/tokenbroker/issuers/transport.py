"""HTTP to an issuer, within bounds: the only module of the issuers that imports aiohttp, so import it late.

What aiohttp does by itself and this forbids: following a redirect with the form body (307 and 308 would send the
secret on), unpacking (900 KB of gzip become 200 MB), waiting 300 s, keeping cookies, reading credentials from ~/.netrc
(which comes with its `trust_env`; proxies are therefore looked up here).
"""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

import aiohttp
from yarl import URL

from tokenbroker import __version__
from tokenbroker.errors import IssuerMisconfigured, IssuerNeedsPerson, IssuerUnavailable
from tokenbroker.issuers.addresses import proxy_for, secure
from tokenbroker.issuers.exchange import Attempt, Reply, scrub

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenbroker.config import IssuerConfig
    from tokenbroker.errors import IssuerError

MAX_BODY: Final = 64 * 1024  # bytes; a token answer is a few kilobytes
CONNECT_TIMEOUT: Final = 3.0  # seconds for TCP alone, of the total

_HEADERS: Final = {
    "Accept": "application/json",  # oidc-provider answers text/html with an error page
    "Accept-Encoding": "identity",
    "User-Agent": f"tokenbroker/{__version__}",
}


class Transport:
    """One issuer's connections. A connection serves one exchange: they are minutes apart, and the machine may sleep."""

    def __init__(self, config: IssuerConfig, *, env: Mapping[str, str]) -> None:
        """Open nothing yet; `env` is looked at for `HTTPS_PROXY` and `NO_PROXY`."""
        self._config = config
        self._env = env
        self._session: aiohttp.ClientSession | None = None
        self._opening = asyncio.Lock()
        self._closed = False

    async def exchange(
        self, method: str, url: str, attempt: Attempt, *, body: bytes | None = None, headers: Mapping[str, str]
    ) -> Reply:
        """Send one request and return whatever HTTP answer comes; bounded in time and size.

        Raises `IssuerUnavailable` for network trouble, `IssuerNeedsPerson` for a certificate that is not trusted,
        `IssuerMisconfigured` for what only the configuration can mend. Cancelling it closes the connection.
        """
        if secure(url) is None:
            raise IssuerMisconfigured(f"{attempt.subject}: nothing is sent to an address that is not plain https")
        via = proxy_for(url, self._config.proxy, self._env)
        session = await self._open(attempt)
        try:
            proxy, proxy_headers = _proxy(via)
            async with session.request(
                method,
                URL(url, encoded=True),  # verbatim: some endpoints exist only with their final slash
                data=body,
                headers={**_HEADERS, **headers},
                allow_redirects=False,
                proxy=proxy,
                proxy_headers=proxy_headers,
            ) as response:
                return await _read(response)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            problem = self._problem(error, attempt, via)
        # Not raised inside the handler: aiohttp's errors hold the request, Authorization included.
        raise problem

    async def close(self) -> None:
        """Close connections and open no more. May be called twice."""
        self._closed = True
        async with self._opening:
            if self._session is not None:
                await self._session.close()
                self._session = None

    async def _open(self, attempt: Attempt) -> aiohttp.ClientSession:
        async with self._opening:
            if self._closed:
                raise IssuerUnavailable(f"{attempt.subject}: its connections are closed")
            if self._session is None:
                self._session = aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(ssl=await self._trust(), force_close=True),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    timeout=aiohttp.ClientTimeout(
                        total=self._config.timeout, sock_connect=min(CONNECT_TIMEOUT, self._config.timeout)
                    ),
                    auto_decompress=False,
                    trust_env=False,
                )
            return self._session

    async def _trust(self) -> ssl.SSLContext | bool:
        """Return whom to trust: the system's authorities, or those of `ca_file` alone."""
        path = self._config.ca_file
        if path is None:
            return True
        try:
            # Reading and parsing certificates takes tens of milliseconds.
            return await asyncio.to_thread(ssl.create_default_context, cafile=path)
        except OSError as error:  # ssl.SSLError is one
            why = os.strerror(error.errno) if not isinstance(error, ssl.SSLError) and error.errno else "no certificates"
            raise IssuerMisconfigured(
                f"issuer `{self._config.name}`: ca_file {path} cannot be used: {why.lower()}",
                hint=f"correct ca_file in [issuers.{self._config.name}]: a PEM file of certificates",
            ) from None

    def _problem(self, error: Exception, attempt: Attempt, via: str | None) -> IssuerError:
        """Say what a failed exchange means, without the exception's own text, which may quote the request or answer."""
        where = attempt.subject + (f" by the proxy {_shown(via)}" if via else "")
        match error:
            case aiohttp.ClientConnectorCertificateError() | ssl.SSLCertVerificationError():
                return self._untrusted(error, attempt)
            case aiohttp.ConnectionTimeoutError():
                return IssuerUnavailable(f"{where} cannot be reached: no connection within {CONNECT_TIMEOUT:g} s")
            case TimeoutError():
                return IssuerUnavailable(f"{where} did not answer within {self._config.timeout:g} s")
            case aiohttp.ClientHttpProxyError() if error.status < 500:  # noqa: PLR2004  # refused, not broken
                return IssuerMisconfigured(
                    f"the proxy {_shown(via)} refuses to connect to {attempt.subject}: {error.status}",
                    hint=f"check proxy in [issuers.{attempt.issuer}], or HTTPS_PROXY and NO_PROXY of the broker",
                )
            case aiohttp.ClientError() | OSError() if not isinstance(error, ValueError):
                return IssuerUnavailable(f"{where} cannot be reached: {_reason(error)}")
        return IssuerMisconfigured(
            f"{where}: the address cannot be used",
            hint=f"check url, token_endpoint and proxy in [issuers.{attempt.issuer}]",
        )

    def _untrusted(self, error: Exception, attempt: Attempt) -> IssuerError:
        cause = getattr(error, "certificate_error", error)
        why = cause.verify_message if isinstance(cause, ssl.SSLCertVerificationError) else "it does not fit"
        ours = self._config.ca_file
        return IssuerNeedsPerson(
            f"{attempt.subject} shows a certificate that is not trusted: {scrub(why, ()).rstrip('.')}",
            hint=f"check that {ours} holds the authority that signed it"
            if ours
            else f"if it is a private authority, set ca_file in [issuers.{attempt.issuer}]",
        )


async def _read(response: aiohttp.ClientResponse) -> Reply:
    """Read the answer as it came, up to the cap."""
    headers = {name.lower(): value for name, value in reversed(list(response.headers.items()))}
    body = bytearray()
    while chunk := await response.content.read(MAX_BODY + 1 - len(body)):
        body += chunk
        if len(body) > MAX_BODY:
            response.close()  # the rest is not read
            return Reply(response.status, headers, b"", oversize=True)
    return Reply(response.status, headers, bytes(body))


def _proxy(via: str | None) -> tuple[URL | None, Mapping[str, str] | None]:
    """Split a proxy address into the address and the header that authenticates there, in UTF-8.

    Raises `ValueError` for a proxy that does not speak HTTP.
    """
    if via is None:
        return None, None
    address = URL(via)
    if address.scheme not in {"http", "https"} or not address.host:
        raise ValueError("not an HTTP proxy")
    if address.user is None:
        return address, None
    pair = f"{unquote(address.raw_user or '')}:{unquote(address.raw_password or '')}"
    header = f"Basic {base64.b64encode(pair.encode()).decode()}"
    return address.with_user(None), {"Proxy-Authorization": header}


def _shown(via: str | None) -> str:
    """Return a proxy's host and port, without its password."""
    return (via or "").rpartition("@")[2].rpartition("//")[2].rstrip("/")


def _reason(error: Exception) -> str:
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "its name cannot be resolved"
        case aiohttp.ClientSSLError():
            return "the TLS handshake failed"
        case aiohttp.ClientPayloadError():
            return "its answer was cut short"
        case aiohttp.ClientResponseError():
            return "its answer is not HTTP"
        case OSError() if error.errno:
            return os.strerror(error.errno).lower()
    return "the connection was closed"
