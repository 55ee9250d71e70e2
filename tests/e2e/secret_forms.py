"""The ways in which a secret may be written down, so that a search finds it however it got there."""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.e2e.watcher import Sight

SHORTEST = 10  # characters; anything shorter may be found by chance


def forms(secret: str) -> set[bytes]:
    """Return a secret plain, in a URL, in a form, in JSON, in Python, in hexadecimal and in base64, as in Basic."""
    texts = {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1]}
    texts |= {json.dumps(secret)[1:-1].replace("/", "\\/"), repr(secret)[1:-1], ascii(secret)[1:-1]}
    texts |= {re.sub(r"%[0-9A-F]{2}", lambda code: code[0].lower(), text) for text in texts}
    found = {text.encode() for text in texts}
    for raw in (secret.encode(), quote_plus(secret).encode()):
        found |= {raw.hex().encode(), raw.hex().upper().encode(), *_base64(raw)}
    return found


def _base64(raw: bytes) -> Iterator[bytes]:
    """Yield what base64 makes of `raw` wherever it stands in a longer text, without the ends, which others share."""
    for before in range(3):
        text = base64.b64encode(bytes(before) + raw)
        middle = text[4 if before else 0 : -4]
        yield from (middle, middle.replace(b"+", b"-").replace(b"/", b"_"))


def parts(token: str) -> Iterator[str]:
    """Yield a token, and of a JWT the payload, which tells, and the signature, which proves."""
    yield token
    yield from (part for part in token.split(".")[1:] if len(part) >= SHORTEST)


def lines(pem: str) -> Iterator[str]:
    """Yield the lines of a PEM key that hold it, and all of them as one."""
    body = [line for line in pem.splitlines() if line and not line.startswith("-----")]
    yield from (line for line in body if len(line) >= SHORTEST)
    yield "".join(body)


class Search:
    """Looks for secrets, each of which has a name that may be shown."""

    def __init__(self) -> None:
        self._forms: dict[bytes, str] = {}
        self._codes: set[str] = set()

    def secret(self, name: str, texts: Iterable[str]) -> None:
        """Look for each of `texts` in all its forms."""
        for text in texts:
            assert len(text) >= SHORTEST, name
            self._forms |= dict.fromkeys(forms(text), name)

    def code(self, digits: str) -> None:
        """Look for a one-time password where it stands alone: as part of a longer number it is there by chance."""
        assert digits.isdigit()
        self._codes.add(digits)

    @property
    def names(self) -> set[str]:
        """What is looked for."""
        return set(self._forms.values()) | ({"one-time password"} if self._codes else set())

    def in_text(self, text: bytes) -> set[str]:
        """Return the names of the secrets in `text`."""
        found = {name for form, name in self._forms.items() if form in text}
        codes = "|".join(self._codes).encode()
        alone = codes and re.search(rb"(?<![0-9a-zA-Z.])(?:%s)(?![0-9a-zA-Z.])" % codes, text)
        return found | ({"one-time password"} if alone else set())

    def in_sights(self, sights: Iterable[Sight]) -> set[str]:
        """Return a line for each secret that was seen."""
        return {f"{name} in {sight.what} of {sight.where}" for sight in sights for name in self.in_text(sight.data)}
