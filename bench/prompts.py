"""A day of eight agents, forty profiles and three locks: how often the person is asked, and how often `op` runs.

The broker's own parts and the real stand-in for `op`, on a clock that is moved. The app locks by itself after each
turn of work, so whoever calls `op` again is asked again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.processes import folder
from bench.report import Row
from tests.fakes_peers import interactive_peer
from tests.service.world import SECRET, World, configuration
from tests.standins.op_world import TTY_POLICIES, OpWorld
from tokenbroker.broker import Served
from tokenbroker.config import ProfileConfig, UnlockConfig, VaultConfig
from tokenbroker.errors import Locked
from tokenbroker.model import DesktopEvent, SecretRef
from tokenbroker.vaults.op.app import OpVault
from tokenbroker.vaults.op.program import op_environment
from tokenbroker.vaults.op.runner import OpRunner
from tokenbroker_client.wire import TokenRequest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.standins.op_world import TtyPolicy
    from tokenbroker.config import Config
    from tokenbroker.model import Peer

AGENTS = 8
PROFILES = 40
TURNS = 2  # turns of work between two locks; in each, every agent asks for every profile
LOCKS = ("broker lock", DesktopEvent.SCREEN_LOCK, DesktopEvent.SLEEP)
HOUR = 3600.0
DAY = 24.0  # hours
ACCOUNT = "my.1password.com"


@dataclass(frozen=True, slots=True)
class Day:
    """What it came to."""

    prompts: int
    calls: int
    """Runs of `op`."""
    unlocks: int = 0
    served: int = 0
    refused: int = 0
    """Callers that may not cause a prompt, while it was locked."""


def config() -> Config:
    """Return a configuration in which each profile has a client, and a reference, of its own."""
    base = configuration(unlock=UnlockConfig(on_screen_lock="lock", on_sleep="lock"))
    numbers = range(PROFILES)
    mine = base.clients["mine"]
    clients = [
        replace(mine, name=f"c{number}", client_secret=SecretRef(f"op://Agents/client {number}/credential"))
        for number in numbers
    ]
    profiles = [ProfileConfig(f"p{number}", (f"c{number}",), audience=f"https://{number}") for number in numbers]
    return replace(base, clients={one.name: one for one in clients}, profiles={one.name: one for one in profiles})


def world(place: Path, policy: TtyPolicy) -> OpWorld:
    """Return a world with all items, whose person approves at once and whose `op` is as quick as it can be."""
    made = OpWorld.create(place, account=ACCOUNT)
    made.set(latency="none")
    made.person("approve", delay=0)
    made.tty_policy(policy)
    for number in range(PROFILES):
        made.add_item("Agents", f"client {number}", {"credential": SECRET})
    made.install(place / "bin")
    return made


class Brokered:
    """The day with the broker."""

    def __init__(self, place: Path, op: OpWorld) -> None:
        """Put the broker over `op`."""
        self._op = op
        self._world = World(config())
        self._vault = OpVault(
            VaultConfig(op=str(place / "bin/op"), account=ACCOUNT), environ={}, home=place, clock=self._world.clock
        )
        self._agents = [interactive_peer(5000 + number) for number in range(AGENTS)]
        for agent in self._agents:
            self._world.inspector.start(agent.pid, agent.start_time)
        self._served = self._refused = 0

    async def live(self) -> Day:
        """Live it."""
        async with self._world:
            self._world.unlock.replace(self._vault)
            for lock in LOCKS:
                for _ in range(TURNS):
                    await self._turn("allow")
                    self._op.lock_app()
                    await self._pass(1)
                self._lock(lock)
                await self._turn("never")
                await self._pass(1)
            await self._pass(DAY - len(LOCKS) * (TURNS + 1))
            unlocks = len(self._world.audit.named("unlocked"))
        return Day(self._op.prompts(), len(self._op.calls()), unlocks, self._served, self._refused)

    async def _turn(self, interaction: str) -> None:
        """Let every agent ask for every profile, all at once."""
        asking = (self._ask(agent, f"p{number}", interaction) for agent in self._agents for number in range(PROFILES))
        await asyncio.gather(*asking)

    async def _ask(self, agent: Peer, profile: str, interaction: str) -> None:
        try:
            answer = self._world.broker.request(TokenRequest(profile=profile, interaction=interaction), agent)
            if not isinstance(answer, Served):
                await answer
        except Locked:
            self._refused += 1
        else:
            self._served += 1

    def _lock(self, how: str | DesktopEvent) -> None:
        if isinstance(how, DesktopEvent):
            self._world.control.happened(how)
        else:
            self._world.control.lock(how)

    async def _pass(self, hours: float) -> None:
        self._op.advance(hours * HOUR)
        await self._world.clock.advance(hours * HOUR)


async def bare(place: Path, op: OpWorld) -> Day:
    """Live the same day without the broker: each agent, in a session of its own, reads one reference in each turn."""
    agents = [OpRunner(terminal=False) for _ in range(AGENTS)]
    argv = [str(place / "bin/op"), "read", "op://Agents/client 0/credential", "--account", ACCOUNT]
    environment = op_environment({}, place)
    for _ in range(len(LOCKS) * TURNS):
        for agent in agents:  # not at once: sessions that begin in the same tick of the kernel's clock count as one
            assert not (await agent.run(argv, env=environment, seconds=60)).failed
        op.lock_app()
        op.advance(HOUR)
    for agent in agents:
        await agent.close()
    return Day(op.prompts(), len(op.calls()))


def rows() -> Iterator[Row]:
    """Live the day under each policy that the app may have for callers without a terminal."""
    for policy in TTY_POLICIES:
        with folder() as place:
            ours = asyncio.run(Brokered(place, op := world(place, policy)).live())
            op.close()
        with folder() as place:
            theirs = asyncio.run(bare(place, op := world(place, policy)))
            op.close()
        asked = AGENTS * PROFILES * len(LOCKS)
        yield Row(
            f"prompts a day, {ours.unlocks} unlocks ({policy})",
            str(ours.prompts),
            f"{theirs.prompts} (`op read` once a turn)",
            target="1 an unlock",
            met=ours.prompts == ours.unlocks == len(LOCKS),
        )
        yield Row(
            "· `op` calls", str(ours.calls), f"{theirs.calls}", target="1 an unlock", met=ours.calls == len(LOCKS)
        )
        yield Row(
            "· served; refused while locked",
            f"{ours.served}; {ours.refused}",
            target=f"{asked * TURNS}; {asked}",
            met=(ours.served, ours.refused) == (asked * TURNS, asked),
        )
