"""Forty references at once: in how many calls, and how long, beside reading them one by one."""

from __future__ import annotations

import asyncio
import subprocess
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from bench.processes import folder
from bench.report import Row
from tests.e2e.rig import Background
from tests.standins.connect_server import TOKEN, ConnectServer
from tests.standins.op_things import service_account_token
from tests.standins.op_world import OpWorld
from tokenbroker.config import VaultConfig
from tokenbroker.model import Secret, SecretRef
from tokenbroker.system.clock import SystemClock
from tokenbroker.vaults.connect.vault import ConnectVault
from tokenbroker.vaults.op.app import OpVault
from tokenbroker.vaults.op.program import op_environment
from tokenbroker.vaults.op.service_account import ServiceAccountVault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.standins.op_world import Mode
    from tokenbroker.ports import Vault

REFERENCES = 40
WRONG = 2
ROUNDS = 3
SCALE = 0.1  # of the times that people report of `op`: 0.7 to 1.9 s a read, 1.3 s more for a batch
SHARE = 0.1  # of the time that reading one by one takes
REFS = [SecretRef(f"op://Agents/client {number}/credential") for number in range(REFERENCES)]
BAD = [*REFS[WRONG:], *(SecretRef(f"op://Agents/nobody {number}/credential") for number in range(WRONG))]


@dataclass(frozen=True, slots=True)
class Read:
    """One read of all."""

    seconds: float
    calls: int
    """Of `op`, or requests."""
    secrets: int
    prompts: int = 0


async def token() -> Secret:
    """Give the service account's token."""
    return Secret(service_account_token())


def world(place: Path, mode: Mode = "user") -> OpWorld:
    """Return a world with all items, as slow as `SCALE` says, whose person approves at once."""
    made = OpWorld.create(place, mode=mode)
    made.set(latency="terminal", time_scale=SCALE)
    made.person("approve", delay=0)
    for number in range(REFERENCES):
        made.add_item("Agents", f"client {number}", {"credential": f"secret {number}"})
    made.install(place / "bin")
    return made


def app(place: Path) -> OpVault:
    """Return the vault of a person."""
    return OpVault(VaultConfig(op=str(place / "bin/op")), environ={}, home=place)


def guarded(place: Path) -> OpVault:
    """Return the vault of a person whom 1Password asks for each call, and who found that out."""
    return OpVault(VaultConfig(op=str(place / "bin/op")), environ={}, home=place, calls_prompt=True)


def account(place: Path) -> ServiceAccountVault:
    """Return the vault of a service account."""
    config = VaultConfig(backend="service-account", op=str(place / "bin/op"), credential="fd://3")
    return ServiceAccountVault(config, environ={}, home=place, credential=token, clock=SystemClock())


def read(
    make: Callable[[Path], Vault], refs: Sequence[SecretRef], mode: Mode = "user", *, every_call: bool = False
) -> Read:
    """Read all of `refs` at once in a new world; `every_call`: 1Password asks for each."""
    with folder() as place:
        op = world(place, mode)
        op.app(asks_every_call=every_call)

        async def timed() -> Read:
            vault = make(place)
            start = time.perf_counter()
            values = await vault.read(refs)
            taken = time.perf_counter() - start
            calls = len(op.calls())
            await vault.close()
            return Read(taken, calls, sum(isinstance(value, Secret) for value in values.values()), op.prompts())

        done = asyncio.run(timed())
        op.close()
    return done


def one_by_one() -> Read:
    """Read all with `op read`, as a script does."""
    with folder() as place:
        op = world(place)
        environment = op_environment({}, place)
        start = time.perf_counter()
        for ref in REFS:
            argv = [str(place / "bin/op"), "read", ref.uri]
            subprocess.run(argv, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
        return Read(time.perf_counter() - start, len(op.calls()), REFERENCES, op.prompts())


def connect(groups: Sequence[Sequence[SecretRef]]) -> Read:
    """Read one group after the other from a Connect server on loopback, which has a thread of its own."""
    server = ConnectServer()
    vault_id = server.add_vault("Agents")
    for number in range(REFERENCES):
        server.add_item(vault_id, f"client {number}", {"credential": f"secret {number}"})

    async def connect_token() -> Secret:
        return Secret(TOKEN)

    async def timed(vault: ConnectVault) -> Read:
        start = time.perf_counter()
        answers = [await vault.read(group) for group in groups]
        taken = time.perf_counter() - start
        secrets = sum(isinstance(value, Secret) for answer in answers for value in answer.values())
        return Read(taken, len(server.requests), secrets)

    with Background() as beside:
        beside.enter(server)
        config = VaultConfig(backend="connect", url=server.url, credential="fd://3")
        return asyncio.run(timed(ConnectVault(config, credential=connect_token)))


def milliseconds(reads: Sequence[Read]) -> str:
    """Return the middle as text."""
    return f"{median(one.seconds for one in reads) * 1000:.0f} ms"


def rows() -> Iterator[Row]:
    """Measure; the middle of the rounds counts for time, the worst for everything else."""
    single = one_by_one()
    yield from with_app(single)
    yield from with_account()
    yield from with_connect()


def with_app(single: Read) -> Iterator[Row]:
    """Measure `op` with the app."""
    whole, partly = ([read(app, refs) for _ in range(ROUNDS)] for refs in (REFS, BAD))
    ratio = median(one.seconds for one in whole) / single.seconds
    calls = max(one.calls for one in whole)
    yield Row(
        f"{REFERENCES} references, `op` ({SCALE:g} of its times)",
        milliseconds(whole),
        f"{milliseconds([single])} (`op read` each)",
        ratio,
        f"≤ {SHARE:g}",
        ratio <= SHARE and all(one.secrets == REFERENCES for one in whole),
    )
    yield Row("· `op` calls", str(calls), str(single.calls), target="1", met=calls == 1)
    worst = max(one.calls for one in partly)
    found = min(one.secrets for one in partly)
    yield Row(f"· {WRONG} of them wrong", milliseconds(partly))
    yield Row(
        "· · `op` calls; prompts",
        f"{worst}; {max(one.prompts for one in partly)}",
        target=f"≤ {1 + WRONG}; 1",
        met=worst <= 1 + WRONG and all(one.prompts == 1 for one in partly) and found == REFERENCES - WRONG,
    )
    unaware, aware = (read(make, BAD, every_call=True) for make in (app, guarded))
    yield Row(
        "· · where each call asks: prompts",
        str(aware.prompts),
        f"{unaware.prompts} (before `broker doctor op`)",
        target="≤ 2",
        met=aware.prompts <= 2,
    )
    yield Row("· · · references read", str(aware.secrets), f"{unaware.secrets} (before `broker doctor op`)")


def with_account() -> Iterator[Row]:
    """Measure a service account."""
    whole, partly = ([read(account, refs, "sa") for _ in range(ROUNDS)] for refs in (REFS, BAD))
    calls = [max(one.calls for one in side) for side in (whole, partly)]
    yield Row(
        f"{REFERENCES} references, service-account ({SCALE:g})",
        milliseconds(whole),
        f"{milliseconds(partly)} ({WRONG} of them wrong)",
    )
    yield Row(
        "· `op` calls, the first asks the limits",
        str(calls[0]),
        str(calls[1]),
        target=f"2; ≤ {2 + WRONG}",
        met=calls[0] == 2 and calls[1] <= 2 + WRONG and all(one.secrets == REFERENCES for one in whole),
    )


def with_connect() -> Iterator[Row]:
    """Measure a Connect server."""
    connect([REFS])  # loads what is loaded once
    pairs = [(connect([REFS]), connect([[ref] for ref in REFS])) for _ in range(ROUNDS)]
    whole, single = ([pair[side] for pair in pairs] for side in (0, 1))
    requests = max(one.calls for one in whole)
    yield Row(
        f"{REFERENCES} references, connect (loopback)",
        milliseconds(whole),
        f"{milliseconds(single)} (one by one)",
        median(one.seconds / other.seconds for one, other in pairs),
    )
    yield Row(
        "· requests",
        str(requests),
        str(max(one.calls for one in single)),
        target=f"≤ {REFERENCES + 2}",
        met=requests <= REFERENCES + 2 and all(one.secrets == REFERENCES for one in whole),
    )
