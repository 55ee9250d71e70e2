"""1Password through a Connect server, against the stand-in (contract, sections 4 and 8)."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import socket
import subprocess
import sys
import threading
import tomllib
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.no_tls import NO_TLS
from tests.standins import connect_server
from tests.standins.connect_server import TOKEN, ConnectServer, status, text
from tests.standins.private_ca import PrivateCa
from tokenbroker.config import VaultConfig
from tokenbroker.errors import Locked, SecretAmbiguous, SecretNotFound, VaultError, VaultNotInstalled, VaultUnavailable
from tokenbroker.model import Secret, SecretRef
from tokenbroker.vaults.connect import api as connect_api
from tokenbroker.vaults.connect.answers import Absent, Entry, Malformed, TokenRefused, TooBig, parse_entries
from tokenbroker.vaults.connect.vault import ConnectVault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.standins.connect_server import Fault

ROOT = Path(__file__).parents[2]
ID = SecretRef("op://Agents/m2m/username")
KEY = SecretRef("op://Agents/m2m/credential")
OTHER = SecretRef("op://Agents/cron/credential")
GOOD = {ID: Secret("client-id"), KEY: Secret("s3cret-interactive"), OTHER: Secret("s3cret-autonomous")}
UNSHOWN = (TOKEN, "SERVER-WORDS", "s3cret", "client-id")


class Keeper:
    """Where the access token is kept: what a person puts there, and how often it was looked for."""

    def __init__(self, *tokens: str | VaultError) -> None:
        self.tokens = list(tokens)
        self.asked = 0

    async def __call__(self) -> Secret:
        self.asked += 1
        found = self.tokens.pop(0) if len(self.tokens) > 1 else self.tokens[0]
        if isinstance(found, VaultError):
            raise found
        return Secret(found)


@pytest.fixture
async def server() -> AsyncIterator[ConnectServer]:
    """Give a server with one vault of two items."""
    async with ConnectServer() as made:
        agents = made.add_vault("Agents")
        made.add_item(agents, "m2m", {"username": "client-id", "credential": "s3cret-interactive"})
        made.add_item(agents, "cron", {"credential": "s3cret-autonomous"})
        yield made


@pytest.fixture
def agents(server: ConnectServer) -> str:
    """Give the id of its vault."""
    return next(iter(server.vaults))


@pytest.fixture
def make(server: ConnectServer) -> Callable[..., ConnectVault]:
    """Give a maker of vaults on that server."""

    def maker(keeper: Keeper | None = None, **config: Any) -> ConnectVault:
        settings: dict[str, Any] = {
            "url": server.url,
            "credential": "keyring://tokenbroker/connect",
            "timeout": 5.0,
        } | config
        return ConnectVault(VaultConfig(backend="connect", **settings), credential=keeper or Keeper(TOKEN))

    return maker


@pytest.fixture
def vault(make: Callable[..., ConnectVault]) -> ConnectVault:
    return make()


async def failure(vault: ConnectVault) -> VaultError:
    """Return the error that a read of everything raises, having looked that it shows nothing."""
    with pytest.raises(VaultError) as raised:
        await vault.read(list(GOOD))
    error = raised.value
    shown = "".join(traceback.format_exception(error)) + repr(error) + str(error.hint)
    assert not [word for word in UNSHOWN if word in shown]
    assert error.hint
    assert not error.message.endswith(".")
    assert {type(past) for past in history(error)} <= OURS
    return error


OURS = {
    VaultUnavailable, VaultNotInstalled, Absent, Malformed, TokenRefused, TooBig,
    ModuleNotFoundError, TimeoutError, asyncio.CancelledError,
}  # fmt: skip
"""What may stand behind an error: those of httpx hold the request, those of json the answer."""


def history(error: BaseException | None) -> list[BaseException]:
    """Return an error with all in whose handling it was raised."""
    return [error, *history(error.__context__)] if error is not None else []


async def one(vault: ConnectVault, uri: str) -> Secret | VaultError:
    ref = SecretRef(uri)
    return (await vault.read([ref]))[ref]


# --- what is read, and in how many requests ---------------------------------------------------------------------------


async def test_each_item_and_listing_is_read_once(server: ConnectServer, vault: ConnectVault, agents: str) -> None:
    """However many references there are, and whether they name an item by title in any case or by id."""
    by_id = SecretRef(f"op://{agents}/{connect_server.identity('i', 0)}/username")
    in_capitals = SecretRef("op://AGENTS/M2M/USERNAME")
    found = await vault.read([*GOOD, by_id, in_capitals])
    assert found == {**GOOD, by_id: Secret("client-id"), in_capitals: Secret("client-id")}
    assert sorted(server.paths) == sorted([
        "/v1/vaults", f"/v1/vaults/{agents}/items",
        f"/v1/vaults/{agents}/items/{connect_server.identity('i', 0)}",
        f"/v1/vaults/{agents}/items/{connect_server.identity('i', 1)}",
    ])  # fmt: skip


async def test_ids_need_no_listing_of_items(server: ConnectServer, vault: ConnectVault, agents: str) -> None:
    item = connect_server.identity("i", 0)
    assert await one(vault, f"op://{agents}/{item}/credential") == Secret("s3cret-interactive")
    assert server.paths == ["/v1/vaults", f"/v1/vaults/{agents}/items/{item}"]


async def test_no_request_is_made_for_nothing(server: ConnectServer, make: Callable[..., ConnectVault]) -> None:
    """Neither the server nor the place of the token is asked for references that are none."""
    keeper = Keeper(TOKEN)
    assert isinstance(await one(make(keeper), "op://Agents/a#b/credential"), SecretNotFound)
    assert (server.paths, keeper.asked) == ([], 0)


async def test_no_more_than_four_requests_at_once(server: ConnectServer, vault: ConnectVault, agents: str) -> None:
    """The server is shared. Four must be in flight together, or the barrier would never open."""
    refs = [SecretRef(f"op://{agents}/{server.add_item(agents, f't{n}', {'f': f'v{n}'})}/f") for n in range(12)]
    barrier = asyncio.Barrier(connect_api.CONCURRENCY)

    async def meet(_: object) -> None:
        await barrier.wait()

    server.fail(meet, path=r".*/items/.+")
    assert set((await vault.read(refs)).values()) == {Secret(f"v{n}") for n in range(12)}
    assert server.most_busy == connect_api.CONCURRENCY


@pytest.mark.parametrize("title", ['it\'s "m2m"', "a#b & c", "a/b//c", "50% ü 🔑", "a?b=c"])
async def test_an_item_of_any_title_is_read_by_its_id(
    server: ConnectServer, vault: ConnectVault, agents: str, title: str
) -> None:
    """And spoils the listing for no other."""
    item = server.add_item(agents, title, {"credential": "v"})
    assert await one(vault, f"op://Agents/{item}/credential") == Secret("v")
    assert await one(vault, "op://Agents/m2m/credential") == GOOD[KEY]


@pytest.mark.parametrize("kind", ["item", "vault"])
async def test_a_title_with_the_form_of_an_id_is_found(server: ConnectServer, vault: ConnectVault, kind: str) -> None:
    title = "abcdefghijklmnopqrstuvwxyz"
    known = server.add_vault(title if kind == "vault" else "Other")
    item = server.add_item(known, title if kind == "item" else "m2m", {"credential": "v"})
    assert item != title
    uri = f"op://{title}/m2m/credential" if kind == "vault" else f"op://Other/{title}/credential"
    assert await one(vault, uri) == Secret("v")


async def test_an_id_goes_before_a_title_that_is_the_same(
    server: ConnectServer, vault: ConnectVault, agents: str
) -> None:
    item = connect_server.identity("i", 0)
    server.add_item(agents, item, {"credential": "wrong"})
    assert await one(vault, f"op://Agents/{item}/credential") == GOOD[KEY]


async def test_items_of_the_same_title_are_ambiguous_in_any_case(
    server: ConnectServer, vault: ConnectVault, agents: str
) -> None:
    server.add_item(agents, "M2M", {"credential": "other"})
    found = await vault.read(list(GOOD))
    assert isinstance(found[ID], SecretAmbiguous)
    assert found[OTHER] == GOOD[OTHER]


async def test_vaults_of_the_same_name_are_ambiguous(server: ConnectServer, vault: ConnectVault, agents: str) -> None:
    server.add_vault("agents")
    assert isinstance(await one(vault, "op://Agents/m2m/credential"), SecretAmbiguous)
    assert await one(vault, f"op://{agents}/m2m/credential") == GOOD[KEY]


@pytest.mark.parametrize("state", ["ARCHIVED", "DELETED"])
async def test_archived_items_are_not_there(
    server: ConnectServer, vault: ConnectVault, agents: str, state: str
) -> None:
    """Neither by id nor by title; and one that was replaced does not make its successor ambiguous."""
    old = server.add_item(agents, "m2m", {"credential": "old"}, state=state)
    assert await one(vault, "op://Agents/m2m/credential") == GOOD[KEY]
    assert isinstance(await one(vault, f"op://Agents/{old}/credential"), SecretNotFound)


async def test_sections_are_named_by_label_or_id(server: ConnectServer, vault: ConnectVault, agents: str) -> None:
    """Connect gives a field its section's id alone; the labels stand elsewhere in the item."""
    fields: list[dict[str, Any]] = [
        {"id": "a", "type": "CONCEALED", "label": "key", "value": "top"},
        {"id": "b", "type": "CONCEALED", "label": "key", "value": "live", "section": {"id": "s1"}},
        {"id": "c", "type": "CONCEALED", "label": "key", "value": "test", "section": {"id": "s2"}},
    ]
    sections = [{"id": "s1", "label": "Live"}, {"id": "s2"}]
    server.add_item(agents, "api", fields, sections=sections)
    assert await one(vault, "op://Agents/api/live/key") == Secret("live")
    assert await one(vault, "op://Agents/api/s2/key") == Secret("test")
    assert await one(vault, "op://Agents/api/key") == Secret("top")


async def test_a_one_time_password_is_the_code_and_not_its_seed(
    server: ConnectServer, vault: ConnectVault, agents: str
) -> None:
    seed = {"id": "TOTP_1", "type": "OTP", "label": "one-time password", "value": "SEED", "totp": "123456"}
    server.add_item(agents, "login", [seed])
    assert await one(vault, "op://Agents/login/one-time password?attribute=otp") == Secret("123456")
    del seed["totp"]
    old = await one(vault, "op://Agents/login/one-time password?attribute=otp")
    assert isinstance(old, SecretNotFound)


async def test_a_key_in_another_format_is_refused_clearly(
    server: ConnectServer, vault: ConnectVault, agents: str
) -> None:
    server.add_item(agents, "ssh", [{"id": "private_key", "type": "SSHKEY", "label": "private key", "value": "PEM"}])
    refused = await one(vault, "op://Agents/ssh/private key?ssh-format=openssh")
    assert isinstance(refused, SecretNotFound)
    assert "as they are" in refused.message
    assert "without `?ssh-format=openssh`" in str(refused.hint)
    assert await one(vault, "op://Agents/ssh/private key") == Secret("PEM")


# --- files ------------------------------------------------------------------------------------------------------------

PEM = "-----BEGIN KEY-----\nabc ü\n-----END KEY-----\n"


@pytest.mark.parametrize("query", ["", "?attribute=content"])
async def test_a_files_name_stands_for_a_field(
    server: ConnectServer, vault: ConnectVault, agents: str, query: str
) -> None:
    item = server.add_item(agents, "app", {"username": "me"}, sections=[{"id": "s1", "label": "Keys"}])
    server.add_file(agents, item, "key.pem", b"in a section", section={"id": "s1"})
    server.add_file(agents, item, "key.pem", PEM.encode())
    assert await one(vault, f"op://Agents/app/key.pem{query}") == Secret(PEM)
    assert await one(vault, f"op://Agents/app/keys/KEY.pem{query}") == Secret("in a section")


@pytest.mark.parametrize("query", ["attribute=size", "attribute=otp", "ssh-format=openssh"])
async def test_of_a_file_the_content_alone_is_given(
    server: ConnectServer, vault: ConnectVault, agents: str, query: str
) -> None:
    server.add_file(agents, connect_server.identity("i", 0), "key.pem", b"PEM")
    assert isinstance(await one(vault, f"op://Agents/m2m/key.pem?{query}"), SecretNotFound)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\xff\xfe\x00", id="not text"),
        pytest.param(b"", id="empty"),
        pytest.param(b"x" * (connect_api.MAX_FILE + 1), id="too large"),
    ],
)
async def test_a_file_that_is_no_secret_is_an_error_of_its_reference(
    server: ConnectServer, vault: ConnectVault, agents: str, content: bytes
) -> None:
    server.add_file(agents, connect_server.identity("i", 0), "blob", content)
    found = await vault.read([SecretRef("op://Agents/m2m/blob"), KEY])
    assert isinstance(found[SecretRef("op://Agents/m2m/blob")], SecretNotFound)
    assert found[KEY] == GOOD[KEY]


async def test_a_file_that_vanished_is_an_error_of_its_reference(
    server: ConnectServer, vault: ConnectVault, agents: str
) -> None:
    server.add_file(agents, connect_server.identity("i", 0), "blob", b"text")
    server.fail(status(404), path=r".*/content")
    assert isinstance(await one(vault, "op://Agents/m2m/blob"), SecretNotFound)


# --- what concerns one reference spoils no other ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "message"),
    [(403, "vault is not in scope"), (403, "Authorization: token does not have access to vault"),
     (404, "vault not found"), (400, "Invalid Vault UUID")],
)  # fmt: skip
async def test_a_vault_that_may_not_be_seen_spoils_no_other(
    server: ConnectServer, vault: ConnectVault, code: int, message: str
) -> None:
    other = server.add_vault("Other")
    item = server.add_item(other, "m2m", {"credential": "v"})
    server.fail(status(code, message), path=f".*/{other}/items.*")
    refs = [SecretRef("op://Other/m2m/credential"), SecretRef(f"op://{other}/{item}/credential")]
    found = await vault.read([*GOOD, *refs])
    assert {ref: found[ref] for ref in GOOD} == GOOD
    for ref in refs:
        error = found[ref]
        assert isinstance(error, SecretNotFound)
        assert "may not see it" in error.message
        assert "op connect vault grant" in str(error.hint)


async def test_a_vault_out_of_scope_is_not_found(server: ConnectServer, vault: ConnectVault) -> None:
    server.out_of_scope.add(server.add_vault("Other"))
    assert isinstance(await one(vault, "op://Other/m2m/credential"), SecretNotFound)


async def test_a_missing_item_or_field_names_the_reference(server: ConnectServer, vault: ConnectVault) -> None:
    for uri in ("op://Agents/none/credential", "op://Agents/m2m/none", "op://Agents/abcdefghijklmnopqrstuvwxyz/x"):
        error = await one(vault, uri)
        assert isinstance(error, SecretNotFound)
        assert uri in error.message
        assert error.hint


async def test_an_item_that_is_too_large_spoils_no_other(
    server: ConnectServer, vault: ConnectVault, agents: str
) -> None:
    server.add_item(agents, "huge", {"notes": "x" * (connect_api.MAX_BODY + 1)})
    found = await vault.read([SecretRef("op://Agents/huge/notes"), KEY])
    assert isinstance(found[SecretRef("op://Agents/huge/notes")], SecretNotFound)
    assert found[KEY] == GOOD[KEY]


async def test_an_unknown_type_of_vault_or_field_is_no_hindrance(
    server: ConnectServer, vault: ConnectVault, agents: str
) -> None:
    """The SDK's own listing of vaults would fail for all of them."""
    server.add_vault("New", type="SOMETHING_NEW")
    server.add_item(agents, "new", [{"id": "f", "type": "NEW", "purpose": "NEW", "label": "credential", "value": "v"}])
    assert await one(vault, "op://Agents/new/credential") == Secret("v")


# --- the access token -------------------------------------------------------------------------------------------------


async def test_the_token_is_read_when_it_is_needed_and_kept(
    server: ConnectServer, make: Callable[..., ConnectVault]
) -> None:
    keeper = Keeper(TOKEN)
    vault = make(keeper)
    assert keeper.asked == 0
    await vault.read([KEY])
    await vault.read([KEY])
    assert keeper.asked == 1
    await vault.close()
    assert await vault.read([KEY]) == {KEY: GOOD[KEY]}
    assert keeper.asked == 2


async def test_a_token_that_a_person_replaced_is_taken_up(
    server: ConnectServer, make: Callable[..., ConnectVault]
) -> None:
    """The old one expired; the new one lies where it was. Neither a restart nor a reload is needed."""
    keeper = Keeper(TOKEN, "new-token")
    vault = make(keeper)
    await vault.read([KEY])
    server.token = "new-token"
    assert await vault.read(list(GOOD)) == GOOD
    assert keeper.asked == 2
    assert [asked.authorization for asked in server.requests][-1] == "Bearer new-token"


async def test_a_refused_token_is_tried_twice_and_its_place_named(
    server: ConnectServer, make: Callable[..., ConnectVault]
) -> None:
    server.token = "another"
    keeper = Keeper(TOKEN)
    vault = make(keeper)
    error = await failure(vault)
    assert isinstance(error, VaultUnavailable)
    assert "refuses the access token" in error.message
    assert "keyring://tokenbroker/connect" in str(error.hint)
    assert not error.retryable
    assert len(server.requests) == 2
    server.token = TOKEN
    assert await vault.read([KEY]) == {KEY: GOOD[KEY]}


async def test_a_new_servers_first_false_refusal_is_survived(server: ConnectServer, vault: ConnectVault) -> None:
    """Before 1.7.2 the first answer could be 401 although the token is good."""
    server.fail(status(401), times=1)
    assert await vault.read(list(GOOD)) == GOOD


async def test_a_credential_that_cannot_be_had_is_the_readers_error(
    server: ConnectServer, make: Callable[..., ConnectVault]
) -> None:
    with pytest.raises(Locked, match="keyring is locked"):
        await make(Keeper(Locked("the keyring is locked"))).read([KEY])
    assert server.requests == []


@pytest.mark.parametrize("junk", ["", "two\nlines s3cret", "s3cret ü", "s3cret word"])
async def test_what_is_no_token_is_not_sent(
    server: ConnectServer, make: Callable[..., ConnectVault], junk: str
) -> None:
    """And httpx does not get to quote it in an error of its own."""
    error = await failure(make(Keeper(junk)))
    assert "is not an access token" in error.message
    assert not error.retryable
    assert server.requests == []


# --- faults of the server ---------------------------------------------------------------------------------------------

JUNK = [b"<html>SERVER-WORDS", b"[1, 2]", b'{"a": 1}', b'"SERVER-WORDS"', b"", b"\xff", b'[{"id": "v', b"[] []",
        b"[" * 100_000, b'[{"id": 1} {"id": 2}]', b"[,]"]  # fmt: skip
PASSES = ("error: 5", "limits the rate", "closed the connection")  # what nobody has to do anything about


def fault(says: str, behaviour: Fault, *, name: str, path: str = r"/v1/.*") -> Any:
    return pytest.param(says, behaviour, path, id=name)


@pytest.mark.parametrize(
    ("says", "behaviour", "path"),
    [
        fault("answered with an error: 502", text(b"<html>SERVER-WORDS", code=502, content_type="text/html"),
              name="a gateway's page"),
        fault("answered with an error: 500", status(500), name="500"),
        fault("answered with an error: 503", status(503), name="item 503", path=r".*/items/.*"),
        fault("answered with an error: 418", status(418), name="a status of no meaning"),
        fault("answered with an error: 204", text(b"", code=204), name="a success without an answer"),
        fault("limits the rate of requests", status(429), name="429", path=r".*/items/.*"),
        fault("closed the connection", connect_server.reset, name="reset"),
        fault("closed the connection", connect_server.cut_short, name="cut short", path=r".*/items/.*"),
        fault("shows this access token no vault", text(b"[]"), name="no vault"),
        fault("shows this access token no vault", text(b"null"), name="null for no vault"),
        fault("not 1Password Connect's", text(b'{"id": "x", "fi'), name="truncated item", path=r".*/items/.*"),
        fault("not 1Password Connect's", text(b'{"id": "iiiiiiiiiiiiiiiiiiiiiiiiii", "fields": {"a": 1}}'),
              name="fields are no list", path=r".*/items/.*"),
        fault("not 1Password Connect's", status(404), name="vaults 404"),
        fault("not 1Password Connect's", status(403), name="vaults 403"),
        *(fault("not 1Password Connect's", text(junk), name=f"junk {number}") for number, junk in enumerate(JUNK)),
        fault("longer than tokenbroker takes", connect_server.endless, name="endless"),
        fault("longer than tokenbroker takes", connect_server.endless, name="endless items", path=r".*/items"),
        fault("not 1Password Connect's", text(gzip.compress(b"[]"), encoding="gzip"), name="packed"),
    ],
)  # fmt: skip
async def test_a_fault_is_explained_and_shows_nothing(
    server: ConnectServer,
    vault: ConnectVault,
    caplog: pytest.LogCaptureFixture,
    *,
    says: str,
    behaviour: Fault,
    path: str,
) -> None:
    """None of the server's words, no value and no token are in the error or the log; and the next read is as good."""
    caplog.set_level(logging.DEBUG)
    server.fail(behaviour, path=path)
    error = await failure(vault)
    assert isinstance(error, VaultUnavailable)
    assert says in error.message
    assert "`" in str(error.hint)
    assert error.retryable == any(words in says for words in PASSES)
    said = "".join(record.getMessage() for record in caplog.records if not record.name.startswith("aiohttp"))
    assert not [word for word in UNSHOWN if word in said]
    server._faults.clear()
    assert await vault.read(list(GOOD)) == GOOD


@pytest.mark.parametrize(
    ("header", "seconds"), [("17", 17.0), ("Tue, 24 Nov 2026 08:00:00 GMT", 600.0), ("-1", 600.0), ("999999", 86400.0)]
)
async def test_the_wait_that_a_busy_server_asks_for_is_passed_on(
    server: ConnectServer, vault: ConnectVault, header: str, seconds: float
) -> None:
    server.fail(status(429, headers={"Retry-After": header}))
    assert (await failure(vault)).retry_after == seconds


@pytest.mark.parametrize("behaviour", ["silence", "drip"])
async def test_a_slow_answer_is_given_up(
    server: ConnectServer, make: Callable[..., ConnectVault], behaviour: str
) -> None:
    """Whether nothing comes or a byte now and then: the time is of the whole exchange."""
    if behaviour == "silence":
        server.gate.clear()
    else:
        server.fail(connect_server.drip)
    error = await failure(make(timeout=0.2))
    assert "did not answer within 0.2 s" in error.message
    assert error.retryable


async def test_a_read_of_many_slow_answers_is_bounded(
    server: ConnectServer, make: Callable[..., ConnectVault], agents: str
) -> None:
    """Each answer comes just in time, and there are many of them."""
    refs = [SecretRef(f"op://{agents}/{server.add_item(agents, f't{n}', {'f': 'v'})}/f") for n in range(80)]

    async def late(_: object) -> None:
        await asyncio.sleep(0.12)

    server.fail(late)
    with pytest.raises(VaultUnavailable, match=r"did not answer everything within 1\.6 s") as raised:
        await make(timeout=0.4).read(refs)
    assert raised.value.retryable


async def test_a_redirect_is_not_followed(server: ConnectServer, vault: ConnectVault) -> None:
    """The token would go with it."""
    async with ConnectServer() as elsewhere:
        server.fail(status(307, headers={"Location": f"{elsewhere.url}/v1/vaults"}))
        error = await failure(vault)
        assert "redirects" in error.message
        assert not error.retryable
        assert elsewhere.requests == []


async def test_a_server_that_does_not_run_is_named(make: Callable[..., ConnectVault]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    error = await failure(make(url=url))
    assert error.message == f"the Connect server at {url} cannot be reached"
    assert f"curl {url}/health" in str(error.hint)
    assert error.retryable


@pytest.mark.parametrize("values", ["1MiB", "escaped"])
async def test_long_values_pass(server: ConnectServer, vault: ConnectVault, agents: str, values: str) -> None:
    """A value of a mebibyte is read, also if JSON spells each character with six."""
    value = ("x" if values == "1MiB" else "\x01") * (1 << 20)
    server.add_item(agents, "long", {"notes": value})
    assert await one(vault, "op://Agents/long/notes") == Secret(value)


# --- what the environment and the machine may not change --------------------------------------------------------------


async def test_the_environment_has_no_say(
    server: ConnectServer, vault: ConnectVault, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No proxy sees the token, no variable sets the timeout or the token, no ~/.netrc replaces it."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login thief password thief\n")
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, address)
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("NETRC", str(netrc))
        monkeypatch.setenv("OP_CONNECT_HOST", address)
        monkeypatch.setenv("OP_CONNECT_TOKEN", "another")
        monkeypatch.setenv("OP_CONNECT_CLIENT_REQ_TIMEOUT", "None")
        assert await vault.read(list(GOOD)) == GOOD
        proxy.setblocking(False)  # noqa: FBT003  # its signature
        with pytest.raises(BlockingIOError):
            proxy.accept()
    assert {asked.authorization for asked in server.requests} == {f"Bearer {TOKEN}"}
    assert {asked.headers["Accept-Encoding"] for asked in server.requests} == {"identity"}
    assert {asked.headers["User-Agent"].partition("/")[0] for asked in server.requests} == {"tokenbroker"}


async def test_connections_are_closed_after_a_read(server: ConnectServer, vault: ConnectVault) -> None:
    """Reads are hours apart; a server that sees idle clients for days is badly served."""
    await vault.read(list(GOOD))
    assert server._runner is not None
    assert server._runner.server is not None

    async def all_gone() -> None:
        while server._runner.server.connections:  # type: ignore[union-attr]  # noqa: ASYNC110  # aiohttp tells nobody
            await asyncio.sleep(0)

    await asyncio.wait_for(all_gone(), 2)


async def test_no_address_is_logged(vault: ConnectVault, caplog: pytest.LogCaptureFixture) -> None:
    """The daemon logs at INFO, and so would httpx, each of them."""
    caplog.set_level(logging.DEBUG)
    await vault.read(list(GOOD))
    assert [record.name for record in caplog.records if record.name.startswith("http")] == []


async def test_answers_are_taken_apart_beside_the_event_loop(
    vault: ConnectVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing may be long, and everyone would wait."""
    threads = []

    def watched(body: bytes, name: str) -> list[Entry]:
        threads.append(threading.current_thread())
        return parse_entries(body, name)

    monkeypatch.setattr(connect_api, "parse_entries", watched)
    assert await vault.read(list(GOOD)) == GOOD
    assert len(threads) == 2
    assert threading.main_thread() not in threads


FIRST_READ = """
import asyncio, sys, threading
from tests.standins.connect_server import TOKEN, ConnectServer
from tokenbroker.config import VaultConfig
from tokenbroker.model import Secret, SecretRef
from tokenbroker.vaults.connect.vault import ConnectVault

class Watch:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if watching and threading.current_thread() is threading.main_thread():
            print(name)

watching = False
sys.meta_path.insert(0, Watch)

async def main():
    global watching
    async with ConnectServer() as server:
        server.add_item(server.add_vault("Agents"), "m2m", {"f": "v"})
        async def token(): return Secret(TOKEN)
        vault = ConnectVault(VaultConfig(url=server.url), credential=token)
        watching = True
        await vault.read([SecretRef("op://Agents/m2m/f")])
        watching = False

asyncio.run(main())
print("done", "onepasswordconnectsdk" in sys.modules)
"""


def test_the_libraries_are_loaded_beside_the_event_loop() -> None:
    """The first read imports half a second of Python, none of it while everyone waits."""
    done = subprocess.run([sys.executable, "-c", FIRST_READ], capture_output=True, text=True, check=True)
    *imported, last = done.stdout.splitlines()
    assert last == "done True"
    heavy = {"onepasswordconnectsdk", "httpx", "httpcore", "anyio", "h11", "certifi", "dateutil", "idna"}
    assert not {name.partition(".")[0] for name in imported} & heavy


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [False, True], ids=["new", "without key identifiers"])
async def test_a_private_authority_is_trusted_by_ca_file(
    tmp_path: Path, make: Callable[..., ConnectVault], *, old: bool
) -> None:
    authority = PrivateCa(tmp_path, old=old)
    async with ConnectServer(tls=authority.server("localhost")) as server:
        server.add_item(server.add_vault("Agents"), "m2m", {"credential": "v"})
        assert await make(url=server.url, ca_file=str(authority.file)).read([KEY]) == {KEY: Secret("v")}


@pytest.mark.parametrize(
    ("name", "known", "says"), [("localhost", False, "unable to get local issuer"), ("elsewhere", True, "another name")]
)
async def test_an_untrusted_certificate_gets_no_token(
    tmp_path: Path, make: Callable[..., ConnectVault], *, name: str, known: bool, says: str
) -> None:
    authority = PrivateCa(tmp_path)
    async with ConnectServer(tls=authority.server(name)) as server:
        error = await failure(make(url=server.url, ca_file=str(authority.file) if known else None))
        assert f"not trusted: {'it is for ' if known else ''}{says}" in error.message
        assert "ca_file" in str(error.hint) or str(authority.file) in str(error.hint)
        assert not error.retryable
        assert server.requests == []


@pytest.mark.parametrize(("content", "says"), [(None, "no such file or directory"), (b"junk", "no certificates")])
async def test_an_unusable_ca_file_is_named(
    tmp_path: Path, make: Callable[..., ConnectVault], content: bytes | None, says: str
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    error = await failure(make(url="https://localhost:1", ca_file=str(path)))
    assert error.message == f"ca_file {path} cannot be used: {says}"


# --- broker doctor ----------------------------------------------------------------------------------------------------


async def test_probing_reads_no_item(server: ConnectServer, vault: ConnectVault) -> None:
    server.out_of_scope.add(server.add_vault("Other"))
    assert await vault.probe() == "1.8.1; vaults: 1"
    assert server.paths == ["/heartbeat", "/v1/vaults", "/health"]


async def test_probing_tells_what_is_wrong_with_the_server(server: ConnectServer, vault: ConnectVault) -> None:
    report = {"name": "x", "version": "1.7.0", "dependencies": [{"service": "sync", "status": "SERVER-WORDS"}]}
    server.fail(text(json.dumps(report).encode()), path="/health")
    assert await vault.probe() == "1.7.0, not all of it active; vaults: 1"


@pytest.mark.parametrize("path", ["/heartbeat", "/v1/vaults", "/health"])
@pytest.mark.parametrize("behaviour", [status(404), status(401), status(502), connect_server.reset])
async def test_probing_raises_what_a_read_would(
    server: ConnectServer, vault: ConnectVault, path: str, behaviour: Fault
) -> None:
    server.fail(behaviour, path=path)
    with pytest.raises(VaultUnavailable) as raised:
        await vault.probe()
    assert raised.value.hint
    assert "SERVER" not in raised.value.message


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"version": "SERVER WORDS"}', b'{"version": 1}'])
async def test_probing_shows_no_words_of_the_servers(server: ConnectServer, vault: ConnectVault, body: bytes) -> None:
    server.fail(text(body), path="/health")
    with pytest.raises(VaultUnavailable, match="not 1Password Connect's"):
        await vault.probe()


async def test_without_the_package_the_command_that_installs_it_is_named(
    server: ConnectServer, vault: ConnectVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it installs what the extra `connect` would."""
    monkeypatch.delitem(sys.modules, "tokenbroker.vaults.connect.api")
    monkeypatch.setitem(sys.modules, "onepasswordconnectsdk.async_client", None)
    error = await failure(vault)
    assert isinstance(error, VaultNotInstalled)
    (package,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["connect"]
    assert f"run `pip install '{package}'`" in str(error.hint)


# --- the stand-in's filter, which the adapter does not use ------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "code", "titles"),
    [
        ('title eq "m2m"', 200, ["m2m"]),
        ('title eq "say \\"x\\" & #1"', 200, ['say "x" & #1']),
        ('title eq "none"', 200, []),
        ("title eq 'm2m'", 400, None),
        ('title eq "say "x""', 400, None),
        ('title co "m"', 400, None),
        ('name eq "m2m"', 400, None),
    ],
)
async def test_the_stand_in_understands_eq_filters_alone(
    server: ConnectServer, agents: str, asked: str, code: int, titles: list[str] | None
) -> None:
    import httpx  # noqa: PLC0415  # for this one

    server.add_item(agents, 'say "x" & #1')
    async with httpx.AsyncClient(
        headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False, verify=NO_TLS
    ) as client:
        answer = await client.get(f"{server.url}/v1/vaults/{agents}/items", params={"filter": asked})
    assert answer.status_code == code
    assert titles is None or [one["title"] for one in answer.json()] == titles
