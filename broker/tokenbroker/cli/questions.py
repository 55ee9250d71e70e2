"""The questions of `broker init`: what is asked, what is proposed, and why an answer will not do. Pure.

Rules of this file:
1. Nobody is ever asked for a secret. An answer that looks like one is refused, and a reason repeats no answer that
   could be one.
2. The parsers of the configuration judge the answers, so that what is accepted here is accepted there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from tokenbroker.config import ClientConfig, IssuerConfig, sections
from tokenbroker.config.clients import Surroundings
from tokenbroker.config.fields import Problem, check_name, choice, text
from tokenbroker.config.presets import PRESETS
from tokenbroker.config.profiles import profile as parse_profile
from tokenbroker.config.values import credential, issuer_url, secret_reference, service_url, token_url
from tokenbroker.model import AgentType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Answers = dict[str, str]

ANY: Final = "any"
# A long run of every kind of character: issuers' secrets, and the tokens of 1Password's service accounts. Names that
# people give are shorter words, or have no digits among upper and lower case.
_SECRET: Final = re.compile(
    r"(?<![A-Za-z0-9~+=])(?=[A-Za-z0-9~+=]*[a-z])(?=[A-Za-z0-9~+=]*[A-Z])(?=[A-Za-z0-9~+=]*[0-9])[A-Za-z0-9~+=]{16,}"
)


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to ask."""

    name: str
    """Names the answer, also when it is missing."""
    ask: str
    check: Callable[[str], object]
    """Raises `Problem` for an answer that will not do."""
    default: str | None = None
    """What an empty answer means; `None`: there must be one."""
    explain: str | None = None


def questions(answers: Mapping[str, str]) -> Iterator[Question]:
    """Yield the questions in order; each may depend on the answers before it, which the caller has put in `answers`."""
    yield from _about_issuer(answers)
    yield from _about_secrets(answers)
    yield from _about_use()


def refusal(question: Question, answer: str) -> str | None:
    """Return why `answer` will not do, without repeating it; `None` when it will."""
    try:
        question.check(answer)
    except Problem as problem:
        return f"{problem.text}; {problem.hint}" if problem.hint else problem.text
    return None


def _about_issuer(answers: Mapping[str, str]) -> Iterator[Question]:
    yield Question("preset", "issuer product", choice(*PRESETS), "oidc", f"one of {', '.join(PRESETS)}")
    yield Question("url", "issuer URL", issuer_url, None, "the issuer identifier, as in `iss` of its tokens")
    explain = "empty: found by discovery, each time the broker starts"
    yield Question("token_endpoint", "token endpoint URL", _optional(token_url), "", explain)
    explain = "the identifier of the API that the token is for"
    if PRESETS[answers["preset"]].audience_required:
        yield Question("audience", "audience", _harmless, None, explain)
    else:
        yield Question("audience", "audience", _optional(_harmless), "", f"{explain}; empty: none")
    explain = "separated by spaces; empty: none"
    yield Question("scopes", "scopes", lambda scopes: _check_profile(answers, scopes), "", explain)


def _about_secrets(answers: Mapping[str, str]) -> Iterator[Question]:
    explain = (
        "op: 1Password by its app and `op`; sdk: by its app alone; service-account, connect: without a person; "
        "keyring: the system's own"
    )
    yield Question("backend", "where the client's secret is kept", choice(*sections.BACKENDS), "op", explain)
    yield from _about_access(answers["backend"])
    if answers["backend"] != "keyring":
        yield Question("vault", "1Password vault", _op_name, None, "its name or id")
        yield Question("item", "1Password item", _op_name, None, "its name or id")
        place = f"op://{answers['vault']}/{answers['item']}"
        names = ("username", "credential")  # of 1Password's API Credential item
    else:
        yield Question("service", "keyring service", _harmless, "tokenbroker")
        place = f"keyring://{quote(answers['service'], safe='')}"
        names = ("client-id", "client-secret")
    reference = secret_reference(answers["backend"])
    yield Question("client_id", "reference of the client id", reference, f"{place}/{names[0]}")
    explain = "where the secret is, never the secret itself"
    yield Question("client_secret", "reference of the client secret", reference, f"{place}/{names[1]}", explain)


def _about_access(backend: str) -> Iterator[Question]:
    """Ask what this kind of vault needs to be opened."""
    keys = sections.VAULT_KEYS[backend]
    if backend == "op":
        explain = "sign-in address such as my.1password.com; empty: the one that `op` used last"
        yield Question("account", "1Password account", _optional(_harmless), "", explain)
    elif "account" in keys:
        yield Question("account", "1Password account", _harmless, None, "its name, as the app shows it")
    if "url" in keys:
        yield Question(
            "vault_url", "Connect server", service_url, None, "its address, such as https://connect.example.com"
        )
    if "credential" in keys:
        explain = "where its access token is, never the token itself; fd://N and systemd://NAME are the others"
        proposal = f"keyring://tokenbroker/{backend}"
        yield Question("credential", "access token", credential, proposal, explain)


def _about_use() -> Iterator[Question]:
    explain = "interactive: a person is near the program; autonomous: cron, timers, CI"
    yield Question("agent_type", "who this client is for", choice(*AgentType), AgentType.INTERACTIVE, explain)
    explain = "who answers for it, such as your mail address; the token's claim must say the same"
    yield Question("owner", "owner of the client", _harmless, None, explain)
    yield Question("profile", "profile", _profile_name, "main", "the name by which programs ask for the token")
    explain = f"{ANY}: every program of yours; else a path or a glob over one, such as /usr/bin/python3*"
    yield Question("program", "which program may have it", _program, ANY, explain)


def _optional(check: Callable[[str], object]) -> Callable[[str], object]:
    return lambda answer: check(answer) if answer else None


def _harmless(answer: str) -> None:
    text(answer)
    if _SECRET.search(answer):
        raise Problem(
            "found what looks like a secret, which is not shown and does not belong here",
            hint="keep it in the vault; the configuration holds its reference alone",
        )


def _op_name(answer: str) -> None:
    _harmless(answer)
    if "/" in answer:
        raise Problem("expected one name or id, found a `/`", hint="a name with `/` in it goes by its id")
    secret_reference("op")(f"op://{answer}/item/field")


def _profile_name(answer: str) -> None:
    _harmless(answer)
    check_name(answer)


def _program(answer: str) -> None:
    if answer != ANY:
        sections.rule({"profile": "p", "decide": "allow", "peer": {"exe": answer}}, ["p"], 1)


def _check_profile(answers: Mapping[str, str], scopes: str) -> None:
    """Judge scopes as the configuration would, the preset's demands included."""
    issuer = IssuerConfig("main", answers["preset"])
    client = ClientConfig("main", "main", AgentType.INTERACTIVE, "owner", "id")
    around = Surroundings("op", "op", ["main"], ["main"], [], {"main": issuer})
    table: dict[str, object] = {"clients": ["main"], "scopes": scopes.split()}
    if answers["audience"]:
        table["audience"] = answers["audience"]
    for scope in scopes.split():
        _harmless(scope)
    parse_profile("main", table, around, {"main": client})
