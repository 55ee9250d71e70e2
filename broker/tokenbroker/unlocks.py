"""Two keys on the ring: the unlock of the person's vault, and one for autonomous clients where they have their own.

Neither knows of the other: what happens to one does not disturb the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenbroker.model import AgentType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenbroker.unlock import Unlock


class Unlocks:
    """The unlocks in use."""

    def __init__(self, person: Unlock, autonomous: Unlock | None = None) -> None:
        """`autonomous` is for the clients of that `agent_type`; `None`: theirs is the person's."""
        self.person = person
        self.autonomous = autonomous

    def of(self, agent_type: AgentType) -> Unlock:
        """Return the unlock that holds the secrets of clients of this `agent_type`."""
        if agent_type is AgentType.AUTONOMOUS and self.autonomous is not None:
            return self.autonomous
        return self.person

    def __iter__(self) -> Iterator[Unlock]:
        """Yield each."""
        yield self.person
        if self.autonomous is not None:
            yield self.autonomous

    def expire(self) -> bool:
        """Forget what is too old or was idle for too long; tell whether anything was."""
        ended = [unlock.expire() for unlock in self]
        return any(ended)

    async def close(self) -> None:
        """Lock all, and close the vaults."""
        for unlock in self:
            await unlock.close()
