"""When a locked screen is an event."""

from __future__ import annotations

import pytest

from tokenbroker.system.desktop.screen import SAME_LOCK, Screen

GNOME, MATE, SESSION = "org.gnome.ScreenSaver", "org.mate.ScreenSaver", "/org/freedesktop/login1/session/c1"


class Desk:
    """A screen, its events, and a clock that is set by hand."""

    def __init__(self) -> None:
        self.events = 0
        self.now = 1000.0
        self.screen = Screen(self._event, elapsed=lambda: self.now)

    def _event(self) -> None:
        self.events += 1


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_one_lock_told_three_times_is_one_event(desk: Desk) -> None:
    """GNOME: the request, the screen saver, the hint."""
    desk.screen.requested()
    desk.screen.is_locked(GNOME)
    desk.screen.is_locked(SESSION)
    assert desk.events == 1


def test_what_one_source_says_hides_nothing_that_others_tell(desk: Desk) -> None:
    """Any program may own an unused saver's name and say that the screen is locked, when it is not."""
    desk.screen.is_locked(MATE)
    assert desk.events == 1
    desk.now += 600
    desk.screen.is_locked(GNOME)
    desk.screen.is_locked(SESSION)
    desk.screen.requested()
    assert desk.events == 4


def test_a_source_that_repeats_itself_makes_one_event(desk: Desk) -> None:
    """KDE's saver sends each signal from two paths."""
    desk.screen.is_locked(GNOME)
    desk.screen.is_locked(GNOME)
    assert desk.events == 1


def test_a_source_that_is_another_program_now_starts_as_open(desk: Desk) -> None:
    """What the one before had said is not known of this one, and says nothing of others."""
    desk.screen.is_locked(GNOME)
    desk.screen.is_locked(MATE)
    desk.screen.forget(MATE)
    desk.screen.is_locked(GNOME)
    assert desk.events == 2
    desk.screen.is_locked(MATE)
    assert desk.events == 3


def test_each_lock_after_an_unlocking_is_one(desk: Desk) -> None:
    """Whoever tells of the unlocking."""
    for _ in range(3):
        desk.screen.requested()
        desk.screen.is_locked(GNOME)
        desk.screen.is_open()
    assert desk.events == 3


def test_each_request_counts(desk: Desk) -> None:
    """Plain lockers are started by it and never say that they ended, and who says "locked" may be wrong."""
    desk.screen.requested()
    desk.screen.requested()
    desk.screen.is_locked(SESSION)
    desk.screen.requested()
    assert desk.events == 3


@pytest.mark.parametrize(("later", "events"), [(SAME_LOCK, 1), (SAME_LOCK + 0.1, 2)], ids=["soon", "later"])
def test_a_request_that_nobody_obeyed_hides_no_later_lock(desk: Desk, later: float, events: int) -> None:
    """What is told soon after a request is its effect; what comes later is another lock."""
    desk.screen.requested()
    desk.now += later
    desk.screen.is_locked(GNOME)
    assert desk.events == events


def test_a_request_undone_is_over(desk: Desk) -> None:
    """Lock, unlock and lock within seconds are two."""
    desk.screen.requested()
    desk.screen.is_open()
    desk.screen.is_locked(GNOME)
    assert desk.events == 2


def test_what_is_found_at_the_beginning_makes_no_event(desk: Desk) -> None:
    """A broker that starts behind a locked screen holds nothing yet."""
    desk.screen.found_locked(GNOME)
    desk.screen.begin()
    desk.screen.is_locked(GNOME)
    assert desk.events == 0
    desk.screen.found_locked(SESSION)
    assert desk.events == 1


def test_what_is_told_counts_before_the_beginning_too(desk: Desk) -> None:
    """The look at how things are may take seconds, and the screen may be locked meanwhile."""
    desk.screen.is_locked(GNOME)
    desk.screen.requested()
    assert desk.events == 2
