"""What a failed `op` call means: an error for everything, or errors for particular references.

PURE. Rules of this file:
1. `op` has one exit code for nearly everything, so its words decide: stable noun phrases of recorded messages
   (contract 1.7), never whole lines, never the timestamp.
2. Messages echo references and may echo values: nothing of `op`'s text goes into an error. Names that stand in an error
   come from our own references.
3. What is not known concerns everything. Guessing that it concerns one reference would mean another call, and another
   call may mean another prompt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tokenbroker.errors import (
    PASSING,
    Locked,
    PromptDismissed,
    PromptUnanswered,
    SecretAmbiguous,
    SecretNotFound,
    VaultError,
    VaultUnavailable,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tokenbroker.model import SecretRef
    from tokenbroker.vaults.op.reference import OpReference

PROBE_TIMEOUT = 10.0  # seconds for `op --version`; 7.5 have been seen under launchd (contract 1.8)
UNLOCK = "run `broker unlock`"
_INTEGRATION = "turn on 1Password's Settings > Developer > Integrate with 1Password CLI"
_ACCOUNTS = "set `account` in section [vault] to one that `op account list` shows"
NETWORK = f"check the network connection, then {UNLOCK}"
UPDATE = "update `op`, check with `op --version`, then run `broker unlock`"
JUDGED = 16 * 1024  # bytes of either end of stderr
_PANIC_CODE = 2  # Go's exit code after a panic
_MINUTE = 60.0
_LONGEST_WAIT = 2 * 24 * 60 * _MINUTE  # seconds; beyond it is a fault, not advice


@dataclass(frozen=True, slots=True)
class Completed:
    """How one `op` call ended. Its output may hold secrets and is in no `repr`."""

    code: int | None
    """Exit code, negative for a signal; `None` when it could not be ended at all."""
    stdout: bytes = field(default=b"", repr=False)
    stderr: bytes = field(default=b"", repr=False)
    timed_out: bool = False
    too_big: bool = False

    @property
    def failed(self) -> bool:
        """Whether it did not do what was asked. Before 2.32.1 some server errors ended with 0 and an error line."""
        return self.code != 0 or self.timed_out or self.too_big or "[ERROR]" in self.said

    @property
    def said(self) -> str:
        """The beginning and the end of what it wrote on stderr: all that is judged, as patterns take their time."""
        whole = self.stderr
        if len(whole) > 2 * JUDGED:
            whole = whole[:JUDGED] + b"\n" + whole[-JUDGED:]
        return whole.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of a table: what `op` says, and what we say."""

    says: re.Pattern[str]
    error: type[VaultError]
    message: str
    hint: str
    passes_in: float | None = None
    """Seconds after which it may have passed, if nobody says; `None`: a person has to do something."""

    def put(self, retry_after: float | None = None) -> VaultError:
        """Return the error of this row."""
        return self.error(
            self.message, hint=self.hint, retry_after=self.passes_in if retry_after is None else retry_after
        )


@dataclass(frozen=True, slots=True)
class Words:
    """How failures are put, which depends on who signs in."""

    kinds: tuple[Kind, ...]
    """Failures that concern everything; the first row that fits decides."""
    silence: Kind
    """A call that was stopped, without a word that is known."""
    no_vault: tuple[str, str]
    """What to say, and to do, when a vault is not there."""


def row(says: str, error: type[VaultError], message: str, hint: str, *, passes_in: float | None = None) -> Kind:
    """Return one row; `says` is a regular expression, and case does not matter to it."""
    return Kind(re.compile(says, re.IGNORECASE), error, message, hint, passes_in)


# The more particular rows stand above the ones that would swallow them.
_THROUGH_THE_APP = (
    row(r"authorization prompt dismissed",
        PromptDismissed, "the 1Password prompt was dismissed", f"{UNLOCK} and approve the prompt"),
    row(r"authorization timeout",
        PromptUnanswered, "nobody answered the 1Password prompt in time", f"{UNLOCK} and approve the prompt"),
    row(r"app is locked",
        Locked, "the 1Password app is locked", f"unlock the 1Password app, then {UNLOCK}"),
    row(r"connection reset",
        VaultUnavailable, "the 1Password app refused `op`: its CLI integration is off, or `op` is wrongly installed",
        f"{_INTEGRATION}, on Linux reinstall `op` from its package (set-gid `onepassword-cli`), then {UNLOCK}"),
    row(r"desktop app timed out|context deadline exceeded",
        VaultUnavailable, "the 1Password app does not answer `op`", f"restart the 1Password app, then {UNLOCK}"),
    row(r"couldn't connect to the 1password desktop app|connecting to desktop app|LostConnectionToApp|"
        r"pipe is being closed",
        VaultUnavailable, "the 1Password app cannot be reached: it is not running, or is outdated",
        f"start the 1Password app, {_INTEGRATION}, then {UNLOCK}"),
    row(r"RequestDelegatedSession",
        VaultUnavailable, "1Password could not set up a session; the machine may be offline", NETWORK),
    row(r"Too Many Requests|rate.?limit",
        VaultUnavailable, "1Password limits the rate of requests", f"wait, then {UNLOCK}"),
    row(r"no accounts configured",
        VaultUnavailable, "`op` knows no 1Password account", f"{_INTEGRATION}, then {UNLOCK}"),
    row(r"service account|DecodeSACredentials|unrecognized auth type|signin credentials are not compatible",
        VaultUnavailable, "`op` uses a service account, and 1Password refused it",
        f"remove the service account from the configuration of `op`, then {UNLOCK}"),
    row(r"no account found for filter|select account|multiple accounts",
        VaultUnavailable, "`op` does not know which 1Password account is meant", f"{_ACCOUNTS}, then {UNLOCK}"),
    row(r"not currently signed in|not signed in|no active session|session expired|could not find session token|"
        r"enter the password for|interactive io not available|not supported (by device|on socket)|inappropriate ioctl",
        VaultUnavailable, "`op` is not signed in through the 1Password app", f"{_INTEGRATION}, then {UNLOCK}"),
)  # fmt: skip
_NETWORK_TROUBLE = (
    row(r"\b(get|post) (…|\S*https?://)|tls handshake|dial tcp|no such host|network is unreachable|i/o timeout|"
        r"context deadline exceeded",
        VaultUnavailable, "`op` cannot reach the 1Password service", NETWORK),
    row(r"\(5\d\d\) [A-Z]",
        VaultUnavailable, "the 1Password service answered with an error", f"wait, then {UNLOCK}"),
)  # fmt: skip
_OWN_TROUBLE = (
    row(r"\(400\) [A-Z]",
        VaultUnavailable, "the 1Password service answered with an error", f"wait, then {UNLOCK}"),
    row(r"unknown (command|flag|shorthand flag)|invalid argument",
        VaultUnavailable, "`op` does not know the options that tokenbroker uses", UPDATE),
    row(r"(?m:^panic: |^goroutine \d+)",
        VaultUnavailable, "`op` crashed", UPDATE),
)  # fmt: skip
COMMON = _NETWORK_TROUBLE + _OWN_TROUBLE
"""What `op` says of itself and of the network, whoever signs in."""
COMMON_UNATTENDED = (*(replace(kind, passes_in=PASSING) for kind in _NETWORK_TROUBLE), *_OWN_TROUBLE)
"""The same where nobody is asked, so that trouble of the network passes by itself."""

APP = Words(
    kinds=_THROUGH_THE_APP + COMMON,
    silence=row(
        "", PromptUnanswered,
        "`op` did not answer in time and was stopped; its dialog may still be on the screen, and answering it now has"
        " no effect",
        f"close the dialog, then {UNLOCK}; if macOS asks for access to data from other apps, allow it, and as it asks"
        " again later, give the broker Full Disk Access in System Settings > Privacy & Security",
    ),
    no_vault=("there is no such vault, or this account may not see it", "see what there is with `op vault list`"),
)  # fmt: skip
"""Signed in through the desktop app."""

_NOT_THERE = (
    re.compile(r'"(?P<item>[^"]+)" isn\'t an item in the "(?P<vault>[^"]+)" vault'),
    re.compile(r'"(?P<item>[^"]+)" isn\'t an item\b'),
    re.compile(r"could not find item (?P<item>.{1,200}?) in vault (?P<vault>.{1,200}?), because"),
    re.compile(r"item '(?P<vault>[^'/]+)/(?P<item>[^'/]+)' does not have a field '(?P<field>[^']+)'"),
    re.compile(r'"(?P<vault>[^"]+)" isn\'t a vault\b'),
    re.compile(r"\((?:403|404)\) (?:Forbidden|Not Found): "),
    re.compile(r"invalid secret reference|parsing error at"),
)
_AMBIGUOUS = (
    re.compile(r'More than one item matches "(?P<item>[^"]+)"'),
    re.compile(r'More than one vault matches "(?P<vault>[^"]+)"'),
    re.compile(r"More than one \w+ matches"),
)


def judge(done: Completed, asked: Sequence[OpReference], words: Words = APP) -> Mapping[SecretRef, VaultError] | None:
    """Say which of the references `asked` for made the call fail; `None` when it did not fail.

    An empty answer means: some of them, and the message does not tell which.
    Raises the error when the failure concerns everything.
    """
    if not done.failed:
        return None
    text = done.said
    if not (done.timed_out or done.too_big or "error initializing client" in text):
        for error, patterns in ((SecretNotFound, _NOT_THERE), (SecretAmbiguous, _AMBIGUOUS)):
            said = next(filter(None, (pattern.search(text) for pattern in patterns)), None)
            if said:
                return {found.ref: explain(error, found, said, words) for found in _attribute(said, text, asked)}
    raise general_error(done, words)


def lacks_command(done: Completed) -> bool:
    """Tell whether `op` does not know the command at all; then nobody was asked anything."""
    return done.failed and 'unknown command "' in done.said


def general_error(done: Completed, words: Words = APP) -> VaultError:
    """Return the error for a failure that concerns everything."""
    said = re.sub(r"'op://[^']*'|\"[^\"]*\"", "…", done.said)
    for kind in words.kinds:
        if kind.says.search(said):
            return kind.put(_retry_after(said))
    if done.timed_out:
        return words.silence.put()
    if done.too_big:
        return VaultUnavailable("`op` answered with more than tokenbroker takes", hint="run `broker doctor`")
    if done.code == _PANIC_CODE:
        return VaultUnavailable("`op` crashed", hint=UPDATE)
    return VaultUnavailable(
        f"`op` failed for a reason that tokenbroker does not know (exit code {done.code})",
        hint="run `op vault list` in a terminal to see it",
    )


def version_of(done: Completed) -> str:
    """Return the version that `op --version` printed. Raises `VaultUnavailable` when it did not."""
    if done.timed_out:
        raise VaultUnavailable(
            f"`op --version` did not answer within {PROBE_TIMEOUT:g} s", hint="run `op --version` in a terminal"
        )
    if done.failed:
        raise general_error(done)
    version = done.stdout.decode(errors="replace").strip()
    if not version or not version.replace(".", "").replace("-", "").isalnum():
        raise garbled()
    return version


def garbled() -> VaultError:
    """Return the error for a call that succeeded and printed something else than was asked for."""
    return VaultUnavailable("`op` answered with something that tokenbroker does not understand", hint=UPDATE)


def _retry_after(said: str) -> float | None:
    match = re.search(r"retry in (\d{1,6}) (second|minute|hour)", said, re.IGNORECASE)
    if match is None:
        return None
    seconds = int(match[1]) * {"second": 1.0, "minute": _MINUTE, "hour": 60 * _MINUTE}[match[2].lower()]
    return min(seconds, _LONGEST_WAIT)


def _attribute(said: re.Match[str], text: str, asked: Sequence[OpReference]) -> Sequence[OpReference]:
    """Return those of `asked` that the message is about; none when it could be several and it does not say which."""
    named = _mentioned(text, asked)
    names = {part: name.casefold() for part, name in said.groupdict().items() if name}
    fitting = [ref for ref in asked if names and _fits(ref, names)]
    if named:
        if "field" in names:
            return named
        vaults = {ref.vault.casefold() for ref in named}
        return [ref for ref in asked if ref in named or (ref in fitting and ref.vault.casefold() in vaults)]
    if len(asked) == 1:
        return asked
    # An item's name alone may stand in several vaults, a field's in several sections: blaming all would spoil the good.
    one_place = len({(ref.vault.casefold(), ref.section if "field" in names else None) for ref in fitting}) == 1
    return fitting if one_place else ()


def _mentioned(text: str, asked: Sequence[OpReference]) -> list[OpReference]:
    """Return the references that stand in `text` whole. Longest first, as one may be the beginning of another."""
    rest, found = text.casefold(), []
    for reference in sorted(asked, key=lambda one: -len(one.ref.uri)):
        uri = reference.ref.uri.casefold()
        if uri in rest:
            found.append(reference)
            rest = rest.replace(uri, "")
    return found


def _fits(reference: OpReference, names: Mapping[str, str]) -> bool:
    field = reference.field.casefold()
    section = (reference.section or "").casefold()
    ours = {
        "vault": {reference.vault.casefold()},
        "item": {reference.item.casefold()},
        "field": {field, f"{section}.{field}", f"{section}/{field}"},
    }
    return all(name in ours[part] for part, name in names.items())


def explain(error: type[VaultError], found: OpReference, said: re.Match[str], words: Words) -> VaultError:
    """Phrase what is wrong with one reference, and the command that shows what there is instead."""
    known = said.groupdict()
    if error is SecretAmbiguous:
        what, hint = "more than one item matches; write the item's id instead of its name", _list_items(found)
    elif known.get("field"):
        what, hint = "the item has no such field", _see(f'op item get "{found.item}" --vault "{found.vault}"')
    elif known.get("item"):
        what, hint = "the vault has no such item, or it is archived", _list_items(found)
    elif known.get("vault"):
        what, hint = words.no_vault
    else:
        what, hint = "1Password has nothing readable under this reference", _list_items(found)
    return error(f"{found.ref}: {what}", hint=hint)


def _list_items(found: OpReference) -> str:
    return _see(f'op item list --vault "{found.vault}"')


def _see(command: str) -> str:
    return f"see what there is with `{command}`"
