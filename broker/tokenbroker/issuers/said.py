"""What an issuer says in a refusal: its code, its words and the id by which its support finds the request.

Rules of this file:
1. Pure; bounded, and scrubbed of secrets: a refusal may echo the request.
2. RFC 6749 §5.2 first; then the shapes that products use instead, of which only JSON members with known names are read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tokenbroker.issuers.exchange import strict_object
from tokenbroker.model import Secret
from tokenbroker.scrub import scrub

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tokenbroker.issuers.exchange import Attempt, Reply

# In order: the RFC's, Stytch, Descope and Okta, Zitadel, PingOne and WorkOS.
_CODES: Final = ("error", "error_type", "errorCode", "code")
# In order: the RFC's, Stytch, Descope, Okta, RFC 9457, AWS and GitHub and PingOne.
_WORDS: Final = ("error_description", "error_message", "errorDescription", "errorSummary", "detail", "message")
# In order: Entra, PingOne, Stytch, Okta.
_BODY_IDS: Final = ("trace_id", "correlation_id", "correlationId", "request_id", "errorId")
_HEADER_IDS: Final = (
    "x-request-id", "x-correlation-id", "x-okta-request-id", "x-ms-request-id", "x-amzn-requestid",
    "x-amzn-request-id", "x-github-request-id", "cf-ray",
)  # fmt: skip
_IDS: Final = 128  # characters of two ids
_REGISTERED: Final = frozenset(
    {
        "invalid_request", "invalid_client", "invalid_grant", "invalid_scope", "invalid_target", "invalid_token",
        "unauthorized_client", "unsupported_grant_type", "access_denied", "server_error", "temporarily_unavailable",
        "slow_down", "use_dpop_nonce", "invalid_dpop_proof",
    }
)  # fmt: skip
"""Codes that tell nothing of a secret, even if somebody's secret is the word `client`."""
_CODE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_ID = re.compile(r"[A-Za-z0-9_.:=+/@-]{6,128}")
_AADSTS = re.compile(r"AADSTS(\d{4,9})")
_ENTRA_TAIL: Final = "Trace ID: "


@dataclass(frozen=True, slots=True)
class Said:
    """The parts of a refusal that may be looked at."""

    code: str | None = None
    description: str = ""
    entra: frozenset[int] = frozenset()
    """Entra's AADSTS numbers."""
    id: str | None = None
    """Name and value, e.g. `x-request-id 8a7f…`, unless the words have it."""

    def __str__(self) -> str:
        """Give code, words and id as they are put into a message."""
        words = self.code or "no error code"
        if self.description:
            words += f" ({self.description.rstrip('.')})"
        return words + self.tail

    @property
    def tail(self) -> str:
        """The id alone, to end a message with."""
        return f", {self.id}" if self.id else ""


def read(reply: Reply, attempt: Attempt) -> Said:
    """Return what a refusal says."""
    try:
        body = strict_object(reply.body)
    except (ValueError, TypeError):
        body = {}
    token = body.get("access_token")  # beside an error it is nonsense, and still must not be shown
    hidden = (*attempt.secrets, Secret(token)) if isinstance(token, str) else attempt.secrets
    nested = body.get("error")
    told = {**nested, **body} if isinstance(nested, dict) else body  # Google: {"error": {"message": …, "status": …}}
    words = next((word for name in _WORDS if isinstance(word := told.get(name), str)), "")
    description = scrub(words.partition(_ENTRA_TAIL)[0], hidden)
    code = _first((told.get(name) for name in (*_CODES, "status")), _CODE, hidden)
    return Said(
        code=None if code is None or code.isdigit() else code,
        description=description,
        entra=_entra_codes(body, words),
        id=_identity(body, reply.headers, description, hidden),
    )


def _identity(
    body: Mapping[str, Any], headers: Mapping[str, str], description: str, hidden: Sequence[Secret]
) -> str | None:
    """Return the body's ids, Entra's two if both fit, or else a header's."""
    named = _ids(_BODY_IDS, body, hidden) or _ids(_HEADER_IDS, headers, hidden)[:1]
    told = [f"{name} {value}" for name, value in named[:2] if value not in description]
    return ", ".join(told if len(", ".join(told)) <= _IDS else told[:1]) or None


def _ids(names: Sequence[str], source: Mapping[str, Any], hidden: Sequence[Secret]) -> list[tuple[str, str]]:
    found = ((name, _first([source.get(name)], _ID, hidden)) for name in names)
    return [(name, value) for name, value in found if value is not None]


def _first(values: Iterable[Any], shape: re.Pattern[str], hidden: Sequence[Secret]) -> str | None:
    """Return the first that is fit to show; one that holds what must be hidden is none."""
    for value in values:
        if not isinstance(value, str) or not shape.fullmatch(value):
            continue
        if value in _REGISTERED or scrub(value, hidden) == value:
            return value
    return None


def _entra_codes(body: Mapping[str, Any], words: str) -> frozenset[int]:
    listed = body.get("error_codes")
    codes = {item for item in listed if type(item) is int} if isinstance(listed, list) else set()
    return frozenset(codes | {int(digits) for digits in _AADSTS.findall(words)})
