"""What an issuer's success means: bytes become an `IssuerAnswer`, or an error, and nothing in between.

Rules of this file:
1. Pure: no I/O, no clock.
2. Never believed to last for ever: without a usable lifetime a token gets the default, and never more than the maximum.
3. The token's text is in no error.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from tokenbroker.claims import finite
from tokenbroker.errors import IssuerMisconfigured, IssuerUnavailable, TokenMismatch
from tokenbroker.issuers import compact
from tokenbroker.issuers.exchange import AmbiguousJson, http_date, strict_object
from tokenbroker.issuers.problems import refusal
from tokenbroker.model import Checked, IssuerAnswer, Secret
from tokenbroker.scrub import scrub

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenbroker.errors import IssuerError
    from tokenbroker.issuers.exchange import Attempt, Reply
    from tokenbroker.model import ProofKey

MAX_TOKEN: Final = 16384  # characters; the socket's limit too (tokenbroker_client.wire)
_TOKEN = re.compile(rf"[\x21-\x7e]{{1,{MAX_TOKEN}}}")  # stricter than RFC 6750 §2.1: what fits in a header
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,1024}")  # scope-token, RFC 6749 §3.3
_DIGITS = re.compile(r"[0-9]{1,12}")
_OK: Final = 200
BEGINS_WITHIN: Final = 60.0  # seconds by which a token may begin later than it came
BEARER: Final = "Bearer"
DPOP: Final = "DPoP"


def parse(
    reply: Reply, attempt: Attempt, *, default_ttl: float, max_ttl: float, proof_key: ProofKey | None = None
) -> IssuerAnswer:
    """Read a token endpoint's answer (RFC 6749 §5.1); lifetimes are seconds from the start of the request.

    The content type is ignored: issuers send JSON as text, and text as JSON. Raises the errors of `Issuer.issue`.
    """
    if reply.status != _OK:
        raise refusal(reply, attempt)
    answer = _object(reply, attempt)
    if "access_token" not in answer and "error" in answer:
        raise refusal(reply, attempt)  # some refuse with 200
    token = _token(answer.get("access_token"), attempt)
    claims = _claims(token, attempt)
    check_begun(claims or {}, reply, attempt)
    return IssuerAnswer(
        access_token=Secret(token),
        token_type=_type(
            answer.get("token_type", BEARER), token, attempt, wanted=BEARER if proof_key is None else DPOP
        ),
        lifetime=_lifetime(answer.get("expires_in"), claims, reply, attempt, default_ttl=default_ttl, max_ttl=max_ttl),
        scope=_scope(answer.get("scope"), attempt),
        claims=claims,
        checked=Checked.NOTHING if claims is None else Checked.CLAIMS,
        proof_key=proof_key,
        issued_type=answer.get("issued_token_type"),
    )


def confirm(answer: IssuerAnswer, attempt: Attempt) -> None:
    """Check that the token is bound to our key, as far as its claims say (RFC 9449 §6). Raises `TokenMismatch`.

    A JWT must say so itself (§6.1); what introspection leaves out says nothing.
    """
    if answer.proof_key is None or answer.claims is None:
        return
    bound = answer.claims.get("cnf")
    found = bound.get("jkt") if isinstance(bound, dict) else None
    wanted = answer.proof_key.thumbprint
    if found == wanted or (found is None and answer.checked is Checked.INTROSPECTION):
        return
    shown = "absent" if found is None else scrub(str(found), (*attempt.secrets, answer.access_token), 60)
    raise TokenMismatch(
        f"{attempt.subject} sent a DPoP token whose cnf.jkt is {shown}, the thumbprint of our key is {wanted}",
        hint="ask whoever runs the issuer: it does not bind tokens to the key of the proof (RFC 9449 §6)",
    )


def _object(reply: Reply, attempt: Attempt) -> dict[str, Any]:
    if reply.unreadable is not None:
        raise _wrong(attempt, f"sent {reply.unreadable}")
    text = reply.body.strip()
    if text.startswith(b"<"):
        raise _wrong(attempt, "answered with a web page instead of a token, as captive portals and company proxies do")
    try:
        return strict_object(text)
    except AmbiguousJson as error:
        raise _wrong(attempt, f"sent ambiguous JSON: {error}") from None
    except TypeError:
        raise _wrong(attempt, "answered with JSON that is no object") from None
    except ValueError:
        cut_short = not text or text.startswith(b"{")
    if cut_short:
        raise IssuerUnavailable(f"{attempt.subject} sent an answer that is cut short or garbled")
    raise _wrong(attempt, "answered with something that is no JSON")


def _token(value: Any, attempt: Attempt) -> str:
    if not isinstance(value, str):
        raise _wrong(attempt, "answered without an access token")
    if not _TOKEN.fullmatch(value):
        raise _wrong(attempt, f"sent a token that no header can carry (control characters, or over {MAX_TOKEN} long)")
    return value


def _type(value: Any, token: str, attempt: Attempt, *, wanted: str) -> str:
    """Return the type that was asked for, if it is the one that came, in any case (RFC 6749 §7.1).

    Bearer for DPoP is a downgrade: whoever steals that token can use it (RFC 9449 §5). DPoP for Bearer is of no use.
    """
    if isinstance(value, str) and value.lower() == wanted.lower():
        return wanted
    if value == "N_A":
        raise IssuerMisconfigured(
            f"{attempt.subject} sent a token that is no access token (token_type N_A, RFC 8693 §2.2.1)",
            hint='set requested_token_type = "access_token" in [clients], or leave it out',
        )
    named = scrub(value, (*attempt.secrets, Secret(token)), 40) if isinstance(value, str) else "unknown"
    if wanted == DPOP:
        raise TokenMismatch(
            f"{attempt.subject} sent a token of type {named}, asked was {DPOP}",
            hint="turn DPoP on for this client at the issuer, or set dpop = false in [clients]",
        )
    if named.lower() == DPOP.lower():
        hint = "set dpop = true in [clients], or turn DPoP off for this client at the issuer"
    else:
        hint = "turn off for this client, at the issuer, what makes its tokens something else than Bearer"
    raise IssuerMisconfigured(f"{attempt.subject} sent a token of type {named}, asked was {BEARER}", hint=hint)


def _scope(value: Any, attempt: Attempt) -> tuple[str, ...] | None:
    """Return the granted scopes, sorted; absent or of an unknown shape is `None`."""
    names = value.split(" ") if isinstance(value, str) else value  # some send a list
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    granted = {name for name in names if name}
    if not all(_SCOPE.fullmatch(name) for name in granted):
        raise _wrong(attempt, "granted a scope with characters that RFC 6749 §3.3 forbids")
    return tuple(sorted(granted))


def _lifetime(
    expires_in: Any,
    claims: dict[str, Any] | None,
    reply: Reply,
    attempt: Attempt,
    *,
    default_ttl: float,
    max_ttl: float,
) -> float:
    """Return the shorter of what the answer and the JWT say: the API believes the JWT, a cached JWT is partly used."""
    by_jwt = told_lifetime(claims or {}, reply, attempt)
    said = [seconds for seconds in (_seconds(expires_in), by_jwt) if seconds is not None]
    return min(*said, default_ttl if not said else max_ttl, max_ttl)


def told_lifetime(claims: Mapping[str, Any], reply: Reply, attempt: Attempt) -> float | None:
    """Return what is left until a token's `exp` (RFC 7519 §4.1.4, RFC 7662 §2.2), at most what its `iat` gave it.

    An issuer may hand out a token that it minted a while ago. What is left of it is told by the issuer's own clock, the
    answer's `Date`, and by ours; of two that leave anything the one that leaves less is believed. Raises
    `IssuerUnavailable` when by all there are it has expired, if the issuer's own is among them.
    """
    expiry, issued = finite(claims.get("exp")), finite(claims.get("iat"))
    if expiry is None:
        return None
    theirs = http_date(reply.headers.get("date", ""))
    left = [expiry - now for now in (theirs, attempt.started.wall) if now is not None]
    if theirs is not None and max(left) <= 0:
        raise IssuerUnavailable(f"{attempt.subject} sent a token that has already expired")
    given = [] if issued is None else [expiry - issued]
    return _at_least_one(min([*given, *(seconds for seconds in left if seconds > 0)], default=0.0))


def check_begun(claims: Mapping[str, Any], reply: Reply, attempt: Attempt) -> None:
    """Refuse a token that is not valid yet (RFC 7519 §4.1.5), by the issuer's own clock and by ours.

    Without the answer's `Date` nothing is refused: our clock alone may be slow. Raises `TokenMismatch`.
    """
    theirs = http_date(reply.headers.get("date", ""))
    begins = {name: begin for name in ("iat", "nbf") if (begin := finite(claims.get(name))) is not None}
    if theirs is None or not begins:
        return
    name = max(begins, key=begins.__getitem__)
    if begins[name] > max(theirs, attempt.started.wall) + BEGINS_WITHIN:
        raise TokenMismatch(
            f"{attempt.subject} sent a token that is not valid yet: its {name} is {begins[name]:.15g}, "
            f"the time there is {theirs:.0f}",
            hint="check the issuer's clock, or whoever runs the issuer: its tokens begin later than it hands them out",
        )


def _seconds(value: Any) -> float | None:
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    number = finite(value)
    return None if number is None else _at_least_one(number)


def _at_least_one(seconds: float) -> float | None:
    return seconds if seconds >= 1 else None


def _claims(token: str, attempt: Attempt) -> dict[str, Any] | None:
    """Return a JWT's payload, unverified, or `None` for a token that is no JWT (RFC 7519 §3)."""
    try:
        jwt = compact.read(token)
    except AmbiguousJson as error:
        raise _wrong(attempt, f"sent a JWT of ambiguous JSON: {error}") from None
    return None if jwt is None else jwt.claims


def _wrong(attempt: Attempt, what: str) -> IssuerError:
    return IssuerMisconfigured(
        f"{attempt.subject} {what}",
        hint=f"check url or token_endpoint in [issuers.{attempt.issuer}], then run `broker doctor`",
    )
