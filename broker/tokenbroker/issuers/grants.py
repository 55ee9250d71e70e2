"""The parameters of a token request, one function per grant. A draft's grant is one more entry of `GRANTS`.

Rules of this file:
1. No I/O and no clock; a grant that signs is called off the event loop.
2. Each parameter stands once (RFC 6749 §3.2), and no extra one replaces one of the protocol's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tokenbroker.config.issuers import own_parameter
from tokenbroker.errors import IssuerMisconfigured, TokenMismatch
from tokenbroker.issuers.assertions import assertion
from tokenbroker.issuers.keys import signing_key
from tokenbroker.model import Grant
from tokenbroker.scrub import scrub

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tokenbroker.config import IssuerConfig
    from tokenbroker.issuers.authentication import Occasion
    from tokenbroker.issuers.exchange import Attempt
    from tokenbroker.model import Credentials, Secret

    Pairs = list[tuple[str, str]]
    Parameters = Callable[["Wanted", Credentials, Occasion], tuple[Pairs, tuple[Secret, ...]]]

JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"  # RFC 7523 §2.1
TOKEN_EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105  # RFC 8693 §2.1
_TOKEN_TYPE: Final = "urn:ietf:params:oauth:token-type:"  # noqa: S105  # RFC 8693 §3


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one token request asks for."""

    grant: Grant = Grant()  # noqa: RUF009  # a frozen value
    scopes: tuple[str, ...] = ()
    audience: str | None = None
    resource: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)


NOTHING: Final = Wanted(Grant(type=""))
"""No token is asked for: the client only authenticates."""


def parameters(wanted: Wanted, credentials: Credentials, occasion: Occasion) -> tuple[Pairs, tuple[Secret, ...]]:
    """Return the request's parameters without the client's authentication, and what of them must never be shown.

    Raises `IssuerMisconfigured` for a grant that cannot be made with what there is.
    """
    if wanted is NOTHING:
        return [], ()
    make = GRANTS.get(wanted.grant.type)
    if make is None:
        raise IssuerMisconfigured(
            f"issuer `{occasion.config.name}`: grant {wanted.grant.type} is none of its token endpoint",
            hint=f"set grant in [issuers.{occasion.config.name}] or [clients] to one of {', '.join(GRANTS)}",
        )
    own, hidden = make(wanted, credentials, occasion)
    return [*own, *_added(wanted, occasion.config).items()], hidden


def check(wanted: Wanted, config: IssuerConfig) -> None:
    """Raise `IssuerMisconfigured` for an extra parameter that would replace one of the protocol's own."""
    for name in _added(wanted, config):
        if own_parameter(name) is not None:
            raise IssuerMisconfigured(
                f"issuer `{config.name}`: extra_params may not set {name}",
                hint=f"remove {name} from extra_params of [issuers.{config.name}] or of the profile",
            )


def check_issued(issued: object, wanted: Wanted, attempt: Attempt) -> None:
    """Compare the answer's `issued_token_type` (RFC 8693 §2.2.1) with the type that was asked for, where both are.

    Raises `TokenMismatch` naming both.
    """
    asked = wanted.grant.requested_token_type
    if wanted.grant.type != "token-exchange" or asked is None or not isinstance(issued, str):
        return
    if issued != token_type(asked):
        raise TokenMismatch(
            f"{attempt.subject} issued a token of type {scrub(issued, attempt.secrets)}, asked was {token_type(asked)}",
            hint="correct requested_token_type in [clients], or leave it out",
        )


def token_type(name: str) -> str:
    """Return the URI of a token type: RFC 8693 §3's for a short name such as `access_token`, else `name` itself."""
    return name if ":" in name else _TOKEN_TYPE + name


def _added(wanted: Wanted, config: IssuerConfig) -> Mapping[str, str]:
    organization = {"organization": config.organization} if config.organization else {}
    return {**config.extra_params, **organization, **wanted.extra}


def _target(wanted: Wanted) -> Pairs:
    """Return what the token is for: scope (RFC 6749 §3.3), Auth0's audience, resource (RFC 8707 §2)."""
    scope = " ".join(wanted.scopes) or None
    named = (("scope", scope), ("audience", wanted.audience), ("resource", wanted.resource))
    return [(name, value) for name, value in named if value is not None]


def _client_credentials(
    wanted: Wanted, _credentials: Credentials, _occasion: Occasion
) -> tuple[Pairs, tuple[Secret, ...]]:
    """RFC 6749 §4.4.2."""
    return [("grant_type", "client_credentials"), *_target(wanted)], ()


def _jwt_bearer(wanted: Wanted, credentials: Credentials, occasion: Occasion) -> tuple[Pairs, tuple[Secret, ...]]:
    """RFC 7523 §2.1 and §3: the client signs who it is, and on whose behalf."""
    config = occasion.config
    key = signing_key(credentials, config)
    subject = wanted.grant.subject or (credentials.client_id if config.assertion_subject == "client" else None)
    within = " ".join(wanted.scopes) if config.assertion_scope else ""
    claims = {
        "iss": credentials.client_id,
        "aud": occasion.audience,
        **({"sub": subject} if subject else {}),
        **({"scope": within} if within else {}),
    }
    signed = assertion(key, claims=claims, occasion=occasion)
    target = [pair for pair in _target(wanted) if not (config.assertion_scope and pair[0] == "scope")]
    return [("grant_type", JWT_BEARER), ("assertion", signed.reveal()), *target], (signed,)


def _token_exchange(wanted: Wanted, _credentials: Credentials, occasion: Occasion) -> tuple[Pairs, tuple[Secret, ...]]:
    """RFC 8693 §2.1: a token about one is exchanged for another about the same, on which somebody may act."""
    grant = wanted.grant
    if grant.subject_token is None:
        raise IssuerMisconfigured(
            f"issuer `{occasion.config.name}`: grant token-exchange needs a token to exchange, the client has none",
            hint="set subject_token or subject_profile in [clients]",
        )
    pairs = [
        ("grant_type", TOKEN_EXCHANGE),
        ("subject_token", grant.subject_token.reveal()),
        ("subject_token_type", token_type(grant.subject_token_type)),
    ]
    hidden = [grant.subject_token]
    if grant.actor_token is not None:
        pairs += [
            ("actor_token", grant.actor_token.reveal()),
            ("actor_token_type", token_type(grant.actor_token_type)),
        ]
        hidden.append(grant.actor_token)
    if grant.requested_token_type is not None:
        pairs.append(("requested_token_type", token_type(grant.requested_token_type)))
    return [*pairs, *_target(wanted)], tuple(hidden)


GRANTS: Final[Mapping[str, Parameters]] = {
    "client_credentials": _client_credentials,
    "jwt-bearer": _jwt_bearer,
    "token-exchange": _token_exchange,
}
"""Grant → the function that makes its parameters."""
