"""What is followed at the person's desk: what the configuration asks for, and what can be followed here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import pytest

from tests.service.world import World, configuration
from tokenbroker.config import UnlockConfig, VaultConfig
from tokenbroker.desk import SILENT, Desk
from tokenbroker.model import DesktopEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

SLEEP, SCREEN, VAULT = DesktopEvent.SLEEP, DesktopEvent.SCREEN_LOCK, DesktopEvent.VAULT_LOCK


class FakeDesktop:
    """The fake behind `ports.DesktopEvents`: events happen when the test says."""

    def __init__(self, missing: Mapping[DesktopEvent, str] | None = None) -> None:
        self.missing = missing or {}
        self.closed = 0

    async def watch(
        self, events: Collection[DesktopEvent], on_event: Callable[[DesktopEvent], None]
    ) -> Mapping[DesktopEvent, str]:
        self.events, self.happen = set(events), on_event
        return self.missing

    async def close(self) -> None:
        self.closed += 1


class Room:
    """A world and its desk."""

    def __init__(self, missing: Mapping[DesktopEvent, str] | None = None) -> None:
        self.world = World()
        self.missing = missing
        self.made: list[FakeDesktop] = []
        self.desk = Desk(self.world.control, self.world.audit, connect=self._connect)

    def _connect(self) -> FakeDesktop:
        self.made.append(FakeDesktop(self.missing))
        return self.made[-1]

    async def configure(self, backend: str = "op", **unlock: Any) -> FakeDesktop | None:
        config = replace(configuration(unlock=UnlockConfig(**unlock)), vault=VaultConfig(backend))
        self.world.broker.config = config
        await self.desk.follow(config)
        return self.made[-1] if self.made and not self.made[-1].closed else None

    def said(self) -> dict[str, tuple[str, bool, str | None]]:
        found = self.desk.describe(self.world.broker.config)
        return {event: (one["does"], one["followed"], one["why"]) for event, one in found.items()}


async def test_by_default_no_bus_is_touched() -> None:
    room = Room()
    assert await room.configure() is None
    assert room.said() == {
        "sleep": ("keep", False, None), "screen_lock": ("keep", False, None), "vault_lock": ("lock", False, SILENT)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("backend", "unlock", "events"),
    [
        pytest.param("op", {"on_sleep": "lock"}, {SLEEP}, id="sleep"),
        pytest.param("op", {"on_screen_lock": "lock", "on_sleep": "lock"}, {SLEEP, SCREEN}, id="sleep and screen"),
        pytest.param("keyring", {}, {VAULT}, id="a keyring says when it locks"),
        pytest.param("keyring", {"on_vault_lock": "keep"}, None, id="nothing"),
    ],
)
async def test_what_is_configured_is_followed(
    backend: str, unlock: dict[str, Literal["lock"]], events: set[DesktopEvent] | None
) -> None:
    room = Room()
    desktop = await room.configure(backend, **unlock)
    assert (desktop and desktop.events) == events


async def test_an_event_locks() -> None:
    room = Room()
    desktop = await room.configure(on_sleep="lock")
    assert desktop is not None
    desktop.happen(SLEEP)
    assert room.world.control.last_lock is not None
    assert room.world.control.last_lock.reason == "the machine goes to sleep"


async def test_what_cannot_be_followed_is_said_and_recorded() -> None:
    room = Room({SLEEP: "there is no system bus"})
    await room.configure(on_sleep="lock")
    assert room.said()["sleep"] == ("lock", False, "there is no system bus")
    assert room.world.audit.named("not followed") == [{"event": "sleep", "why": "there is no system bus"}]


async def test_a_new_configuration_is_followed_instead() -> None:
    room = Room()
    first = await room.configure(on_sleep="lock")
    second = await room.configure(on_screen_lock="lock")
    assert first is not None
    assert second is not None
    assert (first.closed, second.closed, second.events) == (1, 0, {SCREEN})
    assert await room.configure() is None
    assert second.closed == 1


async def test_the_same_configuration_changes_nothing() -> None:
    room = Room()
    assert await room.configure(on_sleep="lock") is await room.configure(on_sleep="lock")


async def test_what_goes_unnoticed_later_is_said_later() -> None:
    """A bus can be lost, and come back."""
    room = Room()
    desktop = await room.configure(on_sleep="lock")
    assert desktop is not None
    assert room.said()["sleep"] == ("lock", True, None)
    desktop.missing = {SLEEP: "the bus was lost"}
    assert room.said()["sleep"] == ("lock", False, "the bus was lost")
    desktop.missing = {}
    assert room.said()["sleep"] == ("lock", True, None)
