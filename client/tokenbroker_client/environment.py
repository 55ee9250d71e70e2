"""What the client must know of the process it runs in, read once at the edge and passed on as a value."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tokenbroker_client import paths
from tokenbroker_client.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

HELPER_TIMEOUT: Final = 9.5  # seconds; Claude Code, az and others end a helper after 10, and then show no reason
PERSON_TIMEOUT: Final = 90.0  # seconds; an unanswered 1Password dialog ends after 60

_GCM_OFF: Final = frozenset({"0", "false", "never"})
_UNATTENDED: Final = frozenset({"background", "scheduled-task"})  # values of CLAUDE_HELPER_CONTEXT with nobody near


@dataclass(frozen=True, slots=True)
class Here:
    """The surroundings of this process."""

    environ: Mapping[str, str] = field(repr=False)
    platform: str
    """`sys.platform`."""
    uid: int
    home: str
    user_manager: bool = False
    """Whether systemd's user manager runs for this user."""

    @property
    def socket(self) -> str:
        """The path of the broker's socket."""
        return paths.socket_path(self.environ, self.platform, self.uid, self.home)

    @property
    def admin_socket(self) -> str:
        """The path of the administrative socket."""
        return paths.admin_socket_path(self.environ, self.platform, self.uid, self.home)


def here() -> Here:
    """Read the surroundings of this process."""
    uid = os.getuid()
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}"
    return Here(
        environ=os.environ,
        platform=sys.platform,
        uid=uid,
        home=os.path.expanduser("~"),  # noqa: PTH111  # pathlib's import costs a third of a start
        user_manager=os.path.exists(f"{runtime}/systemd/private"),  # noqa: PTH110  # as above
    )


def interaction(environ: Mapping[str, str]) -> str:
    """Return `never` when the environment says that no person may be prompted, else `allow`.

    Raises `UsageError` when BROKER_INTERACTION is neither: a misspelt `never` must not open a dialog.
    """
    ours = environ.get("BROKER_INTERACTION") or "allow"
    if ours not in {"allow", "never"}:
        raise UsageError("BROKER_INTERACTION: expected allow or never", hint="export BROKER_INTERACTION=never")
    if environ.get("GCM_INTERACTIVE", "").lower() in _GCM_OFF:
        return "never"
    return "never" if environ.get("CLAUDE_HELPER_CONTEXT") in _UNATTENDED else ours


def default_timeout(*, terminal: bool) -> float:
    """Return the seconds to wait for an answer: long only where a person at a terminal may answer a prompt."""
    return PERSON_TIMEOUT if terminal else HELPER_TIMEOUT
