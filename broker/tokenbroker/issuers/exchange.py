"""The values of one exchange with an issuer: what was attempted and what came back.

Rules of this file:
1. Pure: no I/O, no clock.
2. What an issuer wrote is hostile text until `scrub` has seen it: it may echo secrets or steer a terminal.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from html import unescape
from typing import TYPE_CHECKING, Any, Final, NoReturn
from urllib.parse import unquote_plus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tokenbroker.model import Instant, Secret

SHOWN: Final = 200  # characters of an issuer's own words that reach a person
EXAMINED: Final = 2048  # characters of them that are looked at
RUN: Final = 8  # characters in a row that words may not share with a secret; a shorter secret counts as a whole
_ROUNDS: Final = 8  # times that words may have been encoded, one encoding within another
_SHORTEST: Final = 4  # characters that a secret must have when its punctuation is taken away
_JWT_LIKE = re.compile(r"eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)*")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|x([0-9a-fA-F]{2})|([nrtbfv])|(.))", re.DOTALL)
_DROPPED = re.compile(r"[\s+\\]+")


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


def scrub(text: str, secrets: Sequence[Secret], limit: int = SHOWN) -> str:
    """Make an issuer's words fit to show: printable, on one line, short, and without JWTs.

    Nothing is left of words that repeat one of `secrets`, or `RUN` characters of it, in whatever encoding.
    """
    words = _spellings(text[:EXAMINED])
    if secrets and any(_echoes(words, _spellings(secret.reveal())) for secret in secrets):
        return "…"
    return _cut(_JWT_LIKE.sub("…", words[0]), limit).strip()


def repeats(text: str, secret: Secret) -> bool:
    """Tell whether the whole of `secret` stands in `text`, in whatever encoding."""
    whole = secret.reveal()
    plain = _plain(whole)
    return whole in text or (len(plain) >= _SHORTEST and plain in _plain(text))


def _spellings(text: str) -> tuple[str, str, str]:
    """Return a text as it is shown, decoded, and without what is not ASCII, which broken programs write in many ways."""
    plain = _plain(text)
    return _one_line(text), plain, plain.encode("ascii", "ignore").decode()


def _echoes(words: tuple[str, str, str], secret: tuple[str, str, str]) -> bool:
    shown, plain, _ = secret
    if shown and len(shown) < RUN and shown in words[0]:
        return True
    if len(plain) < RUN:
        return _share(words[0], shown) or (len(plain) >= _SHORTEST and plain in words[1])
    return any(
        _share(_only(said, hidden) if decoded else said, hidden)
        for decoded, (said, hidden) in enumerate(zip(words, secret, strict=True))
    )


def _share(words: str, secret: str) -> bool:
    """Tell whether two texts have `RUN` characters in a row in common. Linear in both."""
    runs = {words[at : at + RUN] for at in range(len(words) - RUN + 1)}
    return bool(runs) and any(secret[at : at + RUN] in runs for at in range(len(secret) - RUN + 1))


def _only(words: str, secret: str) -> str:
    """Take away what does not occur in the secret, with which an echo may be broken up."""
    known = set(secret)
    return "".join(char for char in words if char in known)


def _plain(text: str) -> str:
    """Undo what texts are encoded with in forms, JSON, programs and pages; without blanks, which each may add."""
    for _ in range(_ROUNDS):
        before, text = text, _ESCAPE.sub(_unescaped, unescape(unquote_plus(text)))
        if text == before:
            break
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")  # JSON writes two for one
    folded = _DROPPED.sub("", whole).casefold()
    return folded if folded.isprintable() else "".join(char for char in folded if char.isprintable())


def _unescaped(match: re.Match[str]) -> str:
    digits = match[1] or match[2] or match[3]
    if digits is None:
        return " " if match[4] else str(match[5])
    return chr(code) if (code := int(digits, 16)) <= 0x10FFFF else ""  # noqa: PLR2004  # the last of Unicode


def _cut(text: str, limit: int) -> str:
    """Shorten at the last word that fits whole, unless that would lose half."""
    if len(text) <= limit:
        return text
    kept = text[: limit - 1]
    whole = kept.rstrip() if text[limit - 1] == " " else kept.rpartition(" ")[0]
    return f"{(whole if len(whole) > limit // 2 else kept).rstrip(' ,;:(')}…"


def _one_line(text: str) -> str:
    if not text.isprintable():
        seen = (char for char in text if unicodedata.category(char) != "Cf")  # turns the text's direction, or splits it
        text = "".join(char if char.isprintable() else " " for char in seen)
    return " ".join(text.split())


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise AmbiguousJson("a key is repeated")
    return found


def _no_constant(_: str) -> NoReturn:
    raise AmbiguousJson("NaN and Infinity are not JSON")
