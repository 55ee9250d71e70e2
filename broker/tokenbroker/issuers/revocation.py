"""What an issuer's answer to a revocation means (RFC 7009). Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tokenbroker.issuers.exchange import strict_object
from tokenbroker.issuers.problems import refusal
from tokenbroker.model import Revocation

if TYPE_CHECKING:
    from tokenbroker.issuers.exchange import Attempt, Reply

_DONE: Final = frozenset({200, 204})
_ABSENT: Final = frozenset({404, 405, 501})
_REFUSED: Final = 400


def revoked(reply: Reply, attempt: Attempt) -> Revocation:
    """Say whether the token was revoked (RFC 7009 §2.2). Raises the errors of `Issuer.issue`.

    A token that the issuer does not know is answered like one that it revoked.
    """
    if reply.status in _DONE:
        return Revocation.REVOKED
    if reply.status in _ABSENT or (reply.status == _REFUSED and _said(reply) == "unsupported_token_type"):
        return Revocation.UNSUPPORTED  # RFC 7009 §2.2.1; an endpoint that is announced and not there
    raise refusal(reply, attempt)


def _said(reply: Reply) -> object:
    try:
        return strict_object(reply.body).get("error")
    except (ValueError, TypeError):
        return None
