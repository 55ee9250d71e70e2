"""The conversation of `broker doctor op`: calls, and a person who says whether each of them asked.

Rules of this file:
1. What may come up is said before each call, and the person answers after it; nothing is answered for them.
2. What is typed is never repeated: it may be a password, meant for a dialog that had lost the keyboard.
"""

from __future__ import annotations

import sys
import termios
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tokenbroker.cli.admin import ask
from tokenbroker.cli.op_report import PLACES, step_words
from tokenbroker.cli.text import span
from tokenbroker.vaults.op.experiment import WHOAMI, WITHOUT_SETTINGS
from tokenbroker.vaults.op.grants import PLAN, Observation, Place, Scope, Seen, Step, bounds, conclude
from tokenbroker.vaults.op.scrub import scrub
from tokenbroker_client.errors import BadAnswer, ClientError

if TYPE_CHECKING:
    import argparse
    import asyncio
    from collections.abc import Callable, Mapping

    from tokenbroker.paths import Surroundings
    from tokenbroker.vaults.op.experiment import Prober

SERVICE: Final = (Place.SERVICE_TERMINAL, Place.SERVICE_PLAIN)
DISMISSED: Final = Step(Place.TERMINAL, session=3)  # a session that nothing was authorized in
_LONGEST_NAME: Final = 60  # characters of the program that a dialog is said to name
_ROUTE: Final = "/v1/op-experiment"


@dataclass(frozen=True, slots=True)
class Times:
    """The clocks, so that tests may own them."""

    monotonic: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep


@dataclass(slots=True)
class Conversation:
    """What is tried, what was seen and said, and in which order."""

    loop: asyncio.Runner
    prober: Prober
    service: Service
    times: Times
    account: str
    observations: list[Observation] = field(default_factory=list)
    untried: dict[Place, str] = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict)
    asides: dict[str, Seen] = field(default_factory=dict)
    dismissed: Seen | None = None

    def run(self, wait: float | None) -> None:
        """Try each place, then how long it lasts, then what a dismissed dialog says."""
        for place in PLAN:
            if place in SERVICE and not self._service_is_there():
                continue
            self._try(place)
        held = self._scope(Place.TERMINAL) is not Scope.CALL and any(
            seen.authorized for seen in self.observations if seen.step == Step(Place.TERMINAL)
        )
        if held:
            aside = self.prober.call(Step(Place.TERMINAL), extra=WITHOUT_SETTINGS)
            self.asides["with OP_LOAD_DESKTOP_APP_SETTINGS=false"] = self.loop.run(aside)
        self.asides["`op whoami` in the person's terminal"] = self.loop.run(
            self.prober.call(Step(Place.OWN), argv=WHOAMI)
        )
        if wait and held:
            self._wait(wait)
        self._dismiss()

    def _scope(self, place: Place) -> Scope:
        return conclude(self.observations).get(place, Scope.UNKNOWN)

    def _service_is_there(self) -> bool:
        if any(place in self.untried for place in SERVICE):
            return False
        try:
            self.service.begin()
        except ClientError as error:
            self.untried = dict.fromkeys(SERVICE, scrub(error.message))
            print(f"\nthe service is left out: {error.message}")
            if error.hint:
                print(f"  to try it too: {error.hint}, then run `broker doctor op` again")
            return False
        return True

    def _try(self, place: Place) -> None:
        """Make the calls of one place, until one asks although another was authorized: what follows would ask too."""
        for earlier, step in enumerate(PLAN[place]):
            print(f"\n{PLACES[place]}, {step_words(step, earlier)}: 1Password may ask now …", flush=True)
            try:
                authorized = self._until_authorized(step)
            except ClientError as error:
                self.untried[place] = scrub(error.message)
                print(f"  left out: {error.message}")
                return
            if not authorized or bounds(self.observations, place)[1] is not None:
                return

    def _until_authorized(self, step: Step) -> bool:
        while True:
            seen = self._one(step)
            if seen.authorized:
                return True
            print(f"  not authorized: {seen.seen.text or seen.seen.outcome}")
            if not yes("  once more?"):
                return False

    def _one(self, step: Step, *, waited: float = 0.0) -> Observation:
        seen = self.service.call(step) if step.place in SERVICE else self.loop.run(self.prober.call(step))
        at = self.times.now()
        prompted = _answer("  did 1Password ask you just now?", {"y": True, "n": False, "?": None})
        self.observations.append(Observation(step, seen, prompted, at, waited))
        where = "service" if step.place in SERVICE else "here"
        if prompted and where not in self.named:
            name = _line("  which program did the dialog name? [Return: none, or not seen] ")
            self.named[where] = scrub(name[:_LONGEST_NAME], self.account) or "none, or not seen"
        return self.observations[-1]

    def _wait(self, seconds: float) -> None:
        until = time.strftime("%H:%M", time.localtime(self.times.now() + seconds))
        print(f"\nwaiting {span(seconds)}, until {until}: leave 1Password unlocked, and do not use `op`", flush=True)
        self.times.sleep(seconds)
        print("1Password may ask now …", flush=True)
        self._one(Step(Place.TERMINAL), waited=seconds)

    def _dismiss(self) -> None:
        print("\nlast: what `op` says when its dialog is dismissed")
        if self._scope(Place.TERMINAL) is Scope.SHARED:
            print("  lock 1Password first, or it will not ask")
        if not yes("  shall it ask once more, for you to press Cancel?"):
            return
        seen = self.loop.run(self.prober.call(DISMISSED))
        if seen.outcome == "ok":
            print("  no dialog was dismissed: the call was authorized")
            return
        print(f"  {seen.outcome}: {seen.text or 'without a word'}")
        self.dismissed = seen


class Service:
    """The running daemon, which makes the same calls as the service that it is."""

    def __init__(self, arguments: argparse.Namespace, here: Surroundings) -> None:
        self._arguments = arguments
        self._here = here
        self._begun = False

    def begin(self) -> None:
        """See that it is there and knows the calls, with sessions that are new. Raises `ClientError`."""
        self._ask({"setting": "end"})
        self._begun = True

    def call(self, step: Step) -> Seen:
        """Have it make one call. Raises `ClientError`."""
        setting = step.place.removeprefix("service-")
        answer = self._ask({"setting": setting, "session": step.session, "caller": step.caller})
        try:
            return Seen(str(answer["outcome"]), float(answer["seconds"]), scrub(str(answer["text"])))
        except (KeyError, TypeError, ValueError):
            raise BadAnswer("the daemon's answer is not one that this version knows", hint="broker --version") from None

    def end(self) -> None:
        """Have it end the sessions; it does so by itself when it does not hear this."""
        if self._begun:
            try:
                self._ask({"setting": "end"})
            except ClientError as error:
                print(f"broker: the service did not end its sessions yet: {error.message}", file=sys.stderr)

    def _ask(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return ask(self._arguments, self._here, "POST", _ROUTE, dict(body))


def _line(question: str) -> str:
    """Ask, past what was typed before the question. Raises `EOFError`."""
    termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
    return input(question).strip()


def _answer(question: str, answers: Mapping[str, bool | None]) -> bool | None:
    """Ask until the answer is one of `answers`; it is never repeated, as it may be a password typed in error."""
    while True:
        given = _line(f"{question} [{'/'.join(answers)}] ").lower()
        word = {"yes": "y", "no": "n"}.get(given, given)
        if word in answers:
            return answers[word]
        print("  y for yes, n for no" + (", ? if you do not know" if "?" in answers else ""))


def yes(question: str) -> bool:
    """Ask what can be answered by yes or no alone. Raises `EOFError`."""
    return bool(_answer(question, {"y": True, "n": False}))
