"""When a locked screen is one event, though several services tell of it.

On GNOME one lock is told three times: logind asks for it, the screen saver becomes active, and the session's
LockedHint is set. Other desktops tell it once, or never tell of the unlocking. Rules of this file:
1. Told twice does little harm, for locking a locked broker changes nothing; not told does. Doubt makes an event.
2. A screen that is known to be locked cannot be locked. It is open again as soon as anyone says so.
3. A request to lock is no state: nobody may obey it, and many lockers tell nothing more. What is told of the state
   within `SAME_LOCK` of a request is that request's own effect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

SAME_LOCK: Final = 10.0  # seconds


class Screen:
    """The person's screen, as it is told of."""

    def __init__(self, on_lock: Callable[[], None], *, elapsed: Callable[[], float]) -> None:
        """Call `on_lock` once for each lock, after `begin`. `elapsed` gives seconds that never go back."""
        self._on_lock = on_lock
        self._elapsed = elapsed
        self._begun = False
        self._locked = False
        self._requested: float | None = None

    def begin(self) -> None:
        """Make events from now on; what was told before was how things are."""
        self._begun = True

    def requested(self) -> None:
        """Note that a session was asked to lock its screen."""
        if not self._locked:
            self._requested = self._elapsed()
            self._event()

    def is_locked(self) -> None:
        """Note that the screen is locked now."""
        known = self._locked or (self._requested is not None and self._elapsed() - self._requested <= SAME_LOCK)
        self._locked = True
        self._requested = None
        if not known:
            self._event()

    def is_open(self) -> None:
        """Note that the screen is open now, or that nothing is known of it any more."""
        self._locked = False
        self._requested = None

    def _event(self) -> None:
        if self._begun:
            self._on_lock()
