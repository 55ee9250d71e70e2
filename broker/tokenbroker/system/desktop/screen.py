"""When a locked screen is an event, though several services tell of it.

On GNOME one lock is told up to three times: logind asks for it, the screen saver becomes active, and the session's
LockedHint is set. Other desktops tell it once, or never tell of the unlocking; and any program of the user may own the
name of a saver that is not used here. Rules of this file:
1. Told twice does little harm, for locking a locked broker changes nothing; not told does. Doubt makes an event.
2. Each source speaks for itself: it can make events, and hide none but its own. Who said that the screen is locked is
   not heard again until the screen is open; anyone may say so, for that can only make more events.
3. A request to lock is no state: nobody may obey it, and many lockers tell nothing more. Each is an event; what is
   told of the state within `SAME_LOCK` of it is that request's own effect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

SAME_LOCK: Final = 2.0  # seconds; within them nobody opens screen and vault and locks the screen again


class Screen:
    """The person's screen, as it is told of. A source is the name of a saver, or the path of a session."""

    def __init__(self, on_lock: Callable[[], None], *, elapsed: Callable[[], float]) -> None:
        """Call `on_lock` for each lock. `elapsed` gives seconds that never go back."""
        self._on_lock = on_lock
        self._elapsed = elapsed
        self._begun = False
        self._locked: set[str] = set()
        self._requested: float | None = None

    def begin(self) -> None:
        """Take what is found from now on for news; what was found before was how things are."""
        self._begun = True

    def requested(self) -> None:
        """Note that a session was asked to lock its screen."""
        self._requested = self._elapsed()
        self._on_lock()

    def is_locked(self, source: str) -> None:
        """Note that `source` tells that the screen became locked."""
        self._note(source, news=True)

    def found_locked(self, source: str) -> None:
        """Note that `source`, when it was asked, said that the screen is locked."""
        self._note(source, news=self._begun)

    def is_open(self) -> None:
        """Note that the screen is open now, or that nothing is known of it any more."""
        self._locked.clear()
        self._requested = None

    def forget(self, source: str) -> None:
        """Note that what `source` told is old: it is another program now, or none."""
        self._locked.discard(source)

    def _note(self, source: str, *, news: bool) -> None:
        effect = self._requested is not None and self._elapsed() - self._requested <= SAME_LOCK
        known = source in self._locked
        self._locked.add(source)
        if news and not known and not effect:
            self._on_lock()
