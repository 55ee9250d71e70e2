"""When a locked screen is one event."""

from __future__ import annotations

import pytest

from tokenbroker.system.desktop.screen import SAME_LOCK, Screen


class Desk:
    """A screen, its events, and a clock that is set by hand."""

    def __init__(self) -> None:
        self.events = 0
        self.now = 1000.0
        self.screen = Screen(self._event, elapsed=lambda: self.now)
        self.screen.begin()

    def _event(self) -> None:
        self.events += 1


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_one_lock_told_three_times_is_one_event(desk: Desk) -> None:
    """GNOME: the request, the screen saver, the hint."""
    desk.screen.requested()
    desk.screen.is_locked()
    desk.screen.is_locked()
    assert desk.events == 1


def test_a_request_to_lock_what_is_locked_is_none(desk: Desk) -> None:
    """A person presses the keys twice."""
    desk.screen.is_locked()
    desk.screen.requested()
    desk.screen.requested()
    assert desk.events == 1


def test_each_lock_after_an_unlocking_is_one(desk: Desk) -> None:
    """Whoever tells of the unlocking."""
    for _ in range(3):
        desk.screen.requested()
        desk.screen.is_locked()
        desk.screen.is_open()
    assert desk.events == 3


def test_requests_count_where_nobody_tells_of_the_state(desk: Desk) -> None:
    """Plain lockers are started by the request and never say that they ended."""
    desk.screen.requested()
    desk.screen.requested()
    assert desk.events == 2


@pytest.mark.parametrize(("later", "events"), [(SAME_LOCK, 1), (SAME_LOCK + 0.1, 2)], ids=["soon", "later"])
def test_a_request_that_nobody_obeyed_hides_no_later_lock(desk: Desk, later: float, events: int) -> None:
    """What is told soon after a request is its effect; what comes later is another lock."""
    desk.screen.requested()
    desk.now += later
    desk.screen.is_locked()
    assert desk.events == events


def test_a_request_undone_is_over(desk: Desk) -> None:
    """Lock, unlock and lock within seconds are two."""
    desk.screen.requested()
    desk.screen.is_open()
    desk.screen.is_locked()
    assert desk.events == 2


def test_what_was_before_the_beginning_makes_no_event() -> None:
    """A broker that starts behind a locked screen holds nothing yet."""
    events: list[None] = []
    screen = Screen(lambda: events.append(None), elapsed=lambda: 0.0)
    screen.is_locked()
    screen.begin()
    screen.requested()
    assert events == []
