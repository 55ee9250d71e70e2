"""What both sockets share: who is let in, which path leads where, and how JSON is read and answered."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tokenbroker.api.messages import Response, Stream
from tokenbroker.errors import Denied, UnsupportedGrant, UsageError
from tokenbroker_client import wire

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Mapping

    from tokenbroker.api.messages import Request
    from tokenbroker.model import Peer
    from tokenbroker.ports import PeerInspector

    Route = tuple[str, Callable[[Request], Response | Awaitable[Response | Stream]]]


class Api:
    """A handler of one socket: a method and a function per path."""

    def __init__(self, routes: Mapping[str, Route], inspector: PeerInspector, *, uid: int) -> None:
        """Answer at `routes`, to processes of `uid`."""
        self.routes = routes
        self._inspector = inspector
        self._uid = uid

    def connected(self, sock: socket.socket) -> Peer:
        """Describe the peer of a new connection. Raises `Denied` for another user's process, and `PeerGone`."""
        peer = self._inspector.inspect(sock)
        if peer.uid != self._uid:
            raise Denied("the broker serves the processes of its own user alone")
        return peer

    def __call__(self, request: Request) -> Response | Awaitable[Response | Stream]:
        """Answer one request; raises what the broker raises."""
        method, handler = self.routes.get(request.path, (None, None))
        if handler is None or method != request.method:
            return not_found(request, method)
        return handler(request)


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
