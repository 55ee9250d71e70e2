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
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol

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


class Checked(StrEnum):
    """How far the broker could look into a token before it served it."""

    SIGNATURE = "signature"
    """A JWT, signed by a key that the issuer publishes (RFC 7519, RFC 7517)."""
    INTROSPECTION = "introspection"
    """The issuer said what it holds (RFC 7662)."""
    CLAIMS = "claims"
    """A JWT that was read, and whose signature nobody but its audience can check."""
    NOTHING = "nothing"
    """Opaque, and the issuer does not say what it holds: it is taken as it came, over TLS, from the issuer."""


class Revocation(StrEnum):
    """What an issuer made of a token that was to be revoked."""

    REVOKED = "revoked"
    """The issuer took it back (RFC 7009 §2.2). An API that does not ask the issuer goes on accepting it."""
    UNSUPPORTED = "unsupported"
    """The issuer cannot revoke it: it has no such endpoint, or not for this type of token (RFC 7009 §2.2.1)."""


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


class ProofKey(Protocol):
    """The private half of a key that tokens are bound to (RFC 9449). Never leaves the daemon."""

    @property
    def thumbprint(self) -> str:
        """The name of the public half (RFC 7638), which is also the token's `cnf.jkt` (RFC 9449 §6.1)."""
        ...

    def prove(self, method: str, url: str, *, token: Secret, nonce: str | None, now: float) -> str:
        """Return a DPoP proof (RFC 9449 §4.2) that goes with `token` on one request, made at epoch second `now`.

        Takes well under a millisecond. Raises `UsageError` for a method or a URL that no request can have.
        """
        ...


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
class Quota:
    """What an issuer says is left of an allowance of token requests."""

    holder: str
    """Whose it is: `client` or `organization`."""
    bucket: str
    """The issuer's name for the period, e.g. `per_hour`."""
    limit: int
    remaining: int
    resets_in: float
    """Seconds from the start of the request that the issuer answered."""


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
    checked: Checked = Checked.NOTHING
    bound_to: Literal["dpop", "certificate"] | None = None
    """The kind of key without which it is of no use (RFC 9449, RFC 8705 §3); `None`: whoever has it can use it."""
    proof_key: ProofKey | None = field(default=None, repr=False, compare=False)
    """The DPoP key that it is bound to. It lives as long as the token does."""
    jti: str | None = None
    """The issuer's own name for it (RFC 7519 §4.1.7), for the trail."""
    remarks: tuple[str, ...] = ()
    """For people: what of it could not be checked or compared, and why, and what is odd about it."""

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
    """A method of OIDC Core §9 or RFC 8705 §2; `none` where the grant itself proves who asks."""
    client_secret: Secret | None = None
    private_key: Secret | None = None
    """PEM, a JWK (RFC 7517), or the JSON key file of a Google or Zitadel service account."""
    certificate: Secret | None = None
    """PEM, the client's own certificate first (RFC 8705)."""
    key_id: str | None = None
    basic_encoding: str = "rfc6749"
    dpop: bool = False
    """Whether to ask for a token bound to a key of the broker's (RFC 9449)."""


@dataclass(frozen=True, slots=True)
class Grant:
    """By which grant a token is asked for, and what that presents beside the client's credentials."""

    type: str = "client_credentials"
    """`client_credentials` (RFC 6749 §4.4), `jwt-bearer` (RFC 7523 §2.1), `token-exchange` (RFC 8693), `github-app`."""
    subject: str | None = None
    """`jwt-bearer`: on whose behalf, the assertion's `sub`, when not the client itself."""
    subject_token: Secret | None = None
    """`token-exchange`: for whom the token is to be (RFC 8693 §2.1)."""
    subject_token_type: str = "access_token"  # noqa: S105  # a name of RFC 8693 §3
    """A short name of RFC 8693 §3 or a whole URI."""
    actor_token: Secret | None = None
    """`token-exchange`: who acts for the subject."""
    actor_token_type: str = "access_token"  # noqa: S105  # a name of RFC 8693 §3
    requested_token_type: str | None = None
    installation: str | None = None
    """`github-app`: the installation's number."""
    repositories: tuple[str, ...] = ()
    """`github-app`: names of the repositories to confine the token to; none: all of the installation."""


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
    """What the token holds: a JWT's payload, or what introspection said; `None` when nobody could tell."""
    checked: Checked = Checked.NOTHING
    issuer: str | None = None
    """The issuer identifier by the metadata or the configuration; `None` when neither names one."""
    quotas: tuple[Quota, ...] = ()
    proof_key: ProofKey | None = field(default=None, repr=False, compare=False)
    issued_type: object = field(default=None, repr=False, compare=False)
    """`issued_token_type` (RFC 8693 §2.2.1) as it came."""
    remarks: tuple[str, ...] = ()
    """For people: why a check that was wanted could not be made."""
