"""The values of one exchange with an issuer: what was attempted and what came back.

Rules of this file:
1. Pure: no I/O, no clock.
2. What an issuer wrote is hostile text until `scrub` has seen it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NoReturn

from tokenbroker.scrub import scrub

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenbroker.model import Instant, Secret


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer, read within bounds. Header names are lower case; of repeated headers the first counts."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    oversize: bool = False
    """The body was larger than the cap; `body` is then empty, and the status is all that is known."""

    @property
    def unreadable(self) -> str | None:
        """Say what the body is when it cannot be looked at: too large, or packed though nobody asked for that.

        A few kilobytes of gzip can unpack to hundreds of megabytes.
        """
        encoding = self.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in {"", "identity"}:
            return f"a compressed answer ({scrub(encoding, (), 20)})"
        return "an answer of more than 64 KiB" if self.oversize else None


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
    beyond_ascii: bool = False
    """Whether Basic had characters to carry about whose encoding issuers differ."""
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

    A byte order mark is ignored (RFC 8259 §8.1). Raises `AmbiguousJson`; `TypeError` for JSON that is no object;
    another `ValueError` for text that is no JSON.
    """
    try:
        parsed = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_unique, parse_constant=_no_constant)
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


def issuer_now(headers: Mapping[str, str], ours: float) -> float:
    """Return the time by the issuer's own clock, the answer's `Date`, or else by `ours`; epoch seconds."""
    theirs = http_date(headers.get("date", ""))
    return ours if theirs is None else theirs


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise AmbiguousJson("a key is repeated")
    return found


def _no_constant(_: str) -> NoReturn:
    raise AmbiguousJson("NaN and Infinity are not JSON")
