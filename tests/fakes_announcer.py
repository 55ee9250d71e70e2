"""The fake behind `ports.Announcer`: what is on the person's screen, and what was."""

from __future__ import annotations


class FakeAnnouncer:
    """Remembers every note."""

    def __init__(self) -> None:
        """Begin with an empty screen."""
        self.notes: list[tuple[str, str]] = []
        self.shown: tuple[str, str] | None = None

    def announce(self, title: str, text: str) -> None:
        """Show it."""
        self.shown = (title, text)
        self.notes.append(self.shown)

    def withdraw(self) -> None:
        """Take it away."""
        self.shown = None

    async def close(self) -> None:
        """Take it away."""
        self.withdraw()
