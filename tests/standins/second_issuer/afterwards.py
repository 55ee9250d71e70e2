"""What happens to a token later: revocation (RFC 7009), introspection (RFC 7662), and use at a resource."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.standins.second_issuer import authentication, dpop
from tests.standins.second_issuer.refusals import Refused

if TYPE_CHECKING:
    from tests.standins.second_issuer.call import Call
    from tests.standins.second_issuer.state import Minted, State


def revoke(call: Call, state: State) -> None:
    """Revoke a token; an unknown one is no error (RFC 7009 §2.2)."""
    form = call.parameters()
    client = authentication.authenticate(call, form, state)
    minted = state.find(form.need("token"))
    if minted is None:
        return
    if minted.client_id != client.id:
        raise Refused("bad_token", "the token is another client's")
    if minted.is_jwt and not state.face.revoke_jwt:
        raise Refused("unsupported_token", "JWT access tokens are not revoked")
    minted.revoked = True


def introspect(call: Call, state: State) -> dict[str, Any]:
    """Return what is known of a token: nothing but `active: false` if it is not good (RFC 7662 §2.2)."""
    form = call.parameters()
    authentication.authenticate(call, form, state)
    if state.face.introspection in {"unauthorized", "forbidden"}:
        raise Refused(f"introspection_{state.face.introspection}")
    token = form.need("token")
    minted = state.active(token)
    if minted is None:
        return {"active": False}
    if minted.is_jwt and not state.face.introspect_jwt:
        raise Refused("unsupported_token", "JWT access tokens are not introspected")
    claims = {"client_id": minted.client_id, "token_type": _token_type(minted), **minted.claims}
    if state.face.float_exp:
        claims["exp"] = claims["exp"] + 0.945326
    return {"active": True, **claims}


def _token_type(minted: Minted) -> str:
    return "DPoP" if "jkt" in minted.claims.get("cnf", {}) else "Bearer"


class Unauthorized(Exception):
    """A resource's refusal: RFC 6750 §3, RFC 9449 §7.1."""

    def __init__(self, scheme: str, error: str | None, detail: str = "", nonce: str | None = None) -> None:
        super().__init__(detail)
        words = f'error="{error}", error_description="{detail}"' if error else 'realm="resource"'
        algs = ', algs="RS256 PS256 ES256"' if scheme == "DPoP" else ""
        self.headers = {"WWW-Authenticate": f"{scheme} {words}{algs}"}
        if nonce is not None:
            self.headers["DPoP-Nonce"] = nonce


def resource(call: Call, state: State) -> tuple[dict[str, Any], dict[str, str]]:
    """Serve a request to the protected resource; return body and headers."""
    values = call.header("authorization")
    if len(values) != 1:
        raise Unauthorized("Bearer", None)
    scheme, _, token = values[0].partition(" ")
    scheme = {"bearer": "Bearer", "dpop": "DPoP"}.get(scheme.lower(), "")
    minted = state.active(token)
    if not scheme or minted is None:
        raise Unauthorized(scheme or "Bearer", "invalid_token", "the token is unknown, expired or revoked")
    confirmation = minted.claims.get("cnf", {})
    # RFC 9449 §7.2: a bound token that comes as Bearer has lost what makes it safe.
    if ("jkt" in confirmation) != (scheme == "DPoP"):
        raise Unauthorized(scheme, "invalid_token", "the scheme does not fit the token's binding")
    if "x5t#S256" in confirmation and confirmation["x5t#S256"] != call.thumbprint:
        raise Unauthorized(scheme, "invalid_token", "the token is bound to another certificate")
    headers = _proof(call, token, confirmation["jkt"], state) if scheme == "DPoP" else {}
    return {"sub": minted.claims.get("sub"), "client_id": minted.client_id}, headers


def _proof(call: Call, token: str, jkt: str, state: State) -> dict[str, str]:
    try:
        shown = dpop.check(call, state, state.resource_nonces, token)
    except Refused as refused:
        if refused.reason == "nonce":
            detail = "resource server requires nonce in DPoP proof"
            raise Unauthorized("DPoP", "use_dpop_nonce", detail, state.resource_nonces.current) from refused
        raise Unauthorized("DPoP", "invalid_dpop_proof", refused.detail) from refused
    if shown is None:
        raise Unauthorized("DPoP", "invalid_dpop_proof", "no proof")
    if shown != jkt:
        raise Unauthorized("DPoP", "invalid_token", "the token is bound to another key")
    return state.resource_nonces.after_success()
