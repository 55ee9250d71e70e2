"""What a person can do about an issuer's refusal: the most likely step first, in one clause or two. Pure.

Rule of this file: an issuer's metadata and words choose among hints, and never what is sent.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenbroker.issuers.exchange import Attempt
    from tokenbroker.issuers.said import Said

# Entra gives one `error` for many causes (contract: Entra error_codes).
ENTRA_WRONG_SECRET: Final = 7000215
_ENTRA_NO_TENANT: Final = frozenset({90002, 900023})

_SCOPE_CODES: Final = frozenset({"invalid_scope", "scope_invalid"})
_TARGET_CODES: Final = frozenset({"invalid_target", "invalid_resource"})
_GRANT_HINTS: Final[Mapping[str, str]] = {
    "unauthorized_client": "allow the {grant} grant for this client at the issuer",
    "unsupported_grant_type": "allow the {grant} grant at the issuer, or correct url in [issuers.{issuer}]",
}
_PROOF_OF: Final[Mapping[str, str]] = {
    "private_key_jwt": "private_key",
    "tls_client_auth": "certificate",
    "self_signed_tls_client_auth": "certificate",
}
"""Client authentication method → the key of the client that it stands on; else `client_secret`."""
_OF_METHOD: Final = re.compile(r"\bauth\w*[ _]method", re.IGNORECASE)


def credential(said: Said, attempt: Attempt) -> str:
    """Say what to do about a client that is refused."""
    what = "private_key" if attempt.grant == "jwt-bearer" else _proof_of(attempt.auth)
    rotated = f"what the client's {what} refers to may have been rotated: put the new one there, then `broker unlock`"
    if ENTRA_WRONG_SECRET in said.entra:
        return (
            "the secret's value, not its id, belongs where the client's client_secret refers; if it was rotated, "
            "put the new one there, then `broker unlock`"
        )
    if attempt.grant == "jwt-bearer" and "account not found" in said.description.lower():
        return "the service account is gone, or client_id in [clients] is not its address: restore it or make another"
    if _may_be_bound(said, attempt):
        return f"{_bind(attempt)}; or {rotated}"
    return _other_method(said, attempt) or f"{rotated}; or {_other_cause(what, attempt)}"


def request(said: Said, attempt: Attempt) -> str:
    """Say what to do about a request that is refused, by a client that is not."""
    if said.entra & _ENTRA_NO_TENANT:
        return f"correct the tenant in url of [issuers.{attempt.issuer}]"
    if said.code in _TARGET_CODES | _SCOPE_CODES:
        return _asked_for(said, attempt)
    if said.code == "invalid_request" and attempt.other_encoding is not None:
        return _encoding(attempt)
    if _may_be_bound(said, attempt):
        return _bind(attempt)
    if (known := _GRANT_HINTS.get(said.code or "")) is not None:
        return known.format(issuer=attempt.issuer, grant=attempt.grant.replace("_", " "))
    where = f"find {said.id} in the issuer's log, or ask its support" if said.id else "look into the issuer's log"
    return f"{where}; then run `broker doctor`"


def access(attempt: Attempt) -> str:
    """Say what to do about a client that the issuer knows and does not let at the API."""
    if attempt.audience is None:
        return target(attempt)
    return (
        f"authorise this application for the API {attempt.audience!r} and its scopes at the issuer (at Auth0: the "
        "API's Machine to Machine Applications), or correct audience in the profile"
    )


def target(attempt: Attempt) -> str:
    """Say what to do about a target that the issuer will not have."""
    for key, value in (("audience", attempt.audience), ("resource", attempt.resource)):
        if value is not None:
            return f"check {key} = {value!r} in the profile, and that the issuer lets this client have it"
    return f"set audience or resource in the profile if {attempt.host} wants one, then run `broker doctor`"


def _asked_for(said: Said, attempt: Attempt) -> str:
    asked = " ".join(attempt.scopes) or "none"
    if said.code in _SCOPE_CODES:
        return f"grant the scopes to this client at the issuer, or correct scopes in the profile (asked: {asked})"
    if said.entra:  # it is told the target by the scope alone
        return f"correct scopes in the profile (asked: {asked}): what precedes /.default names an API of the tenant"
    return target(attempt)


def _proof_of(auth: str) -> str:
    return _PROOF_OF.get(auth, "client_secret")


def _other_method(said: Said, attempt: Attempt) -> str | None:
    """Compare the method in use with what the issuer's metadata and words say, both of which may be wrong."""
    named = attempt.auth_methods
    if attempt.auth == "none" or attempt.grant == "github-app":
        return None
    if named and attempt.auth not in named:
        fits = next((auth for auth in named if _proof_of(auth) == _proof_of(attempt.auth)), named[0])
        return f'the issuer\'s metadata names {", ".join(named)}; set auth = "{fits}" in [clients]'
    if _OF_METHOD.search(said.description):
        return f"set auth in [clients] to the method that the issuer has for this client (used: {attempt.auth})"
    return None


def _other_cause(what: str, attempt: Attempt) -> str:
    if attempt.grant == "github-app":
        return "correct client_id in [clients]"
    if what == "private_key":
        another = "" if attempt.auth == "none" else ", or set another `auth`"
        return f"correct key_id, assertion_audience or assertion_alg to what the issuer wants{another}"
    return "set another `auth`, if the issuer wants one" if attempt.other_encoding is None else _encoding(attempt)


def _encoding(attempt: Attempt) -> str:
    if attempt.beyond_ascii:  # oidc-provider takes none by Basic, in either encoding
        return (
            'set auth = "client_secret_post" in [clients]: the client\'s id or secret has characters beyond ASCII, '
            "which issuers decode differently"
        )
    return (
        f'try basic_encoding = "{attempt.other_encoding}" in [issuers.{attempt.issuer}], or another `auth`: '
        "the client's id or secret has characters that issuers decode differently"
    )


def _may_be_bound(said: Said, attempt: Attempt) -> bool:
    """Tell whether the issuer may miss a proof: oidc-provider says no more than `invalid_grant` (contract)."""
    named = "dpop" in said.description.lower()
    return not attempt.dpop and (named or (said.code == "invalid_grant" and attempt.grant == "client_credentials"))


def _bind(attempt: Attempt) -> str:
    return f"set dpop = true in [issuers.{attempt.issuer}] if the client's tokens are bound to a key (DPoP)"
