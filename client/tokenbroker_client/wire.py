"""The words of the socket: names, limits, exit codes. Both sides use this module, so they cannot disagree.

Rules of this file:
1. Standard library only, no I/O, nothing that needs the daemon.
2. Unknown parameters and fields are ignored, so that either side may be the newer one.
3. No error and no `repr` shows a token or a body.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlencode

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_REQUEST_BODY: Final = 16 * 1024  # bytes; a token request is a few hundred
MAX_CODE: Final = 16  # characters of a one-time password; RFC 4226 has 6 to 8 digits, Steam has letters
MAX_TOKEN: Final = 16 * 1024  # characters; the longest that Claude Code accepts is 16,384

TOKEN_PATH: Final = "/token"  # noqa: S105  # a URL path
REJECTED_PATH: Final = "/rejected"
PROOF_PATH: Final = "/proof"  # its words are in proof.py
OTP_PATH: Final = "/v1/otp"
PROFILES_PATH: Final = "/v1/profiles"
ME_PATH: Final = "/v1/me"
HEALTH_PATH: Final = "/healthz"

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_NO_BROKER: Final = 3
EXIT_DENIED: Final = 4
EXIT_LOCKED: Final = 5
EXIT_MIN_TTL: Final = 6
EXIT_TRY_AGAIN: Final = 75  # EX_TEMPFAIL of sysexits.h

_COMPACT: Final = json.JSONEncoder(separators=(",", ":"))  # made once: `json.dumps` makes one per call

_EXIT_BY_CODE: Final = {
    "denied": EXIT_DENIED,
    "no_client": EXIT_DENIED,
    "revoked": EXIT_DENIED,
    "peer_gone": EXIT_DENIED,
    "prompt_dismissed": EXIT_DENIED,  # a person said no
    "locked": EXIT_LOCKED,
    "prompt_unanswered": EXIT_LOCKED,
    "cooling_down": EXIT_LOCKED,
    "min_ttl_unmet": EXIT_MIN_TTL,
}


def exit_code(code: str, *, retryable: bool) -> int:
    """Return the exit status of `broker-token` for an error's `code`; unknown codes fail or, retryable, say so."""
    return _EXIT_BY_CODE.get(code, EXIT_TRY_AGAIN if retryable else EXIT_FAILED)


class WireError(ValueError):
    """Bytes that are not the request or answer they should be; `code` is the one that goes on the wire."""

    def __init__(self, message: str, *, code: str = "usage") -> None:
        """Say what is wrong, without quoting the bytes."""
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What `POST /token` asks for (RFC 6749 §4.4.2, RFC 8707 §2). What is not said is `None` or empty."""

    profile: str | None = None
    audience: str | None = None
    resource: str | None = None
    scopes: tuple[str, ...] = ()
    min_ttl: float | None = None
    """Seconds of validity that the token must have left; `None`: what suits its lifetime, softly."""
    reason: str | None = None
    """For people who read the audit trail or answer a prompt; claimed, and decides nothing."""
    agent_type: str | None = None
    """`autonomous` lowers the peer; nothing raises it."""
    interaction: str = "allow"
    """`never`: fail rather than prompt a person."""


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """A token as the broker serves it (RFC 6749 §5.1 and our own fields)."""

    access_token: str = field(repr=False)
    token_type: str = "Bearer"  # noqa: S105  # the scheme's name
    expires_in: int = 0
    """Seconds left when it was served."""
    scope: str = ""
    expires_at: float = 0
    """Epoch seconds."""
    profile: str = ""
    agent_type: str = ""
    owner: str = ""
    fingerprint: str = ""
    source: str = ""
    """`cache`, `fetch` or `stale`."""
    session: str = ""
    others: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Fields that a newer broker added; passed through by `--json`."""

    @property
    def authorization(self) -> str:
        """The value of the `Authorization` header (RFC 6750 §2.1, RFC 9449 §7.1)."""
        return f"{'DPoP' if self.token_type.lower() == 'dpop' else 'Bearer'} {self.access_token}"


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """An error as the broker tells it: RFC 6749 §5.2's two fields, and ours."""

    error: str
    """The RFC's word, for OAuth libraries."""
    error_description: str
    """The message for a person."""
    code: str
    """Ours; `exit_code` knows it."""
    hint: str | None = None
    retryable: bool = False
    retry_after: float | None = None
    """Seconds."""
    correlation_id: str | None = None


@dataclass(frozen=True, slots=True)
class ProfileInfo:
    """One profile as `GET /v1/profiles` lists it to this peer."""

    profile: str
    audience: str | None = None
    resource: str | None = None
    scopes: tuple[str, ...] = ()
    agent_types: tuple[str, ...] = ()
    """Of the clients that may mint it."""
    decision: str = "deny"
    """What the rules say to this peer: `allow`, `ask` or `deny`."""


_TOKEN_FIELDS: Final[dict[str, type | tuple[type, ...]]] = {
    "access_token": str,
    "token_type": str,
    "expires_in": int,
    "scope": str,
    "expires_at": (int, float),
    "profile": str,
    "agent_type": str,
    "owner": str,
    "fingerprint": str,
    "source": str,
    "session": str,
}
_OTP_FIELDS: Final = {"reference": str, "reason": str, "agent_type": str, "interaction": str}
_ERROR_FIELDS: Final[dict[str, type | tuple[type, ...]]] = {
    "error": str,
    "error_description": str,
    "code": str,
    "hint": str,
    "retryable": bool,
    "retry_after": (int, float),
    "correlation_id": str,
}


def encode_request(request: TokenRequest) -> bytes:
    """Return the form body of a token request."""
    values = {
        "profile": request.profile,
        "audience": request.audience,
        "resource": request.resource,
        "scope": " ".join(request.scopes),
        "min_ttl": None if request.min_ttl is None else f"{request.min_ttl:g}",
        "reason": request.reason,
        "agent_type": request.agent_type,
        "interaction": "" if request.interaction == "allow" else request.interaction,
    }
    said = {"grant_type": "client_credentials"} | {name: value for name, value in values.items() if value}
    return urlencode(said).encode()


def decode_request(body: bytes) -> TokenRequest:
    """Read a token request's form body; raises `WireError` naming the parameter that is wrong."""
    form = _form(body)
    grant = form.get("grant_type")
    if grant is None:
        raise WireError("parameter grant_type is missing, expected client_credentials")
    if grant != "client_credentials":
        raise WireError("parameter grant_type: expected client_credentials", code="unsupported_grant_type")
    return TokenRequest(
        profile=form.get("profile"),
        audience=form.get("audience"),
        resource=form.get("resource"),
        scopes=tuple(form.get("scope", "").split()),
        min_ttl=_seconds(form["min_ttl"]) if "min_ttl" in form else None,
        reason=form.get("reason"),
        agent_type=_one_of(form, "agent_type", ("interactive", "autonomous")),
        interaction=_one_of(form, "interaction", ("allow", "never")) or "allow",
    )


def _form(body: bytes) -> dict[str, str]:
    try:
        # "Parameters sent without a value MUST be treated as if they were omitted". RFC 6749 §3.2
        pairs = [(name, value) for name, value in parse_qsl(body.decode(), errors="strict") if value]
    except ValueError:
        raise WireError("the request body is not a form in UTF-8") from None
    form = dict(pairs)
    if len(form) != len(pairs):
        # "Request and response parameters MUST NOT be included more than once." RFC 6749 §3.2
        raise WireError("a parameter is given more than once")
    return form


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise WireError("parameter min_ttl: expected a number of seconds, 0 or more")
    return value


def _one_of(form: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str | None:
    value = form.get(name)
    if value is not None and value not in allowed:
        raise WireError(f"parameter {name}: expected {' or '.join(allowed)}")
    return value


def encode_token(answer: TokenAnswer) -> bytes:
    """Return the JSON of an answer, `access_token` first and compact: bin/broker-token finds it without a parser.

    Written out, since the broker does little else while it answers from memory: a third of the time of `json.dumps`.
    """
    text = encode_basestring_ascii
    others = "".join([f",{text(name)}:{_COMPACT.encode(value)}" for name, value in answer.others.items()])
    return (
        f'{{"access_token":{text(answer.access_token)},"token_type":{text(answer.token_type)},'
        f'"expires_in":{answer.expires_in},"scope":{text(answer.scope)},"expires_at":{answer.expires_at},'
        f'"profile":{text(answer.profile)},"agent_type":{text(answer.agent_type)},"owner":{text(answer.owner)},'
        f'"fingerprint":{text(answer.fingerprint)},"source":{text(answer.source)},"session":{text(answer.session)}'
        f"{others}}}"
    ).encode()


def decode_token(body: bytes) -> TokenAnswer:
    """Read a 200 answer; raises `WireError` when it holds no token that may be printed or put into a header."""
    fields = _object(body, _TOKEN_FIELDS)
    token = fields.get("access_token", "")
    # A token is visible ASCII (RFC 6750 §2.1); anything else could end a header or a line early.
    if not 0 < len(token) <= MAX_TOKEN or any(not "!" <= char <= "~" for char in token):
        raise WireError("the answer holds no usable access_token")
    known = {name: value for name, value in fields.items() if name in _TOKEN_FIELDS}
    return TokenAnswer(**known, others={name: value for name, value in fields.items() if name not in known})


def encode_error(answer: ErrorAnswer) -> bytes:
    """Return the JSON of an error; what is not known is left out."""
    values = {name: getattr(answer, name) for name in _ERROR_FIELDS}
    return _json({name: value for name, value in values.items() if value is not None})


def decode_error(body: bytes) -> ErrorAnswer:
    """Read the body of an answer that is no success; raises `WireError` unless it has RFC 6749 §5.2's `error`."""
    fields = _object(body, _ERROR_FIELDS)
    if not fields.get("error"):
        raise WireError("the answer names no error")
    known = {name: value for name, value in fields.items() if name in _ERROR_FIELDS}
    return ErrorAnswer(**{"error_description": known["error"], "code": known["error"]} | known)


def encode_rejected(profile: str, fingerprint: str) -> bytes:
    """Return the JSON body of `POST /rejected`."""
    return _json({"profile": profile, "fingerprint": fingerprint})


def decode_rejected(body: bytes) -> tuple[str, str]:
    """Read the body of `POST /rejected` as profile and fingerprint; raises `WireError` unless both are there."""
    fields = _object(body, {"profile": str, "fingerprint": str})
    if not (fields.get("profile") and fields.get("fingerprint")):
        raise WireError("a rejection names a profile and a fingerprint")
    return fields["profile"], fields["fingerprint"]


@dataclass(frozen=True, slots=True)
class OtpRequest:
    """`POST /v1/otp`: a one-time password of the vault."""

    reference: str
    """The field in the vault, e.g. `op://Vault/Item/one-time password`."""
    reason: str | None = None
    agent_type: str | None = None
    """`autonomous`: the peer lowers itself. `None`: as the evidence says."""
    interaction: str = "allow"


def encode_otp(request: OtpRequest) -> bytes:
    """Return the JSON body of `POST /v1/otp`."""
    values = {name: getattr(request, name) for name in _OTP_FIELDS}
    return _json({name: value for name, value in values.items() if value is not None})


def decode_otp(body: bytes) -> OtpRequest:
    """Read the body of `POST /v1/otp`; raises `WireError` for what is known and wrong."""
    fields = _object(body, _OTP_FIELDS)
    if not fields.get("reference"):
        raise WireError("the request names no reference")
    _one_of(fields, "agent_type", ("interactive", "autonomous"))
    _one_of(fields, "interaction", ("allow", "never"))
    return OtpRequest(**{name: value for name, value in fields.items() if name in _OTP_FIELDS})


def decode_otp_answer(body: bytes) -> str:
    """Read a 200 answer of `POST /v1/otp`; raises `WireError` when there is no code in it that can be printed."""
    code = _object(body, {"otp": str}).get("otp", "")
    if not 0 < len(code) <= MAX_CODE or not (code.isascii() and code.isalnum()):
        raise WireError("the answer holds no usable one-time password")
    return str(code)


def encode_profiles(profiles: tuple[ProfileInfo, ...]) -> bytes:
    """Return the JSON of `GET /v1/profiles`."""
    names = ("profile", "audience", "resource", "scopes", "agent_types", "decision")
    return _json({"profiles": [{name: getattr(one, name) for name in names} for one in profiles]})


def decode_profiles(body: bytes) -> tuple[ProfileInfo, ...]:
    """Read the JSON of `GET /v1/profiles`; raises `WireError` when it is not a list of named profiles."""
    entries = _object(body, {"profiles": list}).get("profiles", [])
    if not all(isinstance(one, dict) and isinstance(one.get("profile"), str) for one in entries):
        raise WireError("the answer is not a list of profiles")
    return tuple(
        ProfileInfo(
            profile=one["profile"],
            audience=_text(one.get("audience")),
            resource=_text(one.get("resource")),
            scopes=_texts(one.get("scopes")),
            agent_types=_texts(one.get("agent_types")),
            decision=_text(one.get("decision")) or "deny",
        )
        for one in entries
    )


def decode_object(body: bytes) -> dict[str, Any]:
    """Read a body that must be a JSON object, whatever is in it; raises `WireError` otherwise."""
    return _object(body, {})


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def _json(fields: Mapping[str, Any]) -> bytes:
    return _COMPACT.encode(fields).encode()


def _object(body: bytes, types: Mapping[str, type | tuple[type, ...]]) -> dict[str, Any]:
    """Read a JSON object whose known fields have their types; a null counts as absent."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        # `from None`: the decoder's error carries the whole document, token included.
        raise WireError("the body is not JSON") from None
    if not isinstance(value, dict):
        raise WireError("the body is not a JSON object")
    fields = {name: item for name, item in value.items() if item is not None}
    for name, kind in types.items():
        if name in fields and not isinstance(fields[name], kind):
            raise WireError(f"field {name} has the wrong type")
    return fields
