"""What a failed `op` call of a service account means: the same table as `errors`, in words of its own. PURE.

There is no app, no dialog and no person here; what helps is nearly always another token, so each hint names where the
present one comes from.
"""

from __future__ import annotations

from tokenbroker.errors import PASSING, VaultUnavailable
from tokenbroker.vaults.op.errors import COMMON_UNATTENDED, UNLOCK, UPDATE, Words, row
from tokenbroker.vaults.op.limits import UNTOLD_PAUSE


class TokenRefused(VaultUnavailable):
    """1Password does not take the service account's token."""


class LimitReached(VaultUnavailable):
    """An allowance of the service account, or of its whole account, is used up."""


def service_account_words(where: str) -> Words:
    """Return the words for a service account whose token is kept at `where`, e.g. `systemd://op`."""
    renew = f"put a valid token of the service account into {where}, then {UNLOCK}"
    return Words(
        kinds=(
            row(r"Service Account Deleted|has been deleted\b.{0,200}service account|"
                r"service account.{0,200} has been deleted",
                TokenRefused, "the service account was deleted, or its token revoked",
                f"create a service account anew, put its token into {where}, then {UNLOCK}"),
            row(r"DecodeSACredentials|unrecognized auth type|service account token .{0,200}(invalid|malformed|decod)",
                TokenRefused, "the service account's token is not one: it was cut short, or is something else",
                f"put the whole token, which begins with `ops_`, into {where}, then {UNLOCK}"),
            row(r"signin credentials are not compatible",
                TokenRefused, "1Password does not take the service account's token: it was issued for something else",
                renew),
            row(r"\(401\)|Server: \((401|403)\)",
                TokenRefused, "1Password does not take the service account's token", renew),
            row(r"not authenticated yet",
                VaultUnavailable, "`op` has the service account's token, and has not signed in with it yet",
                f"{UNLOCK} again; if it stays so, update `op`", passes_in=PASSING),
            row(r"Too Many Requests|rate.?limit",
                LimitReached, "the allowance of the service account is used up",
                f"look at it with `broker status`, wait until it is renewed, then {UNLOCK}", passes_in=UNTOLD_PAUSE),
            row(r"a vault query must be provided",
                VaultUnavailable, "`op` wants to be told the vault of the service account in another way", UPDATE),
            row(r"no accounts configured|not (currently )?signed in|no account found for filter|no active session",
                TokenRefused, "`op` did not sign in with the service account's token",
                f"check with `op --version` that `op` is 2.18 or newer, and that {where} holds a token"),
            row(r"connecting to (the )?(1password )?desktop app|authorization (prompt|timeout)",
                VaultUnavailable, "`op` turned to the 1Password app although it was given a service account", UPDATE),
            row(r"(?m:^panic: |^goroutine \d+)",
                TokenRefused, "`op` crashed, as versions before 2.20 do when the service account's token is damaged",
                f"put the whole token, which begins with `ops_`, into {where}, or {UPDATE}"),
            *COMMON_UNATTENDED,
        ),
        silence=row("", VaultUnavailable,
                    "`op` did not answer in time and was stopped, although nobody has to be asked",
                    f"check the network connection, or raise `timeout` in section [vault], then {UNLOCK}",
                    passes_in=PASSING),
        no_vault=(
            "there is no such vault, or the service account may not see it",
            "create a service account that may read it: rights are set at creation; a Private vault is open to none",
        ),
    )  # fmt: skip
