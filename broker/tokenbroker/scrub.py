"""What others wrote, made fit to show: it may echo secrets, in whatever encoding, or steer a terminal. Pure.

Bounded in time whatever it is given: words are cut before they are looked at.
"""

from __future__ import annotations

import re
import unicodedata
from html import unescape
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_plus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenbroker.model import Secret

SHOWN: Final = 200  # characters of an issuer's own words that reach a person
EXAMINED: Final = 2048  # characters of them that are looked at
RUN: Final = 8  # characters in a row that words may not share with a secret; a shorter secret counts as a whole
_ROUNDS: Final = 8  # times that words may have been encoded, one encoding within another
_SHORTEST: Final = 4  # characters; anything shorter is no secret, and part of many words
_JWT_LIKE = re.compile(r"eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)*")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|x([0-9a-fA-F]{2})|([nrtbfv])|(.))", re.DOTALL)
_DROPPED = re.compile(r"[\s+\\]+")


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
    """Return a text as it is shown, decoded, and of that what is ASCII, the rest of which programs often break."""
    plain = _plain(text)
    return _one_line(text), plain, plain.encode("ascii", "ignore").decode()


def _echoes(words: tuple[str, str, str], secret: tuple[str, str, str]) -> bool:
    shown, plain, _ = secret
    if len(shown) < _SHORTEST:
        return False
    if len(shown) < RUN and shown in words[0]:
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
