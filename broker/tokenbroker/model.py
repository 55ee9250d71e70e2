"""The values that everything else speaks in: secrets, tokens, keys, peers, moments.

Rules of this file:
1. Every value is frozen; changing one means making another.
2. A secret or a token has no text form: `repr`, `str`, formatting and pickling show or give nothing.
3. Unknown is `None`, never 0: 0 is a real uid and a real time.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST_CLAIM = 200  # characters
FINGERPRINT_LENGTH = 12  # hex digits of SHA-256: enough to tell tokens apart, useless to recover one


class AgentType(StrEnum):
    """Whether a person is near the program that asks."""

    INTERACTIVE = "interactive"
    """A person started it and is there: a terminal, an IDE."""
    AUTONOMOUS = "autonomous"
    """Nobody is there: cron, a timer, CI."""


class DesktopEvent(StrEnum):
    """What can happen at the desk that may end an unlock."""

    SLEEP = "sleep"
    """The machine is about to sleep."""
    SCREEN_LOCK = "screen_lock"
    """The person's screen was locked."""
    VAULT_LOCK = "vault_lock"
    """The vault itself was locked."""


class Secret:
    """A client secret, key or token value that cannot be shown by accident.

    The text is had only from `reveal()`, so a search for that word finds every place that uses it.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        """Keep `text`."""
        self._text = text

    def reveal(self) -> str:
        """Return the text itself. Call it only where the text leaves for its destination."""
        return self._text

    def fingerprint(self) -> str:
        """Return the first 12 hex digits of the text's SHA-256, by which people may compare tokens."""
        return hashlib.sha256(self._text.encode()).hexdigest()[:FINGERPRINT_LENGTH]

    def __eq__(self, other: object) -> bool:
        """Compare in constant time."""
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        """Hash by content, as equality does."""
        return hash(self._text)

    def __repr__(self) -> str:
        """Show that there is a secret, and nothing of it, not even its length."""
        return "<Secret>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        """Show nothing, whatever the format asks."""
        return repr(self)

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied into another process."""
        raise TypeError("a Secret cannot be serialized")


@dataclass(frozen=True, slots=True)
class SecretRef:
    """Where a secret is kept, e.g. `op://Agents/m2m/credential`. Not secret itself."""

    uri: str

    def __str__(self) -> str:
        """Give the reference as it is written in the configuration."""
        return self.uri


@dataclass(frozen=True, slots=True)
class RateLimit:
    """How much of a vault's allowance is used, in the vault's own words."""

    type: str
    """Whose allowance: `token` (per hour) or `account` (per day, of all service accounts together)."""
    action: str
    """`read`, `write` or `read_write`."""
    limit: int
    used: int
    resets_in: float | None
    """Seconds until the window ends; `None` when it has not begun: it begins with the first request."""
    estimated: bool = False
    """Whether it was counted here because the vault did not say."""


@dataclass(frozen=True, slots=True)
class Instant:
    """One moment on the two clocks that matter.

    `wall` is seconds since the epoch and may jump; `elapsed` is seconds since an arbitrary point, never goes back,
    and counts the time that the machine slept.
    """

    wall: float
    elapsed: float


@dataclass(frozen=True, slots=True)
class Validity:
    """From when, and for how long, something holds."""

    issued: Instant
    """When the request that brought it was started: an issuer's lifetime cannot begin before that."""
    lifetime: float
    """Seconds from `issued` to expiry."""

    def remaining(self, now: Instant) -> float:
        """Return the seconds of validity left, negative once expired.

        Judged on both clocks, and the one that saw more time pass is believed: a wall clock set back cannot
        revive a token, nor can a paused machine, on which the other clock stood still.
        """
        age = max(now.wall - self.issued.wall, now.elapsed - self.issued.elapsed)
        return self.lifetime - age

    def expires_at(self, now: Instant) -> float:
        """Return the epoch second at which it expires, on the wall clock as it stands now."""
        return now.wall + self.remaining(now)


@dataclass(frozen=True, slots=True)
class TokenKey:
    """What makes two requests want the same token. One cached token per key."""

    profile: str
    client: str
    scopes: tuple[str, ...]
    """Sorted, without repeats."""
    audience: str | None = None
    resource: str | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """A short-lived access token (RFC 6749 §1.4) as the issuer gave it, with what the broker knows of it."""

    value: Secret
    validity: Validity
    scope: tuple[str, ...]
    """Granted scopes; what was asked for when the issuer did not say (RFC 6749 §5.1)."""
    token_type: str = "Bearer"  # noqa: S105  # the scheme's name
    jitter: float = 0.0
    """A number in [0, 1) drawn once, which spreads renewals of tokens that were issued together."""
    fingerprint: str = field(default="")

    def __post_init__(self) -> None:
        """Compute the fingerprint once."""
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", self.value.fingerprint())

    @property
    def lifetime(self) -> float:
        """Seconds from issue to expiry."""
        return self.validity.lifetime

    def remaining(self, now: Instant) -> float:
        """Return the seconds of validity left, negative once expired."""
        return self.validity.remaining(now)


@dataclass(frozen=True, slots=True)
class Peer:
    """The process on the other end of a socket, as the kernel describes it. What is not known is `None`."""

    uid: int | None
    gid: int | None = None
    pid: int | None = None
    exe: str | None = None
    """Path of the program file. A hint for people and rules; another process of the same user can forge it."""
    start_time: float | None = None
    """Kernel's start time of the process (any unit): with `pid` it names one process for ever."""
    tty: str | None = None
    """The controlling terminal, e.g. `pts/3`; `None` when there is none."""
    agent_type: AgentType | None = None
    """Drawn from the evidence; `None` when there was none to judge by, which counts as autonomous."""
    evidence: str = ""
    """One line that says why `agent_type` is what it is, e.g. `terminal pts/3`."""
    root_pid: int | None = None
    """The process that the session is booked under: the peer, or the program that called the helper command."""
    root_exe: str | None = None
    root_start_time: float | None = None
    root_started_at: float | None = None
    """Epoch seconds at which the root process started, where it is known."""
    handle: object = field(default=None, repr=False, compare=False)
    """The inspector's own hold on the process, given back when the last copy of this value is gone; `None`: none."""

    def named(self) -> str:
        """Name it for a person: program and pid."""
        exe = self.exe or "an unknown program"
        return f"{exe} (pid {self.pid})" if self.pid is not None else exe


@dataclass(frozen=True, slots=True)
class Asker:
    """On whose behalf the vault is read, and what for: told to the person whom the vault asks."""

    program: str
    """The program as the kernel describes it, with its pid."""
    pid: int | None
    wants: str
    """What it gets by it, e.g. "profile `search`"."""
    reason: str | None = None
    """What the program says of itself. A claim."""


def claimed(reason: str | None) -> str | None:
    """Return what a program says of itself, fit to be shown to a person: one short line."""
    if reason is None:
        return None
    line = "".join(char if char.isprintable() else " " for char in reason[:LONGEST_CLAIM])
    return " ".join(line.split()) or None


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the issuer adapter needs to authenticate as a client (RFC 6749 §2.3)."""

    client_id: str
    auth: str = "client_secret_post"
    """`client_secret_post`, `client_secret_basic` or `private_key_jwt` (names of OIDC Core §9)."""
    client_secret: Secret | None = None
    private_key: Secret | None = None
    """PEM."""
    key_id: str | None = None
    basic_encoding: str = "rfc6749"


@dataclass(frozen=True, slots=True)
class IssuerAnswer:
    """A token endpoint's success (RFC 6749 §5.1), already checked for form."""

    access_token: Secret
    token_type: str
    lifetime: float
    """Seconds, counted from the start of the request."""
    scope: tuple[str, ...] | None
    """`None` when the issuer said nothing, which RFC 6749 §5.1 defines as "as requested"."""
    claims: Mapping[str, Any] | None = None
    """The JWT's payload, unverified, when the token is a JWT; `None` for an opaque token."""
