from __future__ import annotations

import json
from typing import Any

import pytest

from tokenbroker.errors import VaultUnavailable
from tokenbroker.model import RateLimit, SecretRef
from tokenbroker.vaults.op.limits import (
    DAY,
    HOUR,
    SMALLEST_PLAN,
    UNTOLD_PAUSE,
    Allowance,
    Window,
    cost_of,
    parse_limits,
)
from tokenbroker.vaults.op.reference import OpReference, parse_reference
from tokenbroker.vaults.op.template import GarbledOutput

NOW = 1000.0
VAULT_ID, ITEM_ID = "a" * 26, "b2" * 13
# Form of `op service-account ratelimit --format json` (contract 3).
TOLD = [
    {"type": "token", "action": "write", "limit": 1000, "used": 0, "remaining": 1000, "reset": 0},
    {"type": "token", "action": "read", "limit": 10000, "used": 3, "remaining": 9997, "reset": 3540},
    {"type": "account", "action": "read_write", "limit": 50000, "used": 3, "remaining": 49997, "reset": 82800},
]


WRONG: list[dict[str, Any]] = [
    {"limit": 0}, {"limit": -1}, {"limit": 10**9 + 1}, {"limit": 10**400}, {"limit": 1000.0}, {"limit": True},
    {"limit": []}, {"used": -1}, {"used": 10**400}, {"used": "1"}, {"used": None}, {"reset": -1}, {"reset": 172801},
    {"reset": 0.5}, {"reset": "1"}, {"reset": None}, {"type": []}, {"type": "two\nlines"}, {"action": 1},
]  # fmt: skip


def one_limit(**more: object) -> bytes:
    """Return what `op` prints, of one limit."""
    return json.dumps([{"type": "token", "action": "read", "limit": 1000, "used": 0, "reset": 0} | more]).encode()


def refs(*uris: str) -> list[OpReference]:
    return [one for one in map(parse_reference, map(SecretRef, uris)) if one is not None]


def told(*, hour: int = 0, day: int = 0) -> Allowance:
    """Return allowances of 100 an hour and 1,000 a day, of which so much is used in windows that began at `NOW`."""
    return Allowance((
        Window("token", "read", 100, hour, NOW + HOUR if hour else None),
        Window("account", "read_write", 1000, day, NOW + DAY if day else None),
    ))  # fmt: skip


def test_limits_are_read() -> None:
    shown = Allowance().told(parse_limits(json.dumps(TOLD).encode(), NOW)).shown(NOW + 40)
    assert shown == (
        RateLimit("token", "write", 1000, 0, None),
        RateLimit("token", "read", 10000, 3, 3500.0),
        RateLimit("account", "read_write", 50000, 3, 82760.0),
    )


@pytest.mark.parametrize(
    "output",
    [
        b"",
        b"[]",
        b"{}",
        b"null",
        b'[{"type": "token"}]',
        b'[{"type":"t","action":"read","limit":"x","used":0}]',
        b"[1]",
        *(one_limit(**wrong) for wrong in WRONG),
        one_limit(limit=1).replace(b'"limit": 1', b'"limit": 1e999'),
        one_limit(reset=7).replace(b'"reset": 7', b'"reset": 1e999'),
    ],
)
def test_output_that_is_no_limits_is_refused(output: bytes) -> None:
    with pytest.raises(GarbledOutput):
        parse_limits(output, NOW)


@pytest.mark.parametrize(
    ("asked", "cached", "fresh", "cost"),
    [
        pytest.param(refs("op://V/I/a"), set(), False, 3, id="an item by name"),
        pytest.param(refs(f"op://{VAULT_ID}/{ITEM_ID}/a"), set(), False, 2, id="an item by ids"),
        pytest.param(refs("op://V/I/a", "op://v/i/b"), set(), False, 4, id="a second field of it"),
        pytest.param(refs("op://V/I/a", "op://V/J/a"), set(), False, 6, id="two items"),
        pytest.param(refs("op://V/I/a", "op://V/I/b"), {("v", "i")}, False, 2, id="an item in the cache"),
        pytest.param(refs("op://V/I/a", "op://V/I/b"), {("v", "i")}, True, 6, id="past the cache"),
        pytest.param([], set(), False, 0, id="nothing"),
    ],
)
def test_cost_is_what_was_measured(
    asked: list[OpReference],
    cached: set[tuple[str, str]],
    fresh: bool,  # noqa: FBT001
    cost: int,
) -> None:
    assert cost_of(asked, cached, fresh=fresh) == cost


def test_window_begins_with_its_first_request_and_is_whole_again_at_its_end() -> None:
    allowance = told().spend(3, NOW)
    assert [(one.used, one.resets_in) for one in allowance.shown(NOW + 60)] == [(3, HOUR - 60), (3, DAY - 60)]
    assert [(one.used, one.resets_in) for one in allowance.shown(NOW + HOUR)] == [(0, None), (3, DAY - HOUR)]
    again = allowance.spend(2, NOW + HOUR + 5)
    assert [(one.used, one.resets_in) for one in again.shown(NOW + HOUR + 5)] == [(2, HOUR), (5, DAY - HOUR - 5)]


def test_a_read_that_costs_nothing_begins_no_window() -> None:
    assert told().spend(0, NOW) == told()


def test_reads_leave_the_allowance_of_writes_alone() -> None:
    allowance = Allowance().assumed().spend(7, NOW)
    assert {(one.type, one.action): one.used for one in allowance.shown(NOW)} == {
        ("token", "write"): 0, ("token", "read"): 7, ("account", "read_write"): 7
    }  # fmt: skip


@pytest.mark.parametrize(
    ("allowance", "words", "retry_after"),
    [
        pytest.param(told(hour=93), "hourly allowance", HOUR, id="hour"),
        pytest.param(told(day=950), "daily allowance", DAY, id="day"),
        pytest.param(told(hour=99, day=999), "daily allowance", DAY, id="both: the longer wait is told"),
    ],
)
def test_read_that_would_touch_the_reserve_is_refused_with_the_window_and_the_time(
    allowance: Allowance, words: str, retry_after: float
) -> None:
    error = allowance.refusal(3, NOW)
    assert isinstance(error, VaultUnavailable)
    assert words in error.message
    assert error.retry_after == retry_after
    assert "broker status" in (error.hint or "")


@pytest.mark.parametrize(
    ("allowance", "cost"),
    [
        pytest.param(Allowance(), 50, id="nothing known"),
        pytest.param(told(hour=92), 3, id="just above the reserve"),
        pytest.param(told(), 300, id="a whole window, although it is too small: waiting would not help"),
    ],
)
def test_read_that_leaves_the_reserve_is_let_through(allowance: Allowance, cost: int) -> None:
    assert allowance.refusal(cost, NOW) is None


def test_refusal_ends_with_the_window() -> None:
    assert told(hour=99).refusal(3, NOW + HOUR - 1) is not None
    assert told(hour=99).refusal(3, NOW + HOUR) is None


def test_refusal_by_1password_is_remembered_until_its_time_whatever_is_told_meanwhile() -> None:
    allowance = told().refused(59 * 60, NOW).told(told().windows)
    error = allowance.refusal(0, NOW + 60)
    assert error is not None
    assert error.retry_after == 58 * 60
    assert allowance.refusal(3, NOW + 59 * 60) is None


def test_refusal_without_a_time_is_remembered_for_a_while() -> None:
    allowance = told().refused(None, NOW)
    assert allowance.refusal(3, NOW + UNTOLD_PAUSE - 1) is not None
    assert allowance.refusal(3, NOW + UNTOLD_PAUSE) is None


def test_smallest_plan_is_assumed_and_said_to_be() -> None:
    allowance = Allowance().assumed()
    assert allowance.windows == SMALLEST_PLAN
    assert all(one.estimated for one in allowance.shown(NOW))
    assert not any(one.estimated for one in allowance.told(told().windows).shown(NOW))
    assert allowance.spend(3, NOW).assumed() == allowance.spend(3, NOW), "what is counted stays"
    assert "our own count" in str(allowance.spend(990, NOW).refusal(3, NOW))
