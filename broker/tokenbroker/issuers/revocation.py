"""What an issuer's answer to a revocation means (RFC 7009)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenbroker.issuers.problems import refusal
from tokenbroker.model import Revocation

if TYPE_CHECKING:
    from tokenbroker.issuers.exchange import Attempt, Reply


def revoked(reply: Reply, attempt: Attempt) -> Revocation:
    """Say whether the token was revoked (RFC 7009 §2.2). Raises the errors of `Issuer.issue`."""
    if reply.status == 200:  # noqa: PLR2004
        return Revocation.REVOKED
    raise refusal(reply, attempt)
