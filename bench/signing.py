"""What proving the client costs: pauses of the event loop while keys are at work, and exchanges per second.

    python -m bench.signing FOLDER    serves an issuer, whose addresses it prints, until it is ended

The issuer is a process of its own, so that what it does does not stand in the way of the loop that is looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import jwt
from cryptography.hazmat.primitives import serialization as to
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import RSAAlgorithm

from bench.processes import PYTHON, ROOT, folder
from bench.report import Row
from bench.watched import TICK, Ticks
from tests.standins.fault_issuer import FaultIssuer, answer
from tests.standins.private_ca import PrivateCa
from tokenbroker.config import IssuerConfig
from tokenbroker.issuers.connections import warm
from tokenbroker.issuers.token_endpoint import TokenEndpoint
from tokenbroker.model import Checked, Credentials, IssuerAnswer, Secret
from tokenbroker.system.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.standins.fault_issuer import Received

ROUNDS = 5
EACH = 5  # exchanges of a kind in one round, one after the other
APART = 0.01  # seconds between two: in the daemon they are minutes apart
PAUSE = 5.0  # milliseconds
KID = "bench"
PLAIN = "client_secret_post"


@dataclass(slots=True)
class Seen:
    """What was seen of one kind of exchange."""

    own: list[float] = field(default_factory=list)
    """Milliseconds by which ticks came late, without those in which the kernel let other programs run."""
    worst: list[float] = field(default_factory=list)
    """The longest of each round."""
    whole: list[float] = field(default_factory=list)
    """The longest of each round, with the kernel's part."""
    spans: list[float] = field(default_factory=list)
    """Seconds of processor time of each exchange, all threads and the ticks included."""

    def add(self, gaps: list[tuple[float, float]], spans: list[float]) -> None:
        """Add what one round saw."""
        own = [(late - queued) * 1000 for late, queued in gaps]
        self.own += own
        self.worst.append(max(own))
        self.whole.append(max(gaps)[0] * 1000)
        self.spans += spans

    @property
    def cost(self) -> float:
        """Milliseconds of processor time of an exchange."""
        return median(self.spans) * 1000

    def shown(self) -> str:
        """Return the longest of the middle round, of all rounds, the quantile 0.99, and the longest as it was felt."""
        p99 = sorted(self.own)[int(len(self.own) * 0.99)]
        return f"{median(self.worst):.1f} ms (p99 {p99:.1f}, max {max(self.worst):.1f}; {median(self.whole):.1f} felt)"


async def at_once(function: Callable[..., Any], *args: Any) -> Any:
    """Stand in for `asyncio.to_thread`, to see what threads are good for."""
    return function(*args)


def keys() -> dict[str, str]:
    """Make a key of each kind in PEM."""
    made: dict[str, Any] = {f"RSA {bits}": rsa.generate_private_key(65537, bits) for bits in (2048, 4096)}
    made["P-256"] = ec.generate_private_key(ec.SECP256R1())
    return {
        name: key.private_bytes(to.Encoding.PEM, to.PrivateFormat.PKCS8, to.NoEncryption()).decode()
        for name, key in made.items()
    }


def kinds(place: Path) -> dict[str, tuple[str, Credentials]]:
    """Return what is measured: name → path at the issuer, credentials."""
    secret = Credentials("m2m", PLAIN, client_secret=Secret("s3cret"))
    public, private = (place / "client.pem").read_text(), (place / "client.key").read_text()
    certified = Credentials(
        "m2m", "self_signed_tls_client_auth", private_key=Secret(private), certificate=Secret(public)
    )
    signing = {
        f"{name} assertion": ("/token", Credentials("m2m", "private_key_jwt", private_key=Secret(pem)))
        for name, pem in keys().items()
    }
    bound = Credentials("m2m", PLAIN, client_secret=Secret("s3cret"), dpop=True)
    return {
        PLAIN: ("/token", secret),
        **signing,
        "DPoP key and proof": ("/dpop", bound),
        "certificate, a TLS context": ("tls", certified),
        "JWT checked by JWKS": ("/jwt", secret),
    }


class Site:
    """The addresses of the issuer, and one adapter for each."""

    def __init__(self, place: Path, plain: str, tls: str) -> None:
        """Open nothing yet."""
        self._place = place
        self._origins = plain, tls
        self._endpoints: dict[str, TokenEndpoint] = {}

    def endpoint(self, path: str) -> TokenEndpoint:
        """Return the adapter for a path at the issuer."""
        if path not in self._endpoints:
            plain, tls = self._origins
            config = IssuerConfig(
                "main",
                token_endpoint=f"{tls}/token" if path == "tls" else f"{plain}{path}",
                ca_file=str(self._place / "ca.pem"),
                jwks_uri=f"{plain}/jwks" if path == "/jwt" else None,
                signature="require" if path == "/jwt" else "auto",
            )
            self._endpoints[path] = TokenEndpoint(config, clock=SystemClock(), env={})
        return self._endpoints[path]

    async def exchange(self, path: str, credentials: Credentials) -> IssuerAnswer:
        """Have one token."""
        return await self.endpoint(path).issue(credentials, scopes=(), audience="a", resource=None, extra={})

    async def close(self) -> None:
        """Close all connections."""
        for endpoint in self._endpoints.values():
            await endpoint.close()


async def look(site: Site, path: str, credentials: Credentials, seen: Seen) -> None:
    """Make some exchanges and see how the loop ticks meanwhile."""
    ticks, spans = Ticks(), []
    for _ in range(EACH):
        await asyncio.sleep(APART)
        start = time.process_time()
        await site.exchange(path, credentials)
        spans.append(time.process_time() - start)
    await asyncio.sleep(2 * TICK)
    ticks.stop()
    seen.add(ticks.gaps, spans)


async def idle(seen: Seen) -> None:
    """See how the loop ticks while nothing happens."""
    ticks = Ticks()
    await asyncio.sleep(EACH * APART)
    ticks.stop()
    seen.add(ticks.gaps, [])


async def measure(place: Path, plain: str, tls: str) -> tuple[Seen, dict[str, Seen], dict[str, Seen]]:
    """Look at idleness, and at each kind off and on the loop, in turns."""
    nothing = Seen()
    what = kinds(place)
    off, on = {name: Seen() for name in what}, {name: Seen() for name in what}
    site = Site(place, plain, tls)
    for path, credentials in what.values():  # imports and caches
        given = await site.exchange(path, credentials)
        assert path != "/jwt" or given.checked is Checked.SIGNATURE
    threads = asyncio.to_thread
    for _ in range(ROUNDS):
        await idle(nothing)
        for name, (path, credentials) in what.items():
            await look(site, path, credentials, off[name])
            asyncio.to_thread = at_once  # type: ignore[assignment]  # for this look alone
            await look(site, path, credentials, on[name])
            asyncio.to_thread = threads
    await site.close()
    return nothing, off, on


@contextlib.contextmanager
def issuer(place: Path) -> Iterator[tuple[str, str]]:
    """Run the issuer; give its plain address and its TLS one."""
    argv = [PYTHON, "-m", "bench.signing", str(place)]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            plain, tls = running.stdout.readline().split()
            yield plain, tls
        finally:
            running.terminate()


def rows() -> Iterator[Row]:
    """Measure; the middle of the rounds' longest pauses is judged."""
    warm()
    with folder() as place, issuer(place) as (plain, tls):
        nothing, off, on = asyncio.run(measure(place, plain, tls))
    yield Row("longest pause of the loop, idle", nothing.shown())
    for name, seen in off.items():
        yield Row(
            f"· {name}",
            seen.shown(),
            f"{on[name].shown()} (on the loop)",
            median(seen.worst) / median(on[name].worst),
            f"≤ {PAUSE:g} ms",
            median(seen.worst) <= PAUSE,
        )
    least = off[PLAIN].cost
    yield Row("processor time of an exchange, client_secret_post", f"{least:.1f} ms")
    for name, seen in off.items():
        if name != PLAIN:
            yield Row(f"· {name}", f"{seen.cost:.1f} ms", f"{least:.1f} ms ({PLAIN})", seen.cost / least)


# --- the issuer


def signed() -> tuple[str, dict[str, Any]]:
    """Return a JWT by an RSA key of 2048 bits, and the JWK set that it is checked by."""
    key = rsa.generate_private_key(65537, 2048)
    now = int(time.time())
    claims = {"sub": "m2m", "aud": "a", "iat": now, "exp": now + 3600, "client_id": "m2m", "jti": "1"}
    token = jwt.encode(claims, key, algorithm="RS256", headers={"kid": KID, "typ": "at+jwt"})
    public = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return token, {"keys": [{**public, "kid": KID, "use": "sig", "alg": "RS256"}]}


def tls_context(place: Path) -> ssl.SSLContext:
    """Make an authority in `place/ca.pem`, a client's certificate and key beside it, and the server's context."""
    ca = PrivateCa(place)
    own = ca.file.read_text()
    usual = ssl.get_default_verify_paths().cafile
    if usual is not None:  # so that it takes as long as with the system's authorities
        with ca.file.open("ab") as file:
            file.write(Path(usual).read_bytes())
    public, private = ca.pair("client")
    (place / "client.pem").write_text(public)
    (place / "client.key").write_text(private)
    context = ca.server("localhost")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=own)
    return context


async def serve(place: Path) -> None:
    """Answer by path, for ever."""
    token, jwks = signed()
    common = {"token_type": "Bearer", "expires_in": 3600}
    answers = {
        "/token": answer({"access_token": "opaque", **common}),
        "/dpop": answer({"access_token": "opaque", "token_type": "DPoP", "expires_in": 3600}),
        "/jwt": answer({"access_token": token, **common}),
        "/jwks": answer(jwks),
    }

    async def behave(received: Received, writer: asyncio.StreamWriter) -> None:
        await answers[received.path](received, writer)

    async with FaultIssuer(behave) as plain, FaultIssuer(behave, tls=tls_context(place)) as tls:
        print(plain.origin, tls.origin, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(Path(sys.argv[1])))
