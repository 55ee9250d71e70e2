"""The verifier as an aiohttp middleware."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from tokenbroker.dev.verifier.checks import Caller
from tokenbroker.dev.verifier.refusal import Refused
from tokenbroker.dev.verifier.verifier import Request

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler, Middleware

    from tokenbroker.dev.verifier.refusal import Answer
    from tokenbroker.dev.verifier.verifier import Verifier

CALLER = web.RequestKey("caller", Caller)
"""Where a handler finds who calls: `request[CALLER]`; not there on public routes."""


def protect(verifier: Verifier) -> Middleware:
    """Return a middleware that lets through what `verifier` does. Put it first."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            found = await verifier.check(_seen(request))
        except Refused as refusal:
            return _response(verifier.answer(refusal))
        if found is not None:
            request[CALLER] = found
        return await handler(request)

    return guard


def _seen(request: web.Request) -> Request:
    return Request(
        request.method,
        # The request line itself: yarl's paths have their dot segments and needless encodings already resolved.
        request.raw_path.partition("?")[0],
        request.headers.getall("Authorization", []),
        request.headers.getall("DPoP", []),
    )


def _response(answer: Answer) -> web.Response:
    response = web.Response(status=answer.status, body=answer.body)
    for name, value in answer.headers:
        if name == "Content-Type":
            response.content_type = value
        else:
            response.headers.add(name, value)
    return response
