"""The certified npm package `oidc-provider`, started for one test: what our client says to it is what the world hears.

`async with OidcProvider.start(clients=[client("id", "secret")]) as idp: idp.issuer`. Mark tests that use it with
`pytest.mark.node`. They are skipped where Node.js or the packages are missing, and fail instead where `CI=true`.

`make test` installs the packages: it copies this folder's package.json to DIR and runs
`npm install --no-audit --no-fund --no-package-lock --prefix DIR`, where DIR is `BROKER_TEST_NODE`, or `.cache/node` in
the project.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

HERE = Path(__file__).resolve().parent
START_TIMEOUT = 20.0  # seconds; it takes 0.7 on an idle machine
RESOURCES = {"https://api.example": "search:read search:write", "https://mail.example": "mail:send"}


def packages() -> tuple[str, Path]:
    """Return Node.js and the folder with the packages; skips the test without them, or fails it in CI."""
    node = shutil.which("node")
    folder = Path(os.environ.get("BROKER_TEST_NODE") or HERE.parents[1] / ".cache" / "node")
    if node is None:
        _absent("node: Node.js is not on PATH")
    elif not (folder / "node_modules" / "oidc-provider" / "package.json").is_file():
        _absent(f"node: oidc-provider is not installed in {folder}; `make test` installs it")
    else:
        return node, folder
    raise AssertionError("unreachable")


def _absent(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def client(client_id: str, secret: str | None = None, *, scope: str = "search:read", **more: Any) -> dict[str, Any]:
    """Return one client's registration (RFC 7591 names), with our own members beside them.

    `owner` and `agent_type` become claims of its tokens; `utf8_secret` is compared in place of `client_secret`.
    """
    registered: dict[str, Any] = {"client_id": client_id, "scope": scope, **more}
    if secret is not None:
        registered |= {"client_secret": secret, "token_endpoint_auth_method": "client_secret_basic"}
    return registered | more


@dataclass(frozen=True)
class OidcProvider:
    """A running provider."""

    issuer: str

    @property
    def token_endpoint(self) -> str:
        return f"{self.issuer}/token"

    @staticmethod
    @asynccontextmanager
    async def start(
        *,
        clients: Sequence[Mapping[str, Any]],
        resources: Mapping[str, str] = RESOURCES,
        ttl: int = 300,
        dpop_nonce: bool = False,
        tls: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[OidcProvider]:
        """Run it on a free loopback port; `resources` are audiences and their scopes, `ttl` is in seconds.

        `dpop_nonce`: a proof is taken only with a nonce of the provider's (RFC 9449 §8). `tls`: `cert`, `key` and `ca`
        in PEM for https; clients with certificates then go to `mtls_endpoint_aliases`.
        """
        node, folder = packages()
        process = await asyncio.create_subprocess_exec(
            node,
            "--no-warnings",
            str(HERE / "oidc_provider.mjs"),
            str(folder),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.environ.get("PATH", ""), "NODE_ENV": "test"},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        complaints = asyncio.create_task(process.stderr.read())  # drained, so that it never blocks the child
        try:
            asked = {"clients": list(clients), "resources": dict(resources), "ttl": ttl, "dpop_nonce": dpop_nonce}
            process.stdin.write(json.dumps(asked | ({"tls": dict(tls)} if tls else {})).encode() + b"\n")
            line = await asyncio.wait_for(process.stdout.readline(), START_TIMEOUT)
            if not line:
                pytest.fail(f"oidc-provider did not start: {(await complaints).decode()[-2000:]}")
            yield OidcProvider(json.loads(line)["issuer"])
        finally:
            if process.returncode is None:
                process.kill()
            await asyncio.gather(process.wait(), process.stdout.read(), complaints)
            process.stdin.close()
