"""Clients that show a certificate (RFC 8705): the certified oidc-provider over TLS, and servers that refuse them."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jwt
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.standins.oidc_provider import OidcProvider, client
from tests.standins.private_ca import DAY, PrivateCa
from tokenbroker.config import IssuerConfig
from tokenbroker.errors import CredentialRejected, IssuerMisconfigured
from tokenbroker.issuers.certificate import PIPE, ClientCertificate, context
from tokenbroker.issuers.token_endpoint import TokenEndpoint
from tokenbroker.model import Credentials, Instant, IssuerAnswer, Revocation, Secret

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.asyncio(loop_scope="module")

API = "https://api.example"


class RealClock:
    def now(self) -> Instant:
        return Instant(time.time(), time.monotonic())

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> PrivateCa:
    return PrivateCa(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def signed(ca: PrivateCa) -> tuple[str, str]:
    return ca.pair("agent.example")


@pytest.fixture(scope="module")
def self_signed(ca: PrivateCa) -> tuple[str, str]:
    """One that is even past its end, which a server that knows it need not mind."""
    return ca.pair("self.example", key=rsa.generate_private_key(65537, 2048), ends=-dt.timedelta(hours=1), signed=False)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def idp(ca: PrivateCa, signed: tuple[str, str], self_signed: tuple[str, str]) -> AsyncIterator[OidcProvider]:
    """One provider over TLS for the whole file."""
    own = x509.load_pem_x509_certificate(self_signed[0].encode())
    public = own.public_key()
    assert isinstance(public, rsa.RSAPublicKey)
    jwk = jwt.get_algorithm_by_name("RS256").to_jwk(public, as_dict=True)
    der = ssl.PEM_cert_to_DER_cert(self_signed[0])
    bound: dict[str, Any] = {"tls_client_certificate_bound_access_tokens": True}
    method = "token_endpoint_auth_method"
    clients = [
        client("by-ca", **{method: "tls_client_auth"}, tls_client_auth_san_dns="agent.example", **bound),
        client("other", **{method: "tls_client_auth"}, tls_client_auth_san_dns="other.example"),
        client(
            "self-signed",
            **{method: "self_signed_tls_client_auth"},
            jwks={"keys": [{**jwk, "kid": "s", "x5c": [base64.b64encode(der).decode()]}]},
            **bound,
        ),
    ]
    cert, key = ca.pair("localhost")
    tls = {"cert": cert, "key": key, "ca": ca.file.read_text()}
    async with OidcProvider.start(clients=clients, tls=tls) as provider:
        yield provider


def shows(client_id: str, pair: tuple[str, str], auth: str = "tls_client_auth") -> Credentials:
    return Credentials(client_id, auth=auth, certificate=Secret(pair[0]), private_key=Secret(pair[1]))


@asynccontextmanager
async def endpoint(url: str | None, ca: PrivateCa, **config: Any) -> AsyncIterator[TokenEndpoint]:
    made = TokenEndpoint(IssuerConfig("main", url=url, ca_file=str(ca.file), **config), clock=RealClock(), env={})
    try:
        yield made
    finally:
        await made.close()


async def ask(made: TokenEndpoint, credentials: Credentials, resource: str | None = API) -> IssuerAnswer:
    return await made.issue(credentials, scopes=("search:read",), audience=None, resource=resource, extra={})


def thumbprint(certificate: str) -> str:
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate)).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


@pytest.mark.node
async def test_a_certificate_of_an_authority_gets_a_bound_token(
    idp: OidcProvider, ca: PrivateCa, signed: tuple[str, str]
) -> None:
    """The token names the certificate (RFC 8705 §3.1), so the server saw that one."""
    async with endpoint(idp.issuer, ca) as made:
        answer = await ask(made, shows("by-ca", signed))
    assert answer.claims is not None
    assert answer.claims["cnf"] == {"x5t#S256": thumbprint(signed[0])}


@pytest.mark.node
async def test_a_self_signed_certificate_gets_a_bound_token(
    idp: OidcProvider, ca: PrivateCa, self_signed: tuple[str, str]
) -> None:
    """Its dates do not matter: the server knows the certificate itself (RFC 8705 §2.2)."""
    async with endpoint(idp.issuer, ca) as made:
        answer = await ask(made, shows("self-signed", self_signed, "self_signed_tls_client_auth"))
    assert answer.claims is not None
    assert answer.claims["cnf"] == {"x5t#S256": thumbprint(self_signed[0])}


@pytest.mark.node
async def test_the_same_certificate_asks_about_and_revokes_a_token(
    idp: OidcProvider, ca: PrivateCa, signed: tuple[str, str]
) -> None:
    """An opaque token is introspected and revoked where clients with certificates go, as those clients."""
    async with endpoint(idp.issuer, ca, introspection="require") as made:
        answer = await ask(made, shows("by-ca", signed), resource=None)
        assert (answer.claims or {})["cnf"] == {"x5t#S256": thumbprint(signed[0])}
        assert await made.revoke(shows("by-ca", signed), answer.access_token) is Revocation.REVOKED


@pytest.mark.node
async def test_another_subject_is_rejected_by_the_server(
    idp: OidcProvider, ca: PrivateCa, signed: tuple[str, str]
) -> None:
    async with endpoint(idp.issuer, ca) as made:
        with pytest.raises(CredentialRejected, match="invalid_client"):
            await ask(made, shows("other", signed))


@pytest.mark.node
async def test_the_main_port_is_shown_no_certificate(idp: OidcProvider, ca: PrivateCa, signed: tuple[str, str]) -> None:
    """Where the server asks for none, none is seen: what succeeded above went to the alias."""
    async with endpoint(idp.issuer, ca, token_endpoint=idp.token_endpoint) as made:
        with pytest.raises(CredentialRejected, match="invalid_client"):
            await ask(made, shows("by-ca", signed))


@contextmanager
def refusing(serving: ssl.SSLContext) -> Iterator[tuple[int, list[str]]]:
    """Run a server that ends each handshake as OpenSSL does: with an alert, which asyncio's servers do not send."""
    connections: list[str] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                plain, _ = listener.accept()
                connections.append("one")
                with (
                    plain,
                    serving.wrap_socket(plain.dup(), server_side=True, do_handshake_on_connect=False) as wrapped,
                ):
                    with suppress(ssl.SSLError):
                        wrapped.do_handshake()
                    plain.settimeout(5)
                    while plain.recv(4096):  # unread bytes would turn the alert into a reset
                        pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1], connections
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@pytest.mark.parametrize(
    ("version", "shown", "says"),
    [
        pytest.param(ssl.TLSVersion.TLSv1_2, "stranger", "does not know the authority", id="a stranger, TLS 1.2"),
        pytest.param(ssl.TLSVersion.TLSv1_3, "stranger", "does not know the authority", id="a stranger, TLS 1.3"),
        pytest.param(ssl.TLSVersion.TLSv1_3, "old", "expired", id="an expired one, TLS 1.3"),
    ],
)
async def test_a_certificate_refused_in_the_handshake_is_a_rejected_credential(
    ca: PrivateCa, version: ssl.TLSVersion, shown: str, says: str
) -> None:
    """With TLS 1.3 the alert comes after the handshake; one connection is made, and no more."""
    serving = ca.server("localhost")
    serving.minimum_version = serving.maximum_version = version
    serving.verify_mode = ssl.CERT_REQUIRED
    serving.load_verify_locations(ca.file)
    old = shown == "old"
    pair = ca.pair("agent.example", signed=old, ends=-dt.timedelta(hours=1) if old else DAY)
    with refusing(serving) as (port, connections):
        async with endpoint(None, ca, token_endpoint=f"https://localhost:{port}/token") as made:
            auth = "self_signed_tls_client_auth" if old else "tls_client_auth"
            with pytest.raises(CredentialRejected, match=f"in the TLS handshake.*{says}"):
                await ask(made, shows("c", pair, auth))
    assert len(connections) == 1


async def test_an_expired_certificate_is_not_sent(ca: PrivateCa) -> None:
    """It is a rejected credential, because the vault may have a new one by now; the message says since when."""
    pair = ca.pair("agent.example", ends=-dt.timedelta(hours=1))
    async with endpoint(None, ca, token_endpoint="https://localhost:1/") as made:
        with pytest.raises(CredentialRejected, match=r"expired on 20\d\d-\d\d-\d\d \d\d:\d\d UTC"):
            await ask(made, shows("c", pair))


@pytest.mark.parametrize(
    ("url", "proxy", "says"),
    [
        pytest.param("http://127.0.0.1:1/t", None, "needs https", id="to plain http"),
        pytest.param("https://idp.example/t", "https://u:hunter2@proxy.example", "would be shown", id="to a proxy"),
    ],
)
async def test_a_certificate_is_shown_to_nobody_else(
    ca: PrivateCa, signed: tuple[str, str], url: str, proxy: str | None, says: str
) -> None:
    async with endpoint(None, ca, token_endpoint=url, proxy=proxy) as made:
        with pytest.raises(IssuerMisconfigured, match=says) as raised:
            await ask(made, shows("c", signed))
    assert "hunter2" not in f"{raised.value} {raised.value.hint}"


async def test_a_chain_that_no_pipe_holds_is_refused(signed: tuple[str, str]) -> None:
    large = ClientCertificate(Secret(signed[0] + "x" * PIPE), Secret(signed[1]))
    with pytest.raises(IssuerMisconfigured, match="over 16 KiB"):
        context(large, IssuerConfig("main"))


def descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


async def test_every_descriptor_is_closed_whatever_happens(signed: tuple[str, str], ca: PrivateCa) -> None:
    """Also when OpenSSL will not have the pair; a pair that does not match is one that slipped through."""
    mismatched = ClientCertificate(Secret(signed[0]), Secret(ca.pair("x")[1]))
    before = descriptors()
    context(ClientCertificate(*map(Secret, signed)), IssuerConfig("main"))
    with pytest.raises(IssuerMisconfigured, match="OpenSSL does not take"):
        context(mismatched, IssuerConfig("main"))
    assert descriptors() == before


@pytest.mark.skipif(sys.platform != "linux", reason="audit events name the files on any system, /proc is Linux's")
async def test_the_key_is_in_no_file(signed: tuple[str, str], tmp_path: Path) -> None:
    """A process that may write no byte into any file (RLIMIT_FSIZE), and may not be dumped, loads the pair."""
    code = """
import ctypes, json, resource, sys
from tokenbroker.config import IssuerConfig
from tokenbroker.issuers.certificate import ClientCertificate, context
from tokenbroker.model import Secret
pair = json.load(sys.stdin)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
assert ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0
opened = []
sys.addaudithook(lambda event, args: opened.append(args[0]) if event == "open" else None)
context(ClientCertificate(*map(Secret, pair)), IssuerConfig("main"))
sys.stdout.write(json.dumps([str(one) for one in opened]))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code],
        input=json.dumps(signed),
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == []
    assert list(tmp_path.iterdir()) == []
