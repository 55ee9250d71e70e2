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


async def test_no_two_calls_of_the_service_ask_at_once(world: OpWorld, service: ServiceProbe) -> None:
    bodies = [{"setting": setting, "session": number} for setting in ("terminal", "plain") for number in (1, 2)]
    answers = await asyncio.gather(*(service.answer(body) for body in bodies))
    assert [answer["outcome"] for answer in answers] == ["ok"] * 4
    assert world.overlapping() == []


@pytest.mark.parametrize("ended_by", ["close", "end"])
async def test_ending_leaves_no_helper_no_timer_and_no_call_that_waits(
    world: OpWorld, service: ServiceProbe, ended_by: str
) -> None:
    """Whatever runs or waits at that moment; and who comes later starts anew."""
    world.person("hang")
    calls = [asyncio.create_task(service.answer({"setting": "terminal"})) for _ in range(3)]
    await asyncio.to_thread(world.wait_until, lambda w: len(w.calls()) == 1)
    (runner,) = service._prober._sessions.values()
    helper = runner._helper._process
    assert helper is not None
    await (service.close() if ended_by == "close" else service.answer({"setting": "end"}))
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(ended[0], dict)
    assert ended[0]["outcome"] == "vault_unavailable"
    assert all(isinstance(one, VaultUnavailable) and "ended meanwhile" in one.message for one in ended[1:])
    assert helper.returncode is not None
    assert (service._prober._sessions, service._end, len(world.calls())) == ({}, None, 1)
    world.person("approve")
    assert (await service.answer({"setting": "terminal"}))["outcome"] == "ok"


async def test_each_call_puts_the_end_of_the_sessions_off(world: OpWorld, service: ServiceProbe) -> None:
    """One timer at a time, or the first would end what the last still needs."""
    del world
    await service.answer({"setting": "plain"})
    first = service._end
    await asyncio.gather(*(service.answer({"setting": "plain", "caller": caller}) for caller in (1, 2)))
    assert first is not None
    assert first.cancelled()
    waiting = [one for one in asyncio.get_running_loop()._scheduled if "_forget" in repr(one) and not one.cancelled()]  # type: ignore[attr-defined]
    assert waiting == [service._end]
