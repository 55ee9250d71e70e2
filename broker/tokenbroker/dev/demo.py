"""`make demo`: the whole chain on embedded parts, each step checked. No account, no network, no trace left.

A real daemon on real sockets, real `broker` and `broker-token` processes, two agents that hold no credential, an issuer
and a protected API on loopback. What is made up: the vault, the person at the prompt, and the identity provider.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import pty
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tokenbroker.daemon import Daemon, Options
from tokenbroker.dev.world import DevWorld
from tokenbroker.paths import Surroundings
from tokenbroker.vaults.dev import DevVault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LIFETIME: Final = 4  # seconds that a token lives here, so that a renewal can be watched
RENEWED_BY: Final = 4.0  # seconds after which the renewal must have happened
BIN: Final = Path(sys.executable).parent


class DemoFailed(Exception):
    """A step did not do what it shows."""


class Demo:
    """The steps, and what they need."""

    def __init__(self, world: DevWorld, here: Surroundings) -> None:
        """Show `world` with a broker that lives in `here`."""
        self._world = world
        self._environ = {**os.environ, **here.environ}
        self.prompts = 0
        self._said = ""

    async def prompt(self) -> bool:
        """Stand for the person at the Touch ID prompt."""
        self.prompts += 1
        print("    (Touch ID: the person puts a finger on the sensor)")
        await asyncio.sleep(0.3)
        return True

    async def play(self) -> None:
        """Show everything. Raises `DemoFailed` at the first step that does not hold."""
        say("1. the vault is locked: nothing was read, and a job that nobody watches may not cause a prompt")
        expect(5, await self.agent("search"), "a cron job is told that the vault is locked")

        say("2. a person's agent asks: one prompt, one exchange, and the API accepts the token")
        expect(0, await self.agent("search", terminal=True), "the interactive agent reaches the API")
        expect(1, self.prompts, "one prompt")

        say("3. now the cron job is served too, by a client of its own: its token says `autonomous`")
        expect(0, await self.agent("search"), "the autonomous agent reaches the API")
        expect(1, self.prompts, "still one prompt")

        say("4. a refusal: rules keep `billing` from autonomous programs")
        expect(4, await self.agent("billing"), "denied by rule")
        expect(0, await self.agent("billing", terminal=True), "but not from the person's agent")

        say("5. the API judges for itself: no token is 401 and says where to ask, a token that reaches less far is 403")
        expect(1, await self.agent("search", bare=True), "no token, no answer")
        self.heard("API 401", f'resource_metadata="{self._world.api.metadata_url}"')
        expect(1, await self.agent("search", path="billing"), "a token for `search` opens `search` alone")
        self.heard("API 403", 'error="insufficient_scope"', 'scope="billing:read"')

        say(f"6. a renewal: tokens live {LIFETIME} s here, and are renewed before anyone waits")
        await self.renewal()

        say("7. who is using what; never a token, fingerprints only")
        await self.run("broker", "sessions")

        say("8. lock: secrets and tokens are forgotten")
        await self.run("broker", "lock")
        expect(5, await self.agent("search"), "the cron job is refused again")
        expect(1, self.prompts, "and in all this one prompt")
        print(f"\nall of it held: {self._world.issuer.exchanges} exchanges, {self.prompts} prompt")

    async def renewal(self) -> None:
        """Ask again and again for longer than a token lives: always from memory, and in the end another token."""
        first = await self.token()
        last, until = first, time.monotonic() + RENEWED_BY
        while time.monotonic() < until and last["fingerprint"] == first["fingerprint"]:
            await asyncio.sleep(0.2)
            last = await self.token()
            expect("cache", last["source"], "nobody waited for the issuer")
        print(f"    fingerprint {first['fingerprint']} became {last['fingerprint']}, source {last['source']}")
        expect(True, first["fingerprint"] != last["fingerprint"], "the token was renewed")  # noqa: FBT003  # expected, actual

    async def agent(self, profile: str, *, path: str = "", terminal: bool = False, bare: bool = False) -> int:
        """Run an agent that holds no credential; with a terminal it is one that a person started.

        It calls `path`, or what the profile is for; `bare`: without asking for a token.
        """
        who, path = "agent with a person near it" if terminal else "cron job", path or profile
        print(f"  {who}: {'' if bare else f'broker-token {profile} && '}call {self._world.api.url}/{path}")
        with contextlib.ExitStack() as cleanup:
            arguments = []
            if terminal:
                master, slave = pty.openpty()
                cleanup.callback(os.close, master)
                cleanup.callback(os.close, slave)
                arguments = ["--terminal", os.ttyname(slave)]
            program = [sys.executable, "-I", "-m", "tokenbroker.dev.agent", *arguments]
            program += ["--bare"] if bare else []
            return await self._process(*program, str(BIN / "broker-token"), profile, self._world.api.url, path)

    def heard(self, *parts: str) -> None:
        """Check what the last program said."""
        for part in parts:
            expect(part, part if part in self._said else self._said, "the API's answer")

    async def run(self, program: str, *arguments: str) -> None:
        """Run one of our commands; it must succeed."""
        print(f"  $ {program} {' '.join(arguments)}")
        expect(0, await self._process(str(BIN / program), *arguments), program)

    async def token(self) -> dict[str, Any]:
        """Ask as a script does, and keep what is not secret of the answer."""
        process = await asyncio.create_subprocess_exec(
            str(BIN / "broker-token"), "search", "--json", env=self._environ, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        answer: dict[str, Any] = json.loads(out)
        del answer["access_token"]
        return answer

    async def _process(self, *argv: str) -> int:
        process = await asyncio.create_subprocess_exec(
            *argv,
            env=self._environ,
            start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate()
        self._said = out.decode()
        print("\n".join(f"    {line}" for line in self._said.splitlines()))
        return process.returncode or 0


@contextlib.asynccontextmanager
async def broker(world: DevWorld) -> AsyncIterator[Demo]:
    """Run a daemon for `world` on sockets of its own."""
    # Not the usual temporary folder, whose path is too long for a socket on macOS.
    with tempfile.TemporaryDirectory(prefix="tokenbroker-demo-", dir="/tmp") as folder:
        socket = str(Path(folder) / "broker.sock")
        here = replace(Surroundings.of_this_process(), environ={"BROKER_SOCKET": socket})
        demo = Demo(world, here)
        vault = DevVault(world.secrets, prompt=demo.prompt)
        daemon = Daemon(Options(None, socket, world.config, vault), here)
        running = asyncio.create_task(daemon.run())
        try:
            await daemon.ready.wait()
            yield demo
        finally:
            daemon.stop()
            await running


def say(text: str) -> None:
    """Announce a step."""
    print(f"\n{text}", flush=True)


def expect(expected: object, actual: object, what: str) -> None:
    """Check a step."""
    if expected != actual:
        raise DemoFailed(f"{what}: expected {expected}, got {actual}")


async def _main() -> None:
    print("tokenbroker: a demonstration on development parts; nothing here is a real account")
    async with DevWorld.start(lifetime=LIFETIME) as world, broker(world) as demo:
        await demo.play()


def main() -> int:
    """Run the demonstration; 0 when every step held."""
    logging.basicConfig(level=logging.ERROR)  # the steps show what the log would say
    try:
        asyncio.run(_main())
    except DemoFailed as error:
        print(f"demo: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
