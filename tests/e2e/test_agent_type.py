"""Who counts as a person's program: `broker-token` started on a terminal, without one, and below a cron."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.rig import BIN, PATIENCE, Rig
from tests.e2e.standard import BY_EVIDENCE, configuration, fill_vault
from tests.peer_processes import ORPHAN, TERMINAL, program, terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenbroker.dev.issuer import DevIssuer

# Runs broker-token as its child and says what came of it; arguments: result pipe, terminal, then broker-token's.
LAUNCH = """
import json, os, subprocess, time
began = time.monotonic()
ran = subprocess.run(sys.argv[3:], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
answer = {"code": ran.returncode, "out": ran.stdout, "err": ran.stderr, "seconds": time.monotonic() - began}
with open(int(sys.argv[1]), "w") as pipe:
    json.dump(answer, pipe)
"""


@pytest.fixture(scope="module")
def rig(issuer: DevIssuer) -> Iterator[Rig]:
    """A daemon that judges by evidence alone."""
    with Rig() as made:
        fill_vault(made.op)
        made.configure(configuration(issuer.url, rules=BY_EVIDENCE))
        (made.bin / "cron").symlink_to(Path(sys.executable).resolve())
        with made.serve():
            yield made


def launched(rig: Rig, *arguments: str, on: int | None = None, by: str = sys.executable) -> dict[str, object]:
    """Run broker-token away from the ancestors of this test run, on terminal `on`, below a program named as `by`."""
    code = program(ORPHAN, *([] if on is None else [TERMINAL]), LAUNCH)
    ours, theirs = os.pipe()
    fds = [theirs] if on is None else [theirs, on]
    command = [by, "-I", "-S", "-c", code, str(theirs), str(-1 if on is None else on)]
    with os.fdopen(ours) as pipe:
        try:
            subprocess.run(
                [*command, BIN / "broker-token", *arguments],
                env=rig.environ(),
                pass_fds=fds,
                timeout=PATIENCE,
                check=True,
            )
        finally:
            os.close(theirs)
        return dict(json.load(pipe))


def minted_for(answer: dict[str, object]) -> object:
    """Return the agent type of a token that was printed as JSON."""
    assert answer["code"] == 0, answer["err"]
    return json.loads(str(answer["out"]))["agent_type"]


def test_vault_is_locked_and_nobody_is_there(rig: Rig) -> None:
    """A program without a terminal gets exit 5 in under a second (two here), no prompt, and no `op`."""
    rig.broker("lock")
    before = len(rig.op.calls())
    answer = launched(rig, "search")
    assert (answer["code"], answer["out"]) == (5, "")
    assert float(str(answer["seconds"])) < 2
    assert "is locked, and this program may not cause a prompt" in str(answer["err"])
    assert len(rig.op.calls()) == before


def test_program_on_a_terminal_is_interactive_and_may_cause_the_prompt(rig: Rig) -> None:
    rig.broker("lock")
    before = len(rig.op.calls())
    with terminal() as (fd, _):
        answer = launched(rig, "search", "--json", on=fd)
    assert minted_for(answer) == "interactive"
    assert len(rig.op.calls()) == before + 1


def test_program_on_a_terminal_may_lower_itself(rig: Rig) -> None:
    rig.broker("unlock")
    with terminal() as (fd, _):
        answer = launched(rig, "search", "--json", "--as", "autonomous", on=fd)
    assert minted_for(answer) == "autonomous"


def test_program_without_a_terminal_is_autonomous(rig: Rig) -> None:
    rig.broker("unlock")
    assert minted_for(launched(rig, "search", "--json")) == "autonomous"


def test_program_below_cron_is_autonomous_even_on_a_terminal(rig: Rig) -> None:
    """A scheduler above it says more than a terminal: `script` in a cron job has one, and nobody before it."""
    rig.broker("unlock")
    with terminal() as (fd, _):
        answer = launched(rig, "search", "--json", on=fd, by=str(rig.bin / "cron"))
    assert minted_for(answer) == "autonomous"


def test_profile_for_people_alone_is_denied_to_a_program_without_one(rig: Rig) -> None:
    """Exit 4, the reason as the broker saw it, and the two ways to change it."""
    answer = launched(rig, "write")
    assert (answer["code"], answer["out"]) == (4, "")
    assert "profile `write` has no client for autonomous programs" in str(answer["err"])
    assert 'add a client with agent_type = "autonomous" to [profiles.write]' in str(answer["err"])


def test_sessions_show_both_kinds_and_no_token(rig: Rig) -> None:
    rig.broker("unlock")
    token = json.loads(str(launched(rig, "search", "--json")["out"]))["access_token"]
    ran = rig.broker("sessions", "--json")
    assert token not in ran.out
    found = [session for session in json.loads(ran.out)["sessions"] if session["agent_type"] == "autonomous"]
    assert {held["profile"] for session in found for held in session["tokens"]} == {"search"}
