from __future__ import annotations

import contextlib
import time

import pytest

from tokenbroker.errors import (
    Locked,
    PromptDismissed,
    PromptUnanswered,
    SecretAmbiguous,
    SecretNotFound,
    VaultError,
    VaultUnavailable,
)
from tokenbroker.model import SecretRef
from tokenbroker.vaults.op.errors import APP, Completed, garbled, general_error, judge
from tokenbroker.vaults.op.reference import OpReference, parse_reference
from tokenbroker.vaults.op.service_errors import service_account_words

STAMP = "[ERROR] 2026/02/03 04:05:06 "
SECRET_READ = "could not read secret 'op://V/I/F': "
INIT = "error initializing client: "
NO_ACCOUNTS = (
    "No accounts configured for use with 1Password CLI.\n\n"
    "* Turn on the 1Password app integration: https://developer.1password.com/docs/cli/app-integration\n"
    "* Add an account with `op account add`\n* Use a service account\n* Use a Connect server\n\n"
    "Do you want to add an account manually now? [Y/n] "
)


def refs(*uris: str) -> list[OpReference]:
    return [one for one in map(parse_reference, map(SecretRef, uris)) if one is not None]


def failure(text: str, *, code: int = 1, stamp: str = STAMP) -> Completed:
    return Completed(code, stderr=f"{stamp}{text}\n".encode())


# Exact texts of the contract, table 1.7, with what a person must do told apart by a word of the hint.
GENERAL = [
    ("not signed in", "You are not currently signed in. Please run `op signin --help` for instructions",
     VaultUnavailable, "Integrate with 1Password CLI"),
    ("not signed in, through read", SECRET_READ + INIT + "You are not currently signed in. Please run `op signin`",
     VaultUnavailable, "Integrate with 1Password CLI"),
    ("whoami without a session", "account is not signed in", VaultUnavailable, "Integrate"),
    ("no session token", "could not find session token for account my", VaultUnavailable, "Integrate"),
    ("no active session", "no active session found for account my", VaultUnavailable, "Integrate"),
    ("session expired", "session expired, sign in to create a new session", VaultUnavailable, "Integrate"),
    ("dismissed", INIT + "authorization prompt dismissed, please try again", PromptDismissed, "approve"),
    ("unanswered", SECRET_READ + INIT + "authorization timeout", PromptUnanswered, "approve"),
    ("app unreachable, 2025",
     ("connecting to desktop app: 1Password CLI couldn't connect to the 1Password desktop app. To fix this, update the "
     "1Password app to the latest version and restart the app. If you're still having trouble, visit "
     "https://developer.1password.com/docs/cli/app-integration#troubleshooting for more help."),
     VaultUnavailable, "start the 1Password app"),
    ("app unreachable, 2024",
     ("Connecting to desktop app: 1Password CLI couldn't connect to the 1Password Desktop App. To fix this, update the "
     "desktop app to the latest version. If you're still having trouble connecting, restart the app. If you're using "
     "version 8.10.12 or earlier of the app, the 1Password CLI binary must be located in /usr/local/bin/op."),
     VaultUnavailable, "start the 1Password app"),
    ("wrong gid or integration off",
     ("connecting to desktop app: read: connection reset, make sure the CLI is correctly installed and Connect with "
     "1Password CLI is enabled in the 1Password app"), VaultUnavailable, "set-gid"),
    ("windows pipe", "connecting to desktop app: write: The pipe is being closed.", VaultUnavailable, "start the"),
    ("app does not answer", INIT + "connecting to desktop app: connecting to desktop app timed out",
     VaultUnavailable, "restart the 1Password app"),
    ("app does not answer in time", SECRET_READ + INIT + "read: context deadline exceeded",
     VaultUnavailable, "restart the 1Password app"),
    ("app locked", "1Password app is locked. Please open 1Password, unlock it with your password, and then try again",
     Locked, "unlock the 1Password app"),
    ("offline", SECRET_READ + INIT + "RequestDelegatedSession: cannot setup session. Please check the logs of the "
     "1Password app.", VaultUnavailable, "network"),
    ("network",
     'Get "https://my.1password.com/api/v2/account/keysets?__t=1667584626.455": net/http: TLS handshake timeout',
     VaultUnavailable, "network"),
    ("connect server",
     'could not read secret op://V/I/F: could not retrieve vaults: Get "http://localhost:8080/v1/vaults"',
     VaultUnavailable, "network"),
    ("no account of this name", "no account found for filter 5GHH", VaultUnavailable, "op account list"),
    ("no account at all", "no account found for filter ", VaultUnavailable, "op account list"),
    ("bad flag", 'invalid argument "5q" for "--expires-in" flag: time: unknown unit', VaultUnavailable, "update"),
    ("unknown command", 'unknown command "inject" for "op"', VaultUnavailable, "update"),
    ("no interactive IO", "interactive IO not available", VaultUnavailable, "Integrate"),
    ("manual mode asks for the password",
     "Enter the password for u@x at my.1password.com: [ERROR] 2023/03/02 16:00:35 operation not supported on socket",
     VaultUnavailable, "Integrate"),
    ("400", "(400) Bad Request: The structure of request was invalid.", VaultUnavailable, "wait"),
    ("500", "(500) Internal Server Error: Something went wrong.", VaultUnavailable, "wait"),
    ("429",
     ("(429) Too Many Requests: You've reached the maximum number of this type of requests this service account is "
     "allowed to make. Please retry in 59 minutes or try other requests."), VaultUnavailable, "wait"),
    ("service account without vault",
     ("a vault query must be provided when this command is called by a service account. "
     "Please specify one either through the --vault flag or through piped input"), VaultUnavailable, "service account"),
    ("service account token malformed",
     INIT + "Validation: (failed to session.DecodeSACredentials), Server: (failed to "
     "DecodeSACredentials), illegal base64 data at input byte 12", VaultUnavailable, "service account"),
    ("service account deleted", INIT + "Authentication: (failed to auth.LookupAuth), Network: (failed to "
     "request.DoUnencrypted), Server: (403) (Forbidden (Service Account Deleted)), The Service Account used in this "
     "integration has been deleted.", VaultUnavailable, "service account"),
    ("device mismatch", "Signin credentials are not compatible with the provided user auth from server",
     VaultUnavailable, "service account"),
    ("unknown words", "the moon is full", VaultUnavailable, "op vault list"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "error", "hint"), [pytest.param(*row[1:], id=row[0]) for row in GENERAL])
def test_recorded_text_is_understood(text: str, error: type[VaultError], hint: str) -> None:
    """Each recorded failure that concerns everything becomes one error with its own next step."""
    with pytest.raises(VaultError) as raised:
        judge(failure(text), refs("op://V/I/F", "op://V/I/G"))
    assert type(raised.value) is error
    assert hint in (raised.value.hint or "")
    assert "op://" not in raised.value.message


def test_no_accounts_is_understood_although_it_has_no_prefix() -> None:
    text = NO_ACCOUNTS + STAMP + SECRET_READ + INIT
    with pytest.raises(VaultUnavailable, match="no 1Password account"):
        judge(failure(text, stamp=""), refs("op://V/I/F"))


def test_question_left_open_is_what_is_told_after_a_timeout() -> None:
    """With a terminal `op` waits for ever at its question; what it asked says more than that it was stopped."""
    with pytest.raises(VaultUnavailable, match="no 1Password account"):
        judge(Completed(-15, stderr=NO_ACCOUNTS.encode(), timed_out=True), refs("op://V/I/F"))


def test_retry_time_of_a_rate_limit_is_kept() -> None:
    with pytest.raises(VaultUnavailable) as raised:
        judge(failure("(429) Too Many Requests: Please retry in 59 minutes or try other requests."), refs("op://V/I/F"))
    assert raised.value.retry_after == 59 * 60


ITEM_MISSING = '"nope" isn\'t an item in the "V" vault. Specify the item with its UUID, name, or domain.'
DUPLICATE = (
    'More than one item matches "Delete Me". Try again and specify the item by its ID: \n'
    '\t* for the item "Delete Me" in vault Test Data: aaaa\n\t* for the item "Delete Me" in vault Test Data: bbbb'
)
PARTICULAR = [
    ("missing item takes all of its references", ITEM_MISSING,
     ["op://V/nope/a", "op://V/nope/b", "op://V/I/F"], ["op://V/nope/a", "op://V/nope/b"], SecretNotFound),
    ("missing item named by the reference too",
     "could not read secret 'op://V/nope/a': could not get item V/nope: " + ITEM_MISSING,
     ["op://V/nope/a", "op://W/nope/a", "op://V/I/F"], ["op://V/nope/a"], SecretNotFound),
    ("missing item without a vault", '"nope" isn\'t an item. Specify the item with its UUID, name, or domain.',
     ["op://V/nope/a", "op://V/I/F"], ["op://V/nope/a"], SecretNotFound),
    ("missing item without a vault, in two of ours: not told", '"nope" isn\'t an item. Specify the item',
     ["op://V/nope/a", "op://W/nope/F"], [], SecretNotFound),
    ("missing field", "could not read secret 'op://V/I/nope': item 'V/I' does not have a field 'nope'",
     ["op://V/I/nope", "op://V/I/F"], ["op://V/I/nope"], SecretNotFound),
    ("missing field in a section, without the reference", "item 'V/I' does not have a field 'sec.nope'",
     ["op://V/I/sec/nope", "op://V/I/nope", "op://V/I/F"], ["op://V/I/sec/nope"], SecretNotFound),
    ("missing field of one section does not take the other",
     "could not read secret 'op://V/I/a/nope': item 'V/I' does not have a field 'nope'",
     ["op://V/I/a/nope", "op://V/I/b/nope"], ["op://V/I/a/nope"], SecretNotFound),
    ("missing field in one of two sections: not told", "item 'V/I' does not have a field 'nope'",
     ["op://V/I/a/nope", "op://V/I/b/nope"], [], SecretNotFound),
    ("archived", "could not find item MyItem in vault MyVault, because it has been deleted or archived.",
     ["op://MyVault/MyItem/a", "op://MyVault/Other/a"], ["op://MyVault/MyItem/a"], SecretNotFound),
    ("missing vault takes all of its references",
     '"Local" isn\'t a vault in this account. Specify the vault with its ID or name.',
     ["op://Local/a/b", "op://local/c/d", "op://V/I/F"], ["op://Local/a/b", "op://local/c/d"], SecretNotFound),
    ("duplicate", DUPLICATE,
     ["op://Test Data/Delete Me/a", "op://V/I/F"], ["op://Test Data/Delete Me/a"], SecretAmbiguous),
    ("404 for the only reference", "(404) Not Found: The requested resource was not found.",
     ["op://V/I/F"], ["op://V/I/F"], SecretNotFound),
    ("404 for one of several: not told", "(404) Not Found: The requested resource was not found.",
     ["op://V/I/F", "op://V/I/G"], [], SecretNotFound),
    ("403 for one of several: not told", "(403) Forbidden: You aren't authorized to access this resource.",
     ["op://V/I/F", "op://V/I/G"], [], SecretNotFound),
    ("reference that begins like another",
     "could not read secret 'op://V/I/pass word': item 'V/I' does not have a field",
     ["op://V/I/pass", "op://V/I/pass word"], None, SecretNotFound),
    ("longer reference only",
     "could not read secret 'op://V/I/pass word': item 'V/I' does not have a field 'pass word'",
     ["op://V/I/pass", "op://V/I/pass word"], ["op://V/I/pass word"], SecretNotFound),
    ("template that does not parse: not told", "parsing error at 1:24: invalid character: (",
     ["op://V/I/F", "op://V/I/G"], [], SecretNotFound),
    ("item named like a failure", '"authorization timeout" isn\'t an item in the "V" vault. Specify the item',
     ["op://V/authorization timeout/a", "op://V/I/F"], ["op://V/authorization timeout/a"], SecretNotFound),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "asked", "blamed", "error"), [pytest.param(*row[1:], id=row[0]) for row in PARTICULAR]
)
def test_blame_falls_on_the_references_that_are_meant(
    text: str, asked: list[str], blamed: list[str] | None, error: type[VaultError]
) -> None:
    """A failure of particular references is put on them and on no other; when it does not tell, on none."""
    if blamed is None:  # words that are not recorded: nobody is blamed on a guess
        with pytest.raises(VaultUnavailable):
            judge(failure(text), refs(*asked))
        return
    found = judge(failure(text), refs(*asked))
    assert found is not None
    assert sorted(ref.uri for ref in found) == sorted(blamed)
    assert all(type(value) is error and value.hint for value in found.values())


def test_dismissed_prompt_is_not_blamed_on_the_reference_that_it_names() -> None:
    """Blaming the reference would mean another call, and another call another prompt."""
    with pytest.raises(PromptDismissed):
        judge(failure(SECRET_READ + INIT + "authorization prompt dismissed, please try again"), refs("op://V/I/F"))


def test_refusal_before_anything_was_read_is_blamed_on_no_reference() -> None:
    with pytest.raises(VaultUnavailable):
        judge(failure(SECRET_READ + INIT + "(403) Forbidden: You aren't authorized to access."), refs("op://V/I/F"))


def test_item_named_like_a_failure_is_not_mistaken_for_it() -> None:
    text = f"could not read secret 'op://V/authorization prompt dismissed/F': {INIT}authorization timeout"
    with pytest.raises(PromptUnanswered):
        judge(failure(text), refs("op://V/authorization prompt dismissed/F"))


def test_success_with_an_error_line_is_a_failure() -> None:
    """Before 2.32.1 unrecognized server errors ended with exit code 0."""
    with pytest.raises(VaultUnavailable):
        judge(Completed(0, stdout=b"", stderr=(STAMP + "server error").encode()), refs("op://V/I/F"))


def test_success_with_another_line_on_stderr_is_a_success() -> None:
    assert judge(Completed(0, stdout=b"x", stderr=b"a new version is available\n"), refs("op://V/I/F")) is None


@pytest.mark.parametrize(
    ("done", "error", "words"),
    [
        pytest.param(Completed(-9, timed_out=True), PromptUnanswered, "still be on the screen", id="stopped"),
        pytest.param(Completed(None, timed_out=True), PromptUnanswered, "still be on the screen", id="not even killed"),
        pytest.param(Completed(-15, too_big=True), VaultUnavailable, "more than", id="too much output"),
        pytest.param(Completed(2, stderr=b"runtime error"), VaultUnavailable, "crashed", id="exit code of a panic"),
        pytest.param(Completed(1, stderr=b"panic: nil\n\ngoroutine 1 [x]:"), VaultUnavailable, "crashed", id="panic"),
        pytest.param(Completed(-11), VaultUnavailable, "exit code -11", id="killed by a signal"),
        pytest.param(Completed(1, stderr=b"\xff\xfe\x00"), VaultUnavailable, "does not know", id="bytes for words"),
    ],
)
def test_end_without_known_words(done: Completed, error: type[VaultError], words: str) -> None:
    with pytest.raises(error, match=words):
        judge(done, refs("op://V/I/F"))


def test_nothing_of_what_op_printed_is_in_an_error_or_a_repr() -> None:
    """Messages may echo values."""
    done = Completed(1, stdout=b"s3cret-out", stderr=(STAMP + "weird s3cret-err").encode())
    with pytest.raises(VaultUnavailable) as raised:
        judge(done, refs("op://V/I/F"))
    shown = f"{raised.value!r} {raised.value.hint} {done!r} {garbled()!r}"
    assert "s3cret" not in shown


def test_only_both_ends_of_a_long_complaint_are_judged() -> None:
    """Patterns take their time, and everyone waits; what matters stands first or last."""
    for text in (STAMP + "app is locked\n" + "x" * 60_000, "x" * 60_000 + "\n" + STAMP + "app is locked"):
        assert isinstance(general_error(Completed(1, stderr=text.encode())), Locked)
    hidden = "x" * 30_000 + " app is locked " + "x" * 30_000
    assert not isinstance(general_error(Completed(1, stderr=hidden.encode())), Locked)


@pytest.mark.parametrize(
    "text",
    ["'op://a ", '"a" isn\'t ', "could not find item a in vault b ", "service account token ", "has been deleted ",
     "get \u2026", "item 'a/b' does not have a field '", "(500) ", "no such thing here, sorry. "],
)  # fmt: skip
def test_no_complaint_takes_long_to_judge(text: str) -> None:
    """The loop stands still meanwhile; measured: 1 to 15 ms."""
    done = Completed(1, stderr=(text.encode() * ((16 << 20) // len(text) + 1))[: 16 << 20])
    for words in (APP, service_account_words("systemd://op")):
        began = time.thread_time()
        with contextlib.suppress(VaultError):
            judge(done, refs(*(f"op://V/item{n}/f" for n in range(40))), words)
        assert time.thread_time() - began < 0.1


@pytest.mark.parametrize("number", ["9" * 400, "9" * 5000, "999999"])
def test_absurd_time_to_wait_is_no_advice(number: str) -> None:
    error = general_error(failure(f"(429) Too Many Requests: Please retry in {number} hours"))
    assert error.retry_after is None or error.retry_after <= 2 * 24 * 3600
