"""A working day of nine hours on fakes: who asks when, what goes wrong, and the least that it could have cost.

`spend()` is also run by `make bench`. What the three minima mean is told in `Day` and in docs/benchmarks.md.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from tests.fakes_clock import settle
from tests.fakes_peers import autonomous_peer, interactive_peer
from tests.service.world import SECRET, World
from tokenbroker import backoff, lifecycle
from tokenbroker.broker import Served
from tokenbroker.config import ClientConfig, Config, IssuerConfig, ProfileConfig, RuleConfig, UnlockConfig
from tokenbroker.errors import BrokerError, IssuerThrottled, IssuerUnavailable, VaultError
from tokenbroker.model import AgentType, IssuerAnswer, Quota, Revocation, Secret, SecretRef
from tokenbroker_client.wire import TokenRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tokenbroker.model import Credentials, Peer, TokenKey

MINUTE: Final = 60.0
HOUR: Final = 3600.0
BEGIN: Final = 9 * HOUR
END: Final = 18 * HOUR
NOON: Final = 12 * HOUR + 17 * MINUTE
"""When a person locks the broker; the next agent of theirs has it unlocked."""
LUNCH: Final = (12.5 * HOUR, 13.25 * HOUR)
"""When the laptop sleeps."""
OUTAGE: Final = (15.4 * HOUR, 15.4 * HOUR + 10 * MINUTE)
"""When no issuer can be reached."""
REJECTED: Final = 0.002  # the share of tokens that an API refuses
PER_HOUR: Final = 10  # tokens per client of the metered issuer, and ten times as many a day, as Auth0 has it
MIDDLE: Final = 0.5  # of the jitter, so that the windows are known

LIFETIMES: Final = {"short": 300.0, "hourly": 3599.0, "daily": 86400.0, "metered": 3600.0}  # by issuer
PROFILES: Final = {  # profile → issuer, scopes
    "deploy": ("short", ("read", "write")),
    "logs": ("short", ("read",)),
    "search": ("hourly", ("read", "suggest", "write")),
    "wiki": ("hourly", ("read",)),
    "mail": ("daily", ("read", "send")),
    "crm": ("metered", ("read", "write")),
    "billing": ("metered", ("read",)),
}


def configuration() -> Config:
    """Return four issuers, each with a client for people's programs and one for cron's."""
    clients = {
        f"{issuer}-{agent_type}": ClientConfig(
            f"{issuer}-{agent_type}",
            issuer,
            agent_type,
            "owner@example.com",
            f"id-{issuer}-{agent_type}",
            SecretRef(f"op://Agents/{issuer}-{agent_type}/credential"),
        )
        for issuer in LIFETIMES
        for agent_type in AgentType
    }
    return Config(
        unlock=UnlockConfig(),
        issuers={name: IssuerConfig(name, token_endpoint=f"https://{name}.example.com/token") for name in LIFETIMES},
        clients=clients,
        profiles={
            name: ProfileConfig(
                name,
                tuple(f"{issuer}-{agent_type}" for agent_type in AgentType),
                audience=f"https://{name}",
                scopes=scopes,
            )
            for name, (issuer, scopes) in PROFILES.items()
        },
        rules=(RuleConfig("*", "allow"),),
    )


@dataclass(order=True, slots=True)
class Ask:
    """One program that wants a token at a moment of the day."""

    at: float
    pid: int
    profile: str
    scopes: tuple[str, ...] = ()
    autonomous: bool = False


AGENTS: Final = (  # of people's programs: pid, profiles with their scopes (none: all), minutes of work, of rest
    (1, (("search", ()), ("deploy", ())), (3, 25), (2, 20)),
    (2, (("search", ()), ("wiki", ()), ("crm", ())), (3, 25), (2, 20)),
    (3, (("search", ("read",)), ("logs", ()), ("crm", ("read",))), (2, 12), (10, 50)),
    (4, (("mail", ()), ("billing", ()), ("deploy", ("read",))), (1, 5), (5, 40)),
    (5, (("mail", ("read",)), ("wiki", ()), ("crm", ())), (5, 40), (5, 90)),
)
CRON: Final = (  # pid, profile, minutes between two runs, asks of one run
    (11, "logs", 1, 1),
    (12, "deploy", 10, 2),
    (13, "search", 15, 1),
    (14, "wiki", 60, 3),
    (15, "mail", 30, 1),
    (16, "crm", 5, 1),
    (17, "billing", 120, 1),
)


def asks(seed: int) -> list[Ask]:
    """Return who asks when: agents every few seconds in bursts, cron on the minute."""
    dice = random.Random(seed)  # noqa: S311  # a reproducible day
    wanted: list[Ask] = []
    for pid, profiles, work, rest in AGENTS:
        now = BEGIN + dice.uniform(0, 15) * MINUTE
        while now < END:
            until = now + dice.uniform(*work) * MINUTE
            while now < min(until, END):
                wanted.append(Ask(now, pid, *dice.choice(profiles)))
                now += dice.uniform(4, 30)
            now = until + dice.uniform(*rest) * MINUTE
    for pid, profile, every, times in CRON:
        runs = range(int(BEGIN / MINUTE), int(END / MINUTE), every)
        moments = (run * MINUTE + 1 + second for run in runs for second in range(times))
        wanted += [Ask(moment, pid, profile, autonomous=True) for moment in moments]
    return sorted(ask for ask in wanted if not LUNCH[0] <= ask.at < LUNCH[1])


@dataclass(slots=True)
class DayIssuer:
    """One issuer: down during the outage, and with quotas per client if it is the metered one."""

    name: str
    now: Callable[[], float]
    quotas: Mapping[str, tuple[int, float]]
    """Bucket → tokens of one client, and the seconds after which they are there again."""
    minted: list[float] = field(default_factory=list)
    in_vain: int = 0
    """Requests that it could not be reached by."""
    refused: int = 0
    """Requests beyond a quota."""
    spent: dict[tuple[str, str, int], int] = field(default_factory=lambda: defaultdict(int))

    async def issue(self, credentials: Credentials, **_: object) -> IssuerAnswer:
        now = self.now()
        if OUTAGE[0] <= now < OUTAGE[1]:
            self.in_vain += 1
            raise IssuerUnavailable("down")
        quotas = self._quotas(credentials.client_id, now)
        if any(quota.remaining < 0 for quota in quotas):
            self.refused += 1
            error = IssuerThrottled("429", retry_after=60.0)
            error.quotas = tuple(replace(quota, remaining=0) for quota in quotas)
            raise error
        self.minted.append(now)
        text = f"{self.name}-{len(self.minted)}"
        return IssuerAnswer(Secret(text), "Bearer", LIFETIMES[self.name], None, quotas=quotas)

    def _quotas(self, client: str, now: float) -> tuple[Quota, ...]:
        told = []
        for bucket, (limit, length) in self.quotas.items():
            place = client, bucket, int(now / length)
            self.spent[place] += 1
            told.append(Quota("client", bucket, limit, limit - self.spent[place], length - now % length))
        return tuple(told)

    def left(self, client: str) -> bool:
        """Tell whether the client could have one more token now."""
        now = self.now()
        return all(
            self.spent[client, bucket, int(now / length)] < limit for bucket, (limit, length) in self.quotas.items()
        )

    async def revoke(self, *_: object) -> Revocation:
        return Revocation.REVOKED

    async def close(self) -> None:
        return


@dataclass
class Day:
    """What came of it."""

    told: dict[TokenKey, list[float | None]] = field(default_factory=lambda: defaultdict(list))
    """When each token was asked for with success, in order; `None`: it was dropped, by an API's refusal or a lock."""
    used: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Issuer → the tokens that somebody was given."""
    minted: dict[str, int] = field(default_factory=dict)
    """Issuer → exchanges that brought a token."""
    in_vain: int = 0
    served: int = 0
    over_quota: int = 0
    locked: int = 0
    down: int = 0
    """Asks refused because the vault was locked, or no issuer could be reached and there was no token."""
    denied: list[tuple[Ask, BrokerError]] = field(default_factory=list)
    """Asks refused for no reason that lay outside of the broker."""
    spent: list[Ask] = field(default_factory=list)
    """Asks refused because nothing was left of a quota."""

    def least(self, issuer: str, good_for: Callable[[float], float]) -> int:
        """Return the least exchanges by which everybody who was served could have been, knowing the whole day.

        A token of lifetime L is good for `good_for(L)` seconds, unless it is dropped before. The first ask that no
        token covers needs one, and the later it is minted the further it reaches; during the outage none is minted.
        """
        reach = good_for(LIFETIMES[issuer])
        return sum(_cover(told, reach) for key, told in self.told.items() if PROFILES[key.profile][0] == issuer)


def _cover(told: Iterable[float | None], reach: float) -> int:
    count, minted = 0, float("-inf")
    for at in told:
        if at is None:
            minted = float("-inf")
        elif at >= minted + reach:
            count += 1
            minted = min(at, OUTAGE[0]) if at < OUTAGE[1] else at
    return count


def to_expiry(lifetime: float) -> float:
    """A broker that renews only when a token has expired, and lets its caller wait."""
    return lifetime - lifecycle.LAST_SECOND


def unwaited(lifetime: float) -> float:
    """Nobody ever waits: the next token is there when the mandatory window begins."""
    return lifetime - lifecycle.mandatory_window(lifetime)


def windows(lifetime: float) -> float:
    """Nobody is given a token that is due for renewal by the advisory window."""
    return lifetime - lifecycle.advisory_window(lifetime) * (1 - lifecycle.ADVISORY_JITTER * MIDDLE)


class _Life:
    """The day as it goes."""

    def __init__(self, seed: int, per_hour: int) -> None:
        self.day = Day()
        self.dice = random.Random(seed)  # noqa: S311  # which tokens an API refuses
        config = configuration()
        self.world = World(config, spread=MIDDLE)
        self.world.vault.values = {str(ref): SECRET for ref in config.refs()}
        self.start = self.world.clock.now().elapsed
        metered = {"per_hour": (per_hour, HOUR), "per_day": (10 * per_hour, 24 * HOUR)}
        self.issuers = {name: DayIssuer(name, self.now, metered if name == "metered" else {}) for name in LIFETIMES}
        self.world.cache.exchange.minting.issuers = dict(self.issuers)
        self.asking: set[asyncio.Task[None]] = set()

    def now(self) -> float:
        """Return the seconds since midnight."""
        return BEGIN + self.world.clock.now().elapsed - self.start

    def peer(self, ask: Ask) -> Peer:
        peer = autonomous_peer(4000 + ask.pid) if ask.autonomous else interactive_peer(4000 + ask.pid)
        self.world.inspector.start(peer.pid, peer.start_time)
        return peer

    async def ask(self, ask: Ask) -> None:
        """Ask, and once more if an API refuses the token."""
        served = await self._ask(ask)
        if served is None or self.dice.random() >= REJECTED:
            return
        if self.world.broker.rejected(ask.profile, served.token.fingerprint, self.peer(ask)):
            self.day.told[served.key].append(None)
            await self._ask(ask)

    async def _ask(self, ask: Ask) -> Served | None:
        wanted = TokenRequest(profile=ask.profile, scopes=ask.scopes)
        issuer = self.issuers[PROFILES[ask.profile][0]]
        client = f"id-{issuer.name}-{AgentType.AUTONOMOUS if ask.autonomous else AgentType.INTERACTIVE}"
        asked, could = self.now(), issuer.left(client)
        try:
            answer = self.world.broker.request(wanted, self.peer(ask))
            served = answer if isinstance(answer, Served) else await answer
        except BrokerError as error:
            self._refused(ask, error, could=could)
            return None
        self.day.told[served.key].append(asked if served.source == "cache" else self.now())
        self.day.served += 1
        self.day.used[issuer.name].add(served.token.value.reveal())
        return served

    def _refused(self, ask: Ask, error: BrokerError, *, could: bool) -> None:
        if isinstance(error, VaultError):
            self.day.locked += 1
        elif not could:
            self.day.spent.append(ask)
        elif isinstance(error, IssuerUnavailable) and OUTAGE[0] <= self.now() < OUTAGE[1] + backoff.RETRY_CAP:
            self.day.down += 1
        else:
            self.day.denied.append((ask, error))

    async def until(self, at: float) -> None:
        """Let time pass, the lock and the sleep included."""
        for event, happens in ((NOON, self._lock), (LUNCH[0], self._sleep)):
            if self.now() <= event < at:
                await self.world.clock.advance(event - self.now())
                happens()
                await settle()
        await self.world.clock.advance(max(0.0, at - self.now()))

    def _lock(self) -> None:
        for key in [entry.key for entry in self.world.cache]:
            self.day.told[key].append(None)
        self.world.control.lock("a person locked it")

    def _sleep(self) -> None:
        self.world.clock.sleep_machine(LUNCH[1] - LUNCH[0])

    async def run(self, wanted: list[Ask]) -> Day:
        async with self.world:
            for ask in wanted:
                await self.until(ask.at)
                task = asyncio.ensure_future(self.ask(ask))
                self.asking.add(task)
                task.add_done_callback(self.asking.discard)
            while self.asking:
                await self.world.clock.advance(1.0)
        day = self.day
        day.minted = {name: len(issuer.minted) for name, issuer in self.issuers.items()}
        day.in_vain = sum(issuer.in_vain for issuer in self.issuers.values())
        day.over_quota = sum(issuer.refused for issuer in self.issuers.values())
        return day


async def spend(seed: int, *, per_hour: int = PER_HOUR) -> Day:
    """Spend the day, the same one for each `seed`."""
    return await _Life(seed, per_hour).run(asks(seed))
