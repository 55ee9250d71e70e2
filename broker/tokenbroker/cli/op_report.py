"""What `broker doctor op` tells the person, and the report that it makes: text out of findings, nothing is done."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tokenbroker.cli.text import plain, span, table
from tokenbroker.vaults.op.grants import PLAN, Place, Scope, bounds, doubts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenbroker.vaults.op.grants import Grants, Observation, Seen, Step

WIDTH: Final = 80  # columns

PLACES: Final = {
    Place.TERMINAL: "a terminal of ours",
    Place.PLAIN: "no terminal",
    Place.OWN: "your terminal",
    Place.SERVICE_TERMINAL: "service, a terminal",
    Place.SERVICE_PLAIN: "service, no terminal",
}
SCOPES: Final = {
    Scope.CALL: "one call",
    Scope.PROCESS: "the calls of one process",
    Scope.SESSION: "the calls in one session",
    Scope.SHARED: "calls in other sessions too",
    Scope.UNKNOWN: "not settled",
}
_ANSWERS: Final = {True: "yes", False: "no", None: "?"}

EXPLANATION: Final = """\
This finds out, with you, how far one 1Password authorization reaches on this
machine. `op` does not say whether it asked anybody, so you are asked after each
call whether a 1Password dialog (Touch ID, a password) came up just then.

  at most {most} dialogs, usually three to six; approve each unless told otherwise
  `op` lists the vaults each time, and what it prints is dropped
  leave 1Password unlocked meanwhile, and do not use `op` elsewhere
  Ctrl-C ends it at any time; then nothing is kept
"""


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that was found out."""

    grants: Grants
    observations: Sequence[Observation]
    system: str
    """Name and version of the operating system, and which terminal program."""
    untried: dict[Place, str] = field(default_factory=dict)
    """Why a place was left out."""
    named: dict[str, str] = field(default_factory=dict)
    """`here`, `service`: which program the dialog named, in the person's words."""
    asides: dict[str, Seen] = field(default_factory=dict)
    """Calls that ask nobody: what was called → what came of it."""
    dismissed: Seen | None = None
    carried: str | None = None
    """What became of the authorization of an earlier run."""


def step_words(step: Step, earlier: int, waited: float = 0.0) -> str:
    """Name one call of a place, before which `earlier` calls were made there."""
    if waited:
        return f"after {span(waited)}"
    if not earlier:
        return "first call"
    if step.session > 1:
        return "in a new session"
    return "by another process" if step.caller > 1 else "again"


def calls_table(observations: Sequence[Observation]) -> str:
    """Lay out the calls and the answers."""
    rows = []
    for number, seen in enumerate(observations, start=1):
        step = seen.step
        earlier = sum(one.step.place is step.place for one in observations[: number - 1])
        words = step_words(step, earlier, seen.waited)
        took = f"{seen.seen.seconds:.1f} s".rjust(6)
        rows.append([str(number), PLACES[step.place], words, _ANSWERS[seen.prompted], took, seen.seen.outcome])
    return table(["#", "where", "call", "asked", "took", "result"], rows, width=WIDTH)


def scopes_table(findings: Findings) -> str:
    """Lay out the conclusions."""
    known = findings.grants.scopes
    rows = [[PLACES[place], _covered(findings, place)] for place in PLAN if place in known]
    rows += [[PLACES[place], f"not tried: {why}"] for place, why in findings.untried.items() if place not in known]
    return table(["where", "one authorization covers"], rows, width=WIDTH)


def _covered(findings: Findings, place: Place) -> str:
    scope = findings.grants.scopes[place]
    least, greatest = bounds(findings.observations, place)
    if scope is Scope.UNKNOWN and least is not None and greatest is None:
        return f"{SCOPES[least]}, or more"
    return SCOPES[scope]


def for_the_daemon(grants: Grants) -> list[str]:
    """Say in plain words what the daemon makes of it."""
    kept = "in a terminal session that it keeps" if grants.mode == "terminal" else "in a session without terminal"
    lines = [f"the daemon runs `op` {kept}"]
    if grants.calls_prompt:
        lines.append("each call asks, so it reads everything with one call per unlock, two at most")
    elif grants.scope is Scope.UNKNOWN:
        lines.append("whether more than the first call asks is not settled; it takes them to be free")
    else:
        lines.append("you are asked once; more calls are free while that authorization lasts")
    if grants.scope is Scope.SHARED:
        lines.append("other programs' authorizations serve it too, and its own serves them")
    return lines


def lifetime(findings: Findings) -> list[str]:
    """Say what is known of how long an authorization lasts."""
    grants = findings.grants
    lines = []
    if grants.idle is not None and grants.idle_ended is not None:
        state = "had ended" if grants.idle_ended else "was still there"
        lines.append(f"after {span(grants.idle)} without use the authorization {state}")
    return [*lines, findings.carried] if findings.carried else lines


def carried_words(at: float, now: float, *, there: bool) -> str:
    """Say what became of the authorization used last at `at` (epoch seconds)."""
    when = time.strftime("%H:%M" if now - at < 12 * 3600 else "%Y-%m-%d %H:%M", time.localtime(at))
    ago = span(max(1, round((now - at) / 60)) * 60)
    return f"the authorization of {when}, {ago} ago, {'was still there' if there else 'had ended'}"


def summary(findings: Findings) -> str:
    """Return what is shown at the end: both tables, and what follows."""
    parts = [calls_table(findings.observations), "", scopes_table(findings), ""]
    parts += [f"  {line}" for line in (*for_the_daemon(findings.grants), *lifetime(findings))]
    parts += [f"  doubtful: {line}" for line in doubts(findings.observations)]
    return "\n".join(parts)


def report(findings: Findings, *, version: str) -> str:
    """Return the report for the project, in Markdown; `version` is ours."""
    when = time.strftime("%Y-%m-%d", time.gmtime(findings.grants.at))
    parts = ["# `broker doctor op`: how far a 1Password authorization reaches", ""]
    parts += [f"- tokenbroker {version}, op {findings.grants.op}, {when}", f"- {plain(findings.system)}", ""]
    parts += ["```text", calls_table(findings.observations), "", scopes_table(findings), "```", ""]
    parts += [f"- {line}" for line in for_the_daemon(findings.grants)]
    parts += [f"- {line}" for line in lifetime(findings) or ["how long it lasts was not tried"]]
    parts += [f"- the dialog named, {where}: {plain(name)}" for where, name in findings.named.items()]
    parts += [f"- {what}: {_outcome(seen)}" for what, seen in findings.asides.items()]
    parts.append(f"- a dismissed dialog: {_outcome(findings.dismissed) if findings.dismissed else 'not tried'}")
    said = dict.fromkeys(_outcome(seen.seen) for seen in findings.observations if seen.seen.text)
    parts += [f"- `op` wrote to stderr: {text}" for text in said]
    parts += [f"- doubtful: {line}" for line in doubts(findings.observations)]
    return "\n".join(parts) + "\n"


def _outcome(seen: Seen) -> str:
    return f"{seen.outcome}, `{plain(seen.text).replace('`', chr(39))}`" if seen.text else seen.outcome
