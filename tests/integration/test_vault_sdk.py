"""1Password through its SDK: the real SDK in its own process, over a stand-in of the app's library (contract 5, 8)."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes_clock import FakeClock
from tests.standins.sdk_app import SdkApp
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
from tokenbroker.vaults.left_dialog import DIALOG_LIFE
from tokenbroker.vaults.op.program import SANE_PATH
from tokenbroker.vaults.sdk.vault import SdkVault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ID = SecretRef("op://Agents/m2m/username")
KEY = SecretRef("op://Agents/m2m/credential")
GOOD = {ID: Secret("client-id"), KEY: Secret("s3cret-interactive")}
BAD = SecretRef("op://Agents/m2m/nowhere")
FIRST = ["prompt approve", "init_client ok", "invoke resolve_all"]
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
def app(tmp_path: Path) -> SdkApp:
    """Give an app with two secrets and a person who approves."""
    made = SdkApp(tmp_path / "app")
    made.keep({"op://Agents/m2m/username": "client-id", "op://Agents/m2m/credential": "s3cret-interactive"})
    return made


@pytest.fixture
async def make(app: SdkApp, tmp_path: Path) -> AsyncIterator[Callable[..., SdkVault]]:
    """Give a maker of vaults on that app."""
    made: list[SdkVault] = []

    def maker(*, seconds: float = 20.0, **options: Any) -> SdkVault:
        config = VaultConfig(backend="sdk", account="Example Account", prompt_timeout=seconds)
        settings: dict[str, Any] = {"environ": {}, "home": tmp_path, "grace": 0.2, "library": app.library} | options
        made.append(SdkVault(config, **settings))
        return made[-1]

    yield maker
    for vault in made:
        await vault.close()


@pytest.fixture
def vault(make: Callable[..., SdkVault]) -> SdkVault:
    return make()


def pid_of(vault: SdkVault) -> int:
    assert vault._helper.pid is not None
    return vault._helper.pid


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z"


async def until_gone(pid: int) -> None:
    async with asyncio.timeout(20):
        while not gone(pid):  # noqa: ASYNC110  # another process sets no event of ours
            await asyncio.sleep(0.01)


# --- one prompt -------------------------------------------------------------------------------------------------------


async def test_two_reads_ask_once_and_authenticate_once(app: SdkApp, vault: SdkVault) -> None:
    assert await vault.read(GOOD) == GOOD
    assert await vault.read([KEY], fresh=True) == {KEY: GOOD[KEY]}
    assert app.story() == [*FIRST, "invoke resolve_all"]
    assert {event.pid for event in app.events()} == {pid_of(vault)}


async def test_expired_session_costs_one_prompt_in_the_same_process(app: SdkApp, vault: SdkVault) -> None:
    """Ten minutes without use, or a locked app: the SDK asks once more by itself."""
    await vault.read(GOOD)
    app.lock()
    assert await vault.read(GOOD) == GOOD
    assert app.story() == [*FIRST, "invoke expired", *FIRST]
    assert len({event.pid for event in app.events()}) == 1


async def test_session_that_expires_again_is_not_asked_for_a_third_time(app: SdkApp, vault: SdkVault) -> None:
    app.set(expire_from=1)
    with pytest.raises(Locked, match="ended its session") as raised:
        await vault.read(GOOD)
    assert type(raised.value) is Locked
    assert app.prompts() == 2
    app.set(expire_from=0)
    assert await vault.read(GOOD) == GOOD


async def test_dismissed_prompt_is_told_and_the_next_read_asks_again(app: SdkApp, vault: SdkVault) -> None:
    app.person("dismiss")
    with pytest.raises(PromptDismissed):
        await vault.read(GOOD)
    assert app.story() == ["prompt dismiss", "init_client refused"]
    app.person("approve")
    pid = pid_of(vault)
    assert await vault.read(GOOD) == GOOD
    assert (app.prompts(), pid_of(vault)) == (2, pid)


async def test_prompt_dismissed_after_the_session_expired_is_told(app: SdkApp, vault: SdkVault) -> None:
    await vault.read(GOOD)
    app.lock()
    app.person("dismiss")
    with pytest.raises(PromptDismissed):
        await vault.read(GOOD)
    app.person("approve")
    assert await vault.read(GOOD) == GOOD
    assert app.prompts() == 3


async def test_reading_nothing_asks_nobody(app: SdkApp, vault: SdkVault) -> None:
    assert await vault.read([]) == {}
    assert app.story() == []


async def test_probe_gives_the_version_and_never_prompts(app: SdkApp, vault: SdkVault) -> None:
    assert (await vault.probe()).startswith("0.4.")
    assert app.story() == []


async def test_closing_ends_the_process_and_the_authorization(app: SdkApp, vault: SdkVault) -> None:
    """The SDK's finalizers do not run: they would call the library once more, and could hang in it."""
    await vault.read(GOOD)
    pid = pid_of(vault)
    await vault.close()
    await until_gone(pid)
    assert app.story() == FIRST
    assert await vault.read(GOOD) == GOOD
    assert app.prompts() == 2


# --- single references ------------------------------------------------------------------------------------------------


async def test_errors_of_single_references_spoil_no_other(app: SdkApp, vault: SdkVault) -> None:
    """Each of the SDK's kinds, in one call; what they say is a matter of `sdk_errors`."""
    kinds = {
        SecretRef(f"op://Agents/m2m/{kind}"): (kind, SecretAmbiguous if kind.startswith("tooMany") else SecretNotFound)
        for kind in ("parsing", "vaultNotFound", "itemNotFound", "noMatchingSections", "fieldNotFound", "tooManyVaults",
                     "tooManyItems", "tooManyMatchingFields", "unableToParsePrivateKey", "unsupportedFileFormat",
                     "other")
    }  # fmt: skip
    for ref, (kind, _) in kinds.items():
        app.refuse(ref.uri, kind)
    found = await vault.read([ID, *kinds, KEY])
    assert {ref: found[ref] for ref in GOOD} == GOOD
    assert {ref: type(found[ref]) for ref in kinds} == {ref: error for ref, (_, error) in kinds.items()}
    assert app.story() == FIRST


async def test_reference_that_the_sdk_cannot_read_is_never_sent(app: SdkApp, vault: SdkVault) -> None:
    """One that its parser refuses could otherwise fail the call for all."""
    strange = [SecretRef(uri) for uri in ("op://a/b/ü", "OP://a/b/c", "op://a/b", "op://a/b/c?attribute=type")]
    assert all(isinstance(error, SecretNotFound) for error in (await vault.read(strange)).values())
    assert app.story() == []
    found = await vault.read([*strange, *GOOD])
    assert {ref: found.get(ref) for ref in GOOD} == GOOD
    assert all(isinstance(found[ref], SecretNotFound) for ref in strange)


async def test_empty_field_is_an_error_and_never_an_empty_secret(app: SdkApp, vault: SdkVault) -> None:
    app.keep({BAD.uri: ""})
    assert isinstance((await vault.read([BAD]))[BAD], SecretNotFound)


async def test_reference_without_an_answer_is_an_error(app: SdkApp, vault: SdkVault) -> None:
    app.set(instead=json.dumps({"individualResponses": {}}))
    assert isinstance((await vault.read([KEY]))[KEY], SecretNotFound)


# --- everything fails -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [-2, -5, -3, -7])
async def test_app_that_cannot_be_reached_names_the_setting(app: SdkApp, vault: SdkVault, code: int) -> None:
    app.set(code=code)
    with pytest.raises(VaultUnavailable, match="cannot be reached") as raised:
        await vault.read(GOOD)
    assert "Settings > Developer > Integrate with other apps" in (raised.value.hint or "")


async def test_lost_app_is_met_by_a_new_process(app: SdkApp, vault: SdkVault, caplog: pytest.LogCaptureFixture) -> None:
    """A library whose channel was closed may never open another; the authorization is lost with the channel."""
    caplog.set_level(logging.INFO)
    await vault.read(GOOD)
    first = pid_of(vault)
    app.set(code=-2)
    with pytest.raises(VaultUnavailable):
        await vault.read(GOOD)
    assert "ask again" in caplog.text
    await until_gone(first)
    app.set(code=0)
    assert await vault.read(GOOD) == GOOD
    assert pid_of(vault) != first


async def test_other_return_code_is_named(app: SdkApp, vault: SdkVault) -> None:
    app.set(code=-11)
    with pytest.raises(VaultUnavailable, match=r"return code -11"):
        await vault.read(GOOD)


async def test_rate_limit_is_told_with_a_pause_and_keeps_the_client(app: SdkApp, vault: SdkVault) -> None:
    await vault.read(GOOD)
    app.fail("invoke", "rate limit exceeded", name="RateLimitExceeded")
    with pytest.raises(VaultUnavailable, match="limits the rate") as raised:
        await vault.read(GOOD)
    assert raised.value.retry_after
    app.set(invoke_error="")
    assert await vault.read(GOOD) == GOOD
    assert app.story() == [*FIRST, "invoke error", "invoke resolve_all"]


@pytest.mark.parametrize("where", ["init", "invoke"])
async def test_unknown_failure_keeps_its_text_to_itself(
    app: SdkApp, vault: SdkVault, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    """It may hold values. The client is made anew, as an app that was started again would not know the old one."""
    app.fail(where, "field s3cret-interactive went wrong")
    with pytest.raises(VaultUnavailable, match="does not know") as raised:
        await vault.read(GOOD)
    assert "s3cret" not in f"{raised.value!r} {raised.value.hint} {caplog.text}"
    assert raised.value.__cause__ is None
    app.set(**{f"{where}_error": ""})
    assert await vault.read(GOOD) == GOOD
    assert app.story()[-2:] == FIRST[1:]
    assert app.prompts() == 1


@pytest.mark.parametrize(
    "instead",
    [
        json.dumps({"individualResponses": {KEY.uri: {"content": {"secret": ["s3cret-interactive"]}, "error": None}}}),
        "s3cret-interactive",
    ],
    ids=["an unknown shape", "no JSON"],
)
async def test_answer_that_the_sdk_does_not_understand_shows_nothing(
    app: SdkApp, vault: SdkVault, caplog: pytest.LogCaptureFixture, instead: str
) -> None:
    """The errors of pydantic quote what they refuse."""
    app.set(instead=instead)
    with pytest.raises(VaultUnavailable, match="does not understand") as raised:
        await vault.read(GOOD)
    assert "s3cret" not in f"{raised.value!r} {raised.value.hint} {caplog.text}"


async def test_library_that_cannot_be_loaded_is_told(make: Callable[..., SdkVault], tmp_path: Path) -> None:
    other = tmp_path / "other.so"
    other.write_text("no library")
    with pytest.raises(VaultNotInstalled, match="cannot be loaded"):
        await make(library=other).read(GOOD)


async def test_crash_in_the_library_is_told_and_costs_a_prompt(
    app: SdkApp, vault: SdkVault, caplog: pytest.LogCaptureFixture
) -> None:
    app.set(invoke="crash")
    with pytest.raises(VaultUnavailable, match="next attempt asks for approval again"):
        await vault.read(GOOD)
    app.set(invoke="ok")
    assert await vault.read(GOOD) == GOOD
    assert app.prompts() == 2
    assert "1Password will ask again" in caplog.text


async def test_what_the_library_prints_disturbs_nothing(app: SdkApp, vault: SdkVault) -> None:
    app.set(chatter=1)
    assert await vault.read(GOOD) == GOOD


# --- hanging ----------------------------------------------------------------------------------------------------------


async def impatient(vault: SdkVault) -> None:
    """Have the process started and the SDK loaded, and then wait for it no longer than half a second."""
    await vault.probe()
    vault._patience = 0.5


async def test_unanswered_prompt_ends_the_process_and_says_so(
    app: SdkApp, vault: SdkVault, caplog: pytest.LogCaptureFixture
) -> None:
    await impatient(vault)
    app.person("hang")
    with pytest.raises(PromptUnanswered, match="may still be on the screen") as raised:
        await vault.read(GOOD)
    assert "asks again" in (raised.value.hint or "")
    assert app.story() == ["prompt hang"]
    await until_gone(app.events()[0].pid)
    assert "as it hung" in caplog.text
    app.person("approve")
    vault._patience = 20.0
    assert await vault.read(GOOD) == GOOD
    assert "1Password will ask again" in caplog.text


@pytest.mark.parametrize("fault", [{"invoke": "hang"}, {"hangs_after_lock": 1, "epoch": 1}], ids=str)
async def test_app_that_hangs_later_ends_the_process(app: SdkApp, vault: SdkVault, fault: dict[str, Any]) -> None:
    """As after a lock and unlock, or a restart of the app (1Password/onepassword-sdk-python#217)."""
    await vault.read(GOOD)
    first = pid_of(vault)
    app.set(**fault)
    await impatient(vault)
    with pytest.raises(PromptUnanswered):
        await vault.read(GOOD)
    await until_gone(first)
    app.set(invoke="ok")
    vault._patience = 20.0
    assert await vault.read(GOOD) == GOOD
    assert app.prompts() == 2


async def test_frozen_process_is_killed(vault: SdkVault) -> None:
    await impatient(vault)
    first = pid_of(vault)
    os.kill(first, signal.SIGSTOP)
    with pytest.raises(PromptUnanswered):
        await vault.read(GOOD)
    await until_gone(first)


async def longest_pause(vault: SdkVault) -> float:
    """Return the longest time, in seconds, for which nothing else ran while a read hung and was given up."""
    longest, last = 0.0, time.perf_counter()
    reading = asyncio.create_task(vault.read(GOOD))
    while not reading.done():
        await asyncio.sleep(0.001)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    assert isinstance(reading.exception(), PromptUnanswered)
    return longest


async def test_event_loop_never_waits_for_the_sdk(app: SdkApp, make: Callable[..., SdkVault]) -> None:
    """Whatever would block blocks every time; the best of three is what a busy machine leaves of the claim."""
    app.person("hang")
    vault = make(seconds=0.6)
    assert min([await longest_pause(vault) for _ in range(3)]) < 0.020


async def test_cancelled_read_that_hangs_ends_the_process(app: SdkApp, vault: SdkVault) -> None:
    app.person("hang")
    reading = asyncio.create_task(vault.read(GOOD))
    await asyncio.to_thread(app.wait_for, "prompt hang")
    pid = pid_of(vault)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert gone(pid)


async def test_cancelled_read_that_is_about_to_end_keeps_the_authorization(
    app: SdkApp, make: Callable[..., SdkVault]
) -> None:
    vault = make(grace=20.0)
    await vault.read(GOOD)
    app.set(invoke_ms=200)
    reading = asyncio.create_task(vault.read(GOOD))
    await asyncio.sleep(0.05)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    app.set(invoke_ms=0)
    assert await vault.read(GOOD) == GOOD
    assert app.prompts() == 1


DAEMON = """
import asyncio, pathlib, sys
from tokenbroker.config import VaultConfig
from tokenbroker.model import SecretRef
from tokenbroker.vaults.sdk.vault import SdkVault
home = pathlib.Path(sys.argv[1])
vault = SdkVault(VaultConfig(account="A"), environ={}, home=home, library=home / "app/libop_sdk_ipc_client.so")
asyncio.run(vault.read([SecretRef("op://a/b/c")]))
"""


async def test_a_dialog_that_was_left_behind_is_spoken_of_at_the_next_attempt(
    app: SdkApp, make: Callable[..., SdkVault]
) -> None:
    """Until somebody is let in, or it has gone by itself."""
    clock = FakeClock()
    vault = make(clock=clock)
    app.person("hang")
    reading = asyncio.create_task(vault.read(GOOD))
    await asyncio.to_thread(app.wait_for, "prompt hang")
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    app.person("dismiss")
    with pytest.raises(PromptDismissed, match="an older 1Password dialog"):
        await vault.read(GOOD)
    await clock.advance(DIALOG_LIFE)
    with pytest.raises(PromptDismissed) as later:
        await vault.read(GOOD)
    assert "older" not in later.value.message


async def test_hanging_process_dies_with_the_daemon(app: SdkApp, tmp_path: Path) -> None:
    """A daemon that is killed leaves no process that could be approved later."""
    app.person("hang")
    daemon = subprocess.Popen([sys.executable, "-c", DAEMON, tmp_path])
    await asyncio.to_thread(app.wait_for, "prompt hang")
    daemon.kill()
    daemon.wait()
    await until_gone(app.events()[0].pid)


# --- what others can see ----------------------------------------------------------------------------------------------


@linux_only
async def test_arguments_and_environment_hold_nothing(make: Callable[..., SdkVault], tmp_path: Path) -> None:
    """What the SDK needs to find the app, and nothing else of the daemon's."""
    passed = {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "XDG_RUNTIME_DIR": "/run/user/1"}
    kept = {"OP_SERVICE_ACCOUNT_TOKEN": "ops_x", "HTTPS_PROXY": "http://user:word@proxy", "PYTHONPATH": "/elsewhere"}
    vault = make(environ={**passed, **kept, "HOME": "/elsewhere"})
    await vault.read(GOOD)
    folder = Path(f"/proc/{pid_of(vault)}")
    arguments = (folder / "cmdline").read_bytes().decode()
    assert not [word for word in ("s3cret", "client-id", "op://", "Example Account") if word in arguments]
    try:
        environment = (folder / "environ").read_bytes().decode()
    except PermissionError:
        return  # nobody but root can look
    given = dict(entry.split("=", 1) for entry in environment.split("\0") if entry)
    assert given == {**passed, "HOME": str(tmp_path), "PATH": SANE_PATH}


@linux_only
async def test_memory_is_closed_before_the_first_secret_and_not_before_the_prompt(app: SdkApp, vault: SdkVault) -> None:
    """The app may want to see which program asks; what it then gives is for this process alone."""
    await vault.read(GOOD)
    assert [(event.what, event.readable) for event in app.events()] == [
        ("prompt", True), ("init_client", True), ("invoke", False)
    ]  # fmt: skip


async def test_no_secret_reaches_a_log_or_an_error(
    app: SdkApp, vault: SdkVault, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    app.refuse(BAD.uri, "parsing")
    found = await vault.read([*GOOD, BAD])
    shown = f"{found!r} {[str(error.hint) for error in found.values() if isinstance(error, VaultError)]} {caplog.text}"
    assert not [text for text in ("s3cret", "client-id", "it echoes") if text in shown]
