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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import unquote

import aiohttp
from yarl import URL

from tokenbroker import __version__
from tokenbroker.errors import CredentialRejected, IssuerMisconfigured, IssuerUnavailable, IssuerUntrusted
from tokenbroker.issuers.addresses import proxy_for, secure
from tokenbroker.issuers.certificate import context
from tokenbroker.issuers.exchange import Attempt, Reply
from tokenbroker.issuers.names import Names
from tokenbroker.scrub import scrub
from tokenbroker.trust import trusting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import SimpleNamespace

    from tokenbroker.config import IssuerConfig
    from tokenbroker.errors import IssuerError
    from tokenbroker.issuers.certificate import ClientCertificate

MAX_BODY: Final = 64 * 1024  # bytes; a token answer is a few kilobytes
CONNECT_TIMEOUT: Final = 3.0  # seconds for TCP and TLS; less if little is given for the whole request
REACH_TIMEOUT: Final = 5.0  # seconds for all that comes before the request: name, proxy, TCP and TLS

_PROXY_PASSWORD: Final = 407  # RFC 9110 §15.5.8
_HEADERS: Final = {
    "Accept": "application/json",  # oidc-provider answers text/html with an error page
    "Accept-Encoding": "identity",
    "User-Agent": f"tokenbroker/{__version__}",
}

# OpenSSL's names of the alerts (RFC 8446 §6.2) by which a server says that it will not have the client's certificate.
_ALERTS: Final = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants one, and was shown none that it could use",
    "TLSV1_ALERT_UNKNOWN_CA": "the issuer does not know the authority that signed it",
    "TLSV1_ALERT_ACCESS_DENIED": "access denied",
    "TLSV1_ALERT_DECRYPT_ERROR": "it does not belong to the key",
    "SSLV3_ALERT_BAD_CERTIFICATE": "bad certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it has expired",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "it was revoked",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the issuer does not accept it",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "it is of a kind that the issuer does not support",
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
        self,
        method: str,
        url: str,
        attempt: Attempt,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str],
        certificate: ClientCertificate | None = None,
    ) -> Reply:
        """Send one request and return whatever HTTP answer comes; bounded in time and size.

        Raises `IssuerUnavailable` for network trouble, `IssuerUntrusted` for a certificate that is not trusted,
        `CredentialRejected` for ours refused in the handshake, `IssuerMisconfigured` for what only the configuration
        can mend. Cancelling it closes the connection.
        """
        if secure(url) is None:
            raise IssuerMisconfigured(f"{attempt.subject}: nothing is sent to an address that is not plain https")
        via = proxy_for(url, self._config.proxy, self._env)
        session = await self._open(attempt)
        tls = True if certificate is None else await self._showing(certificate, url, via, attempt)
        if session.closed:  # meanwhile
            raise IssuerUnavailable(f"{attempt.subject}: its connections are closed")
        step = Step()
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
                ssl=tls,
                trace_request_ctx=step,
            ) as response:
                return await _read(response)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            problem = (certificate and _ours_refused(error, attempt)) or self._problem(error, attempt, via, step)
        # Not raised inside the handler: aiohttp's errors hold the request, Authorization included. Nor does the frame
        # keep it that it is raised through, and that holds the request too.
        try:
            raise problem
        finally:
            del problem

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
                    # Names are resolved each time: requests are far apart, and networks change in between.
                    connector=aiohttp.TCPConnector(
                        ssl=await self._trust(),
                        force_close=True,
                        use_dns_cache=False,
                        resolver=aiohttp.ThreadedResolver(cast("asyncio.AbstractEventLoop", Names())),
                    ),
                    trace_configs=[_followed()],
                    cookie_jar=aiohttp.DummyCookieJar(),
                    timeout=aiohttp.ClientTimeout(
                        total=self._config.timeout,
                        connect=self._patience(direct=False),
                        sock_connect=self._patience(direct=True),
                        ceil_threshold=self._config.timeout + 1,  # aiohttp makes longer ones whole seconds
                    ),
                    auto_decompress=False,
                    trust_env=False,
                )
            return self._session

    async def _trust(self) -> ssl.SSLContext | bool:
        """Return whom to trust: the system's authorities, or those of `ca_file` alone."""
        if self._config.ca_file is None:
            return True
        # Reading and parsing certificates takes tens of milliseconds.
        return await self._loaded(lambda: trusting(self._config.ca_file))

    async def _showing(
        self, certificate: ClientCertificate, url: str, via: str | None, attempt: Attempt
    ) -> ssl.SSLContext:
        """Return what a handshake with our certificate needs, for this one request: a lock forgets the key at once.

        Nothing is kept between handshakes either, so that each proves possession of the key.
        """
        if not url.startswith("https:"):
            raise IssuerMisconfigured(
                f"{attempt.subject}: a client certificate needs https, and its address is {url.partition(':')[0]}",
                hint=f"correct url or token_endpoint in [issuers.{attempt.issuer}]",
            )
        if via is not None and not via.startswith("http:"):
            # aiohttp has one context for both handshakes.
            raise IssuerMisconfigured(
                f"{attempt.subject}: the proxy {_shown(via)} would be shown the client's certificate",
                hint="reach that proxy by http://; what goes through it is encrypted all the same",
            )
        return await self._loaded(lambda: context(certificate, self._config))

    async def _loaded(self, load: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        path = self._config.ca_file
        try:
            return await asyncio.to_thread(load)
        except OSError as error:  # ssl.SSLError is one
            why = os.strerror(error.errno) if not isinstance(error, ssl.SSLError) and error.errno else "no certificates"
            raise IssuerMisconfigured(
                f"issuer `{self._config.name}`: ca_file {path} cannot be used: {why.lower()}",
                hint=f"correct ca_file in [issuers.{self._config.name}]: a PEM file of certificates",
            ) from None

    def _patience(self, *, direct: bool) -> float:
        """Return the seconds that a request may take to connect: TCP and TLS alone, or all steps together."""
        return (
            min(CONNECT_TIMEOUT, 0.5 * self._config.timeout)
            if direct
            else min(REACH_TIMEOUT, 0.75 * self._config.timeout)
        )

    def _problem(self, error: Exception, attempt: Attempt, via: str | None, step: Step) -> IssuerError:
        """Say what a failed exchange means, without the exception's own text, which may quote the request or answer."""
        where = attempt.subject + (f" by the proxy {_shown(via)}" if via else "")
        match error:
            case aiohttp.ClientConnectorCertificateError() | ssl.SSLCertVerificationError():
                return self._untrusted(error, attempt)
            case aiohttp.ConnectionTimeoutError():
                patience = self._patience(direct=via is None and step == Step())
                return IssuerUnavailable(f"{where} cannot be reached: {step.lacks} within {patience:g} s")
            case TimeoutError():
                return IssuerUnavailable(f"{where} did not answer within {self._config.timeout:g} s")
            case aiohttp.ClientHttpProxyError() if error.status < 500:  # noqa: PLR2004  # refused, not broken
                return IssuerMisconfigured(
                    f"the proxy {_shown(via)} refuses to connect to {attempt.subject}: {error.status}",
                    hint=_proxy_hint(error.status, attempt),
                )
            case aiohttp.ClientError() | OSError() if not isinstance(error, ValueError):
                return IssuerUnavailable(f"{where} cannot be reached: {_reason(error)}")
        return IssuerMisconfigured(
            f"{where}: the address cannot be used",
            hint=f"check url, token_endpoint and proxy in [issuers.{attempt.issuer}]",
        )

    def _untrusted(self, error: Exception, attempt: Attempt) -> IssuerError:
        cause = getattr(error, "certificate_error", error)  # aiohttp's is one too, without the reason
        why, hint = (
            _distrust(cause, attempt.issuer)
            if isinstance(cause, ssl.SSLCertVerificationError)
            else ("it does not fit", None)
        )
        ours = self._config.ca_file
        known = f"check that {ours} holds" if ours else f"set ca_file in [issuers.{attempt.issuer}] to"
        return IssuerUntrusted(
            f"{attempt.subject} shows a certificate that is not trusted: {why}; nothing was sent to it, and a captive "
            "portal or a company's proxy can do that",
            hint=hint
            or f"sign in to the network if it asks for that; if it is a private authority, {known} its certificate",
        )


def _distrust(error: ssl.SSLCertVerificationError, issuer: str) -> tuple[str, str | None]:
    """Return why a certificate is not trusted, and the next step where it is not about the authority."""
    said = scrub(error.verify_message or "it does not fit", ()).rstrip(".")
    match error.verify_code:
        case 9:  # X509_V_ERR_CERT_NOT_YET_VALID
            return "it is not valid yet", "set this machine's clock, then `broker unlock`"
        case 10:  # X509_V_ERR_CERT_HAS_EXPIRED
            return "it has expired", "check this machine's clock; if that is right, the issuer must renew it"
        case 18 | 19:  # X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT, X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN
            return said, None
        case 20 | 21:  # X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY, X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE
            return f"nobody known here has signed it ({said})", None
        case 62 | 64:  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
            return (
                f"it is for another host ({said})",
                f"sign in to the network if it asks for that, or correct url in [issuers.{issuer}]",
            )
    return said, None


@dataclass(slots=True)
class Step:
    """What a request waits for before it is sent."""

    lacks: str = "no connection"


def _followed() -> aiohttp.TraceConfig:
    """Keep each request's `Step` up to date: a time limit alone does not tell which step took too long."""

    async def resolving(_session: object, context: SimpleNamespace, _params: object) -> None:
        context.trace_request_ctx.lacks = "no address for its name"

    async def resolved(_session: object, context: SimpleNamespace, _params: object) -> None:
        context.trace_request_ctx.lacks = "no connection"

    config = aiohttp.TraceConfig()
    config.on_dns_resolvehost_start.append(resolving)
    config.on_dns_resolvehost_end.append(resolved)
    return config


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


def _ours_refused(error: Exception, attempt: Attempt) -> IssuerError | None:
    """Tell an issuer that refuses our certificate from other trouble.

    With TLS 1.3 its alert comes after the handshake is over for us (RFC 8446 §4.4.2.4), as the answer to our request.
    """
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLError) and (meaning := _ALERTS.get(cause.reason or "")):
            return CredentialRejected(
                f"{attempt.subject} refused the client's certificate in the TLS handshake: {meaning}",
                hint="check that it is registered at the issuer, and signed by an authority that the issuer trusts; "
                "put the right one in the vault, then `broker unlock`",
            )
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield what is behind an error, and not aiohttp's own, which count as `SSLError` and have nothing of one."""
    while error is not None:
        if not isinstance(error, aiohttp.ClientError):
            yield error
        error = error.__cause__ or error.__context__


def _proxy_hint(status: int, attempt: Attempt) -> str:
    if status == _PROXY_PASSWORD:
        return (
            "set HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT, percent-encoded, in the environment of `broker serve`, "
            f"and remove proxy from [issuers.{attempt.issuer}]"
        )
    return f"check proxy in [issuers.{attempt.issuer}], or HTTPS_PROXY and NO_PROXY of the broker"


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
