"""How `op` asks: where each call is a prompt, and where a dialog was left on the screen (contract, section 2)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.fakes_clock import FakeClock
from tests.standins.op_world import OpWorld
from tokenbroker.config import VaultConfig
from tokenbroker.errors import PromptDismissed, PromptUnanswered, SecretNotFound, VaultUnavailable
from tokenbroker.model import Secret, SecretRef
from tokenbroker.vaults.left_dialog import DIALOG_LIFE
from tokenbroker.vaults.op.app import OpVault
from tokenbroker.vaults.op.runner import OpRunner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

ID = SecretRef("op://Agents/m2m/username")
KEY = SecretRef("op://Agents/m2m/credential")
GOOD = {ID: Secret("client-id"), KEY: Secret("s3cret-interactive")}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[OpWorld]:
    """Give a world with an item, a person who approves, and little patience."""
    made = OpWorld.create(tmp_path)
    made.set(latency="none", time_scale=0.001)
    made.add_item("Agents", "m2m", {"username": "client-id", "credential": "s3cret-interactive"})
    made.install(tmp_path / "programs")
    yield made
    made.close()


@pytest.fixture
async def make(world: OpWorld, tmp_path: Path) -> AsyncIterator[Callable[..., OpVault]]:
    """Give a maker of vaults on that world."""
    del world  # it has installed `op`
    made: list[OpVault] = []

    def maker(*, calls_prompt: bool = False, clock: FakeClock | None = None, prompt_timeout: float = 20.0) -> OpVault:
        config = VaultConfig(op=str(tmp_path / "programs/op"), prompt_timeout=prompt_timeout)
        made.append(
            OpVault(
                config, environ={}, home=tmp_path, runner=OpRunner(grace=0.2), calls_prompt=calls_prompt, clock=clock
            )
        )
        return made[-1]

    yield maker
    for vault in made:
        await vault.close()


# --- a machine on which each call asks anew ---------------------------------------------------------------------------


async def test_where_each_call_prompts_an_unlock_is_one_call(world: OpWorld, make: Callable[..., OpVault]) -> None:
    world.app(asks_every_call=True)
    assert await make(calls_prompt=True).read(GOOD) == GOOD
    assert (world.prompts(), len(world.calls())) == (1, 1)


async def test_where_each_call_prompts_a_bad_reference_costs_one_more(
    world: OpWorld, make: Callable[..., OpVault]
) -> None:
    world.app(asks_every_call=True)
    bad = SecretRef("op://Agents/gone/credential")
    found = await make(calls_prompt=True).read([bad, *GOOD])
    assert {ref: found[ref] for ref in GOOD} == GOOD
    assert isinstance(found[bad], SecretNotFound)
    assert (world.prompts(), len(world.calls())) == (2, 2)


async def test_where_each_call_prompts_nothing_follows_the_second_call(
    world: OpWorld, make: Callable[..., OpVault]
) -> None:
    """The good ones cannot be told from the bad without asking again; each says so and what to run."""
    world.app(asks_every_call=True)
    bad = [SecretRef(f"op://Agents/gone{n}/credential") for n in range(3)]
    found = await make(calls_prompt=True).read([*bad, *GOOD])
    assert all(isinstance(value, SecretNotFound) for value in found.values())
    assert set(found) == {*bad, *GOOD}
    assert "broker doctor" in str(getattr(found[KEY], "hint", ""))
    assert (world.prompts(), len(world.calls())) == (2, 2)


async def test_where_each_call_prompts_an_unnamed_fault_ends_it(world: OpWorld, make: Callable[..., OpVault]) -> None:
    world.app(asks_every_call=True)
    world.fault("error", command="inject", text="(404) Not Found: The requested resource was not found.", rc=4)
    found = await make(calls_prompt=True).read(GOOD)
    assert all("other references are wrong" in str(value) for value in found.values())
    assert len(world.calls()) == 1


async def test_where_each_call_prompts_an_op_without_inject_is_refused(
    world: OpWorld, make: Callable[..., OpVault]
) -> None:
    world.fault("error", command="inject", text='unknown command "inject" for "op"')
    with pytest.raises(VaultUnavailable, match="does not know the options"):
        await make(calls_prompt=True).read(GOOD)
    assert len(world.calls()) == 1


# --- a dialog that was left on the screen -----------------------------------------------------------------------------

OLDER = "older 1Password dialog"


async def leave_dialog(world: OpWorld, vault: OpVault) -> None:
    """Cancel a read while its dialog is open."""
    world.person("hang")
    reading = asyncio.create_task(vault.read(GOOD))
    await asyncio.to_thread(world.wait_until, OpWorld.dialog_open)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert world.dialog_open()


async def test_attempt_after_a_cancelled_one_tells_of_the_older_dialog(
    world: OpWorld, make: Callable[..., OpVault], caplog: pytest.LogCaptureFixture
) -> None:
    """Killing `op` leaves its dialog; what is answered there opens nothing, and the new call waits behind it."""
    vault = make(prompt_timeout=1.0, clock=FakeClock())
    await leave_dialog(world, vault)
    assert OLDER not in caplog.text
    with pytest.raises(PromptUnanswered, match=OLDER) as raised:
        await vault.read(GOOD)
    assert "close every 1Password dialog" in (raised.value.hint or "")
    assert OLDER in caplog.text


async def test_approving_the_older_dialog_opens_nothing_and_the_next_one_does(
    world: OpWorld, make: Callable[..., OpVault]
) -> None:
    vault = make(clock=FakeClock())
    await leave_dialog(world, vault)
    world.answer("approve")
    world.person("dismiss")
    with pytest.raises(PromptDismissed, match=OLDER):
        await vault.read(GOOD)
    assert world.prompts() == 2
    world.person("approve")
    assert await vault.read(GOOD) == GOOD


async def test_older_dialog_is_forgotten_when_a_read_succeeds(world: OpWorld, make: Callable[..., OpVault]) -> None:
    vault = make(clock=FakeClock())
    await leave_dialog(world, vault)
    world.answer("dismiss")
    world.person("approve")
    assert await vault.read(GOOD) == GOOD
    world.lock_app()
    world.person("dismiss")
    with pytest.raises(PromptDismissed) as raised:
        await vault.read(GOOD)
    assert OLDER not in str(raised.value)


async def test_older_dialog_is_forgotten_after_its_own_life(
    world: OpWorld, make: Callable[..., OpVault], caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    vault = make(prompt_timeout=1.0, clock=clock)
    await leave_dialog(world, vault)
    await clock.advance(DIALOG_LIFE)
    world.answer("dismiss")
    world.person("dismiss")
    with pytest.raises(PromptDismissed) as raised:
        await vault.read(GOOD)
    assert OLDER not in str(raised.value) + caplog.text


async def test_dialog_left_by_a_timeout_is_told_at_the_next_attempt(
    world: OpWorld, make: Callable[..., OpVault]
) -> None:
    vault = make(prompt_timeout=1.0, clock=FakeClock())
    world.person("hang")
    with pytest.raises(PromptUnanswered) as raised:
        await vault.read(GOOD)
    assert OLDER not in str(raised.value), "there is but one as yet"
    with pytest.raises(PromptUnanswered, match=OLDER):
        await vault.read(GOOD)
