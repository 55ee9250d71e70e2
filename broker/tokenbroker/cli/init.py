"""The verb that writes a first configuration, asking and checking as it goes.

Rules of this file:
1. Nothing is written before everything is answered, valid, shown and confirmed.
2. An answer is never printed by itself: it appears in the file that is shown at the end, after it was accepted.
"""

from __future__ import annotations

import asyncio
import io
import shlex
import sys
from typing import TYPE_CHECKING

from tokenbroker.cli import say
from tokenbroker.cli.checks.issuers import look_up
from tokenbroker.cli.first_config import render
from tokenbroker.cli.new_file import keep_copy, refuse_existing, write
from tokenbroker.cli.questions import Answers, Found, Question, questions, refusal
from tokenbroker.cli.text import plain
from tokenbroker.config import IssuerConfig
from tokenbroker.config import text as config_text
from tokenbroker.config.fields import choice, did_you_mean
from tokenbroker.config.presets import PRESETS
from tokenbroker.errors import EndpointElsewhere, IssuerError, IssuerMisconfigured
from tokenbroker_client.wire import EXIT_FAILED, EXIT_USAGE

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from pathlib import Path

    from tokenbroker.paths import Surroundings


class _Ended(Exception):
    """The input ended before all was answered; `missing` names what was not."""

    def __init__(self, missing: list[str]) -> None:
        super().__init__()
        self.missing = missing


def init(arguments: argparse.Namespace, here: Surroundings) -> int:
    """Ask, show, and write if told so. Raises `ConfigError` when there is a file already, or it cannot be written."""
    path = here.config_file(arguments.config).absolute()
    if arguments.preset is not None and arguments.preset not in PRESETS:
        meant = did_you_mean(arguments.preset, PRESETS)
        say(f"there is no preset {arguments.preset[:40]!a}", meant or f"take one of {', '.join(PRESETS)}")
        return EXIT_USAGE
    if not arguments.force:
        refuse_existing(path)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # such characters are refused like any that cannot be printed
    try:
        return _init(path, arguments, here)
    except _Ended as ended:
        print()
        say(
            f"the input ended before {', '.join(ended.missing)}; nothing was written", "run `broker init` in a terminal"
        )
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("\nbroker: interrupted; nothing was written", file=sys.stderr)
        raise


def _init(path: Path, arguments: argparse.Namespace, here: Surroundings) -> int:
    print("No secret is asked for here: keep it in the vault, and name where it is.\nEmpty takes what stands in [ ].")
    answers = _interview(arguments.preset, here.environ)
    text = render(answers)
    config_text.parse(text, path)
    print(f"\nThis is to be {path}:\n\n{text}")
    if not _confirmed():
        say("nothing was written, as you asked", "run `broker init` again")
        return EXIT_FAILED
    if arguments.force and (copy := keep_copy(path)):
        print(f"kept the old configuration as {copy}")
    write(path, text, replace=arguments.force)
    print(_next_steps(path, answers["profile"], arguments.config, here.platform))
    return 0


def _interview(preset: str | None, environ: Mapping[str, str]) -> Answers:
    answers: Answers = {} if preset is None else {"preset": preset}
    found = Found()
    asked = questions(answers, found)
    for question in asked:
        if len(answers) == 1 and answers["preset"] != "oidc":
            print(f"\n{PRESETS[answers['preset']].about}.")
        try:
            answers[question.name] = _answer(question)
        except EOFError:
            missing = [question.name]
            answers[question.name] = question.default or ""
            for later in asked:
                missing.append(later.name)
                answers[later.name] = later.default or ""
            raise _Ended([*missing, "confirmation"]) from None
        if question.name == "url" and PRESETS[answers["preset"]].grant != "github-app":
            answers["url"] = _discover(answers["url"], found, environ)
    return answers


def _answer(question: Question) -> str:
    """Ask until the answer will do. Raises `EOFError`."""
    if question.explain:
        print(f"\n  {question.explain}")
    proposal = f" [{question.default}]" if question.default else ""
    while True:
        answer = input(f"{question.ask}{proposal}: ").strip()
        if not sys.stdin.isatty():
            print()  # nobody's Return did
        if not answer and question.default is None:
            print("  an answer is needed")
            continue
        answer = answer or question.default or ""
        reason = refusal(question, answer)
        if reason is None:
            return answer
        print(f"  {plain(reason)}")


def _confirmed() -> bool:
    question = Question("confirmation", "write it? yes or no", choice("yes", "no", "y", "n"), "yes")
    try:
        return _answer(question) in {"yes", "y"}
    except EOFError:
        raise _Ended([question.name]) from None


def _discover(url: str, found: Found, environ: Mapping[str, str]) -> str:
    """Try discovery and say what came of it; return the URL as the issuer itself writes it.

    RFC 8414 §3.3 wants the two identical, and the final slash is what people get wrong.
    """
    problem: IssuerError | None = None
    for variant in (url, url.removesuffix("/") if url.endswith("/") else f"{url}/"):
        try:
            found.endpoint = asyncio.run(look_up(IssuerConfig("main", url=variant), environ)).token
        except EndpointElsewhere as error:
            found.endpoint, found.elsewhere = error.endpoint, True
        except IssuerError as error:
            problem = problem or error
            if not isinstance(error, IssuerMisconfigured):
                break
            continue
        if variant != url:
            print(f"  the issuer calls itself {variant}, so that is written")
        where = ", on another host than the issuer" if found.elsewhere else ""
        print(f"  found the token endpoint {plain(found.endpoint)}{where}")
        return variant
    if problem is not None:
        print(f"  not found by discovery: {plain(problem.message)}")
    return url


def _next_steps(path: Path, profile: str, chosen: str | None, platform: str) -> str:
    service = (
        "launchctl kickstart gui/$UID/tokenbroker"
        if platform == "darwin"
        else "systemctl --user enable --now tokenbroker.socket"
    )
    option = f" --config {shlex.quote(str(path))}" if chosen else ""
    steps = (
        (f"broker doctor{option}", "check it"),
        (f"broker serve{option}", f"run it; or as a service, once installed: `{service}`"),
        (f"broker-token {profile}", "ask for a token"),
    )
    width = max(len(command) for command, _ in steps)
    return "\n".join([f"wrote {path}", "next:", *(f"  {command:<{width}}  {what}" for command, what in steps)])
