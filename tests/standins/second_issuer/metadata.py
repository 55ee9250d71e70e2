"""Discovery: RFC 8414, and OpenID Connect Discovery's two places."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tests.standins.second_issuer import jose

if TYPE_CHECKING:
    from tests.standins.second_issuer.state import State


def paths(state: State) -> list[str]:
    """Return the paths at which the metadata is found, of those that the face answers."""
    path = urlsplit(state.issuer).path.rstrip("/")
    places = {
        "oauth-inserted": f"/.well-known/oauth-authorization-server{path}",
        "openid-inserted": f"/.well-known/openid-configuration{path}",
        "openid-appended": f"{path}/.well-known/openid-configuration",
    }
    return [places[name] for name in state.face.well_known]


def document(state: State, endpoints: dict[str, str], alias: str | None) -> dict[str, Any]:
    """Return the metadata; `endpoints` by their metadata names, `alias` is the origin of the port for mutual TLS."""
    face = state.face
    found: dict[str, Any] = {
        "issuer": state.issuer,
        **endpoints,
        "response_types_supported": [],
        "grant_types_supported": list(face.grants),
        "token_endpoint_auth_methods_supported": list(face.methods),
    }
    signing = {"private_key_jwt": face.assertion_algs, "client_secret_jwt": tuple(sorted(jose.SYMMETRIC))}
    algs = [alg for method in face.methods for alg in signing.get(method, ())]
    if algs:  # RFC 8414 §2: required where those methods are supported
        found["token_endpoint_auth_signing_alg_values_supported"] = algs
    if face.dpop == "on":
        found["dpop_signing_alg_values_supported"] = sorted(jose.ASYMMETRIC)
    if face.mtls != "off":
        found["tls_client_certificate_bound_access_tokens"] = face.bind_certificates
    if alias is not None:
        found["mtls_endpoint_aliases"] = {
            name: alias + urlsplit(url).path for name, url in endpoints.items() if name != "jwks_uri"
        }
    return found


def jwks(state: State) -> dict[str, Any]:
    """Return the public keys, oldest first."""
    return {"keys": [key.jwk for key in state.keys]}
