"""What `broker-token --format` prints: one pure function per consumer, each returning the whole of stdout."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from tokenbroker_client import wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenbroker_client.wire import ProfileInfo, TokenAnswer

DEFAULT_ENV: Final = "ACCESS_TOKEN"
# This version's broker has nobody to ask, so it denies.
_ALLOWED: Final = {"allow": "yes", "ask": "no (asks)", "deny": "no"}


def token(answer: TokenAnswer, _env: str) -> str:
    """Return the token alone: shells, Claude Code's apiKeyHelper, Codex's auth command."""
    return f"{answer.access_token}\n"


def header(answer: TokenAnswer, _env: str) -> str:
    """Return a header line, e.g. for `curl -H @-`."""
    return f"Authorization: {answer.authorization}\n"


def headers_json(answer: TokenAnswer, _env: str) -> str:
    """Return a JSON object of headers: Claude Code's headersHelper."""
    return json.dumps({"Authorization": answer.authorization}) + "\n"


def env(answer: TokenAnswer, env: str) -> str:
    """Return a line for `eval`, quoted so that no token can be more than a value."""
    quoted = answer.access_token.replace("'", "'\"'\"'")
    return f"export {env}='{quoted}'\n"


def whole(answer: TokenAnswer, _env: str) -> str:
    """Return the broker's whole answer as JSON: fields asked for one by one could straddle a renewal."""
    return wire.encode_token(answer).decode() + "\n"


FORMATS: Final[dict[str, Callable[[TokenAnswer, str], str]]] = {
    "token": token,
    "header": header,
    "headers-json": headers_json,
    "env": env,
    "json": whole,
}

_SCHEMELESS: Final = frozenset({"token", "env"})
_BOUND: Final = (
    "this token is bound to a key (DPoP): an API wants a proof with each request, see BrokerAuth or POST /proof"
)


def warning(answer: TokenAnswer, name: str) -> str | None:
    """Return the hint for a token that is of no use alone, in a format that does not say so itself (RFC 9449 §7)."""
    bound = answer.token_type.lower() == "dpop"
    return _BOUND if bound and name in _SCHEMELESS else None


def profile_table(profiles: tuple[ProfileInfo, ...]) -> str:
    """Return the table of `broker-token --list`."""
    rows = [("PROFILE", "AUDIENCE", "SCOPES", "AGENT TYPES", "ALLOWED")]
    rows += [
        (
            one.profile,
            one.audience or one.resource or "-",
            " ".join(one.scopes) or "-",
            " ".join(one.agent_types) or "-",
            _ALLOWED.get(one.decision, one.decision),
        )
        for one in profiles
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines) + "\n"


def profile_json(profiles: tuple[ProfileInfo, ...]) -> str:
    """Return what `broker-token --list --json` prints."""
    return wire.encode_profiles(profiles).decode() + "\n"
