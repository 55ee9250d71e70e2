"""The socket that programs ask: the OAuth token endpoint and what belongs to it.

Rules of this file:
1. No GET returns a token.
2. Only the user's own processes are heard: another uid is refused at connect, before a byte is read.
3. What is unknown in a request is ignored; what is known and wrong is refused.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from tokenbroker.api import views
from tokenbroker.api.messages import Response
from tokenbroker.broker import Served
from tokenbroker.errors import Denied, UnsupportedGrant, UsageError
from tokenbroker_client import wire

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from tokenbroker.api.messages import Request
    from tokenbroker.broker import Broker
    from tokenbroker.model import Peer
    from tokenbroker.ports import PeerInspector

FORM: Final = "application/x-www-form-urlencoded"
REMEMBERED: Final = 64  # request bodies, 16 KiB at most: a program asks in the same words again and again


class PublicApi:
    """Handler of the public socket."""

    def __init__(self, broker: Broker, inspector: PeerInspector, *, uid: int) -> None:
        """Serve `broker` to processes of `uid`."""
        self._broker = broker
        self._inspector = inspector
        self._uid = uid
        self._decode = lru_cache(REMEMBERED)(wire.decode_request)
        self._routes: dict[str, tuple[str, Callable[[Request], Response | Awaitable[Response]]]] = {
            wire.TOKEN_PATH: ("POST", self._token),
            wire.REJECTED_PATH: ("POST", self._rejected),
            wire.PROFILES_PATH: ("GET", self._profiles),
            wire.ME_PATH: ("GET", self._me),
            wire.HEALTH_PATH: ("GET", lambda _: Response(200, b'{"status":"ok"}')),
        }

    def connected(self, sock: socket.socket) -> Peer:
        """Describe the peer of a new connection. Raises `Denied` for another user's process, and `PeerGone`."""
        peer = self._inspector.inspect(sock)
        if peer.uid != self._uid:
            raise Denied("the broker serves the processes of its own user alone")
        return peer

    def __call__(self, request: Request) -> Response | Awaitable[Response]:
        """Answer one request; raises what the broker raises."""
        method, handler = self._routes.get(request.path, (None, None))
        if handler is None or method != request.method:
            return not_found(request, method)
        return handler(request)

    def _token(self, request: Request) -> Response | Awaitable[Response]:
        kind = request.headers.get("content-type", FORM).partition(";")[0].strip().lower()
        if kind != FORM:
            raise UsageError("the request is not a form", hint=f"send it as {FORM} (RFC 6749 §4.4.2)")
        try:
            wanted = self._decode(request.body)
        except wire.WireError as error:
            raise refused(error) from None
        served = self._broker.request(wanted, request.connection.state)
        return _answer(served) if isinstance(served, Served) else _later(served)

    def _rejected(self, request: Request) -> Response:
        try:
            profile, fingerprint = wire.decode_rejected(request.body)
        except wire.WireError as error:
            raise refused(error) from None
        dropped = self._broker.rejected(profile, fingerprint, request.connection.state)
        return json_response({"dropped": dropped})

    def _profiles(self, request: Request) -> Response:
        return Response(200, wire.encode_profiles(views.profiles(self._broker, request.connection.state)))

    def _me(self, request: Request) -> Response:
        return json_response(views.peer(request.connection.state))


def refused(error: wire.WireError) -> UsageError | UnsupportedGrant:
    """Turn what is wrong with a request's bytes into the answer."""
    if error.code == UnsupportedGrant.code:
        return UnsupportedGrant(str(error), hint="send grant_type=client_credentials")
    return UsageError(str(error), hint="see docs/protocol.md")


def json_object(request: Request) -> dict[str, Any]:
    """Read a JSON object. Raises `UsageError`."""
    try:
        return wire.decode_object(request.body)
    except wire.WireError as error:
        raise refused(error) from None


def json_response(value: object, status: int = 200) -> Response:
    """Make an answer of a JSON value."""
    return Response(status, json.dumps(value, separators=(",", ":")).encode())


def not_found(request: Request, allowed: str | None) -> Response:
    """Answer a path that is not served, or not by this method."""
    description = f"{request.method} is not served here" if allowed else "nothing is served at this path"
    status = 405 if allowed else 404
    return Response(
        status,
        json.dumps({"error": "invalid_request", "error_description": description, "code": "not_found"}).encode(),
        headers=(("Allow", allowed),) if allowed else (),
    )


async def _later(served: Awaitable[Served]) -> Response:
    return _answer(await served)


def _answer(served: Served) -> Response:
    token, now = served.token, served.now
    remaining = token.remaining(now)
    answer = wire.TokenAnswer(
        access_token=token.value.reveal(),
        token_type=token.token_type,
        expires_in=int(remaining),
        scope=" ".join(token.scope),
        expires_at=int(now.wall + remaining),
        profile=served.key.profile,
        agent_type=served.agent_type,
        owner=served.owner,
        fingerprint=token.fingerprint,
        source=served.source,
        session=served.session,
    )
    return Response(200, wire.encode_token(answer))
