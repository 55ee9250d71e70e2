"""The verb that checks everything and names the next command for each fault. It prompts only when told to."""

from __future__ import annotations

import asyncio
import io
import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tokenbroker import __version__
from tokenbroker.cli.admin import LOOK_TIMEOUT, ask
from tokenbroker.cli.checks import Finding, State, fault, fault_of, ok, report
from tokenbroker.cli.checks.configuration import check_file, check_profiles
from tokenbroker.cli.checks.daemon import check_status
from tokenbroker.cli.checks.issuers import check_issuers
from tokenbroker.cli.checks.places import check_environment, check_socket, check_units
from tokenbroker.cli.checks.reading import read_references
from tokenbroker.cli.checks.trials import check_trials, untold
from tokenbroker.cli.checks.vault import check_vault
from tokenbroker_client import transport
from tokenbroker_client.errors import ClientError

if TYPE_CHECKING:
    import argparse

    from tokenbroker.config import Config
    from tokenbroker.paths import Surroundings


def doctor(arguments: argparse.Namespace, here: Surroundings) -> int:
    """Print what was found; 1 if anything is to be mended, else 0."""
    if arguments.what == "op":
        from tokenbroker.cli.doctor_op import doctor_op  # noqa: PLC0415  # another thing altogether

        return doctor_op(arguments, here)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # whatever the terminal cannot show must not end the check
    return asyncio.run(_doctor(arguments, here))


async def _doctor(arguments: argparse.Namespace, here: Surroundings) -> int:
    findings = await examine(arguments, here)
    # Printed within the loop: ending it may wait for a name look-up that did not come back in time.
    text = json.dumps([asdict(f) for f in findings], indent=2) if arguments.json else report(findings)
    print(text, flush=True)
    return int(any(finding.state is State.FAULT for finding in findings))


async def examine(arguments: argparse.Namespace, here: Surroundings) -> list[Finding]:
    """Look at everything, in the order in which faults are mended."""
    path = here.config_file(arguments.config).absolute()
    findings, config = check_file(path, here.uid)
    if config is not None:
        findings += check_profiles(config)
        vault, issuers = await asyncio.gather(check_vault(config, here), check_issuers(config, here.environ))
        findings += [*vault, *issuers]
        if arguments.read:
            findings += await read_references(arguments, config, here)
    backend = config.vault.backend if config is not None else None
    return [
        *findings,
        *check_environment(here.environ, backend=backend),
        *check_units(here),
        *check_socket(here.socket(arguments.socket), "socket", here.uid),
        *check_socket(here.admin_socket(arguments.socket), "admin socket", here.uid),
        *_daemon(arguments, here, str(path), config),
    ]


def _daemon(arguments: argparse.Namespace, here: Surroundings, file: str, config: Config | None) -> list[Finding]:
    try:
        status = ask(arguments, here, "GET", "/v1/status")
        may_try = status["config"] == file and not arguments.no_tokens
        tried, findings = _tried(arguments, here) if may_try else ([], [])
        status = ask(arguments, here, "GET", "/v1/status")  # which has what came of it
        status["tokens"] = untold(status["tokens"], tried)
        found = check_status(status, version=__version__, file=file, config=config, here=here, now=time.time())
    except ClientError as error:
        return [fault_of("daemon", error)]
    except (KeyError, TypeError, AttributeError):
        return [fault("daemon", "the daemon's answer is not one that this version knows", "broker --version")]
    return [*found, *findings, _public(arguments, here)]


def _tried(arguments: argparse.Namespace, here: Surroundings) -> tuple[list[dict[str, Any]], list[Finding]]:
    """Have the daemon ask each client's issuer for a token; return its answer and what to say of it."""
    try:
        tried = ask(arguments, here, "POST", "/v1/try")["tried"]
        return tried, list(check_trials(tried, time.time()))
    except ClientError as error:
        return [], [fault_of("client", error)]
    except (KeyError, TypeError, AttributeError):
        return [], [fault("client", "the daemon's answer is not one that this version knows", "broker --version")]


def _public(arguments: argparse.Namespace, here: Surroundings) -> Finding:
    """See whether programs are answered as well."""
    path = str(here.socket(arguments.socket))
    try:
        status, _, _ = transport.request(path, "GET", "/healthz", timeout=LOOK_TIMEOUT)
    except ClientError as error:
        return fault_of("daemon", error)
    if status != 200:  # noqa: PLR2004  # OK
        return fault("daemon", f"programs are not answered on {path}: HTTP {status}", "broker status")
    return ok("daemon", f"programs are answered on {path}")
