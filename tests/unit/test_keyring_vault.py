from __future__ import annotations

import asyncio
import importlib
import threading
from typing import TYPE_CHECKING

import pytest
from keyring import errors
from keyring.backend import KeyringBackend
from keyring.backends import fail

from tokenbroker.errors import PromptDismissed, PromptUnanswered, VaultError, VaultUnavailable
from tokenbroker.model import Secret, SecretRef
from tokenbroker.vaults.keyring import KeyringVault, is_allowed, parse_reference

if TYPE_CHECKING:
    from collections.abc import Callable

REF = SecretRef("keyring://service/user")


class Answering(KeyringBackend):
    """A backend that does for each look-up what the test says."""

    priority = -1.0  # the library registers every class; this one it must never pick

    def __init__(self, answer: Callable[[], str | None] = lambda: "s3cret") -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the library has no annotations here
        self.answer = answer
        self.asked: list[tuple[str, str]] = []

    def get_password(self, service: str, username: str) -> str | None:
        self.asked.append((service, username))
        return self.answer()

    def set_password(self, service: str, username: str, password: str) -> None:
        raise NotImplementedError


def raising(error: Exception) -> Callable[[], str | None]:
    def answer() -> str | None:
        raise error

    return answer


def trusting(backend: KeyringBackend, *, timeout: float = 10) -> KeyringVault:
    return KeyringVault(backend=backend, allow=lambda _: True, timeout=timeout)


def named(module: str, name: str, **attributes: object) -> object:
    """Return an instance of a class of that full name: the real ones need another system or a desktop."""
    return type(name, (), {"__module__": module, "__qualname__": name, **attributes})()


def chain(*links: object) -> object:
    return named("keyring.backends.chainer", "ChainerBackend", backends=list(links))


SYSTEM = named("keyring.backends.SecretService", "Keyring")
PLAIN = named("keyrings.alt.file", "PlaintextKeyring")


@pytest.mark.parametrize(
    ("backend", "allowed"),
    [
        pytest.param(named("keyring.backends.macOS", "Keyring"), True, id="macOS keychain"),
        pytest.param(SYSTEM, True, id="secret service"),
        pytest.param(named("keyring.backends.libsecret", "Keyring"), True, id="libsecret"),
        pytest.param(named("keyring.backends.kwallet", "DBusKeyring"), True, id="kwallet"),
        pytest.param(PLAIN, False, id="plain-text file"),
        pytest.param(named("keyrings.alt.file", "EncryptedKeyring"), False, id="file with a password"),
        pytest.param(named("keyring.backends.null", "Keyring"), False, id="null"),
        pytest.param(named("keyring.backends.fail", "Keyring"), False, id="fail"),
        pytest.param(named("evil.backends", "Keyring"), False, id="same class name elsewhere"),
        pytest.param(chain(SYSTEM), True, id="chain of allowed"),
        pytest.param(chain(SYSTEM, PLAIN), False, id="chain with a plain-text link"),
        pytest.param(chain(), False, id="empty chain"),
    ],
)  # fmt: skip
def test_only_backends_that_encrypt_are_allowed(backend: object, allowed: bool) -> None:  # noqa: FBT001
    assert is_allowed(backend) is allowed


@pytest.mark.parametrize(
    "name",
    ["macOS.Keyring", "SecretService.Keyring", "libsecret.Keyring", "kwallet.DBusKeyring", "chainer.ChainerBackend"],
)
def test_allow_list_names_classes_that_the_library_has(name: str) -> None:
    """A renamed class would silently refuse everybody."""
    module, _, kind = name.rpartition(".")
    assert hasattr(importlib.import_module(f"keyring.backends.{module}"), kind)


async def test_backend_that_is_not_allowed_is_named_and_never_asked() -> None:
    backend = Answering()
    with pytest.raises(VaultUnavailable, match="Answering") as raised:
        await KeyringVault(backend=backend).read([REF])
    assert backend.asked == []
    assert "keyring --list-backends" in (raised.value.hint or "")


async def test_library_that_finds_no_keyring_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Headless, the library picks `fail`; what it picks is judged like any other."""
    monkeypatch.setattr("keyring.get_keyring", fail.Keyring)
    with pytest.raises(VaultUnavailable, match=r"keyring\.backends\.fail\.Keyring"):
        await KeyringVault().read([REF])


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("keyring://service/user", ("service", "user")),
        ("keyring://a%2Fb%20c/%C3%BC%25", ("a/b c", "ü%")),
        ("keyring://service", None),
        ("keyring://service/", None),
        ("keyring:///user", None),
        ("keyring://a/b/c", None),
        ("op://a/b", None),
    ],
)
def test_reference_is_service_and_user_percent_decoded(uri: str, parts: tuple[str, str] | None) -> None:
    assert parse_reference(SecretRef(uri)) == parts


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(errors.KeyringLocked("s3cret"), PromptDismissed, id="dialog refused"),
        pytest.param(errors.InitError("s3cret"), VaultUnavailable, id="no service"),
        pytest.param(errors.KeyringError("s3cret"), VaultUnavailable, id="library error"),
        pytest.param(OSError("s3cret"), VaultUnavailable, id="error of a lower layer"),
    ],
)
async def test_error_of_a_backend_is_told_without_its_text(error: Exception, expected: type[VaultError]) -> None:
    with pytest.raises(expected) as raised:
        await trusting(Answering(raising(error))).read([REF])
    assert "s3cret" not in f"{raised.value!r}{raised.value.__cause__!r}"
    assert raised.value.hint


async def test_dialog_without_an_answer_is_given_up_and_no_second_one_opened() -> None:
    """The thread cannot be ended, so nothing more is asked until it is done."""
    gate, backend = threading.Event(), Answering()
    backend.answer = lambda: "s3cret" if gate.wait(10) else None
    vault = trusting(backend, timeout=0.05)
    other = SecretRef("keyring://service/other")
    with pytest.raises(PromptUnanswered, match="may still be on the screen"):
        await vault.read([REF, other])
    with pytest.raises(PromptUnanswered, match="earlier dialog"):
        await vault.read([REF])
    gate.set()
    thread = vault._stuck
    assert thread is not None
    await asyncio.to_thread(thread.join, 10)
    assert backend.asked == [("service", "user")]
    assert await vault.read([REF]) == {REF: Secret("s3cret")}


async def test_loop_goes_on_while_the_keyring_blocks() -> None:
    gate = threading.Event()
    reading = asyncio.create_task(trusting(Answering(lambda: str(gate.wait(10)))).read([REF]))
    await asyncio.sleep(0)
    gate.set()
    assert await reading == {REF: Secret("True")}


async def test_empty_entry_is_no_secret() -> None:
    found = await trusting(Answering(lambda: "")).read([REF])
    assert not isinstance(found[REF], Secret)
