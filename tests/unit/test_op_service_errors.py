from __future__ import annotations

import pytest

from tests.unit.test_op_errors import INIT, SECRET_READ, failure, refs
from tokenbroker.errors import PASSING, SecretNotFound, VaultError, VaultUnavailable
from tokenbroker.vaults.op.errors import Completed, judge
from tokenbroker.vaults.op.service_errors import LimitReached, TokenRefused, service_account_words

WORDS = service_account_words("systemd://op")
DELETED = (
    "Authentication: (failed to auth.LookupAuth), Network: (failed to request.DoUnencrypted), Server: (403) (Forbidden "
    "(Service Account Deleted)), The Service Account used in this integration has been deleted."
)
UNDECODED = (
    "Validation: (failed to session.DecodeSACredentials), Server: (failed to DecodeSACredentials), illegal base64 "
    "data at input byte 12"
)
DEVICE = "Signin credentials are not compatible with the provided user auth from server"
REFUSED = "Authentication: (failed to auth.Signin), Server: (401) (Unauthorized)"
NOT_YET = "service account token set, but not authenticated yet"
NO_VAULT = (
    "a vault query must be provided when this command is called by a service account. Please specify one either "
    "through the --vault flag or through piped input"
)
LIMITED = (
    "(429) Too Many Requests: You've reached the maximum number of this type of requests this service account is "
    "allowed to make. Please retry in 59 minutes or try other requests."
)
NETWORK = 'Get "https://my.1password.com/api/v2/account": dial tcp: no such host'
SIGNING_IN = (
    "Authentication: (failed to auth.LookupAuth), Network: (failed to request.DoUnencrypted), dial tcp: i/o timeout"
)
# Exact texts of the contract, table 1.7, as a service account gets them.
RECORDED = [
    ("deleted", INIT + DELETED, TokenRefused, "was deleted", "systemd://op"),
    ("malformed", SECRET_READ + INIT + UNDECODED, TokenRefused, "is not one", "ops_"),
    ("with a prefix", INIT + "unrecognized auth type", TokenRefused, "is not one", "systemd://op"),
    ("device mismatch", INIT + DEVICE, TokenRefused, "issued for something else", "systemd://op"),
    ("another refusal", INIT + REFUSED, TokenRefused, "does not take", "systemd://op"),
    ("not yet", NOT_YET, VaultUnavailable, "not signed in with it yet", "broker unlock"),
    ("without a vault", NO_VAULT, VaultUnavailable, "told the vault", "update"),
    ("429", LIMITED, LimitReached, "used up", "broker status"),
    ("no account at all", "no account found for filter ", TokenRefused, "did not sign in", "systemd://op"),
    ("not signed in", "You are not currently signed in. Please run `op signin`", TokenRefused, "did not sign in", "op"),
    ("app", "connecting to desktop app: read: connection reset", VaultUnavailable, "turned to the 1Password", "op"),
    ("panic", "\npanic: runtime error\n\ngoroutine 1 [running]:", TokenRefused, "crashed", "ops_"),
    ("network", NETWORK, VaultUnavailable, "cannot reach", "network"),
    ("network, while signing in", INIT + SIGNING_IN, VaultUnavailable, "cannot reach", "network"),
    ("500", "(500) Internal Server Error: Something went wrong.", VaultUnavailable, "answered with an error", "wait"),
    ("unknown words", "the moon is full", VaultUnavailable, "does not know", "op vault list"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "error", "words", "hint"), [pytest.param(*row[1:], id=row[0]) for row in RECORDED])
def test_recorded_text_is_understood(text: str, error: type[VaultError], words: str, hint: str) -> None:
    """Each failure is one error with its own next step, and none sends a person to an app that is not there."""
    with pytest.raises(VaultError, match=words) as raised:
        judge(failure(text), refs("op://V/I/F", "op://V/I/G"), WORDS)
    assert type(raised.value) is error
    assert hint in (raised.value.hint or "")
    assert "Integrate with 1Password CLI" not in (raised.value.hint or "")


def test_retry_time_is_kept() -> None:
    with pytest.raises(LimitReached) as raised:
        judge(failure("(429) Too Many Requests: Please retry in 59 minutes"), refs("op://V/I/F"), WORDS)
    assert raised.value.retry_after == 59 * 60


def test_silence_is_no_unanswered_prompt() -> None:
    """Nobody was asked, so it does not count towards the pause after unanswered prompts."""
    with pytest.raises(VaultUnavailable, match="nobody has to be asked"):
        judge(Completed(-15, timed_out=True), refs("op://V/I/F"), WORDS)


def test_vault_without_access_says_what_a_service_account_cannot_see() -> None:
    asked = refs("op://Private/I/F", "op://V/I/F")
    failed = judge(failure('"Private" isn\'t a vault in this account. Specify the vault'), asked, WORDS)
    assert failed is not None
    (error,) = failed.values()
    assert isinstance(error, SecretNotFound)
    assert "may not see it" in error.message
    assert "Private vault is open to none" in (error.hint or "")


@pytest.mark.parametrize("name", [row[0] for row in RECORDED])
def test_error_says_whether_it_passes_without_a_person(name: str) -> None:
    text = next(row[1] for row in RECORDED if row[0] == name)
    passes = {"not yet": PASSING, "429": 59 * 60.0, "network": PASSING, "network, while signing in": PASSING,
              "500": PASSING}  # fmt: skip
    with pytest.raises(VaultError) as raised:
        judge(failure(text), refs("op://V/I/F", "op://V/I/G"), WORDS)
    assert raised.value.retry_after == passes.get(name)


def test_limit_without_a_time_and_silence_pass_too() -> None:
    for done, seconds in ((failure("(429) Too Many Requests"), 600.0), (Completed(None, timed_out=True), PASSING)):
        with pytest.raises(VaultUnavailable) as raised:
            judge(done, refs("op://V/I/F"), WORDS)
        assert raised.value.retry_after == seconds
