"""1Password through `op`, against the stand-in of `op` and its app (contract, section 8)."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
from typing import TYPE_CHECKING, Any, get_args

import pytest

from tests.standins.op_world import TTY_POLICIES, OpWorld, TtyPolicy
from tokenbroker.config import VaultConfig
from tokenbroker.errors import (
    Locked,
    PromptDismissed,
    PromptUnanswered,
    SecretAmbiguous,
    SecretNotFound,
    VaultError,
    VaultNotInstalled,
    VaultUnavailable,
)
from tokenbroker.model import Secret, SecretRef
from tokenbroker.vaults.op import program as op_program
from tokenbroker.vaults.op.app import MAX_ROUNDS, OpVault
from tokenbroker.vaults.op.runner import OpRunner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

ID = SecretRef("op://Agents/m2m/username")
KEY = SecretRef("op://Agents/m2m/credential")
OTHER = SecretRef("op://Agents/cron/credential")
GOOD = {ID: Secret("client-id"), KEY: Secret("s3cret-interactive"), OTHER: Secret("s3cret-autonomous")}

ALLOWED_ENV = {"HOME", "USER", "LOGNAME", "PATH", "LANG", "TMPDIR", "OP_BIOMETRIC_UNLOCK_ENABLED", "XDG_RUNTIME_DIR",
               "XDG_CONFIG_HOME", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY"}  # fmt: skip


every_policy = pytest.mark.parametrize("world", TTY_POLICIES, indirect=True)
"""For tests of when the app asks. The rest run under the policy that forgives a call without a terminal least."""


@pytest.fixture
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpWorld]:
    """Give a world with two items, a person who approves, and little patience."""
    made = OpWorld.create(tmp_path)
    made.set(latency="none", time_scale=0.001, tty_policy=getattr(request, "param", "always-prompt"))
    made.add_item("Agents", "m2m", {"username": "client-id", "credential": "s3cret-interactive"})
    made.add_item("Agents", "cron", {"credential": "s3cret-autonomous"})
    made.install(tmp_path / "programs")
    yield made
    made.close()


@pytest.fixture
async def make(world: OpWorld, tmp_path: Path) -> AsyncIterator[Callable[..., OpVault]]:
    """Give a maker of vaults on that world."""
    made: list[OpVault] = []

    def maker(*, environ: dict[str, str] | None = None, **config: Any) -> OpVault:
        settings: dict[str, Any] = {"op": str(tmp_path / "programs/op"), "prompt_timeout": 20.0} | config
        made.append(OpVault(VaultConfig(**settings), environ=environ or {}, home=tmp_path, runner=OpRunner(grace=0.2)))
        return made[-1]

    yield maker
    for vault in made:
        await vault.close()


@pytest.fixture
def vault(make: Callable[..., OpVault]) -> OpVault:
    return make()


@every_policy
async def test_one_prompt_serves_every_read_of_the_daemons_life(world: OpWorld, vault: OpVault) -> None:
    """All references take one call, and as the terminal session lasts one prompt, whatever the app makes of no tty."""
    for _ in range(3):
        assert await vault.read(GOOD) == GOOD
    calls = world.calls()
    assert (world.prompts(), len(calls)) == (1, 3)
    assert len({(call.tty, call.sid) for call in calls}) == 1
    assert calls[0].tty


@every_policy
async def test_new_session_costs_one_prompt_whatever_is_read(world: OpWorld, vault: OpVault) -> None:
    for _ in range(2):
        assert await vault.read(GOOD) == GOOD
        await vault.close()
    assert (world.prompts(), len(world.calls())) == (2, 2)


@every_policy
async def test_lock_of_the_app_costs_one_prompt(world: OpWorld, vault: OpVault) -> None:
    await vault.read(GOOD)
    world.lock_app()
    assert await vault.read(GOOD) == GOOD
    assert world.prompts() == 2


async def test_call_says_only_what_it_must(world: OpWorld, make: Callable[..., OpVault]) -> None:
    """The account is always named, the cache passed by only when asked, and no reference stands in an argument."""
    vault = make(account="my.1password.com")
    await vault.read(GOOD)
    await vault.read(GOOD, fresh=True)
    account = ["--account", "my.1password.com"]
    assert [call.argv for call in world.calls()] == [["inject", *account], ["inject", "--cache=false", *account]]


async def test_rotated_secret_is_read_fresh(world: OpWorld, vault: OpVault) -> None:
    item = world.add_item("Agents", "rotating", {"credential": "old"})
    ref = SecretRef("op://Agents/rotating/credential")
    assert await vault.read([ref]) == {ref: Secret("old")}
    world.set_field(item, "credential", "new")
    assert await vault.read([ref], fresh=True) == {ref: Secret("new")}


async def test_environment_is_minimal_and_no_secret_stands_in_it_or_in_an_argument(
    world: OpWorld, make: Callable[..., OpVault], tmp_path: Path
) -> None:
    """A service account's token in the daemon's environment would silently replace the app, and is not passed on."""
    hostile = {"OP_SERVICE_ACCOUNT_TOKEN": "ops_x", "OP_CONNECT_HOST": "h", "OP_CONNECT_TOKEN": "t", "OP_SESSION": "s",
               "OP_BIOMETRIC_UNLOCK_ENABLED": "false", "LD_PRELOAD": "x", "PATH": "/nowhere"}  # fmt: skip
    assert await make(environ=dict(os.environ) | hostile).read(GOOD) == GOOD
    (call,) = world.calls()
    assert set(call.env) - ALLOWED_ENV <= {name for name in call.env if name.startswith("LC_")}
    assert call.env_values["HOME"] == str(tmp_path)
    assert (world.leaks(), call.cwd, call.isatty) == ([], "/", [False, False, False])


@every_policy
async def test_never_more_than_one_call_at_a_time(world: OpWorld, vault: OpVault) -> None:
    found = await asyncio.gather(*[vault.read([ref]) for ref in GOOD], vault.probe())
    assert found == [{ID: GOOD[ID]}, {KEY: GOOD[KEY]}, {OTHER: GOOD[OTHER]}, "2.40.0"]
    assert world.overlapping() == []


# --- one prompt, and no more after a refusal --------------------------------------------------------------------------


@every_policy
async def test_dismissed_prompt_ends_the_read_without_another_call(world: OpWorld, vault: OpVault) -> None:
    world.person("dismiss")
    with pytest.raises(PromptDismissed):
        await vault.read(GOOD)
    assert (world.prompts(), len(world.calls())) == (1, 1)


@every_policy
async def test_unanswered_prompt_ends_the_read_without_another_call(world: OpWorld, vault: OpVault) -> None:
    world.person("ignore")
    with pytest.raises(PromptUnanswered) as raised:
        await vault.read(GOOD)
    assert (world.prompts(), len(world.calls()), world.calls()[0].outcome != "killed") == (1, 1, True)
    assert "approve" in (raised.value.hint or "")


async def test_prompt_left_open_is_given_up_and_said_to_be_on_the_screen(
    world: OpWorld, make: Callable[..., OpVault]
) -> None:
    world.person("hang")
    with pytest.raises(PromptUnanswered, match="may still be on the screen"):
        await make(prompt_timeout=1.2).read(GOOD)
    assert world.dialog_open()
    assert [call.outcome for call in world.calls()] == ["killed"]


@pytest.mark.parametrize("kind", ["hang", "ignore-sigterm"])
async def test_op_that_hangs_is_killed_in_time(world: OpWorld, make: Callable[..., OpVault], kind: Any) -> None:
    world.fault(kind, times=None)
    vault, started = make(prompt_timeout=1.2), time.monotonic()
    with pytest.raises(PromptUnanswered):
        await vault.read(GOOD)
    assert time.monotonic() - started < 20
    assert [call.outcome for call in world.calls()] == ["killed"]
    world.mend()
    assert await vault.read(GOOD) == GOOD


async def test_consent_of_macos_that_blocks_op_is_told(world: OpWorld, make: Callable[..., OpVault]) -> None:
    world.app(fault="tcc")
    with pytest.raises(PromptUnanswered) as raised:
        await make(prompt_timeout=0.3).read(GOOD)
    assert "access to data from other apps" in (raised.value.hint or "")


@pytest.mark.parametrize("detached", [False, True], ids=["in the group of op", "in a session of its own"])
async def test_cache_daemon_on_the_pipes_delays_nothing(world: OpWorld, vault: OpVault, detached: bool) -> None:  # noqa: FBT001
    world.fault("grandchild", detached=detached)
    started = time.monotonic()
    assert await vault.read(GOOD) == GOOD
    assert time.monotonic() - started < 20


@every_policy
async def test_cancelled_read_ends_op_and_the_session_stays(world: OpWorld, vault: OpVault) -> None:
    await vault.read(GOOD)
    world.fault("hang", times=None)
    reading = asyncio.create_task(vault.read(GOOD))
    await asyncio.to_thread(world.wait_until, lambda w: len(w.calls()) == 2)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    world.mend()
    assert world.calls()[1].outcome == "killed"
    assert await vault.read(GOOD) == GOOD
    assert world.prompts() == 1


async def test_words_that_drip_for_longer_than_the_limit_are_cut_short(
    world: OpWorld, make: Callable[..., OpVault]
) -> None:
    """The limit is for the whole call, however much is heard meanwhile."""
    world.fault("slow-stderr", seconds=30)
    began = time.monotonic()
    with pytest.raises(PromptUnanswered):
        await make(prompt_timeout=0.5).read(GOOD)
    assert time.monotonic() - began < 10


# --- failures that concern everything ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        pytest.param("not-running", VaultUnavailable, "cannot be reached", id="app not running"),
        pytest.param("not-running-2024", VaultUnavailable, "cannot be reached", id="app not running, older words"),
        pytest.param("wrong-gid", VaultUnavailable, "integration is off", id="op not set-gid"),
        pytest.param("stall", VaultUnavailable, "does not answer", id="app stalls"),
        pytest.param("stall-deadline", VaultUnavailable, "does not answer", id="app stalls, other words"),
        pytest.param("locked-old-flow", Locked, "app is locked", id="app locked"),
        pytest.param("offline", VaultUnavailable, "offline", id="offline"),
    ],
)
async def test_fault_of_the_app_ends_the_read_at_once(
    world: OpWorld, vault: OpVault, fault: Any, error: type[VaultError], words: str
) -> None:
    world.app(fault=fault)
    with pytest.raises(error, match=words) as raised:
        await vault.read(GOOD)
    assert raised.value.hint
    assert len(world.calls()) == 1


async def test_integration_turned_off_is_told(world: OpWorld, vault: OpVault) -> None:
    world.app(integration=False)
    with pytest.raises(VaultUnavailable) as raised:
        await vault.read(GOOD)
    assert "Integrate with 1Password CLI" in (raised.value.hint or "")


async def test_no_account_is_told_although_op_waits_for_an_answer(world: OpWorld, make: Callable[..., OpVault]) -> None:
    world.set(accounts=[], mode="none")
    with pytest.raises(VaultUnavailable, match="no 1Password account"):
        await make(prompt_timeout=2).read(GOOD)


async def test_wrong_account_is_told(make: Callable[..., OpVault]) -> None:
    with pytest.raises(VaultUnavailable, match="which 1Password account"):
        await make(account="nobody.1password.com").read(GOOD)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        pytest.param("garbage", "does not understand", id="garbage on stdout"),
        pytest.param("truncated", "does not understand", id="output cut off"),
        pytest.param("panic", "crashed", id="panic"),
        pytest.param("rc0-with-error", "service answered", id="exit code 0 with an error"),
        pytest.param("signal", "exit code -9", id="killed by someone"),
    ],
)
async def test_misbehaviour_ends_the_read_and_the_next_one_works(
    world: OpWorld, vault: OpVault, kind: Any, words: str
) -> None:
    world.fault(kind)
    with pytest.raises(VaultUnavailable, match=words) as raised:
        await vault.read(GOOD)
    assert raised.value.hint
    assert len(world.calls()) == 1
    assert await vault.read(GOOD) == GOOD


@pytest.mark.parametrize("kind", ["warning", "slow-stderr"])
async def test_words_on_stderr_do_no_harm(world: OpWorld, vault: OpVault, kind: Any) -> None:
    world.fault(kind, seconds=0.1)
    assert await vault.read(GOOD) == GOOD


async def test_op_that_is_not_installed_is_told(
    make: Callable[..., OpVault], world: OpWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(op_program, "USUAL_PLACES", ())
    vault = make(op=None, environ={"PATH": "/nonexistent"})
    for ask in (lambda: vault.read(GOOD), vault.probe):
        with pytest.raises(VaultNotInstalled) as raised:
            await ask()
        assert "broker doctor" in (raised.value.hint or "")
    assert world.calls() == []


# --- failures of particular references --------------------------------------------------------------------------------


@every_policy
async def test_each_bad_reference_gets_its_own_error(world: OpWorld, vault: OpVault) -> None:
    world.add_item("Agents", "twin", {"credential": "a"})
    world.add_item("Agents", "twin", {"credential": "b"})
    world.add_item("Agents", "old", {"credential": "a"}, archived=True)
    bad = {
        "op://Agents/m2m/nope": SecretNotFound,
        "op://Agents/gone/credential": SecretNotFound,
        "op://Nowhere/m2m/credential": SecretNotFound,
        "op://Agents/twin/credential": SecretAmbiguous,
        "op://Agents/old/credential": SecretNotFound,
        "op://Agents/m2m/{{ bad }}": SecretNotFound,
    }
    found = await vault.read([*map(SecretRef, bad), *GOOD])
    assert {ref: found[ref] for ref in GOOD} == GOOD
    assert {uri: type(found[SecretRef(uri)]) for uri in bad} == bad
    assert world.prompts() == 1


async def test_missing_item_and_vault_take_one_round_for_all_their_references(world: OpWorld, vault: OpVault) -> None:
    gone = [SecretRef(f"op://Agents/gone/field{n}") for n in range(5)]
    found = await vault.read([*gone, *GOOD])
    assert all(isinstance(found[ref], SecretNotFound) for ref in gone)
    assert len(world.calls()) == 2


async def test_many_bad_references_end_in_bounded_calls(world: OpWorld, vault: OpVault) -> None:
    """After the last round each item is read alone, once, so a file full of mistakes still ends."""
    bad = [SecretRef(f"op://Agents/m2m/nope{n}") for n in range(MAX_ROUNDS + 3)]
    found = await vault.read([*bad, *GOOD])
    assert {ref: found[ref] for ref in GOOD} == GOOD
    assert all(isinstance(found[ref], SecretNotFound) for ref in bad)
    calls = [call.argv[0] for call in world.calls()]
    assert calls == ["inject"] * (1 + MAX_ROUNDS) + ["item"] * 2


async def test_message_that_names_nobody_leads_to_reading_item_by_item(world: OpWorld, vault: OpVault) -> None:
    world.fault("error", command="inject", text="(404) Not Found: The requested resource was not found.", rc=4)
    assert await vault.read(GOOD) == GOOD
    calls = [call.argv for call in world.calls()]
    assert calls[1:] == [["item", "get", name, "--vault", "Agents", "--format", "json"] for name in ("m2m", "cron")]


async def test_item_that_fails_alone_spoils_no_other(world: OpWorld, vault: OpVault) -> None:
    text = "(404) Not Found: The requested resource was not found."
    world.fault("error", command="inject", text=text, rc=4)
    world.fault("error", command="item get", text=text, rc=4)
    found = await vault.read(GOOD)
    assert [type(found[ref]) for ref in GOOD] == [SecretNotFound, SecretNotFound, Secret]


async def test_refusal_while_reading_item_by_item_ends_the_read(world: OpWorld, vault: OpVault) -> None:
    world.fault("error", command="inject", text="(404) Not Found: The requested resource was not found.", rc=4)
    world.fault("error", command="item get", text="authorization prompt dismissed, please try again", init=True)
    with pytest.raises(PromptDismissed):
        await vault.read(GOOD)
    assert len(world.calls()) == 2


async def test_garbled_item_ends_the_read(world: OpWorld, vault: OpVault) -> None:
    world.fault("error", command="inject", text="(404) Not Found: The requested resource was not found.", rc=4)
    world.fault("truncated", command="item get")
    with pytest.raises(VaultUnavailable, match="does not understand"):
        await vault.read(GOOD)


async def test_empty_field_is_an_error_and_never_an_empty_secret(world: OpWorld, vault: OpVault) -> None:
    world.add_item("Agents", "blank", {"credential": ""})
    blank = SecretRef("op://Agents/blank/credential")
    found = await vault.read([blank, KEY])
    assert isinstance(found[blank], SecretNotFound)
    assert found[KEY] == GOOD[KEY]


# --- the helper, the probe, and silence -------------------------------------------------------------------------------


@every_policy
async def test_death_of_the_helper_costs_a_prompt_and_is_logged(
    world: OpWorld, vault: OpVault, caplog: pytest.LogCaptureFixture
) -> None:
    await vault.read(GOOD)
    os.kill(world.calls()[0].sid, signal.SIGKILL)
    helper = vault._runner._helper
    assert helper is not None
    await helper.wait()
    assert await vault.read(GOOD) == GOOD
    assert world.prompts() == 2
    assert "1Password will ask again" in caplog.text


@every_policy
async def test_probe_gives_the_version_and_never_prompts(world: OpWorld, vault: OpVault) -> None:
    assert await vault.probe() == "2.40.0"
    assert (world.prompts(), [call.argv for call in world.calls()]) == (0, [["--version"]])


async def test_program_that_is_not_op_does_not_pass_the_probe(make: Callable[..., OpVault], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("#!/bin/sh\necho 'usage: this is something else'\n")
    other.chmod(0o755)
    with pytest.raises(VaultUnavailable, match="does not understand"):
        await make(op=str(other)).probe()


async def test_no_secret_reaches_a_log_or_an_error(
    world: OpWorld, vault: OpVault, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    shown = [repr(await vault.read([*GOOD, SecretRef("op://Agents/m2m/nope")]))]
    for kind in ("garbage", "truncated", "rc0-with-error"):
        world.fault(kind, text=f"echoing s3cret-{kind}")
        with pytest.raises(VaultUnavailable) as raised:
            await vault.read(GOOD)
        shown.append(f"{raised.value!r} {raised.value.hint} {raised.value.__cause__!r} {raised.value.__context__!r}")
    assert "s3cret" not in caplog.text + "".join(shown)


def test_every_policy_is_run() -> None:
    assert set(TTY_POLICIES) == set(get_args(TtyPolicy))


async def test_an_op_without_inject_is_read_item_by_item(tmp_path: Path, make: Callable[..., OpVault]) -> None:
    """An older program, or another stand-in: nobody was asked anything, so a second call cannot be a second prompt."""
    item = {"fields": [{"id": "x", "label": "credential", "type": "CONCEALED", "value": "s3cret"}]}
    program = tmp_path / "old-op"
    program.write_text(
        "#!/bin/sh\ncase $1 in\n"
        f"item) echo '{json.dumps(item)}' ;;\n"
        '*) echo "[ERROR] 2026/11/24 10:00:00 unknown command \\"$1\\" for \\"op\\"" >&2; exit 1 ;;\nesac\n'
    )
    program.chmod(0o700)
    assert {KEY: Secret("s3cret")} == await make(op=str(program)).read([KEY])


async def test_a_question_that_nobody_can_answer_ends_the_call(tmp_path: Path, make: Callable[..., OpVault]) -> None:
    """Without an account `op` asks on its terminal whether to add one, and waits for ever."""
    program = tmp_path / "op-without-account"
    program.write_text(
        "#!/bin/sh\necho 'No accounts configured for use with 1Password CLI.' >&2\n"
        "printf 'Do you want to add an account manually now? [Y/n] ' >&2\nsleep 60\n"
    )
    program.chmod(0o700)
    began = time.monotonic()
    with pytest.raises(VaultUnavailable, match="account"):
        await make(op=str(program)).read([KEY])
    assert time.monotonic() - began < 15, "the limit of a prompt is 20 s here"
