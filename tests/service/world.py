"""A whole Broker on fakes: one configuration, one vault, one issuer, a clock that the test owns."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Self

from tests.fakes_announcer import FakeAnnouncer
from tests.fakes_clock import FakeClock, settle
from tests.fakes_issuer import FakeIssuer
from tests.fakes_peers import FakePeerInspector, autonomous_peer, interactive_peer
from tests.fakes_vault import FakeVault
from tokenbroker.broker import Broker, Served
from tokenbroker.cache import TokenCache
from tokenbroker.config import ClientConfig, Config, IssuerConfig, ProfileConfig, RuleConfig, UnlockConfig
from tokenbroker.control import Control
from tokenbroker.exchange import Exchange
from tokenbroker.model import AgentType, Secret, SecretRef
from tokenbroker.sessions import Sessions
from tokenbroker.unlock import Unlock
from tokenbroker.unlocks import Unlocks
from tokenbroker_client.wire import TokenRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenbroker.config import Decision
    from tokenbroker.model import Peer

SECRET = "s3cr+t%/&= ü"  # what must survive every encoding


def configuration(
    *, decide: Decision = "allow", unlock: UnlockConfig | None = None, scopes: tuple[str, ...] = ("read",)
) -> Config:
    """Return one issuer, a client for each agent type, and profiles `search` (both) and `billing` (interactive)."""
    clients = {
        name: ClientConfig(
            name, "main", agent_type, "owner@example.com", f"id-{name}", SecretRef(f"op://Agents/{name}/credential")
        )
        for name, agent_type in (("mine", AgentType.INTERACTIVE), ("mine-cron", AgentType.AUTONOMOUS))
    }
    return Config(
        unlock=unlock or UnlockConfig(),
        issuers={"main": IssuerConfig("main", token_endpoint="https://issuer.example.com/token")},
        clients=clients,
        profiles={
            "search": ProfileConfig("search", ("mine", "mine-cron"), audience="https://search", scopes=scopes),
            "billing": ProfileConfig("billing", ("mine",), audience="https://billing"),
        },
        rules=(RuleConfig("*", decide),),
    )


class Recorder:
    """An `AuditSink` that remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Mapping[str, object]]] = []

    def record(self, event: str, fields: Mapping[str, object]) -> None:
        self.events.append((event, dict(fields)))

    def named(self, event: str) -> list[Mapping[str, object]]:
        return [fields for name, fields in self.events if name == event]


class SayNo:
    """An `Approver` without a person."""

    answer = False

    async def ask(self, peer: Peer, profile: str, reason: str | None) -> bool:
        return self.answer


class World:
    """Use it as `async with World() as world`: the renewal loop runs in it."""

    def __init__(
        self, config: Config | None = None, *, lifetime: float = 3600.0, may_prompt: bool = True, spread: float = 0.0
    ) -> None:
        self.config = config or configuration()
        self.clock = FakeClock()
        self.vault = FakeVault({str(ref): SECRET for ref in self.config.refs()}, may_prompt=may_prompt)
        self.issuer = FakeIssuer(lifetime=lifetime, accepts=Secret(SECRET))
        self.inspector = FakePeerInspector()
        self.approver = SayNo()
        self.audit = Recorder()
        self.announcer = FakeAnnouncer()
        self.spread = spread
        self.unlock = self._unlock(self.vault, autonomous=False)
        self.cron_vault = FakeVault(
            {str(ref): SECRET for ref in self.config.refs(autonomous=True)}, may_prompt=False, name="fake-autonomous"
        )
        has_two = self.config.autonomous_vault is not None
        self.unlocks = Unlocks(self.unlock, self._unlock(self.cron_vault, autonomous=True) if has_two else None)
        self.cache = TokenCache(
            self.exchange(self.config), audit=self.audit, clock=self.clock, random=lambda: self.spread
        )
        self.broker = Broker(
            self.config,
            unlocks=self.unlocks,
            cache=self.cache,
            sessions=Sessions(self.inspector),
            inspector=self.inspector,
            approver=self.approver,
            audit=self.audit,
            clock=self.clock,
        )
        self.control = Control(self.broker, self.audit, self.clock)
        self.me = interactive_peer()
        self.cron = autonomous_peer()
        for peer in (self.me, self.cron):
            self.inspector.start(peer.pid, peer.start_time)
        self._running: asyncio.Task[None] | None = None

    def _unlock(self, vault: FakeVault, *, autonomous: bool) -> Unlock:
        return Unlock(
            vault,
            self.config.unlock,
            self.clock,
            refs=lambda: self.broker.config.refs(autonomous=autonomous),
            audit=self.audit,
            announcer=self.announcer,
        )

    def exchange(self, config: Config) -> Exchange:
        return Exchange(
            config,
            {"main": self.issuer},
            unlocks=self.unlocks,
            audit=self.audit,
            clock=self.clock,
            random=lambda: self.spread,
        )

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self.cache.run())
        await settle()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.broker.stop()
        if self._running is not None:
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running

    def start(self, profile: str = "search", *, peer: Peer | None = None, **wanted: object) -> asyncio.Task[Served]:
        """Ask in a task of its own."""
        return asyncio.ensure_future(self.ask(profile, peer=peer, **wanted))

    async def ask(self, profile: str = "search", *, peer: Peer | None = None, **wanted: object) -> Served:
        """Ask, and wait for the answer; time passes only as far as the answer needs it."""
        request = TokenRequest(profile=profile, **wanted)  # type: ignore[arg-type]  # the tests' keywords
        answer = self.broker.request(request, peer or self.me)
        return answer if isinstance(answer, Served) else await answer

    async def ask_and_wait(self, profile: str = "search", *, peer: Peer | None = None, **wanted: object) -> Served:
        """Ask, and let time pass in small steps until there is an answer."""
        asking = self.start(profile, peer=peer, **wanted)
        await settle()
        while not asking.done():
            await self.clock.advance(0.5)
        return asking.result()
