"""Make the process hard to look into, for as long as it holds secrets.

What this is worth: another process of the same user cannot read the broker's memory or attach to it, and a crash leaves
no core on disk. It does not stop root, and on macOS it stops no reader that has the entitlement to debug. Memory is
not locked and not wiped: Python leaves copies that nobody can find again, so neither would be true.
"""

from __future__ import annotations

import ctypes
import os
import resource
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

_PR_SET_DUMPABLE: Final = 4  # <sys/prctl.h>
_PT_DENY_ATTACH: Final = 31  # macOS <sys/ptrace.h>
_PRIVATE: Final = 0o077


def harden(*, platform: str, environ: MutableMapping[str, str] = os.environ, library: Any = None) -> dict[str, str]:
    """Do what the system allows, and return what became of each measure: `on`, or why not. Never raises.

    On Linux `/proc/self` then belongs to root, so nothing later may depend on reading it. On macOS a debugger that is
    attached already ends the process here (ptrace(2): PT_DENY_ATTACH). Children that run another program are not
    affected, except by the core limit and the umask. `environ` is that of the process itself.
    """
    libc = library or ctypes.CDLL(None, use_errno=True)
    measures: dict[str, Callable[[], None]] = {"core_limit": _forbid_cores, "umask": _private_files}
    measures["no_key_log"] = lambda: _forget_key_log(environ)
    if platform == "linux":
        measures["not_dumpable"] = lambda: _call(libc.prctl, _PR_SET_DUMPABLE, *[ctypes.c_ulong(0)] * 4)
    elif platform == "darwin":
        measures["deny_attach"] = lambda: _call(libc.ptrace, _PT_DENY_ATTACH, 0, None, 0)
    return {name: _tried(measure) for name, measure in measures.items()}


def _forbid_cores() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _private_files() -> None:
    os.umask(_PRIVATE)


def _forget_key_log(environ: MutableMapping[str, str]) -> None:
    """Keep the ssl module from writing the keys of every connection to a file, as developers ask of their browsers."""
    environ.pop("SSLKEYLOGFILE", None)


def _call(function: Any, *arguments: object) -> None:
    """Call into libc; raises OSError when it says -1."""
    if function(*arguments) == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _tried(measure: Callable[[], None]) -> str:
    """Take one measure and say what became of it."""
    try:
        measure()
    except (OSError, ValueError, AttributeError) as error:
        return str(error)
    return "on"
