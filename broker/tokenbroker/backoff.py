"""How long an issuer is left alone after a failure. Pure: times are arguments, chance is `spread` in [0, 1).

What passes is tried again soon, and never all at once; what costs something each time ever more seldom: a refusal may
lock a client out, a token of no use is counted like a good one.
"""

from __future__ import annotations

from typing import Final

from tokenbroker.errors import (
    BrokerError,
    ErrorClass,
    IssuerThrottled,
    IssuerUntrusted,
    TokenMismatch,
    TokenUseless,
    VaultError,
)

RETRY_BASE: Final = 1.0  # seconds before the second try when there is no token to serve meanwhile
RETRY_CAP: Final = 15.0
RETRY_WHILE_VALID: Final = 30.0  # seconds between tries while a good token lives, or a quarter of what is left
RETRY_AFTER_CAP: Final = 3600.0  # seconds; an issuer that asks for more is asked again after this
TERMINAL_BACK_OFF: Final = {  # seconds: first, longest; doubled. Long enough that a looping agent locks out no client
    ErrorClass.CREDENTIAL_REJECTED: (60.0, 900.0),
    ErrorClass.NEEDS_PERSON: (60.0, 900.0),
    ErrorClass.CONFIGURATION: (10.0, 300.0),
}
SPECIAL_BACK_OFF: Final = {  # likewise, of errors that are unlike the others of their class
    IssuerUntrusted: (5.0, 60.0),  # nothing was sent, and a captive portal passes
    IssuerThrottled: (1.0, 300.0),  # the issuer says that this client asks too often
    TokenUseless: (10.0, 3600.0),  # each try costs a token of somebody's quota
    TokenMismatch: (60.0, 3600.0),  # likewise, and it will not pass
}
FLIGHT_ATTEMPTS: Final = 3  # tries within one fetch while someone waits and nothing can be served
FLIGHT_BASE: Final = 0.5  # seconds, doubled per try


def back_off(error: BrokerError, count: int, *, spread: float, valid_for: float = 0.0) -> float:
    """Return the seconds before the issuer may be contacted again after the `count`-th failure in a row."""
    if isinstance(error, VaultError):
        return 0.0  # the issuer was not contacted; `unlock.py` governs how often people are
    bounds = next((found for kind, found in SPECIAL_BACK_OFF.items() if isinstance(error, kind)), None)
    if bounds is None and error.error_class is not ErrorClass.RETRYABLE:
        bounds = TERMINAL_BACK_OFF[error.error_class]
    if bounds is not None and (valid_for <= 0 or not isinstance(error, IssuerThrottled)):
        delay = min(bounds[1], bounds[0] * 2.0 ** min(count - 1, 10))
    elif valid_for > 0:
        delay = min(RETRY_WHILE_VALID, max(RETRY_BASE, valid_for / 4)) * (0.5 + 0.5 * spread)
    else:
        delay = unavailable_delay(count, spread=spread)
    return max(delay, min(error.retry_after or 0.0, RETRY_AFTER_CAP))


def unavailable_delay(count: int, *, spread: float) -> float:
    """Return the seconds for which an issuer is left alone after the `count`-th failure in a row."""
    return min(RETRY_CAP, RETRY_BASE * 2.0 ** min(count - 1, 10)) * (0.5 + 0.5 * spread)


def attempt_delay(attempt: int, *, spread: float) -> float:
    """Return the seconds between the `attempt`-th and the next try of one fetch that somebody waits for."""
    return FLIGHT_BASE * 2.0 ** (attempt - 1) * (0.5 + 0.5 * spread)


def costs(error: BrokerError) -> bool:
    """Tell whether a request that ends like this costs something: a refusal that is counted, or a token."""
    refused = error.error_class is ErrorClass.CREDENTIAL_REJECTED
    return refused or isinstance(error, TokenMismatch | TokenUseless)
