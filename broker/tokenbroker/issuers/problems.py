"""What an issuer's refusal means: status, headers and body become one of the four classes of error.

Rules of this file:
1. Pure: no I/O, no clock; the moment of the request is an argument.
2. The OAuth `error` code decides only where the status does not: issuers refuse the same secret with
   401 `invalid_client`, 401 `unauthorized_client`, 403 and an empty body, or 400 `invalid_grant`.
3. A message names the issuer and the code. The body never; `error_description` scrubbed, where it says more.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from tokenbroker.errors import (
    CredentialRejected,
    IssuerError,
    IssuerMisconfigured,
    IssuerNeedsPerson,
    IssuerUnavailable,
)
from tokenbroker.issuers.exchange import scrub, strict_object
from tokenbroker.model import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tokenbroker.issuers.exchange import Attempt, Reply

MAX_RETRY_AFTER: Final = 3600.0  # seconds; MSAL's cap: a longer wait is better told to a person
QUOTA_PATIENCE: Final = 300.0  # seconds; a quota that comes back later than this needs a person
CLOCK_TOLERANCE: Final = 60.0  # seconds; our assertions live 50 s from now and are dated 10 s back

_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403
_TOO_MANY: Final = 429  # RFC 6585 §4
_LATER_STATUS: Final = frozenset({408, 425, _TOO_MANY})
_LATER_CODES: Final = frozenset({"temporarily_unavailable", "server_error", "slow_down", "internal_failure"})
_CODE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_AADSTS = re.compile(r"AADSTS(\d{4,9})")
_TRACE = re.compile(r"[0-9a-fA-F-]{36}")
_QUOTA_HEADERS: Final = ("auth0-client-quota-limit", "auth0-organization-quota-limit")

# Entra gives one `error` for many causes; these three change who can help (contract: Entra error_codes).
_ENTRA_WRONG_SECRET: Final = 7000215
_ENTRA_BAD_SIGNATURE: Final = 700027
_ENTRA_EXPIRED_SECRET: Final = 7000222
_ENTRA_NO_APP: Final = 700016

_CONFIGURATION_HINTS: Final[Mapping[str, str]] = {
    "unauthorized_client": "allow the client credentials grant for this client at the issuer",
    "unsupported_grant_type": "allow the client credentials grant at the issuer, or correct url in [issuers.{issuer}]",
    "use_dpop_nonce": "turn DPoP off for this client at the issuer: programs that are handed a token cannot prove it",
}


@dataclass(frozen=True, slots=True)
class _Said:
    """The parts of an error answer that may be looked at."""

    code: str | None = None
    description: str = ""
    entra: frozenset[int] = frozenset()
    trace: str | None = None

    def __str__(self) -> str:
        words = self.code or "no error code"
        if self.description:
            words += f" ({self.description})"
        return f"{words}, trace_id {self.trace}" if self.trace else words


def refusal(reply: Reply, attempt: Attempt) -> IssuerError:
    """Return the error that an unsuccessful answer of the token endpoint stands for (RFC 6749 §5.2 and practice)."""
    said = _read(reply, attempt)
    wait = retry_after(reply.headers, attempt.started.wall)
    return (
        _later(reply, said, attempt, wait)
        or _person(reply, said, attempt)
        or _rejected(reply, said, attempt)
        or _configuration(reply, said, attempt)
    )


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that `Retry-After` asks for (RFC 9110 §10.2.3: a number or a date), at most an hour."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:9]), MAX_RETRY_AFTER)
    moment = http_date(value)
    return None if moment is None else min(max(moment - now, 0.0), MAX_RETRY_AFTER)


def _later(reply: Reply, said: _Said, attempt: Attempt, wait: float | None) -> IssuerError | None:
    if reply.status == _TOO_MANY and (quota := _quota_wait(reply.headers)) is not None:
        return IssuerNeedsPerson(
            f"{attempt.subject} has used up this client's token quota, more in {quota:.0f} s",
            hint="raise the quota at the issuer, or ask for fewer different scopes so that tokens are shared",
            retry_after=min(quota, MAX_RETRY_AFTER),
        )
    if reply.status in _LATER_STATUS or reply.status >= 500 or said.code in _LATER_CODES:  # noqa: PLR2004  # 5xx
        what = f"{reply.status} {said.code}" if said.code else str(reply.status)
        return IssuerUnavailable(f"{attempt.subject} cannot answer now: {what}", retry_after=wait)
    return None


def _person(reply: Reply, said: _Said, attempt: Attempt) -> IssuerError | None:
    if _ENTRA_EXPIRED_SECRET in said.entra:
        return IssuerNeedsPerson(
            f"{attempt.subject} says that the client's secret has expired: {said}",
            hint="make a new secret at the issuer and put it in the vault, then `broker unlock`",
        )
    if _ENTRA_NO_APP in said.entra:
        return IssuerNeedsPerson(
            f"{attempt.subject} does not know the client: {said}",
            hint=f"check client_id in [clients], and the tenant in [issuers.{attempt.issuer}] url",
        )
    if said.code == "access_denied" and reply.status != _UNAUTHORIZED:  # with 401 it is Auth0's wrong secret
        return IssuerNeedsPerson(f"{attempt.subject} denied access: {said}", hint=_target_hint(attempt))
    return None


def _rejected(reply: Reply, said: _Said, attempt: Attempt) -> IssuerError | None:
    empty = not reply.body.strip() and not reply.oversize
    signed = attempt.auth == "private_key_jwt"
    rejected = (
        reply.status == _UNAUTHORIZED
        or said.code == "invalid_client"
        or (reply.status == _FORBIDDEN and empty)  # glewlwyd's way to say so
        or (said.code == "invalid_grant" and signed)
        or bool(said.entra & {_ENTRA_WRONG_SECRET, _ENTRA_BAD_SIGNATURE})
    )
    if not rejected:
        return None
    if signed and (skew := _clock_skew(reply, attempt)) is not None:
        return IssuerNeedsPerson(
            f"{attempt.subject} refused the assertion: {said}; this machine's clock is {abs(skew):.0f} s "
            f"{'ahead' if skew > 0 else 'behind'}",
            hint="set this machine's clock, then `broker unlock`",
        )
    return CredentialRejected(f"{attempt.subject} refused the client: {said}", hint=_credential_hint(attempt))


def _configuration(reply: Reply, said: _Said, attempt: Attempt) -> IssuerError:
    if 300 <= reply.status < 400:  # noqa: PLR2004  # any redirect
        return IssuerMisconfigured(
            f"{attempt.subject} answered with a redirect ({reply.status}), which is not followed with credentials",
            hint=f"set token_endpoint in [issuers.{attempt.issuer}] to the final address",
        )
    if said.code is None:
        return IssuerMisconfigured(
            f"{attempt.subject} refused the request: {reply.status} without an OAuth error",
            hint=f"check url or token_endpoint in [issuers.{attempt.issuer}], then run `broker doctor`",
        )
    return IssuerMisconfigured(f"{attempt.subject} refused the request: {said}", hint=_request_hint(said, attempt))


def _request_hint(said: _Said, attempt: Attempt) -> str:
    if said.code in {"invalid_scope", "scope_invalid"}:
        asked = " ".join(attempt.scopes) or "none"
        return f"grant the scopes to this client at the issuer, or correct scopes in the profile (asked: {asked})"
    if said.code in {"invalid_target", "invalid_resource"}:
        return _target_hint(attempt)
    if said.code == "invalid_request" and attempt.other_encoding is not None:
        return _encoding_hint(attempt)
    known = _CONFIGURATION_HINTS.get(said.code or "")
    return known.format(issuer=attempt.issuer) if known else _target_hint(attempt)


def _credential_hint(attempt: Attempt) -> str:
    what = "private_key" if attempt.auth == "private_key_jwt" else "client_secret"
    rotated = f"what the client's {what} refers to may have been rotated: put the new one there, then `broker unlock`"
    return rotated if attempt.other_encoding is None else f"{rotated}; or {_encoding_hint(attempt)}"


def _encoding_hint(attempt: Attempt) -> str:
    return (
        f'try basic_encoding = "{attempt.other_encoding}" in [issuers.{attempt.issuer}]: '
        "the client's id or secret has characters that issuers decode differently"
    )


def _target_hint(attempt: Attempt) -> str:
    for key, value in (("audience", attempt.audience), ("resource", attempt.resource)):
        if value is not None:
            return f"check {key} = {value!r} in the profile, and that the issuer lets this client have it"
    return f"set audience or resource in the profile if {attempt.host} wants one, then run `broker doctor`"


def _read(reply: Reply, attempt: Attempt) -> _Said:
    try:
        body = strict_object(reply.body)
    except (ValueError, TypeError):
        return _Said()
    words = body.get("error_description")
    token = body.get("access_token")  # beside an error it is nonsense, and still must not be shown
    hidden = (*attempt.secrets, Secret(token)) if isinstance(token, str) else attempt.secrets
    trace = _word(body.get("trace_id"), hidden)
    return _Said(
        code=_word(body.get("error"), hidden),
        description=scrub(words, hidden) if isinstance(words, str) else "",
        entra=_entra_codes(body, words),
        trace=trace if trace and _TRACE.fullmatch(trace) else None,
    )


def _word(code: Any, hidden: Sequence[Secret]) -> str | None:
    """Return an error code fit to show; one that holds what must be hidden is not a code."""
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        return None
    return code if scrub(code, hidden) == code else None


def _entra_codes(body: Mapping[str, Any], words: Any) -> frozenset[int]:
    listed = body.get("error_codes")
    codes = {item for item in listed if type(item) is int} if isinstance(listed, list) else set()
    if isinstance(words, str):
        codes |= {int(digits) for digits in _AADSTS.findall(words)}
    return frozenset(codes)


def _quota_wait(headers: Mapping[str, str]) -> float | None:
    """Return the longest wait for a used-up Auth0 quota bucket (`b=per_hour;q=10;r=0;t=3540,…`) beyond our patience."""
    waits = [
        float(fields["t"])
        for name in _QUOTA_HEADERS
        for bucket in headers.get(name, "").split(",")
        if (fields := dict(re.findall(r"([a-z]+)=([0-9]{1,9})(?:;|$)", bucket.strip()))).get("r") == "0"
        and "t" in fields
    ]
    longest = max(waits, default=0.0)
    return longest if longest > QUOTA_PATIENCE else None


def _clock_skew(reply: Reply, attempt: Attempt) -> float | None:
    """Return how far our clock is ahead of the issuer's `Date` header, when that is enough to spoil an assertion."""
    theirs = http_date(reply.headers.get("date", ""))
    if theirs is None:
        return None
    skew = attempt.started.wall - theirs
    return skew if abs(skew) > CLOCK_TOLERANCE else None


def http_date(value: str) -> float | None:
    """Return the epoch second that an HTTP date names (RFC 9110 §5.6.7); `None` for anything else."""
    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
