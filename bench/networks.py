"""How soon a caller has a clear error for each fault of a network (tests/standins/networks.py), with the defaults."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from bench.report import Row
from tests.fakes_vault import FakeVault
from tests.service.world import SECRET, Recorder, configuration
from tests.standins.networks import TROUBLES, Names, Site
from tokenbroker import backoff
from tokenbroker.broker import WAIT_BUDGET
from tokenbroker.config import Config, IssuerConfig
from tokenbroker.errors import BrokerError
from tokenbroker.exchange import Exchange
from tokenbroker.issuers.connections import warm
from tokenbroker.issuers.token_endpoint import TokenEndpoint
from tokenbroker.policy import key_for
from tokenbroker.system.clock import SystemClock
from tokenbroker.unlock import Unlock
from tokenbroker.unlocks import Unlocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.standins.networks import Reached


async def told(reached: Reached) -> tuple[float, BrokerError]:
    """Fetch as for a caller that waits; return the seconds until there was an error, and that."""
    given = configuration()
    issuer = IssuerConfig("main", **reached.config)
    config = Config(issuers={"main": issuer}, clients=given.clients, profiles=given.profiles)
    clock, audit = SystemClock(), Recorder()
    refs = config.refs()
    unlock = Unlock(
        FakeVault({str(ref): SECRET for ref in refs}, may_prompt=False),
        config.unlock,
        clock,
        refs=lambda: refs,
        audit=audit,
    )
    await unlock.secrets(refs, may_prompt=False)
    endpoint = TokenEndpoint(issuer, clock=clock, env=reached.env)
    exchange = Exchange(
        config, {"main": endpoint}, unlocks=Unlocks(unlock, None), audit=audit, clock=clock, random=lambda: 0.99
    )
    key = key_for(config.profiles["search"], config.clients["mine"], None)
    started = time.perf_counter()
    try:
        await exchange.fetch(key, attempts=backoff.FLIGHT_ATTEMPTS, may_reread=True)
    except BrokerError as error:
        return time.perf_counter() - started, error
    finally:
        await endpoint.close()
        await unlock.close()
    raise AssertionError("there was a token")


async def each() -> dict[str, tuple[float, BrokerError]]:
    """Meet every trouble, one after the other where they share a name, and the slow ones side by side."""

    async def meet(name: str) -> tuple[float, BrokerError]:
        async with TROUBLES[name].place(site) as reached:
            return await told(reached)

    with TemporaryDirectory() as folder, Names() as names:
        site = Site(Path(folder), names)
        slow = [name for name, trouble in TROUBLES.items() if trouble.limit > 1]
        found = {name: await meet(name) for name in TROUBLES if name not in slow}
        found |= dict(zip(slow, await asyncio.gather(*map(meet, slow)), strict=True))
    return {name: found[name] for name in TROUBLES}


def rows() -> Iterator[Row]:
    """Measure once; the slow ones wait for their time limits."""
    warm()
    for name, (seconds, error) in asyncio.run(each()).items():
        clear = type(error) is TROUBLES[name].kind and seconds < WAIT_BUDGET
        yield Row(
            f"clear error: {name}", f"{seconds:.2f} s", error.code, target=f"< {WAIT_BUDGET:g} s, its class", met=clear
        )
