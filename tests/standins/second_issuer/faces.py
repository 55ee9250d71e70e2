"""What issuers look like from outside: one table of data, the code is shared.

A test may change any field: `SecondIssuer.start(face="okta", lifetime=60)`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from tests.standins.second_issuer import refusals
from tests.standins.second_issuer.state import CLIENT_CREDENTIALS, JWT_BEARER, TOKEN_EXCHANGE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.standins.second_issuer.refusals import Words

WELL_KNOWN = ("oauth-inserted", "openid-inserted", "openid-appended")
METHODS = (
    "client_secret_basic",
    "client_secret_post",
    "client_secret_jwt",
    "private_key_jwt",
    "tls_client_auth",
    "self_signed_tls_client_auth",
    "none",
)


@dataclass(frozen=True)
class Dialect:
    """How a JWT access token names things."""

    typ: str | None = "at+jwt"
    client: str | None = "client_id"
    jti: bool = True
    scope: str = "scope"
    """`scope` is one string; `scp` and `roles` are lists."""
    subject: str = "{client}"
    audience: bool = True
    more: Mapping[str, Any] = field(default_factory=dict)


RFC9068 = Dialect()
AUTH0 = Dialect("JWT", "azp", jti=False, subject="{client}@clients", more={"gty": "client-credentials"})
ENTRA_MORE = {"appidacr": "1", "idtyp": "app", "tid": "tenant", "oid": "service-principal"}
ENTRA_V1 = Dialect(
    "JWT", "appid", jti=False, scope="roles", subject="service-principal", more=ENTRA_MORE | {"ver": "1.0"}
)
ENTRA_V2 = Dialect(
    "JWT", "azp", jti=False, scope="roles", subject="service-principal", more=ENTRA_MORE | {"ver": "2.0"}
)
OKTA = Dialect(None, "cid", scope="scp", more={"ver": 1})
COGNITO = Dialect(None, audience=False, more={"token_use": "access", "version": 2})


@dataclass(frozen=True)
class Face:
    """The switches. Times are seconds."""

    # Addresses; `token_host` puts the token endpoint on another host than the issuer's.
    issuer_path: str = ""
    token_path: str = "/token"
    token_host: str | None = None
    well_known: tuple[str, ...] = WELL_KNOWN
    token_issuer: str | None = None
    """`iss` of tokens where it is not the metadata's; may contain `{origin}`."""

    # Client authentication.
    methods: tuple[str, ...] = METHODS
    basic: Literal["rfc6749", "raw"] = "rfc6749"
    old_secrets: bool = False
    assertion_algs: tuple[str, ...] = ("RS256", "PS256", "ES256")
    assertion_audiences: tuple[str, ...] = ("issuer", "token_endpoint")
    """`issuer`, `issuer_slash`, `token_endpoint`, or a literal."""
    assertion_headers: tuple[str, ...] = ("kid", "x5t", "x5t#S256")
    """One of these must name the key."""
    assertion_lifetime: int = 300
    assertion_jti: bool = True
    skew: int = 10

    # Grants.
    grants: tuple[str, ...] = (CLIENT_CREDENTIALS, JWT_BEARER, TOKEN_EXCHANGE)
    bearer_scope: Literal["form", "assertion"] = "form"
    bearer_sub_is_iss: bool = False
    exchange_actor: Literal["token", "client"] = "token"
    """Without an actor token: no `act`, or the client itself is the actor."""

    # What the token is for.
    target: Literal["either", "audience", "audiences", "resource", "scope", "client"] = "either"
    default_audience: str = "https://api.example"
    without_audience: Literal["default", "opaque"] = "default"
    scope: Literal["optional", "required", "default"] = "optional"
    """`default` is Entra's: exactly one `<resource>/.default`."""
    scope_must_have: str | None = None
    unknown_scope: Literal["refuse", "drop"] = "refuse"

    # The token and the answer.
    token_format: Literal["jwt", "opaque"] = "jwt"
    dialect: Dialect = RFC9068
    signing_alg: Literal["RS256", "ES256"] = "RS256"
    lifetime: int = 3600
    opaque_lifetime: int | None = None
    expires_in: Literal["int", "float", "string", "absent"] = "int"
    scope_member: Literal["always", "narrowed", "never"] = "always"
    token_type: str = "Bearer"
    claim_names: Mapping[str, str] = field(default_factory=dict)
    """Other names of `owner`, `agent_type`, `org_id`."""

    # Proof of possession.
    dpop: Literal["on", "ignored"] = "on"
    dpop_nonce: Literal["never", "once", "rotate"] = "never"
    resource_nonce: Literal["never", "once", "rotate"] = "never"
    dpop_window: int = 60
    mtls: Literal["off", "same_port", "alias"] = "off"
    bind_certificates: bool = False

    # Afterwards.
    revocation: bool = True
    revoke_jwt: bool = False
    introspection: Literal["on", "off", "unauthorized", "forbidden"] = "on"
    introspect_jwt: bool = True
    float_exp: bool = False

    # What is said when it refuses, and of limits.
    errors: Mapping[str, Words] = field(default_factory=dict)
    limits: Literal["plain", "auth0", "okta", "github"] = "plain"


FACES: Mapping[str, Face] = {
    "oidc": Face(),
    "auth0": Face(
        issuer_path="/",
        token_path="/oauth/token",
        methods=("client_secret_post", "client_secret_basic", "private_key_jwt", "tls_client_auth"),
        assertion_audiences=("issuer_slash",),
        assertion_headers=("kid",),
        target="audience",
        without_audience="opaque",
        unknown_scope="drop",
        dialect=AUTH0,
        lifetime=86400,
        opaque_lifetime=86400,
        introspection="off",
        errors=refusals.AUTH0,
        limits="auth0",
    ),
    "okta": Face(
        issuer_path="/oauth2/default",
        token_path="/oauth2/default/v1/token",
        methods=("client_secret_basic", "client_secret_post", "client_secret_jwt", "private_key_jwt"),
        old_secrets=True,
        scope="required",
        dialect=OKTA,
        errors=refusals.OKTA,
        limits="okta",
    ),
    "entra": Face(
        issuer_path="/tenant/v2.0",
        token_path="/tenant/oauth2/v2.0/token",
        token_issuer="{origin}/sts/tenant/",
        well_known=("openid-appended",),
        methods=("client_secret_post", "client_secret_basic", "private_key_jwt"),
        old_secrets=True,
        assertion_algs=("PS256",),
        assertion_audiences=("token_endpoint",),
        assertion_headers=("x5t#S256",),
        assertion_lifetime=600,
        grants=(CLIENT_CREDENTIALS,),
        target="scope",
        scope="default",
        dialect=ENTRA_V1,
        lifetime=3599,
        scope_member="never",
        dpop="ignored",
        revocation=False,
        introspection="off",
        errors=refusals.ENTRA,
    ),
    "keycloak": Face(
        issuer_path="/realms/main",
        token_path="/realms/main/protocol/openid-connect/token",
        well_known=("openid-appended",),
        old_secrets=True,
        unknown_scope="refuse",
        revoke_jwt=True,
        errors=refusals.KEYCLOAK,
    ),
    "cognito": Face(
        issuer_path="/eu-west-1_pool",
        token_path="/oauth2/token",
        token_host="localhost",
        well_known=("openid-appended",),
        methods=("client_secret_basic", "client_secret_post"),
        grants=(CLIENT_CREDENTIALS,),
        dialect=COGNITO,
        scope_member="never",
        dpop="ignored",
        revocation=False,
        introspection="off",
        errors=refusals.COGNITO,
    ),
    "pingone": Face(
        issuer_path="/env/as",
        token_path="/env/as/token",
        well_known=("openid-appended",),
        methods=("client_secret_basic", "client_secret_post", "client_secret_jwt", "private_key_jwt"),
        dialect=Dialect("JWT"),
        dpop="ignored",
    ),
    "google": Face(
        token_path="/token",
        well_known=("openid-appended",),
        methods=("none",),
        grants=(JWT_BEARER,),
        assertion_algs=("RS256",),
        assertion_audiences=("token_endpoint",),
        assertion_headers=("kid",),
        assertion_lifetime=3600,
        assertion_jti=False,
        bearer_scope="assertion",
        scope="required",
        token_format="opaque",
        lifetime=3599,
        scope_member="never",
        dpop="ignored",
        introspection="off",
        errors=refusals.GOOGLE,
    ),
    "github-app": Face(
        well_known=(),
        grants=(),
        token_format="opaque",
        assertion_algs=("RS256",),
        revocation=False,
        introspection="off",
        dpop="ignored",
        limits="github",
    ),
    "zitadel": Face(
        token_path="/oauth/v2/token",
        well_known=("openid-appended",),
        methods=("client_secret_basic", "client_secret_post", "private_key_jwt", "none"),
        assertion_algs=("RS256",),
        assertion_audiences=("issuer",),
        assertion_headers=("kid",),
        assertion_lifetime=3600,
        assertion_jti=False,
        bearer_sub_is_iss=True,
        target="scope",
        scope="required",
        scope_must_have="openid",
        unknown_scope="drop",
        dialect=Dialect("JWT"),
        scope_member="never",
        dpop="ignored",
    ),
    "workos": Face(
        token_path="/oauth2/token",
        methods=("client_secret_post",),
        grants=(CLIENT_CREDENTIALS,),
        target="client",
        dialect=Dialect("JWT"),
        dpop="ignored",
    ),
    "stytch": Face(
        token_path="/v1/public/project/oauth2/token",
        methods=("client_secret_basic", "client_secret_post"),
        old_secrets=True,
        grants=(CLIENT_CREDENTIALS,),
        dialect=Dialect("JWT"),
        dpop="ignored",
    ),
    "descope": Face(
        token_path="/oauth2/v1/apps/token",
        methods=("client_secret_post",),
        target="resource",
        dialect=Dialect("JWT"),
        dpop="ignored",
    ),
    "hydra": Face(
        token_path="/oauth2/token",
        target="audiences",
        token_format="opaque",
        lifetime=3599,
        token_type="bearer",
        dpop="ignored",
    ),
    "glewlwyd": Face(
        token_path="/api/oidc/token",
        basic="raw",
        scope="required",
        token_type="bearer",
        revoke_jwt=True,
        errors=refusals.GLEWLWYD,
    ),
}
