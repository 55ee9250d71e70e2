"""One unlock for everyone: its beginning, its limits, its end."""

from __future__ import annotations

import asyncio

import pytest

from tests.fakes_clock import FakeClock, settle
from tests.fakes_vault import FakeVault
from tests.service.world import Recorder
from tokenbroker.config import UnlockConfig
from tokenbroker.cooldown import COOL_DOWN, UNAVAILABLE_PAUSE
from tokenbroker.errors import (
    BrokerError,
    CoolingDown,
    Locked,
    PromptDismissed,
    PromptUnanswered,
    SecretNotFound,
    VaultUnavailable,
)
from tokenbroker.model import SecretRef
from tokenbroker.unlock import Unlock, VaultState

A, B = SecretRef("op://V/a/f"), SecretRef("op://V/b/f")


class Lock:
    """An Unlock with its parts at hand."""

    def __init__(self, *, may_prompt: bool = True, **limits: float | None) -> None:
        self.vault = FakeVault({str(A): "secret a", str(B): "secret b"}, may_prompt=may_prompt)
        self.clock = FakeClock()
        self.refs = [A, B]
        self.audit = Recorder()
        self.unlock = Unlock(
            self.vault,
            UnlockConfig(**limits),  # type: ignore[arg-type]  # the tests' keywords
            self.clock,
            refs=lambda: self.refs,
            audit=self.audit,
        )

    async def get(self, *, may_prompt: bool = True) -> str:
        return (await self.unlock.secrets([A], may_prompt=may_prompt))[A].reveal()


async def test_the_vault_is_never_read_twice_at_once() -> None:
    """Callers for one reference, callers for another, a person and a re-read: one after the other."""
    lock = Lock()
    lock.refs = []
    await asyncio.gather(
        *(lock.unlock.secrets([A], may_prompt=True) for _ in range(20)),
        *(lock.unlock.secrets([B], may_prompt=True) for _ in range(20)),
        lock.unlock.unlock(),
    )
    await asyncio.gather(lock.unlock.reread([A]), lock.unlock.reread([A]), lock.unlock.reread([B]))
    assert lock.vault.most_running == 1
    assert len(lock.vault.reads) <= 5


@pytest.mark.parametrize(
    ("refusals", "pause"),
    [
        pytest.param([PromptDismissed("x")], COOL_DOWN, id="a refusal"),
        pytest.param([PromptUnanswered("x")], 0, id="one unanswered prompt"),
        pytest.param([PromptUnanswered("x"), PromptUnanswered("x")], COOL_DOWN, id="two unanswered prompts"),
        pytest.param([VaultUnavailable("x")], UNAVAILABLE_PAUSE, id="the app cannot be reached"),
        pytest.param([VaultUnavailable("x", retry_after=120)], 120, id="the vault says when to come back"),
    ],
)
async def test_after_trouble_nobody_is_asked_for(refusals: list[BrokerError], pause: float) -> None:
    lock = Lock()
    for error in refusals:
        lock.vault.raises = error  # type: ignore[assignment]  # all are vault errors
        with pytest.raises(type(error)):
            await lock.get()
    lock.vault.raises = None
    reads = len(lock.vault.reads)
    if pause:
        await lock.clock.advance(pause - 0.1)
        with pytest.raises((CoolingDown, VaultUnavailable)):
            await lock.get()
        assert reads == len(lock.vault.reads)
        await lock.clock.advance(0.2)
    assert await lock.get() == "secret a"


async def test_two_unanswered_prompts_count_only_in_a_row() -> None:
    lock = Lock()
    lock.vault.raises = PromptUnanswered("x")
    with pytest.raises(PromptUnanswered):
        await lock.get()
    lock.vault.raises = None
    await lock.get()
    lock.unlock.lock()
    lock.vault.raises = PromptUnanswered("x")
    with pytest.raises(PromptUnanswered):
        await lock.get()
    assert lock.unlock.report().pause == 0


async def test_a_person_ends_the_cool_down() -> None:
    lock = Lock()
    lock.vault.raises = PromptDismissed("x")
    with pytest.raises(PromptDismissed):
        await lock.get()
    assert lock.unlock.report().state is VaultState.COOLING_DOWN
    lock.vault.raises = None
    await lock.unlock.unlock()
    assert await lock.get(may_prompt=False) == "secret a"


async def test_unlocking_what_is_unlocked_reads_nothing() -> None:
    lock = Lock()
    await lock.unlock.unlock()
    await lock.unlock.unlock()
    assert len(lock.vault.reads) == 1


@pytest.mark.parametrize("asleep", [False, True])
async def test_the_unlock_ends_by_age_also_while_the_machine_sleeps(asleep: bool) -> None:  # noqa: FBT001
    lock = Lock(max_age=3600.0)
    await lock.get()
    if asleep:
        lock.clock.sleep_machine(3600)
    else:
        await lock.clock.advance(3600)
    with pytest.raises(Locked):
        await lock.get(may_prompt=False)
    assert lock.unlock.report().secrets == 0


async def test_the_unlock_ends_by_idleness_and_use_puts_that_off() -> None:
    lock = Lock(idle=600.0)
    await lock.get()
    for _ in range(5):
        await lock.clock.advance(500)
        await lock.get(may_prompt=False)
    await lock.clock.advance(600)
    with pytest.raises(Locked):
        await lock.get(may_prompt=False)


async def test_looking_does_not_put_off_the_end() -> None:
    lock = Lock(idle=600.0)
    await lock.get()
    await lock.clock.advance(599)
    assert lock.unlock.report().state is VaultState.UNLOCKED
    await lock.clock.advance(1)
    assert lock.unlock.report().state is VaultState.LOCKED


async def test_a_failed_re_read_keeps_what_is_in_memory() -> None:
    lock = Lock()
    await lock.get()
    lock.vault.raises = PromptDismissed("x")
    with pytest.raises(PromptDismissed):
        await lock.unlock.reread([A])
    assert await lock.get(may_prompt=False) == "secret a"


async def test_a_lock_right_before_an_unlock_does_not_spoil_it() -> None:
    """`broker lock` during a prompt, then `broker unlock` at once: a new read, after the old one has ended."""
    lock = Lock()
    lock.vault.gate.clear()
    first = asyncio.ensure_future(lock.get())
    await settle()
    lock.unlock.lock()
    second = asyncio.ensure_future(lock.unlock.unlock())
    await settle()
    lock.vault.gate.set()
    await second
    with pytest.raises(Locked):
        await first
    assert lock.vault.most_running == 1
    assert lock.unlock.report().state is VaultState.UNLOCKED


async def test_a_vault_that_returns_too_little_is_not_asked_in_a_loop() -> None:
    lock = Lock()

    async def nothing(*_: object, **__: object) -> dict[object, object]:
        lock.vault.reads.append((frozenset(), False))
        return {}

    lock.vault.read = nothing  # type: ignore[method-assign, assignment]  # a faulty adapter
    with pytest.raises(BrokerError, match="returned nothing for"):
        await lock.get()
    assert len(lock.vault.reads) == 1


async def test_closing_ends_the_read_and_the_vault() -> None:
    lock = Lock()
    lock.vault.gate.clear()
    waiting = asyncio.ensure_future(lock.get())
    await settle()
    await lock.unlock.close()
    with pytest.raises(Locked):
        await waiting
    assert lock.vault.closed == 1
    assert lock.vault.running == 0


async def test_lock_before_a_read_has_begun_leaves_nothing_behind() -> None:
    """A read's task exists an instant before its first step; a lock in that instant must not hang later callers."""
    lock = Lock()
    asking = asyncio.ensure_future(lock.get())
    await asyncio.sleep(0)  # the caller has made the read's task, which has not run yet
    assert lock.vault.reads == []
    lock.unlock.lock()
    with pytest.raises(Locked, match="locked meanwhile"):
        await asking
    assert lock.unlock.report().state is VaultState.LOCKED
    assert await asyncio.wait_for(lock.get(), 5) == "secret a"


async def test_a_second_lock_does_not_cut_short_the_vaults_tidying_up() -> None:
    """A cancelled read has the vault end what it runs; cancelled again while at it, it would have to use force."""
    lock = Lock()
    cancelled: list[int] = []

    async def read(refs: object, *, fresh: bool = False) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(3):
                try:
                    await asyncio.sleep(0)
                except asyncio.CancelledError:
                    cancelled.append(1)

    lock.vault.read = read  # type: ignore[assignment, method-assign]
    asking = asyncio.ensure_future(lock.get())
    await settle()
    for _ in range(2):
        lock.unlock.lock()
        await asyncio.sleep(0)
    with pytest.raises(Locked):
        await asking
    assert cancelled == []


async def test_a_refused_prompt_is_the_last_also_for_those_who_waited_behind_it() -> None:
    """Callers for other references take their turn after the prompt; once a person has refused it they are told."""
    lock = Lock()
    await lock.get()
    lock.vault.reads.clear()
    lock.vault.raises = PromptDismissed("x")
    lock.vault.gate.clear()
    first, second = (asyncio.ensure_future(lock.unlock.reread([ref])) for ref in (A, B))
    await settle()
    lock.vault.gate.set()
    assert [type(error) for error in await asyncio.gather(first, second, return_exceptions=True)] == [
        PromptDismissed,
        CoolingDown,
    ]
    assert len(lock.vault.reads) == 1


async def test_who_waits_through_a_lock_causes_no_prompt_after_it() -> None:
    lock = Lock()
    lock.refs = []
    lock.vault.gate.clear()
    asking = [asyncio.ensure_future(lock.unlock.secrets([ref], may_prompt=True)) for ref in (A, B)]
    await settle()
    lock.unlock.lock()
    lock.vault.gate.set()
    for one in asking:
        with pytest.raises(Locked, match="locked meanwhile"):
            await one
    assert len(lock.vault.reads) == 1


async def test_the_end_of_an_unlock_does_not_end_the_prompt_for_the_next() -> None:
    """A person is answering when the old unlock grows too old; their answer counts."""
    lock = Lock(max_age=3600.0)
    await lock.get()
    lock.vault.gate.clear()
    rereading = asyncio.ensure_future(lock.unlock.reread([A, B]))
    await settle()
    await lock.clock.advance(3600)
    with pytest.raises(Locked):
        await lock.get(may_prompt=False)
    lock.vault.gate.set()
    assert set(await rereading) == {A, B}
    assert lock.unlock.report().state is VaultState.UNLOCKED


@pytest.mark.parametrize("whole", [True, False], ids=["nothing can be read", "one reference cannot"])
async def test_a_remembered_error_keeps_nothing_of_those_who_were_told(whole: bool) -> None:  # noqa: FBT001
    """Else a program that asks in a loop would fill the memory with the frames of its requests."""
    lock = Lock()
    if whole:
        lock.vault.raises = VaultUnavailable("x", retry_after=3600)
    else:
        lock.vault.values[str(A)] = SecretNotFound("x")
    told = set()
    for _ in range(3):
        with pytest.raises(BrokerError) as caught:
            await lock.get()
        told.add(id(caught.value))
        assert len(caught.traceback) < 15
    report = lock.unlock.report()
    kept = [report.last_error, *report.failures.values()]
    assert [error.__traceback__ for error in kept if error is not None] == [None]


async def test_every_unlock_and_every_failure_is_recorded_whoever_caused_it() -> None:
    lock = Lock()
    lock.vault.raises = PromptUnanswered("nobody answered")
    with pytest.raises(PromptUnanswered):
        await lock.get()
    lock.vault.raises = None
    await lock.get()
    assert [name for name, _ in lock.audit.events] == ["unlock failed", "unlocked"]
    assert "secret a" not in repr(lock.audit.events)


async def test_who_may_not_prompt_is_told_locked_whatever_went_wrong_before() -> None:
    """Exit 5, with the reason beside it."""
    lock = Lock()
    lock.vault.raises = VaultUnavailable("the app is not running")
    with pytest.raises(VaultUnavailable):
        await lock.get()
    with pytest.raises(Locked, match="when last tried: the app is not running"):
        await lock.get(may_prompt=False)


@pytest.mark.parametrize(
    ("after", "retryable"),
    [
        pytest.param(None, False, id="an app that is not there needs a person"),
        pytest.param(UNAVAILABLE_PAUSE, True, id="a server that is not there may be back"),
    ],
)
async def test_trouble_of_which_the_vault_says_when_it_ends_is_passing(after: float | None, retryable: bool) -> None:  # noqa: FBT001
    lock = Lock(may_prompt=False)
    lock.vault.raises = VaultUnavailable("x", retry_after=after)
    for seconds in (0.0, 3.0):  # the second is told what is remembered, and how long it still holds
        await lock.clock.advance(seconds)
        with pytest.raises(VaultUnavailable) as caught:
            await lock.get()
        assert caught.value.retryable is retryable
        assert caught.value.retry_after == (UNAVAILABLE_PAUSE - seconds if retryable else None)
    assert len(lock.vault.reads) == 1
