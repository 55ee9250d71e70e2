"""What GitHub's answers about installation tokens mean. Pure: no I/O, no clock.

They are put into the words of OAuth where OAuth has some, so that one parser bounds and checks both.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from tokenbroker.backoff import RETRY_AFTER_CAP
from tokenbroker.errors import IssuerMisconfigured, IssuerNeedsPerson, IssuerThrottled, IssuerUnavailable, TokenMismatch
from tokenbroker.issuers.exchange import issuer_now, strict_object
from tokenbroker.issuers.problems import refusal, retry_after
from tokenbroker.issuers.response import parse
from tokenbroker.model import Revocation
from tokenbroker.scrub import scrub

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenbroker.errors import IssuerError
    from tokenbroker.issuers.exchange import Attempt, Reply
    from tokenbroker.model import Grant, IssuerAnswer

SECONDARY_WAIT: Final = 60.0  # seconds; GitHub's advice where a secondary limit names no time

_CREATED, _NO_CONTENT = 201, 204
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _UNPROCESSABLE, _TOO_MANY = 401, 403, 404, 422, 429


def token(reply: Reply, attempt: Attempt, grant: Grant, *, default_ttl: float, max_ttl: float) -> IssuerAnswer:
    """Read the answer to a request for an installation token; lifetimes are seconds from the start of the request.

    Raises the errors of `Issuer.issue`.
    """
    if reply.status != _CREATED:
        raise problem(reply, attempt, grant)
    said = _object(reply)
    _check_repositories(said, grant, attempt)
    permissions = said.get("permissions")
    granted = permissions.items() if isinstance(permissions, dict) else None
    oauth = {
        "access_token": said.get("token"),
        "expires_in": _lifetime(said.get("expires_at"), reply, attempt),
        "scope": None if granted is None else sorted(f"{name}:{level}" for name, level in granted),
    }
    body = json.dumps(oauth).encode() if said else reply.body
    return parse(replace(reply, status=200, body=body), attempt, default_ttl=default_ttl, max_ttl=max_ttl)


def revoked(reply: Reply, attempt: Attempt) -> Revocation:
    """Read the answer to a revocation; 401: the token was dead already. Raises the errors of `Issuer.issue`."""
    if reply.status in {_NO_CONTENT, _UNAUTHORIZED}:
        return Revocation.REVOKED
    raise problem(reply, attempt, None)


def problem(reply: Reply, attempt: Attempt, grant: Grant | None) -> IssuerError:
    """Return the error that an unsuccessful answer stands for."""
    said = _object(reply).get("message")
    words = scrub(said, attempt.secrets).rstrip(".") if isinstance(said, str) else ""
    why = f"{reply.status} ({words})" if words else str(reply.status)
    installation = grant.installation if grant else None
    match reply.status:
        case 403 | 429 if (wait := _limited(reply, words, attempt)) is not None:
            return IssuerThrottled(f"{attempt.subject} has a rate limit that is used up: {why}", retry_after=wait)
        case 403:
            return IssuerNeedsPerson(
                f"{attempt.subject} denies installation {installation}: {why}",
                hint="look at the app under the settings of whoever installed it: it may be suspended there",
            )
        case 404:
            return IssuerMisconfigured(
                f"{attempt.subject} knows no installation {installation} of this app: {why}",
                hint="check installation and client_id in [clients], and url of an Enterprise Server in "
                f"[issuers.{attempt.issuer}]",
            )
        case 422:
            return IssuerMisconfigured(f"{attempt.subject} refused the request: {why}", hint=_wanted(attempt, grant))
    # The rest has its meaning in OAuth too: 401 is the app's JWT, or this machine's clock.
    code = "invalid_client" if reply.status == _UNAUTHORIZED else None
    body = json.dumps({"error": code, "error_description": words}).encode() if code else b"-"
    return refusal(replace(reply, body=body, oversize=False), attempt)


def _wanted(attempt: Attempt, grant: Grant | None) -> str:
    repositories = f"; its repositories: {', '.join(grant.repositories)}" if grant and grant.repositories else ""
    return (
        f"grant the permissions to the app and accept them for the installation, or correct the profile (its scopes: "
        f"{' '.join(attempt.scopes) or 'none'}{repositories})"
    )


def _limited(reply: Reply, words: str, attempt: Attempt) -> float | None:
    """Return for how many seconds a rate limit keeps us out; `None` when it is none.

    The primary limit has `x-ratelimit-remaining: 0` and an epoch second, the secondary `Retry-After` or neither.
    """
    if (wait := retry_after(reply.headers, attempt.started.wall)) is not None:
        return wait
    reset = reply.headers.get("x-ratelimit-reset", "")
    if reply.headers.get("x-ratelimit-remaining") == "0" and reset.isascii() and reset.isdigit():
        now = issuer_now(reply.headers, attempt.started.wall)
        return min(max(float(reset[:12]) - now, 1.0), RETRY_AFTER_CAP)
    return SECONDARY_WAIT if reply.status == _TOO_MANY or "rate limit" in words.lower() else None


def _lifetime(expires_at: Any, reply: Reply, attempt: Attempt) -> int | None:
    """Return the seconds until `expires_at` (ISO 8601), by GitHub's own clock where its answer tells that."""
    if not isinstance(expires_at, str):
        return None
    try:
        moment = datetime.fromisoformat(expires_at)
    except ValueError:
        return None
    expiry = moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
    left = int(expiry - issuer_now(reply.headers, attempt.started.wall))
    if left < 1:
        raise IssuerUnavailable(f"{attempt.subject} sent a token that has already expired")
    return left


def _check_repositories(said: Mapping[str, Any], grant: Grant, attempt: Attempt) -> None:
    """Refuse a token for other repositories than those it was to be confined to."""
    listed = said.get("repositories")
    if not grant.repositories:
        return
    if not isinstance(listed, list):
        found = {"all"} if said.get("repository_selection") == "all" else set(grant.repositories)
    else:
        found = {str(each.get("name")) for each in listed if isinstance(each, dict)}
    if {name.lower() for name in found} != {name.lower() for name in grant.repositories}:
        raise TokenMismatch(
            f"{attempt.subject} gave a token for the repositories {scrub(', '.join(sorted(found)), attempt.secrets)}, "
            f"asked was {', '.join(grant.repositories)}",
            hint="correct repositories in the profile, or let the installation have them",
        )


def _object(reply: Reply) -> dict[str, Any]:
    """Return the body's members; none for what is no clear JSON object, which the parser of OAuth answers reports."""
    try:
        return strict_object(reply.body)
    except (ValueError, TypeError):
        return {}
