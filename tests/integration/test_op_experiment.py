"""The calls of `broker doctor op`, as the daemon makes them for it, and what ends them."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.standins.op_world import OpWorld
from tokenbroker.config import VaultConfig
from tokenbroker.errors import UsageError, VaultUnavailable
from tokenbroker.vaults.op import experiment as op_experiment
from tokenbroker.vaults.op.experiment import Prober, ServiceProbe
from tokenbroker.vaults.op.grants import Place, Step

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture
def world(tmp_path: Path) -> Iterator[OpWorld]:
    """Give a world with one secret and a person who approves at once."""
    made = OpWorld.create(tmp_path)
    made.set(latency="none", time_scale=0.001)
    made.add_item("Agents", "m2m", {"credential": "s3cret"})
    made.install(tmp_path / "programs")
    yield made
    made.close()


def parts(tmp_path: Path, **config: Any) -> tuple[VaultConfig, dict[str, Any]]:
    settings: dict[str, Any] = {"op": str(tmp_path / "programs/op"), "prompt_timeout": 10.0} | config
    return VaultConfig(**settings), {"environ": {}, "home": tmp_path, "clock": time.monotonic}


@pytest.fixture
async def service(world: OpWorld, tmp_path: Path) -> AsyncIterator[ServiceProbe]:
    config, more = parts(tmp_path)
    made = ServiceProbe(config, **more)
    yield made
    await made.close()


@pytest.fixture
async def prober(world: OpWorld, tmp_path: Path) -> AsyncIterator[Prober]:
    config, more = parts(tmp_path, prompt_timeout=0.5)
    made = Prober(config, **more)
    yield made
    await made.close()


async def test_answer_says_what_was_called_and_what_came_of_it(world: OpWorld, service: ServiceProbe) -> None:
    """The shape of `POST /v1/op-experiment`; nothing of the vaults is in it."""
    answer = await service.answer({"setting": "plain", "session": 2, "caller": 2})
    assert answer.pop("seconds") > 0
    assert answer == {"setting": "plain", "session": 2, "caller": 2, "outcome": "ok", "text": ""}
    assert world.calls()[0].tty == ""


async def test_refusal_is_an_outcome_with_scrubbed_words(world: OpWorld, service: ServiceProbe) -> None:
    world.fault("error", command="vault list", text="no account found for filter acme", rc=1)
    answer = await service.answer({"setting": "terminal"})
    assert (answer["outcome"], answer["text"]) == ("vault_unavailable", "no account found for filter …")


async def test_sessions_are_kept_until_the_end_is_said(world: OpWorld, service: ServiceProbe) -> None:
    for setting in ("terminal", "terminal", "end", "terminal"):
        await service.answer({"setting": setting})
    first, second, third = (call.sid for call in world.calls())
    assert first == second != third
    assert world.prompts() == 2


async def test_sessions_end_by_themselves(
    world: OpWorld, service: ServiceProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that was killed leaves no helper process in the daemon for ever."""
    monkeypatch.setattr(op_experiment, "IDLE", 0.01)
    await service.answer({"setting": "plain"})
    async with asyncio.timeout(10):
        while service._prober._sessions:  # noqa: ASYNC110  # the timer sets no event of ours
            await asyncio.sleep(0.005)
    await service.answer({"setting": "plain"})
    assert len({call.sid for call in world.calls()}) == 2


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"setting": "own"}, id="a terminal that a daemon has not"),
        pytest.param({"setting": ["plain"]}, id="a list"),
        pytest.param({"setting": "plain", "session": 3}, id="too many sessions"),
        pytest.param({"setting": "plain", "caller": True}, id="a truth for a number"),
    ],
)
async def test_other_requests_are_refused_without_a_call(
    world: OpWorld, service: ServiceProbe, body: dict[str, Any]
) -> None:
    with pytest.raises(UsageError):
        await service.answer(body)
    assert world.calls() == []


@pytest.mark.parametrize("place", [Place.TERMINAL, Place.PLAIN, Place.OWN])
async def test_call_that_nobody_answers_is_ended(world: OpWorld, prober: Prober, place: Place) -> None:
    world.person("hang")
    seen = await prober.call(Step(place))
    assert seen.outcome == "prompt_unanswered"
    assert world.calls()[0].outcome == "killed"


async def test_program_that_is_gone_is_an_outcome(prober: Prober, tmp_path: Path) -> None:
    (tmp_path / "programs/op").unlink()
    assert (await prober.call(Step(Place.PLAIN))).outcome == "vault_not_installed"


async def test_look_names_a_missing_account_and_asks_nobody(world: OpWorld, prober: Prober) -> None:
    await prober.look()
    world.set(accounts=[])
    with pytest.raises(VaultUnavailable, match="knows no 1Password account"):
        await prober.look()
    assert world.prompts() == 0


@pytest.mark.parametrize("detached", [False, True])
async def test_process_that_outlives_op_hangs_nothing(world: OpWorld, prober: Prober, *, detached: bool) -> None:
    """`op` leaves its cache daemon behind, with the descriptors that it had."""
    world.fault("grandchild", command="vault list", detached=detached)
    async with asyncio.timeout(5):
        assert (await prober.call(Step(Place.OWN))).outcome == "ok"
