"""Both sockets with a Broker behind them, over real Unix sockets: routes, refusals, and what is never shown."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from tests.fakes_clock import settle
from tests.integration.both_apis import both_apis
from tests.service.world import SECRET, World
from tokenbroker.api.http import HttpServer
from tokenbroker.config import RuleConfig
from tokenbroker.errors import ConfigError, IssuerUnavailable, PromptDismissed
from tokenbroker.events import Events
from tokenbroker.system.sockets import listen
from tokenbroker_client import wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

FORM = "application/x-www-form-urlencoded"


class Rig:
    """A Broker on fakes behind both of its sockets."""

    def __init__(self, folder: Path) -> None:
        self.world = World()
        self.events = Events(lambda: self.world.clock.now().wall)
        self.world.broker._audit = self.events
        self.world.cache._audit = self.events
        self.config_error: ConfigError | None = None
        self.uid = os.getuid()
        self.paths = {"public": folder / "s" / "broker.sock", "admin": folder / "s" / "admin" / "admin.sock"}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Rig]:
        world = self.world
        public, admin = both_apis(world, self.events, about=lambda: {"version": "0"}, reload=self.reload, uid=self.uid)
        self.public = public
        with contextlib.ExitStack() as cleanup:
            servers = []
            for name, api in (("public", public), ("admin", admin)):
                bound = listen(self.paths[name], uid=os.getuid())
                cleanup.callback(bound.close)
                server = HttpServer(api, on_connect=api.connected)
                await server.serve(bound.sock)
                servers.append(server)
            async with world:
                yield self
            for server in servers:
                server.close()

    def reload(self) -> None:
        if self.config_error is not None:
            raise self.config_error

    async def send(
        self, method: str, path: str, body: str = "", *, to: str = "public", kind: str = FORM
    ) -> tuple[int, dict[str, str], Any]:
        """Send one request; return status, headers and the JSON (or text) of the answer."""
        reader, writer = await asyncio.open_unix_connection(self.paths[to])
        content = body.encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: d\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n"
        writer.write((head + "Connection: close\r\n\r\n").encode() + content)
        answer = await reader.read()
        writer.close()
        raw_head, _, raw = answer.partition(b"\r\n\r\n")
        first, *lines = raw_head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        parsed = json.loads(raw) if headers.get("content-type") == "application/json" and raw else raw.decode()
        return int(first.split()[1]), headers, parsed

    async def token(self, **parameters: str) -> tuple[int, dict[str, str], Any]:
        form = {"grant_type": "client_credentials", "profile": "search"} | parameters
        return await self.send("POST", "/token", urlencode({k: v for k, v in form.items() if v}))

    async def admin(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, str], Any]:
        text = "" if body is None else json.dumps(body)
        return await self.send(method, path, text, to="admin", kind="application/json")


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with Rig(tmp_path).running() as running:
        yield running


async def test_a_token_request_is_answered_as_rfc_6749_says_with_ours_beside_it(rig: Rig) -> None:
    status, headers, answer = await rig.token()
    assert status == 200
    assert headers["cache-control"] == "no-store"
    assert next(iter(answer)) == "access_token", "the client's fast path looks for it first"
    expected = {"access_token": "token-1", "token_type": "Bearer", "expires_in": 3600, "scope": "read"}
    expected |= {"profile": "search", "agent_type": "interactive", "owner": "owner@example.com", "source": "fetch"}
    assert expected == {name: answer[name] for name in expected}
    assert answer["expires_at"] == int(rig.world.clock.now().wall + 3600)
    assert len(answer["fingerprint"]) == 12
    assert answer["session"]


@pytest.mark.parametrize("word", ["audience", "resource"])
async def test_a_profile_is_found_by_what_its_token_is_for(rig: Rig, word: str) -> None:
    status, _, answer = await rig.token(profile="", **{word: "https://billing"})
    assert (status, answer["profile"]) == (200, "billing")


@pytest.mark.parametrize(
    ("parameters", "status", "error", "code"),
    [
        pytest.param({"grant_type": ""}, 400, "invalid_request", "usage", id="no grant type"),
        pytest.param({"grant_type": "password"}, 400, "unsupported_grant_type", "unsupported_grant_type", id="grant"),
        pytest.param({"profile": "serach"}, 400, "invalid_target", "unknown_profile", id="unknown profile"),
        pytest.param({"profile": ""}, 400, "invalid_target", "unknown_profile", id="no profile"),
        pytest.param({"scope": "admin"}, 400, "invalid_scope", "scope_exceeds_profile", id="more scope"),
        pytest.param({"min_ttl": "soon"}, 400, "invalid_request", "usage", id="min_ttl is no number"),
        pytest.param({"min_ttl": "-1"}, 400, "invalid_request", "usage", id="min_ttl is negative"),
        pytest.param({"min_ttl": "nan"}, 400, "invalid_request", "usage", id="min_ttl is not a number at all"),
        pytest.param({"min_ttl": "99999"}, 400, "invalid_request", "min_ttl_unmet", id="min_ttl cannot be met"),
        pytest.param({"interaction": "maybe"}, 400, "invalid_request", "usage", id="unknown interaction"),
        pytest.param({"agent_type": "root"}, 400, "invalid_request", "usage", id="unknown agent type"),
        pytest.param({"interaction": "never"}, 403, "access_denied", "locked", id="locked and may not prompt"),
        pytest.param({"agent_type": "autonomous"}, 403, "access_denied", "locked", id="lowered itself and locked"),
    ],
)
async def test_refusals(rig: Rig, parameters: dict[str, str], status: int, error: str, code: str) -> None:
    found, _, answer = await rig.token(**parameters)
    assert (status, error, code) == (found, answer["error"], answer["code"])
    assert answer["error_description"]
    assert answer["hint"]
    assert answer["correlation_id"]
    assert (await rig.token())[0] == 200, "and the next request is served"


async def test_a_retryable_error_says_when_to_come_back(rig: Rig) -> None:
    rig.world.issuer.script = [IssuerUnavailable("busy", retry_after=77)]
    status, headers, answer = await rig.token()
    assert (status, headers["retry-after"]) == (503, "77")
    assert (answer["retryable"], answer["error"]) == (True, "temporarily_unavailable")


async def test_what_is_unknown_is_ignored(rig: Rig) -> None:
    assert (await rig.token(client_id="whoever", client_secret="ignored", future="1"))[0] == 200


async def test_a_credential_that_a_library_sends_is_not_kept(rig: Rig) -> None:
    """Request bodies are remembered once decoded; one with somebody's secret in it is not."""
    await rig.token()
    decoder = rig.public._decode
    before = decoder.cache_info().currsize
    await rig.token(client_id="whoever", client_secret="somebody's own")
    assert decoder.cache_info().currsize == before == 1


async def test_another_content_type_is_refused(rig: Rig) -> None:
    status, _, answer = await rig.send("POST", "/token", "{}", kind="application/json")
    assert (status, answer["code"]) == (400, "usage")


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [("GET", "/token", 405, "POST"), ("GET", "/nothing", 404, None), ("POST", "/v1/me", 405, "GET")],
)
async def test_other_paths_and_methods(rig: Rig, method: str, path: str, status: int, allow: str | None) -> None:
    found, headers, _ = await rig.send(method, path)
    assert (status, allow) == (found, headers.get("allow"))


async def test_no_get_of_either_socket_shows_a_token_or_secret(rig: Rig) -> None:
    """What looks can be called by anything that may be logged or cached."""
    await rig.token()
    shown = [await rig.send("GET", path) for path in ("/v1/profiles", "/v1/me", "/healthz", "/token")]
    shown += [await rig.admin("GET", path) for path in ("/v1/status", "/v1/sessions", "/metrics", "/healthz")]
    assert "token-1" not in repr(shown)
    assert SECRET not in repr(shown)


async def test_looking_never_prompts(rig: Rig) -> None:
    for path in ("/v1/profiles", "/v1/me", "/healthz"):
        assert (await rig.send("GET", path))[0] == 200
    for path in ("/v1/status", "/v1/sessions", "/metrics"):
        assert (await rig.admin("GET", path))[0] == 200
    assert rig.world.vault.reads == []


async def test_a_rejected_token_is_dropped_once(rig: Rig) -> None:
    _, _, answer = await rig.token()
    body = wire.encode_rejected("search", answer["fingerprint"]).decode()
    assert (await rig.send("POST", "/rejected", body, kind="application/json"))[2] == {"dropped": True}
    assert (await rig.send("POST", "/rejected", body, kind="application/json"))[2] == {"dropped": False}
    assert (await rig.token())[2]["access_token"] == "token-2"


@pytest.mark.parametrize("body", ["", "[]", '{"profile":"search"}', '{"profile":1,"fingerprint":2}', "{"])
async def test_a_malformed_rejection_is_refused(rig: Rig, body: str) -> None:
    status, _, answer = await rig.send("POST", "/rejected", body, kind="application/json")
    assert (status, answer["code"]) == (400, "usage")


async def test_profiles_say_what_the_rules_say_of_this_peer(rig: Rig) -> None:
    _, _, answer = await rig.send("GET", "/v1/profiles")
    assert [("search", "allow"), ("billing", "allow")] == [(p["profile"], p["decision"]) for p in answer["profiles"]]
    rig.world.inspector.peer = rig.world.cron
    _, _, answer = await rig.send("GET", "/v1/profiles")
    assert [("search", "allow"), ("billing", "deny")] == [(p["profile"], p["decision"]) for p in answer["profiles"]]


async def test_another_users_process_is_heard_on_neither_socket(tmp_path: Path) -> None:
    """Peer uid is enforced at connect: root itself is another user here."""
    other = Rig(tmp_path)
    other.uid = os.getuid() + 1
    async with other.running():
        for to in ("public", "admin"):
            status, _, answer = await other.send("GET", "/healthz", to=to)
            assert (status, answer["code"]) == (403, "denied")


async def test_unlock_lock_and_status(rig: Rig) -> None:
    assert (await rig.admin("GET", "/v1/status"))[2]["vault"]["state"] == "locked"
    status, _, vault = await rig.admin("POST", "/v1/unlock")
    assert (status, vault["state"], vault["secrets"]) == (200, "unlocked", 2)
    await rig.token()
    _, _, state = await rig.admin("GET", "/v1/status")
    [token] = state["tokens"]
    assert ("search", "mine", "cache", None) == tuple(token[k] for k in ("profile", "client", "source", "last_error"))
    assert (await rig.admin("POST", "/v1/lock"))[2] == {"forgot": {"tokens": 1, "secrets": 2, "pending": 0}}
    assert (await rig.admin("GET", "/v1/status"))[2]["tokens"] == []


async def test_a_refused_unlock_says_so(rig: Rig) -> None:
    rig.world.vault.raises = PromptDismissed("the prompt was dismissed", hint="run `broker unlock` again")
    status, _, answer = await rig.admin("POST", "/v1/unlock")
    assert (status, answer["code"]) == (403, "prompt_dismissed")
    assert (await rig.admin("GET", "/v1/status"))[2]["vault"]["state"] == "cooling_down"


async def test_sessions_and_revoke(rig: Rig) -> None:
    await rig.token()
    [session] = (await rig.admin("GET", "/v1/sessions"))[2]["sessions"]
    assert (session["pid"], session["tokens"][0]["served"]) == (rig.world.me.root_pid, 1)
    status, _, answer = await rig.admin("POST", "/v1/revoke", {"session": session["id"]})
    told: dict[str, Any] = {"revoked": 1, "unsupported": 0, "failed": 0, "valid_until": None, "problems": []}
    assert (status, answer) == (200, {"revoked": {"session": session["id"], "tokens": 1, "at_issuers": told}})
    assert (await rig.token())[2]["code"] == "revoked"


@pytest.mark.parametrize(
    ("body", "status", "tokens"),
    [
        pytest.param({"profile": "search"}, 200, 1, id="a profile"),
        pytest.param({"all": True}, 200, 1, id="all"),
        pytest.param({"profile": "nosuch"}, 400, None, id="unknown profile"),
        pytest.param({"session": "nosuch"}, 400, None, id="unknown session"),
        pytest.param({}, 400, None, id="nothing"),
        pytest.param({"all": True, "profile": "search"}, 400, None, id="two things"),
        pytest.param({"all": False}, 400, None, id="not all"),
    ],
)
async def test_revoke(rig: Rig, body: dict[str, object], status: int, tokens: int | None) -> None:
    await rig.token()
    found, _, answer = await rig.admin("POST", "/v1/revoke", body)
    assert found == status
    assert answer.get("revoked", {}).get("tokens") == tokens


async def test_reload_says_what_is_wrong(rig: Rig) -> None:
    assert (await rig.admin("POST", "/v1/reload"))[0] == 200
    rig.config_error = ConfigError("config.toml line 3: vault.backend: expected …, found …")
    status, _, answer = await rig.admin("POST", "/v1/reload")
    assert (status, answer["code"]) == (400, "config")
    assert "line 3" in answer["error_description"]


async def test_events_are_streamed_as_they_happen(rig: Rig) -> None:
    reader, writer = await asyncio.open_unix_connection(rig.paths["admin"])
    writer.write(b"GET /v1/events HTTP/1.1\r\nHost: d\r\n\r\n")
    await reader.readuntil(b": watching\n\n")
    await rig.token()
    seen = [json.loads((await reader.readuntil(b"\n\n")).decode().removeprefix("data: ")) for _ in range(2)]
    assert ["token fetched", "token served"] == [event["event"] for event in seen]
    assert "token-1" not in repr(seen)
    writer.close()
    await settle()


async def test_metrics_count_what_happened(rig: Rig) -> None:
    await rig.token()
    await rig.token()
    _, headers, text = await rig.admin("GET", "/metrics")
    assert headers["content-type"].startswith("text/plain")
    assert 'tokenbroker_events_total{event="token served"} 2' in text
    assert "tokenbroker_tokens 1\n" in text
    assert "tokenbroker_unlocked 1\n" in text


async def test_a_peer_that_vanishes_cancels_only_its_own_wait(rig: Rig) -> None:
    rig.world.issuer.gate.clear()
    _, gone = await asyncio.open_unix_connection(rig.paths["public"])
    body = b"grant_type=client_credentials&profile=search"
    gone.write(b"POST /token HTTP/1.1\r\nHost: d\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    await rig.world.issuer.asked.wait()
    other = asyncio.ensure_future(rig.token())
    gone.close()
    await settle()
    rig.world.issuer.gate.set()
    assert (await other)[2]["access_token"] == "token-1"
    assert len(rig.world.issuer.calls) == 1


async def test_a_one_time_password_is_given_by_rule_and_never_by_get(rig: Rig) -> None:
    reference = "op://Agents/github/one-time password"
    rig.world.vault.values[f"{reference}?attribute=otp"] = "123456"
    body = json.dumps({"reference": reference})
    status, _, answer = await rig.send("POST", "/v1/otp", body, kind="application/json")
    assert (status, answer["code"]) == (403, "denied")
    config = rig.world.broker.config
    rig.world.broker.config = replace(config, rules=(*config.rules, RuleConfig(None, "allow", otp="op://Agents/*")))
    status, headers, answer = await rig.send("POST", "/v1/otp", body, kind="application/json")
    assert (status, answer, headers["cache-control"]) == (200, {"otp": "123456"}, "no-store")
    assert (await rig.send("GET", "/v1/otp"))[0] == 405


async def test_a_caller_that_may_not_prompt_gets_no_one_time_password(rig: Rig) -> None:
    config = rig.world.broker.config
    rig.world.broker.config = replace(config, rules=(RuleConfig(None, "allow", otp="op://*"),))
    body = {"reference": "op://Agents/github/one-time password", "interaction": "never"}
    status, _, answer = await rig.send("POST", "/v1/otp", json.dumps(body), kind="application/json")
    assert (status, answer["code"]) == (403, "locked")
