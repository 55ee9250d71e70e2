"""What a person or the desk does: two vaults at once, locks by event, and what a lock says that it forgot."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.fakes_clock import settle
from tests.service.world import World, configuration
from tokenbroker.config import UnlockConfig, VaultConfig
from tokenbroker.errors import CoolingDown, CredentialRejected, Locked, PromptDismissed, VaultUnavailable
from tokenbroker.model import DesktopEvent, Secret

if TYPE_CHECKING:
    from tokenbroker.config import Config

SLEEP, SCREEN, VAULT = DesktopEvent.SLEEP, DesktopEvent.SCREEN_LOCK, DesktopEvent.VAULT_LOCK


def two_vaults(unlock: UnlockConfig | None = None) -> Config:
    """Return the usual configuration, in which autonomous clients have a service account."""
    vault = VaultConfig("service-account", credential="systemd://op")
    return replace(configuration(unlock=unlock), autonomous_vault=vault)


async def test_each_program_is_served_from_the_vault_of_its_kind() -> None:
    async with World(two_vaults()) as world:
        await world.ask(peer=world.cron)
        assert (len(world.vault.reads), len(world.cron_vault.reads)) == (0, 1)
        await world.ask()
        assert (len(world.vault.reads), len(world.cron_vault.reads)) == (1, 1)


async def test_a_person_who_refuses_does_not_disturb_cron() -> None:
    async with World(two_vaults()) as world:
        world.vault.raises = PromptDismissed("x")
        with pytest.raises(PromptDismissed):
            await world.ask()
        with pytest.raises(CoolingDown):
            await world.ask()
        await world.ask(peer=world.cron)


async def test_a_service_account_that_is_gone_does_not_disturb_the_person() -> None:
    async with World(two_vaults()) as world:
        world.cron_vault.raises = VaultUnavailable("the service account was deleted")
        with pytest.raises(VaultUnavailable):
            await world.ask(peer=world.cron)
        await world.ask()
        await world.control.unlock()


async def test_a_person_who_unlocks_opens_both_and_hears_of_trouble_with_their_own() -> None:
    async with World(two_vaults()) as world:
        await world.control.unlock()
        assert [unlock.report().secrets for unlock in world.unlocks] == [1, 1]
        world.control.lock("test")
        world.vault.raises = PromptDismissed("x")
        with pytest.raises(PromptDismissed):
            await world.control.unlock()
        assert [unlock.report().secrets for unlock in world.unlocks] == [0, 1]


async def test_a_person_who_locks_locks_everything() -> None:
    async with World(two_vaults()) as world:
        await world.ask()
        await world.ask(peer=world.cron)
        lock = world.control.lock("test")
        assert (lock.tokens, lock.secrets, lock.pending) == (2, 2, 0)


@pytest.mark.parametrize(
    ("event", "config", "locks"),
    [
        pytest.param(SLEEP, UnlockConfig(), False, id="sleep keeps, unless configured"),
        pytest.param(SLEEP, UnlockConfig(on_sleep="lock"), True, id="sleep locks when configured"),
        pytest.param(SCREEN, UnlockConfig(), False, id="a locked screen keeps, unless configured"),
        pytest.param(SCREEN, UnlockConfig(on_screen_lock="lock"), True, id="a locked screen locks when configured"),
        pytest.param(VAULT, UnlockConfig(), True, id="a locked vault locks"),
        pytest.param(VAULT, UnlockConfig(on_vault_lock="keep"), False, id="a locked vault keeps when configured"),
    ],
)
async def test_an_event(event: DesktopEvent, config: UnlockConfig, locks: bool) -> None:  # noqa: FBT001  # a table
    async with World(configuration(unlock=config)) as world:
        await world.ask()
        lock = world.control.happened(event)
        assert (lock is not None) == locks
        assert world.unlock.report().secrets == (0 if locks else 1 + 1)
        assert len(list(world.cache)) == (0 if locks else 1)


async def test_the_desk_locks_the_person_and_leaves_cron_alone() -> None:
    """The lid is closed: no secret of the person's is left, and the night's jobs run."""
    async with World(two_vaults(UnlockConfig(on_sleep="lock"))) as world:
        await world.ask()
        await world.ask(peer=world.cron)
        lock = world.control.happened(SLEEP)
        assert lock is not None
        assert (lock.reason, lock.tokens, lock.secrets) == ("the machine goes to sleep", 1, 1)
        assert (await world.ask(peer=world.cron)).source == "cache"
        assert len(world.cron_vault.reads) == 1


async def test_tokens_can_outlive_an_event_but_are_not_renewed_without_the_person() -> None:
    async with World(configuration(unlock=UnlockConfig(on_screen_lock="lock", tokens_on_lock="keep"))) as world:
        first = await world.ask()
        lock = world.control.happened(SCREEN)
        assert lock is not None
        assert (lock.tokens, lock.secrets) == (0, 2)
        assert (await world.ask()).token.fingerprint == first.token.fingerprint
        await world.clock.advance(3500)
        assert len(world.vault.reads) == 1
        world.clock.sleep_machine(200)
        with pytest.raises(Locked):
            await world.ask(interaction="never")


async def test_a_fetch_under_way_at_an_event_is_given_up_and_its_caller_told() -> None:
    config = configuration(unlock=UnlockConfig(on_sleep="lock", tokens_on_lock="keep"))
    async with World(config) as world:
        world.issuer.gate.clear()
        asking = world.start()
        await settle()
        lock = world.control.happened(SLEEP)
        assert lock is not None
        assert lock.pending == 1
        with pytest.raises(Locked, match="the machine goes to sleep"):
            await asking
        assert world.issuer.cancelled == 1


async def test_a_prompt_under_way_at_an_event_is_given_up() -> None:
    async with World(configuration(unlock=UnlockConfig(on_sleep="lock"))) as world:
        world.vault.gate.clear()
        asking = world.start()
        await settle()
        lock = world.control.happened(SLEEP)
        assert lock is not None
        assert lock.pending == 1
        with pytest.raises(Locked):
            await asking
        assert world.vault.running == 0


async def test_even_when_tokens_are_kept_a_person_who_locks_drops_them() -> None:
    async with World(configuration(unlock=UnlockConfig(tokens_on_lock="keep"))) as world:
        await world.ask()
        assert world.control.lock("test").tokens == 1


async def test_the_lock_is_recorded_with_what_it_forgot() -> None:
    async with World() as world:
        await world.ask()
        lock = world.control.lock("asked by a person")
        assert world.control.last_lock == lock
        told = {"reason": "asked by a person", "tokens": 1, "secrets": 2, "pending": 0}
        assert world.audit.named("locked") == [told]


async def test_rotation_of_an_autonomous_secret_never_asks_the_person() -> None:
    async with World(two_vaults()) as world:
        await world.ask(peer=world.cron)
        world.cron_vault.values = dict.fromkeys(world.cron_vault.values, "rotated")
        world.issuer.accepts = Secret("rotated")
        world.clock.sleep_machine(3601)
        await world.ask(peer=world.cron)
        assert (len(world.vault.reads), len(world.cron_vault.reads)) == (0, 2)


async def test_an_unlock_that_is_dismissed_lets_no_refused_credential_be_tried_again() -> None:
    async with World() as world:
        await world.ask()
        world.issuer.accepts = Secret("another")
        world.clock.sleep_machine(3601)
        with pytest.raises(CredentialRejected):
            await world.ask()
        world.control.lock("test")
        before = len(world.issuer.calls)
        world.vault.raises = PromptDismissed("x")
        for _ in range(2):
            with pytest.raises(PromptDismissed):
                await world.control.unlock()
            await world.clock.advance(5)
        assert len(world.issuer.calls) == before


async def test_what_else_holds_a_grant_is_told_of_each_lock() -> None:
    async with World(configuration(unlock=UnlockConfig(on_sleep="lock"))) as world:
        told: list[bool] = []
        world.control.on_lock = lambda: told.append(True)
        world.control.lock("test")
        world.control.happened(SLEEP)
        assert len(told) == 2


async def test_a_vault_for_autonomous_clients_that_comes_later_takes_their_tokens_from_the_person() -> None:
    async with World() as world:
        await world.ask()
        await world.ask(peer=world.cron)
        world.control.lock_autonomous("test")
        assert [entry.key.client for entry in world.cache] == ["mine"]
