"""TokenEndpoint against servers that misbehave: everything is bounded, and nothing goes where it should not."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import gzip
import ipaddress
import json
import os
import ssl
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.fakes_issuer import StillClock
from tests.standins.fault_issuer import (
    FaultIssuer,
    Received,
    answer,
    dribble,
    endless,
    error,
    raw,
    reset,
    silence,
)
from tokenbroker.config import IssuerConfig
from tokenbroker.errors import (
    CredentialRejected,
    IssuerError,
    IssuerMisconfigured,
    IssuerThrottled,
    IssuerUnavailable,
    IssuerUntrusted,
)
from tokenbroker.issuers.connections import warm
from tokenbroker.issuers.exchange import AmbiguousJson, Attempt
from tokenbroker.issuers.token_endpoint import TokenEndpoint
from tokenbroker.issuers.transport import Step, Transport
from tokenbroker.model import Credentials, Instant, IssuerAnswer, Secret

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.standins.fault_issuer import Behaviour

SECRET = "p@ss+wo%rd/&= xü"
POST = Credentials("client", client_secret=Secret(SECRET))
BASIC = Credentials("client", auth="client_secret_basic", client_secret=Secret(SECRET))
TOKEN = {"access_token": "t", "token_type": "Bearer", "expires_in": 60}
NOBODY = Attempt("main", "host", Instant(0.0, 0.0))
BRIEF = 0.5  # seconds; the total timeout where a test waits for it


async def ask(
    config: IssuerConfig,
    credentials: Credentials = POST,
    *,
    env: Mapping[str, str] | None = None,
    extra: Mapping[str, str] | None = None,
    **target: Any,
) -> IssuerAnswer:
    """Ask once, within five seconds whatever the server does."""
    endpoint = TokenEndpoint(config, clock=StillClock(), env=env or {})
    wanted = {"scopes": ("read", "write"), "audience": None, "resource": None} | target
    try:
        async with asyncio.timeout(5):
            return await endpoint.issue(credentials, **wanted, extra=extra or {})
    finally:
        await endpoint.close()


def at(server: FaultIssuer, **config: Any) -> IssuerConfig:
    return IssuerConfig("main", **({"token_endpoint": server.url} | config))


async def test_the_request_is_exactly_what_oauth_says() -> None:
    """One POST with each parameter once, asking for plain JSON; secrets are in the body alone."""
    async with FaultIssuer() as server:
        config = at(server, organization="org_1", extra_params={"tier": "a", "b": "ü"})
        await ask(config, audience="https://api", resource="https://api/r", extra={"tier": "z"})
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/token")
    assert request.form == [
        ("grant_type", "client_credentials"),
        ("scope", "read write"),
        ("audience", "https://api"),
        ("resource", "https://api/r"),
        ("tier", "z"),
        ("b", "ü"),
        ("organization", "org_1"),
        ("client_id", "client"),
        ("client_secret", SECRET),
    ]
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert request.headers["accept"] == "application/json"
    assert request.headers["accept-encoding"] == "identity"
    assert not {"authorization", "cookie"} & request.headers.keys()


async def test_basic_is_sent_as_a_header_alone() -> None:
    async with FaultIssuer() as server:
        await ask(at(server), BASIC, scopes=())
    (request,) = server.requests
    assert request.form == [("grant_type", "client_credentials")]
    assert base64.b64decode(request.headers["authorization"].split()[1]) == b"client:p%40ss%2Bwo%25rd%2F%26%3D+x%C3%BC"


@pytest.mark.parametrize("name", ["grant_type", "client_id", "client_assertion", "redirect_uri", "scope", "audience"])
@pytest.mark.parametrize("whose", ["issuer", "profile"])
async def test_extra_parameters_cannot_replace_the_protocols_own(whose: str, name: str) -> None:
    """Nothing is sent at all."""
    async with FaultIssuer() as server:
        config = at(server, extra_params={name: "x"} if whose == "issuer" else {})
        with pytest.raises(IssuerMisconfigured, match=f"may not set {name}"):
            await ask(config, extra={name: "x"} if whose == "profile" else {})
    assert server.connections == 0


GZIPPED = gzip.compress(b'{"access_token": "' + b"a" * 10_000_000 + b'"}')


@pytest.mark.parametrize(
    ("behaviour", "kind", "says"),
    [
        pytest.param(reset, IssuerUnavailable, "cannot be reached", id="a reset"),
        pytest.param(raw(b""), IssuerUnavailable, "cannot be reached", id="a connection closed without a word"),
        pytest.param(raw(b"SSH-2.0-OpenSSH\r\n\r\n"), IssuerUnavailable, "not HTTP", id="another protocol"),
        pytest.param(
            raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000), IssuerUnavailable, "not HTTP", id="a huge header"
        ),
        pytest.param(silence, IssuerUnavailable, "within 0.5 s", id="silence"),
        pytest.param(dribble(b"HTTP/1.1 200 OK\r\nX: y\r\n"), IssuerUnavailable, "within 0.5 s", id="slow headers"),
        pytest.param(
            endless(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 100), IssuerUnavailable, "main", id="headers without end"
        ),
        pytest.param(
            endless(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b" " * 65536),
            IssuerMisconfigured,
            "64 KiB",
            id="a body without end",
        ),
        pytest.param(
            endless(b"HTTP/1.1 503 No\r\nConnection: close\r\n\r\n", b" " * 65536),
            IssuerUnavailable,
            "503",
            id="a body without end under a 503",
        ),
        pytest.param(
            raw(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{}"),
            IssuerUnavailable,
            "cut short",
            id="too long a length",
        ),
        pytest.param(
            raw(b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"access_token": "abc"}'),
            IssuerUnavailable,
            "main",
            id="too short a length",
        ),
        pytest.param(
            raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
            IssuerUnavailable,
            "main",
            id="bad chunks",
        ),
        pytest.param(
            answer(GZIPPED, headers={"Content-Encoding": "gzip"}), IssuerMisconfigured, "compressed", id="a gzip bomb"
        ),
        pytest.param(answer("<html>", content_type="text/html"), IssuerMisconfigured, "web page", id="HTML with 200"),
        pytest.param(answer("<html>", 502, content_type="text/html"), IssuerUnavailable, "502", id="HTML with 502"),
        pytest.param(answer(b'{"access_token":"a'), IssuerUnavailable, "cut short", id="half an answer"),
        pytest.param(
            answer(b'{"access_token":"a","access_token":"b"}'), IssuerMisconfigured, "repeated", id="two tokens"
        ),
        pytest.param(answer(b'{"access_token":"a","expires_in":NaN}'), IssuerMisconfigured, "NaN", id="NaN"),
        pytest.param(answer("Too Many Requests", 429, {"Retry-After": "60"}), IssuerThrottled, "429", id="429 as text"),
        pytest.param(error("invalid_client", 401), CredentialRejected, "invalid_client", id="401"),
    ],
)
async def test_faults(behaviour: Behaviour, kind: type[IssuerError], says: str) -> None:
    """Each fault ends within the timeout in its class of error, after one request."""
    async with FaultIssuer(behaviour) as server:
        with pytest.raises(kind, match=says) as raised:
            await ask(at(server, timeout=BRIEF))
        assert len(server.requests) == 1
    assert type(raised.value) is kind
    # aiohttp's errors hold the request, a JSONDecodeError the whole answer
    assert type(raised.value.__context__) in {type(None), AmbiguousJson}
    assert SECRET not in f"{raised.value!r} {raised.value.hint}"


async def test_an_issuer_that_repeats_the_secret_is_not_quoted() -> None:
    """Whatever of the request comes back in an error description is not in ours."""

    async def echo(request: Received, writer: asyncio.StreamWriter) -> None:
        sent = (
            f"{request.body.decode()} {dict(request.form).get('client_secret')} {request.headers.get('authorization')}"
        )
        await error("invalid_request", error_description=sent)(request, writer)

    for credentials in (POST, BASIC):
        async with FaultIssuer(echo) as server:
            with pytest.raises(IssuerMisconfigured) as raised:
                await ask(at(server), credentials)
        header = base64.b64encode(b"client:p%40ss%2Bwo%25rd%2F%26%3D+x%C3%BC").decode()
        shown = f"{raised.value} {raised.value.hint}"
        assert "…" in shown
        assert not [text for text in (SECRET, "wo%25rd", "ss%2Bwo", header) if text in shown]


async def test_nothing_is_unpacked() -> None:
    """The bytes come as they were sent: a small bomb stays small."""
    bomb = gzip.compress(b"a" * 1000)
    async with FaultIssuer(answer(bomb, headers={"Content-Encoding": "gzip"})) as server:
        transport = Transport(at(server), env={})
        reply = await transport.exchange("GET", server.url, NOBODY, headers={})
        await transport.close()
    assert reply.body == bomb


async def test_the_edge_checks_the_address_itself() -> None:
    """Whatever led there, plain http to another machine is refused before a connection is made."""
    transport = Transport(IssuerConfig("main"), env={})
    with pytest.raises(IssuerMisconfigured, match="not plain https"):
        await transport.exchange("POST", "http://login.invalid/t", NOBODY, body=b"secret", headers={})
    await transport.close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("credentials", [POST, BASIC], ids=["post", "basic"])
async def test_redirects_are_not_followed(status: int, credentials: Credentials) -> None:
    """A thief that the token endpoint points to is never connected to."""
    async with FaultIssuer() as thief, FaultIssuer(answer(b"", status, {"Location": thief.url})) as server:
        with pytest.raises(IssuerMisconfigured, match=f"redirect \\({status}\\)"):
            await ask(at(server), credentials)
    assert thief.connections == 0


async def test_discovery_follows_no_redirect_and_trusts_no_other_host() -> None:
    """Neither a redirect of the metadata nor a document that names another host leads a secret there."""
    async with FaultIssuer() as thief, FaultIssuer(answer(b"", 307, {"Location": thief.url})) as server:
        with pytest.raises(IssuerMisconfigured):
            await ask(at(server, url=server.origin, token_endpoint=None))
        server.script(answer({"issuer": server.origin, "token_endpoint": thief.url}))
        with pytest.raises(IssuerMisconfigured, match="another host"):
            await ask(at(server, url=server.origin, token_endpoint=None))
    assert thief.connections == 0
    assert {request.method for request in server.requests} == {"GET"}
    assert not [request for request in server.requests if request.body or "authorization" in request.headers]


async def test_the_metadata_says_by_which_method_a_refused_client_should_come() -> None:
    """What discovery learned reaches the hint, and changes nothing of what is sent."""
    async with FaultIssuer() as server:
        methods = ["private_key_jwt", "client_secret_basic"]
        document = {"issuer": server.origin, "token_endpoint": server.url}
        server.script(
            answer(document | {"token_endpoint_auth_methods_supported": methods}),
            answer({"error": "invalid_client"}, 401),
        )
        with pytest.raises(CredentialRejected) as raised:
            await ask(at(server, url=server.origin, token_endpoint=None))
    assert raised.value.hint == (
        "the issuer's metadata names client_secret_basic, private_key_jwt; "
        'set auth = "client_secret_basic" in [clients]'
    )
    assert b"client_secret=" in server.requests[-1].body


async def test_discovery_then_many_tokens() -> None:
    """Callers that come together share one look-up and make one token request each."""
    async with FaultIssuer(answer(TOKEN)) as server:
        server.script(answer({"issuer": server.origin, "token_endpoint": server.url}), answer(TOKEN))
        endpoint = TokenEndpoint(at(server, url=server.origin, token_endpoint=None), clock=StillClock(), env={})
        await asyncio.gather(
            *(endpoint.issue(POST, scopes=(), audience=None, resource=None, extra={}) for _ in range(5))
        )
        await endpoint.close()
    assert [request.method for request in server.requests] == ["GET"] + ["POST"] * 5


async def test_cookies_are_not_kept() -> None:
    """Asked by a name: aiohttp's jar takes none from a bare address."""
    async with FaultIssuer(answer(TOKEN, headers={"Set-Cookie": "a=b; Path=/"})) as server:
        named = server.url.replace("127.0.0.1", "localhost")
        endpoint = TokenEndpoint(at(server, token_endpoint=named), clock=StillClock(), env={})
        for _ in range(2):
            await endpoint.issue(POST, scopes=(), audience=None, resource=None, extra={})
        await endpoint.close()
    assert "cookie" not in server.requests[1].headers


async def test_a_connection_that_takes_too_long_has_its_own_words() -> None:
    """Waiting three seconds for a real one would be the slowest test of the file."""
    transport = Transport(IssuerConfig("main"), env={})
    for lacks, via, seconds in (
        ("no connection", None, 3),
        ("no connection", "http://p:1", 5),
        ("no address", None, 5),
    ):
        problem = transport._problem(aiohttp.ConnectionTimeoutError(), NOBODY, via, Step(lacks))
        assert type(problem) is IssuerUnavailable
        assert problem.message.endswith(f"cannot be reached: {lacks} within {seconds} s")


async def test_time_limits_are_not_rounded_up() -> None:
    """By aiohttp one that is over its ceiling ends on a whole second of the loop's clock, up to one later."""
    async with FaultIssuer() as server:
        transport = Transport(at(server, timeout=30.0), env={})
        await transport.exchange("POST", server.url, NOBODY, headers={})
        session = transport._session
        await transport.close()
    assert session is not None
    limits = session.timeout
    assert limits.ceil_threshold > max(limits.total or 0, limits.connect or 0, limits.sock_connect or 0)


async def test_nobody_listens() -> None:
    async with FaultIssuer() as server:
        config = at(server)
    with pytest.raises(IssuerUnavailable, match="connection refused"):
        await ask(config)


async def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(IssuerUnavailable, match=r"issuer `main` \(login\.invalid\) cannot be reached"):
        await ask(IssuerConfig("main", token_endpoint="https://login.invalid/t"))


@pytest.mark.parametrize("url", ["http://login.invalid/t", "https://u:p@login.invalid/t", "file:///etc/passwd"])
async def test_addresses_that_a_secret_may_not_go_to(url: str) -> None:
    with pytest.raises(IssuerMisconfigured, match="plain https"):
        await ask(IssuerConfig("main", token_endpoint=url))


def certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, Path]:
    """Return a server's context with a self-signed certificate for `name`, and the certificate's file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.9"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / f"{name}.pem", folder / f"{name}.key"
    public.write_bytes(made.public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(public, private)
    return context, public


async def test_an_untrusted_certificate_needs_a_person(tmp_path: Path) -> None:
    """Nothing is sent before the certificate is believed, and waiting does not mend it."""
    context, _ = certificate(tmp_path, "localhost")
    async with FaultIssuer(tls=context) as server:
        with pytest.raises(IssuerUntrusted, match="not trusted: self-signed certificate") as raised:
            await ask(at(server))
    assert not raised.value.retryable
    assert "ca_file in [issuers.main]" in str(raised.value.hint)
    assert server.requests == []


async def test_a_private_authority_is_trusted_by_ca_file(tmp_path: Path) -> None:
    context, public = certificate(tmp_path, "localhost")
    async with FaultIssuer(tls=context) as server:
        assert (await ask(at(server, ca_file=str(public)))).access_token == Secret("t")


async def test_a_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    context, public = certificate(tmp_path, "elsewhere.example")
    async with FaultIssuer(tls=context) as server:
        with pytest.raises(IssuerUntrusted, match=r"for another host \(Hostname mismatch") as raised:
            await ask(at(server, ca_file=str(public)))
    assert "correct url in [issuers.main]" in str(raised.value.hint)
    assert server.requests == []


@pytest.mark.parametrize(("content", "says"), [(None, "no such file"), (b"junk", "no certificates")])
async def test_an_unusable_ca_file_is_a_configuration_error(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(IssuerMisconfigured, match=says) as raised:
        await ask(IssuerConfig("main", token_endpoint="https://login.invalid/t", ca_file=str(path)))
    assert str(path) in raised.value.message


async def test_https_to_a_server_that_speaks_http() -> None:
    def hello(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(hello, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(IssuerUnavailable, match="the TLS handshake failed"):
            await ask(IssuerConfig("main", token_endpoint=f"https://127.0.0.1:{port}/t", timeout=BRIEF))


class Proxy:
    """A forward proxy that records what it is asked to connect to and answers `status`, or tunnels to `target`."""

    def __init__(self, reply: bytes) -> None:
        self.heads: list[str] = []
        self._reply = reply

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(self._reply)
        await writer.drain()
        writer.close()


AWAY = IssuerConfig("main", token_endpoint="https://login.invalid/t", timeout=2.0)
REFUSES = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize("how", ["env", "config"])
async def test_a_proxy_is_asked_to_connect_and_sees_no_secret(how: str) -> None:
    """HTTPS_PROXY and the `proxy` key work, with a password in UTF-8 that is not shown."""
    async with Proxy(REFUSES) as proxy:
        address = f"http://us%20er:p%C3%BC%2Fx@{proxy.address}"
        config = AWAY if how == "env" else IssuerConfig("main", token_endpoint=AWAY.token_endpoint, proxy=address)
        with pytest.raises(IssuerMisconfigured, match="407") as raised:
            await ask(config, env={"HTTPS_PROXY": address} if how == "env" else {})
    (head,) = proxy.heads
    assert head.startswith("CONNECT login.invalid:443 ")
    assert f"Proxy-Authorization: Basic {base64.b64encode('us er:pü/x'.encode()).decode()}" in head
    assert "login.invalid" in raised.value.message
    assert proxy.address in raised.value.message
    assert not [text for text in ("us er", "us%20er", "pü", "p%C3") if text in f"{raised.value} {raised.value.hint}"]
    assert "set HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT" in str(raised.value.hint)


async def test_a_proxy_that_is_broken_may_work_later() -> None:
    async with Proxy(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n") as proxy:
        with pytest.raises(IssuerUnavailable, match=f"by the proxy {proxy.address}"):
            await ask(AWAY, env={"https_proxy": proxy.address})


async def test_a_proxy_that_does_not_speak_http_is_a_configuration_error() -> None:
    with pytest.raises(IssuerMisconfigured, match="address cannot be used"):
        await ask(AWAY, env={"HTTPS_PROXY": "socks5://127.0.0.1:1"})


async def test_this_machine_is_reached_without_a_proxy() -> None:
    async with FaultIssuer() as server, Proxy(REFUSES) as proxy:
        await ask(at(server, proxy=f"http://{proxy.address}"), env={"HTTPS_PROXY": f"http://{proxy.address}"})
    assert proxy.heads == []


async def test_netrc_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials lying in ~/.netrc for the issuer's host are not sent, and do not clash with ours."""
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login thief password thief\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    async with FaultIssuer() as server:
        await ask(at(server))
        await ask(at(server), BASIC)
    assert "authorization" not in server.requests[0].headers
    assert b"thief" not in base64.b64decode(server.requests[1].headers["authorization"].split()[1])


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    """The daemon starts without aiohttp, PyJWT or cryptography; `warm` brings aiohttp."""
    program = (
        "import json, sys; from tokenbroker.issuers.connections import warm\n"
        "heavy = lambda: sorted({'aiohttp', 'jwt', 'cryptography'} & set(sys.modules))\n"
        "before = heavy(); warm(); print(json.dumps([before, heavy()]))"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={"PYTHONPATH": path}, check=True
    )
    assert json.loads(done.stdout) == [[], ["aiohttp"]]


async def test_closing_an_unused_endpoint_opens_nothing() -> None:
    endpoint = TokenEndpoint(AWAY, clock=StillClock(), env={})
    await endpoint.close()
    assert endpoint._connections._transport is None


async def test_warm_may_run_in_a_thread() -> None:
    await asyncio.to_thread(warm)
