"""The `DesktopEvents` port on Linux: logind on the system bus, screen savers and the Secret Service on the user's.

The daemon is no part of a session (`systemd --user` runs outside of them), so sessions are found by their user.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from tokenbroker.model import DesktopEvent
from tokenbroker.system.desktop.dbus import session_bus, system_bus
from tokenbroker.system.desktop.link import Link
from tokenbroker.system.desktop.logind import LOGIND, Logind
from tokenbroker.system.desktop.screen import Screen
from tokenbroker.system.desktop.session import SAVERS, SECRETS, Keyring, Savers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

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
        listeners: list[Listener] = []
        if DesktopEvent.SCREEN_LOCK in events:
            listeners.append(Savers(screen))
        if DesktopEvent.VAULT_LOCK in events and self._secret_service:
            listeners.append(Keyring(lambda: on_event(DesktopEvent.VAULT_LOCK)))
        system = Link(system_address, [logind] if logind.rules else [], sleep=self._sleep)
        session = Link(session_address or "", listeners, sleep=self._sleep)
        self._links = [system, session]
        no_system, no_session = await asyncio.gather(
            system.start(), session.start() if session_address else _no_session_bus()
        )  # fmt: skip
        screen.begin()
        reasons: Reasons = {}
        if why := no_system or logind.refusal:
            reasons[DesktopEvent.SLEEP] = why
        if LOGIND not in system.present and session.present.isdisjoint(SAVERS):
            reasons[DesktopEvent.SCREEN_LOCK] = NO_SCREEN
        if why := self._no_vault(session, no_session):
            reasons[DesktopEvent.VAULT_LOCK] = why
        return {event: why for event, why in reasons.items() if event in events}

    def _no_vault(self, session: Link, no_session: str | None) -> str | None:
        if not self._secret_service:
            return ONE_PASSWORD
        # A keyring that the bus starts when it is first read will be heard from then on.
        there = SECRETS in session.present | session.startable
        return no_session or (None if there else NO_KEYRING)

    async def close(self) -> None:
        """Follow nothing more. May be called twice."""
        links, self._links = self._links, []
        for link in links:
            await link.close()


async def _no_session_bus() -> str:
    return NO_SESSION_BUS
