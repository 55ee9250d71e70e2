"""How far 1Password's authorization of `op` reaches, concluded from what a person saw. PURE.

`op` never tells whether it prompted, and the reports disagree (contract onepassword.md 2, 9), so the evidence is a
person's answer to each call that was made; how long a call took only raises doubts.

Rules of this file:
1. A call that asked nobody shows that the authorization reaches at least to it from the nearest authorized call before
   it; a call that asked shows that it does not reach so far. Where the two meet is the answer; else it is unknown.
2. Each place is judged by its own calls: how `op` is treated in a terminal says nothing of how it is in the service.
3. What is kept and what is reported names no account, item, person or address.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from enum import StrEnum
from statistics import median
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Kind = TypeVar("Kind")

VERSION: Final = 1  # of the answer's JSON
MAX_AGE: Final = 90 * 24 * 3600.0  # seconds; 1Password releases about once a month
QUICK: Final = 1.5  # seconds; nobody reads a dialog and answers it faster, and `op` itself takes half of that
SLOW: Final = {"here": 4.0, "service": 9.0}  # seconds; longer than calls that ask nobody take (contract 1.8)


class Place(StrEnum):
    """Where a call is made from."""

    TERMINAL = "terminal"
    """A pseudo-terminal that `broker doctor op` makes, as the daemon does."""
    PLAIN = "plain"
    """A session without terminal."""
    OWN = "own"
    """The terminal at which the person sits."""
    SERVICE_TERMINAL = "service-terminal"
    """As `TERMINAL`, made by the running daemon."""
    SERVICE_PLAIN = "service-plain"
    """As `PLAIN`, made by the running daemon."""


class Scope(StrEnum):
    """How far one authorization reaches, narrowest first."""

    CALL = "call"
    PROCESS = "process"
    """The calls of one process."""
    SESSION = "session"
    """The calls in one (terminal) session."""
    SHARED = "shared"
    """Calls in other sessions too."""
    UNKNOWN = "unknown"


_NARROWEST_FIRST: Final = (Scope.CALL, Scope.PROCESS, Scope.SESSION, Scope.SHARED)


@dataclass(frozen=True, slots=True)
class Step:
    """One call to make."""

    place: Place
    session: int = 1
    """Calls with the same number share a session, which is made for the first of them."""
    caller: int = 1
    """1: `op` is started by the session's leader; 2: by another process in it."""


_FULL: Final = ((1, 1), (1, 1), (1, 2), (2, 1))
PLAN: Final[Mapping[Place, tuple[Step, ...]]] = {
    place: tuple(Step(place, *which) for which in (_FULL[:2] if place is Place.OWN else _FULL)) for place in Place
}
"""The calls at each place, in order. At most two of a place's calls ask, as it is left once one shows a limit."""
MAX_PROMPTS: Final = 2  # of one place


@dataclass(frozen=True, slots=True)
class Seen:
    """What can be measured of a call."""

    outcome: str
    """`ok`, or the `code` of the error that it comes to."""
    seconds: float
    text: str = ""
    """What `op` wrote to stderr, scrubbed."""


@dataclass(frozen=True, slots=True)
class Observation:
    """A call that was made, and whether the person says that 1Password asked."""

    step: Step
    seen: Seen
    prompted: bool | None
    """`None`: the person does not know."""
    at: float = 0.0
    """When it ended, in epoch seconds."""
    waited: float = 0.0
    """Seconds that nothing was called before it, on purpose."""

    @property
    def authorized(self) -> bool:
        """Whether it got through, so that there was an authorization from then on."""
        return self.seen.outcome == "ok"


def conclude(observations: Sequence[Observation]) -> dict[Place, Scope]:
    """Return what the calls show, for each place that was tried."""
    tried = dict.fromkeys(seen.step.place for seen in observations)
    return {place: _scope(*bounds(observations, place)) for place in tried}


def bounds(observations: Iterable[Observation], place: Place) -> tuple[Scope | None, Scope | None]:
    """Return the least and the greatest reach that the calls at `place` allow; `None` where they do not say."""
    least: Scope | None = None
    greatest: Scope | None = None
    before: list[Step] = []
    for seen in observations:
        if seen.step.place is not place:
            continue
        if not seen.waited:  # such a call tells how long an authorization lasts
            if seen.prompted and (limit := _limit(seen.step, before)) is not None:
                greatest = min(greatest or limit, limit, key=_NARROWEST_FIRST.index)
            if seen.prompted is False and seen.authorized and (reach := _reach(seen.step, before)) is not None:
                least = max(least or reach, reach, key=_NARROWEST_FIRST.index)
        if seen.authorized:
            before.append(seen.step)
    return least, greatest


def _reach(step: Step, before: Sequence[Step]) -> Scope | None:
    """Return how far an authorization reaches that covered `step` after those `before`."""
    if step in before:
        return Scope.PROCESS
    if any(one.session == step.session for one in before):
        return Scope.SESSION
    # A session made by us has no history; the person's own terminal may have been authorized at any time before.
    return None if step.place is Place.OWN else Scope.SHARED


def _limit(step: Step, before: Sequence[Step]) -> Scope | None:
    """Return how far an authorization reaches at most, that did not cover `step` after those `before`."""
    if not before:
        return None
    return _NARROWEST_FIRST[_NARROWEST_FIRST.index(_reach(step, before) or Scope.SHARED) - 1]


def _scope(least: Scope | None, greatest: Scope | None) -> Scope:
    if least is Scope.SHARED and greatest is None:
        return Scope.SHARED
    if greatest is Scope.CALL and least is None:
        return Scope.CALL
    return least if least is not None and least is greatest else Scope.UNKNOWN


def doubts(observations: Sequence[Observation]) -> list[str]:
    """Say where a person's answers disagree with the clock or with one another."""
    found = []
    for number, seen in enumerate(observations, start=1):
        slow = SLOW["service" if seen.step.place in {Place.SERVICE_TERMINAL, Place.SERVICE_PLAIN} else "here"]
        if seen.prompted and seen.authorized and seen.seen.seconds < QUICK:
            found.append(f"call {number} is said to have asked, but took {seen.seen.seconds:.1f} s")
        if seen.prompted is False and seen.authorized and seen.seen.seconds > max(slow, 2 * _usual(observations)):
            found.append(f"call {number} is said not to have asked, but took {seen.seen.seconds:.1f} s")
    for place in dict.fromkeys(seen.step.place for seen in observations):
        least, greatest = bounds(observations, place)
        if least and greatest and _NARROWEST_FIRST.index(least) > _NARROWEST_FIRST.index(greatest):
            found.append(f"the answers for `{place}` contradict one another")
    return found


def _usual(observations: Iterable[Observation]) -> float:
    """Return what this machine takes for the quicker calls: half of them, so that one slow machine is no liar."""
    times = sorted(seen.seen.seconds for seen in observations if seen.authorized)
    return median(times[: max(1, len(times) // 2)])


@dataclass(frozen=True, slots=True)
class Grants:
    """The answer that is kept for the daemon."""

    op: str
    """Version of `op`."""
    at: float
    """When the last call was authorized, in epoch seconds."""
    scopes: Mapping[Place, Scope]
    own_terminal: str | None = None
    """The terminal at which the person sat, to find out later whether its authorization lasted."""
    own_used: float | None = None
    """When that authorization was used last, in epoch seconds."""
    idle: float | None = None
    """Seconds without use after which it was tried again."""
    idle_ended: bool | None = None
    """Whether the authorization had ended then."""
    dismissed: str | None = None
    """What `op` says when its prompt is dismissed, scrubbed."""

    @property
    def mode(self) -> Literal["terminal", "plain"]:
        """How the daemon should run `op`: in a terminal session that it keeps, or without a terminal.

        The terminal's authorization is confined to the daemon, so it is preferred unless it does not last there.
        """
        holds = self._plain not in {Scope.CALL, Scope.UNKNOWN}
        return "plain" if self._terminal is Scope.CALL and holds else "terminal"

    @property
    def scope(self) -> Scope:
        """How far an authorization reaches in that mode."""
        return self._terminal if self.mode == "terminal" else self._plain

    @property
    def calls_prompt(self) -> bool:
        """Whether each call asks, in that mode."""
        return self.scope is Scope.CALL

    @property
    def _terminal(self) -> Scope:
        return self._of(Place.SERVICE_TERMINAL, Place.TERMINAL)

    @property
    def _plain(self) -> Scope:
        return self._of(Place.SERVICE_PLAIN, Place.PLAIN)

    def _of(self, service: Place, here: Place) -> Scope:
        """Return what is known of the service, else of a terminal's programs."""
        known = self.scopes.get(service, Scope.UNKNOWN)
        return self.scopes.get(here, Scope.UNKNOWN) if known is Scope.UNKNOWN else known

    def unusable(self, *, op_version: str | None, now: float) -> str | None:
        """Return why this answer is not to be used any more; `op_version` `None`: not known."""
        if op_version is not None and op_version != self.op:
            return f"it is about op {self.op}, and this is op {op_version}"
        if not abs(now - self.at) <= MAX_AGE:  # a damaged time compares false
            return "it is older than 90 days"
        return None


_KEPT: Final = tuple(each.name for each in fields(Grants))


def to_json(grants: Grants) -> str:
    """Return the text of the answer file."""
    raw = {name: getattr(grants, name) for name in (*_KEPT, "mode", "calls_prompt")}
    return f"{json.dumps({'version': VERSION, **raw}, indent=2)}\n"


def from_json(text: str) -> Grants | None:
    """Return the answer of an answer file; `None` when it is damaged or of another version. `mode` is derived anew."""
    try:
        raw = json.loads(text)
        return _grants(raw) if raw["version"] == VERSION else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _grants(raw: Mapping[str, Any]) -> Grants:
    op, at = _typed(str, raw["op"]), _typed(float, raw["at"])
    if op is None or at is None:
        raise TypeError
    return Grants(
        op,
        at,
        scopes={Place(place): Scope(scope) for place, scope in raw["scopes"].items()},
        own_terminal=_typed(str, raw.get("own_terminal")),
        own_used=_typed(float, raw.get("own_used")),
        idle=_typed(float, raw.get("idle")),
        idle_ended=_typed(bool, raw.get("idle_ended")),
        dismissed=_typed(str, raw.get("dismissed")),
    )


def _typed(kind: type[Kind], value: object) -> Kind | None:
    if value is not None and type(value) is not kind:
        raise TypeError
    return value


def carried_over(
    previous: Grants, observations: Sequence[Observation], own_terminal: str | None
) -> tuple[float, bool] | None:
    """Return when the authorization that `previous` ended with was used last, and whether it was still there.

    `None` when no call can tell.
    """
    if previous.scopes.get(Place.TERMINAL) is Scope.SHARED:
        place, used = Place.TERMINAL, previous.at
    elif own_terminal is not None and own_terminal == previous.own_terminal and previous.own_used is not None:
        place, used = Place.OWN, previous.own_used
    else:
        return None
    first = next((seen for seen in observations if seen.step.place is place), None)
    return None if first is None or first.prompted is None else (used, not first.prompted)
