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
from tokenbroker.config.clients import AUTH_NEEDS, GRANT_NEEDS, Surroundings, installation
from tokenbroker.config.fields import Problem, check_name, choice, text
from tokenbroker.config.issuers import SELF_PROVING, url_of
from tokenbroker.config.presets import PRESETS
from tokenbroker.config.profiles import profile as parse_profile
from tokenbroker.config.values import (
    client_id,
    credential,
    resource,
    secret_reference,
    service_url,
    token_url,
)
from tokenbroker.model import AgentType, SecretRef

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tokenbroker.config.presets import Preset

Answers = dict[str, str]

ANY: Final = "any"
_PLACE: Final = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2,}(?:-[A-Z]+)*(?![A-Za-z0-9])")
"""A placeholder in the example of a preset."""
# A long run of every kind of character: issuers' secrets, and the tokens of 1Password's service accounts. Names that
# people give are shorter words, or have no digits among upper and lower case.
_SECRET: Final = re.compile(
    r"(?<![A-Za-z0-9~+=])(?=[A-Za-z0-9~+=]*[a-z])(?=[A-Za-z0-9~+=]*[A-Z])(?=[A-Za-z0-9~+=]*[0-9])[A-Za-z0-9~+=]{16,}"
)
_GITHUB_ID: Final = re.compile(r"Iv23[A-Za-z0-9]{16}")
"""The client id of a GitHub App, which looks like a secret and is none."""

_METHODS: Final[Mapping[str, str]] = {
    "client_secret_post": "a secret, in the request's body",
    "client_secret_basic": "a secret, in a header",
    "client_secret_jwt": "a secret, by which each request is signed",
    "private_key_jwt": "a private key, by which each request is signed",
    "tls_client_auth": "a certificate of an authority's",
    "self_signed_tls_client_auth": "a certificate of its own making",
    "jwt-bearer": "the key of a service account",
    "github-app": "the app's private key",
}
_PUBLIC_ID: Final[Mapping[str, tuple[str, str]]] = {
    "google": ("service account", "its e-mail address, such as NAME@PROJECT.iam.gserviceaccount.com"),
    "github-app": ("app id", "the app's client id or its number, from its settings"),
    "zitadel": ("service user", "its user id, `userId` in its key file"),
}
"""What the client id is called by products that it is no secret at, and whose clients have no item with it."""


@dataclass(slots=True)
class Found:
    """What discovery found under an issuer's URL."""

    endpoint: str | None = None
    """The token endpoint; `None`: nothing was found."""
    elsewhere: bool = False
    """Whether it is on another host than the issuer, so that a person has to agree to it."""


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


def questions(answers: Mapping[str, str], found: Found | None = None) -> Iterator[Question]:
    """Yield the questions in order; each may depend on the answers before it, which the caller has put in `answers`.

    A `preset` that is in `answers` already is not asked for. The caller puts into `found` what discovery finds under
    the answer to `url` before it takes the next question.
    """
    if "preset" not in answers:
        yield Question("preset", "issuer product", choice(*PRESETS), "oidc", f"one of {', '.join(PRESETS)}")
    preset = PRESETS[answers["preset"]]
    yield from _about_issuer(preset, found or Found())
    yield from _about_method(preset)
    yield from _about_target(preset, answers)
    yield from _about_vault(answers)
    yield from _about_client(preset, answers)
    yield from _about_use()


def refusal(question: Question, answer: str) -> str | None:
    """Return why `answer` will not do, without repeating it; `None` when it will."""
    try:
        question.check(answer)
    except Problem as problem:
        return f"{problem.text}; {problem.hint}" if problem.hint else problem.text
    return None


def _about_issuer(preset: Preset, found: Found) -> Iterator[Question]:
    if preset.url is None and preset.token_endpoint is not None:
        return  # there is one for all the world
    explain = f"such as {preset.url_example}; the issuer identifier, as in `iss` of its tokens"
    if preset.grant == "github-app":
        explain = f"of an Enterprise Server: such as {preset.url_example}"
    yield Question("url", "issuer URL", _replaced(url_of(preset), preset.url_example), preset.url, explain)
    if preset.grant == "github-app":
        return  # which has no metadata, and no token endpoint of OAuth's
    example = preset.endpoint_example
    if found.endpoint is None and example is None:
        explain = "empty: found by discovery, each time the broker starts"
        yield Question("token_endpoint", "token endpoint URL", _optional(token_url), "", explain)
    elif found.endpoint is None or found.elsewhere:
        explain = "on another host than the issuer, and secrets are sent there" + (
            f"; such as {example}" if example else ""
        )
        check = _replaced(token_url, example or "")
        yield Question("token_endpoint", "token endpoint URL", check, found.endpoint, explain)


def _about_method(preset: Preset) -> Iterator[Question]:
    if len(preset.methods) > 1:
        explain = "\n  ".join(f"{method}: {_METHODS[method]}" for method in preset.methods)
        yield Question("method", "how the client authenticates", choice(*preset.methods), preset.methods[0], explain)


def _about_target(preset: Preset, answers: Mapping[str, str]) -> Iterator[Question]:
    if preset.target == "resource":
        explain = "the URL of the API that the token is for; empty: none"
        yield Question("resource", "resource", _optional(resource), "", explain)
    elif preset.audience_required:
        yield Question("audience", "audience", _harmless, None, "the identifier of the API that the token is for")
    elif preset.target == "audience":
        explain = "the identifier of the API that the token is for; empty: none"
        yield Question("audience", "audience", _optional(_harmless), "", explain)
    if preset.organization_example is not None:
        explain = f"such as {preset.organization_example}; empty: none"
        yield Question("organization", "organization", _optional(_harmless), "", explain)
    word = "permissions" if preset.grant == "github-app" else "scopes"
    such = f"such as {preset.scope_example}; " if preset.scope_example else ""
    explain = f"{such}separated by spaces" + ("" if preset.scope_required else "; empty: none")
    check = _replaced(lambda scopes: _check_profile(answers, scopes), preset.scope_example or "")
    yield Question("scopes", word, check, None if preset.scope_required else "", explain)
    if preset.grant == "github-app":
        explain = "names separated by spaces, to confine the tokens to them; empty: all of the installation"
        yield Question("repositories", "repositories", _optional(_harmless), "", explain)


def _about_vault(answers: Mapping[str, str]) -> Iterator[Question]:
    explain = (
        "op: 1Password by its app and `op`; sdk: by its app alone; service-account, connect: without a person; "
        "keyring: the system's own"
    )
    yield Question("backend", "where the client's secret is kept", choice(*sections.BACKENDS), "op", explain)
    yield from _about_access(answers["backend"])
    if answers["backend"] != "keyring":
        yield Question("vault", "1Password vault", _op_name, None, "its name or id")
        yield Question("item", "1Password item", _op_name, None, "its name or id")
    else:
        yield Question("service", "keyring service", _harmless, "tokenbroker")


def method_of(answers: Mapping[str, str]) -> str:
    """Return how the client proves who it is: an authentication method, or a grant that does without."""
    return answers.get("method") or PRESETS[answers["preset"]].methods[0]


def _about_client(preset: Preset, answers: Mapping[str, str]) -> Iterator[Question]:
    """Ask where the client's id and what it proves itself by are."""
    if answers["backend"] != "keyring":
        place = f"op://{answers['vault']}/{answers['item']}"
        # Of 1Password's items: API Credential, SSH Key; a file has its name.
        fields = {"id": "username", "secret": "credential", "key": preset.key_field, "certificate": "certificate"}
    else:
        place = f"keyring://{quote(answers['service'], safe='')}"
        fields = {"id": "client-id", "secret": "client-secret", "key": "private-key", "certificate": "certificate"}
    method = method_of(answers)
    reference = secret_reference(answers["backend"])
    if method in SELF_PROVING:
        ask, explain = _PUBLIC_ID[answers["preset"]]
        yield Question("client_id", ask, _client_id(answers["backend"]), None, explain)
    else:
        explain = "no secret: itself, or the reference of where it is"
        yield Question("client_id", "client id", _client_id(answers["backend"]), f"{place}/{fields['id']}", explain)
    if method == "github-app":
        explain = "its number, at the end of the address of the installation's settings at GitHub"
        yield Question("installation", "installation", installation, None, explain)
    needed = AUTH_NEEDS[method] if method in AUTH_NEEDS else GRANT_NEEDS[method]
    if "client_secret" in needed:
        explain = "where the secret is, never the secret itself"
        yield Question(
            "client_secret", "reference of the client secret", reference, f"{place}/{fields['secret']}", explain
        )
    if "certificate" in needed or (method == "private_key_jwt" and preset.assertion_header != "kid"):
        explain = "PEM; the one that is uploaded at the issuer"
        proposal = f"{place}/{fields['certificate']}"
        yield Question("certificate", "reference of the certificate", reference, proposal, explain)
    if "private_key" in needed:
        explain = "the JSON key file as it was downloaded" if preset.key_field == "key.json" else "PEM or JWK"
        explain += "; where it is, never the key itself"
        yield Question("private_key", "reference of the private key", reference, f"{place}/{fields['key']}", explain)
    if method == "private_key_jwt" and preset.assertion_header == "kid":
        explain = "the `kid` by which the issuer knows the key; empty: what the key's file says, if anything"
        yield Question("key_id", "key id", _optional(_harmless), "", explain)


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
    explain = (
        "who answers for it, such as your mail address; the token's claim is compared where it is there, and `claims` "
        "in [issuers] says where"
    )
    yield Question("owner", "owner of the client", _harmless, None, explain)
    yield Question("profile", "profile", _profile_name, "main", "the name by which programs ask for the token")
    explain = f"{ANY}: every program of yours; else a path or a glob over one, such as /usr/bin/python3*"
    yield Question("program", "which program may have it", _program, ANY, explain)


def _optional(check: Callable[[str], object]) -> Callable[[str], object]:
    return lambda answer: check(answer) if answer else None


def _replaced(check: Callable[[str], object], example: str) -> Callable[[str], object]:
    """Make a check that also refuses an answer in which a placeholder of the example stands."""
    places = re.compile(
        "|".join(rf"(?<![A-Za-z0-9-]){place}(?![A-Za-z0-9-])" for place in _PLACE.findall(example)) or r"(?!)"
    )

    def judge(answer: str) -> None:
        left = places.search(answer)
        if left is not None:
            raise Problem(f"`{left[0]}` is a placeholder of the example", hint="put your own in its place")
        check(answer)

    return judge


def _client_id(backend: str) -> Callable[[str], object]:
    parse = client_id(backend)

    def judge(answer: str) -> None:
        # A reference is no secret, however its names look.
        literal = not isinstance(parse(answer), SecretRef) and not _GITHUB_ID.fullmatch(answer)
        if literal and _SECRET.search(answer):
            raise Problem(
                "found what looks like a secret, which is not shown",
                hint="if it is the client id, keep it in the vault too, and give its reference",
            )
        if answer.startswith("NAME@") or "@PROJECT." in answer:
            raise Problem("found a placeholder of the example", hint="put your own in its place")

    return judge


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
    preset = PRESETS[answers["preset"]]
    issuer = IssuerConfig("main", answers["preset"], grant=preset.grant)
    client = ClientConfig("main", "main", AgentType.INTERACTIVE, "owner", "id")
    around = Surroundings("op", "op", ["main"], ["main"], [], {"main": issuer})
    table: dict[str, object] = {"clients": ["main"], "scopes": scopes.split()}
    if answers.get("audience"):
        table["audience"] = answers["audience"]
    for scope in scopes.split():
        _harmless(scope)
    parse_profile("main", table, around, {"main": client})
