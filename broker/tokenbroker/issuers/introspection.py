"""What an issuer says that a token holds: the answer of its introspection endpoint (RFC 7662 §2.2). Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tokenbroker.errors import PASSING, IssuerUnavailable
from tokenbroker.issuers.exchange import strict_object
from tokenbroker.scrub import repeats

if TYPE_CHECKING:
    from tokenbroker.issuers.exchange import Attempt, Reply
    from tokenbroker.model import Secret

_OK: Final = 200
_UNABLE: Final = 500


class Untold(Exception):
    """The issuer does not say; the text says why, in a few words."""

    def __init__(self, why: str, *, passes: bool = False) -> None:
        """Say why; `passes`: whether it may say so later."""
        super().__init__(why)
        self.passes = passes


def read(reply: Reply, token: Secret, attempt: Attempt) -> dict[str, Any]:
    """Return what `token` holds, without `active` and without what repeats the token itself.

    Raises `Untold`, and `IssuerUnavailable` for a token that is not active.
    """
    if reply.status != _OK:
        raise Untold(_refused(reply), passes=reply.status >= _UNABLE)
    if reply.unreadable is not None:
        raise Untold(f"it sent {reply.unreadable}")
    try:
        told = strict_object(reply.body)
    except (ValueError, TypeError):
        raise Untold("the answer is no clear JSON object") from None
    active = told.pop("active", None)
    if active is False:
        raise IssuerUnavailable(
            f"{attempt.subject} says that the token which it has just issued is not active",
            hint="try again in a moment; if it stays so, the client may not ask about its own tokens: let it at the "
            f'issuer, or set introspection = "never" in [issuers.{attempt.issuer}]',
            retry_after=PASSING,  # a replica that lags behind; asking for yet another token would not help
        )
    if active is not True:
        raise Untold("the answer does not say whether the token is active")
    return {name: value for name, value in told.items() if not _holds(value, token)}


def _holds(value: Any, token: Secret) -> bool:
    """Tell whether a member is, or quotes, the token: some issuers give an opaque token as its own `jti`."""
    return repeats(value if isinstance(value, str) else repr(value), token)


def _refused(reply: Reply) -> str:
    """Return the status, and the error code where it is one that is told apart."""
    try:
        code = strict_object(reply.body).get("error")
    except (ValueError, TypeError):
        code = None
    known = {"unsupported_token_type", "invalid_client", "unauthorized_client", "access_denied", "invalid_request"}
    return f"{reply.status} {code}" if isinstance(code, str) and code in known else str(reply.status)
