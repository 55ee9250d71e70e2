"""One API's judgement over a request: path, token, scopes, caller, binding, grant, in this order."""

from __future__ import annotations

import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from tokenbroker.dev.verifier import checks, jose
from tokenbroker.dev.verifier.keys import KeysUnavailable
from tokenbroker.dev.verifier.refusal import DPOP, Refused, invalid, unavailable
from tokenbroker.dev.verifier.routes import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tokenbroker.dev.verifier.checks import Caller, Expected
    from tokenbroker.dev.verifier.dpop import Proofs
    from tokenbroker.dev.verifier.keys import KeySet
    from tokenbroker.dev.verifier.refusal import Answer
    from tokenbroker.dev.verifier.routes import Routes


@dataclass(frozen=True, slots=True)
class Request:
    """What is looked at of a request."""

    method: str
    path: str
    """As it was sent, percent-encoding included, without the query."""
    authorization: Sequence[str] = ()
    """Every `Authorization` header."""
    proofs: Sequence[str] = ()
    """Every `DPoP` header."""


class Verifier:
    """Decides over the requests of one API."""

    def __init__(
        self,
        keys: KeySet,
        expected: Expected,
        routes: Routes,
        *,
        resource_metadata: str,
        proofs: Proofs | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Trust what `keys` signed and `expected` names, for `routes`.

        `resource_metadata` is the URL of the document of RFC 9728; `proofs` turns on DPoP beside Bearer; `clock` gives
        epoch seconds.
        """
        self._keys = keys
        self._expected = expected
        self._routes = routes
        self._resource_metadata = resource_metadata
        self._proofs = proofs
        self._clock = clock

    async def check(self, request: Request) -> Caller | None:
        """Return who calls, `None` for a public route. Raises `Refused`."""
        path = plain(request.path)
        needed = self._routes.needed(request.method, path)
        if needed is None:
            raise Refused(HTTPStatus.NOT_FOUND, None, "there is nothing here")
        if not needed.routes:
            return None
        scheme, token = checks.presented(request.authorization, dpop=self._proofs is not None)
        try:
            claims = await self._claims(token)
            found = checks.caller(claims, needed.scopes, self._expected)
            if self._proofs is not None and scheme == DPOP:
                self._proofs.check(request.proofs, token=token, bound=claims, method=request.method, path=path)
            else:
                checks.unbound(claims)
            self._routes.granted(found.client_id, needed.routes)
        except Refused as refusal:
            raise refusal.under(scheme) from None
        return found

    def answer(self, refusal: Refused) -> Answer:
        """Return what to answer to a request that was refused."""
        return refusal.answer(self._resource_metadata, self._proofs.algorithms if self._proofs else ())

    async def _claims(self, token: str) -> dict[str, Any]:
        algorithm, kid = checks.head(token, self._expected.dialect.types)
        try:
            ways = await self._keys.find(kid)
        except KeysUnavailable:
            raise unavailable("the issuer's keys are unavailable") from None
        if ways is None:
            raise invalid("the key is unknown")
        if algorithm not in ways:
            raise invalid("the algorithm is not the key's")
        try:
            claims = jose.claims(token, ways[algorithm])
        except jose.BadSignature:
            raise invalid("the signature is not valid") from None
        except jose.Malformed:
            raise invalid("the token is malformed") from None
        checks.addressed(claims, self._expected, now=self._clock())
        return claims
