"""The blocking client. May be shared between threads: it keeps no connection and no token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenbroker_client import calls, transport
from tokenbroker_client.environment import here as read_here
from tokenbroker_client.errors import BadAnswer, BrokerRefused, ClientError, NoAnswer, NoBroker, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tokenbroker_client.environment import Here
    from tokenbroker_client.http1 import Response
    from tokenbroker_client.proof import ProofAnswer
    from tokenbroker_client.wire import ProfileInfo, TokenAnswer

__all__ = ["BadAnswer", "BrokerRefused", "Client", "ClientError", "NoAnswer", "NoBroker", "UsageError"]


class Client:
    """Ask the local broker for tokens. Ask each time one is needed: the broker caches, renews and re-judges."""

    def __init__(
        self, socket: str | None = None, timeout: float = transport.DEFAULT_TIMEOUT, *, here: Here | None = None
    ) -> None:
        """Use `socket`, or the one that the environment names; `timeout` is in seconds for each whole request."""
        self._socket = socket
        self._timeout = timeout
        self._here = here or read_here()

    @property
    def socket(self) -> str:
        """The socket's path, looked up anew each time: the folder may appear after this program started."""
        return self._socket or self._here.socket

    def token(
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
        """Return a token for `profile` or `audience` that is valid for at least `min_ttl` seconds (default 60).

        `agent_type="autonomous"` and `interaction="never"` keep prompts away. Raises `BrokerRefused`, `NoBroker`,
        `NoAnswer` or `BadAnswer`, all of them `ClientError`.
        """
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
        return calls.read_token(self.send(calls.token(request)))

    def rejected(self, profile: str, fingerprint: str) -> bool:
        """Tell the broker that an API refused this token; return whether it was dropped.

        It is kept if it is no longer the cached one, or if rejections come too often: more than three a minute.
        """
        return calls.read_dropped(self.send(calls.rejected(profile, fingerprint)))

    def proof(self, token: TokenAnswer, method: str, url: str, *, nonce: str | None = None) -> ProofAnswer:
        """Return a proof for one request with a token of type DPoP (RFC 9449): the value of its `DPoP` header.

        `nonce` is what the API said in `DPoP-Nonce`. Code `unknown_token`: it was renewed; ask for the token again.
        """
        call = calls.proof(token.profile, token.fingerprint, method, url, nonce)
        return calls.read_proof(self.send(call))

    def profiles(self) -> tuple[ProfileInfo, ...]:
        """Return the profiles, and what the rules say to this program about each."""
        return calls.read_profiles(self.send(calls.PROFILES))

    def me(self) -> dict[str, Any]:
        """Return how the broker sees this program."""
        return calls.read_object(self.send(calls.ME))

    def send(self, call: calls.Call) -> Response:
        """Make one request and return whatever is answered. Raises `NoBroker`, `NoAnswer` or `BadAnswer`."""
        return transport.request(self.socket, *call, timeout=self._timeout, here=self._here)
