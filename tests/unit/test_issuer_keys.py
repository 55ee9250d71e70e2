"""What a vault may hold as a client's key, and what becomes of it."""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
from functools import cache
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tests.standins.private_ca import PrivateCa
from tokenbroker.config import IssuerConfig
from tokenbroker.errors import IssuerMisconfigured
from tokenbroker.issuers.assertions import assertion
from tokenbroker.issuers.authentication import Occasion
from tokenbroker.issuers.certificate import client_certificate
from tokenbroker.issuers.keys import SigningKey, signing_key
from tokenbroker.model import Credentials, Secret

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = 1_800_000_000.9


@cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


@cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def pem(key: Any, shape: PrivateFormat = PrivateFormat.PKCS8, password: bytes | None = None) -> str:
    hidden = BestAvailableEncryption(password) if password else NoEncryption()
    text: str = key.private_bytes(Encoding.PEM, shape, hidden).decode()
    return text


def jwk(key: Any, algorithm: str, **more: str) -> dict[str, Any]:
    made: dict[str, Any] = jwt.get_algorithm_by_name(algorithm).to_jwk(key, as_dict=True)
    return {**made, **more}


def google(**changed: str) -> str:
    file = {
        "type": "service_account",
        "private_key_id": "g1",
        "private_key": pem(rsa_key()),
        "client_email": "client",
        "client_id": "1234",
        "token_uri": "https://oauth2.googleapis.com/token",
    }
    return json.dumps(file | changed)


def zitadel(kind: str = "serviceaccount", member: str = "userId", client: str = "client") -> str:
    return json.dumps(
        {"type": kind, "keyId": "z1", "key": pem(rsa_key(), PrivateFormat.TraditionalOpenSSL), member: client}
    )


def key_of(text: str, *, certificate: str | None = None, key_id: str | None = None, **config: Any) -> SigningKey:
    credentials = Credentials(
        "client",
        auth="private_key_jwt",
        private_key=Secret(text),
        key_id=key_id,
        certificate=Secret(certificate) if certificate else None,
    )
    return signing_key(credentials, IssuerConfig("main", **config))


def signs(key: SigningKey, public: Any) -> dict[str, Any]:
    """Sign with the key and verify with `public`; return the header."""
    occasion = Occasion(IssuerConfig("main"), "https://i", "https://i/token", NOW, lambda: "j")
    signed = assertion(key, claims={"iss": "me"}, occasion=occasion).reveal()
    jwt.decode(signed, public, [key.algorithms[0]], options={"verify_exp": False, "verify_iat": False})
    return jwt.get_unverified_header(signed)


TRADITIONAL = PrivateFormat.TraditionalOpenSSL


@pytest.mark.parametrize(
    ("text", "public", "key_id"),
    [
        pytest.param(lambda: pem(rsa_key()), rsa_key, None, id="PKCS 8 of RSA"),
        pytest.param(lambda: pem(rsa_key(), TRADITIONAL), rsa_key, None, id="PKCS 1"),
        pytest.param(lambda: pem(ec_key()), ec_key, None, id="PKCS 8 of P-256"),
        pytest.param(lambda: pem(ec_key(), TRADITIONAL), ec_key, None, id="SEC 1"),
        pytest.param(lambda: f"\n  {pem(ec_key())}\t\n\n".replace("\n", "\r\n"), ec_key, None, id="CRLF and blanks"),
        pytest.param(lambda: pem(rsa_key()).strip().replace("\n", " "), rsa_key, None, id="line ends became blanks"),
        pytest.param(lambda: pem(rsa_key()).replace("\n", "\\n"), rsa_key, None, id="line ends became escapes"),
        pytest.param(
            lambda: f"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n{pem(ec_key())}",
            ec_key,
            None,
            id="with the curve's parameters, as openssl ecparam writes",
        ),
        pytest.param(lambda: json.dumps(jwk(rsa_key(), "RS256", kid="w1")), rsa_key, "w1", id="JWK of RSA"),
        pytest.param(lambda: json.dumps(jwk(ec_key(), "ES256", kid="w2")), ec_key, "w2", id="JWK of P-256"),
        pytest.param(google, rsa_key, "g1", id="Google's key file"),
        pytest.param(zitadel, rsa_key, "z1", id="Zitadel's key file"),
        pytest.param(lambda: zitadel("application", "clientId"), rsa_key, "z1", id="Zitadel's for an application"),
    ],
)
def test_whatever_holds_a_key_signs(text: Callable[[], str], public: Callable[[], Any], key_id: str | None) -> None:
    """The signature verifies, and the file's own key id is named where it has one."""
    assert signs(key_of(text()), public().public_key()).get("kid") == key_id


def test_the_configured_key_id_wins() -> None:
    assert key_of(google(), key_id="mine").header == {"kid": "mine"}


def test_a_jwk_says_what_it_signs() -> None:
    """RFC 7517 §4.4: a key made for PS256 signs that unless the configuration wants another."""
    assert key_of(json.dumps(jwk(rsa_key(), "RS256", alg="PS256"))).algorithms == ("PS256", "RS256")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(lambda: google(client_email="bot@example.com"), id="Google"),
        pytest.param(lambda: zitadel(client="bot@example.com"), id="Zitadel"),
    ],
)
def test_a_key_file_of_another_client_is_refused_with_both_names(text: Callable[[], str]) -> None:
    with pytest.raises(IssuerMisconfigured, match=r"'bot@example\.com'.*'client'"):
        key_of(text())


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> PrivateCa:
    return PrivateCa(tmp_path_factory.mktemp("ca"))


@pytest.mark.parametrize("beside", [False, True], ids=["in its own field", "beside the key"])
@pytest.mark.parametrize(("header", "digest"), [("x5t", hashlib.sha1), ("x5t#S256", hashlib.sha256)])
def test_the_thumbprint_comes_from_the_certificate(ca: PrivateCa, header: str, digest: Any, *, beside: bool) -> None:
    """RFC 7515 §4.1.7 and §4.1.8."""
    certificate, private = ca.pair("agent", key=rsa_key())
    key = key_of(
        certificate + private if beside else private,
        certificate=None if beside else certificate,
        assertion_header=header,
    )
    hashed = digest(ssl.PEM_cert_to_DER_cert(certificate)).digest()
    assert signs(key, rsa_key().public_key())[header] == base64.urlsafe_b64encode(hashed).rstrip(b"=").decode()


def test_a_configured_thumbprint_wins(ca: PrivateCa) -> None:
    certificate, private = ca.pair("agent")
    assert key_of(private, certificate=certificate, key_id="t", assertion_header="x5t").header == {"x5t": "t"}


def test_a_thumbprint_of_another_keys_certificate_is_refused(ca: PrivateCa) -> None:
    with pytest.raises(IssuerMisconfigured, match="private_key does not belong to the client's certificate"):
        key_of(ca.pair("a")[1], certificate=ca.pair("b")[0], assertion_header="x5t")


def public_pem(key: Any) -> str:
    text: str = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return text


def other_factor() -> str:
    broken = jwk(rsa_key(), "RS256")
    return json.dumps(broken | {"qi": broken["dp"]})


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        pytest.param(lambda: "hunter2", "is neither PEM nor JSON", "vault", id="a password"),
        pytest.param(lambda: pem(ec_key(), password=b"pw"), "encrypted", "openssl pkey -in", id="encrypted"),
        pytest.param(
            lambda: pem(rsa_key(), TRADITIONAL, b"pw"), "encrypted", "openssl pkey -in", id="encrypted, the old way"
        ),
        pytest.param(lambda: public_pem(ec_key()), "is a public key", "private key", id="a public key"),
        pytest.param(
            lambda: pem(ec_key()) + pem(rsa_key()), "more than one private key", "leave the one", id="two keys"
        ),
        pytest.param(lambda: pem(ec.generate_private_key(ec.SECP384R1())), "secp384r1", "P-256", id="P-384"),
        pytest.param(lambda: pem(rsa_key(1024)), "1024 bits, and 2048", "rsa_keygen_bits:2048", id="short RSA"),
        pytest.param(lambda: pem(ed25519.Ed25519PrivateKey.generate()), "Ed25519", "genpkey", id="Ed25519"),
        pytest.param(
            lambda: pem(ec_key(), PrivateFormat.OpenSSH), "format of OpenSSH", "ssh-keygen -p -m PKCS8", id="OpenSSH"
        ),
        pytest.param(lambda: pem(ec_key()).replace("MIG", "M!G", 1), "damaged PEM", "vault", id="no base64"),
        pytest.param(lambda: pem(ec_key()).replace("MIG", "AAA", 1), "is damaged", "openssl pkey", id="no key inside"),
        pytest.param(lambda: "{", "cannot be read", "vault", id="half a JSON"),
        pytest.param(lambda: '{"hunter2": 1}', "neither a JWK nor", "vault", id="other JSON"),
        pytest.param(lambda: '{"kty":"oct","k":"aHVudGVyMg"}', "symmetric", "client_secret_jwt", id="a symmetric JWK"),
        pytest.param(lambda: '{"kty":"OKP","d":"aHVudGVyMg"}', "kty 'OKP'", "RSA or EC", id="a JWK of Ed25519"),
        pytest.param(lambda: json.dumps(jwk(ec_key().public_key(), "ES256")), "public key", "`d`", id="a public JWK"),
        pytest.param(lambda: '{"kty":"RSA","d":"aHVudGVyMg"}', "damaged JWK", "vault", id="half a JWK"),
        pytest.param(other_factor, "do not fit together", "vault", id="numbers that do not fit together"),
        pytest.param(lambda: google(private_key=""), "without private_key", "download", id="a key file with no key"),
    ],
)
def test_what_cannot_sign_says_why(text: Callable[[], str], says: str, hint: str) -> None:
    """Each in its own words, with a next step, and nothing of the content; nor in the errors behind it."""
    with pytest.raises(IssuerMisconfigured, match=says) as raised:
        key_of(text())
    assert hint in str(raised.value.hint)
    assert "hunter2" not in f"{raised.value} {raised.value.hint}"
    assert raised.value.__context__ is None


def test_a_certificate_is_no_key(ca: PrivateCa) -> None:
    with pytest.raises(IssuerMisconfigured, match="holds a certificate, and no private key"):
        key_of(ca.pair("agent")[0])


@pytest.mark.parametrize(
    ("certificate", "says"),
    [
        pytest.param(lambda ca: ca.pair("other")[0], "private_key does not belong", id="another key's"),
        pytest.param(lambda _: "hunter2", "certificate holds no certificate in PEM", id="no PEM"),
        pytest.param(lambda ca: ca.pair("a")[0].replace("MII", "!!!", 1), "certificate is damaged PEM", id="no base64"),
        pytest.param(lambda ca: ca.pair("a")[0].replace("MII", "AAA", 1), "certificate cannot be read", id="no DER"),
    ],
)
def test_what_no_handshake_can_show_says_why(ca: PrivateCa, certificate: Callable[[PrivateCa], str], says: str) -> None:
    credentials = Credentials(
        "c", auth="tls_client_auth", certificate=Secret(certificate(ca)), private_key=Secret(ca.pair("mine")[1])
    )
    occasion = Occasion(IssuerConfig("main"), "https://i", "https://i/token", NOW, lambda: "j")
    with pytest.raises(IssuerMisconfigured, match=says) as raised:
        client_certificate(credentials, occasion)
    assert "hunter2" not in str(raised.value)
