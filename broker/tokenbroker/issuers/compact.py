"""A JWT's text, read and not believed: header and claims of the compact form (RFC 7515 §3.1, RFC 7519 §3). Pure."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenbroker.issuers.exchange import AmbiguousJson, strict_object

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Jwt:
    """What a JWT says of itself. Whoever made it may have written anything."""

    header: Mapping[str, Any]
    """`alg` is a text; all else is as it came."""
    claims: dict[str, Any]
    signed: bool
    """Whether there is a signature at all, good or bad (RFC 7519 §6)."""

    @property
    def alg(self) -> str:
        """The algorithm of the signature (RFC 7518 §3.1)."""
        return str(self.header["alg"])

    @property
    def kid(self) -> str | None:
        """The name of the key, if it has one (RFC 7515 §4.1.4)."""
        kid = self.header.get("kid")
        return kid if isinstance(kid, str) else None


def read(token: str) -> Jwt | None:
    """Read a JWT; `None` for any other token, an encrypted JWT of five parts (RFC 7516 §3.1) among them.

    Raises `AmbiguousJson` for one whose claims would pass unseen if it were taken for opaque: a JWT by its header that
    is not clear JSON all through.
    """
    parts = token.split(".")
    if len(parts) != 3:  # noqa: PLR2004  # header, payload, signature
        return None
    try:
        header = strict_object(_unbase64(parts[0]))
    except AmbiguousJson:
        raise
    except (ValueError, TypeError):
        return None
    if not isinstance(header.get("alg"), str):
        return None
    try:
        claims = strict_object(_unbase64(parts[1]))
    except AmbiguousJson:
        raise
    except (ValueError, TypeError):
        raise AmbiguousJson("its claims are no JSON object") from None
    return Jwt(header, claims, signed=bool(parts[2]) and header["alg"].lower() != "none")


def _unbase64(part: str) -> bytes:
    try:
        return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise ValueError("not base64url") from None
