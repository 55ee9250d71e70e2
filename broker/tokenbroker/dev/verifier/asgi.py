"""The verifier as an ASGI 3 middleware, for Starlette, FastAPI and everything else that speaks ASGI.

HTTP requests and websockets are judged, `lifespan` is passed through, anything else is refused: what a later version of
ASGI adds must not find an open door.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from tokenbroker.dev.verifier.refusal import Refused, malformed
from tokenbroker.dev.verifier.verifier import Request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from tokenbroker.dev.verifier.refusal import Answer
    from tokenbroker.dev.verifier.verifier import Verifier

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

CALLER = "caller"
"""Where a handler finds who calls: `request.state.caller` in Starlette, `scope["state"]["caller"]` in plain ASGI."""
DENIAL = "websocket.http.response"  # an extension of ASGI: an HTTP answer instead of a plain 403


class Protect:
    """Lets through what `verifier` does. Make it the outermost: `app = Protect(app, verifier)`."""

    def __init__(self, app: App, verifier: Verifier) -> None:
        """Stand in front of `app`."""
        self._app = app
        self._verifier = verifier

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one connection. Raises `ValueError` for a scope of a kind that is not known."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] not in {"http", "websocket"}:
            raise ValueError(f"a scope of type {scope['type']!r} cannot be protected")
        try:
            found = await self._verifier.check(_seen(scope))
        except Refused as refusal:
            await _refuse(self._verifier.answer(refusal), scope, receive, send)
            return
        # A copy: the state that came in belongs to all requests. A caller that was there before is not ours.
        state = {name: value for name, value in scope.get("state", {}).items() if name != CALLER}
        await self._app({**scope, "state": state if found is None else {**state, CALLER: found}}, receive, send)


def _seen(scope: MutableMapping[str, Any]) -> Request:
    return Request(
        scope["method"] if scope["type"] == "http" else "WEBSOCKET",
        _path(scope),
        _headers(scope, b"authorization"),
        _headers(scope, b"dpop"),
    )


def _path(scope: MutableMapping[str, Any]) -> str:
    """Return the path as it was sent. Raises `Refused` when the server tells two different ones.

    Without `raw_path`, which ASGI leaves to the server, the decoded one has to do; what could have been encoded is
    refused with it, so that nothing hides.
    """
    raw, decoded = scope.get("raw_path"), str(scope["path"])
    if raw is None:
        return decoded
    text = raw.decode("latin-1").partition("?")[0]
    if unquote(text) != decoded:
        raise malformed("the path is not in its plain form")
    return str(text)


def _headers(scope: MutableMapping[str, Any], name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]


async def _refuse(answer: Answer, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
    prefix = "http.response"
    if scope["type"] == "websocket":
        await receive()  # the handshake, which the server wants taken before it is answered
        if DENIAL not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": 1008, "reason": ""})  # before it was accepted: a plain 403
            return
        prefix = DENIAL
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in answer.headers]
    headers.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": f"{prefix}.start", "status": int(answer.status), "headers": headers})
    await send({"type": f"{prefix}.body", "body": b"" if scope.get("method") == "HEAD" else answer.body})
