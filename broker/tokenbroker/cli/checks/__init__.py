"""What `broker doctor` looks at: one file per part of the world, each returning findings.

Rules of this package:
1. Nothing here may put a question on anybody's screen, but for `reading.py`, which runs only when the person says so:
   of a vault only its version is asked, of a keyring nothing is read that would have to be unlocked, and the daemon is
   asked only what it answers while locked.
2. A check looks and changes nothing, but that the daemon may fetch a token which it would fetch anyway. It never
   raises: what it cannot see is a finding.
3. No finding shows a secret, or the value of a variable that could hold one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from tokenbroker.cli.text import plain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tokenbroker.errors import BrokerError
    from tokenbroker_client.errors import ClientError


_HERE: Final = "`broker doctor`"


class State(StrEnum):
    """How serious a finding is."""

    OK = "ok"
    NOTE = "note"
    """Works, or may be meant so; worth knowing."""
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    """Which check: stable, for scripts."""
    state: State
    message: str
    hint: str | None = None
    """The next command."""


def ok(check: str, message: str) -> Finding:
    """Return what is as it should be."""
    return Finding(check, State.OK, message)


def note(check: str, message: str, hint: str | None = None) -> Finding:
    """Return what is worth knowing."""
    return Finding(check, State.NOTE, message, hint)


def fault(check: str, message: str, hint: str) -> Finding:
    """Return what has to be mended, with the next command."""
    return Finding(check, State.FAULT, message, hint)


def fault_of(check: str, error: BrokerError | ClientError, *, otherwise: str = "broker status") -> Finding:
    """Return an error as a finding; `otherwise` is the next command for one that names none."""
    return fault(check, error.message, onward(error.hint, otherwise))


def onward(hint: str | None, otherwise: str, *, then: str = "") -> str:
    """Return a hint for whoever runs the doctor already; `otherwise` is for one that leads nowhere else.

    `then` takes the place of a last step that is the doctor.
    """
    way = (hint or _HERE).replace(f", then run {_HERE}", then)
    return otherwise if _HERE in way else way


def report(findings: Iterable[Finding]) -> str:
    """Lay out findings for a person: a line each, and the next command below it."""
    lines = []
    for finding in findings:
        word = "FAULT" if finding.state is State.FAULT else str(finding.state)
        lines.append(f"{word:<5} {plain(finding.message)}")
        if finding.hint:
            lines.append(f"      → {plain(finding.hint)}")
    return "\n".join(lines)
