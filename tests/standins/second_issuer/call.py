"""One request as it came, read strictly."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from tests.standins.second_issuer import jose
from tests.standins.second_issuer.refusals import Refused

if TYPE_CHECKING:
    from cryptography import x509

REPEATABLE = frozenset({"resource", "audience"})
"""RFC 8693 §2.1 and RFC 8707 §2 let these appear more than once; RFC 6749 §3.2 forbids it for all others."""
ENCODED = re.compile(r"(?:[A-Za-z0-9*._~+-]|%[0-9A-Fa-f]{2})*")
"""What `application/x-www-form-urlencoded` may consist of, for one name or value."""


@dataclass(frozen=True)
class Call:
    """A recorded request. Header names are lower case, and each header is there as often as it was sent."""

    method: str
    path: str
    url: str
    """Scheme, host and path, as the client wrote them; no query."""
    headers: list[tuple[str, str]]
    body: bytes
    certificate: x509.Certificate | None = field(default=None, repr=False)

    @property
    def thumbprint(self) -> str | None:
        """SHA-256 thumbprint of the client's certificate, as in `cnf`."""
        return jose.x5t_s256(self.certificate) if self.certificate else None

    def header(self, name: str) -> list[str]:
        """Return the header as often as it was sent."""
        return [value for known, value in self.headers if known == name]

    def one(self, name: str) -> str | None:
        """Return a header that may be sent once."""
        values = self.header(name)
        if len(values) > 1:
            raise Refused("malformed", f"{name} was sent {len(values)} times")
        return values[0] if values else None

    @property
    def form(self) -> list[tuple[str, str]]:
        """The form as pairs, in order; refused where it is not properly encoded."""
        if (self.one("content-type") or "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
            raise Refused("malformed", "the body is not a form")
        try:
            fields = self.body.decode("ascii").split("&") if self.body else []
        except UnicodeDecodeError as error:
            raise Refused("malformed", "a form has ASCII characters only") from error
        return [_pair(text) for text in fields]

    def parameters(self) -> Parameters:
        return Parameters(self.form)


def form_decode(text: str) -> str:
    """Decode one name or value; `ValueError` if it was not encoded, or is not UTF-8."""
    if not ENCODED.fullmatch(text):
        raise ValueError("not form-urlencoded")
    return unquote_to_bytes(text.replace("+", " ")).decode()


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    try:
        return form_decode(name), form_decode(value)
    except ValueError as error:
        raise Refused("malformed", f"a form field {name[:20]!r} is not properly encoded") from error


class Parameters:
    """The form's fields; one without a value is as good as absent (RFC 6749 §3.2)."""

    def __init__(self, form: list[tuple[str, str]]) -> None:
        self._pairs = [(name, value) for name, value in form if value]
        names = [name for name, _ in form if name not in REPEATABLE]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise Refused("malformed", f"twice: {', '.join(sorted(twice))}")

    def get(self, name: str) -> str | None:
        values = self.all(name)
        return values[0] if values else None

    def all(self, name: str) -> list[str]:
        return [value for known, value in self._pairs if known == name]

    def need(self, name: str) -> str:
        """Return a field that must be there."""
        value = self.get(name)
        if value is None:
            raise Refused("malformed", f"{name} is missing")
        return value
