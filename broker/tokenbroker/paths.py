"""Where things are: the configuration file and, as every client finds them, the sockets. Pure."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tokenbroker_client import paths as client_paths

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a process is born with: passed on as an argument, so that nothing reads it behind our back."""

    environ: Mapping[str, str]
    platform: str
    uid: int
    home: Path

    @classmethod
    def of_this_process(cls) -> Surroundings:
        """Read them; the only place that does."""
        return cls(dict(os.environ), sys.platform, os.getuid(), Path.home())

    def config_file(self, explicit: str | None = None) -> Path:
        """Return the path of the configuration: the argument, `BROKER_CONFIG`, or the platform's folder."""
        if chosen := explicit or self.environ.get("BROKER_CONFIG"):
            return Path(chosen).expanduser()
        import platformdirs  # noqa: PLC0415  # costs more than the rest of a `broker status`

        return platformdirs.user_config_path("tokenbroker", appauthor=False) / "config.toml"

    def state_folder(self) -> Path:
        """Return the platform's folder for what a program keeps between runs; nothing secret is ever in it."""
        import platformdirs  # noqa: PLC0415  # as above

        return platformdirs.user_state_path("tokenbroker", appauthor=False)

    def socket(self, explicit: str | None = None) -> Path:
        """Return the path of the public socket."""
        found = client_paths.socket_path(self._with(explicit), self.platform, self.uid, str(self.home))
        return Path(found).absolute()

    def admin_socket(self, explicit: str | None = None) -> Path:
        """Return the path of the administrative socket; `explicit` is that of the public one."""
        found = client_paths.admin_socket_path(self._with(explicit), self.platform, self.uid, str(self.home))
        return Path(found).absolute()

    def _with(self, explicit: str | None) -> Mapping[str, str]:
        return {**self.environ, "BROKER_SOCKET": explicit} if explicit else self.environ
