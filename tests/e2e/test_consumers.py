"""Programs that need a token call a protected API with it: curl in a shell, httpx with `BrokerAuth`."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.e2e.rig import OWNER, Background, Rig, dev_client
from tests.e2e.standard import SECRET, configuration, fill_vault
from tokenbroker.dev.api import DevApi
from tokenbroker.dev.issuer import DevIssuer
from tokenbroker_client.auth import BrokerAuth

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class World:
    """A daemon, an issuer, and an API whose sense of time can be moved on, so that it looks for new keys."""

    rig: Rig
    issuer: DevIssuer
    ahead: list[float] = field(default_factory=lambda: [0.0])
    url: str = ""

    def rotate_key(self) -> None:
        """Make the API refuse every token that was issued so far."""
        self.issuer.rotate_key()
        self.ahead[0] += 100_000.0


@pytest.fixture
def world(beside: Background) -> Iterator[World]:
    with Rig() as rig:
        made = World(rig, beside.enter(DevIssuer.start()))
        elapsed = lambda: time.monotonic() + made.ahead[0]  # noqa: E731  # one expression, used once
        api = beside.enter(DevApi.start(issuer=made.issuer.url, jwks_uri=made.issuer.jwks_uri, elapsed=elapsed))
        made.url = api.url
        made.issuer.register(dev_client("id-interactive", SECRET, "interactive", {api.url: "search:read"}))
        fill_vault(rig.op)
        rig.configure(configuration(made.issuer.url, audience=api.url))
        with rig.serve():
            yield made


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_calls_the_api_as_the_readme_says(world: World) -> None:
    command = f'curl -sS -f --noproxy "*" -H "Authorization: Bearer $(broker-token search)" {world.url}/search'
    ran = world.rig.run("sh", "-c", command)
    assert (ran.code, ran.err) == (0, "")
    answer = json.loads(ran.out)
    assert (answer["owner"], answer["agent_type"], answer["scopes"]) == (OWNER, "interactive", ["search:read"])


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_refused_token_is_replaced_by_the_command(world: World) -> None:
    """401, then `broker-token --rejected`, then 200."""
    curl = f'curl -sS -o /dev/null -w "%{{http_code}}" --noproxy "*" {world.url}/search'

    def call(flags: str = "") -> str:
        return world.rig.run("sh", "-c", f'{curl} -H "Authorization: Bearer $(broker-token {flags} search)"').out

    assert call() == "200"
    world.rotate_key()
    assert call() == "401"
    assert call("--rejected") == "200"
    assert world.issuer.exchanges == 2


def test_httpx_with_broker_auth_outlives_its_token(world: World) -> None:
    """The program makes its client once; when the API refuses the token a new one is taken, unseen."""
    auth = BrokerAuth("search", socket=str(world.rig.socket))
    with httpx.Client(auth=auth, trust_env=False) as client:
        assert [client.get(f"{world.url}/search").status_code for _ in range(3)] == [200, 200, 200]
        assert world.issuer.exchanges == 1
        world.rotate_key()
        answer = client.get(f"{world.url}/search")
    assert (answer.status_code, answer.json()["owner"]) == (200, OWNER)
    assert world.issuer.exchanges == 2
