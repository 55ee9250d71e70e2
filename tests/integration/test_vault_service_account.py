"""1Password by a service account, against the stand-in of `op` and its allowances (contract, sections 3 and 8)."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes_clock import FakeClock
from tests.standins.op_things import service_account_token
from tests.standins.op_world import OpWorld
from tokenbroker.config import VaultConfig
from tokenbroker.errors import Locked, SecretNotFound, VaultUnavailable
from tokenbroker.model import RateLimit, Secret, SecretRef
from tokenbroker.vaults.op import service_account
from tokenbroker.vaults.op.runner import OpRunner
from tokenbroker.vaults.op.service_account import ServiceAccountVault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

ID = SecretRef("op://Agents/m2m/username")
KEY = SecretRef("op://Agents/m2m/credential")
OTHER = SecretRef("op://Agents/cron/credential")
GOOD = {ID: Secret("client-id"), KEY: Secret("s3cret-interactive"), OTHER: Secret("s3cret-autonomous")}
COLD = 3 + 1 + 3  # reads that GOOD costs: two items by name, and a second field of one
READ, ASK = ["inject"], ["service-account", "ratelimit", "--format", "json"]
ALLOWED_ENV = {"HOME", "USER", "LOGNAME", "PATH", "LANG", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME",
               "OP_BIOMETRIC_UNLOCK_ENABLED", "OP_LOAD_DESKTOP_APP_SETTINGS", "OP_SERVICE_ACCOUNT_TOKEN"}  # fmt: skip


class Keeper:
    """Where the token is kept: gives the last of `tokens`, and counts."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = list(tokens)
        self.asked = 0

    async def __call__(self) -> Secret:
        self.asked += 1
        return Secret(self.tokens.pop(0) if len(self.tokens) > 1 else self.tokens[0])


@pytest.fixture
def world(tmp_path: Path) -> Iterator[OpWorld]:
    """Give a world with two items, no app, and no delays."""
    made = OpWorld.create(tmp_path, mode="sa")
    made.set(latency="none", time_scale=0.001)
    made.add_item("Agents", "m2m", {"username": "client-id", "credential": "s3cret-interactive"})
    made.add_item("Agents", "cron", {"credential": "s3cret-autonomous"})
    made.install(tmp_path / "programs")
    yield made
    made.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def keeper() -> Keeper:
    return Keeper(service_account_token("first"))


@pytest.fixture
async def make(
    world: OpWorld, tmp_path: Path, clock: FakeClock, keeper: Keeper
) -> AsyncIterator[Callable[..., ServiceAccountVault]]:
    """Give a maker of vaults on that world."""
    del world  # it has installed `op`
    made: list[ServiceAccountVault] = []

    def maker(*, environ: dict[str, str] | None = None, **config: Any) -> ServiceAccountVault:
        settings: dict[str, Any] = {"op": str(tmp_path / "programs/op"), "credential": "systemd://op"} | config
        made.append(
            ServiceAccountVault(
                VaultConfig(backend="service-account", **settings),
                environ=environ or {}, home=tmp_path, credential=keeper, clock=clock, runner=OpRunner(grace=0.2),
            )
        )  # fmt: skip
        return made[-1]

    yield maker
    for vault in made:
        await vault.close()


@pytest.fixture
def vault(make: Callable[..., ServiceAccountVault]) -> ServiceAccountVault:
    return make()


async def quiet(vault: ServiceAccountVault) -> None:
    """Wait until the look-up after a read is over."""
    if vault._asking is not None:
        await asyncio.wait([vault._asking])


def argvs(world: OpWorld) -> list[list[str]]:
    return [call.argv for call in world.calls()]


def used(vault: ServiceAccountVault) -> dict[str, int]:
    return {limit.type: limit.used for limit in vault.limits if limit.action != "write"}


async def test_read_asks_what_is_left_before_the_first_and_after_each(
    world: OpWorld, vault: ServiceAccountVault
) -> None:
    assert await vault.read(GOOD) == GOOD
    await quiet(vault)
    assert await vault.read(GOOD, fresh=True) == GOOD
    await quiet(vault)
    assert argvs(world) == [ASK, READ, ASK, ["inject", "--cache=false"], ASK]
    assert (world.prompts(), world.overlapping()) == (0, [])


async def test_answer_does_not_wait_for_the_look_up_after_it(world: OpWorld, vault: ServiceAccountVault) -> None:
    """It hangs here, and the next read ends it instead of waiting."""
    await vault.read(GOOD)
    await quiet(vault)
    world.fault("hang", command="service-account ratelimit", times=None)
    assert await vault.read(GOOD) == GOOD
    await asyncio.to_thread(world.wait_until, lambda w: argvs(w)[-1] == ASK)
    async with asyncio.timeout(10):  # a call is given 30 s
        assert await vault.read(GOOD) == GOOD
    assert [call.outcome for call in world.calls()] == ["ok", "ok", "ok", "ok", "killed", "ok"]


async def test_environment_holds_the_token_and_no_way_to_the_app(
    world: OpWorld, make: Callable[..., ServiceAccountVault], tmp_path: Path
) -> None:
    """A Connect server in the daemon's environment would take precedence, and an account or a desktop mislead."""
    hostile = {"OP_CONNECT_HOST": "h", "OP_CONNECT_TOKEN": "t", "OP_SESSION": "s", "OP_ACCOUNT": "other",
               "OP_SERVICE_ACCOUNT_TOKEN": "ops_other", "DISPLAY": ":0", "DBUS_SESSION_BUS_ADDRESS": "unix:x",
               "OP_LOAD_DESKTOP_APP_SETTINGS": "true", "LD_PRELOAD": "x", "PATH": "/nowhere"}  # fmt: skip
    vault = make(environ=dict(os.environ) | hostile, account="my.1password.com")
    assert await vault.read(GOOD) == GOOD
    await quiet(vault)
    assert len(world.calls()) == 3
    for call in world.calls():
        assert set(call.env) - ALLOWED_ENV <= {name for name in call.env if name.startswith("LC_")}
        assert call.sa_token == hashlib.sha256(service_account_token("first").encode()).hexdigest()
        assert call.env_values["OP_BIOMETRIC_UNLOCK_ENABLED"] == "false"
        assert call.env_values["OP_LOAD_DESKTOP_APP_SETTINGS"] == "false"
        assert call.env_values["HOME"] == str(tmp_path)
        assert "--account" not in call.argv
    assert world.leaks() == []


async def test_reading_item_by_item_names_the_vault(world: OpWorld, vault: ServiceAccountVault) -> None:
    world.add_vault("Another")  # with more than one `op` insists (contract 1.7)
    world.fault("error", command="inject", text="(404) Not Found: The requested resource was not found.", rc=4)
    assert await vault.read(GOOD) == GOOD
    await quiet(vault)
    assert [argv for argv in argvs(world) if argv[0] == "item"] == [
        ["item", "get", name, "--vault", "Agents", "--format", "json"] for name in ("m2m", "cron")
    ]


async def test_vault_that_is_not_shared_with_it_spoils_no_other(world: OpWorld, vault: ServiceAccountVault) -> None:
    world.add_item("Private", "mine", {"credential": "x"})
    world.service_account(vaults=[item["id"] for item in world.store.look()["vaults"] if item["name"] == "Agents"])
    private = SecretRef("op://Private/mine/credential")
    found = await vault.read([private, *GOOD])
    assert {ref: found[ref] for ref in GOOD} == GOOD
    assert isinstance(found[private], SecretNotFound)
    assert "may not see it" in str(found[private])


async def test_probe_needs_no_token(world: OpWorld, vault: ServiceAccountVault, keeper: Keeper) -> None:
    assert await vault.probe() == "2.40.0"
    assert (keeper.asked, [call.sa_token for call in world.calls()]) == (0, [""])


# --- the token --------------------------------------------------------------------------------------------------------


async def test_refused_token_is_fetched_once_more_and_not_tried_again_if_it_is_the_same(
    world: OpWorld, vault: ServiceAccountVault, keeper: Keeper
) -> None:
    world.refuse_token(keeper.tokens[0])
    with pytest.raises(VaultUnavailable, match="was deleted") as raised:
        await vault.read(GOOD)
    assert "systemd://op" in (raised.value.hint or "")
    assert (keeper.asked, len(world.calls())) == (2, 1)


async def test_token_replaced_while_it_was_refused_is_used(
    world: OpWorld, vault: ServiceAccountVault, keeper: Keeper
) -> None:
    keeper.tokens.append(service_account_token("second"))
    world.refuse_token(keeper.tokens[0], "device-mismatch")
    assert await vault.read(GOOD) == GOOD
    assert (keeper.asked, argvs(world)[:3]) == (2, [ASK, ASK, READ])


async def test_token_refused_in_the_middle_is_tried_again_only_once(
    world: OpWorld, vault: ServiceAccountVault, keeper: Keeper
) -> None:
    await vault.read(GOOD)
    await quiet(vault)
    keeper.tokens[:] = [service_account_token(name) for name in ("second", "third", "fourth")]
    for token in keeper.tokens:
        world.refuse_token(token)
    with pytest.raises(VaultUnavailable, match="was deleted"):
        await vault.read(GOOD)
    assert (keeper.asked, argvs(world)[3:]) == (3, [READ, READ])


@pytest.mark.parametrize("token", ["ops_!!!", "gho_something", "ops_bm90IGpzb24"])
async def test_token_that_is_none_is_told(vault: ServiceAccountVault, keeper: Keeper, token: str) -> None:
    keeper.tokens[:] = [token]
    with pytest.raises(VaultUnavailable, match="is not one") as raised:
        await vault.read(GOOD)
    assert token not in str(raised.value) + str(raised.value.hint)


async def test_op_that_crashes_on_a_damaged_token_is_told(
    world: OpWorld, vault: ServiceAccountVault, keeper: Keeper
) -> None:
    world.service_account(generation="2.18")
    keeper.tokens[:] = ["ops_!!!"]
    with pytest.raises(VaultUnavailable, match="crashed"):
        await vault.read(GOOD)


async def test_place_of_the_token_that_fails_ends_the_read_before_any_call(
    world: OpWorld, vault: ServiceAccountVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def locked() -> Secret:
        raise Locked("the keyring is locked")

    monkeypatch.setattr(vault, "_credential", locked)
    with pytest.raises(Locked):
        await vault.read(GOOD)
    assert world.calls() == []


async def test_reading_nothing_needs_no_token(vault: ServiceAccountVault, keeper: Keeper) -> None:
    assert (await vault.read([]), keeper.asked) == ({}, 0)


# --- allowances -------------------------------------------------------------------------------------------------------


async def test_limits_are_what_1password_says(world: OpWorld, vault: ServiceAccountVault) -> None:
    world.limit("token read", 5000, used=1000)
    world.limit("account read_write", 60_000, used=20_000)
    assert list(vault.limits) == []
    await vault.read(GOOD)
    await quiet(vault)
    write, hour, day = vault.limits
    assert write == RateLimit("token", "write", 1000, 0, None)
    assert (hour.limit, hour.used, hour.estimated, day.limit, day.used) == (5000, 1000 + COLD, False, 60_000, 20_007)
    assert hour.resets_in == pytest.approx(3600, abs=30)


async def test_reads_are_counted_before_1password_has_said_what_they_cost(
    world: OpWorld, vault: ServiceAccountVault
) -> None:
    await vault.read(GOOD)
    assert used(vault) == {"token": COLD, "account": COLD}
    await quiet(vault)
    assert used(vault)["token"] == world.store.look()["ratelimit"]["token read"]["used"] == COLD
    await vault.read(GOOD)
    assert used(vault)["token"] == COLD + len(GOOD), "cached by op: one each"
    await quiet(vault)
    assert used(vault)["token"] == world.store.look()["ratelimit"]["token read"]["used"]


@pytest.mark.parametrize(
    ("name", "words"), [("token read", "hourly allowance"), ("account read_write", "daily allowance")]
)
async def test_nothing_is_called_once_a_read_could_touch_the_last_of_an_allowance(
    world: OpWorld, vault: ServiceAccountVault, clock: FakeClock, name: str, words: str
) -> None:
    world.limit(name, 1000, used=944)
    assert await vault.read([KEY]) == {KEY: GOOD[KEY]}
    await quiet(vault)
    calls = len(world.calls())
    with pytest.raises(VaultUnavailable, match=words) as raised:
        await vault.read(GOOD, fresh=True)
    assert len(world.calls()) == calls
    assert raised.value.retry_after is not None
    assert 3000 < raised.value.retry_after <= 86_400
    seconds = raised.value.retry_after + 1
    await clock.advance(seconds)
    world.advance(seconds)
    assert await vault.read(GOOD, fresh=True) == GOOD


async def test_refusal_by_1password_is_remembered_until_its_time(
    world: OpWorld, vault: ServiceAccountVault, clock: FakeClock
) -> None:
    """Another machine used it up since it was last looked at."""
    await vault.read([KEY])
    await quiet(vault)
    world.limit("token read", 1000, used=1000)
    world.advance(60)
    with pytest.raises(VaultUnavailable, match="used up") as raised:
        await vault.read(GOOD, fresh=True)
    assert raised.value.retry_after == 59 * 60
    await quiet(vault)
    assert used(vault)["token"] == 1000
    calls = len(world.calls())
    await clock.advance(58 * 60)
    with pytest.raises(VaultUnavailable, match="last request") as raised:
        await vault.read([KEY])
    assert raised.value.retry_after == 60
    assert len(world.calls()) == calls
    await clock.advance(61)
    world.advance(3600)
    assert await vault.read([KEY]) == {KEY: GOOD[KEY]}


async def test_op_that_cannot_tell_is_asked_once_and_the_smallest_plan_assumed(
    world: OpWorld, vault: ServiceAccountVault
) -> None:
    world.fault("error", command="service-account ratelimit", times=None, text='unknown command "ratelimit" for "op"')
    await vault.read(GOOD)
    await quiet(vault)
    await vault.read(GOOD)
    await quiet(vault)
    assert argvs(world) == [ASK, READ, READ]
    assert [(one.limit, one.used, one.estimated) for one in vault.limits] == [
        (100, 0, True), (1000, COLD + 3, True), (1000, COLD + 3, True)
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["garbage", "truncated", "rc0-with-error", "panic-less"])
async def test_limits_that_cannot_be_read_hinder_no_read(world: OpWorld, vault: ServiceAccountVault, kind: Any) -> None:
    details = {"kind": "error", "text": "the moon is full"} if kind == "panic-less" else {"kind": kind}
    world.fault(command="service-account ratelimit", **details)
    assert await vault.read(GOOD) == GOOD
    assert all(one.estimated for one in vault.limits)
    await quiet(vault)
    assert not any(one.estimated for one in vault.limits), "asked again after the read"


async def test_hanging_op_is_bounded_by_the_timeout_of_calls_nobody_answers(
    world: OpWorld, make: Callable[..., ServiceAccountVault]
) -> None:
    world.fault("ignore-sigterm", times=None)
    with pytest.raises(VaultUnavailable, match="did not answer in time"):
        await make(timeout=0.5, prompt_timeout=600.0).read(GOOD)
    assert [call.outcome for call in world.calls()] == ["killed"]


async def test_what_is_known_of_the_limits_outlives_closing(world: OpWorld, vault: ServiceAccountVault) -> None:
    await vault.read(GOOD)
    await quiet(vault)
    before = used(vault)
    await vault.close()
    assert used(vault) == before
    assert await vault.read([KEY]) == {KEY: GOOD[KEY]}
    assert world.overlapping() == []


async def test_closing_ends_the_look_up(world: OpWorld, vault: ServiceAccountVault) -> None:
    await vault.read(GOOD)
    await quiet(vault)
    world.fault("hang", command="service-account ratelimit", times=None)
    await vault.read(GOOD)
    await asyncio.to_thread(world.wait_until, lambda w: argvs(w)[-1] == ASK)
    await vault.close()
    assert world.calls()[-1].outcome == "killed"


async def test_token_and_secrets_reach_no_log_and_no_error(
    world: OpWorld, vault: ServiceAccountVault, keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    token = keeper.tokens[0]
    shown = [repr(await vault.read([*GOOD, SecretRef("op://Agents/m2m/nope")])), repr(vault.limits)]
    for kind in ("garbage", "truncated", "rc0-with-error"):
        world.fault(kind, command="inject", text=f"echoing {token} s3cret-{kind}")
        with pytest.raises(VaultUnavailable) as raised:
            await vault.read(GOOD)
        shown.append(f"{raised.value!r} {raised.value.hint} {raised.value.__cause__!r} {raised.value.__context__!r}")
    text = caplog.text + "".join(shown)
    assert "s3cret" not in text
    assert token not in text


async def test_locking_ends_the_look_up_and_the_helper_that_holds_values(
    world: OpWorld, vault: ServiceAccountVault
) -> None:
    """No authorization is lost by it, and the next read starts anew."""
    await vault.read(GOOD)
    await quiet(vault)
    helper = vault._runner._helper._process
    assert helper is not None
    world.fault("hang", command="service-account ratelimit", times=1)
    await vault.read(GOOD)
    await asyncio.to_thread(world.wait_until, lambda w: argvs(w)[-1] == ASK)
    await vault.lock()
    assert helper.returncode is not None
    assert vault._asking is None
    assert await vault.read([KEY]) == {KEY: GOOD[KEY]}


async def test_unforeseen_trouble_of_the_look_up_is_kept_by_nobody(
    vault: ServiceAccountVault, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception in a task keeps its frames, and the token that is in them."""
    await vault.read([KEY])
    await quiet(vault)

    def broken(*_: object) -> None:
        raise OverflowError("s3cret")

    monkeypatch.setattr(service_account, "parse_limits", broken)
    await vault.read([KEY])
    await quiet(vault)
    assert vault._asking is not None
    assert vault._asking.exception() is None
    assert "OverflowError" in caplog.text
    assert "s3cret" not in caplog.text


async def test_helper_that_ended_is_trouble_that_passes(world: OpWorld, vault: ServiceAccountVault) -> None:
    world.fault("hang", command="service-account ratelimit", times=1)
    reading = asyncio.create_task(vault.read([KEY]))
    await asyncio.to_thread(world.wait_until, lambda w: len(w.calls()) == 1)
    await vault._runner.close()
    with pytest.raises(VaultUnavailable, match="helper process") as raised:
        await reading
    assert raised.value.retryable
