"""An adapter's one transport: made when it is first needed, and not again once it is closed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

from tokenbroker.errors import IssuerUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenbroker.config import IssuerConfig
    from tokenbroker.issuers.transport import Transport

_TRANSPORT: Final = "tokenbroker.issuers.transport"


def warm() -> None:
    """Import aiohttp now, 150 ms of work, so that the first exchange does not pay. Safe to run in a thread."""
    importlib.import_module(_TRANSPORT)


class Connections:
    """The connections to one issuer. Imports and opens nothing before the first `transport`."""

    def __init__(self, config: IssuerConfig, env: Mapping[str, str]) -> None:
        """Serve `config`; `env` gives `HTTPS_PROXY` and `NO_PROXY`."""
        self._config = config
        self._env = env
        self._transport: Transport | None = None
        self._closed = False

    def transport(self) -> Transport:
        """Return what makes the requests. Raises `IssuerUnavailable` after `close`."""
        if self._closed:
            raise IssuerUnavailable(f"issuer `{self._config.name}`: its connections are closed")
        if self._transport is None:
            self._transport = importlib.import_module(_TRANSPORT).Transport(self._config, env=self._env)
        return self._transport

    async def close(self) -> None:
        """Close them. May be called twice."""
        self._closed = True
        if self._transport is not None:
            await self._transport.close()
