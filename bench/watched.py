"""The daemon in this process, with a task that ticks in its loop, while something that it depends on hangs.

    python -m bench.watched WHAT FOLDER WHERE

Prints the longest pause between two ticks in milliseconds, before anything hangs and while it does until it is given
up, and how much of each the thread stood ready and got no processor (0 where the system does not tell).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.processes import ASK
from bench.vault import OWNER, SCOPE
from tests.standins.connect_server import TOKEN
from tokenbroker.config import ClientConfig, Config, IssuerConfig, ProfileConfig, RuleConfig, UnlockConfig, VaultConfig
from tokenbroker.daemon import Daemon, Options
from tokenbroker.model import AgentType, Secret, SecretRef
from tokenbroker.paths import Surroundings
from tokenbroker.vaults.connect.vault import ConnectVault
from tokenbroker.vaults.dev import DevVault
from tokenbroker.vaults.keyring import KeyringVault
from tokenbroker.vaults.op.app import OpVault
from tokenbroker.vaults.sdk.vault import SdkVault

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from tokenbroker.ports import Vault

TICK = 0.001  # seconds
SETTLE = 0.3
SECONDS = 0.6  # of each look


class Ticks:
    """A task that does nothing, often."""

    def __init__(self) -> None:
        """Start it."""
        self.gaps: list[tuple[float, float]] = []
        """Seconds by which each tick came late, and those of them in which the thread got no processor."""
        self._waits: int | None = None
        with contextlib.suppress(OSError):
            self._waits = os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY)
        self._task = asyncio.create_task(self._run())

    def take(self) -> tuple[float, float]:
        """Return the longest pause so far in milliseconds, and what of it was waiting; begin anew."""
        worst, waited = max(self.gaps)
        self.gaps.clear()
        return worst * 1000, waited * 1000

    def stop(self) -> None:
        """End it."""
        self._task.cancel()
        if self._waits is not None:
            os.close(self._waits)
            self._waits = None

    async def _run(self) -> None:
        before, waited = time.perf_counter(), self._queued()
        while True:
            await asyncio.sleep(TICK)
            now, queued = time.perf_counter(), self._queued()
            self.gaps.append((max(0.0, now - before - TICK), queued - waited))
            before, waited = now, queued

    def _queued(self) -> float:
        """Return the seconds that this thread has stood in a queue for a processor (proc(5), schedstat)."""
        return int(os.pread(self._waits, 64, 0).split()[1]) / 1e9 if self._waits is not None else 0.0


class Stuck:
    """A backend of the keyring library that waits for a dialog which nobody answers."""

    def get_password(self, _service: str, _username: str) -> str | None:
        """Wait for ever."""
        threading.Event().wait()
        return None


async def connect_token() -> Secret:
    """Give what the stand-in takes."""
    return Secret(TOKEN)


def vault(what: str, place: Path, where: str, ref: SecretRef) -> Vault:
    """Return the vault that is to hang, or one that has nothing to do with what hangs."""
    match what:
        case "op":
            return OpVault(VaultConfig(op=where), environ={}, home=place)
        case "sdk":
            sdk = VaultConfig(backend="sdk", account="Example")
            return SdkVault(sdk, environ={}, home=place, library=Path(where))
        case "connect":
            connect = VaultConfig(backend="connect", url=where, credential="fd://3")
            return ConnectVault(connect, credential=connect_token)
        case "keyring":
            return KeyringVault(backend=Stuck(), allow=lambda _: True)
        case _:
            return DevVault({ref: Secret("of no use to anybody")})


def configuration(what: str, where: str, ref: SecretRef) -> Config:
    """Return one profile, which counts whoever asks as a person's program."""
    endpoint = where if what == "issuer" else "http://127.0.0.1:9/token"
    return Config(
        vault=VaultConfig(backend=what if what in {"op", "sdk", "connect", "keyring"} else "dev"),
        issuers={"main": IssuerConfig("main", token_endpoint=endpoint)},
        clients={"mine": ClientConfig("mine", "main", AgentType.INTERACTIVE, OWNER, "m2m", ref)},
        profiles={"search": ProfileConfig("search", ("mine",), scopes=(SCOPE,), audience="https://search.example.com")},
        rules=(RuleConfig("*", "allow", treat_as=AgentType.INTERACTIVE),),
    )


async def call(path: Path) -> None:
    """Ask for a token and wait for whatever is answered."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(ASK)
    await reader.read(1)
    writer.close()


async def follow_desk(daemon: Daemon, config: Config) -> None:
    """Have the daemon follow the screen's lock from now on, as a reload does; then nothing more is to be waited for."""
    await daemon.desk.follow(replace(config, unlock=UnlockConfig(on_screen_lock="lock")))
    await asyncio.Event().wait()


async def watch(what: str, place: Path, where: str) -> tuple[float, ...]:
    """Run the daemon, look at its loop when nothing happens, make the thing hang, look again; give it up, and end."""
    ref = SecretRef("keyring://agents/m2m" if what == "keyring" else "op://Agents/m2m/credential")
    config = configuration(what, where, ref)
    environ = {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={place}/silent"}
    environ["DBUS_SESSION_BUS_ADDRESS"] = environ["DBUS_SYSTEM_BUS_ADDRESS"]
    path = place / "b.sock"
    daemon = Daemon(
        Options(None, socket=str(path), config=config, vault=vault(what, place, where, ref)),
        Surroundings(environ, sys.platform, os.getuid(), place),
    )
    running = asyncio.create_task(daemon.run())  # ended with this process: its children have gone before
    await daemon.ready.wait()
    await asyncio.wait({task for task in asyncio.all_tasks() if task.get_name() == "warm"})
    await asyncio.sleep(SETTLE)
    ticks = Ticks()
    await asyncio.sleep(SECONDS)
    before = ticks.take()
    hanging: Coroutine[None, None, None] = follow_desk(daemon, config) if what == "bus" else call(path)
    caller = asyncio.create_task(hanging)
    await asyncio.sleep(SECONDS)
    assert not caller.done(), f"{what} hangs throughout"
    daemon.control.lock("the benchmark has seen enough")
    if what == "bus":
        caller.cancel()
    await asyncio.wait({caller})
    await daemon.unlocks.close()  # waits until what hung was ended
    assert not running.done(), "the daemon goes on"
    return *before, *ticks.take()


if __name__ == "__main__":
    print(*asyncio.run(watch(sys.argv[1], Path(sys.argv[2]), sys.argv[3])))
    sys.stdout.flush()
    os._exit(0)  # a thread of the keyring's is stuck for ever
