"""Stoplight's prism between a client and a server: every request and answer is checked against an OpenAPI document.

`async with Prism.between(document, server.url, folder) as prism:`; what does not fit is answered in prism's own words
(`application/problem+json`) and told by `objections`. Mark tests that use it with `pytest.mark.node`; `make test`
installs it, and without it they are skipped, or fail where `CI=true`.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

START_TIMEOUT = 20.0  # seconds; it takes 1.5 on an idle machine
END = "/the-end"
HERE = Path(__file__).resolve().parent


def prism_program() -> tuple[str, Path]:
    """Return Node.js and prism; skips the test without them, or fails it in CI."""
    node = shutil.which("node")
    folder = Path(os.environ.get("BROKER_TEST_NODE") or HERE.parents[1] / ".cache" / "node")
    program = folder / "node_modules/@stoplight/prism-cli/dist/index.js"
    if node is not None and program.is_file():
        return node, program
    reason = f"node: Node.js is not on PATH, or prism is not installed in {folder}; `make test` installs it"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def with_base_in_paths(document: str) -> str:
    """Move `/v1` from the document's server address into its paths, as prism ignores the former.

    1Password's own document calls the ids of files' addresses UUIDs, which they are not (they are 26 characters, as it
    says elsewhere), and prism would refuse every request for one.
    """
    moved = re.sub(r"^  /(?=vaults|activity)", "  /v1/", document, flags=re.MULTILINE)
    return moved.replace("format: uuid", r"pattern: '^[\da-z]{26}$'")


@dataclass
class Prism:
    """A running prism."""

    port: int
    _said: list[str] = field(default_factory=list)
    _more: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self.port}"

    async def objections(self) -> list[str]:
        """Return what it objected to since it was last asked."""
        # Its log comes after its answers: one more request, to a path of no document, tells that all has been said.
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"GET {END} HTTP/1.1\r\nHost: prism\r\nConnection: close\r\n\r\n".encode())
        await reader.read()
        writer.close()
        await self._until(lambda line: END in line and "error" in line)
        said, self._said[:] = list(self._said), []
        return [line for line in said if "terminated with error" in line and END not in line]

    async def _until(self, told: Callable[[str], bool]) -> None:
        async with asyncio.timeout(START_TIMEOUT), self._more:
            await self._more.wait_for(lambda: any(told(line) for line in self._said))

    async def _follow(self, output: asyncio.StreamReader) -> None:
        while line := (await output.readline()).decode():
            async with self._more:
                self._said.append(line.strip())
                self._more.notify_all()

    @staticmethod
    @asynccontextmanager
    async def between(document: Path, upstream: str, folder: Path) -> AsyncIterator[Prism]:
        """Run it on a free loopback port in front of `upstream`; `folder` takes a copy of the document."""
        node, program = prism_program()
        copy = folder / "openapi.yaml"
        copy.write_text(with_base_in_paths(document.read_text()))
        port = _free_port()
        process = await asyncio.create_subprocess_exec(
            node, "--no-warnings", str(program), "proxy", str(copy), upstream, "--errors", "-p", str(port),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            env={"PATH": os.environ.get("PATH", ""), "NODE_ENV": "test", "NO_COLOR": "1"},
        )  # fmt: skip
        assert process.stdout is not None
        running = Prism(port)
        reading = asyncio.create_task(running._follow(process.stdout))
        try:
            await running._until(lambda line: "is listening on" in line)
            yield running
        finally:
            if process.returncode is None:
                process.kill()
            await asyncio.gather(process.wait(), reading)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port
