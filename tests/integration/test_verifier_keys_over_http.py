"""A key set over real HTTP: one bounded request, and nothing but a plain 200 counts."""

from __future__ import annotations

import json
import socket

import pytest
from aiohttp import web

from tests.unit.verifier_tokens import KEY, KID, public
from tokenbroker.dev.loopback import LoopbackServer
from tokenbroker.dev.verifier import KeySet, KeysUnavailable
from tokenbroker.dev.verifier.keys import MAX_KEYS, fetched

DOCUMENT = json.dumps({"keys": [{**public(KEY), "kid": KID}]})


async def answer(request: web.Request) -> web.StreamResponse:
    what = request.match_info["what"]
    if what == "moved":
        raise web.HTTPTemporaryRedirect("/good")
    if what == "failed":
        return web.Response(status=500, text=DOCUMENT)
    if what == "long":
        return web.Response(text=DOCUMENT + " " * MAX_KEYS)
    if what == "packed":
        packed = web.Response(text=DOCUMENT + " " * 8_000_000)
        packed.enable_compression(web.ContentCoding.gzip)
        return packed
    return web.Response(text=DOCUMENT)


@pytest.mark.parametrize("what", ["moved", "failed", "long", "packed"])
async def test_an_answer_that_is_no_plain_200_counts_as_none(what: str) -> None:
    """A redirect could lead to keys of somebody else; 64 KiB bound what is read, packed or not."""
    app = web.Application()
    app.add_routes([web.get("/{what}", answer)])
    async with LoopbackServer.bind() as server:
        await server.serve(app)
        assert await KeySet.at(f"{server.url}/good").find(KID)
        with pytest.raises(KeysUnavailable):
            await fetched(f"{server.url}/{what}")


async def test_nobody_there_counts_as_no_keys() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        with pytest.raises(KeysUnavailable):
            await fetched(f"http://127.0.0.1:{taken.getsockname()[1]}/jwks")


@pytest.mark.parametrize("url", ["", "jwks", "http://"])
async def test_an_address_that_is_none_counts_as_no_keys(url: str) -> None:
    with pytest.raises(KeysUnavailable):
        await fetched(url)
