"""The broker does what the scenarios say; they are written for people who build other brokers, too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.service.world import World, configuration
from tokenbroker.config import UnlockConfig
from tokenbroker.errors import BrokerError, CredentialRejected, IssuerUnavailable, PromptDismissed, PromptUnanswered
from tokenbroker.model import IssuerAnswer, Secret

FOLDER = Path(__file__).parent.parent / "scenarios"
SCENARIOS = sorted(FOLDER.glob("*.json"))


class Stage:
    """One scenario being played."""

    def __init__(self, given: dict[str, Any]) -> None:
        unlock = UnlockConfig(max_age=given.get("max_age", 12 * 3600.0))
        self.world = World(
            configuration(unlock=unlock), lifetime=given["lifetime"], may_prompt=given.get("vault") == "asks a person"
        )
        self.issuer = "up"
        self.minted: list[Secret] = []
        issue = self.world.issuer.issue

        async def acted(*args: Any, **kwargs: Any) -> IssuerAnswer:
            scripted = self._scripted()
            if scripted is not None:
                self.world.issuer.script = [scripted]
            answer = await issue(*args, **kwargs)
            self.last = answer, self.world.clock.now()
            self.minted.append(answer.access_token)
            return answer

        self.world.issuer.issue = acted  # type: ignore[method-assign]  # the scenario's issuer has moods

    def _scripted(self) -> IssuerAnswer | IssuerUnavailable | CredentialRejected | None:
        match self.issuer.split():
            case ["up"]:
                return None
            case ["down"]:
                return IssuerUnavailable("issuer `main` cannot be reached")
            case ["refuses", "with", "retry_after", seconds]:
                return IssuerUnavailable("issuer `main` is busy", retry_after=float(seconds))
            case ["rejects", *_]:
                return CredentialRejected("issuer `main` refused the client: invalid_client")
            case ["grants", *_]:
                return IssuerAnswer(Secret("narrow"), "Bearer", 3600, ())
            case ["repeats", *_]:
                answer, then = self.last
                left = answer.lifetime - (self.world.clock.now().wall - then.wall)
                return IssuerAnswer(answer.access_token, "Bearer", left, answer.scope)
            case mood:
                raise AssertionError(mood)

    async def play(self, step: dict[str, Any]) -> None:
        expected = step.get("expect", {})
        match next(iter(step)):
            case "ask":
                await self.ask(step["ask"], expected)
            case "advance":
                await self.world.clock.advance(step["advance"])
            case "sleep":
                self.world.clock.sleep_machine(step["sleep"])
            case "jump":
                self.world.clock.jump_wall(step["jump"])
            case "issuer":
                self.issuer = step["issuer"]
            case "rotate":
                self.world.issuer.accepts = Secret("rotated")
                self.world.vault.values = dict.fromkeys(self.world.vault.values, "rotated")
            case "person":
                self.world.vault.raises = {
                    "approves": None,
                    "dismisses": PromptDismissed("the prompt was dismissed"),
                    "does not answer": PromptUnanswered("nobody answered the prompt"),
                }[step["person"]]
            case "lock":
                assert expected["tokens"] == self.world.control.lock("scenario").tokens
            case "unlock":
                await self.world.control.unlock()
                self.check(expected)
            case "rejected":
                fingerprint = self.minted[step["rejected"] - 1].fingerprint()
                dropped = self.world.broker.rejected("search", fingerprint, self.world.me)
                assert expected["dropped"] is dropped
            case other:
                raise AssertionError(other)

    async def ask(self, wanted: dict[str, Any], expected: dict[str, Any]) -> None:
        world = self.world
        if "error" in expected:
            with pytest.raises(BrokerError) as caught:
                await world.ask_and_wait(**wanted)
            assert expected["error"] == caught.value.code
            assert expected.get("retryable", caught.value.retryable) == caught.value.retryable
        else:
            served = await world.ask_and_wait(**wanted)
            assert expected["source"] == served.source
            assert expected["token"] == self.minted.index(served.token.value) + 1
            assert served.token.remaining(world.clock.now()) >= wanted.get("min_ttl", 0)
        self.check(expected)

    def check(self, expected: dict[str, Any]) -> None:
        if "vault_reads" in expected:
            assert expected["vault_reads"] == len(self.world.vault.reads)
        if "contacted" in expected:
            assert expected["contacted"] == len(self.world.issuer.calls)


@pytest.mark.parametrize("path", [pytest.param(p, id=p.stem) for p in SCENARIOS])
async def test_scenario(path: Path) -> None:
    scenario = json.loads(path.read_text())
    stage = Stage(scenario["given"])
    async with stage.world:
        for step in scenario["steps"]:
            await stage.play(step)


def test_there_are_scenarios() -> None:
    """An empty folder would pass everything."""
    assert len(SCENARIOS) >= 20
