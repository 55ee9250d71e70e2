"""The words of the socket: names, limits, exit codes. Both sides use this module, so they cannot disagree.

Rules of this file: standard library only, no I/O, nothing that needs the daemon.
"""

from __future__ import annotations

from typing import Final

MAX_REQUEST_BODY: Final = 16 * 1024  # bytes; a token request is a few hundred
MAX_TOKEN: Final = 16 * 1024  # characters; the longest that Claude Code accepts is 16,384
DEFAULT_MIN_TTL: Final = 60.0  # seconds; less than this left is renewed first when it can be

TOKEN_PATH: Final = "/token"  # noqa: S105  # a URL path
REJECTED_PATH: Final = "/rejected"
PROFILES_PATH: Final = "/v1/profiles"
ME_PATH: Final = "/v1/me"
HEALTH_PATH: Final = "/healthz"

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_NO_BROKER: Final = 3
EXIT_DENIED: Final = 4
EXIT_LOCKED: Final = 5
EXIT_MIN_TTL: Final = 6
EXIT_TRY_AGAIN: Final = 75  # EX_TEMPFAIL of sysexits.h

_EXIT_BY_CODE: Final = {
    "denied": EXIT_DENIED,
    "no_client": EXIT_DENIED,
    "revoked": EXIT_DENIED,
    "peer_gone": EXIT_DENIED,
    "prompt_dismissed": EXIT_DENIED,  # a person said no
    "locked": EXIT_LOCKED,
    "prompt_unanswered": EXIT_LOCKED,
    "cooling_down": EXIT_LOCKED,
    "min_ttl_unmet": EXIT_MIN_TTL,
}


def exit_code(code: str, *, retryable: bool) -> int:
    """Return the exit status of `broker-token` for an error's `code`; unknown codes fail or, retryable, say so."""
    return _EXIT_BY_CODE.get(code, EXIT_TRY_AGAIN if retryable else EXIT_FAILED)
