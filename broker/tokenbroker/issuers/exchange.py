"""The values of one exchange with an issuer: what was attempted and what came back.

Rules of this file:
1. Pure: no I/O, no clock.
2. What an issuer wrote is hostile text until `scrub` has seen it: it may echo secrets or steer a terminal.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tokenbroker.model import Instant, Secret

SHOWN: Final = 200  # characters of an issuer's own words that reach a person
_JWT_LIKE = re.compile(r"eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)*")


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer, read within bounds. Header names are lower case; of repeated headers the first counts."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    oversize: bool = False
    """The body was larger than the cap; `body` is then empty, and the status is all that is known."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What was tried, so that an error can name it and an echo of it can be removed."""

    issuer: str
    """The name in the configuration, `[issuers.NAME]`."""
    host: str
    started: Instant
    """When the request was started."""
    auth: str = ""
    grant: str = "client_credentials"
    scopes: tuple[str, ...] = ()
    audience: str | None = None
    resource: str | None = None
    dpop: bool = False
    """Whether a token bound to a key was asked for (RFC 9449)."""
    other_encoding: str | None = None
    """The `basic_encoding` that would have sent other bytes; `None` when it makes no difference."""
    auth_methods: tuple[str, ...] = ()
    """The methods that the issuer's metadata names and we know (RFC 8414 §2); empty: none is known."""
    secrets: tuple[Secret, ...] = field(default=())
    """Everything that was sent and must not be seen in an error."""

    @property
    def subject(self) -> str:
        """How messages name the issuer."""
        return f"issuer `{self.issuer}` ({self.host})"


class AmbiguousJson(ValueError):
    """Well-formed text that two parsers may read differently: a repeated key, NaN, Infinity."""


def strict_object(data: bytes) -> dict[str, Any]:
    """Parse a JSON object as every parser would.

    Raises `AmbiguousJson`; `TypeError` for JSON that is no object; another `ValueError` for text that is no JSON.
    """
    try:
        parsed = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
        # A lone surrogate is valid JSON but no text: it would fail wherever the value is written.
        json.dumps(parsed, ensure_ascii=False).encode()
    except RecursionError:
        raise AmbiguousJson("nested too deeply") from None
    if not isinstance(parsed, dict):
        raise TypeError("not an object")
    return parsed


def web_page(reply: Reply) -> bool:
    """Tell whether the body is a page for people, as captive portals and company proxies send."""
    return reply.body.lstrip().startswith(b"<") and not reply.body.lstrip().startswith(b"<?xml")  # S3's "AccessDenied"


def http_date(value: str) -> float | None:
    """Return the epoch second that an HTTP date names (RFC 9110 §5.6.7); `None` for anything else."""
    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def scrub(text: str, secrets: Sequence[Secret], limit: int = SHOWN) -> str:
    """Make an issuer's words fit to show: printable, on one line, short, without `secrets` and without JWTs."""
    clean = _one_line(text)
    hidden = {_one_line(secret.reveal()) for secret in secrets} - {""}
    for each in sorted(hidden, key=len, reverse=True):
        clean = clean.replace(each, "…")
    return _cut(_JWT_LIKE.sub("…", clean), limit).strip()


def _cut(text: str, limit: int) -> str:
    """Shorten at the last word that fits whole, unless that would lose half."""
    if len(text) <= limit:
        return text
    kept = text[: limit - 1]
    whole = kept.rstrip() if text[limit - 1] == " " else kept.rpartition(" ")[0]
    return f"{(whole if len(whole) > limit // 2 else kept).rstrip(' ,;:(')}…"


def _one_line(text: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise AmbiguousJson("a key is repeated")
    return found


def _no_constant(_: str) -> NoReturn:
    raise AmbiguousJson("NaN and Infinity are not JSON")
