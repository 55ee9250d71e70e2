"""Nothing here waits for real time, so that whoever is not done in a minute waits for what will not come."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

BOUND = 60.0  # seconds; half of what pytest's faulthandler waits for, which ends the whole process


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """Fail a test that hangs, and go on with the next.

    Again each second: a task that is interrupted in its test's place may swallow the first time.
    """

    def give_up(*_: object) -> None:
        pytest.fail(f"not done after {BOUND:g} s of real time")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, BOUND, 1.0)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    signal.signal(signal.SIGALRM, before)
