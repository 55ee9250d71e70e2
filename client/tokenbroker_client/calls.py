"""The broker's verbs as values: what to send, and what to make of the answer. Shared by both clients; no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from tokenbroker_client import proof as proofs
from tokenbroker_client import wire
from tokenbroker_client.environment import interaction as interaction_here
from tokenbroker_client.errors import BrokerRefused, UsageError
from tokenbroker_client.transport import bad_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tokenbroker_client.http1 import Response
    from tokenbroker_client.proof import ProofAnswer
    from tokenbroker_client.wire import ProfileInfo, TokenAnswer, TokenRequest

T = TypeVar("T")

_FORM: Final = {"Content-Type": "application/x-www-form-urlencoded"}
_JSON: Final = {"Content-Type": "application/json"}


class Call(NamedTuple):
    """One request to the broker, in the order of `transport.request`'s arguments."""

    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] | None = None


PROFILES: Final = Call("GET", wire.PROFILES_PATH)
ME: Final = Call("GET", wire.ME_PATH)


def token(request: TokenRequest) -> Call:
    """Ask for a token."""
    return Call("POST", wire.TOKEN_PATH, wire.encode_request(request), _FORM)


def token_request(
    environ: Mapping[str, str],
    profile: str | None,
    *,
    audience: str | None,
    scopes: Iterable[str],
    min_ttl: float | None,
    reason: str | None,
    agent_type: str | None,
    interaction: str | None,
) -> TokenRequest:
    """Put a caller's wishes together; what `interaction` leaves open, the environment decides."""
    # A string is iterable too, and would ask for one scope per letter.
    wanted = scopes.split() if isinstance(scopes, str) else scopes
    return wire.TokenRequest(
        profile=profile,
        audience=audience,
        scopes=tuple(wanted),
        min_ttl=min_ttl,
        reason=reason,
        agent_type=agent_type,
        interaction=interaction or interaction_here(environ),
    )


def rejected(profile: str, fingerprint: str) -> Call:
    """Tell that an API refused a token."""
    return Call("POST", wire.REJECTED_PATH, wire.encode_rejected(profile, fingerprint), _JSON)


def proof(profile: str, fingerprint: str, method: str, url: str, nonce: str | None) -> Call:
    """Ask for a proof; raises `UsageError` for what no request can have."""
    request = proofs.ProofRequest(profile, fingerprint, method, url, nonce)
    try:
        body = proofs.encode_request(request)
        proofs.decode_request(body)
    except (wire.WireError, UnicodeEncodeError) as error:
        raise UsageError(f"no proof can be asked for: {error}") from None
    return Call("POST", wire.PROOF_PATH, body, _JSON)


def read_proof(response: Response) -> ProofAnswer:
    """Return the proof; raises `BrokerRefused` or `BadAnswer`."""
    return _read(response, proofs.decode_answer)


def read_token(response: Response) -> TokenAnswer:
    """Return the token; raises `BrokerRefused` or `BadAnswer`."""
    return _read(response, wire.decode_token)


def read_profiles(response: Response) -> tuple[ProfileInfo, ...]:
    """Return the profiles; raises `BrokerRefused` or `BadAnswer`."""
    return _read(response, wire.decode_profiles)


def read_object(response: Response) -> dict[str, Any]:
    """Return any JSON object; raises `BrokerRefused` or `BadAnswer`."""
    return _read(response, wire.decode_object)


def read_dropped(response: Response) -> bool:
    """Tell whether the broker dropped a rejected token; raises `BrokerRefused` or `BadAnswer`."""
    return read_object(response).get("dropped") is True


def _read(response: Response, decode: Callable[[bytes], T]) -> T:
    try:
        if 200 <= response.status < 300:  # noqa: PLR2004  # RFC 9110 §15.3
            return decode(response.body)
        answer = wire.decode_error(response.body)
    except wire.WireError as error:
        raise bad_answer(error, response.status) from None
    raise BrokerRefused(answer)
