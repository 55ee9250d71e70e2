"""What the broker decided, as events: to the log, and to whoever watches.

An event has a sentence and fields; never a secret or a token, fingerprints only. The hash-chained audit file comes
behind the same port (`AuditSink`).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

logger = logging.getLogger("tokenbroker")

BACKLOG: Final = 256  # events kept for a watcher that reads slowly; then it misses some rather than hold memory
HEARTBEAT: Final = 15.0  # seconds between comments that keep an idle stream alive
NOISY: Final = frozenset({"token served", "proof made"})  # one per request: logged only when debugging, always streamed
TROUBLE: Final = frozenset({"fetch failed", "denied", "reload refused", "unlock failed", "token not revoked"})


class Events:
    """An `AuditSink` that logs, and streams to watchers."""

    def __init__(self, wall: Callable[[], float]) -> None:
        """`wall` gives epoch seconds for the stream; the log has its own time."""
        self._wall = wall
        self._watchers: set[asyncio.Queue[str]] = set()
        self.counts: Counter[str] = Counter()

    def record(self, event: str, fields: Mapping[str, object]) -> None:
        """Log the event and hand it to every watcher. Never blocks."""
        self.counts[event] += 1
        level = logging.DEBUG if event in NOISY else logging.WARNING if event in TROUBLE else logging.INFO
        if logger.isEnabledFor(level):
            pairs = " ".join(f"{name}={_shown(value)}" for name, value in fields.items())
            logger.log(level, "%s %s", event.capitalize(), pairs)
        if self._watchers:
            line = json.dumps({"event": event, "time": round(self._wall(), 3), **fields}, default=str)
            for queue in self._watchers:
                if not queue.full():
                    queue.put_nowait(line)

    async def watch(self) -> AsyncIterator[bytes]:
        """Yield server-sent events (HTML Living Standard §9.2) from now on, until the watcher goes away."""
        queue: asyncio.Queue[str] = asyncio.Queue(BACKLOG)
        self._watchers.add(queue)
        try:
            yield b": watching\n\n"
            while True:
                try:
                    async with asyncio.timeout(HEARTBEAT):
                        line = await queue.get()
                except TimeoutError:
                    yield b": still here\n\n"
                else:
                    yield b"data: " + line.encode() + b"\n\n"
        finally:
            self._watchers.discard(queue)


def _shown(value: object) -> str:
    """Quote a value that would not read as one word; control characters never reach a terminal raw."""
    text = str(value)
    return text if text.isprintable() and " " not in text and text else json.dumps(text)
