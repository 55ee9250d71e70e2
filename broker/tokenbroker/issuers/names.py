"""Name look-ups of one issuer, in threads of their own that nobody waits for.

`getaddrinfo` cannot be given up: with a name server that does not answer it holds its thread for half a minute. In the
event loop's own pool it would hold up the other issuers, every signature, and the end of the process.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

AT_ONCE: Final = 4
"""Look-ups of one issuer. While so many hang, another one fails at once."""


class Names:
    """What aiohttp's `ThreadedResolver` asks of an event loop."""

    def __init__(self) -> None:
        """Start no thread yet."""
        self._free = threading.Semaphore(AT_ONCE)

    async def getaddrinfo(self, host: str, port: int, **wanted: int) -> Any:
        """See `socket.getaddrinfo`."""
        return await self._in_thread(lambda: socket.getaddrinfo(host, port, **wanted))

    async def getnameinfo(self, address: Any, flags: int = 0) -> Any:
        """See `socket.getnameinfo`."""
        return await self._in_thread(lambda: socket.getnameinfo(address, flags))

    async def _in_thread(self, look_up: Callable[[], Any]) -> Any:
        if not self._free.acquire(blocking=False):
            raise socket.gaierror(socket.EAI_AGAIN, "the name server does not answer")
        loop = asyncio.get_running_loop()
        found: asyncio.Future[Any] = loop.create_future()

        def work() -> None:
            try:
                outcome: Any = look_up()
            except OSError as error:
                outcome = error
            finally:
                self._free.release()
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(_settle, found, outcome)

        threading.Thread(target=work, name="look up a name", daemon=True).start()
        return await found


def _settle(found: asyncio.Future[Any], outcome: Any) -> None:
    if found.cancelled():
        return
    if isinstance(outcome, OSError):
        found.set_exception(outcome)
    else:
        found.set_result(outcome)
