"""Client authentication: RFC 6749 §2.3, RFC 7523 §2.2, OpenID Connect Core §9, RFC 8705 §2."""

from __future__ import annotations

import base64
import hmac
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from tests.standins.second_issuer import assertions, jose
from tests.standins.second_issuer.assertions import Rules
from tests.standins.second_issuer.call import form_decode
from tests.standins.second_issuer.refusals import Refused

if TYPE_CHECKING:
    from tests.standins.second_issuer.call import Call, Parameters
    from tests.standins.second_issuer.state import Client, State

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


def authenticate(call: Call, form: Parameters, state: State) -> Client:
    """Return the client that proved to be itself, by the one method that it is registered for."""
    presented = _presented(call, form)
    if len(presented) > 1:  # RFC 6749 §2.3: a client MUST NOT use more than one
        raise Refused("malformed", f"several authentication methods: {', '.join(presented)}")
    match presented:
        case ["basic"]:
            client = _basic(call, state)
        case ["post"]:
            client = state.client(form.need("client_id"))
            _method(client, state, "client_secret_post")
            check_secret(client, form.need("client_secret"), state)
        case ["assertion"]:
            client = _assertion(call, form, state)
        case _:
            client = _without_secret(call, form, state)
    if form.get("client_id") not in {None, client.id}:
        raise Refused("wrong_method", "client_id is another client")
    return client


def _presented(call: Call, form: Parameters) -> list[str]:
    ways = {
        "basic": call.one("authorization"),
        "post": form.get("client_secret"),
        "assertion": form.get("client_assertion") or form.get("client_assertion_type"),
    }
    return [way for way, value in ways.items() if value is not None]


def _method(client: Client, state: State, *methods: str) -> str:
    if client.auth not in methods or client.auth not in state.face.methods:
        raise Refused("wrong_method", f"{client.id} is registered for {client.auth}")
    return client.auth


def good_secrets(client: Client, state: State) -> list[str]:
    return client.secrets if state.face.old_secrets else client.secrets[:1]


def check_secret(client: Client, secret: str, state: State) -> None:
    """Refuse a secret that is not, or no longer, the client's."""

    def is_among(known: list[str]) -> bool:
        return any(hmac.compare_digest(one.encode(), secret.encode()) for one in known)

    if is_among(good_secrets(client, state)):
        return
    raise Refused("expired_secret" if is_among(client.expired_secrets) else "wrong_secret")


def _basic(call: Call, state: State) -> Client:
    scheme, _, credentials = (call.one("authorization") or "").partition(" ")
    if scheme.lower() != "basic":
        raise Refused("wrong_method", f"Authorization has the scheme {scheme!r}")
    client_id, secret = basic_pair(credentials.strip(), raw=state.face.basic == "raw")
    client = state.client(client_id)
    _method(client, state, "client_secret_basic")
    check_secret(client, secret, state)
    return client


def basic_pair(credentials: str, *, raw: bool) -> tuple[str, str]:
    """Return id and secret; RFC 6749 §2.3.1 has each form-urlencoded before they are joined, unless `raw`."""
    try:
        # A text without a colon cannot be unpacked into two, which is a ValueError as well.
        client_id, secret = base64.b64decode(credentials, validate=True).decode().split(":", 1)
        return (client_id, secret) if raw else (form_decode(client_id), form_decode(secret))
    except ValueError as error:
        raise Refused("malformed_basic", str(error)) from error


def _assertion(call: Call, form: Parameters, state: State) -> Client:
    token = form.need("client_assertion")
    if form.need("client_assertion_type") != ASSERTION_TYPE:
        raise Refused("malformed", "client_assertion_type is not the one of RFC 7523")
    client = state.client(assertions.claimed_client(token, "bad_assertion"))
    method = _method(client, state, "client_secret_jwt", "private_key_jwt")
    face = state.face
    shared = method == "client_secret_jwt"
    rules = Rules(
        algs=jose.SYMMETRIC if shared else face.assertion_algs,
        audiences=state.audiences(face.assertion_audiences),
        lifetime=face.assertion_lifetime,
        skew=face.skew,
        headers=face.assertion_headers,
        jti=face.assertion_jti,
    )

    def keys(jws: jose.Jws) -> list[jose.Key]:
        if shared:
            return [secret.encode() for secret in good_secrets(client, state)]
        return [assertions.key_named(jws, client, face.assertion_headers)]

    try:
        assertions.subject_is(token, client.id)
        assertions.check(token, client, rules, state, keys)
    except jose.Malformed as error:
        raise Refused("bad_assertion", str(error)) from error
    return client


def _without_secret(call: Call, form: Parameters, state: State) -> Client:
    client_id = form.get("client_id")
    if client_id is None:
        raise Refused("no_authentication", "no client_id")
    client = state.client(client_id)
    if client.auth not in {"tls_client_auth", "self_signed_tls_client_auth", "none"}:
        raise Refused("no_authentication", f"{client.id} is registered for {client.auth}")
    method = _method(client, state, client.auth)
    if method != "none":
        _certificate(call.certificate, client, method, state)
    return client


def _certificate(certificate: x509.Certificate | None, client: Client, method: str, state: State) -> None:
    if certificate is None:
        raise Refused("bad_certificate", "no client certificate")
    if method == "self_signed_tls_client_auth":
        if jose.x5t_s256(certificate) not in map(jose.x5t_s256, client.certificates):
            raise Refused("bad_certificate", "the certificate is not registered")
        return
    if not any(_issued_by(certificate, authority) for authority in state.authorities):
        raise Refused("bad_certificate", "the certificate is not of a trusted authority")
    names = [client.tls_subject is not None, client.tls_san is not None]
    if sum(names) != 1:  # RFC 8705 §2.1.2: exactly one of these parameters
        raise Refused("bad_certificate", "the client is registered for no name, or for several")
    if client.tls_subject is not None and not _same_name(client.tls_subject, certificate.subject):
        raise Refused("bad_certificate", f"subject is {certificate.subject.rfc4514_string()}")
    if client.tls_san is not None and client.tls_san not in _alternative_names(certificate):
        raise Refused("bad_certificate", f"subject alternative names: {_alternative_names(certificate)}")


def _issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _same_name(registered: str, subject: x509.Name) -> bool:
    def attributes(name: x509.Name) -> list[tuple[str, Any]]:
        return [(attribute.oid.dotted_string, attribute.value) for attribute in name]

    return attributes(x509.Name.from_rfc4514_string(registered)) == attributes(subject)


def _alternative_names(certificate: x509.Certificate) -> list[tuple[str, str]]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    kinds: list[tuple[str, Any]] = [
        ("dns", x509.DNSName),
        ("uri", x509.UniformResourceIdentifier),
        ("email", x509.RFC822Name),
        ("ip", x509.IPAddress),
    ]
    return [(kind, str(value)) for kind, general in kinds for value in names.get_values_for_type(general)]
