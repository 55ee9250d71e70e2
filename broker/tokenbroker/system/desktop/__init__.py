"""What happens at the desk where the person sits, and what is written on their screen; a few files per system.

Nothing here is needed: where a system does not tell, the daemon runs without, and can say why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenbroker.ports import Announcer, DesktopEvents


def desktop_events(platform: str, environ: Mapping[str, str], uid: int, *, secret_service: bool) -> DesktopEvents:
    """Return what follows the events of `uid`'s desktop; opens nothing before `watch`.

    `platform` is a value of `sys.platform`. `secret_service`: the vault is the system's own keyring, the Secret
    Service on Linux, and not 1Password.
    """
    if platform == "darwin":
        from tokenbroker.system.desktop.darwin import DarwinDesktopEvents  # noqa: PLC0415  # only this system's

        return DarwinDesktopEvents(keychain=secret_service)
    from tokenbroker.system.desktop.linux import LinuxDesktopEvents  # noqa: PLC0415  # only this system's

    return LinuxDesktopEvents(environ, uid, secret_service=secret_service)


def announcer(platform: str, environ: Mapping[str, str]) -> Announcer:
    """Return what puts notes on the screen; opens nothing before the first."""
    if platform == "darwin":
        from tokenbroker.system.desktop.notes_darwin import DarwinAnnouncer  # noqa: PLC0415  # only this system's

        return DarwinAnnouncer(environ)
    from tokenbroker.system.desktop.notes_linux import LinuxAnnouncer  # noqa: PLC0415  # only this system's

    return LinuxAnnouncer(environ)
