"""What came back is checked before it is served: a token for someone else, or for something else, is refused.

Pure. The payload is read unverified: the protected API verifies the signature, the broker only makes sure that the
issuer, which it reached over TLS, did what it was asked. An opaque token has no claims and is taken as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from tokenbroker.errors import TokenMismatch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenbroker.config import ClientConfig, IssuerConfig
    from tokenbroker.model import IssuerAnswer, TokenKey

SCOPE_CLAIMS = ("scope", "scp", "permissions", "roles")  # issuers differ; contracts name all four


def granted_scopes(answer: IssuerAnswer, key: TokenKey) -> tuple[str, ...]:
    """Return what was granted: what the issuer said, else what the JWT says, else what was asked (RFC 6749 §5.1)."""
    if answer.scope is not None:
        return answer.scope
    in_token = _scopes_in(answer.claims) if answer.claims is not None else None
    return key.scopes if in_token is None else in_token


def bound_to(answer: IssuerAnswer) -> Literal["dpop", "certificate"] | None:
    """Return the kind of key without which the token is of no use (RFC 7800 §3.1), as far as can be told."""
    if answer.proof_key is not None:
        return "dpop"
    confirmation = (answer.claims or {}).get("cnf")
    return "certificate" if isinstance(confirmation, dict) and "x5t#S256" in confirmation else None


def jti(answer: IssuerAnswer) -> str | None:
    """Return the issuer's own name for the token (RFC 7519 §4.1.7), fit to be written to a log."""
    name = (answer.claims or {}).get("jti")
    return _shown(name) if isinstance(name, str) else None


def check(answer: IssuerAnswer, key: TokenKey, client: ClientConfig, issuer: IssuerConfig) -> tuple[str, ...]:
    """Check audience, owner, agent type and scopes; return the granted scopes.

    Raises `TokenMismatch` naming what was asked and what came.
    """
    if answer.claims is not None:
        _check_audience(answer.claims, key)
        _check_claim(answer.claims, issuer, "owner", client.owner, client)
        _check_claim(answer.claims, issuer, "agent_type", str(client.agent_type), client)
    granted = granted_scopes(answer, key)
    missing = [scope for scope in key.scopes if scope not in granted]
    if missing and (issuer.granted_scopes == "exact" or (issuer.granted_scopes == "subset" and not granted)):
        raise TokenMismatch(
            f"issuer `{issuer.name}` did not grant scope {' '.join(missing)} to client `{client.name}`; "
            f"it granted {_shown(' '.join(granted)) or 'none'}",
            hint=f"grant it at the issuer, or remove it from [profiles.{key.profile}] scopes",
        )
    return granted


def _check_audience(claims: Mapping[str, Any], key: TokenKey) -> None:
    wanted = key.audience if key.audience is not None else key.resource
    found = claims.get("aud")
    if wanted is None or found is None:
        return
    listed = [found] if isinstance(found, str) else found
    if not isinstance(listed, list) or wanted not in listed:
        shown = ", ".join(map(_shown, listed)) if isinstance(listed, list) else "something that is no audience"
        raise TokenMismatch(
            f"the token's audience is {shown}, asked was {wanted}",
            hint=f"check audience or resource in [profiles.{key.profile}], and the API's identifier at the issuer",
        )


def _check_claim(claims: Mapping[str, Any], issuer: IssuerConfig, name: str, wanted: str, client: ClientConfig) -> None:
    """Compare one of our claims. Absent is accepted unless the configuration says where it must be."""
    claim = issuer.claims.get(name, name)
    found = claims.get(claim)
    if found is None and name not in issuer.claims:
        return
    if found != wanted:
        shown = "absent" if found is None else _shown(found)
        raise TokenMismatch(
            f"the token's claim {claim} is {shown}, client `{client.name}` has {name} {wanted}",
            hint=f"correct {name} in [clients.{client.name}], or the claim at issuer `{issuer.name}`",
        )


def _shown(value: object) -> str:
    """Show a claim's value: shortened, and unable to write control characters to a terminal or a log."""
    return "".join(c if c.isprintable() else "?" for c in str(value)[:100])


def _scopes_in(claims: Mapping[str, Any]) -> tuple[str, ...] | None:
    found: set[str] = set()
    known = False
    for name in SCOPE_CLAIMS:
        value = claims.get(name)
        if isinstance(value, str):
            value = value.split()
        if isinstance(value, list):
            known = True
            found.update(item for item in value if isinstance(item, str))
    return tuple(sorted(found)) if known else None
