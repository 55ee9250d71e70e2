"""Two hundred callers at once on a cold cache: one prompt, one exchange, and all served as soon as both are done."""

from __future__ import annotations

import asyncio
import subprocess
import time
from statistics import median
from typing import TYPE_CHECKING

from bench.processes import ASK, broker, folder
from bench.report import Row
from bench.vault import AUDIENCE, CLIENT_ID, CLIENT_SECRET, OWNER, SCOPE, configuration, vault
from tokenbroker.dev.authorization import DevClient
from tokenbroker.dev.issuer import DevIssuer, Fault
from tokenbroker.model import AgentType, Secret

if TYPE_CHECKING:
    from collections.abc import Iterator

CALLERS = 200
ROUNDS = 5
PROMPT = 0.3  # seconds that the person takes
LATENCY = 0.5  # seconds that the issuer takes
ALLOWANCE = 0.1  # seconds for everything else
SETTLE = 1.0  # seconds: the daemon has been running for a while


class Slow(asyncio.Event):
    """What the issuer waits for: a time."""

    async def wait(self) -> bool:  # type: ignore[override]  # always true, as the event's
        """Take the issuer's latency."""
        await asyncio.sleep(LATENCY)
        return True


async def call(path: str) -> tuple[float, bool]:
    """Ask once; return when the answer was whole, and whether it was a token."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(ASK)
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
    writer.close()
    return time.perf_counter(), head.startswith(b"HTTP/1.1 200")


def bare() -> float:
    """Return the seconds that one `op` takes by itself, its start and the prompt included."""
    with folder() as place:
        argv = [str(vault(place, prompt=PROMPT).install(place / "bin")), "inject", "--account", "my.1password.com"]
        start = time.perf_counter()
        subprocess.run(argv, input=b"{{ op://Agents/m2m/credential }}", stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - start


async def one() -> tuple[float, int, int, int]:
    """Run one burst; return the slowest answer in seconds, tokens, exchanges and prompts."""
    with folder() as place:
        world = vault(place, prompt=PROMPT)
        async with DevIssuer.start() as issuer:
            client = DevClient(
                CLIENT_ID, Secret(CLIENT_SECRET), OWNER, AgentType.INTERACTIVE, {AUDIENCE: frozenset({SCOPE})}
            )
            issuer.register(client)
            issuer.fault = Fault(hold=Slow())
            config = configuration(place, world, f"{issuer.url}/token")
            with broker("--config", str(config)) as daemon:
                await asyncio.sleep(SETTLE)
                start = time.perf_counter()
                answers = await asyncio.gather(*(call(daemon.path) for _ in range(CALLERS)))
        last = max(when for when, _ in answers) - start
        return last, sum(good for _, good in answers), issuer.exchanges, world.prompts()


def rows() -> Iterator[Row]:
    """Measure; the middle of the rounds counts for time, the worst for everything else."""
    alone, rounds = zip(*((bare() + LATENCY, asyncio.run(one())) for _ in range(ROUNDS)), strict=True)
    least, last = median(alone), median(each[0] for each in rounds)
    over = median(each[0] - theirs for each, theirs in zip(rounds, alone, strict=True))
    tokens = min(each[1] for each in rounds)
    exchanges, prompts = (max(each[place] for each in rounds) for place in (2, 3))
    yield Row(
        f"{CALLERS} callers, cold: the last served after",
        f"{last * 1000:.0f} ms",
        f"{least * 1000:.0f} ms (`op` alone + issuer)",
        last / least,
        f"≤ + {ALLOWANCE * 1000:g} ms",
        over <= ALLOWANCE and tokens == CALLERS,
    )
    yield Row("· exchanges, prompts", f"{exchanges}, {prompts}", target="1, 1", met=(exchanges, prompts) == (1, 1))
