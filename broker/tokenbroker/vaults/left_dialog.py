"""A dialog of the 1Password app that nobody waits for any more.

Ending a caller does not close its dialog, and what is answered there then opens nothing (contract 2). So after a read
that was cancelled or given up, the next attempt says that an older dialog may be on the screen. It says "may", for it
cannot be seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tokenbroker.errors import Locked
    from tokenbroker.ports import Clock

DIALOG_LIFE: Final = 120.0  # seconds after which the app closes a dialog by itself (contract 2: "1-2 min")


class LeftDialog:
    """Whether one may be there."""

    def __init__(self, clock: Clock | None) -> None:
        """Without a `clock` it is remembered until it is cleared."""
        self._clock = clock
        self._until: float | None = None  # on the clock that counts sleep; `None`: none was left behind

    def leave(self) -> None:
        """Note that one may be there from now on."""
        self._until = self._now() + DIALOG_LIFE

    def clear(self) -> None:
        """Note that there is none: somebody was let in."""
        self._until = None

    @property
    def may_be_there(self) -> bool:
        """Tell whether one may still be on the screen."""
        if self._until is not None and self._now() >= self._until:
            self._until = None
        return self._until is not None

    def _now(self) -> float:
        return self._clock.now().elapsed if self._clock is not None else 0.0


def beside(error: Locked, unlock: str) -> Locked:
    """Return `error` with word of the older dialog; `unlock` names the command that asks again."""
    return type(error)(
        f"{error.message}; an older 1Password dialog, which nobody waits for, may still be on the screen:"
        " what is answered there is lost",
        hint=f"close every 1Password dialog that is open, then {unlock} and approve the new one",
        retry_after=error.retry_after,
    )
