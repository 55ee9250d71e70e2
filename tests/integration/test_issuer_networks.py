"""Networks that people have: each trouble has its class and its reason in time, and what can work does."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import ssl
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes_issuer import StillClock
from tests.standins.fault_issuer import FaultIssuer, answer
from tests.standins.networks import TROUBLES, Names, Site, Trouble, certified, full
from tests.standins.private_ca import PrivateCa
from tokenbroker import issuers, trust
from tokenbroker.config import IssuerConfig
from tokenbroker.errors import IssuerMisconfigured, IssuerUnavailable, IssuerUntrusted
from tokenbroker.issuers.token_endpoint import TokenEndpoint
from tokenbroker.issuers.transport import _distrust
from tokenbroker.model import Credentials, IssuerAnswer, Secret

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

BRIEF = 0.4  # seconds for one request; the defaults are measured by `make bench`
SECRET = "p@ss+wo%rd"
SENDS = Credentials("client", client_secret=Secret(SECRET))
TOKEN = {"access_token": "t", "token_type": "Bearer", "expires_in": 60}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Names() as names:
        yield Site(tmp_path, names)


async def ask(credentials: Credentials = SENDS, *, env: Mapping[str, str] | None = None, **config: Any) -> IssuerAnswer:
    endpoint = TokenEndpoint(IssuerConfig("main", **config), clock=StillClock(), env=env or {})
    try:
        async with asyncio.timeout(5):
            return await endpoint.issue(credentials, scopes=(), audience=None, resource=None, extra={})
    finally:
        await endpoint.close()


@pytest.mark.parametrize("trouble", [pytest.param(trouble, id=name) for name, trouble in TROUBLES.items()])
async def test_each_trouble_has_its_class_and_its_reason(site: Site, trouble: Trouble) -> None:
    """Within the time limits; and a server that is not trusted, or that a redirect names, gets no request."""
    async with trouble.place(site) as reached:
        with pytest.raises(trouble.kind) as raised:
            await ask(env=reached.env, timeout=BRIEF, **reached.config)
        if reached.server is not None and ("thief" in trouble.says or trouble.kind.code == "issuer_untrusted"):
            assert reached.server.requests == []
    assert type(raised.value) is trouble.kind
    assert re.search(trouble.says, raised.value.message)
    assert SECRET not in f"{raised.value} {raised.value.hint}"


async def test_a_thief_gets_not_even_a_connection(site: Site) -> None:
    async with TROUBLES["a redirect to a thief"].place(site) as reached:
        with pytest.raises(IssuerMisconfigured):
            await ask(**reached.config)
        assert reached.server.connections == 0


async def test_a_name_may_resolve_to_a_private_address(site: Site) -> None:
    """Split DNS: the certificate says who it is, not the address."""
    async with certified("issuer.test")(site) as reached:
        assert (await ask(**reached.config)).access_token == Secret("t")


async def test_a_name_that_moved_is_found_at_its_new_address(site: Site) -> None:
    """The machine went from one network to another: addresses are not remembered."""
    async with certified("issuer.test")(site) as reached:
        endpoint = TokenEndpoint(IssuerConfig("main", timeout=BRIEF, **reached.config), clock=StillClock(), env={})
        credentials = Credentials("client", client_secret=Secret(SECRET))
        site.names.known["issuer.test"] = []
        with pytest.raises(IssuerUnavailable):
            await endpoint.issue(credentials, scopes=(), audience=None, resource=None, extra={})
        site.names.known["issuer.test"] = ["127.0.0.1"]
        await endpoint.issue(credentials, scopes=(), audience=None, resource=None, extra={})
        site.names.known["issuer.test"] = []
        with pytest.raises(IssuerUnavailable):
            await endpoint.issue(credentials, scopes=(), audience=None, resource=None, extra={})
        await endpoint.close()


@pytest.mark.skipif(sys.platform != "linux", reason="there, 127.0.0.2 is this machine too")
async def test_a_broken_address_costs_a_fraction_of_a_second(site: Site) -> None:
    """As with broken IPv6: one from which nothing comes back does not keep the next from being tried (RFC 8305)."""
    async with certified("issuer.test")(site) as reached:
        port = int(reached.config["token_endpoint"].split(":")[2].split("/")[0])
        with full("127.0.0.2", port):
            site.names.known["issuer.test"] = ["127.0.0.2", "127.0.0.1"]
            assert (await ask(timeout=2.0, **reached.config)).access_token == Secret("t")


async def test_ipv6_alone_is_enough(site: Site) -> None:
    try:
        server = await asyncio.start_server(_serve, "::1", 0)
    except OSError:
        pytest.skip("this machine has no IPv6")
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert (await ask(token_endpoint=f"http://[::1]:{port}/token")).access_token == Secret("t")


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    body = json.dumps(TOKEN).encode()
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    await writer.drain()
    writer.close()


async def test_an_old_private_authority_is_trusted(tmp_path: Path) -> None:
    """One without key identifiers (RFC 5280), which Python refuses since 3.13; also by a client with a certificate."""
    old = PrivateCa(tmp_path, old=True)
    certificate, key = map(Secret, old.pair("client"))
    shows = Credentials("client", auth="self_signed_tls_client_auth", certificate=certificate, private_key=key)
    async with FaultIssuer(answer(TOKEN), tls=old.server("localhost")) as server:
        for credentials in (SENDS, shows):
            answered = await ask(credentials, token_endpoint=server.url, ca_file=str(old.file))
            assert answered.access_token == Secret("t")


async def test_what_is_in_ca_file_need_not_be_a_root(site: Site) -> None:
    """The server's own certificate is enough, whoever signed it."""
    async with FaultIssuer(answer(TOKEN), tls=site.ca.server("localhost")) as server:
        own = site.folder / "localhost.pem"
        assert (await ask(token_endpoint=server.url, ca_file=str(own))).access_token == Secret("t")


@pytest.mark.parametrize("how", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
async def test_a_private_authority_may_be_the_environments(site: Site, how: str) -> None:
    """OpenSSL's own variables, as for other programs: the daemon passes them on by leaving them alone."""
    place = site.ca.file
    if how == "SSL_CERT_DIR":
        digest = subprocess.run(
            ["openssl", "x509", "-hash", "-noout", "-in", str(place)], capture_output=True, text=True, check=False
        )
        if digest.returncode:
            pytest.skip("no openssl to hash with")
        (site.folder / "authorities").mkdir()
        (site.folder / "authorities" / f"{digest.stdout.strip()}.0").write_bytes(place.read_bytes())
        place = site.folder / "authorities"
    program = (
        "import asyncio, sys\n"
        "from tests.integration.test_issuer_networks import ask\n"
        "print((asyncio.run(ask(token_endpoint=sys.argv[1]))).access_token.reveal())"
    )
    async with FaultIssuer(answer(TOKEN), tls=site.ca.server("localhost")) as server:
        path = os.pathsep.join(entry for entry in sys.path if entry)
        done = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, server.url, env={"PYTHONPATH": path, how: str(place)}, stdout=-1, stderr=-1
        )
        out, err = await done.communicate()
    assert out == b"t\n", err.decode()


def test_no_key_of_the_configuration_turns_verification_off() -> None:
    """Nothing there speaks of trust but the file of authorities."""
    words = re.compile(r"tls|ssl|verif|insecure|trust|cert|ca_")
    assert {field.name for field in dataclasses.fields(IssuerConfig) if words.search(field.name)} == {"ca_file"}


@pytest.mark.parametrize("trusted", [True, False], ids=["the system's authorities", "ca_file"])
async def test_every_connection_verifies(site: Site, *, trusted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment has that switches it off elsewhere; and http goes to this machine alone."""
    switches = {"PYTHONHTTPSVERIFY": "0", "NODE_TLS_REJECT_UNAUTHORIZED": "0", "GIT_SSL_NO_VERIFY": "1"}
    for name, value in switches.items():
        monkeypatch.setenv(name, value)
    async with certified("portal.test", trusted=trusted)(site) as reached:
        with pytest.raises(IssuerUntrusted):
            await ask(env=dict(os.environ), timeout=BRIEF, **reached.config)
        assert reached.server.requests == []
    with pytest.raises(IssuerMisconfigured, match="plain https"):
        await ask(env=dict(os.environ), token_endpoint="http://issuer.test/token")


@pytest.mark.parametrize(
    "module", [Path(trust.__file__), *sorted(Path(issuers.__path__[0]).glob("*.py"))], ids=lambda path: path.stem
)
def test_no_code_turns_verification_off(module: Path) -> None:
    """There is no such word in the adapters of issuers, nor where they learn whom to trust."""
    assert not re.search(r"CERT_NONE|CERT_OPTIONAL|check_hostname|_create_unverified|ssl=False", module.read_text())


def test_a_clock_that_is_behind_is_named() -> None:
    error = ssl.SSLCertVerificationError(1, "no")
    error.verify_code, error.verify_message = 9, "certificate is not yet valid"
    why, hint = _distrust(error, "main")
    assert why == "it is not valid yet"
    assert "clock" in str(hint)


async def test_a_name_server_that_hangs_holds_up_nobody_else(site: Site) -> None:
    """Eight requests wait for its answer; another issuer is reached, and the loop's own threads are free."""
    site.names.known["fine.test"] = ["127.0.0.1"]
    hanging = TokenEndpoint(IssuerConfig("a", token_endpoint="https://hanging.test/t"), clock=StillClock(), env={})
    wanted: dict[str, Any] = {"scopes": (), "audience": None, "resource": None, "extra": {}}
    asking = [asyncio.create_task(hanging.issue(SENDS, **wanted)) for _ in range(8)]
    async with FaultIssuer(answer(TOKEN)) as server, asyncio.timeout(2):
        await asyncio.sleep(0.05)
        assert await asyncio.to_thread(lambda: "free") == "free"
        assert (await ask(token_endpoint=server.url)).access_token == Secret("t")
    assert sum(each.done() for each in asking) == 4, "those beyond what may hang fail at once"
    for each in asking:
        each.cancel()
    ended = await asyncio.gather(*asking, return_exceptions=True)
    assert sum(isinstance(each, IssuerUnavailable) for each in ended) == 4
    await hanging.close()
