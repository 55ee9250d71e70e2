"""What calls and answers come to: every way in which an app could treat them, and people who do not know or err."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any

import pytest

from tokenbroker.vaults.op.grants import (
    MAX_AGE,
    MAX_PROMPTS,
    PLAN,
    Grants,
    Observation,
    Place,
    Scope,
    Seen,
    Step,
    bounds,
    carried_over,
    conclude,
    doubts,
    from_json,
    to_json,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    App = Callable[[Step, int], Hashable]

# What the app would know a caller by; a call is authorized when one with the same key was.
APPS: dict[Scope, App] = {
    Scope.CALL: lambda _step, number: number,
    Scope.PROCESS: lambda step, _: (step.place, step.session, step.caller),
    Scope.SESSION: lambda step, _: (step.place, step.session),
    Scope.SHARED: lambda _step, _: "all",
}
EVERYWHERE = [place for place in Place if place is not Place.OWN]
AT = 1_790_000_000.0
ANSWER = Grants(
    "2.40.0", AT, {Place.TERMINAL: Scope.SESSION, Place.PLAIN: Scope.CALL}, "/dev/pts/3 4711", AT - 60,
    idle=660.0, idle_ended=True, dismissed="authorization prompt dismissed, please try again",
)  # fmt: skip


def made(step: Step, *, prompted: bool | None, seconds: float | None = None, **more: Any) -> Observation:
    """Return a call that got through and took as long as such calls take."""
    took = seconds if seconds is not None else 7.0 if prompted else 1.0
    return Observation(step, Seen("ok", took), prompted, **more)


def experiment(app: App, places: Sequence[Place] = tuple(Place), *, held: Sequence[Hashable] = ()) -> list[Observation]:
    """Make the planned calls in a world with this app, and a person who tells the truth."""
    keys = set(held)
    seen: list[Observation] = []
    for place in places:
        for step in PLAN[place]:
            key = app(step, len(seen))
            seen.append(made(step, prompted=key not in keys))
            keys.add(key)
            if bounds(seen, place)[1] is not None:
                break
    return seen


@pytest.mark.parametrize("scope", APPS)
def test_each_way_is_told_from_the_others(scope: Scope) -> None:
    """Of an app that keeps to one rule everywhere, that rule is found at each place that can tell."""
    found = conclude(experiment(APPS[scope]))
    assert {place: found[place] for place in EVERYWHERE} == dict.fromkeys(EVERYWHERE, scope)
    # In the person's own terminal there is no second session, and what it held before is not known.
    assert found[Place.OWN] is (Scope.CALL if scope is Scope.CALL else Scope.UNKNOWN)


@pytest.mark.parametrize("scope", APPS)
def test_no_place_asks_more_often_than_promised(scope: Scope) -> None:
    seen = experiment(APPS[scope])
    for place in Place:
        assert sum(bool(one.prompted) for one in seen if one.step.place is place) <= MAX_PROMPTS


@pytest.mark.parametrize("plain", APPS)
@pytest.mark.parametrize("terminal", APPS)
def test_places_are_judged_apart(terminal: Scope, plain: Scope) -> None:
    """With a terminal and without may differ in every way."""

    def app(step: Step, number: int) -> Hashable:
        return step.place, APPS[terminal if step.place is Place.TERMINAL else plain](step, number)

    assert conclude(experiment(app, [Place.TERMINAL, Place.PLAIN])) == {Place.TERMINAL: terminal, Place.PLAIN: plain}


def test_older_authorization_that_reaches_new_sessions_is_shared() -> None:
    """Somebody used `op` before: nothing asks at all, and a session that is new has no history of its own."""
    assert conclude(experiment(APPS[Scope.SHARED], [Place.PLAIN], held=["all"])) == {Place.PLAIN: Scope.SHARED}


def test_older_authorization_of_the_persons_terminal_proves_nothing() -> None:
    held = [(Place.OWN, 1)]
    found = conclude(experiment(APPS[Scope.SESSION], [Place.TERMINAL, Place.OWN], held=held))
    assert found == {Place.TERMINAL: Scope.SESSION, Place.OWN: Scope.UNKNOWN}


FIRST, AGAIN, OTHER, NEW = PLAN[Place.TERMINAL]


@pytest.mark.parametrize(
    ("answers", "scope"),
    [
        pytest.param([None, None, None, None], Scope.UNKNOWN, id="a person who never looked settles nothing"),
        pytest.param([True], Scope.UNKNOWN, id="one call settles nothing"),
        pytest.param([True, False, False], Scope.UNKNOWN, id="a session not left says only that it holds there"),
        pytest.param([True, False, None, True], Scope.UNKNOWN, id="process or session is not guessed"),
        pytest.param([True, None, False, True], Scope.SESSION, id="another process' call tells of the same one's too"),
        pytest.param([None, True], Scope.CALL, id="the first answer may be missing"),
        pytest.param([False, True], Scope.UNKNOWN, id="answers that contradict one another settle nothing"),
    ],
)
def test_only_what_was_seen_is_concluded(answers: list[bool | None], scope: Scope) -> None:
    seen = [made(step, prompted=answer) for step, answer in zip(PLAN[Place.TERMINAL], answers, strict=False)]
    assert conclude(seen) == {Place.TERMINAL: scope}


def test_call_that_was_not_authorized_opens_nothing() -> None:
    """After a dismissed dialog the next one is no sign that each call asks."""
    refused = Observation(FIRST, Seen("prompt_dismissed", 3.0), prompted=True)
    seen = [refused, *(made(s, prompted=p) for s, p in ((FIRST, True), (AGAIN, False), (OTHER, False), (NEW, True)))]
    assert conclude(seen) == {Place.TERMINAL: Scope.SESSION}


def test_failure_without_dialog_is_no_sign_of_an_authorization() -> None:
    failed = Observation(AGAIN, Seen("vault_unavailable", 4.3), prompted=False)
    assert bounds([made(FIRST, prompted=True), failed], Place.TERMINAL) == (None, None)


def test_waiting_tells_how_long_and_not_how_far() -> None:
    seen = [*experiment(APPS[Scope.SESSION], [Place.TERMINAL]), made(FIRST, prompted=True, waited=660.0)]
    assert conclude(seen) == {Place.TERMINAL: Scope.SESSION}


@pytest.mark.parametrize("scope", APPS)
def test_nobody_doubts_a_truthful_person(scope: Scope) -> None:
    assert doubts(experiment(APPS[scope])) == []


@pytest.mark.parametrize(
    ("observations", "doubt"),
    [
        pytest.param([made(FIRST, prompted=True, seconds=0.8)], "call 1 is said to have asked, but took 0.8 s",
                     id="nobody answers a dialog so fast"),
        pytest.param([made(FIRST, prompted=False, seconds=7.0), made(AGAIN, prompted=False)],
                     "call 1 is said not to have asked, but took 7.0 s", id="that long only a dialog takes"),
        pytest.param([made(FIRST, prompted=False), made(AGAIN, prompted=True)],
                     "the answers for `terminal` contradict one another", id="a grant does not end between two calls"),
    ],
)  # fmt: skip
def test_answers_are_held_against_the_clock(observations: list[Observation], doubt: str) -> None:
    assert doubts(observations) == [doubt]


@pytest.mark.parametrize(
    "observations",
    [
        pytest.param([made(step, prompted=False, seconds=7.5) for step in PLAN[Place.SERVICE_PLAIN]],
                     id="under launchd each call is slow"),
        pytest.param([made(step, prompted=False, seconds=5.6) for step in PLAN[Place.PLAIN]],
                     id="in a sandbox each call is slow"),
        pytest.param([Observation(FIRST, Seen("prompt_dismissed", 0.9), prompted=True)],
                     id="a dialog is dismissed quickly"),
        pytest.param([Observation(FIRST, Seen("vault_unavailable", 10.0), prompted=False)],
                     id="a failure may take its time"),
        pytest.param([made(FIRST, prompted=None, seconds=0.1)], id="who does not know says nothing wrong"),
    ],
)  # fmt: skip
def test_slow_machine_is_no_liar(observations: list[Observation]) -> None:
    assert doubts(observations) == []


C, P, S, A, U = Scope.CALL, Scope.PROCESS, Scope.SESSION, Scope.SHARED, Scope.UNKNOWN
T, N, ST, SN = Place.TERMINAL, Place.PLAIN, Place.SERVICE_TERMINAL, Place.SERVICE_PLAIN


@pytest.mark.parametrize(
    ("scopes", "mode", "calls_prompt"),
    [
        pytest.param({T: S, N: C}, "terminal", False, id="a terminal holds"),
        pytest.param({T: S, N: A}, "terminal", False, id="a session of our own is preferred to a shared one"),
        pytest.param({T: P, N: C}, "terminal", False, id="the daemon's helper is one process"),
        pytest.param({T: C, N: A}, "plain", False, id="without a terminal it holds and in one it does not"),
        pytest.param({T: C, N: C}, "terminal", True, id="each call asks everywhere"),
        pytest.param({T: C, N: U}, "terminal", True, id="the unknown is no better than the known"),
        pytest.param({T: U, N: U}, "terminal", False, id="nothing known: as without an answer"),
        pytest.param({}, "terminal", False, id="nothing tried: as without an answer"),
        pytest.param({T: S, N: S, ST: C, SN: A}, "plain", False, id="what the service was seen to do counts first"),
        pytest.param({T: S, N: S, ST: U, SN: U}, "terminal", False, id="what it was not seen to do does not"),
    ],
)
def test_daemon_does_what_asks_least(scopes: Mapping[Place, Scope], mode: str, *, calls_prompt: bool) -> None:
    answer = Grants("2.40.0", AT, scopes)
    assert (answer.mode, answer.calls_prompt) == (mode, calls_prompt)


def test_answer_comes_back_as_it_was_kept() -> None:
    assert from_json(to_json(ANSWER)) == ANSWER
    assert from_json(to_json(Grants("2.40.0", AT, {}))) == Grants("2.40.0", AT, {})


def test_every_field_is_kept() -> None:
    kept = json.loads(to_json(ANSWER))
    assert {field.name for field in dataclasses.fields(Grants)} | {"version", "mode", "calls_prompt"} == set(kept)


def damaged(**changes: object) -> str:
    return json.dumps(json.loads(to_json(ANSWER)) | changes)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("{", id="half"),
        pytest.param("[]", id="a list"),
        pytest.param("null", id="null"),
        pytest.param("[" * 100_000, id="too deep"),
        pytest.param("{}", id="no version"),
        pytest.param(damaged(version=2), id="another version"),
        pytest.param(damaged(op=None), id="no op version"),
        pytest.param(damaged(op=2), id="a number for the op version"),
        pytest.param(damaged(at="today"), id="words for the time"),
        pytest.param(damaged(scopes=["session"]), id="a list of scopes"),
        pytest.param(damaged(scopes={"terminal": "galaxy"}), id="a scope that there is not"),
        pytest.param(damaged(scopes={"elsewhere": "call"}), id="a place that there is not"),
        pytest.param(damaged(idle=True), id="a truth for a number"),
        pytest.param(damaged(idle_ended="no"), id="a word for a truth"),
        pytest.param(damaged(own_terminal=3), id="a number for a terminal"),
    ],
)
def test_damaged_answer_is_none(text: str) -> None:
    assert from_json(text) is None


def test_mode_is_concluded_anew() -> None:
    """Who edits the file's last lines changes nothing."""
    assert from_json(damaged(mode="plain", calls_prompt=True)) == ANSWER


@pytest.mark.parametrize(
    ("version", "now", "reason"),
    [
        pytest.param("2.40.0", AT + 60, None, id="same op, today"),
        pytest.param(None, AT + MAX_AGE, None, id="op not known, 90 days"),
        pytest.param("2.41.0", AT + 60, "it is about op 2.40.0, and this is op 2.41.0", id="another op"),
        pytest.param("2.40.0", AT + MAX_AGE + 1, "it is older than 90 days", id="too old"),
        pytest.param("2.40.0", math.nan, "it is older than 90 days", id="a time that is none"),
    ],
)
def test_answer_is_used_for_the_op_and_the_days_that_it_is_about(
    version: str | None, now: float, reason: str | None
) -> None:
    assert ANSWER.unusable(op_version=version, now=now) == reason


OWN = PLAN[Place.OWN][0]


@pytest.mark.parametrize(
    ("previous", "seen", "found"),
    [
        pytest.param(ANSWER, [made(FIRST, prompted=True), made(OWN, prompted=True)], (AT - 60, False),
                     id="the same terminal asks again: it had ended"),
        pytest.param(ANSWER, [made(FIRST, prompted=True), made(OWN, prompted=False)], (AT - 60, True),
                     id="the same terminal does not ask: it was still there"),
        pytest.param(ANSWER, [made(OWN, prompted=None)], None, id="not known"),
        pytest.param(ANSWER, [made(FIRST, prompted=True)], None, id="not tried there"),
        pytest.param(dataclasses.replace(ANSWER, own_terminal="/dev/pts/4 1"), [made(OWN, prompted=True)], None,
                     id="another terminal"),
        pytest.param(dataclasses.replace(ANSWER, own_used=None), [made(OWN, prompted=True)], None,
                     id="it was never authorized there"),
        pytest.param(dataclasses.replace(ANSWER, scopes={T: A}), [made(FIRST, prompted=True)], (AT, False),
                     id="shared: any session tells"),
    ],
)  # fmt: skip
def test_later_run_tells_whether_the_earlier_authorization_lasted(
    previous: Grants, seen: list[Observation], found: tuple[float, bool] | None
) -> None:
    assert carried_over(previous, seen, "/dev/pts/3 4711") == found
