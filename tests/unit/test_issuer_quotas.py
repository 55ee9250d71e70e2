"""What issuers say of their quotas, and what that allows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbroker.allowance import Allowance, Holder
from tokenbroker.errors import IssuerError, IssuerNeedsPerson, IssuerThrottled
from tokenbroker.issuers.quotas import quotas, throttled_for
from tokenbroker.model import Instant, Quota

NOW = 1_800_000_000.0  # Fri, 15 Jan 2027 08:00:00 GMT
MINE = Holder("main", "mine", "org")
CRON = Holder("main", "mine-cron", "org")


def at(seconds: float) -> Instant:
    return Instant(NOW + seconds, seconds)


def told(
    remaining: int, *, limit: int = 100, resets_in: float = 3600.0, holder: str = "client", bucket: str = "per_hour"
) -> Quota:
    return Quota(holder, bucket, limit, remaining, resets_in)


def knowing(*known: Quota, holder: Holder = MINE) -> Allowance:
    allowance = Allowance()
    allowance.note(holder, known, at(0))
    return allowance


def test_auth0s_headers_are_read() -> None:
    """Both headers, each bucket a value of its own."""
    found = quotas(
        {
            "auth0-client-quota-limit": "b=per_hour;q=10;r=7;t=3540,b=per_day;q=100;r=70;t=80000",
            "auth0-organization-quota-limit": "b=per_hour;q=20;r=0;t=3540",
        }
    )
    assert found == (
        Quota("client", "per_hour", 10, 7, 3540.0),
        Quota("client", "per_day", 100, 70, 80000.0),
        Quota("organization", "per_hour", 20, 0, 3540.0),
    )


@pytest.mark.parametrize(
    "junk",
    [
        "",
        "b=per_hour;q=10;r=;t=1",
        "b=per_hour;q=10;r=-1;t=1",
        "b=per_hour;q=10;t=1",
        "q=10;r=1;t=1",
        "b=<x>;q=10;r=1;t=1",
        "b=per_hour;q=1e3;r=1;t=1",
        "b=x;q=10;r=1;t=1;",
        ",;=",
    ],
)
def test_what_is_not_understood_says_nothing(junk: str) -> None:
    assert quotas({"auth0-client-quota-limit": junk}) == ()


def test_no_more_is_left_than_there_is() -> None:
    """Else a share of what is left would be more than the whole."""
    (found,) = quotas({"auth0-client-quota-limit": "b=per_hour;q=10;r=12;t=5"})
    assert found.remaining == 10


@given(st.text(max_size=300))
def test_no_header_breaks_the_parser(text: str) -> None:
    """Whatever stands there, there are a few sound values or none."""
    found = quotas({"auth0-client-quota-limit": text, "auth0-organization-quota-limit": text})
    assert len(found) <= 16
    assert all(0 <= quota.remaining <= quota.limit for quota in found)
    throttled_for({"ratelimit": text, "x-ratelimit-reset": text, "x-rate-limit-reset": text}, NOW)


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        pytest.param({"x-rate-limit-remaining": "0", "x-rate-limit-reset": f"{NOW + 40:.0f}"}, 40, id="Okta: a time"),
        pytest.param({"x-ratelimit-remaining": "0", "x-ratelimit-reset": f"{NOW + 50:.0f}"}, 50, id="GitHub: a time"),
        pytest.param({"x-ratelimit-reset": "30"}, 30, id="others: seconds"),
        pytest.param({"ratelimit-remaining": "0", "ratelimit-reset": "7"}, 7, id="an early draft"),
        pytest.param({"ratelimit": "limit=10, remaining=0, reset=8"}, 8, id="a middle draft"),
        pytest.param({"ratelimit": '"burst";r=5;t=1, "daily";r=0;t=60'}, 60, id="the present draft"),
        pytest.param({"x-ratelimit-remaining": "3", "x-ratelimit-reset": "30"}, None, id="something is left"),
        pytest.param({"ratelimit": '"default";r=10;t=60'}, None, id="something is left by the draft"),
        pytest.param({"x-rate-limit-reset": f"{NOW - 5:.0f}"}, 0, id="a time gone by"),
        pytest.param({"x-ratelimit-reset": "soon"}, None, id="junk"),
        pytest.param({}, None, id="nothing"),
        pytest.param(
            {"date": "Fri, 15 Jan 2027 07:00:00 GMT", "x-rate-limit-reset": f"{NOW - 3570:.0f}"},
            30,
            id="by the issuer's own clock",
        ),
    ],
)
def test_when_a_throttling_issuer_answers_again(headers: dict[str, str], wait: float | None) -> None:
    assert throttled_for(headers, NOW) == wait


def test_a_quota_is_low_below_the_floor() -> None:
    """A tenth of a hundred is not below a tenth."""
    assert not knowing(told(10)).low(MINE, 0.1, at(1))
    assert knowing(told(9)).low(MINE, 0.1, at(1))
    assert not knowing(told(9)).low(MINE, 0.0, at(1))


def test_a_quota_is_forgotten_when_it_resets() -> None:
    """Then nobody knows, and what is not known is no limit."""
    allowance = knowing(told(0))
    assert not allowance.low(MINE, 0.1, at(3601))
    allowance.check(MINE, at(3601))
    assert allowance.standing(at(3601)) == []


@pytest.mark.parametrize(
    ("resets_in", "kind"), [(301.0, IssuerNeedsPerson), (299.0, IssuerThrottled)], ids=["long", "short"]
)
def test_nothing_left_is_told_without_a_request(resets_in: float, kind: type[IssuerError]) -> None:
    """With the bucket, and for how long; a person is needed for a long wait."""
    with pytest.raises(kind, match="all 100 of per_hour are used up, more in") as raised:
        knowing(told(0, resets_in=resets_in)).check(MINE, at(0))
    assert type(raised.value) is kind
    assert raised.value.retry_after == resets_in


def test_the_longest_wait_counts_and_is_cut_to_an_hour() -> None:
    with pytest.raises(IssuerNeedsPerson, match="per_day") as raised:
        knowing(told(0), told(0, bucket="per_day", resets_in=80_000)).check(MINE, at(0))
    assert raised.value.retry_after == 3600


def test_a_clients_quota_is_its_own_and_an_organizations_is_shared() -> None:
    knowing(told(0)).check(CRON, at(0))
    shared = knowing(told(0, holder="organization"))
    with pytest.raises(IssuerNeedsPerson, match="this organization"):
        shared.check(CRON, at(0))
    shared.check(Holder("main", "mine", "another"), at(0))
    shared.check(Holder("other", "mine", "org"), at(0))


def test_the_latest_answer_counts_in_whatever_order_they_come() -> None:
    allowance = Allowance()
    allowance.note(MINE, [told(5)], at(10))
    allowance.note(MINE, [told(6)], at(9))
    assert [one.quota.remaining for one in allowance.standing(at(11))] == [5]


def test_a_person_may_have_it_tried_once_more() -> None:
    """Until the issuer says again that nothing is left; what is known is still shown."""
    allowance = knowing(told(0))
    allowance.forgive({"mine"}.__contains__)
    allowance.check(MINE, at(1))
    assert len(allowance.standing(at(1))) == 1
    allowance.note(MINE, [told(0)], at(2))
    with pytest.raises(IssuerNeedsPerson):
        allowance.check(MINE, at(3))


def test_what_is_shown_says_as_of_when_and_until_when() -> None:
    (shown,) = knowing(told(7)).standing(at(100))
    assert (shown.holder, shown.as_of.wall, shown.resets_in(at(100))) == (MINE, NOW, 3500.0)
