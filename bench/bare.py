"""The reference for the socket: bare aiohttp that answers the body given on stdin to every `POST /token`.

python -m bench.bare SOCKET < BODY
"""

from __future__ import annotations

import asyncio
import sys

from aiohttp import web


async def serve(path: str, body: bytes) -> None:
    """Serve until killed; no access log, no middleware, no look at the request but to read it."""

    async def token(request: web.Request) -> web.Response:
        await request.read()
        headers = {"Cache-Control": "no-store", "Pragma": "no-cache"}  # RFC 6749 §5.1
        return web.Response(body=body, content_type="application/json", headers=headers)

    app = web.Application()
    app.router.add_post("/token", token)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.UnixSite(runner, path).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.stdin.buffer.read()))
