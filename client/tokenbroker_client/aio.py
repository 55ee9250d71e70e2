"""The asyncio client: the same verbs, errors and checks as `client.Client`, without blocking the loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from tokenbroker_client import calls, messages, transport
from tokenbroker_client.environment import here as read_here

if TYPE_CHECKING:
    import socket as sockets
    from collections.abc import Iterable

    from tokenbroker_client.environment import Here
    from tokenbroker_client.http1 import Response
    from tokenbroker_client.proof import ProofAnswer
    from tokenbroker_client.wire import ProfileInfo, TokenAnswer

_CHUNK: Final = 65536


class AsyncClient:
    """Ask the local broker for tokens from asyncio code. Cancelling a call closes its connection and nothing else."""

    def __init__(
        self, socket: str | None = None, timeout: float = transport.DEFAULT_TIMEOUT, *, here: Here | None = None
    ) -> None:
        """Use `socket`, or the one that the environment names; `timeout` is in seconds for each whole request."""
        self._socket = socket
        self._timeout = timeout
        self._here = here or read_here()

    @property
    def socket(self) -> str:
        """The socket's path, looked up anew each time."""
        return self._socket or self._here.socket

    async def token(
        self,
        profile: str | None = None,
        *,
        audience: str | None = None,
        scopes: Iterable[str] = (),
        min_ttl: float | None = None,
        reason: str | None = None,
        agent_type: str | None = None,
        interaction: str | None = None,
    ) -> TokenAnswer:
        """Return a token; arguments and errors are those of `client.Client.token`."""
        request = calls.token_request(
            self._here.environ,
            profile,
            audience=audience,
            scopes=scopes,
            min_ttl=min_ttl,
            reason=reason,
            agent_type=agent_type,
            interaction=interaction,
        )
        return calls.read_token(await self.send(calls.token(request)))

    async def rejected(self, profile: str, fingerprint: str) -> bool:
        """Tell the broker that an API refused this token; return whether it was dropped.

        It is kept if it is no longer the cached one, or if rejections come too often: more than three a minute.
        """
        return calls.read_dropped(await self.send(calls.rejected(profile, fingerprint)))

    async def proof(self, token: TokenAnswer, method: str, url: str, *, nonce: str | None = None) -> ProofAnswer:
        """Return a proof for one request with a token of type DPoP (RFC 9449): the value of its `DPoP` header.

        `nonce` is what the API said in `DPoP-Nonce`. Code `unknown_token`: it was renewed; ask for the token again.
        """
        call = calls.proof(token.profile, token.fingerprint, method, url, nonce)
        return calls.read_proof(await self.send(call))

    async def profiles(self) -> tuple[ProfileInfo, ...]:
        """Return the profiles, and what the rules say to this program about each."""
        return calls.read_profiles(await self.send(calls.PROFILES))

    async def me(self) -> dict[str, Any]:
        """Return how the broker sees this program."""
        return calls.read_object(await self.send(calls.ME))

    async def send(self, call: calls.Call) -> Response:
        """Make one request and return whatever is answered. Raises `NoBroker`, `NoAnswer` or `BadAnswer`."""
        message = transport.encode(*call)
        path = self.socket
        try:
            async with asyncio.timeout(self._timeout):
                return await self._exchange(await self._connect(path), message)
        except TimeoutError:
            raise messages.timed_out(self._timeout) from None
        except OSError:
            raise messages.cut_off() from None

    async def _connect(self, path: str) -> sockets.socket:
        # Not the loop's own connect: it takes EAGAIN, which is Linux's word for a full queue, for success later.
        while True:
            try:
                return transport.attempt(path, self._here)
            except BlockingIOError:
                await asyncio.sleep(transport.RETRY_PAUSE)

    async def _exchange(self, sock: sockets.socket, message: bytes) -> Response:
        reader, writer = await asyncio.open_unix_connection(sock=sock)
        try:
            writer.write(message)
            data = bytearray()
            while True:
                chunk = await reader.read(_CHUNK)
                data += chunk
                if response := transport.decode(bytes(data), ended=not chunk):
                    return response
        finally:
            writer.close()
