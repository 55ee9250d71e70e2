"""What a token holds, before it is served: a JWT's signature (RFC 7517), an opaque token's introspection (RFC 7662)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tokenbroker.config import IssuerConfig
    from tokenbroker.issuers.discovery import Endpoints
    from tokenbroker.issuers.exchange import Attempt, Reply
    from tokenbroker.model import IssuerAnswer
    from tokenbroker.ports import Clock


class Inspection:
    """Looks into the tokens of one issuer."""

    def __init__(self, config: IssuerConfig, *, clock: Clock, get: Callable[[str, Attempt], Awaitable[Reply]]) -> None:
        """Fetch keys with `get(url, attempt)`, which raises `IssuerError` for anything but an HTTP answer."""
        self._config = config
        self._clock = clock
        self._get = get

    def wanted(self, answer: IssuerAnswer) -> bool:
        """Tell whether there may be anything to look at, by the configuration and the token's form."""
        return False

    async def look_into(
        self,
        answer: IssuerAnswer,
        endpoints: Endpoints,
        attempt: Attempt,
        introspect: Callable[[str], Awaitable[Reply]],
    ) -> IssuerAnswer:
        """Return `answer` with its claims and `checked` as found. Raises `TokenMismatch` and `IssuerError`."""
        return answer

    async def close(self) -> None:
        """Give up what is under way. May be called twice."""
