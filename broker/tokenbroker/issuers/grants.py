"""The parameters of a token request, one function per grant. A draft's grant is one more entry of `GRANTS`.

Rules of this file:
1. No I/O and no clock; a grant that signs is called off the event loop.
2. Each parameter stands once (RFC 6749 §3.2), and no extra one replaces one of the protocol's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tokenbroker.errors import IssuerMisconfigured
from tokenbroker.model import Grant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tokenbroker.config import IssuerConfig
    from tokenbroker.issuers.authentication import Occasion
    from tokenbroker.model import Credentials, Secret

    Pairs = list[tuple[str, str]]
    Parameters = Callable[["Wanted", Credentials, Occasion], tuple[Pairs, tuple[Secret, ...]]]

_RESERVED: Final = frozenset({"grant_type", "redirect_uri", "scope", "audience", "resource"})


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one token request asks for."""

    grant: Grant = Grant()
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
    own, hidden = GRANTS[wanted.grant.type](wanted, credentials, occasion)
    return [*own, *_added(wanted, occasion.config).items()], hidden


def check(wanted: Wanted, config: IssuerConfig) -> None:
    """Raise `IssuerMisconfigured` for an extra parameter that would replace one of the protocol's own."""
    for name in _added(wanted, config):
        if name in _RESERVED or name.startswith("client_"):
            raise IssuerMisconfigured(
                f"issuer `{config.name}`: extra_params may not set {name}",
                hint=f"remove {name} from extra_params of [issuers.{config.name}] or of the profile",
            )


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


GRANTS: Final[Mapping[str, Parameters]] = {
    "client_credentials": _client_credentials,
}
"""Grant → the function that makes its parameters."""
