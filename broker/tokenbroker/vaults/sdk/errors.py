"""What the SDK's kinds of failure mean: an error for everything, or an error for one reference.

PURE. The kinds come from `sdk_process.classify` and from the SDK's own list of `ResolveReferenceErrorTypes`; no text of
the SDK, the app or a secret comes this far. References are checked here first, by the SDK's rules (contract 1.5), which
are narrower than those of `op`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

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

if TYPE_CHECKING:
    from tokenbroker.model import SecretRef

UNLOCK: Final = "run `broker unlock`"
_APPROVE: Final = f"{UNLOCK} and approve the prompt"
_INTEGRATION: Final = "turn on 1Password's Settings > Developer > Integrate with other apps"
_PIP: Final = "run `pip install 'tokenbroker[sdk]'` in the environment of the broker"
_UPDATE: Final = f"update the 1Password app and {_PIP}, then {UNLOCK}"
_LIMITED_FOR: Final = 60.0  # seconds; the SDK does not say how long, and the shortest window known is a minute

# Kind → error, message, hint.
_FAILURES: Final[dict[str, tuple[type[VaultError], str, str]]] = {
    "package-missing": (
        VaultNotInstalled, "the Python package `onepassword-sdk` is not installed", _PIP),
    "package-broken": (
        VaultNotInstalled, "the Python package `onepassword-sdk` cannot be loaded on this machine", _PIP),
    "no-app": (
        VaultNotInstalled, "the 1Password app is not installed where its SDK looks for it",
        f"install the app as https://1password.com/downloads says, {_INTEGRATION}, then {UNLOCK}"),
    "library": (
        VaultNotInstalled, "the 1Password app's library for other apps cannot be loaded",
        f"update the 1Password app, then {UNLOCK}"),
    "disconnected": (
        VaultUnavailable, "the 1Password app cannot be reached: it is not running, or lets no other apps in",
        f"start the 1Password app, {_INTEGRATION}, then {UNLOCK}"),
    "expired": (
        Locked, "1Password ended its session while it was being read", f"unlock the 1Password app, then {UNLOCK}"),
    "locked": (
        Locked, "the 1Password app is locked", f"unlock the 1Password app, then {UNLOCK}"),
    "dismissed": (
        PromptDismissed, "the 1Password prompt was dismissed", _APPROVE),
    "unanswered": (
        PromptUnanswered, "nobody answered the 1Password prompt in time", _APPROVE),
    "limited": (
        VaultUnavailable, "1Password limits the rate of requests", f"wait, then {UNLOCK}"),
    "garbled": (
        VaultUnavailable, "the 1Password app answered with something that its SDK does not understand", _UPDATE),
    "internal": (
        VaultUnavailable, "the 1Password app's library failed", f"restart the 1Password app, then {UNLOCK}"),
    "unknown": (
        VaultUnavailable, "the 1Password app refused for a reason that tokenbroker does not know",
        f"check that `account` in section [vault] is the account's name at the top left of the app, then {UNLOCK}"),
}  # fmt: skip

# After these the process holds no authorization that would be lost with it, and cannot mend what it has loaded: a
# library whose channel was closed may never open another (contract 5, known faults).
ENDS_PROCESS: Final = frozenset(
    {"package-missing", "package-broken", "no-app", "library", "disconnected", "internal"}
)  # fmt: skip

_NOT_THERE: Final = {
    "parsing": "1Password cannot read the reference",
    "vaultNotFound": "there is no such vault, or this account may not see it",
    "itemNotFound": "the vault has no such item, or it is archived",
    "noMatchingSections": "the item has no such section",
    "fieldNotFound": "the item has no such field",
    "incompatibleTOTPQueryParameterField": "the field is no one-time password",
    "unableToGenerateTotpCode": "1Password cannot make a one-time password of the field",
    "sSHKeyMetadataNotFound": "the field is no SSH key",
    "incompatibleSshKeyQueryParameterField": "the field is no SSH key",
    "unableToParsePrivateKey": "1Password cannot read the private key in the field",
    "unableToFormatPrivateKeyToOpenSsh": "1Password cannot give the private key in OpenSSH's format",
    "unsupportedFileFormat": "the file is not text",
}
_AMBIGUOUS: Final = {
    "tooManyVaults": "more than one vault matches; write the vault's id instead of its name",
    "tooManyItems": "more than one item matches; write the item's id instead of its name",
    "tooManyMatchingFields": "more than one field matches; write the field's id, or its section before its name",
}
_LOOK: Final = "copy the field's secret reference in the 1Password app, and compare"

# The SDK takes empty names as well, which name nothing.
_NAME = r"[a-zA-Z0-9_. -]+"
_REFERENCE: Final = re.compile(
    rf"op://{_NAME}/{_NAME}/(?:{_NAME}/)?{_NAME}(?:\?(?:attribute=(?:otp|totp)|ssh-format=openssh))?"
)


def refuse(ref: SecretRef) -> VaultError | None:
    """Return the error of a reference that the SDK's parser would not take; `None` when it would."""
    if _REFERENCE.fullmatch(ref.uri):
        return None
    return SecretNotFound(
        f"{ref}: not a reference that 1Password's SDK can read",
        hint="write it as `op://VAULT/ITEM/FIELD` with letters, digits, `-_.` and spaces, and ids for other names",
    )


def failure(kind: str, number: int | None = None) -> VaultError:
    """Return the error for a read that failed as a whole; `number` is the library's return code."""
    error, message, hint = _FAILURES.get(kind, _FAILURES["unknown"])
    code = f" (return code {number})" if number is not None else ""
    return error(message + code, hint=hint, retry_after=_LIMITED_FOR if kind == "limited" else None)


def problem(ref: SecretRef, kind: str | None) -> VaultError:
    """Return the error of one reference; `None`: there is no value, and no error either."""
    if kind in _AMBIGUOUS:
        return SecretAmbiguous(f"{ref}: {_AMBIGUOUS[kind]}", hint=_LOOK)
    what = _NOT_THERE.get(kind or "", "1Password has nothing readable under this reference")
    return SecretNotFound(f"{ref}: {what}", hint=_LOOK)
