"""On whose behalf the vault is asked, what is read only once, and what a rotation leaves to fall back on."""

from __future__ import annotations

import asyncio

import pytest

from tests.fakes_announcer import FakeAnnouncer
from tests.fakes_clock import FakeClock, settle
from tests.fakes_vault import FakeVault
from tests.service.world import Recorder
from tokenbroker.config import UnlockConfig
from tokenbroker.errors import (
    CoolingDown,
    Locked,
    PromptDismissed,
    SecretNotFound,
    Stopping,
    VaultError,
    VaultUnavailable,
)
from tokenbroker.model import Asker, Secret, SecretRef
from tokenbroker.unlock import Unlock

A, B, OTP = SecretRef("op://V/a/f"), SecretRef("op://V/b/f"), SecretRef("op://V/o/one-time password?attribute=otp")
CLAUDE = Asker("/usr/bin/claude (pid 7)", 7, "profile `search`", "to look it up")
CODE = Asker("/usr/bin/code (pid 8)", 8, "profile `billing`")


class Desk:
    """An Unlock, its vault, and the screen in front of the person."""

    def __init__(self, *, may_prompt: bool = True, announce: bool = True, idle: float | None = None) -> None:
        self.vault = FakeVault({str(A): "a", str(B): "b", str(OTP): "123456"}, may_prompt=may_prompt, name="op")
        self.audit = Recorder()
        self.screen = FakeAnnouncer()
        self.clock = FakeClock()
        self.unlock = Unlock(
            self.vault,
            UnlockConfig(announce=announce, idle=idle),
            self.clock,
            refs=lambda: [A, B],
            audit=self.audit,
            announcer=self.screen,
        )

    async def get(self, asker: Asker | None = CLAUDE) -> str:
        return (await self.unlock.secrets([A], may_prompt=True, asker=asker))[A].reveal()

    async def otp(self, *, may_prompt: bool = True) -> str:
        return (await self.unlock.read_once(OTP, may_prompt=may_prompt, asker=CODE)).reveal()

    def memory(self) -> str:
        return (self.unlock.peek([A]) or {})[A].reveal()


async def test_the_person_reads_for_whom_and_why_while_the_vault_asks() -> None:
    desk = Desk()
    desk.vault.gate.clear()
    asking = asyncio.ensure_future(desk.get())
    await settle()
    assert desk.screen.shown == (
        "1Password is asked to open",
        'tokenbroker needs it for /usr/bin/claude (pid 7), which wants profile `search`. It says: "to look it up"',
    )
    desk.vault.gate.set()
    await asking
    assert desk.screen.shown is None


async def test_status_names_everybody_who_waits_and_nobody_twice() -> None:
    desk = Desk()
    desk.vault.gate.clear()
    asking = [asyncio.ensure_future(desk.get(who)) for who in (CLAUDE, CODE, CLAUDE)]
    await settle()
    assert desk.unlock.report().askers == (CLAUDE, CODE)
    desk.vault.gate.set()
    await asyncio.gather(*asking)
    assert desk.unlock.report().askers == ()
    assert len(desk.screen.notes) == 1


async def test_the_log_says_who_made_the_vault_ask() -> None:
    desk = Desk()
    await desk.get()
    (told,) = desk.audit.named("unlocking")
    assert told == {
        "program": CLAUDE.program, "pid": 7, "for": "profile `search`", "claimed_reason": "to look it up"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("desk", "asker"),
    [
        pytest.param(Desk(may_prompt=False), CLAUDE, id="the vault asks nobody"),
        pytest.param(Desk(announce=False), CLAUDE, id="notes are turned off"),
        pytest.param(Desk(), None, id="a person asked by command"),
    ],
)
async def test_nothing_is_put_on_the_screen_when(desk: Desk, asker: Asker | None) -> None:
    await desk.get(asker)
    assert desk.screen.notes == []


async def test_a_note_goes_away_when_the_vault_fails() -> None:
    desk = Desk()
    desk.vault.raises = VaultUnavailable("x")
    with pytest.raises(VaultUnavailable):
        await desk.get()
    assert len(desk.screen.notes) == 1
    assert desk.screen.shown is None


async def test_a_one_time_password_is_read_anew_each_time_and_kept_nowhere() -> None:
    desk = Desk()
    assert await desk.otp() == "123456"
    desk.vault.values[str(OTP)] = "654321"
    assert await desk.otp() == "654321"
    assert desk.vault.reads == [(frozenset({str(OTP)}), True)] * 2
    report = desk.unlock.report()
    assert (report.secrets, report.state) == (0, "locked")


async def test_a_one_time_password_waits_for_the_unlock_and_the_unlock_for_it() -> None:
    desk = Desk()
    first, code, another, second, _ = await asyncio.gather(
        desk.get(), desk.otp(), desk.otp(), desk.get(), desk.unlock.unlock()
    )
    assert (first, code, another, second) == ("a", "123456", "123456", "a")
    assert desk.vault.most_running == 1
    assert len(desk.vault.reads) == 3


async def test_a_one_time_password_is_refused_to_who_may_not_prompt() -> None:
    desk = Desk()
    await desk.get()
    with pytest.raises(Locked):
        await desk.otp(may_prompt=False)
    assert len(desk.vault.reads) == 1


async def test_a_refused_one_time_password_cools_down_as_any_prompt() -> None:
    desk = Desk()
    desk.vault.raises = PromptDismissed("x")
    with pytest.raises(PromptDismissed):
        await desk.otp()
    for asking in (desk.otp(), desk.get()):
        with pytest.raises(CoolingDown):
            await asking
    assert len(desk.vault.reads) == 1


async def test_locking_gives_up_a_one_time_password_that_is_being_read() -> None:
    desk = Desk()
    desk.vault.gate.clear()
    asking = asyncio.ensure_future(desk.otp())
    await settle()
    desk.unlock.lock()
    with pytest.raises(Locked):
        await asking
    assert desk.vault.running == 0


async def test_an_item_without_one_time_password_says_so() -> None:
    desk = Desk()
    desk.vault.values[str(OTP)] = SecretNotFound(f"{OTP}: no such field")
    with pytest.raises(SecretNotFound):
        await desk.otp()


def before(desk: Desk) -> set[str]:
    return {secret.reveal() for secret in (desk.unlock.before([A]) or {}).values()}


async def test_a_changed_secret_is_noticed_and_what_works_is_put_in_place() -> None:
    desk = Desk()
    await desk.get()
    desk.vault.values[str(A)] = "a2"
    await desk.unlock.reread([A])
    assert desk.audit.named("secret changed") == [{"reference": str(A)}]
    assert (desk.memory(), before(desk)) == ("a2", {"a"})
    works = desk.unlock.before([A])
    assert works is not None
    desk.unlock.judge(works, works=True)
    assert (desk.memory(), before(desk)) == ("a", {"a2"})


async def test_an_unchanged_secret_leaves_nothing_before_it() -> None:
    desk = Desk()
    await desk.get()
    await desk.unlock.reread([A])
    assert desk.audit.named("secret changed") == []
    assert desk.unlock.before([A]) is None


async def test_locking_forgets_the_secret_before_and_what_was_said_of_it() -> None:
    desk = Desk()
    await desk.get()
    desk.vault.values[str(A)] = "a2"
    secrets = await desk.unlock.reread([A])
    desk.unlock.judge(secrets, works=False)
    assert desk.unlock.verdict(secrets) is False
    desk.unlock.lock()
    await desk.get()
    assert desk.unlock.before([A]) is None
    assert desk.unlock.verdict(secrets) is None


async def test_what_was_said_of_a_secret_holds_for_a_moment_only() -> None:
    """An issuer may take tomorrow what it refuses today."""
    desk = Desk()
    await desk.get()
    secrets = await desk.unlock.reread([A])
    desk.unlock.judge(secrets, works=False)
    await desk.clock.advance(31)
    assert desk.unlock.verdict(secrets) is None


async def test_a_secret_that_cannot_be_read_again_stays_in_use_and_is_shown() -> None:
    desk = Desk()
    await desk.get()
    desk.vault.values[str(A)] = SecretNotFound(f"{A}: archived")
    await desk.unlock.reread([A])
    assert desk.memory() == "a"
    assert list(desk.unlock.report().failures) == [str(A)]
    desk.vault.values[str(A)] = "a2"
    await desk.unlock.reread([A])
    assert (desk.memory(), desk.unlock.report().failures) == ("a2", {})


@pytest.mark.parametrize(
    ("error", "locks"),
    [
        pytest.param(Locked("the 1Password app is locked"), True, id="the vault says that it is locked"),
        pytest.param(PromptDismissed("x"), False, id="a person said no"),
        pytest.param(VaultUnavailable("x"), False, id="it cannot be reached"),
    ],
)
async def test_a_read_can_find_the_vault_locked(error: VaultError, locks: bool) -> None:  # noqa: FBT001  # a table
    desk = Desk()
    noticed: list[bool] = []
    desk.unlock.on_vault_locked = lambda: noticed.append(True)
    await desk.get()
    desk.vault.raises = error
    with pytest.raises(type(error)):
        await desk.unlock.reread([A])
    await settle()
    assert noticed == [True] * locks


async def test_locking_gives_up_what_the_vault_granted_and_the_next_read_waits_for_that() -> None:
    """Else the next program would be served without the person being asked, minutes after they locked."""
    desk = Desk()
    await desk.get()
    desk.unlock.lock()
    assert await desk.get() == "a"
    assert desk.vault.locked == 1


async def test_the_vault_is_locked_after_the_read_that_a_lock_ended() -> None:
    desk = Desk()
    desk.vault.gate.clear()
    asking = asyncio.ensure_future(desk.get())
    await settle()
    desk.unlock.lock()
    with pytest.raises(Locked):
        await asking
    await settle()
    assert desk.vault.locked == 1  # and the fake refuses to be locked during a read


async def test_the_end_of_an_unlock_gives_up_the_grant_as_well() -> None:
    desk = Desk()
    await desk.get()
    desk.clock.sleep_machine(13 * 3600)
    assert desk.unlock.expire()
    await settle()
    assert desk.vault.locked == 1


async def test_a_vault_that_cannot_be_locked_is_recorded_and_read_all_the_same() -> None:
    desk = Desk()

    async def fails() -> None:
        raise OSError("secret text")

    desk.vault.lock = fails  # type: ignore[method-assign]
    await desk.get()
    desk.unlock.lock()
    assert await desk.get() == "a"
    assert desk.audit.named("vault not locked") == [{"why": "OSError"}]


async def test_what_was_granted_for_one_time_passwords_ends_as_an_unlock_does() -> None:
    """Nothing is kept of them, but the vault has let us in."""
    desk = Desk()
    await desk.otp()
    desk.clock.sleep_machine(13 * 3600)
    desk.unlock.expire()
    await settle()
    assert desk.vault.locked == 1


async def test_a_grant_is_given_up_after_the_one_time_password_that_outlived_the_unlock() -> None:
    desk = Desk()
    await desk.get()
    desk.vault.gate.clear()
    asking = asyncio.ensure_future(desk.otp())
    await settle()
    desk.clock.sleep_machine(13 * 3600)
    assert desk.unlock.expire()
    assert desk.vault.locked == 0
    desk.vault.gate.set()
    await asking
    await settle()
    assert desk.vault.locked == 1


async def test_use_of_the_secrets_keeps_the_unlock_from_idling_away() -> None:
    desk = Desk(idle=100.0)
    await desk.get()
    for _ in range(5):
        await desk.clock.advance(60)
        assert desk.memory() == "a"
    assert desk.vault.locked == 0


async def test_a_fault_of_an_adapter_is_one_fault_and_not_a_prompt_for_each_caller() -> None:
    desk = Desk()

    async def faulty(*_: object, **__: object) -> dict[SecretRef, Secret | VaultError]:
        desk.vault.reads.append((frozenset(), False))
        raise TypeError("secret text")

    desk.vault.read = faulty  # type: ignore[method-assign]
    for _ in range(5):
        with pytest.raises(VaultUnavailable) as caught:
            await desk.get()
        assert "secret text" not in str(caught.value)
    assert len(desk.vault.reads) == 1


async def test_commands_that_a_person_refuses_three_times_in_a_minute_ask_no_more_for_a_while() -> None:
    """A program can run `broker unlock` too, and one that loops would put up a dialog each time."""
    desk = Desk()
    desk.vault.raises = PromptDismissed("x")
    for expected in [PromptDismissed] * 3 + [CoolingDown] * 5:
        with pytest.raises(expected):
            await desk.unlock.unlock()
    assert len(desk.vault.reads) == 3
    desk.vault.raises = None
    await desk.clock.advance(61)
    await desk.unlock.unlock()


async def test_refusals_that_a_program_caused_do_not_hold_back_the_person() -> None:
    desk = Desk()
    desk.vault.raises = PromptDismissed("x")
    with pytest.raises(PromptDismissed):
        await desk.get()
    for _ in range(2):
        with pytest.raises(PromptDismissed):
            await desk.unlock.unlock()
    desk.vault.raises = None
    await desk.unlock.unlock()


async def test_a_read_past_every_cache_is_not_satisfied_by_one_that_is_not() -> None:
    desk = Desk()
    desk.vault.gate.clear()
    first = asyncio.ensure_future(desk.get())
    await settle()
    again = asyncio.ensure_future(desk.unlock.reread([A]))
    await settle()
    desk.vault.gate.set()
    await asyncio.gather(first, again)
    assert [fresh for _, fresh in desk.vault.reads] == [False, True]


async def test_a_person_joins_the_prompt_that_is_open() -> None:
    desk = Desk()
    desk.vault.gate.clear()
    first = asyncio.ensure_future(desk.get())
    await settle()
    person = asyncio.ensure_future(desk.unlock.unlock())
    await settle()
    desk.vault.gate.set()
    await asyncio.gather(first, person)
    assert len(desk.vault.reads) == 1


async def test_after_the_end_nothing_is_read() -> None:
    desk = Desk()
    await desk.unlock.close()
    for asking in (desk.get(), desk.otp(), desk.unlock.unlock(), desk.unlock.reread([A])):
        with pytest.raises(Stopping):
            await asking
    assert desk.vault.reads == []


async def test_what_is_no_more_referred_to_is_forgotten() -> None:
    desk = Desk()
    await desk.get()
    desk.unlock.configure(UnlockConfig(), [B])
    assert desk.unlock.peek([A]) is None
    assert desk.unlock.peek([B]) is not None
