"""One tree of errors: what happened, whether trying again can help, and the next command.

Rules of this file:
1. `code` is stable and goes on the wire; `message` and `hint` are for people: lower case, no final period.
2. No message, hint or argument of an error ever holds a secret, a token, a request body or raw `op` output.
3. Whoever raises knows the cause and names the next step; the edges only print.
"""

from __future__ import annotations

import traceback
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Final, Self

if TYPE_CHECKING:
    from tokenbroker.model import Peer, Quota


def whereabouts(error: BaseException) -> str:
    """Name an unforeseen error by its class and place, for the log; its text may hold anything."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return f"{type(error).__name__} at " + "; ".join(f"{f.filename}:{f.lineno} {f.name}" for f in frames)


class ErrorClass(StrEnum):
    """What kind of help an error needs; the broker's back-off follows from it."""

    RETRYABLE = "retryable"
    CREDENTIAL_REJECTED = "credential_rejected"
    NEEDS_PERSON = "needs_person"
    CONFIGURATION = "configuration"


class BrokerError(Exception):
    """The base of everything that tokenbroker raises on purpose."""

    code: ClassVar[str] = "failed"
    """Stable name, on the wire and in scripts."""
    oauth: ClassVar[str] = "invalid_request"
    """The RFC 6749 §5.2 (or RFC 8707) `error` that an OAuth library understands."""
    status: ClassVar[int] = 400
    """HTTP status on the socket."""
    error_class: ClassVar[ErrorClass] = ErrorClass.CONFIGURATION

    def __init__(self, message: str, *, hint: str | None = None, retry_after: float | None = None) -> None:
        """Say what happened, and the one next step as an exact command where there is one."""
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.retry_after = retry_after

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later with nothing changed by a person."""
        return self.error_class is ErrorClass.RETRYABLE

    def anew(self) -> Self:
        """Return the same error without its history, to be remembered, or raised once more.

        An exception that is kept keeps the frames that it went through, secrets in them included; one that is raised
        again and again grows a traceback without end.
        """
        return type(self)(self.message, hint=self.hint, retry_after=self.retry_after)


class ConfigError(BrokerError):
    """The configuration file is wrong; names file, line, key, what was found and what was expected."""

    code = "config"


class UsageError(BrokerError):
    """A request or command line that cannot be understood."""

    code = "usage"


class UnknownProfile(BrokerError):
    """No profile has this name, or none has this audience or resource."""

    code = "unknown_profile"
    oauth = "invalid_target"


class UnsupportedGrant(BrokerError):
    """The socket speaks `client_credentials` alone (RFC 6749 §4.4)."""

    code = "unsupported_grant_type"
    oauth = "unsupported_grant_type"


class ScopeExceedsProfile(BrokerError):
    """A scope was asked for that the profile does not have."""

    code = "scope_exceeds_profile"
    oauth = "invalid_scope"


class Denied(BrokerError):
    """A rule, or the absence of one, or a person said no."""

    code = "denied"
    oauth = "access_denied"
    status = 403


class NoClient(Denied):
    """No client of the profile is meant for this peer's `agent_type`."""

    code = "no_client"


class PeerGone(BrokerError):
    """The peer that asked is not the process that would be answered."""

    code = "peer_gone"
    oauth = "access_denied"
    status = 403

    @classmethod
    def of(cls, peer: Peer) -> Self:
        """Say of `peer` that it is no more, or was never seen."""
        if peer.pid is None:
            return cls(f"the program that asked cannot be seen: {peer.evidence or 'the kernel does not name it'}")
        return cls(f"the program that asked (pid {peer.pid}) is no more, or is another one now")


class Revoked(Denied):
    """The session or profile was revoked by a person and is served no more."""

    code = "revoked"


class MinTtlUnmet(BrokerError):
    """No token with the asked minimum validity can be had."""

    code = "min_ttl_unmet"
    oauth = "invalid_request"
    error_class = ErrorClass.CONFIGURATION


class UnknownToken(BrokerError):
    """No token of this fingerprint is at hand that this program was given."""

    code = "unknown_token"


class Busy(BrokerError):
    """The answer did not come within the caller's budget; the work goes on for the next caller."""

    code = "busy"
    oauth = "temporarily_unavailable"
    status = 503
    error_class = ErrorClass.RETRYABLE


class Fault(BrokerError):
    """A fault in the broker itself."""

    code = "fault"
    oauth = "server_error"
    status = 500


class Stopping(Busy):
    """The daemon is shutting down."""

    code = "stopping"


class SocketRefused(BrokerError):
    """The place where the broker is to listen is not one that only its owner can use."""

    code = "socket"


class AlreadyListening(SocketRefused):
    """Another broker listens there."""

    code = "already_listening"


PASSING: Final = 10.0
"""Seconds (`retry_after`) for trouble that passes by itself, when nobody says how long."""


# --- vaults -----------------------------------------------------------------------------------------------------------


class VaultError(BrokerError):
    """Something about reading secrets."""

    oauth = "access_denied"
    status = 403
    error_class = ErrorClass.NEEDS_PERSON


class Locked(VaultError):
    """The vault is locked and this caller may not, or nobody now can, open it."""

    code = "locked"


class PromptDismissed(Locked):
    """The person refused the prompt."""

    code = "prompt_dismissed"


class PromptUnanswered(Locked):
    """Nobody answered the prompt in time."""

    code = "prompt_unanswered"


class CoolingDown(Locked):
    """The broker asks nobody for a while, after a refusal or two unanswered prompts."""

    code = "cooling_down"


class VaultUnavailable(VaultError):
    """The vault program or its app cannot be reached: not installed, not running, offline, not answering.

    With `retry_after` it is passing trouble of a vault that asks nobody; without, a person has to look.
    """

    code = "vault_unavailable"
    status = 503
    oauth = "temporarily_unavailable"

    @property
    def retryable(self) -> bool:
        """Whether it may pass without a person."""
        return self.retry_after is not None


class VaultNotInstalled(VaultUnavailable):
    """`op` is nowhere to be found."""

    code = "vault_not_installed"


class NoCredential(VaultUnavailable):
    """The access token that a vault needs for itself is not where it should be, or is not fit."""


class SecretNotFound(VaultError):
    """The reference names an item, field or vault that is not there."""

    code = "secret_not_found"
    error_class = ErrorClass.CONFIGURATION


class SecretAmbiguous(VaultError):
    """The reference fits more than one item or field."""

    code = "secret_ambiguous"
    error_class = ErrorClass.CONFIGURATION


# --- issuers ----------------------------------------------------------------------------------------------------------


class IssuerError(BrokerError):
    """Something about the token endpoint."""

    oauth = "temporarily_unavailable"
    status = 503
    quotas: tuple[Quota, ...] = ()
    """What the refusal said is left of the issuer's quotas."""


class IssuerUnavailable(IssuerError):
    """Network trouble, a 5xx, a 429, a truncated answer: later it may work. `retry_after` when the issuer said."""

    code = "issuer_unavailable"
    error_class = ErrorClass.RETRYABLE


class IssuerThrottled(IssuerUnavailable):
    """This client asks too often (429); the issuer may well answer another one."""


class TokenUseless(IssuerUnavailable):
    """The issuer minted a token of which nothing can be made: expired already, cut short, not active yet.

    Later it may be another one; but each costs what a good one costs.
    """


class CredentialRejected(IssuerError):
    """The issuer refused the client's credentials, in whichever of the ways that issuers do."""

    code = "credential_rejected"
    oauth = "invalid_client"
    status = 400
    error_class = ErrorClass.CREDENTIAL_REJECTED


class IssuerNeedsPerson(IssuerError):
    """Only a person can mend it: an expired secret, a client that is gone, a certificate that is not trusted."""

    code = "issuer_needs_person"
    oauth = "unauthorized_client"
    status = 400
    error_class = ErrorClass.NEEDS_PERSON


class IssuerUntrusted(IssuerNeedsPerson):
    """What answered in the issuer's place has no certificate that is trusted; it was sent nothing."""

    code = "issuer_untrusted"


class IssuerMisconfigured(IssuerError):
    """The request or the URL is wrong, and stays wrong until the configuration changes."""

    code = "issuer_configuration"
    oauth = "invalid_request"
    status = 400
    error_class = ErrorClass.CONFIGURATION


class EndpointElsewhere(IssuerMisconfigured):
    """An issuer's metadata names a token endpoint on another host, to which nothing is sent unless a person says so."""

    endpoint: str = ""
    """That address, checked for form alone."""

    def anew(self) -> Self:
        """Return the same error without its history."""
        again = super().anew()
        again.endpoint = self.endpoint
        return again


class ClientBeneathRejected(IssuerError):
    """The issuer refused the client of another profile, whose token this one exchanges; nothing is said of ours."""

    code = "credential_rejected"
    oauth = "invalid_client"
    status = 400
    error_class = ErrorClass.CREDENTIAL_REJECTED


class SubjectRefused(IssuerMisconfigured):
    """The issuer refused the token that was presented for exchange (RFC 8693 §2.2.2), not the client."""


class TokenMismatch(IssuerMisconfigured):
    """The issuer answered with a token that is not what was asked for; refused, with both values named."""

    code = "token_mismatch"
    oauth = "invalid_scope"
