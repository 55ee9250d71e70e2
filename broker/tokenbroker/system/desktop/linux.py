"""The `DesktopEvents` port on Linux: logind on the system bus, screen savers and the Secret Service on the user's.

The daemon is no part of a session (`systemd --user` runs outside of them), so sessions are found by their user.
Savers and the Secret Service have a connection each: any program can own a saver's name and leave calls unanswered,
and the bus bounds how many of those one connection may have.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from tokenbroker.model import DesktopEvent
from tokenbroker.system.desktop.dbus import session_bus, system_bus
from tokenbroker.system.desktop.link import Link
from tokenbroker.system.desktop.logind import LOGIND, Logind
from tokenbroker.system.desktop.screen import Screen
from tokenbroker.system.desktop.session import SECRETS, Keyring, Savers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from tokenbroker.system.desktop.link import Listener

ONE_PASSWORD: Final = "1Password tells nobody when it locks"  # noqa: S105  # no secret
NO_SESSION_BUS: Final = "nothing says where the session bus is"
NO_SCREEN: Final = "neither logind nor a screen saver is there to tell"
NO_KEYRING: Final = "there is no Secret Service on the session bus"

Reasons = dict[DesktopEvent, str]


class LinuxDesktopEvents:
    """Follows the events of one user's desktop over D-Bus."""

    def __init__(
        self,
        environ: Mapping[str, str],
        uid: int,
        *,
        secret_service: bool,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Follow `uid`'s sessions on the buses that `environ` names.

        `secret_service`: the vault is the Secret Service. `sleep` waits before a lost bus is tried again.
        """
        self._environ = environ
        self._uid = uid
        self._secret_service = secret_service
        self._sleep = sleep
        self._links: list[Link] = []
        self._reasons: Callable[[], Reasons] = dict

    async def watch(
        self, events: Collection[DesktopEvent], on_event: Callable[[DesktopEvent], None]
    ) -> Mapping[DesktopEvent, str]:
        """Follow `events`; ends what an earlier call began. See the port."""
        await self.close()
        screen = Screen(lambda: on_event(DesktopEvent.SCREEN_LOCK), elapsed=asyncio.get_running_loop().time)
        system_address, session_address = system_bus(self._environ), session_bus(self._environ)
        logind = Logind(
            system_address, self._uid, events, on_sleep=lambda: on_event(DesktopEvent.SLEEP), screen=screen
        )  # fmt: skip
        savers = Savers(screen)
        keyring = Keyring(lambda: on_event(DesktopEvent.VAULT_LOCK))
        system = self._link(system_address, logind, wanted=bool(logind.rules))
        desktop = self._link(session_address, savers, wanted=DesktopEvent.SCREEN_LOCK in events)
        secrets = self._link(
            session_address, keyring, wanted=DesktopEvent.VAULT_LOCK in events and self._secret_service
        )  # fmt: skip
        self._links = links = [system, desktop, secrets]
        try:
            await asyncio.gather(*(link.start() for link in links))
        except BaseException:
            await _close(links)
            raise
        screen.begin()

        def reasons() -> Reasons:
            found: Reasons = {}
            if why := system.problem or logind.refusal:
                found[DesktopEvent.SLEEP] = why
            if LOGIND not in system.present and not desktop.present:
                found[DesktopEvent.SCREEN_LOCK] = NO_SCREEN
            if why := self._no_vault(secrets, secrets.problem if session_address else NO_SESSION_BUS):
                found[DesktopEvent.VAULT_LOCK] = why
            return {event: why for event, why in found.items() if event in events}

        self._reasons = reasons
        return reasons()

    @property
    def missing(self) -> Mapping[DesktopEvent, str]:
        """Return what cannot be noticed now, and why."""
        return self._reasons()

    def _link(self, address: str | None, listener: Listener, *, wanted: bool) -> Link:
        return Link(address or "", [listener] if wanted and address else [], sleep=self._sleep)

    def _no_vault(self, session: Link, no_session: str | None) -> str | None:
        if not self._secret_service:
            return ONE_PASSWORD
        # A keyring that the bus starts when it is first read will be heard from then on.
        there = SECRETS in session.present | session.startable
        return no_session or (None if there else NO_KEYRING)

    async def close(self) -> None:
        """Follow nothing more. May be called twice."""
        links, self._links = self._links, []
        self._reasons = dict
        await _close(links)


async def _close(links: Sequence[Link]) -> None:
    await asyncio.gather(*(link.close() for link in links))
