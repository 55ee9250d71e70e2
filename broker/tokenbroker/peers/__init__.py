"""Who is asking: what the kernel tells of the process on the other end of a socket, one file per kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenbroker.errors import ConfigError

if TYPE_CHECKING:
    from tokenbroker.ports import PeerInspector


def inspector_for(platform: str) -> PeerInspector:
    """Return the inspector for `platform` (a value of `sys.platform`). Raises `ConfigError` for an unknown one."""
    match platform:
        case "linux":
            from tokenbroker.peers.linux import LinuxPeerInspector  # noqa: PLC0415  # only this kernel's

            return LinuxPeerInspector()
        case "darwin":
            from tokenbroker.peers.darwin import DarwinPeerInspector, SystemLibproc  # noqa: PLC0415  # loads libproc

            return DarwinPeerInspector(SystemLibproc())
        case _:
            raise ConfigError(f"platform `{platform}` cannot tell who is asking; tokenbroker runs on Linux and macOS")
