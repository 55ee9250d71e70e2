"""Where an access token comes from: what is refused, what is read, and that nothing hangs."""

from __future__ import annotations

import asyncio
import ctypes
import os
import pty
import struct
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.test_keyring_vault import PLAIN, chain, named
from tokenbroker.errors import ConfigError, Locked, VaultError, VaultUnavailable
from tokenbroker.model import Secret, SecretRef
from tokenbroker.vaults.credential.keyring import look_up_in
from tokenbroker.vaults.credential.sources import MAX_BYTES, CredentialSources, checked
from tokenbroker.vaults.credential.systemd import lets_only_read
from tokenbroker.vaults.keyring import KeyringVault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

UID = os.getuid()
OTHER_UID = UID + 12345
TOKEN = "ops_eyJ0b2tlbiI6MX0"


def sources(environ: dict[str, str] | None = None, *, fd_patience: float = 10.0, **more: object) -> CredentialSources:
    return CredentialSources(environ or {}, UID, fd_patience=fd_patience, **more)  # type: ignore[arg-type]


# --- the text ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw", [b"tok", b"tok\n", b"tok\r\n"], ids=["as it is", "line end of an editor", "line end of Windows"]
)
def test_line_end_is_no_part_of_the_token(raw: bytes) -> None:
    assert checked(raw, "w", "h") == Secret("tok")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(b" \n", "is empty", id="blank"),
        pytest.param(b"\xff\xfe", "is not text", id="not UTF-8"),
        pytest.param(b"a\nb", "more than one line", id="two lines"),
        pytest.param(b"a\n\n", "more than one line", id="two line ends"),
        pytest.param(b"a\0b", "control characters", id="nul"),
        pytest.param(b"a\x1b[31m", "control characters", id="escape"),
        pytest.param(b"a" * (MAX_BYTES + 1), "longer than 64 KiB", id="too long"),
    ],
)
def test_text_that_is_no_token_is_refused_without_being_shown(raw: bytes, words: str) -> None:
    with pytest.raises(VaultUnavailable, match=words) as raised:
        checked(raw, "systemd://op", "do this")
    assert raised.value.message.startswith("systemd://op: ")
    assert raised.value.hint == "do this"


def test_longest_token_is_taken() -> None:
    assert checked(b"a" * (MAX_BYTES - 1) + b"\n", "w", "h") == Secret("a" * (MAX_BYTES - 1))


@pytest.mark.parametrize(
    "where",
    ["", TOKEN, f"/home/me/{TOKEN}", f"file:///{TOKEN}", f"keyring://{TOKEN}", "keyring://a/b/c", "keyring:///b",
     "systemd://", "systemd://a/b", "systemd://..", "systemd://.", "systemd://../../etc/passwd", "systemd://a\nb",
     "fd://", "fd://2", "fd://0", "fd://-1", "fd://03", "fd://x", f"fd://{TOKEN}"],
)  # fmt: skip
def test_other_places_are_refused_and_not_shown(where: str) -> None:
    """What stands there may be the token itself."""
    with pytest.raises(ConfigError) as raised:
        sources().source(where)
    assert TOKEN not in f"{raised.value} {raised.value.hint}"
    assert "keyring://SERVICE/USERNAME" in (raised.value.hint or "")


# --- descriptors ------------------------------------------------------------------------------------------------------


@pytest.fixture
def hand_over() -> Iterator[Callable[[int], int]]:
    """Give what makes a descriptor look as one that was handed over at the start."""
    given: list[int] = []

    def make(fd: int) -> int:
        os.set_inheritable(fd, True)  # noqa: FBT003
        given.append(fd)
        return fd

    yield make
    for fd in given:
        try:
            os.close(fd)
        except OSError:
            continue


async def test_pipe_is_read_at_once_and_kept_for_a_later_configuration(hand_over: Callable[[int], int]) -> None:
    reader, writer = os.pipe()
    hand_over(reader)
    made = sources()
    first = made.source(f"fd://{reader}")
    os.write(writer, f"{TOKEN}\n".encode())
    os.close(writer)
    assert await first() == Secret(TOKEN)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reader)
    assert await made.source(f"fd://{reader}")() == Secret(TOKEN)
    assert await first() == Secret(TOKEN)


async def test_file_of_ours_alone_is_read(tmp_path: Path, hand_over: Callable[[int], int]) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o600)
    fd = hand_over(os.open(path, os.O_RDONLY))
    assert await sources().source(f"fd://{fd}")() == Secret(TOKEN)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602])
def test_file_that_others_can_use_is_refused(tmp_path: Path, hand_over: Callable[[int], int], mode: int) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(mode)
    with pytest.raises(VaultUnavailable, match="others can read or write") as raised:
        sources().source(f"fd://{hand_over(os.open(path, os.O_RDONLY))}")
    assert "broker serve 3< <(" in (raised.value.hint or "")


def test_file_of_another_user_is_refused(tmp_path: Path, hand_over: Callable[[int], int]) -> None:
    path = tmp_path / "token"
    path.touch(0o600)
    fd = hand_over(os.open(path, os.O_RDONLY))
    if UID != 0:
        pytest.skip("root alone can give a file away")
    os.chown(path, OTHER_UID, -1)
    with pytest.raises(VaultUnavailable, match=f"uid {OTHER_UID}"):
        sources().source(f"fd://{fd}")


def test_descriptor_that_is_not_open_is_told() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    with pytest.raises(VaultUnavailable, match="no such descriptor is open"):
        sources().source(f"fd://{writer}")


def test_descriptor_of_our_own_is_left_alone() -> None:
    """A number written by mistake may be a pipe of the broker's; reading and closing that would break it."""
    reader, writer = os.pipe()
    try:
        with pytest.raises(VaultUnavailable, match="one of the broker's own"):
            sources().source(f"fd://{reader}")
        os.fstat(reader)
    finally:
        os.close(reader)
        os.close(writer)


def test_folder_is_no_place_for_a_token(tmp_path: Path, hand_over: Callable[[int], int]) -> None:
    with pytest.raises(VaultUnavailable, match="neither a pipe nor a file"):
        sources().source(f"fd://{hand_over(os.open(tmp_path, os.O_RDONLY))}")


@pytest.mark.parametrize("kind", ["pipe", "half a token", "terminal"])
async def test_writer_that_never_ends_hangs_nothing(hand_over: Callable[[int], int], kind: str) -> None:
    """The start goes on at once; who asks for the token is told in time, also the second time."""
    reader, writer = pty.openpty() if kind == "terminal" else os.pipe()
    hand_over(reader if kind != "terminal" else writer)
    number = reader if kind != "terminal" else writer
    if kind == "half a token":
        os.write(writer, b"ops_half")
    began = time.monotonic()
    source = sources(fd_patience=0.3).source(f"fd://{number}")
    assert time.monotonic() - began < 0.2
    for _ in range(2):
        with pytest.raises(VaultUnavailable, match=r"nobody wrote|no token came"):
            await source()
    assert time.monotonic() - began < 5
    os.close(reader if kind == "terminal" else writer)


async def test_endless_writer_is_cut_off(hand_over: Callable[[int], int]) -> None:
    reader, writer = os.pipe()
    hand_over(reader)
    source = sources().source(f"fd://{reader}")

    def pour() -> None:
        try:
            while True:
                os.write(writer, b"x" * 4096)
        except BrokenPipeError:
            os.close(writer)

    pouring = threading.Thread(target=pour)
    pouring.start()
    with pytest.raises(VaultUnavailable, match="longer than 64 KiB"):
        await source()
    await asyncio.to_thread(pouring.join, 10)
    assert not pouring.is_alive()


# --- systemd ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    credentials = tmp_path / "credentials"
    credentials.mkdir(mode=0o700)
    (credentials / "op").write_text(f"{TOKEN}\n")
    (credentials / "op").chmod(0o400)
    return credentials


def from_systemd(folder: Path | None) -> CredentialSources:
    return sources({} if folder is None else {"CREDENTIALS_DIRECTORY": str(folder)})


async def test_credential_is_read_anew_each_time(folder: Path) -> None:
    source = from_systemd(folder).source("systemd://op")
    assert await source() == Secret(TOKEN)
    (folder / "op").chmod(0o600)
    (folder / "op").write_text("ops_rotated")
    assert await source() == Secret("ops_rotated")


@pytest.mark.parametrize("mode", [0o440, 0o404, 0o420, 0o402])
async def test_credential_that_others_can_use_is_refused(folder: Path, mode: int) -> None:
    (folder / "op").chmod(mode)
    with pytest.raises(VaultUnavailable, match="others can read or write"):
        await from_systemd(folder).source("systemd://op")()


async def test_credential_of_another_user_is_refused(folder: Path) -> None:
    made = CredentialSources({"CREDENTIALS_DIRECTORY": str(folder)}, OTHER_UID)
    if UID == 0:
        os.chown(folder / "op", OTHER_UID + 1, -1)
    with pytest.raises(VaultUnavailable, match="belongs to another user"):
        await made.source("systemd://op")()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("symlink", "cannot be opened"),
        ("fifo", "not a file"),
        ("folder", "not a file"),
        ("missing", "no credential of"),
    ],
)
async def test_credential_that_is_no_plain_file_is_refused(folder: Path, kind: str, words: str) -> None:
    (folder / "op").rename(folder / "real")
    {
        "symlink": lambda: (folder / "op").symlink_to(folder / "real"),
        "fifo": lambda: os.mkfifo(folder / "op", 0o400),
        "folder": lambda: (folder / "op").mkdir(0o700),
        "missing": lambda: None,
    }[kind]()
    with pytest.raises(VaultUnavailable, match=words) as raised:
        await from_systemd(folder).source("systemd://op")()
    assert "LoadCredential=op:" in (raised.value.hint or "")


@pytest.mark.parametrize("place", [None, "", "relative"])
async def test_process_without_credentials_is_told(place: str | None) -> None:
    made = sources({} if place is None else {"CREDENTIALS_DIRECTORY": place})
    with pytest.raises(VaultUnavailable, match="gave this process no credentials"):
        await made.source("systemd://op")()


def access_list(*entries: tuple[int, int, int]) -> bytes:
    """Return a list as the kernel gives it: version 2, then tag, rights and id of each entry."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NOBODY = 0xFFFFFFFF
OWNER, GROUP, MASK, OTHER = (0x01, 4, NOBODY), (0x04, 0, NOBODY), (0x10, 4, NOBODY), (0x20, 0, NOBODY)


@pytest.mark.parametrize(
    ("raw", "fine"),
    [
        # What systemd makes for a service that runs as another user than its manager.
        pytest.param(access_list(OWNER, (0x02, 4, 1000), GROUP, MASK, OTHER), True, id="as systemd makes it"),
        pytest.param(access_list(OWNER, (0x02, 4, 1001), GROUP, MASK, OTHER), False, id="for another user"),
        pytest.param(access_list(OWNER, (0x02, 4, 1000), (0x02, 4, 1001), GROUP, MASK, OTHER), False, id="for two"),
        pytest.param(access_list(OWNER, (0x04, 4, NOBODY), MASK, OTHER), False, id="the group may read"),
        pytest.param(access_list(OWNER, GROUP, (0x08, 4, 50), MASK, OTHER), False, id="a named group may read"),
        pytest.param(access_list(OWNER, GROUP, MASK, (0x20, 4, NOBODY)), False, id="everybody may read"),
        pytest.param(b"", False, id="empty"),
        pytest.param(struct.pack("<I", 3), False, id="another version"),
        pytest.param(access_list(OWNER)[:-1], False, id="cut short"),
    ],
)
def test_access_list_is_for_the_service_alone(raw: bytes, fine: bool) -> None:  # noqa: FBT001
    assert lets_only_read(raw, 1000) is fine


# --- the keyring ------------------------------------------------------------------------------------------------------


async def test_entry_of_the_keyring_is_read_with_its_names_decoded() -> None:
    asked: list[tuple[str, str]] = []

    def keyring(service: str, username: str) -> str | None:
        asked.append((service, username))
        return TOKEN

    assert await sources(keyring=keyring).source("keyring://token%2Fbroker/service%20account")() == Secret(TOKEN)
    assert asked == [("token/broker", "service account")]


async def test_token_that_can_be_read_anew_is_not_kept() -> None:
    """Also when nobody waits for it any more."""
    release = threading.Event()

    def keyring(_service: str, username: str) -> str | None:
        if username == "slow":
            release.wait(10)
        return TOKEN

    kept = sources(keyring=keyring, patience=0.05)
    assert await kept.source("keyring://a/b")() == Secret(TOKEN)
    with pytest.raises(VaultUnavailable, match="no token came within"):
        await kept.source("keyring://a/slow")()
    (late,) = kept._running.values()
    release.set()
    await asyncio.wait_for(asyncio.wrap_future(late), 10)
    assert kept._running == {}


async def test_missing_entry_names_the_command_that_makes_it() -> None:
    with pytest.raises(VaultUnavailable, match="no such entry") as raised:
        await sources(keyring=lambda *_: None).source("keyring://tokenbroker/op")()
    assert not raised.value.retryable
    assert raised.value.hint == 'run `keyring set "tokenbroker" "op"`'


async def test_keyring_that_hangs_is_given_up_and_not_asked_twice_at_once() -> None:
    release, calls = threading.Event(), []

    def keyring(service: str, username: str) -> str | None:
        calls.append((service, username))
        release.wait(10)
        return TOKEN

    source = sources(keyring=keyring, patience=0.1).source("keyring://a/b")
    for _ in range(2):
        with pytest.raises(VaultUnavailable, match="no token came within") as raised:
            await source()
        assert raised.value.retryable
    assert len(calls) == 1
    release.set()


async def test_error_of_the_library_is_named_and_its_text_is_not_shown() -> None:
    def keyring(_service: str, _username: str) -> str | None:
        raise RuntimeError(TOKEN)

    with pytest.raises(VaultError, match="RuntimeError") as raised:
        await sources(keyring=keyring).source("keyring://a/b")()
    assert TOKEN not in f"{raised.value!r} {raised.value.__cause__!r} {raised.value.__context__!r}"


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        pytest.param(PLAIN, "not one that keeps secrets encrypted", id="plain-text file"),
        pytest.param(named("keyring.backends.kwallet", "DBusKeyring"), "without the risk of a dialog", id="KWallet"),
    ],
)
def test_keyring_that_is_not_encrypted_or_may_ask_is_refused(backend: object, words: str) -> None:
    with pytest.raises(VaultUnavailable, match=words) as raised:
        look_up_in(backend, "a", "b")
    assert "systemd://NAME" in (raised.value.hint or "")


SERVICE = named("keyring.backends.SecretService", "Keyring")
LIBSECRET = named("keyring.backends.libsecret", "Keyring")


@pytest.mark.parametrize("backend", [SERVICE, LIBSECRET, chain(SERVICE, LIBSECRET)])
def test_secret_service_is_searched_and_never_unlocked(backend: object) -> None:
    """The backend itself is not called: it would unlock, with a dialog."""
    found = look_up_in(backend, "svc", "me", search=lambda attributes: "-".join(attributes.values()))
    assert found == "svc-me"


@pytest.mark.parametrize(
    ("error", "expected"),
    [("KeyringLocked", Locked), ("KeyringError", Locked), ("InitError", None)],
)
def test_keychain_that_would_ask_is_locked(error: str, expected: type[Exception] | None) -> None:
    """-25308 is the Keychain's word for a dialog that it was told not to show."""
    from keyring import errors  # noqa: PLC0415  # slow to import

    text = "Can't fetch password from system: (-25308, 'Unknown Error')" if error == "KeyringError" else "x"

    def get_password(*_: str) -> str:
        raise getattr(errors, error)(text)

    backend = named("keyring.backends.macOS", "Keyring", get_password=staticmethod(get_password))
    with pytest.raises(expected or errors.InitError):
        look_up_in(backend, "svc", "me")


class Keychain:
    """macOS's switch for the Keychain's dialogs, which is one for the whole process."""

    def __init__(self) -> None:
        self.may_ask = 1

    def SecKeychainGetUserInteractionAllowed(self, found: Any) -> None:  # noqa: N802  # Apple's name
        found._obj.value = self.may_ask

    def SecKeychainSetUserInteractionAllowed(self, value: Any) -> None:  # noqa: N802  # Apple's name
        self.may_ask = value.value


async def test_dialogs_of_the_keychain_are_off_for_tokens_and_on_for_the_person(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many look-ups there are at once; and afterwards it is as before."""
    keychain, seen = Keychain(), []
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: keychain)

    def get_password(service: str, _username: str) -> str:
        before = keychain.may_ask
        time.sleep(0.01)  # so that those who may overlap do
        seen.append((service, before, keychain.may_ask))
        return TOKEN

    backend = named("keyring.backends.macOS", "Keyring", get_password=staticmethod(get_password))
    persons = SecretRef("keyring://person/x")
    await asyncio.gather(
        *(asyncio.to_thread(look_up_in, backend, "token", "x") for _ in range(4)),
        *(KeyringVault(backend=backend).read([persons]) for _ in range(4)),
    )
    assert sorted(seen) == [("person", 1, 1)] * 4 + [("token", 0, 0)] * 4
    assert keychain.may_ask == 1
