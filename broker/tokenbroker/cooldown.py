"""When may a caller make the vault ask again: after a refusal, unanswered prompts, or trouble with the vault.

What is remembered is told to every caller until its time is over; a person who unlocks clears it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tokenbroker.errors import CoolingDown, PromptDismissed, PromptUnanswered

if TYPE_CHECKING:
    from tokenbroker.errors import BrokerError
    from tokenbroker.ports import Clock

COOL_DOWN: Final = 300.0  # seconds without a prompt after a refusal or two unanswered ones
UNANSWERED_LIMIT: Final = 2  # prompts nobody answered: the person is away
NAGGING: Final = 3  # refusals of a prompt that was asked for by command
NAGGING_WITHIN: Final = 60.0  # seconds
UNAVAILABLE_PAUSE: Final = 10.0  # seconds before an unreachable app or program is tried again for an ordinary caller


class CoolDown:
    """What the last reads of one vault came to, and how long that holds."""

    def __init__(self, clock: Clock) -> None:
        """Begin with nothing to remember."""
        self._clock = clock
        self._unanswered = 0
        self._until = float("-inf")
        self._refusals: list[float] = []
        """When a person refused a prompt that a person had asked for, on the elapsed clock."""
        self._by_a_person = False
        self.last_error: BrokerError | None = None

    @property
    def left(self) -> float:
        """Seconds until a caller may cause a prompt again."""
        return max(0.0, self._until - self._clock.now().elapsed)

    def forgive(self) -> None:
        """Let the next caller try, because a person says so; what happened last is still shown."""
        self._unanswered = 0
        self._until = float("-inf")

    def let_a_person(self) -> None:
        """Forgive, because a person says so by command.

        Raises `CoolingDown` when that was refused `NAGGING` times within a minute: commands are run by programs too.
        """
        now = self._clock.now().elapsed
        self._refusals = [at for at in self._refusals if now - at < NAGGING_WITHIN]
        if len(self._refusals) >= NAGGING:
            left = NAGGING_WITHIN - (now - self._refusals[0])
            raise CoolingDown(
                f"the prompt was refused {NAGGING} times within a minute, though asked for by command",
                hint=f"run `broker unlock` again in {left:.0f} s",
                retry_after=left,
            )
        self.forgive()
        self._by_a_person = True

    def forget(self) -> None:
        """Remember nothing: a read succeeded, or the vault is another one."""
        self.forgive()
        self.last_error = None
        self._refusals.clear()

    def failed(self, error: BrokerError) -> None:
        """Take note of a read that failed as a whole."""
        self.last_error = error.anew()
        now = self._clock.now().elapsed
        if self._by_a_person and isinstance(error, PromptDismissed):
            self._refusals.append(now)
        self._by_a_person = False
        self._unanswered = self._unanswered + 1 if isinstance(error, PromptUnanswered) else 0
        if isinstance(error, PromptDismissed) or self._unanswered >= UNANSWERED_LIMIT:
            self._until = now + COOL_DOWN
        elif not isinstance(error, PromptUnanswered):
            self._until = now + max(UNAVAILABLE_PAUSE, error.retry_after or 0.0)

    def check(self) -> None:
        """Raise `CoolingDown`, or what was wrong with the vault, while that holds."""
        left = self.left
        if not left:
            return
        if isinstance(self.last_error, (PromptDismissed, PromptUnanswered)):
            why = "was refused" if isinstance(self.last_error, PromptDismissed) else "was not answered twice"
            raise CoolingDown(
                f"the prompt {why}; nobody is asked again for {left:.0f} s",
                hint="unlock now with `broker unlock`",
                retry_after=left,
            )
        if self.last_error is not None:
            error = self.last_error.anew()
            error.retry_after = error.retry_after and left
            raise error
