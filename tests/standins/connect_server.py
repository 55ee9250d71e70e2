"""A 1Password Connect server on a real loopback socket, held to tests/standins/connect/openapi.yaml by prism.

`async with ConnectServer() as server: server.add_item(server.add_vault("Agents"), "m2m", {"username": "me"})`. It does
what the contract (sections 4 and 8) says of the real one: bearer check, scope, SCIM `eq` filters, camelCase, and on
demand every fault that has been met. `requests` tells what was asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Sequence

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
    Fault = Callable[[web.Request], Awaitable[web.StreamResponse | None]]

TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJqdGkiOiJzdGFuZC1pbiJ9.c3RhbmQtaW4tc2lnbmF0dXJl"
WHEN = "2026-11-24T08:00:00Z"
_FILTER = re.compile(r'\s*(?P<attribute>name|title)\s+eq\s+"(?P<value>(?:[^"\\]|\\.)*)"\s*')


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    """With its query, still encoded."""
    authorization: str | None
    headers: dict[str, str]


def identity(kind: str, number: int) -> str:
    """Return the 26 characters by which the thing is known."""
    return f"{kind}{number:0{26 - len(kind)}d}"


def refusal(status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """Answer as the server does when it refuses."""
    return web.json_response({"status": status, "message": message}, status=status, headers=headers)


class ConnectServer:
    """The stand-in; everything that it keeps may be changed while it runs."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.token = TOKEN
        self.vaults: dict[str, dict[str, Any]] = {}
        self.items: dict[str, dict[str, dict[str, Any]]] = {}
        self.files: dict[str, bytes] = {}
        self.out_of_scope: set[str] = set()
        self.synchronized = False
        """Whether it has seen a request that was in order; before that `/health` says so."""
        self.requests: list[Asked] = []
        self.busy = self.most_busy = 0
        self.gate = asyncio.Event()
        """Cleared: requests wait."""
        self.gate.set()
        self.waiting = asyncio.Event()
        self.abandoned = asyncio.Event()
        """Set when a client hangs up while its request waits."""
        self._faults: list[tuple[re.Pattern[str], Fault, list[int]]] = []
        self._tls = tls
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Scheme, host and port."""
        port = self._socket.getsockname()[1]
        return f"https://localhost:{port}" if self._tls else f"http://127.0.0.1:{port}"

    @property
    def paths(self) -> list[str]:
        """What was asked, in order."""
        return [asked.path for asked in self.requests]

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Serve, if it does not yet."""
        if self._runner is not None:
            return
        app = web.Application(middlewares=[self._around])
        app.add_routes([
            web.get("/heartbeat", self._heartbeat),
            web.get("/health", self._health),
            web.get("/v1/vaults", self._vaults),
            web.get("/v1/vaults/{vault}", self._vault),
            web.get("/v1/vaults/{vault}/items", self._items),
            web.get("/v1/vaults/{vault}/items/{item}", self._item),
            web.get("/v1/vaults/{vault}/items/{item}/files", self._item_files),
            web.get("/v1/vaults/{vault}/items/{item}/files/{file}/content", self._file),
        ])  # fmt: skip
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket, ssl_context=self._tls).start()

    async def stop(self) -> None:
        """Serve no more. May be called twice, and without `start`."""
        if self._runner is not None:
            await self._runner.cleanup()
        self._socket.close()

    def add_vault(self, name: str, *, vault: str | None = None, **more: Any) -> str:
        """Make a vault and return its id."""
        known = vault or identity("v", len(self.vaults))
        self.vaults[known] = {
            "id": known, "name": name, "description": "", "attributeVersion": 1, "contentVersion": 3, "items": 0,
            "type": "USER_CREATED", "createdAt": WHEN, "updatedAt": WHEN, **more,
        }  # fmt: skip
        self.items[known] = {}
        return known

    def add_item(
        self,
        vault: str,
        title: str,
        fields: Mapping[str, str] | Sequence[Mapping[str, Any]] = (),
        *,
        item: str | None = None,
        **more: Any,
    ) -> str:
        """Make an item and return its id; `fields` are labels and values, or fields as they are answered."""
        known = item or identity("i", sum(map(len, self.items.values())))
        if isinstance(fields, Mapping):
            fields = [
                {"id": f"f{number}", "type": "CONCEALED", "label": label, "value": value}
                for number, (label, value) in enumerate(fields.items())
            ]
        self.items[vault][known] = {
            "id": known, "title": title, "vault": {"id": vault}, "category": "API_CREDENTIAL", "favorite": False,
            "version": 1, "createdAt": WHEN, "updatedAt": WHEN, "lastEditedBy": identity("u", 0),
            "fields": list(fields), **more,
        }  # fmt: skip
        return known

    def add_file(self, vault: str, item: str, name: str, content: bytes, **more: Any) -> str:
        """Attach a file and return its id."""
        known = identity("x", len(self.files))
        self.files[known] = content
        path = f"/v1/vaults/{vault}/items/{item}/files/{known}/content"
        kept = self.items[vault][item].setdefault("files", [])
        kept.append({"id": known, "name": name, "size": len(content), "content_path": path, **more})
        return known

    def fail(self, fault: Fault, *, path: str = r"/v1/.*", times: int = 1 << 30) -> None:
        """Have the next `times` requests of this path (a pattern for the whole) meet `fault`."""
        self._faults.append((re.compile(path), fault, [times]))

    @web.middleware
    async def _around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Note the request, keep it waiting if that is wanted, let it meet its fault, check who asks."""
        self.requests.append(
            Asked(request.method, request.raw_path, request.headers.get("Authorization"), dict(request.headers))
        )
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        try:
            await self._wait()
            fault = self._due(request.path)
            failed = await fault(request) if fault else None
            if failed is not None:
                return failed
            return self._refused(request) or await handler(request)
        except asyncio.CancelledError:
            self.abandoned.set()
            raise
        finally:
            self.busy -= 1

    async def _wait(self) -> None:
        if not self.gate.is_set():
            self.waiting.set()
        await self.gate.wait()

    def _due(self, path: str) -> Fault | None:
        for pattern, fault, left in self._faults:
            if left[0] > 0 and pattern.fullmatch(path):
                left[0] -= 1
                return fault
        return None

    def _refused(self, request: web.Request) -> web.Response | None:
        if not request.path.startswith("/v1/"):
            return None
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return refusal(401, "Invalid token signature")
        self.synchronized = True
        vault = request.match_info.get("vault")
        if vault is None:
            return None
        if not re.fullmatch(r"[a-z0-9]{26}", vault):
            return refusal(400, "Invalid Vault UUID")
        if vault in self.out_of_scope:
            return refusal(403, f"vault {vault} is not in scope")
        return None if vault in self.vaults else refusal(404, f"vault {vault} not found")

    async def _heartbeat(self, _: web.Request) -> web.Response:
        return web.Response(text=".")

    async def _health(self, _: web.Request) -> web.Response:
        parts = [
            {"service": "sqlite", "status": "ACTIVE", "message": "Connected to./1password.sqlite"},
            {"service": "sync", "status": "ACTIVE" if self.synchronized else "TOKEN_NEEDED"},
        ]
        return web.json_response({"name": "1Password Connect API", "version": "1.8.1", "dependencies": parts})

    async def _vaults(self, request: web.Request) -> web.Response:
        seen = [vault for known, vault in self.vaults.items() if known not in self.out_of_scope]
        return _filtered(request, seen, "name")

    async def _vault(self, request: web.Request) -> web.Response:
        return web.json_response(self.vaults[request.match_info["vault"]])

    async def _items(self, request: web.Request) -> web.Response:
        hidden = {"fields", "sections", "files"}
        kept = self.items[request.match_info["vault"]].values()
        summaries = [{key: value for key, value in item.items() if key not in hidden} for item in kept]
        return _filtered(request, summaries, "title")

    async def _item(self, request: web.Request) -> web.Response:
        found = self._kept(request)
        return found if isinstance(found, web.Response) else web.json_response(found)

    async def _item_files(self, request: web.Request) -> web.Response:
        found = self._kept(request)
        return found if isinstance(found, web.Response) else web.json_response(found.get("files", []))

    async def _file(self, request: web.Request) -> web.Response:
        found = self._kept(request)
        if isinstance(found, web.Response):
            return found
        file = request.match_info["file"]
        if file not in {one["id"] for one in found.get("files", [])}:
            return refusal(404, f"file {file} not found")
        return web.Response(body=self.files[file], content_type="application/octet-stream")

    def _kept(self, request: web.Request) -> dict[str, Any] | web.Response:
        item = request.match_info["item"]
        found = self.items[request.match_info["vault"]].get(item)
        return refusal(404, f"item {item} not found") if found is None else found


def _filtered(request: web.Request, things: Sequence[Mapping[str, Any]], attribute: str) -> web.Response:
    """Apply `?filter=name eq "X"`; `eq` compares with case, which the real server may or may not."""
    asked = request.query.get("filter")
    if asked is None:
        return web.json_response(list(things))
    match = _FILTER.fullmatch(asked)
    if match is None or match["attribute"] != attribute:
        return refusal(400, "Invalid filter")
    value = re.sub(r"\\(.)", r"\1", match["value"])
    return web.json_response([one for one in things if one.get(attribute) == value])


# --- faults -----------------------------------------------------------------------------------------------------------


def status(code: int, message: str = "SERVER-WORDS", headers: Mapping[str, str] | None = None) -> Fault:
    """Refuse with this status in the server's own form."""

    async def fault(_: web.Request) -> web.Response:
        return refusal(code, message, headers)

    return fault


def text(body: bytes, *, code: int = 200, content_type: str = "application/json", encoding: str = "identity") -> Fault:
    """Answer with this body, whatever was asked."""

    async def fault(_: web.Request) -> web.Response:
        headers = {"Content-Encoding": encoding}
        return web.Response(body=body, status=code, content_type=content_type, headers=headers)

    return fault


async def reset(request: web.Request) -> None:
    """End the connection without an answer."""
    assert request.transport is not None
    request.transport.abort()


async def cut_short(request: web.Request) -> web.StreamResponse:
    """Promise a hundred bytes, send ten, and hang up."""
    response = web.StreamResponse(headers={"Content-Length": "100", "Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b'[{"id": "v')
    assert request.transport is not None
    request.transport.close()
    return response


async def drip(request: web.Request) -> web.StreamResponse:
    """Send a byte now and then, without end."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.01)
    return response


async def endless(request: web.Request) -> web.StreamResponse:
    """Send as much as the client takes."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        while True:
            await response.write(b" " * (1 << 20))
    return response
