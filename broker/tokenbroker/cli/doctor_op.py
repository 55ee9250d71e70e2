"""`broker doctor op`: finds out, with the person there, how far and how long a 1Password authorization reaches.

Rules of this file:
1. No call that may ask is made before the person has agreed.
2. Whatever ends it early, Ctrl-C above all, leaves no child behind and keeps nothing.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tokenbroker import __version__
from tokenbroker.cli import op_report, say
from tokenbroker.cli.new_file import write
from tokenbroker.cli.op_conversation import Conversation, Service, Times, yes
from tokenbroker.config import text as config_text
from tokenbroker.config.fields import Problem
from tokenbroker.config.values import duration
from tokenbroker.vaults.op.app import OpVault
from tokenbroker.vaults.op.experiment import Prober
from tokenbroker.vaults.op.grants import MAX_PROMPTS, PLAN, Grants, Place, Scope, carried_over, conclude
from tokenbroker.vaults.op.grants_file import NAME, load_grants, save_grants
from tokenbroker_client.wire import EXIT_FAILED, EXIT_USAGE

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from tokenbroker.config import VaultConfig
    from tokenbroker.paths import Surroundings


class _Declined(Exception):
    """The person does not want to go on."""


def doctor_op(arguments: argparse.Namespace, here: Surroundings, times: Times | None = None) -> int:
    """Explain, call, ask, conclude, keep and report; 2 without a person, 1 when declined or nothing was settled.

    `arguments`: `config`, `socket`, `wait` (a duration or `None`), `report` (a path or `None`).
    Raises `ConfigError`, `VaultError`, and `BrokerError` when the answer cannot be kept.
    """
    if not sys.stdin.isatty():
        say("`broker doctor op` needs a person at a terminal", "run `broker doctor op` in a terminal")
        return EXIT_USAGE
    try:
        wait = duration(arguments.wait) if arguments.wait else None
    except Problem as problem:
        say(f"--wait: {problem.text}", "see `broker doctor --help`")
        return EXIT_USAGE
    config = config_text.load(here.config_file(arguments.config).absolute()).vault
    if config.backend != "op":
        say(f"[vault] backend is `{config.backend}`, and only `op` asks through the app", "broker doctor")
        return EXIT_FAILED
    try:
        return _with_person(arguments, here, config, times or Times(), wait)
    except _Declined:
        say("nothing was done, as you asked", "run `broker doctor op` again")
        return EXIT_FAILED
    except EOFError:
        print()
        say("the input ended before the last answer; nothing was kept", "run `broker doctor op` again")
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("\nbroker: interrupted; nothing was kept", file=sys.stderr)
        raise


def _with_person(
    arguments: argparse.Namespace, here: Surroundings, config: VaultConfig, times: Times, wait: float | None
) -> int:
    report = Path(arguments.report).expanduser().absolute() if arguments.report else None
    if report is not None and os.path.lexists(report) and not yes(f"{report} is there already; replace it?"):
        raise _Declined
    prober = Prober(config, environ=here.environ, home=here.home, clock=times.monotonic)
    service = Service(arguments, here)
    with asyncio.Runner() as loop:
        try:
            version = loop.run(_check(config, here, prober))
            print(op_report.EXPLANATION.format(most=MAX_PROMPTS * len(PLAN) + 1 + bool(wait)))
            if not yes("go on?"):
                raise _Declined
            talk = Conversation(loop, prober, service, times, config.account or "")
            talk.run(wait)
        finally:
            loop.run(prober.close())
            service.end()
    return _finish(talk, here, version, report)


async def _check(config: VaultConfig, here: Surroundings, prober: Prober) -> str:
    """Return the version of `op`; raise `VaultError` when it or the app is not there. Asks nobody."""
    vault = OpVault(config, environ=here.environ, home=here.home)
    try:
        version = await vault.probe()
    finally:
        await vault.close()
    await prober.look()
    return version


def _finish(talk: Conversation, here: Surroundings, version: str, report: Path | None) -> int:
    """Show, report and keep."""
    path = here.state_folder() / NAME
    findings = _findings(talk, here, version, load_grants(path, op_version=None, now=talk.times.now()))
    print(f"\n{op_report.summary(findings)}\n")
    text = op_report.report(findings, version=__version__)
    if report is None:
        print(f"the report; read it, then send it to the project's issue tracker:\n\n{text}")
    else:
        write(report, text, replace=True)
        print(f"wrote {report}; read it, then send it to the project's issue tracker")
    if not set(findings.grants.scopes.values()) - {Scope.UNKNOWN}:
        say("nothing was settled, so nothing was kept", "run `broker doctor op` again")
        return EXIT_FAILED
    save_grants(path, findings.grants)
    print(f"kept as {path}; the daemon looks at it when it starts")
    return 0


def _findings(talk: Conversation, here: Surroundings, version: str, previous: Grants | None) -> op_report.Findings:
    now, terminal = talk.times.now(), _own_terminal()
    authorized = [seen for seen in talk.observations if seen.authorized]
    waited = next((seen for seen in talk.observations if seen.waited), None)
    grants = Grants(
        op=version,
        at=max((seen.at for seen in authorized), default=now),
        scopes=conclude(talk.observations),
        own_terminal=terminal,
        own_used=max((seen.at for seen in authorized if seen.step.place is Place.OWN), default=None),
        idle=waited.waited if waited else None,
        idle_ended=waited.prompted if waited else None,
        dismissed=talk.dismissed.text if talk.dismissed else None,
    )
    older = carried_over(previous, talk.observations, terminal) if previous else None
    return op_report.Findings(
        grants,
        talk.observations,
        system=_system(here.environ),
        untried=talk.untried,
        named=talk.named,
        asides=talk.asides,
        dismissed=talk.dismissed,
        carried=op_report.carried_words(older[0], now, there=older[1]) if older else None,
    )


def _own_terminal() -> str | None:
    """Name the person's terminal session, so that a later run knows whether it is the same."""
    try:
        return f"{os.ttyname(0)} {os.getsid(0)}"
    except OSError:
        return None


def _system(environ: Mapping[str, str]) -> str:
    terminal = re.sub(r"[^\w.-]", "", environ.get("TERM_PROGRAM", ""))[:20] or "unnamed terminal"
    return f"{platform.platform()}, {terminal}{', over ssh' if environ.get('SSH_CONNECTION') else ''}"
