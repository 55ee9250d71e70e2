"""Looking an entry of the system's keyring up without asking anybody. Blocks; for a thread.

The `keyring` library unlocks what is locked, with a dialog. So the Secret Service is spoken to directly, through the
library that `keyring` itself uses, and on macOS the Keychain is told to fail instead of asking. KWallet cannot be
opened without the risk of a dialog and is refused.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from typing import TYPE_CHECKING, Any

from tokenbroker.errors import Locked, NoCredential
from tokenbroker.vaults.keyring import full_name, is_allowed, keychain_alone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SECRET_SERVICE = {"keyring.backends.SecretService.Keyring", "keyring.backends.libsecret.Keyring"}
_KEYCHAIN = "keyring.backends.macOS.Keyring"
_SECURITY = "/System/Library/Frameworks/Security.framework/Security"
_INTERACTION_NOT_ALLOWED = "-25308"  # errSecInteractionNotAllowed, SecBase.h
_ELSEWHERE = "or keep the token elsewhere: `systemd://NAME` or `fd://N`"


def look_up(service: str, username: str) -> str | None:
    """Return the entry's text, `None` if there is none.

    Raises `Locked` when a person would have to unlock it first, `NoCredential` when no keyring can be used so.
    """
    from keyring import get_keyring  # noqa: PLC0415  # heavy, and only for those who use it

    return look_up_in(get_keyring(), service, username)


def look_up_in(backend: Any, service: str, username: str, *, search: Callable[..., Any] | None = None) -> str | None:
    """Look it up in this backend of the `keyring` library; `search` asks the Secret Service."""
    if not is_allowed(backend):
        raise NoCredential(
            f"keyring backend {full_name(backend)} is not one that keeps secrets encrypted, and is not used",
            hint=f"run `keyring --list-backends`, {_ELSEWHERE}",
        )
    links = list(getattr(backend, "backends", [])) or [backend]
    usable = [link for link in links if full_name(link) in {_KEYCHAIN, *_SECRET_SERVICE}]
    if not usable:
        raise NoCredential(
            f"keyring backend {full_name(backend)} cannot be read without the risk of a dialog", hint=_elsewhere()
        )
    found = (_one(link, service, username, search or _search_secret_service) for link in usable)
    return next((value for value in found if value is not None), None)


def _one(link: Any, service: str, username: str, search: Callable[..., Any]) -> str | None:
    if full_name(link) == _KEYCHAIN:
        return _from_keychain(link, service, username)
    text: str | None = search({"service": service, "username": username})
    return text


def _search_secret_service(attributes: dict[str, str]) -> str | None:
    """Ask every collection; what is locked is left locked."""
    import secretstorage  # noqa: PLC0415  # of Linux, and only for those who use it

    with contextlib.closing(secretstorage.dbus_init()) as connection:
        locked = False
        for item in secretstorage.search_items(connection, attributes):
            if item.is_locked():
                locked = True
            else:
                return bytes(item.get_secret()).decode()
    if locked:
        raise _locked()
    return None


def _from_keychain(backend: Any, service: str, username: str) -> str | None:
    from keyring import errors  # noqa: PLC0415  # heavy, and only for those who use it

    try:
        with _no_interaction():
            text: str | None = backend.get_password(service, username)
    except errors.KeyringLocked:
        raise _locked() from None
    except errors.KeyringError as error:
        if _INTERACTION_NOT_ALLOWED in str(error):
            raise _locked() from None
        raise
    return text


@contextlib.contextmanager
def _no_interaction() -> Iterator[None]:
    """Have the Keychain fail where it would ask (SecKeychainSetUserInteractionAllowed; of the whole process)."""
    if sys.platform == "darwin":
        security = ctypes.CDLL(_SECURITY)
        before = ctypes.c_ubyte(1)
        with keychain_alone(sys.platform):
            security.SecKeychainGetUserInteractionAllowed(ctypes.byref(before))
            security.SecKeychainSetUserInteractionAllowed(ctypes.c_ubyte(0))
            try:
                yield
            finally:
                security.SecKeychainSetUserInteractionAllowed(before)
    else:
        yield


def _locked() -> Locked:
    return Locked("the keyring is locked, and nobody is asked to unlock it for this", hint=f"unlock it, {_ELSEWHERE}")


def _elsewhere() -> str:
    return _ELSEWHERE.removeprefix("or ")
