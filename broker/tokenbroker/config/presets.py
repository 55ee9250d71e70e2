"""What is known of each issuer product, as data: how it wants a client to authenticate, and what it insists on.

Rule of this file: a preset is values, never code. A product that needs code is another adapter.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenbroker.config import AssertionAlg, GrantType

LONGEST_ASSERTION: Final = 3600.0  # seconds; Google's limit, the longest there is
_SETTINGS: Final = (
    "grant",
    "auth",
    "basic_encoding",
    "assertion_audience",
    "assertion_alg",
    "assertion_header",
    "assertion_ttl",
    "assertion_subject",
    "assertion_scope",
    "granted_scopes",
    "absent_scope",
    "token_issuer",
)
"""The fields of a preset that the configuration of an issuer may override, by the same name."""


@dataclass(frozen=True, slots=True)
class Preset:
    """One product's ways; the defaults are those of a plain OpenID provider."""

    about: str
    """The product, and where its console keeps what is asked for here."""
    url_example: str = "https://issuer.example.com"
    """What an issuer's URL looks like; capitals are to be replaced."""
    url_ends_with_slash: bool = False
    """Whether the issuer's identifier does, so that without it no `iss` and no `aud` would be right."""
    url: str | None = None
    """The one address of a product that has no other."""
    token_endpoint: str | None = None
    """Likewise."""
    endpoint_example: str | None = None
    """What the token endpoint looks like, where it is on another host than the issuer and must be configured."""
    grant: GrantType = "client_credentials"
    auth: str = "client_secret_post"
    """Client authentication when the configuration names none (names of OIDC Core §9)."""
    methods: tuple[str, ...] = ("client_secret_post", "client_secret_basic", "private_key_jwt")
    """What `broker init` offers: ways to authenticate, or grants that do without; more may work."""
    target: Literal["audience", "resource"] | None = None
    """The key of a profile by which this product is told what a token is for; `None`: its scopes, or its console."""
    organization_example: str | None = None
    """What an organization looks like, where a token may be for one."""
    key_field: str = "private key"
    """How the field of the vault that holds the private key is probably called."""
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
    scope_example: str | None = None
    assertion_audience: Literal["issuer", "token_endpoint"] = "issuer"
    """`aud` of an assertion: the issuer's identifier as it is configured, or the token endpoint."""
    assertion_alg: AssertionAlg | None = None
    """Signature of an assertion; `None`: what fits the key."""
    assertion_header: Literal["kid", "x5t", "x5t#S256"] = "kid"
    """Under which header an assertion carries the client's `key_id`."""
    assertion_ttl: float = 60.0
    """Seconds between `iat` and `exp` of an assertion."""
    longest_assertion: float = LONGEST_ASSERTION
    """The most of those that the product takes."""
    assertion_subject: Literal["client", "none"] = "client"
    """What stands as `sub` in the assertion of a jwt-bearer grant that is on nobody's behalf."""
    assertion_scope: bool = False
    """Whether the jwt-bearer grant has its scopes within the assertion."""
    granted_scopes: Literal["exact", "subset", "ignore"] = "exact"
    """`ignore` where what is granted is never called as what was asked."""
    absent_scope: Literal["as_asked", "none"] = "as_asked"
    """`none` where what is granted always stands in the token."""
    token_issuer: str | None = None
    """`any` where the `iss` of tokens is not the issuer's identifier."""
    claims: Mapping[str, str] = field(default_factory=dict)
    """Where its tokens always have what was asked for: our name → claim name."""

    def defaults(self) -> dict[str, Any]:
        """Return what the configuration of an issuer may override, by the names that it uses."""
        return {name: getattr(self, name) for name in _SETTINGS}


PRESETS: Final[Mapping[str, Preset]] = MappingProxyType(
    {
        "auth0": Preset(
            about="Auth0; the application is of type machine-to-machine, and authorised for the API",
            methods=("client_secret_post", "private_key_jwt"),
            target="audience",
            organization_example="org_abc",
            url_example="https://TENANT.REGION.auth0.com/",
            url_ends_with_slash=True,
            longest_assertion=300.0,
            audience_required=True,
            claims=MappingProxyType({"org_id": "org_id"}),
            absent_scope="none",
        ),
        "okta": Preset(
            about="Okta; an API services app, and a custom scope of the authorization server",
            methods=("client_secret_basic", "private_key_jwt"),
            url_example="https://ORG.okta.com/oauth2/default",
            auth="client_secret_basic",
            scope_required=True,
            absent_scope="none",
        ),
        "entra": Preset(
            about="Microsoft Entra ID; an app registration with application permissions",
            methods=("client_secret_post", "private_key_jwt"),
            url_example="https://login.microsoftonline.com/TENANT-ID/v2.0",
            scope_required=True,
            scope_suffix="/.default",
            scope_example="api://APP-ID/.default",
            assertion_audience="token_endpoint",
            assertion_alg="PS256",
            assertion_header="x5t#S256",
            granted_scopes="ignore",  # asked is `…/.default`, the token has roles
            token_issuer="any",  # noqa: S106  # sts.windows.net in tokens of version 1, the API's choice
        ),
        "keycloak": Preset(
            about="Keycloak; a client with service accounts enabled, and a mapper for the audience",
            methods=("client_secret_basic", "client_secret_post", "private_key_jwt", "tls_client_auth"),
            url_example="https://HOST/realms/REALM",
            auth="client_secret_basic",
            absent_scope="none",
        ),
        "cognito": Preset(
            about="Amazon Cognito; a confidential app client with the client credentials grant",
            methods=("client_secret_basic", "client_secret_post"),
            url_example="https://cognito-idp.REGION.amazonaws.com/POOL-ID",
            endpoint_example="https://DOMAIN.auth.REGION.amazoncognito.com/oauth2/token",
            auth="client_secret_basic",
            scope_example="RESOURCE-SERVER/SCOPE",
            absent_scope="none",
        ),
        "pingone": Preset(
            about="PingOne; a worker app, or an app with a custom resource",
            methods=("client_secret_basic", "client_secret_post", "private_key_jwt"),
            url_example="https://auth.pingone.com/ENVIRONMENT-ID/as",
            auth="client_secret_basic",
        ),
        "google": Preset(
            about="Google Cloud service account; keep its JSON key file in the vault",
            methods=("jwt-bearer",),
            key_field="key.json",
            url_example="https://accounts.google.com",
            token_endpoint="https://oauth2.googleapis.com/token",  # noqa: S106  # an address
            grant="jwt-bearer",
            auth="none",
            scope_required=True,
            scope_example="https://www.googleapis.com/auth/cloud-platform",
            assertion_audience="token_endpoint",
            assertion_alg="RS256",
            assertion_subject="none",  # with one it asks for domain-wide delegation
            assertion_scope=True,
        ),
        "github-app": Preset(
            about="GitHub App; keep its private key in the vault",
            methods=("github-app",),
            url_example="https://HOST/api/v3",
            url="https://api.github.com",
            grant="github-app",
            auth="none",
            scope_example="contents:read",
        ),
        "zitadel": Preset(
            about="Zitadel; a service user with client credentials, or with a key and grant jwt-bearer",
            methods=("client_secret_basic", "jwt-bearer"),
            key_field="key.json",
            url_example="https://INSTANCE.zitadel.cloud",
            auth="client_secret_basic",
            scope_required=True,
            scope_needed="openid",
            scope_example="openid urn:zitadel:iam:org:project:id:PROJECT-ID:aud",
        ),
        "workos": Preset(
            about="WorkOS; an M2M application",
            methods=("client_secret_post",),
            url_example="https://SUBDOMAIN.authkit.app",
        ),
        "stytch": Preset(
            about="Stytch; an M2M client of the project",
            methods=("client_secret_basic",),
            url_example="https://PROJECT.customers.stytch.com",
            auth="client_secret_basic",
        ),
        "descope": Preset(
            about="Descope; an inbound app",
            methods=("client_secret_post",),
            target="resource",
            url_example="https://api.descope.com/v1/apps/PROJECT-ID",
            endpoint_example="https://api.descope.com/oauth2/v1/apps/token",
        ),
        "hydra": Preset(
            about="Ory Hydra; an OAuth 2.0 client with the grant and the audience allowed",
            methods=("client_secret_basic", "client_secret_post", "private_key_jwt"),
            target="audience",
            url_example="https://PROJECT.projects.oryapis.com",
            auth="client_secret_basic",
        ),
        "oidc": Preset(
            about="any other server of OAuth 2.0 or OpenID Connect",
            methods=(
                "client_secret_post",
                "client_secret_basic",
                "private_key_jwt",
                "client_secret_jwt",
                "tls_client_auth",
                "self_signed_tls_client_auth",
            ),
            target="audience",
        ),
    }
)
"""The presets of this version, by the name that the configuration uses."""
