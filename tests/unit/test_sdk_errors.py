"""What the SDK's failures mean, held to the SDK itself: its parser, its kinds of error, its own exceptions."""

from __future__ import annotations

import ctypes
import sys

import pytest
from onepassword import desktop_core, errors, types
from onepassword.secrets import Secrets

from tokenbroker.errors import SecretNotFound, VaultError, VaultNotInstalled
from tokenbroker.model import SecretRef
from tokenbroker.vaults.sdk import errors as sdk_errors
from tokenbroker.vaults.sdk.errors import ENDS_PROCESS, failure, problem, refuse
from tokenbroker.vaults.sdk.process import Reader, classify
from tokenbroker.vaults.sdk.vault import _answer

REF = SecretRef("op://Agents/m2m/credential")


@pytest.mark.parametrize(
    "uri",
    [
        "op://v/i/f", "op://v/i/s/f", "op://My Vault/My Item/my field", "op://v/i/f ", "op://a-b/c_d/e.f",
        "op://v/i/f?attribute=otp", "op://v/i/f?attribute=totp", "op://v/i/f?ssh-format=openssh", "OP://v/i/f",
        "op://v/i/f?attribute=type", "op://v/i/f?attribute=value", "op://v/i/f?attribute=otp&ssh-format=openssh",
        "op://v/i/f?Attribute=otp", "op://v/i/f?", "op://v/i", "op://v", "op://", "op://v/i/s/x/f", "keyring://a/b",
        "op://v/ü/f", "op://v/a%20b/f", "op://v/a+b/f", "op://v/a@b/f", "op://v/a:b/f", "op://v/a#b/f", "op://v/a,b/f",
        "op://v/a&b/f", "op://v/a=b/f", "op://v/a'b/f", 'op://v/a"b/f', "op://v/a(b)/f", "op://v/i/f\n", " op://v/i/f",
    ],
)  # fmt: skip
def test_references_are_taken_and_refused_as_the_sdk_does(uri: str) -> None:
    """The real parser, in the SDK's own library, is asked."""
    try:
        Secrets.validate_secret_reference(uri)
    except Exception:  # noqa: BLE001  # the SDK raises nothing more particular
        taken = False
    else:
        taken = True
    assert (refuse(SecretRef(uri)) is None) == taken


def test_empty_names_are_refused_though_the_sdk_takes_them() -> None:
    Secrets.validate_secret_reference("op://v//f")
    assert refuse(SecretRef("op://v//f")) is not None


def test_every_kind_of_error_that_the_sdk_has_for_a_reference_has_words() -> None:
    kinds = {kind.value for kind in types.ResolveReferenceErrorTypes} - {"other"}
    assert kinds == {*sdk_errors._NOT_THERE, *sdk_errors._AMBIGUOUS}


@pytest.mark.parametrize("kind", [kind.value for kind in types.ResolveReferenceErrorTypes] + [None, "newer"])
def test_error_of_a_reference_names_it_and_a_next_step(kind: str | None) -> None:
    error = problem(REF, kind)
    assert error.message.startswith(f"{REF}: ")
    assert error.hint
    assert not error.message.endswith(".")


def no_function() -> Exception:
    """Return what ctypes raises when the library has not the function."""
    try:
        _ = ctypes.CDLL(None).op_sdk_ipc_send_message
    except AttributeError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.DesktopSessionExpiredException("x"), "expired"),
        (errors.RateLimitExceededException("x"), "limited"),
        (RuntimeError(desktop_core.ERR_CHANNEL_CLOSED), "disconnected"),
        (RuntimeError(desktop_core.ERR_CONNECTION_DROPPED), "disconnected"),
        (RuntimeError(desktop_core.ERR_INTERNAL_FMT.format(-7)), "disconnected"),
        (RuntimeError(desktop_core.ERR_INTERNAL_FMT.format(-12)), "internal"),
        (OSError("libop_sdk_ipc_client.so: invalid ELF header"), "library"),
        (no_function(), "library"),
        (AttributeError("'str' object has no attribute 'get'"), "unknown"),
        (Exception("access denied by the user"), "dismissed"),
        (Exception("the user dismissed the prompt"), "dismissed"),
        (Exception("Request was cancelled"), "dismissed"),
        (Exception("permission denied"), "unknown"),
        (Exception("authorization request timed out"), "unanswered"),
        (Exception("request timed out"), "unknown"),
        (Exception("the app is locked"), "locked"),
        (Exception("cannot resolve op://denied/cancelled/x"), "unknown"),
        (Exception("no item 'denied' here"), "unknown"),
        (Exception("the user didn't agree: denied, that's all"), "dismissed"),
        (Exception(), "unknown"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{type(value).__name__} {value}"[:50],
)
def test_failures_are_told_apart_without_their_text(error: Exception, kind: str) -> None:
    told = classify(error)
    assert told["failure"] == kind
    assert set(told) <= {"failure", "number"}
    assert isinstance(failure(told["failure"], told.get("number")), VaultError)


def test_missing_package_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onepassword", None)
    told = Reader(None).answer({"account": "a", "refs": [REF.uri]})
    error = failure(told["failure"])
    assert isinstance(error, VaultNotInstalled)
    assert error.message == "the Python package `onepassword-sdk` is not installed"
    assert "`pip install 'tokenbroker[sdk]'`" in (error.hint or "")


def test_package_that_does_not_load_is_not_called_missing() -> None:
    assert classify(ImportError("libssl.so.3: cannot open shared object file"))["failure"] == "package-broken"
    assert classify(ModuleNotFoundError("x", name="pydantic"))["failure"] == "package-broken"


def test_missing_app_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK looks in the places where the app is usually installed."""
    monkeypatch.setattr("onepassword.desktop_core.os.path.exists", lambda _path: False)
    told = Reader(None).answer({"probe": True})
    assert told == {"failure": "no-app"}
    assert isinstance(failure("no-app"), VaultNotInstalled)


def test_every_failure_has_a_next_step() -> None:
    assert set(sdk_errors._FAILURES) >= ENDS_PROCESS
    for kind in sdk_errors._FAILURES:
        error = failure(kind)
        assert error.hint
        assert not error.message.endswith(".")


@pytest.mark.parametrize("value", [None, "", "\ud800", 1, [], {}])
@pytest.mark.parametrize("kind", [None, [], {}, "itemNotFound"])
def test_whatever_the_app_gave_for_a_reference_is_a_secret_or_an_error(value: object, kind: object) -> None:
    ref = SecretRef("op://V/I/F")
    found = {"values": {ref.uri: value}, "problems": {ref.uri: kind}}
    assert isinstance(_answer(ref, found), SecretNotFound)
