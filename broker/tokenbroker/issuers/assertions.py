"""Signed assertions (RFC 7519, RFC 7523 §3): whoever needs a JWT signed by the client has it made here.

Rules of this file:
1. No I/O and no clock. Signing takes milliseconds with RSA: call it off the event loop.
2. Every assertion has a `jti` of its own: issuers refuse one that they have seen (authlib's helper re-uses it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tokenbroker.errors import IssuerMisconfigured
from tokenbroker.model import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenbroker.issuers.authentication import Occasion
    from tokenbroker.issuers.keys import SigningKey

BACKDATE: Final = 10  # seconds; an issuer's clock may be behind ours


def assertion(
    key: SigningKey,
    *,
    claims: Mapping[str, Any],
    occasion: Occasion,
    algorithm: str | None = None,
    header: Mapping[str, str] | None = None,
) -> Secret:
    """Return a JWT of `claims`, signed with `key`.

    It has a fresh `jti`, an `iat` 10 s back, and an `exp` that lies `assertion_ttl` after that, each where `claims` has
    none of its own. `algorithm` is otherwise the configuration's `assertion_alg`, else the first that fits the key;
    `header` is otherwise the key's own.
    Raises `IssuerMisconfigured` for an algorithm that does not fit the key.
    """
    import jwt  # noqa: PLC0415  # 40 ms and the whole of cryptography, for clients that sign alone

    issued = int(occasion.now) - BACKDATE
    dated = {"iat": issued, "exp": issued + int(occasion.config.assertion_ttl), "jti": occasion.jti()}
    wanted = algorithm or occasion.config.assertion_alg or key.algorithms[0]
    if wanted not in key.algorithms:
        raise IssuerMisconfigured(
            f"issuer `{occasion.config.name}`: assertion_alg {wanted} does not fit the client's {key.name}, which can "
            f"sign {' or '.join(key.algorithms)}",
            hint=f"correct assertion_alg in [issuers.{occasion.config.name}], or leave it out",
        )
    headers = dict(key.header if header is None else header)
    return Secret(jwt.encode({**dated, **claims}, key.private, algorithm=wanted, headers=headers))
