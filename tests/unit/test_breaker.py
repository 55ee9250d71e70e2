"""An issuer that does not answer is left alone, and tried by one request at a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tokenbroker import lifecycle
from tokenbroker.breaker import Breaker
from tokenbroker.errors import (
    CredentialRejected,
    IssuerError,
    IssuerMisconfigured,
    IssuerThrottled,
    IssuerUnavailable,
    IssuerUntrusted,
)
from tokenbroker.model import Instant

if TYPE_CHECKING:
    from collections.abc import Iterable

DOWN = IssuerUnavailable("down")
BUSY = IssuerThrottled("429", retry_after=30)


class Bench:
    """A breaker, and a clock that stands until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.made = 0
        self.breaker = Breaker(lambda: Instant(self.now, self.now), lambda: 1.0)

    def ask(self, outcome: BaseException | None = None, *, issuer: str = "main", client: str = "mine") -> None:
        with self.breaker.request(issuer, client):
            self.made += 1
            if outcome is not None:
                raise outcome

    def fail(self, outcomes: Iterable[BaseException], *, client: str = "mine") -> None:
        for outcome in outcomes:
            with pytest.raises(type(outcome)):
                self.ask(outcome, client=client)


def held_back(bench: Bench, *, client: str = "mine", issuer: str = "main") -> IssuerError:
    """Ask, and return what is told instead of a request."""
    made = bench.made
    with pytest.raises(IssuerError) as raised:
        bench.ask(issuer=issuer, client=client)
    assert bench.made == made
    return raised.value


def test_three_failures_in_a_row_are_told_to_everybody_at_once() -> None:
    bench = Bench()
    bench.fail([DOWN] * 3)
    told = held_back(bench, client="another")
    assert (told.message, told.retry_after) == ("down", 1.0)
    bench.ask(issuer="other")
    assert bench.breaker.open().keys() == {"main"}


@pytest.mark.parametrize(
    "answer", [None, CredentialRejected("no"), IssuerMisconfigured("no"), BUSY], ids=["success", "401", "400", "429"]
)
def test_any_answer_begins_the_count_anew(answer: IssuerError | None) -> None:
    bench = Bench()
    bench.fail([DOWN] * 2)
    if answer is None:
        bench.ask(client="another")
    else:
        bench.fail([answer], client="another")
    bench.fail([DOWN] * 2)
    bench.ask()


def test_the_wait_grows_up_to_a_quarter_of_a_minute() -> None:
    bench, waits = Bench(), []
    bench.fail([DOWN] * 3)
    for _ in range(6):
        waits.append(held_back(bench).retry_after)
        bench.now += waits[-1] or 0.0
        bench.fail([DOWN])
    assert waits == [1, 2, 4, 8, 15, 15]


def test_the_issuers_own_wait_wins_and_is_cut_to_an_hour() -> None:
    bench = Bench()
    bench.fail([DOWN, DOWN, IssuerUnavailable("503", retry_after=120)])
    assert held_back(bench).retry_after == 120
    bench.now += 120
    bench.fail([IssuerUnavailable("503", retry_after=90_000)])
    assert held_back(bench).retry_after == 3600


def test_one_request_tries_while_the_others_are_still_told() -> None:
    bench = Bench()
    bench.fail([DOWN] * 3)
    bench.now += 1
    with bench.breaker.request("main", "mine"):
        assert held_back(bench, client="another").retry_after == 1
        bench.now += lifecycle.AFRESH + 1
        assert held_back(bench, client="another").retry_after == 1
    bench.ask(client="another")


def test_one_from_before_that_fails_during_the_try_lets_nobody_else_in() -> None:
    bench = Bench()
    before = bench.breaker.request("main", "slow")
    before.__enter__()
    bench.fail([DOWN] * 3)
    bench.now += 1
    with bench.breaker.request("main", "mine"):
        assert not before.__exit__(IssuerUnavailable, DOWN, None)
        held_back(bench, client="another")


@pytest.mark.parametrize("error", [asyncio.CancelledError(), ZeroDivisionError()], ids=["cancelled", "a fault"])
def test_a_try_that_was_given_up_leaves_the_turn_to_the_next(error: BaseException) -> None:
    bench = Bench()
    bench.fail([DOWN] * 3)
    bench.now += 1
    bench.fail([error])
    bench.fail([DOWN])
    assert held_back(bench).retry_after == 2


def test_those_who_were_under_way_do_not_lengthen_the_wait() -> None:
    """Fifty requests that fail together are one outage."""
    bench = Bench()
    under_way = [bench.breaker.request("main", f"c{n}") for n in range(50)]
    for request in under_way:
        request.__enter__()
    for request in under_way:
        assert not request.__exit__(IssuerUnavailable, DOWN, None)
    assert held_back(bench).retry_after == 1


def test_a_client_that_asks_too_often_is_held_back_alone() -> None:
    bench = Bench()
    bench.fail([BUSY])
    assert held_back(bench).retry_after == 30
    bench.ask(client="another")
    bench.now += 30
    bench.ask()


def test_without_a_wait_of_the_issuers_a_throttled_client_waits_longer_each_time() -> None:
    bench = Bench()
    for wait in (1, 2, 4):
        bench.fail([IssuerThrottled("429")])
        assert held_back(bench).retry_after == wait
        bench.now += wait


def test_an_outage_does_not_make_a_throttled_client_welcome() -> None:
    bench = Bench()
    bench.fail([IssuerThrottled("429")])
    bench.now += 1
    bench.fail([DOWN])
    bench.fail([IssuerThrottled("429")])
    assert held_back(bench).retry_after == 2


def test_a_certificate_that_is_not_trusted_counts_with_its_own_waits() -> None:
    bench = Bench()
    bench.fail([IssuerUntrusted("captive portal")] * 3)
    assert held_back(bench).retry_after == 5


def test_a_resumed_machine_begins_with_short_waits() -> None:
    """After a long outage and a night's sleep a network that is not up yet has three tries, and costs a second."""
    bench = Bench()
    bench.fail([DOWN] * 3)
    for _ in range(6):
        bench.now += 15
        bench.fail([DOWN])
    bench.now += 8 * 3600
    bench.fail([DOWN] * 3)
    assert held_back(bench).retry_after == 1


def test_a_person_has_it_tried_at_once() -> None:
    bench = Bench()
    bench.fail([DOWN] * 3)
    bench.breaker.forgive({"main"}, set())
    bench.ask()
    bench.fail([BUSY])
    bench.breaker.forgive(set(), {"mine"})
    bench.ask()


def test_what_is_remembered_holds_no_frames() -> None:
    """An exception that is kept would keep the credentials in the frames that it went through."""
    bench = Bench()
    bench.fail([DOWN] * 3)
    told = held_back(bench)
    assert told is not DOWN
    assert bench.breaker.open()["main"].__traceback__ is None
