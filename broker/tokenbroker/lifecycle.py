"""The life of a cached token: decide what to do next; never do it.

Rule 1: every state change of a cached token is made in this module.
Rule 2: nothing here awaits, sleeps, logs, draws a random number or reads a clock; `now` and `spread` are arguments.
Rule 3: an illegal transition raises `IllegalTransition` and changes nothing.

The life, as seconds of validity left (`remaining`):

    lifetime ─────────── advisory ──────────── mandatory ──────── 0
       FRESH: serve  │  STALE: serve, renew  │ ENDING: renew,   │ EXPIRED: fetch,
                     │  in the background    │ serve if that    │ never serve
                     │                       │ fails            │

Whether the background renews is learned for each place: where the last renewal was for nobody, or would have been, the
next one is left to whoever asks in the advisory window, and made by the background only at its end, for a token that
was served in the second half of its life. An ask too soon after the end of such a token undoes that.

A caller's explicit `min_ttl` raises the place of 0 for that caller alone. The same behaviour stands as data, for
readers and for other brokers, in tests/scenarios/*.json.

Where the numbers come from: the windows are those of the AWS SDKs' 2026 credential refresh design (advisory 5, 15 or
60 minutes by lifetime, mandatory 60 s), with half-life for short tokens as SPIRE does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Final

from tokenbroker.backoff import back_off, costs
from tokenbroker.errors import BrokerError, ErrorClass, IssuerUnavailable, IssuerUntrusted, TokenUseless

if TYPE_CHECKING:
    from tokenbroker.model import Instant, Token

MINUTE: Final = 60.0
SHORT_LIFETIME: Final = 10 * MINUTE
MEDIUM_LIFETIME: Final = 20 * MINUTE
LONG_LIFETIME: Final = 90 * MINUTE
ADVISORY_JITTER: Final = 0.2  # the share of the window over which renewals of equal tokens spread
MANDATORY_WINDOW: Final = 60.0  # seconds, or 10 % of the lifetime if that is less
MANDATORY_SHARE: Final = 0.1

YOUNG_SHARE: Final = 0.1  # of the lifetime: so long no caller's `min_ttl` causes a fetch

LAST_SECOND: Final = 1.0  # not served: `expires_in` is in whole seconds, and so are the times in most JWTs
FORGIVEN_SHARE: Final = 0.25  # of a back-off must be over before it is ended though nothing was seen to be mended
AFRESH: Final = 30.0  # seconds after a back-off ended: the next failure of what passes is a first one, see `_again`

REJECTION_BURST: Final = 3  # fetches that rejections may cause …
REJECTION_WINDOW: Final = 60.0  # … in so many seconds; more are a loop, and a loop must not burn a quota
REJECTIONS_WHEN_LOW: Final = 1  # … when little is left of a quota


class IllegalTransition(Exception):
    """A transition was asked for that the slot's state does not allow: a fault in the broker itself."""


class TokenState(StrEnum):
    """How a token stands at one moment."""

    FRESH = "fresh"
    """Serve it."""
    STALE = "stale"
    """Serve it, and renew it in the background."""
    ENDING = "ending"
    """Renew it first; serve it if that fails."""
    EXPIRED = "expired"
    """Never serve it."""


class Action(Enum):
    """What the broker is to do for one caller."""

    SERVE = "serve"
    SERVE_AND_RENEW = "serve and renew"
    FETCH = "fetch"
    """Start a fetch and wait for it; if it fails and the token at hand is good enough, serve that."""
    JOIN = "join"
    """Wait for the fetch in flight, likewise."""
    BACK_OFF = "back off"
    """Answer with the remembered failure; do not contact the issuer."""
    UNMET = "unmet"
    """A new token would not meet the caller's minimum either; do not contact the issuer for that."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong last, and how often in a row."""

    error: BrokerError
    count: int
    at: Instant
    reread: bool
    """Whether the vault was read again because of it; only ever false where a rejected credential needs that."""
    cold: bool = True
    """Whether there was no valid token then."""


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of one token in the cache."""

    token: Token | None = None
    fetching: bool = False
    used: bool = False
    """Whether the token was served since it came; an unused one is not renewed for nobody."""
    late: bool = False
    """Whether it was served in the second half of its life."""
    reach: float = float("inf")
    """On the elapsed clock: until when the successor of the last token that was served could have been used."""
    seldom: bool = False
    """Whether the token is asked for so seldom that the last renewal was, or would have been, for nobody."""
    failure: Failure | None = None
    retry_at: float = float("-inf")
    """On the elapsed clock: the issuer is not contacted before."""
    rejections: tuple[float, ...] = ()
    """Elapsed times of the rejections that dropped a token lately."""


def advisory_window(lifetime: float) -> float:
    """Return how many seconds before expiry the background renewal begins, before jitter."""
    if lifetime < SHORT_LIFETIME:
        return lifetime / 2
    if lifetime <= MEDIUM_LIFETIME:
        return 5 * MINUTE
    return 15 * MINUTE if lifetime < LONG_LIFETIME else 60 * MINUTE


def mandatory_window(lifetime: float) -> float:
    """Return how many seconds before expiry a caller waits for the renewal."""
    return min(MANDATORY_WINDOW, MANDATORY_SHARE * lifetime)


def renewal_point(token: Token) -> float:
    """Return the remaining seconds at which the token turns stale, its own jitter included."""
    return advisory_window(token.lifetime) * (1 - ADVISORY_JITTER * token.jitter)


def state(token: Token | None, now: Instant) -> TokenState:
    """Judge `token` at `now`."""
    if token is None:
        return TokenState.EXPIRED
    remaining = token.remaining(now)
    if remaining < LAST_SECOND:
        return TokenState.EXPIRED
    if remaining <= mandatory_window(token.lifetime):
        return TokenState.ENDING
    if remaining <= renewal_point(token):
        return TokenState.STALE
    return TokenState.FRESH


def usable(slot: Slot, now: Instant, min_ttl: float = 0.0) -> bool:
    """Tell whether the token may be served to a caller that insists on `min_ttl` seconds of validity."""
    if slot.token is None:
        return False
    return slot.token.remaining(now) >= max(min_ttl, LAST_SECOND)


def decide(slot: Slot, now: Instant, *, min_ttl: float = 0.0, may_prompt: bool = False) -> Action:
    """Return what to do for a caller that insists on `min_ttl` seconds and may or may not cause a prompt."""
    judged = state(slot.token, now)
    if slot.token is not None and judged is not TokenState.EXPIRED and not usable(slot, now, min_ttl):
        if min_ttl > slot.token.lifetime or _young(slot.token, now):
            return Action.UNMET
        judged = TokenState.EXPIRED  # for this caller
    if judged is TokenState.FRESH:
        return Action.SERVE
    if judged is TokenState.STALE:
        quiet = slot.fetching or _backing_off(slot, now) or wants_reread(slot)
        return Action.SERVE if quiet else Action.SERVE_AND_RENEW
    if slot.fetching:
        return Action.JOIN
    if _backing_off(slot, now) and not (may_prompt and wants_reread(slot)):
        return Action.SERVE if judged is TokenState.ENDING else Action.BACK_OFF
    return Action.FETCH


def renewal_due(slot: Slot, now: Instant) -> bool:
    """Tell whether the background should renew now: a used token that is no longer fresh and not yet expired.

    Not with a credential that was refused and not read again since: each try could lock the client out. One that is
    asked for seldom is renewed by whoever asks in the advisory window, and by the background only at its end.
    """
    due = {TokenState.ENDING} if slot.seldom else {TokenState.STALE, TokenState.ENDING}
    return (
        (slot.late if slot.seldom else slot.used)
        and not slot.fetching
        and not _backing_off(slot, now)
        and not wants_reread(slot)
        and state(slot.token, now) in due
    )


def seconds_to_renewal(slot: Slot, now: Instant, *, late: bool = False) -> float | None:
    """Return the seconds until `renewal_due` can turn true by time alone; `None` if it cannot.

    `late`: little is left of a quota, and the advisory window is let pass.
    """
    if slot.token is None or slot.fetching or not slot.used or wants_reread(slot) or not usable(slot, now):
        return None
    point = mandatory_window(slot.token.lifetime) if late or slot.seldom else renewal_point(slot.token)
    return max(0.0, slot.token.remaining(now) - point, slot.retry_at - now.elapsed)


def retry_after(slot: Slot, now: Instant) -> float | None:
    """Return the seconds until the issuer may be contacted again, for a caller that is turned away; else `None`."""
    return slot.retry_at - now.elapsed if _backing_off(slot, now) else None


def started(slot: Slot) -> Slot:
    """Record that a fetch is in flight."""
    if slot.fetching:
        raise IllegalTransition("a fetch is already in flight")
    return replace(slot, fetching=True)


def fetched(slot: Slot, token: Token, now: Instant) -> Slot:
    """Record a fetch's success.

    One that expires no later than the token at hand is a failure: an issuer that repeats its token until shortly
    before expiry would otherwise be asked without end.
    """
    _must_fetch(slot)
    if slot.token is not None and 0 < slot.token.remaining(now) >= token.remaining(now):
        repeated = IssuerUnavailable("the issuer answered with a token that expires no later than the present one")
        return failed(slot, repeated, now, spread=token.jitter)
    if token.remaining(now) < LAST_SECOND:
        dead = TokenUseless("the issuer answered with a token that has already expired")
        return failed(slot, dead, now, spread=token.jitter)
    return Slot(token=token, rejections=slot.rejections, reach=slot.reach, seldom=_seldom(slot, now))


def failed(slot: Slot, error: BrokerError, now: Instant, *, spread: float, reread: bool = True) -> Slot:
    """Record a fetch's failure; `spread` in [0, 1) places the next try within its interval."""
    _must_fetch(slot)
    valid_for = slot.token.remaining(now) if slot.token else 0.0
    before = slot.failure
    # Failed renewals do not make the wait longer for those who have nothing to be served with.
    again = before is not None and before.cold == (valid_for <= 0) and _again(slot, error, now)
    count = before.count + 1 if before is not None and again else 1
    failure = Failure(error=error, count=count, at=now, reread=reread, cold=valid_for <= 0)
    delay = back_off(error, count, spread=spread, valid_for=valid_for)
    return replace(slot, fetching=False, failure=failure, retry_at=now.elapsed + delay)


def cancelled(slot: Slot) -> Slot:
    """Record that the fetch in flight was given up without an outcome."""
    _must_fetch(slot)
    return replace(slot, fetching=False)


def served(slot: Slot, now: Instant, min_ttl: float = 0.0) -> Slot:
    """Record that the token was handed to a peer."""
    token = slot.token
    if token is None or not usable(slot, now, min_ttl):
        raise IllegalTransition("an expired token is never served")
    late = token.remaining(now) <= token.lifetime / 2
    if slot.used and slot.late >= late:
        return slot
    reach = now.elapsed + token.remaining(now) - renewal_point(token) + token.lifetime
    return replace(slot, used=True, late=late, reach=reach)


def rejected(slot: Slot, fingerprint: str, now: Instant, *, low: bool = False) -> Slot:
    """Drop the token that an API refused, if it is still the one at hand; the back-off stays as it is.

    Returns the same slot when there is nothing to drop: another token is there already, or rejections come so often
    that they must be a loop. `low`: little is left of a quota.
    """
    if slot.token is None or slot.token.fingerprint != fingerprint:
        return slot
    recent = tuple(t for t in slot.rejections if now.elapsed - t < REJECTION_WINDOW)
    if len(recent) >= (REJECTIONS_WHEN_LOW if low else REJECTION_BURST):
        return slot
    return replace(slot, token=None, used=False, late=False, rejections=(*recent, now.elapsed))


def lapsed(slot: Slot) -> Slot:
    """Forget a token that has ended, and everything but how often it is asked for, and what each try costs."""
    return _costly(slot, Slot(reach=slot.reach))


def dropped(slot: Slot) -> Slot:
    """Forget a token that may not be served any more, and everything but how often it is asked for.

    What costs something each time is not forgotten either: who locks and unlocks in a loop asks no more often.
    """
    return _costly(slot, Slot(reach=slot.reach, seldom=slot.seldom))


def forgiven(slot: Slot, now: Instant, *, mended: bool = True) -> Slot:
    """End the back-off, after a person did something that may have mended the cause.

    Where each try costs something, and nothing was seen to be `mended`, it ends only when a part of it is over, and the
    next one is longer still: else whoever says so in a loop locks a client out, or burns a quota.
    """
    failure = slot.failure
    if failure is None or mended or not costs(failure.error):
        return replace(slot, failure=None, retry_at=float("-inf"))
    began = failure.at.elapsed
    if now.elapsed - began < FORGIVEN_SHARE * (slot.retry_at - began):
        return slot
    return replace(slot, retry_at=float("-inf"), failure=replace(failure, reread=True))


def wants_reread(slot: Slot) -> bool:
    """Tell whether the vault has yet to be read again for a refused credential, as the background may not do."""
    failure = slot.failure
    refused = ErrorClass.CREDENTIAL_REJECTED
    return failure is not None and not failure.reread and failure.error.error_class is refused


def _costly(slot: Slot, left: Slot) -> Slot:
    if slot.failure is None or not costs(slot.failure.error):
        return left
    return replace(left, failure=slot.failure, retry_at=slot.retry_at, rejections=slot.rejections)


def _again(slot: Slot, error: BrokerError, now: Instant) -> bool:
    """Tell whether a failure goes on from the one before, and makes the wait longer.

    Trouble that passes does not when nobody tried for half a minute though they might have: the machine slept, perhaps,
    and its network is a second late. A credential that is refused does: refusals lock a client out however far apart.
    """
    passes = error.error_class is ErrorClass.RETRYABLE or isinstance(error, IssuerUntrusted)
    passes = passes and not costs(error)
    return not (passes and now.elapsed > slot.retry_at + AFRESH)


def _seldom(slot: Slot, now: Instant) -> bool:
    """Judge anew how often a token is asked for, when there was none; one that was dropped teaches nothing."""
    if usable(slot, now) or (slot.token is None and slot.seldom):
        return slot.seldom
    return now.elapsed >= slot.reach


def _backing_off(slot: Slot, now: Instant) -> bool:
    return now.elapsed < slot.retry_at


def _young(token: Token, now: Instant) -> bool:
    """Tell whether a newer token would hardly live longer; else a high `min_ttl` in a loop would burn a quota."""
    return token.lifetime - token.remaining(now) < YOUNG_SHARE * token.lifetime


def _must_fetch(slot: Slot) -> None:
    if not slot.fetching:
        raise IllegalTransition("no fetch is in flight")
