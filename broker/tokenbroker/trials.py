"""Each client is tried once for `broker doctor`: does its issuer give it a token, and one that holds what it should?

Rules of this file:
1. Nobody is asked: a client whose secrets are not in memory, and would have to be asked for, is not tried.
2. A trial goes through the cache: a token at hand is good enough, a new one serves the next program, and what was
   refused a moment ago is not asked again. So a doctor in a loop neither burns a quota nor locks a client out.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tokenbroker import lifecycle, policy
from tokenbroker.errors import BrokerError, Busy, Locked
from tokenbroker.lifecycle import Action

if TYPE_CHECKING:
    from tokenbroker.broker import Broker
    from tokenbroker.cache import Entry
    from tokenbroker.config import ClientConfig, Config, ProfileConfig
    from tokenbroker.model import TokenKey
    from tokenbroker.ports import Clock

BUDGET: Final = 9.0  # seconds for one client
AT_ONCE: Final = 8
MOST: Final = 50  # clients of one trial: each may cost a token of somebody's quota


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of one client."""

    client: str
    entry: Entry
    problem: BrokerError | None
    """Why there is no token; `None` when the entry has one."""


async def try_clients(broker: Broker, clock: Clock) -> list[Trial]:
    """Try each client with the first profile that names it. Never raises for one that fails."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(client: ClientConfig, profile: ProfileConfig) -> Trial:
        async with gate:
            return await _tried(broker, policy.key_for(profile, client, None), clock)

    pairs = list(_pairs(broker.config).values())[:MOST]
    return list(await asyncio.gather(*(one(client, profile) for client, profile in pairs)))


def _pairs(config: Config) -> dict[str, tuple[ClientConfig, ProfileConfig]]:
    found: dict[str, tuple[ClientConfig, ProfileConfig]] = {}
    for profile in config.profiles.values():
        for name in profile.clients:
            found.setdefault(name, (config.clients[name], profile))
    return found


async def _tried(broker: Broker, key: TokenKey, clock: Clock) -> Trial:
    """Have a token, if that needs nobody."""
    cache = broker.cache
    entry = cache.entry(key)
    if lifecycle.decide(entry.slot, clock.now()) is Action.FETCH:
        problem = await _unreadable(broker, key)
        if problem is not None:
            return Trial(key.client, entry, problem)
        if entry.dropped is not None:
            return Trial(key.client, entry, entry.dropped)
        entry = cache.keep(entry)  # it may have lapsed meanwhile
        # Decided anew: others may have fetched while the vault was read.
        if lifecycle.decide(entry.slot, clock.now()) is Action.FETCH:
            cache.start(entry, attempts=1, may_prompt=False)
    if not lifecycle.usable(entry.slot, clock.now()):
        await cache.wait(entry, BUDGET)
    return Trial(key.client, entry, _problem(entry, clock))


async def _unreadable(broker: Broker, key: TokenKey) -> BrokerError | None:
    """Return why the secrets for `key` cannot be had without a person."""
    unlock = broker.unlocks.of(broker.config.clients[key.client].agent_type)
    try:
        await unlock.secrets(broker.cache.exchange.refs(key), may_prompt=False)
    except BrokerError as error:
        if type(error) is Locked:
            return Locked("its secrets are not in memory, and reading them would ask a person", hint="broker unlock")
        return error
    return None


def _problem(entry: Entry, clock: Clock) -> BrokerError | None:
    if lifecycle.usable(entry.slot, clock.now()):
        return None
    if entry.dropped is not None:
        return entry.dropped
    if entry.slot.failure is not None and not entry.slot.fetching:
        return entry.slot.failure.error
    return Busy(f"its issuer has not answered within {BUDGET:.0f} s", retry_after=1.0)
