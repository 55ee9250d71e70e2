"""What an issuer's refusal means: status, headers and body become one of the four classes of error.

Rules of this file:
1. Pure: no I/O, no clock; the moment of the request is an argument.
2. The OAuth `error` code decides only where the status does not: issuers refuse the same secret with
   401 `invalid_client`, 401 `unauthorized_client`, 403 and an empty body, or 400 `invalid_grant`.
3. A message names the issuer, the code and the words that `said` takes from the body, never the body itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from tokenbroker.allowance import used_up
from tokenbroker.backoff import RETRY_AFTER_CAP
from tokenbroker.errors import (
    CredentialRejected,
    IssuerError,
    IssuerMisconfigured,
    IssuerNeedsPerson,
    IssuerThrottled,
    IssuerUnavailable,
    SubjectRefused,
)
from tokenbroker.issuers import hints
from tokenbroker.issuers.exchange import http_date, issuer_now, web_page
from tokenbroker.issuers.quotas import quotas, throttled_for
from tokenbroker.issuers.said import read
from tokenbroker.scrub import scrub

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenbroker.issuers.exchange import Attempt, Reply
    from tokenbroker.issuers.said import Said

PROOF_TOLERANCE: Final = 10.0  # seconds; Keycloak's for a DPoP proof is 15, to its maker's disadvantage
CLOCK_TOLERANCE: Final = 60.0  # seconds; our assertions live 50 s from now and are dated 10 s back

_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403
_TOO_MANY: Final = 429  # RFC 6585 §4
_SIGN_IN_TO_NETWORK: Final = 511  # RFC 6585 §6
_LATER_STATUS: Final = frozenset({408, 425})
_LATER_CODES: Final = frozenset({"temporarily_unavailable", "server_error", "slow_down", "internal_failure"})
_SET_CLOCK: Final = "set this machine's clock, then `broker unlock`"

# Entra gives one `error` for many causes; these change who can help (contract: Entra error_codes).
_ENTRA_BAD_SIGNATURE: Final = 700027
_ENTRA_EXPIRED_SECRET: Final = 7000222
_ENTRA_NO_APP: Final = 700016


def refusal(reply: Reply, attempt: Attempt) -> IssuerError:
    """Return the error that an unsuccessful answer of the token endpoint stands for (RFC 6749 §5.2 and practice)."""
    said = read(reply, attempt)
    error = (
        _throttled(reply, said, attempt)
        or _later(reply, said, attempt)
        or _unproved(reply, said, attempt)
        or _person(reply, said, attempt)
        or _presented(reply, said, attempt)
        or _rejected(reply, said, attempt)
        or _configuration(reply, said, attempt)
    )
    error.quotas = quotas(reply.headers)
    return error


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that `Retry-After` asks for (RFC 9110 §10.2.3: a number or a date), at most an hour.

    A date is the issuer's, and compared with its own clock where the answer tells that, else with `now`.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:9]), RETRY_AFTER_CAP)
    moment = http_date(value)
    return None if moment is None else min(max(moment - issuer_now(headers, now), 0.0), RETRY_AFTER_CAP)


def _throttled(reply: Reply, said: Said, attempt: Attempt) -> IssuerError | None:
    """Read a 429, and the 403 of issuers that use it for the same."""
    now = attempt.started.wall
    wait = retry_after(reply.headers, now)
    if reply.status == _FORBIDDEN and wait is None and throttled_for(reply.headers, now) is None:
        return None
    if reply.status not in {_TOO_MANY, _FORBIDDEN}:
        return None
    spent = [quota for quota in quotas(reply.headers) if quota.remaining == 0]
    if spent:
        last = max(spent, key=lambda quota: quota.resets_in)
        return used_up(attempt.subject, last, max(last.resets_in, wait or 0.0))
    if wait is None:
        wait = throttled_for(reply.headers, now)
    return IssuerThrottled(
        f"{attempt.subject} cannot answer now: {_told(reply, said)}",
        retry_after=None if wait is None else min(wait, RETRY_AFTER_CAP),
    )


def _later(reply: Reply, said: Said, attempt: Attempt) -> IssuerError | None:
    if reply.status == _SIGN_IN_TO_NETWORK:
        return IssuerUnavailable(
            f"{attempt.subject} is not reached: the network wants somebody to sign in first ({reply.status})",
            hint="open any web page in a browser and sign in to the network",
        )
    if reply.status in _LATER_STATUS or reply.status >= 500 or said.code in _LATER_CODES:  # noqa: PLR2004  # 5xx
        wait = retry_after(reply.headers, attempt.started.wall)
        return IssuerUnavailable(f"{attempt.subject} cannot answer now: {_told(reply, said)}", retry_after=wait)
    return None


def _told(reply: Reply, said: Said) -> str:
    return f"{reply.status} {said}" if said.code or said.description else f"{reply.status}{said.tail}"


def _person(reply: Reply, said: Said, attempt: Attempt) -> IssuerError | None:
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
        return IssuerNeedsPerson(f"{attempt.subject} denied access: {said}", hint=hints.access(attempt))
    return None


def _unproved(reply: Reply, said: Said, attempt: Attempt) -> IssuerError | None:
    """Read what is said of proofs of possession (RFC 9449 §5 and §8)."""
    about_proofs = said.code in {"use_dpop_nonce", "invalid_dpop_proof"}
    if not attempt.dpop:
        # A 401 refuses the credential, whatever its words (contract: error taxonomy).
        if not about_proofs and (reply.status == _UNAUTHORIZED or "dpop" not in said.description.lower()):
            return None
        return IssuerMisconfigured(
            f"{attempt.subject} wants a DPoP proof: {said}",
            hint="set dpop = true in [clients], or turn DPoP off for this client at the issuer",
        )
    if said.code == "use_dpop_nonce":
        return IssuerUnavailable(f"{attempt.subject} wants a DPoP nonce and takes none that it gave: {said}")
    if said.code != "invalid_dpop_proof":
        return None
    if (skew := _clock_skew(reply, attempt, PROOF_TOLERANCE)) is not None:
        return IssuerNeedsPerson(f"{attempt.subject} refused the DPoP proof: {said}; {_off(skew)}", hint=_SET_CLOCK)
    return IssuerMisconfigured(
        f"{attempt.subject} refused the DPoP proof: {said}",
        hint=f"set token_endpoint in [issuers.{attempt.issuer}] to the address by which the issuer knows itself",
    )


def _presented(reply: Reply, said: Said, attempt: Attempt) -> IssuerError | None:
    """Read what is said of a token that was to be exchanged: `invalid_request` (RFC 8693 §2.2.2), and other codes."""
    refused = said.code in {"invalid_request", "invalid_grant"} and reply.status != _UNAUTHORIZED
    if attempt.grant != "token-exchange" or not (refused or said.code == "invalid_token"):
        return None
    return SubjectRefused(
        f"{attempt.subject} refused to exchange the token: {said}",
        hint="check that subject_token or subject_profile in [clients], and the actor's, give tokens of the type "
        "and audience that the issuer wants; one from the vault is read again after `broker lock` and `broker unlock`",
    )


def _rejected(reply: Reply, said: Said, attempt: Attempt) -> IssuerError | None:
    empty = not reply.body.strip() and not reply.oversize
    signed = attempt.auth in {"private_key_jwt", "client_secret_jwt"} or attempt.grant == "jwt-bearer"
    rejected = (
        reply.status == _UNAUTHORIZED
        or said.code == "invalid_client"
        or (reply.status == _FORBIDDEN and empty)  # glewlwyd's way to say so
        or (said.code == "invalid_grant" and signed)
        or bool(said.entra & {hints.ENTRA_WRONG_SECRET, _ENTRA_BAD_SIGNATURE})
    )
    if not rejected:
        return None
    if signed and (skew := _clock_skew(reply, attempt)) is not None:
        return IssuerNeedsPerson(
            f"{attempt.subject} refused the assertion: {said}; {_off(skew)}",
            hint=_SET_CLOCK,
        )
    told = str(said) if said.code or said.description else _silent(reply, said)
    return CredentialRejected(f"{attempt.subject} refused the client: {told}", hint=hints.credential(said, attempt))


def _configuration(reply: Reply, said: Said, attempt: Attempt) -> IssuerError:
    if is_redirect(reply):
        return redirected(reply, attempt)
    if said.code is None and not said.description:
        page = web_page(reply)
        return IssuerMisconfigured(
            f"{attempt.subject} refused the request: {_silent(reply, said)}",
            hint=f"check url or token_endpoint in [issuers.{attempt.issuer}], then run `broker doctor`"
            + ("; a company's proxy or a firewall may have answered" if page else ""),
        )
    return IssuerMisconfigured(f"{attempt.subject} refused the request: {said}", hint=hints.request(said, attempt))


def _silent(reply: Reply, said: Said) -> str:
    """Tell of a refusal that gives no reason."""
    what = "without an OAuth error"
    if not reply.body.strip() and not reply.oversize:
        what = "with an empty answer"
    return f"{reply.status} {what}{', a web page' if web_page(reply) else ''}{said.tail}"


def is_redirect(reply: Reply) -> bool:
    """Tell whether the answer sends us elsewhere (RFC 9110 §15.4)."""
    return 300 <= reply.status < 400  # noqa: PLR2004  # any of them


def redirected(reply: Reply, attempt: Attempt, key: str = "token_endpoint") -> IssuerError:
    """Return the error that a redirect stands for; `key` of the issuer's table names who was asked."""
    host = scrub(_host(reply.headers.get("location", "")), attempt.secrets, 100)
    table = f"[issuers.{attempt.issuer}]"
    hint = f"set {key} in {table} to the final address"
    if key == "url":
        hint = f"correct url in {table}, or set token_endpoint there"
    if host and host != _host(f"//{attempt.host}"):
        hint = (
            "sign in to the network if it asks for that: captive portals and company proxies redirect; "
            f"if the issuer itself has moved, set {key} in {table}"
        )
    return IssuerMisconfigured(
        f"{attempt.subject} answered with a redirect ({reply.status}){f' to {host}' if host else ''}, which is not "
        "followed",
        hint=hint,
    )


def _host(location: str) -> str:
    try:
        return urlsplit(location).hostname or ""
    except ValueError:
        return ""


def _off(skew: float) -> str:
    return f"this machine's clock is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}"


def _clock_skew(reply: Reply, attempt: Attempt, tolerance: float = CLOCK_TOLERANCE) -> float | None:
    """Return how far our clock is ahead of the issuer's `Date` header, when that is enough to spoil what we signed."""
    theirs = http_date(reply.headers.get("date", ""))
    if theirs is None:
        return None
    skew = attempt.started.wall - theirs
    return skew if abs(skew) > tolerance else None
