"""What is known of each issuer product, as data: how it wants a client to authenticate, and what it insists on.

Rule of this file: a preset is values, never code. A product that needs code is another adapter.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Preset:
    """One product's ways; the defaults are those of a plain OpenID provider."""

    auth: str = "client_secret_post"
    """Client authentication when the configuration names none (names of OIDC Core §9)."""
    basic_encoding: Literal["rfc6749", "raw"] = "rfc6749"
    """Whether id and secret are form-urlencoded before `client_secret_basic` (RFC 6749 §2.3.1) or not."""
    audience_required: bool = False
    """Whether a request without `audience` gets a token that is of no use."""
    scope_required: bool = False
    """Whether a request without `scope` is refused."""
    scope_needed: str | None = None
    """One scope that every request must have."""
    scope_suffix: str | None = None
    """What every scope must end with."""
    assertion_audience: Literal["issuer", "token_endpoint"] = "issuer"
    """`aud` of a `private_key_jwt` assertion: the issuer's identifier as it is configured, or the token endpoint."""
    assertion_alg: Literal["RS256", "PS256", "ES256"] | None = None
    """Signature of the assertion; `None`: what fits the key."""
    assertion_header: Literal["kid", "x5t", "x5t#S256"] = "kid"
    """Under which header the assertion carries the client's `key_id`."""

    def defaults(self) -> dict[str, str | None]:
        """Return what the configuration of an issuer may override, by the names that it uses."""
        names = ("auth", "basic_encoding", "assertion_audience", "assertion_alg", "assertion_header")
        return {name: getattr(self, name) for name in names}


_BASIC: Final = Preset(auth="client_secret_basic")

PRESETS: Final[Mapping[str, Preset]] = MappingProxyType(
    {
        # Without an audience Auth0 gives an opaque token that no API accepts.
        "auth0": Preset(audience_required=True),
        # A custom authorization server wants at least one custom scope, the org server an `okta.*` scope.
        "okta": Preset(auth="client_secret_basic", scope_required=True),
        "entra": Preset(
            scope_required=True,
            scope_suffix="/.default",
            assertion_audience="token_endpoint",
            assertion_alg="PS256",
            assertion_header="x5t#S256",
        ),
        "keycloak": _BASIC,
        "cognito": _BASIC,
        "pingone": _BASIC,
        "zitadel": Preset(auth="client_secret_basic", scope_required=True, scope_needed="openid"),
        "workos": Preset(),
        "stytch": _BASIC,
        "descope": Preset(),
        "hydra": _BASIC,
        "oidc": Preset(),
    }
)
"""The presets of this version, by the name that the configuration uses."""

UNAVAILABLE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "google": "the jwt-bearer grant (RFC 7523)",
        "github-app": "GitHub's own exchange of an app's JWT for an installation token",
    }
)
"""Presets that are documented and not here yet, each with what it needs that this version does not have."""
