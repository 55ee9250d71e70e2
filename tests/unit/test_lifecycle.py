"""The life of a cached token, judged at single moments."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbroker import backoff, lifecycle
from tokenbroker.errors import (
    BrokerError,
    CredentialRejected,
    IssuerMisconfigured,
    IssuerNeedsPerson,
    IssuerUnavailable,
    IssuerUntrusted,
    Locked,
)
from tokenbroker.lifecycle import Action, IllegalTransition, Slot, TokenState
from tokenbroker.model import Instant, Secret, Token, Validity

HOUR = 3600.0
START = 1_000_000.0


def at(seconds: float) -> Instant:
    """Return the moment `seconds` after the token was issued, on both clocks."""
    return Instant(wall=START + seconds, elapsed=seconds)


def token(lifetime: float = HOUR, *, jitter: float = 0.0, text: str = "t", issued: float = 0.0) -> Token:
    return Token(Secret(text), Validity(at(issued), lifetime), ("a",), jitter=jitter)


def failing(error: BrokerError, *, times: int = 1, slot: Slot | None = None, when: float = 0.0) -> Slot:
    slot = slot or Slot()
    for _ in range(times):
        slot = lifecycle.failed(lifecycle.started(slot), error, at(when), spread=0.0)
    return slot


DOWN = IssuerUnavailable("down")


@pytest.mark.parametrize(
    ("lifetime", "window"),
    [
        pytest.param(60, 30, id="a minute: half"),
        pytest.param(599, 299.5, id="just under ten minutes: half"),
        pytest.param(600, 300, id="ten minutes: five"),
        pytest.param(1200, 300, id="twenty minutes: five"),
        pytest.param(1201, 900, id="over twenty minutes: fifteen"),
        pytest.param(5399, 900, id="under ninety minutes: fifteen"),
        pytest.param(5400, 3600, id="ninety minutes: an hour"),
        pytest.param(86400, 3600, id="a day: an hour"),
    ],
)
def test_the_advisory_window_fits_the_lifetime(lifetime: float, window: float) -> None:
    assert window == lifecycle.advisory_window(lifetime)


@pytest.mark.parametrize(
    ("lifetime", "window"),
    [pytest.param(3600, 60, id="at most a minute"), pytest.param(300, 30, id="a tenth of a short lifetime")],
)
def test_the_mandatory_window_fits_the_lifetime(lifetime: float, window: float) -> None:
    assert window == lifecycle.mandatory_window(lifetime)


@given(lifetime=st.floats(min_value=1, max_value=1e6), jitter=st.floats(min_value=0, max_value=1, exclude_max=True))
def test_the_background_always_begins_before_a_caller_would_have_to_wait(lifetime: float, jitter: float) -> None:
    assert lifecycle.renewal_point(token(lifetime, jitter=jitter)) > lifecycle.mandatory_window(lifetime)
    assert lifecycle.renewal_point(token(lifetime, jitter=jitter)) <= lifetime


@pytest.mark.parametrize(
    ("now", "state"),
    [
        pytest.param(at(0), TokenState.FRESH, id="new"),
        pytest.param(at(2699), TokenState.FRESH, id="before the advisory window"),
        pytest.param(at(2700), TokenState.STALE, id="in the advisory window"),
        pytest.param(at(3539), TokenState.STALE, id="before the mandatory window"),
        pytest.param(at(3540), TokenState.ENDING, id="in the mandatory window"),
        pytest.param(at(3599), TokenState.ENDING, id="a second before expiry"),
        pytest.param(at(3599.1), TokenState.EXPIRED, id="in its last second, which is in no whole number of seconds"),
        pytest.param(at(3600), TokenState.EXPIRED, id="at expiry"),
        pytest.param(Instant(START - 5000, 3600), TokenState.EXPIRED, id="expired, with the wall clock set back"),
        pytest.param(Instant(START + 3600, 10), TokenState.EXPIRED, id="expired, though the other clock stood still"),
    ],
)
def test_a_token_is_judged_by_the_clock_that_saw_more_time_pass(now: Instant, state: TokenState) -> None:
    assert state == lifecycle.state(token(), now)


T = token()
OTHER = lifecycle.failed(lifecycle.started(Slot(token=T)), DOWN, at(3000), spread=1.0)


@pytest.mark.parametrize(
    ("now", "slot", "min_ttl", "action"),
    [
        pytest.param(10, Slot(T), 0, Action.SERVE, id="a fresh token is served"),
        pytest.param(2700, Slot(T), 0, Action.SERVE_AND_RENEW, id="a stale token is served and renewed"),
        pytest.param(2700, Slot(T, fetching=True), 0, Action.SERVE, id="a renewal runs once"),
        pytest.param(3001, OTHER, 0, Action.SERVE, id="after a failed renewal the good token is served"),
        pytest.param(3031, OTHER, 0, Action.SERVE_AND_RENEW, id="and the renewal is tried again later"),
        pytest.param(3550, Slot(T), 0, Action.FETCH, id="an ending token is renewed first"),
        pytest.param(3550, Slot(T, fetching=True), 0, Action.JOIN, id="an ending token's renewal is waited for"),
        pytest.param(3600, Slot(T), 0, Action.FETCH, id="an expired token is never served"),
        pytest.param(3600, Slot(T, fetching=True), 0, Action.JOIN, id="a fetch runs once"),
        pytest.param(0, Slot(), 0, Action.FETCH, id="nothing is fetched"),
        pytest.param(0.1, failing(DOWN), 0, Action.BACK_OFF, id="after a failure the issuer is left alone"),
        pytest.param(1, failing(DOWN), 0, Action.FETCH, id="and asked again later"),
        pytest.param(400, Slot(T), 3200, Action.SERVE, id="min_ttl is met by what is there"),
        pytest.param(500, Slot(T), 3200, Action.FETCH, id="min_ttl is met by a new token"),
        pytest.param(500, Slot(T, fetching=True), 3200, Action.JOIN, id="min_ttl waits for the fetch in flight"),
        pytest.param(500, Slot(T), 3601, Action.UNMET, id="min_ttl beyond the lifetime cannot be met"),
        pytest.param(359, Slot(T), 3590, Action.UNMET, id="min_ttl in a loop burns no quota"),
        pytest.param(361, Slot(T), 3590, Action.FETCH, id="min_ttl near the lifetime, a tenth of it later"),
    ],
)
def test_decide(now: float, slot: Slot, min_ttl: float, action: Action) -> None:
    assert action is lifecycle.decide(slot, at(now), min_ttl=min_ttl)


def test_in_the_mandatory_window_a_good_token_outlives_a_bad_issuer() -> None:
    """While the issuer is left alone the ending token is served; once it expires the failure is."""
    slot = failing(IssuerUnavailable("busy", retry_after=600), slot=Slot(T), when=3540)
    assert Action.SERVE is lifecycle.decide(slot, at(3590))
    assert Action.BACK_OFF is lifecycle.decide(slot, at(3601))


def test_a_caller_that_may_prompt_gets_past_the_back_off_of_a_credential_that_was_not_read_again() -> None:
    """The background may not read the vault for a refused credential; the first caller that may does."""
    slot = lifecycle.failed(lifecycle.started(Slot()), CredentialRejected("no"), at(0), spread=0.0, reread=False)
    assert Action.BACK_OFF is lifecycle.decide(slot, at(1))
    assert Action.FETCH is lifecycle.decide(slot, at(1), may_prompt=True)
    again = lifecycle.failed(lifecycle.started(slot), CredentialRejected("no"), at(1), spread=0.0, reread=True)
    assert Action.BACK_OFF is lifecycle.decide(again, at(2), may_prompt=True)


@pytest.mark.parametrize(
    ("transition", "slot"),
    [
        pytest.param(lifecycle.started, Slot(fetching=True), id="two flights at once"),
        pytest.param(lambda s: lifecycle.fetched(s, T, at(0)), Slot(), id="a success without a flight"),
        pytest.param(lambda s: lifecycle.failed(s, DOWN, at(0), spread=0), Slot(), id="a failure without a flight"),
        pytest.param(lifecycle.cancelled, Slot(), id="a cancellation without a flight"),
        pytest.param(lambda s: lifecycle.served(s, at(3600)), Slot(T), id="serving an expired token"),
        pytest.param(lambda s: lifecycle.served(s, at(0)), Slot(), id="serving nothing"),
        pytest.param(lambda s: lifecycle.served(s, at(100), 3550), Slot(T), id="serving less than min_ttl"),
    ],
)
def test_an_illegal_transition_raises_and_changes_nothing(transition: object, slot: Slot) -> None:
    before = dataclasses.replace(slot)
    with pytest.raises(IllegalTransition):
        transition(slot)  # type: ignore[operator]  # each is a function of a slot
    assert before == slot


def test_a_success_that_expires_no_later_is_a_failure_and_keeps_the_token() -> None:
    """An issuer that repeats its token is not asked again at once."""
    slot = lifecycle.started(Slot(T, used=True))
    same = token(3600 - 2800, issued=2800, text="t2")
    after = lifecycle.fetched(slot, same, at(2800))
    assert T is after.token
    assert after.failure is not None
    assert Action.SERVE is lifecycle.decide(after, at(2801))


def test_a_success_that_is_already_expired_is_a_failure() -> None:
    after = lifecycle.fetched(lifecycle.started(Slot()), token(5), at(6))
    assert after.token is None
    assert after.failure is not None


def test_a_success_clears_the_failure_and_the_back_off() -> None:
    slot = lifecycle.fetched(lifecycle.started(failing(DOWN, times=3)), T, at(10))
    assert slot.failure is None
    assert Action.SERVE is lifecycle.decide(slot, at(10))


@pytest.mark.parametrize(
    ("error", "delays"),
    [
        pytest.param(DOWN, [0.5, 1, 2, 4, 7.5, 7.5], id="passing trouble: doubling to a quarter minute"),
        pytest.param(CredentialRejected("x"), [60, 120, 240, 480, 900, 900], id="refused: a minute to a quarter hour"),
        pytest.param(IssuerNeedsPerson("x"), [60, 120], id="needs a person: likewise"),
        pytest.param(IssuerMisconfigured("x"), [10, 20, 40, 80, 160, 300, 300], id="configuration: ten seconds up"),
        pytest.param(Locked("x"), [0, 0], id="a locked vault says nothing of the issuer"),
        pytest.param(IssuerUnavailable("x", retry_after=90), [90, 90], id="retry-after is honoured"),
        pytest.param(IssuerUnavailable("x", retry_after=1e6), [3600], id="but not for ever"),
        pytest.param(IssuerNeedsPerson("x", retry_after=3000), [3000], id="retry-after of a quota is honoured too"),
        pytest.param(IssuerUntrusted("x"), [5, 10, 20, 40, 60, 60], id="a captive portal: five seconds to a minute"),
    ],
)
def test_back_off_without_a_token(error: BrokerError, delays: list[float]) -> None:
    assert delays == [backoff.back_off(error, n, spread=0.0) for n in range(1, len(delays) + 1)]


@given(spread=st.floats(0, 1, exclude_max=True), left=st.floats(0.001, 3600), count=st.integers(1, 1000))
def test_a_renewal_is_tried_again_before_the_good_token_ends(spread: float, left: float, count: int) -> None:
    delay = backoff.back_off(DOWN, count, spread=spread, valid_for=left)
    assert 0 < delay <= 30
    assert delay < left or left <= 1


def test_failed_renewals_do_not_make_the_wait_longer_once_the_token_is_gone() -> None:
    """An outage of minutes ends for a caller a second after the issuer is back, not half a minute."""
    slot = failing(DOWN, times=20, slot=Slot(T), when=3590)
    slot = lifecycle.failed(lifecycle.started(slot), DOWN, at(3601), spread=0.0)
    assert lifecycle.retry_after(slot, at(3601)) == 0.5


def test_a_rejected_token_is_dropped_only_if_it_is_still_the_one_at_hand() -> None:
    slot = Slot(T)
    assert slot is lifecycle.rejected(slot, token(text="older").fingerprint, at(1))
    assert lifecycle.rejected(slot, T.fingerprint, at(1)).token is None


def test_a_rejection_keeps_the_back_off() -> None:
    slot = lifecycle.rejected(failing(DOWN, slot=Slot(T), when=3000), T.fingerprint, at(3001))
    assert Action.BACK_OFF is lifecycle.decide(slot, at(3001))


def test_rejections_in_a_loop_stop_causing_fetches() -> None:
    slot = Slot()
    dropped = 0
    for n in range(10):
        fresh = token(text=f"t{n}", issued=n)
        if slot.token is None:
            slot = lifecycle.fetched(lifecycle.started(slot), fresh, at(n))
        assert slot.token is not None
        before = slot
        slot = lifecycle.rejected(slot, slot.token.fingerprint, at(n))
        dropped += slot is not before
    assert lifecycle.REJECTION_BURST == dropped
    assert slot.token is not None
    later = lifecycle.rejected(slot, slot.token.fingerprint, at(100))
    assert later.token is None, "a minute later a rejection counts again"


def test_only_a_token_that_was_used_is_renewed_in_the_background() -> None:
    assert not lifecycle.renewal_due(Slot(T), at(2800))
    assert lifecycle.renewal_due(lifecycle.served(Slot(T), at(1)), at(2800))
    assert not lifecycle.renewal_due(lifecycle.served(Slot(T), at(1)), at(3600)), "what expired is not renewed"
    assert lifecycle.seconds_to_renewal(Slot(T), at(0)) is None


@given(
    jitter=st.floats(0, 1, exclude_max=True),
    lifetime=st.floats(10, 1e5),
    now=st.floats(0, 0.9),
)
def test_the_next_look_is_neither_too_early_nor_too_late(jitter: float, lifetime: float, now: float) -> None:
    """At the moment that `seconds_to_renewal` names the renewal is due, and not before."""
    slot = Slot(token(lifetime, jitter=jitter), used=True)
    moment = at(now * lifetime)
    wait = lifecycle.seconds_to_renewal(slot, moment)
    assert wait is not None
    assert lifecycle.renewal_due(slot, moment) == (wait <= 0)


def test_forgiving_clears_the_back_off_and_keeps_the_token() -> None:
    slot = lifecycle.forgiven(failing(DOWN, slot=Slot(T), when=3550), at(3550), mended=False)
    assert T is slot.token
    assert Action.FETCH is lifecycle.decide(slot, at(3550))


@pytest.mark.parametrize(
    ("error", "count"),
    [
        pytest.param(IssuerUnavailable("x"), 1, id="passing trouble begins anew"),
        pytest.param(IssuerUntrusted("x"), 1, id="so does a captive portal"),
        pytest.param(CredentialRejected("x"), 6, id="a refused credential does not"),
        pytest.param(IssuerMisconfigured("x"), 6, id="nor does a wrong configuration"),
    ],
)
def test_after_the_machine_slept_what_passes_begins_anew(error: BrokerError, count: int) -> None:
    """Failures of before do not make the first wait on a network that is a second late a long one."""
    slot = failing(error, times=5)
    slept = failing(error, slot=slot, when=slot.retry_at + lifecycle.AFRESH + 1)
    assert slept.failure is not None
    assert slept.failure.count == count
    soon = failing(error, slot=slot, when=slot.retry_at + 1)
    assert soon.failure is not None
    assert soon.failure.count == 6


def test_with_little_of_a_quota_left_the_renewal_is_expected_late() -> None:
    slot = Slot(token=token(jitter=0.5), used=True)
    early = lifecycle.seconds_to_renewal(slot, at(0))
    assert lifecycle.seconds_to_renewal(slot, at(0), late=True) == HOUR - 60
    assert early is not None
    assert early < HOUR - 60


def test_with_little_of_a_quota_left_one_rejection_is_believed() -> None:
    slot = lifecycle.rejected(Slot(token=token(text="a")), token(text="a").fingerprint, at(0), low=True)
    assert slot.token is None
    again = Slot(token=token(text="b"), rejections=slot.rejections)
    assert lifecycle.rejected(again, token(text="b").fingerprint, at(1), low=True) is again
    assert lifecycle.rejected(again, token(text="b").fingerprint, at(1)).token is None
