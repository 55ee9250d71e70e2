"""The description of both sockets that the package ships is what the sockets do."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import replace
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import pytest
from jsonschema import Draft202012Validator

from tests.fakes_clock import settle
from tests.integration.both_apis import both_apis
from tests.integration.http_peer import short_folder
from tests.service.world import World, configuration
from tokenbroker import errors
from tokenbroker.api import views
from tokenbroker.api.admin import AdminApi
from tokenbroker.api.http import HttpServer
from tokenbroker.api.public import PublicApi
from tokenbroker.config import RuleConfig, VaultConfig
from tokenbroker.daemon import Daemon, Options
from tokenbroker.errors import ConfigError, IssuerUnavailable
from tokenbroker.events import Events
from tokenbroker.issuers.dpop import DpopKey
from tokenbroker.model import IssuerAnswer, RateLimit, Secret
from tokenbroker.paths import Surroundings
from tokenbroker.system import sockets
from tokenbroker.vaults.dev import DevVault
from tokenbroker_client import calls, proof, wire
from tokenbroker_client.aio import AsyncClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tokenbroker_client.http1 import Response

DOCUMENT: dict[str, Any] = json.loads((files("tokenbroker.api") / "openapi.json").read_text())
SCHEMAS = DOCUMENT["components"]["schemas"]
URL = "https://api.example.com/search"
NO_TOKEN = proof.encode_request(proof.ProofRequest("search", "0" * 12, "GET", URL))


def closed(schema: Any) -> Any:
    """Return the schema with no room for fields that it does not name."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    if isinstance(made.get("properties"), dict) and made.get("type") == "object":
        made.setdefault("additionalProperties", False)
    return made


STRICT = closed({"components": {"schemas": SCHEMAS}})


def check(value: Any, schema: dict[str, Any]) -> None:
    """Hold a value to a schema, every field named."""
    Draft202012Validator({**STRICT, **closed(schema)}).validate(value)


class Sockets:
    """Both APIs on real sockets, over a broker whose vault, issuer and clock are fakes."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.reloads: ConfigError | None = None
        self.events = Events(lambda: world.clock.now().wall)
        public, admin = both_apis(world, self.events, about=self._about, reload=self._reload)
        self.apis: dict[str, PublicApi | AdminApi] = {"public": public, "admin": admin}
        self.paths = {name: folder / f"{name}" / "a.sock" for name in self.apis}

    def _about(self) -> dict[str, Any]:
        return {
            "version": "0",
            "pid": 1,
            "started_at": 1.0,
            "config": None,
            "config_error": None,
            "hardening": {},
            "desk": {},
        }

    def _reload(self) -> None:
        if self.reloads is not None:
            raise self.reloads

    async def send(self, name: str, method: str, path: str, body: bytes = b"", *, form: bool = False) -> Response:
        """Make a request, and hold its answer to the document."""
        kind = "x-www-form-urlencoded" if form else "json"
        call = calls.Call(method, path, body, {"Content-Type": f"application/{kind}"})
        response = await AsyncClient(str(self.paths[name])).send(call)
        responses = DOCUMENT["paths"][path][method.lower()]["responses"]
        described = responses.get(str(response.status), responses["default"])
        content = described["content"].get("application/json")
        if content is not None:
            check(json.loads(response.body), content["schema"])
        return response


@pytest.fixture
async def running() -> AsyncIterator[Sockets]:
    async with contextlib.AsyncExitStack() as stack:
        config = configuration()
        rule = RuleConfig(None, "allow", otp="op://V/i/*")
        world = await stack.enter_async_context(World(replace(config, rules=(rule, *config.rules))))
        world.vault.values["op://V/i/one-time password?attribute=otp"] = "123456"
        key = DpopKey.make(lambda: "jti")
        world.issuer.script = [IssuerAnswer(Secret("bound"), "DPoP", 3600.0, ("read",), proof_key=key)]
        started = Sockets(world, stack.enter_context(short_folder()))
        for name, api in started.apis.items():
            bound = sockets.listen(started.paths[name], uid=os.getuid())
            server = HttpServer(api, on_connect=api.connected)
            await server.serve(bound.sock)
            stack.callback(bound.close)
            stack.callback(server.close)
        yield started


def operations(tag: str) -> set[tuple[str, str]]:
    """Return the (path, method) pairs that the document has for one socket."""
    return {
        (path, method.upper())
        for path, item in DOCUMENT["paths"].items()
        for method, operation in item.items()
        if tag in operation["tags"]
    }


async def test_every_route_is_described_and_nothing_else(running: Sockets) -> None:
    public, admin = running.apis["public"], running.apis["admin"]
    assert isinstance(public, PublicApi)
    assert isinstance(admin, AdminApi)
    assert operations("public") == {(path, method) for path, (method, _) in public.routes.items()}
    assert operations("admin") == {(path, method) for path, (method, _) in admin.routes.items()}


def test_every_schema_is_a_schema_and_is_used() -> None:
    text = json.dumps(DOCUMENT)
    for name, schema in SCHEMAS.items():
        Draft202012Validator.check_schema(schema)
        assert f'"#/components/schemas/{name}"' in text or name == "Event"


def test_the_token_request_has_the_parameters_that_the_broker_reads() -> None:
    every = wire.TokenRequest("p", "a", "r", ("s",), 1.0, "why", "autonomous", "never")
    sent = dict(parse_qsl(wire.encode_request(every).decode()))
    assert SCHEMAS["TokenRequest"]["properties"].keys() == sent.keys()
    check(sent, {"$ref": "#/components/schemas/TokenRequest"})


def known_errors(kind: type[errors.BrokerError] = errors.BrokerError) -> set[type[errors.BrokerError]]:
    """Return the whole tree of errors."""
    return {kind}.union(*(known_errors(below) for below in kind.__subclasses__()))


def test_the_error_codes_are_those_of_the_tree() -> None:
    ours = {kind for kind in known_errors() if kind.__module__ == errors.__name__}
    fields = SCHEMAS["Error"]["properties"]
    assert {kind.code for kind in ours} | {"not_found"} == set(fields["code"]["enum"])
    assert {kind.oauth for kind in ours} == set(fields["error"]["enum"])


async def test_the_public_socket_answers_as_described(running: Sockets) -> None:
    first = await running.send("public", "POST", "/token", wire.encode_request(wire.TokenRequest("search")), form=True)
    assert first.status == 200
    asked = proof.encode_request(proof.ProofRequest("search", json.loads(first.body)["fingerprint"], "GET", URL, "n"))
    check(json.loads(asked), {"$ref": "#/components/schemas/ProofRequest"})
    assert (await running.send("public", "POST", "/proof", asked)).status == 200
    code = wire.encode_otp(wire.OtpRequest("op://V/i/one-time password"))
    assert (await running.send("public", "POST", "/v1/otp", code)).status == 200
    told = wire.encode_rejected("search", json.loads(first.body)["fingerprint"])
    assert json.loads((await running.send("public", "POST", "/rejected", told)).body) == {"dropped": True}
    for path in ("/v1/profiles", "/v1/me", "/healthz"):
        assert (await running.send("public", "GET", path)).status == 200


async def test_the_admin_socket_answers_as_described(running: Sockets) -> None:
    """In the state that shows most: one token, one failure, one reference that cannot be read."""
    del running.world.vault.values["op://Agents/mine-cron/credential"]
    await running.world.ask()
    running.world.issuer.script = [IssuerUnavailable("no", retry_after=9.0)] * 5
    await running.send("public", "POST", "/token", wire.encode_request(wire.TokenRequest("billing")), form=True)
    for path in ("/v1/status", "/v1/sessions", "/metrics", "/healthz"):
        assert (await running.send("admin", "GET", path)).status == 200
    status = json.loads((await running.send("admin", "GET", "/v1/status")).body)
    assert status["vault"]["failures"]
    assert [token["last_error"] is None for token in status["tokens"]] == [True, False]
    session = json.loads((await running.send("admin", "GET", "/v1/sessions")).body)["sessions"][0]["id"]
    for body in ({"profile": "search"}, {"all": True}, {"session": session}):
        check(body, {"$ref": "#/components/schemas/Revocation"})
        assert (await running.send("admin", "POST", "/v1/revoke", json.dumps(body).encode())).status == 200
    for path in ("/v1/lock", "/v1/unlock", "/v1/reload"):
        assert (await running.send("admin", "POST", path)).status == 200
    assert json.loads((await running.send("admin", "GET", "/v1/status")).body)["last_lock"]
    for setting in ("terminal", "plain", "end"):
        tried = json.dumps({"setting": setting}).encode()
        assert (await running.send("admin", "POST", "/v1/op-experiment", tried)).status == 200


async def test_two_vaults_that_are_being_read_are_shown_as_described() -> None:
    """In the state that shows most: who waits, and the allowances of a service account."""
    config = replace(configuration(), autonomous_vault=VaultConfig("service-account", credential="systemd://op"))
    async with World(config) as world:
        world.vault.gate.clear()
        asking = world.start(reason="to look it up")
        await settle()
        world.cron_vault.allowances = (
            RateLimit("token", "read", 1000, 3, 3500.0),
            RateLimit("account", "read", 9, 1, None),
        )
        state = views.status(world.broker, world.clock.now())
        about = {"version": "0", "pid": 1, "started_at": 1.0, "config": None, "config_error": None, "hardening": {}}
        check({**about, **state, "desk": {}, "last_lock": None}, {"$ref": "#/components/schemas/Status"})
        assert state["vault"]["asked_by"][0]["claimed_reason"] == "to look it up"
        assert [one["used"] for one in state["autonomous_vault"]["limits"]] == [3, 1]
        world.vault.gate.set()
        await asking


@pytest.mark.parametrize(
    ("name", "path", "body", "status"),
    [
        pytest.param("public", "/token", b"grant_type=password", 400, id="another grant"),
        pytest.param("public", "/token", b"grant_type=client_credentials&profile=x", 400, id="an unknown profile"),
        pytest.param("public", "/rejected", b"{}", 400, id="a rejection of nothing"),
        pytest.param("public", "/v1/otp", b"{}", 400, id="a one-time password of nothing"),
        pytest.param("public", "/proof", b"{}", 400, id="a proof of nothing"),
        pytest.param("public", "/proof", NO_TOKEN, 400, id="a proof for no token"),
        pytest.param(
            "public", "/v1/otp", b'{"reference":"op://V/other/otp"}', 403, id="a one-time password that no rule allows"
        ),
        pytest.param("admin", "/v1/op-experiment", b"{}", 400, id="an experiment with nothing"),
        pytest.param("admin", "/v1/revoke", b"{}", 400, id="a revocation of nothing"),
        pytest.param("admin", "/v1/reload", b"", 400, id="a wrong configuration"),
    ],
)
async def test_errors_are_as_described(running: Sockets, name: str, path: str, body: bytes, status: int) -> None:
    running.reloads = ConfigError("config.toml line 1: wrong")
    assert (await running.send(name, "POST", path, body, form=path == "/token")).status == status


async def test_a_path_that_is_not_served_says_so(running: Sockets) -> None:
    for method, path, status in (("GET", "/token", 405), ("GET", "/nowhere", 404)):
        response = await AsyncClient(str(running.paths["public"])).send(calls.Call(method, path))
        assert response.status == status
        check(json.loads(response.body), {"$ref": "#/components/schemas/Error"})


async def test_the_daemon_describes_itself_as_described() -> None:
    """What it adds to the state of its broker, before it serves."""
    here = replace(Surroundings.of_this_process(), environ={})
    daemon = Daemon(Options(None, None, configuration(), DevVault({}), hardening={"umask": "on"}), here)
    state = {**daemon._about(), **views.status(daemon.broker, daemon.clock.now()), "last_lock": None}
    check(state, {"$ref": "#/components/schemas/Status"})


async def test_events_are_as_described(running: Sockets) -> None:
    stream = running.events.watch()
    await anext(stream)
    running.events.record("token served", {"profile": "search", "pid": 1})
    line = (await anext(stream)).decode()
    check(json.loads(line.removeprefix("data: ")), {"$ref": "#/components/schemas/Event"})
