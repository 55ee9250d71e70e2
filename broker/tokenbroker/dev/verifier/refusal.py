"""What a protected API answers when it does not let a request through, without any web framework.

401 (RFC 6750 §3) means "get another token", 403 "this token does not reach that far", 503 "the keys cannot be had, so
nothing can be said of the token", which must not make a client throw away a good one. No part of a token or of a proof
is ever in an answer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

BEARER, DPOP = "Bearer", "DPoP"
RETRY_AFTER = 5  # seconds; how often keys that could not be had are asked for


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete HTTP answer."""

    status: HTTPStatus
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Refused(Exception):
    """The request is not let through."""

    def __init__(
        self,
        status: HTTPStatus,
        error: str | None,
        reason: str,
        *,
        scheme: str | None = None,
        scope: str | None = None,
        nonce: str | None = None,
    ) -> None:
        """Keep the answer: `error` of RFC 6750 §3.1 or RFC 9449 §7.1, `None` where the request carried no token.

        `scheme` is the one that the request used, `None` for none that is known here; `nonce` goes to `DPoP-Nonce`.
        """
        super().__init__(reason)
        self.status = status
        self.error = error
        self.reason = reason
        self.scheme = scheme
        self.scope = scope
        self.nonce = nonce

    def under(self, scheme: str) -> Refused:
        """Return the same refusal as an answer to `scheme`."""
        return Refused(self.status, self.error, self.reason, scheme=scheme, scope=self.scope, nonce=self.nonce)

    def challenges(self, resource_metadata: str, proof_algorithms: Sequence[str] = ()) -> list[str]:
        """Return the `WWW-Authenticate` values (RFC 6750 §3, RFC 9728 §5.1, RFC 9449 §7.1).

        One for the scheme that was used; one for each scheme that there is when none was. `proof_algorithms` are those
        of DPoP, empty where the API does not take it.
        """
        schemes = [self.scheme] if self.scheme else [BEARER, *([DPOP] if proof_algorithms else [])]
        return [self._challenge(scheme, resource_metadata, proof_algorithms) for scheme in schemes]

    def _challenge(self, scheme: str, resource_metadata: str, proof_algorithms: Sequence[str]) -> str:
        fields = {
            "error": self.error,
            "error_description": self.error and self.reason,
            "scope": self.scope,
            "algs": " ".join(proof_algorithms) if scheme == DPOP else None,
            "resource_metadata": resource_metadata,
        }
        return f"{scheme} " + ", ".join(f'{name}="{_quoted(value)}"' for name, value in fields.items() if value)

    def answer(self, resource_metadata: str, proof_algorithms: Sequence[str] = ()) -> Answer:
        """Return the whole answer."""
        headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
        if self.status is HTTPStatus.SERVICE_UNAVAILABLE:
            headers.append(("Retry-After", str(RETRY_AFTER)))
        elif self.status is HTTPStatus.UNAUTHORIZED or self.scheme:
            challenges = self.challenges(resource_metadata, proof_algorithms)
            headers += [("WWW-Authenticate", challenge) for challenge in challenges]
        if self.nonce:
            headers.append(("DPoP-Nonce", self.nonce))
        body = {"error": self.error or self.status.phrase, "error_description": self.reason}
        return Answer(self.status, tuple(headers), json.dumps(body).encode())


def _quoted(text: str) -> str:
    """Return `text` as the inside of a quoted-string (RFC 9110 §5.6.4)."""
    return text.replace("\\", "\\\\").replace('"', '\\"')


def invalid(reason: str) -> Refused:
    """Return the refusal of a token that is not good, for any reason."""
    return Refused(HTTPStatus.UNAUTHORIZED, "invalid_token", reason)


def forbidden(error: str, reason: str, *, scope: str | None = None) -> Refused:
    """Return the refusal of a good token that does not reach that far."""
    return Refused(HTTPStatus.FORBIDDEN, error, reason, scope=scope)


def malformed(reason: str) -> Refused:
    """Return the refusal of a request that says a thing twice, or in two ways (RFC 6750 §3.1)."""
    return Refused(HTTPStatus.BAD_REQUEST, "invalid_request", reason)


def unavailable(reason: str) -> Refused:
    """Return the refusal of a request that nothing can be said of now."""
    return Refused(HTTPStatus.SERVICE_UNAVAILABLE, None, reason)
