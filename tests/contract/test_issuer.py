"""The Issuer port's contract, held by the fake and by the real adapter over loopback HTTP."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import pytest

from tests.contract.kits_github import GitHubBench
from tests.fakes_issuer import FakeIssuer, StillClock
from tests.standins import fault_issuer
from tests.standins.fault_issuer import FaultIssuer
from tokenbroker.config import IssuerConfig
from tokenbroker.errors import (
    CredentialRejected,
    ErrorClass,
    IssuerError,
    IssuerMisconfigured,
    IssuerNeedsPerson,
    IssuerUnavailable,
)
from tokenbroker.issuers.token_endpoint import TokenEndpoint
from tokenbroker.model import Credentials, IssuerAnswer, Secret

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tokenbroker.ports import Issuer

SECRET = "correct horse battery staple"
CREDENTIALS = Credentials("client", client_secret=Secret(SECRET))


class Bench(Protocol):
    """An issuer whose server is in the test's hands."""

    issuer: Issuer

    def grants(self, scope: str | None) -> None: ...
    def refuses(self, kind: type[IssuerError], retry_after: float | None = None) -> None: ...
    def hangs(self) -> None: ...
    async def asked(self) -> None: ...
    async def hung_up(self) -> None: ...
    @property
    def requests(self) -> int: ...


class FakeBench:
    def __init__(self) -> None:
        self.fake = FakeIssuer()
        self.issuer: Issuer = self.fake

    def grants(self, scope: str | None) -> None:
        granted = None if scope is None else tuple(scope.split())
        self.fake.script = [IssuerAnswer(Secret("token"), "Bearer", 60.0, granted)]

    def refuses(self, kind: type[IssuerError], retry_after: float | None = None) -> None:
        self.fake.script = [kind("refused", retry_after=retry_after)]

    def hangs(self) -> None:
        self.fake.gate.clear()

    async def asked(self) -> None:
        await self.fake.asked.wait()

    async def hung_up(self) -> None:
        assert self.fake.cancelled == 1

    @property
    def requests(self) -> int:
        return len(self.fake.calls)


class HttpBench:
    def __init__(self, server: FaultIssuer) -> None:
        self.server = server
        config = IssuerConfig("main", token_endpoint=server.url)
        self.issuer: Issuer = TokenEndpoint(config, clock=StillClock(), env={})

    def grants(self, scope: str | None) -> None:
        said = {} if scope is None else {"scope": scope}
        self.server.script(
            fault_issuer.answer({"access_token": "token", "token_type": "bearer", "expires_in": 60, **said})
        )

    def refuses(self, kind: type[IssuerError], retry_after: float | None = None) -> None:
        wait = {} if retry_after is None else {"Retry-After": f"{retry_after:.0f}"}
        self.server.script(
            {
                IssuerUnavailable: fault_issuer.answer(b"", 503, wait),
                CredentialRejected: fault_issuer.error("invalid_client", 401),
                IssuerNeedsPerson: fault_issuer.error("access_denied", 403),
                IssuerMisconfigured: fault_issuer.error("invalid_scope"),
            }[kind]
        )

    def hangs(self) -> None:
        self.server.script(fault_issuer.silence)

    async def asked(self) -> None:
        await self.server.received.wait()

    async def hung_up(self) -> None:
        await self.server.disconnected.wait()

    @property
    def requests(self) -> int:
        return len(self.server.requests)


@pytest.fixture(params=["fake", "http", "github-app"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """Yield each implementation in turn."""
    if request.param == "fake":
        yield FakeBench()
        return
    async with FaultIssuer() as server:
        made: Bench = HttpBench(server) if request.param == "http" else GitHubBench(server)
        yield made
        await made.issuer.close()


async def ask(issuer: Issuer) -> IssuerAnswer:
    return await issuer.issue(CREDENTIALS, scopes=("read", "write"), audience="https://api", resource=None, extra={})


async def test_one_call_is_one_request(bench: Bench) -> None:
    """A success makes exactly one token request and gives a bearer token with its lifetime."""
    bench.grants("read write")
    answer = await ask(bench.issuer)
    assert (answer.access_token, answer.token_type, answer.lifetime) == (Secret("token"), "Bearer", 60.0)
    assert answer.scope == ("read", "write")
    assert bench.requests == 1


async def test_silence_about_scope_is_not_an_empty_grant(bench: Bench) -> None:
    """An issuer that says nothing of the scope is told apart from one that grants none (RFC 6749 §5.1)."""
    bench.grants(None)
    assert (await ask(bench.issuer)).scope is None


@pytest.mark.parametrize(
    ("kind", "error_class"),
    [
        (IssuerUnavailable, ErrorClass.RETRYABLE),
        (CredentialRejected, ErrorClass.CREDENTIAL_REJECTED),
        (IssuerNeedsPerson, ErrorClass.NEEDS_PERSON),
        (IssuerMisconfigured, ErrorClass.CONFIGURATION),
    ],
)
async def test_each_class_of_error(bench: Bench, kind: type[IssuerError], error_class: ErrorClass) -> None:
    """Each kind of refusal arrives as its own class, after one request and no retry."""
    bench.refuses(kind)
    with pytest.raises(kind) as raised:
        await ask(bench.issuer)
    assert raised.value.error_class is error_class
    assert bench.requests == 1
    assert SECRET not in f"{raised.value!r} {raised.value.hint}"


async def test_retry_after_is_passed_on(bench: Bench) -> None:
    """The wait that a server asks for reaches the caller in seconds."""
    bench.refuses(IssuerUnavailable, retry_after=17)
    with pytest.raises(IssuerUnavailable) as raised:
        await ask(bench.issuer)
    assert raised.value.retry_after == 17


async def test_cancelling_ends_the_request(bench: Bench) -> None:
    """A cancelled call is cancelled at once, and the server sees the connection go."""
    bench.hangs()
    task = asyncio.create_task(ask(bench.issuer))
    async with asyncio.timeout(5):
        await bench.asked()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await bench.hung_up()


async def test_closing_twice_is_allowed(bench: Bench) -> None:
    """Closing can be repeated; what is asked afterwards is refused as unavailable."""
    await ask(bench.issuer)
    await bench.issuer.close()
    await bench.issuer.close()
    with pytest.raises(IssuerUnavailable):
        await ask(bench.issuer)
