"""Why a request is refused, and what is said of it: RFC 6749 §5.2 and the words of particular issuers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Refused(Exception):
    """`reason` is a key of `REFUSALS`; `detail` says what was wrong, for whoever reads a failed test."""

    def __init__(self, reason: str, detail: str = "", **headers: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


@dataclass(frozen=True)
class Words:
    """What an issuer answers: a JSON error, Entra's `codes` with it, or `text` (which may be empty) instead."""

    status: int
    error: str = ""
    description: str = ""
    codes: tuple[int, ...] = ()
    text: str | None = None
    body: Mapping[str, object] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


INVALID_CLIENT = Words(401, "invalid_client", "client authentication failed")

REFUSALS: Mapping[str, Words] = {
    "wrong_secret": INVALID_CLIENT,
    "expired_secret": INVALID_CLIENT,
    "unknown_client": INVALID_CLIENT,
    "disabled_client": INVALID_CLIENT,
    "wrong_method": INVALID_CLIENT,
    "bad_assertion": INVALID_CLIENT,
    "bad_certificate": INVALID_CLIENT,
    "no_authentication": INVALID_CLIENT,
    "malformed_basic": Words(400, "invalid_request", "client credentials are not properly encoded"),
    "malformed": Words(400, "invalid_request"),
    "bad_token": Words(400, "invalid_request"),
    "missing_scope": Words(400, "invalid_scope", "scope is required"),
    "bad_scope": Words(400, "invalid_scope"),
    "bad_target": Words(400, "invalid_target"),
    "bad_organization": Words(400, "invalid_request"),
    "unsupported_grant": Words(400, "unsupported_grant_type"),
    "forbidden_grant": Words(400, "unauthorized_client"),
    "bad_grant": Words(400, "invalid_grant"),
    "bad_proof": Words(400, "invalid_dpop_proof"),
    "missing_proof": Words(400, "invalid_dpop_proof", "this client's tokens are bound to a key"),
    "nonce": Words(400, "use_dpop_nonce", "authorization server requires nonce in DPoP proof"),
    "unsupported_token": Words(400, "unsupported_token_type"),
    "introspection_unauthorized": INVALID_CLIENT,
    "introspection_forbidden": Words(403, "access_denied", "this client may not introspect"),
    "throttled": Words(429, "slow_down", "too many requests"),
}

OKTA: Mapping[str, Words] = {
    "wrong_secret": Words(401, "invalid_client", "The client secret supplied for a confidential client is invalid."),
    "missing_scope": Words(
        400,
        "invalid_scope",
        "The authorization server resource does not have any configured default scopes, 'scope' must be provided.",
    ),
    "bad_scope": Words(400, "invalid_scope", "One or more scopes are not configured for the authorization server."),
    "throttled": Words(
        429,
        body={
            "errorCode": "E0000047",
            "errorSummary": "API call exceeded rate limit due to too many requests.",
            "errorLink": "E0000047",
            "errorId": "oaeStandIn",
            "errorCauses": [],
        },
    ),
}

_AUTH0 = Words(401, "access_denied", "Unauthorized")
AUTH0: Mapping[str, Words] = {
    "wrong_secret": _AUTH0,
    "expired_secret": _AUTH0,
    "unknown_client": _AUTH0,
    "bad_target": Words(403, "access_denied", "Client is not authorized to access this API"),
    "bad_organization": Words(403, "access_denied", "client is not allowed in this organization"),
    "throttled": Words(429, "too_many_requests", "Client Credentials quota reached"),
}

_AADSTS = {
    "wrong_secret": ("invalid_client", 7000215, "Invalid client secret provided."),
    "expired_secret": ("invalid_client", 7000222, "The provided client secret keys are expired."),
    "unknown_client": ("unauthorized_client", 700016, "Application was not found in the directory."),
    "bad_assertion": ("invalid_client", 700027, "The certificate with identifier used to sign is not registered."),
    "no_authentication": ("invalid_client", 7000218, "The body must contain client_assertion or client_secret."),
    "missing_scope": ("invalid_request", 900144, "The request body must contain the parameter: 'scope'."),
    "bad_scope": ("invalid_scope", 1002012, "The provided value for scope is not valid: <resource>/.default."),
    "bad_target": ("invalid_resource", 500011, "The resource principal was not found in the tenant."),
    "unsupported_grant": ("unsupported_grant_type", 70003, "The app requested an unsupported grant type."),
}
ENTRA: Mapping[str, Words] = {
    **{reason: Words(400, error, f"AADSTS{code}: {text}", (code,)) for reason, (error, code, text) in _AADSTS.items()},
    "throttled": Words(429, text="Too Many Requests", headers={"Retry-After": "60"}),
}

_KEYCLOAK = Words(401, "unauthorized_client", "Invalid client or Invalid client credentials")
KEYCLOAK: Mapping[str, Words] = {
    "wrong_secret": _KEYCLOAK,
    "expired_secret": _KEYCLOAK,
    "bad_assertion": _KEYCLOAK,
    "unknown_client": Words(401, "invalid_client", "Invalid client or Invalid client credentials"),
}

COGNITO: Mapping[str, Words] = {
    "wrong_secret": Words(400, "invalid_client"),
    "unknown_client": Words(400, "invalid_client"),
}

_EMPTY = Words(403, text="")
GLEWLWYD: Mapping[str, Words] = dict.fromkeys(
    ("wrong_secret", "expired_secret", "unknown_client", "disabled_client", "missing_scope"), _EMPTY
)

_TOO_EARLY = "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe."
GOOGLE: Mapping[str, Words] = {
    "unknown_client": Words(400, "invalid_grant", "Invalid grant: account not found"),
    "disabled_client": Words(400, "invalid_grant", "Invalid grant: account not found"),
    "bad_grant": Words(400, "invalid_grant", _TOO_EARLY),
    "missing_scope": Words(400, "invalid_scope", "Invalid OAuth scope or ID token audience provided."),
    "bad_scope": Words(400, "invalid_scope", "Invalid OAuth scope or ID token audience provided."),
}
