"""What an issuer's success means: bytes become an `IssuerAnswer`, or an error, and nothing in between.

Rules of this file:
1. Pure: no I/O, no clock.
2. Never believed to last for ever: without a usable lifetime a token gets the default, and never more than the maximum.
3. The token's text is in no error.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from typing import TYPE_CHECKING, Any, Final

from tokenbroker.errors import IssuerMisconfigured, IssuerUnavailable
from tokenbroker.issuers.exchange import AmbiguousJson, scrub, strict_object
from tokenbroker.issuers.problems import http_date, refusal
from tokenbroker.model import Checked, IssuerAnswer, Secret

if TYPE_CHECKING:
    from tokenbroker.errors import IssuerError
    from tokenbroker.issuers.exchange import Attempt, Reply
    from tokenbroker.ports import ProofKey

MAX_TOKEN: Final = 16384  # characters; the socket's limit too (tokenbroker_client.wire)
_TOKEN = re.compile(rf"[\x21-\x7e]{{1,{MAX_TOKEN}}}")  # stricter than RFC 6750 §2.1: what fits in a header
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,1024}")  # scope-token, RFC 6749 §3.3
_DIGITS = re.compile(r"[0-9]{1,12}")
_OK: Final = 200


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
    return IssuerAnswer(
        access_token=Secret(token),
        token_type=_bearer(answer.get("token_type", "Bearer"), token, attempt),
        lifetime=_lifetime(answer.get("expires_in"), claims, reply, attempt, default_ttl=default_ttl, max_ttl=max_ttl),
        scope=_scope(answer.get("scope"), attempt),
        claims=claims,
        checked=Checked.NOTHING if claims is None else Checked.CLAIMS,
        proof_key=proof_key,
    )


def _object(reply: Reply, attempt: Attempt) -> dict[str, Any]:
    encoding = reply.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        # Only identity was asked for; a few kilobytes of gzip can unpack to hundreds of megabytes.
        raise _wrong(attempt, f"sent a compressed answer ({scrub(encoding, attempt.secrets, 20)})")
    if reply.oversize:
        raise _wrong(attempt, "sent an answer of more than 64 KiB")
    text = reply.body.strip()
    if text.startswith(b"<"):
        raise _wrong(attempt, "answered with a web page instead of a token")
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


def _bearer(value: Any, token: str, attempt: Attempt) -> str:
    """Accept Bearer in any case (RFC 6749 §7.1). Tokens bound to a key are useless to whoever is handed one."""
    if isinstance(value, str) and value.lower() == "bearer":
        return "Bearer"
    named = scrub(value, (*attempt.secrets, Secret(token)), 40) if isinstance(value, str) else "unknown"
    raise IssuerMisconfigured(
        f"{attempt.subject} sent a token of type {named}, only Bearer can be handed out",
        hint="turn sender-constrained tokens (DPoP, mutual TLS) off for this client at the issuer",
    )


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
    by_jwt = _jwt_lifetime(claims or {}, reply, attempt)
    said = [seconds for seconds in (_seconds(expires_in), by_jwt) if seconds is not None]
    return min(*said, default_ttl if not said else max_ttl, max_ttl)


def _jwt_lifetime(claims: dict[str, Any], reply: Reply, attempt: Attempt) -> float | None:
    """Return what is left until the JWT's `exp` (RFC 7519 §4.1.4), at most what its `iat` gave it.

    An issuer may hand out a JWT that it minted a while ago. What is left of it is told by the issuer's own clock, the
    answer's `Date`, and by ours; of two that leave anything the one that leaves less is believed. Raises
    `IssuerUnavailable` when by all there are it has expired, if the issuer's own is among them.
    """
    expiry, issued = _finite(claims.get("exp")), _finite(claims.get("iat"))
    if expiry is None:
        return None
    theirs = http_date(reply.headers.get("date", ""))
    left = [expiry - now for now in (theirs, attempt.started.wall) if now is not None]
    if theirs is not None and max(left) <= 0:
        raise IssuerUnavailable(f"{attempt.subject} sent a token that has already expired")
    given = [] if issued is None else [expiry - issued]
    return _at_least_one(min([*given, *(seconds for seconds in left if seconds > 0)], default=0.0))


def _seconds(value: Any) -> float | None:
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    number = _finite(value)
    return None if number is None else _at_least_one(number)


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _at_least_one(seconds: float) -> float | None:
    return seconds if seconds >= 1 else None


def _claims(token: str, attempt: Attempt) -> dict[str, Any] | None:
    """Return a JWT's payload, unverified, or `None` for a token that is no JWT (RFC 7519 §3)."""
    parts = token.split(".")
    if len(parts) != 3:  # noqa: PLR2004  # header, payload, signature
        return None
    try:
        header, payload = (strict_object(_unbase64(part)) for part in parts[:2])
    except AmbiguousJson as error:
        # Taken as opaque it would pass the checks of its claims unseen.
        raise _wrong(attempt, f"sent a JWT of ambiguous JSON: {error}") from None
    except (ValueError, TypeError):
        return None
    return payload if isinstance(header.get("alg"), str) else None


def _unbase64(part: str) -> bytes:
    try:
        return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise ValueError("not base64url") from None


def _wrong(attempt: Attempt, what: str) -> IssuerError:
    return IssuerMisconfigured(
        f"{attempt.subject} {what}",
        hint=f"check url or token_endpoint in [issuers.{attempt.issuer}], then run `broker doctor`",
    )
