"""How a client proves itself."""

from __future__ import annotations

import base64
from functools import cache
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tokenbroker.config import IssuerConfig
from tokenbroker.errors import IssuerMisconfigured
from tokenbroker.issuers.authentication import Occasion, Proof, authenticate
from tokenbroker.model import Credentials, Secret
from tokenbroker.scrub import scrub

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

SECRET = "p@ss+wo%rd/&= xü"  # every character that issuers decode differently
FORM = "p%40ss%2Bwo%25rd%2F%26%3D+x%C3%BC"
NOW = 1_800_000_000.9


@cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def pem(key: PrivateKeyTypes) -> Secret:
    return Secret(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


def prove(
    auth: str, *, client_id: str = "client", jti: str = "j1", issuer: dict[str, Any] | None = None, **more: Any
) -> Proof:
    occasion = Occasion(
        config=IssuerConfig("main", **(issuer or {})),
        issuer="https://login.example.com/",
        token_endpoint="https://login.example.com/oauth/token",
        now=NOW,
        jti=lambda: jti,
    )
    return authenticate(Credentials(client_id, auth=auth, **more), occasion)


def basic(proof: Proof) -> str:
    scheme, _, value = proof.headers["Authorization"].partition(" ")
    assert scheme == "Basic"
    return base64.b64decode(value, validate=True).decode()


def test_post_puts_both_into_the_form() -> None:
    proof = prove("client_secret_post", client_secret=Secret(SECRET))
    assert proof.form == (("client_id", "client"), ("client_secret", SECRET))
    assert proof.headers == {}


def test_basic_encodes_before_base64() -> None:
    """RFC 6749 §2.3.1: id and secret are form-encoded, in UTF-8, and the colon between them is not."""
    proof = prove("client_secret_basic", client_id="c:1", client_secret=Secret(SECRET))
    assert basic(proof) == f"c%3A1:{FORM}"
    assert proof.form == ()
    assert proof.other_encoding == "raw"


def test_raw_basic_is_utf8_as_it_stands() -> None:
    proof = prove("client_secret_basic", client_secret=Secret(SECRET), basic_encoding="raw")
    assert basic(proof) == f"client:{SECRET}"
    assert proof.other_encoding == "rfc6749"


def test_an_encoding_that_changes_nothing_is_not_suggested() -> None:
    assert prove("client_secret_basic", client_secret=Secret("plain-secret_1")).other_encoding is None


def test_basic_with_more_than_ascii_is_known() -> None:
    """Issuers differ there, so that a refusal can name the way out."""
    assert prove("client_secret_basic", client_secret=Secret("sécret")).beyond_ascii
    assert prove("client_secret_basic", client_id="ü", client_secret=Secret("s")).beyond_ascii
    assert not prove("client_secret_basic", client_secret=Secret("s%+")).beyond_ascii


def test_raw_basic_cannot_carry_a_colon_in_the_id() -> None:
    with pytest.raises(IssuerMisconfigured, match="colon"):
        prove("client_secret_basic", client_id="a:b", client_secret=Secret("s"), basic_encoding="raw")


@pytest.mark.parametrize("auth", ["client_secret_post", "client_secret_basic"])
def test_whatever_carries_the_secret_is_known_as_secret(auth: str) -> None:
    """An echo of the secret, as it is or as it was sent, is not shown."""
    proof = prove(auth, client_secret=Secret(SECRET))
    sent = [value.removeprefix("Basic ") for value in proof.headers.values()]
    assert {scrub(echo, proof.secrets) for echo in (SECRET, FORM, *sent)} == {"…"}
    assert SECRET not in repr(proof)


@pytest.mark.parametrize(
    ("key", "issuer", "algorithm"),
    [
        pytest.param(rsa_key, {}, "RS256", id="RSA signs RS256"),
        pytest.param(rsa_key, {"assertion_alg": "PS256"}, "PS256", id="or PS256 where asked"),
        pytest.param(ec_key, {}, "ES256", id="P-256 signs ES256"),
    ],
)
def test_assertion(key: Any, issuer: dict[str, Any], algorithm: str) -> None:
    """The assertion verifies with the public key, lives 60 s from 10 s ago, and names key, client and audience."""
    proof = prove("private_key_jwt", private_key=pem(key()), key_id="k1", issuer=issuer)
    form = dict(proof.form)
    assert form["client_id"] == "client"
    assert form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    signed = form["client_assertion"]
    assert jwt.get_unverified_header(signed) == {"alg": algorithm, "typ": "JWT", "kid": "k1"}
    claims = jwt.decode(
        signed, key().public_key(), [algorithm], options={"verify_exp": False, "verify_iat": False, "verify_aud": False}
    )
    assert claims == {
        "iss": "client",
        "sub": "client",
        "aud": "https://login.example.com/",
        "jti": "j1",
        "iat": 1_799_999_990,
        "exp": 1_800_000_050,
    }


@pytest.mark.parametrize(
    ("configured", "audience"),
    [
        ("issuer", "https://login.example.com/"),
        ("token_endpoint", "https://login.example.com/oauth/token"),
        ("https://other.example", "https://other.example"),
    ],
)
def test_assertion_audience(configured: str, audience: str) -> None:
    """Issuers want different audiences; a value that is none of the words is taken as it is."""
    proof = prove("private_key_jwt", private_key=pem(ec_key()), issuer={"assertion_audience": configured})
    signed = dict(proof.form)["client_assertion"]
    assert jwt.decode(signed, options={"verify_signature": False})["aud"] == audience


def test_key_id_goes_under_the_configured_header() -> None:
    proof = prove("private_key_jwt", private_key=pem(ec_key()), key_id="th", issuer={"assertion_header": "x5t#S256"})
    header = jwt.get_unverified_header(dict(proof.form)["client_assertion"])
    assert (header["x5t#S256"], "kid" in header) == ("th", False)


def test_without_key_id_there_is_no_kid() -> None:
    proof = prove("private_key_jwt", private_key=pem(ec_key()))
    assert "kid" not in jwt.get_unverified_header(dict(proof.form)["client_assertion"])


@pytest.mark.parametrize(
    ("key", "issuer", "says"),
    [
        pytest.param(ec_key, {"assertion_alg": "RS256"}, "RS256 does not fit", id="RS256 with an EC key"),
        pytest.param(rsa_key, {"assertion_alg": "ES256"}, "RS256 or PS256", id="ES256 with an RSA key"),
    ],
)
def test_an_algorithm_that_does_not_fit_the_key(key: Any, issuer: dict[str, Any], says: str) -> None:
    with pytest.raises(IssuerMisconfigured, match=says):
        prove("private_key_jwt", private_key=pem(key()), issuer=issuer)


def test_the_lifetime_is_the_configured_one() -> None:
    proof = prove("private_key_jwt", private_key=pem(ec_key()), issuer={"assertion_ttl": 300.0})
    claims = jwt.decode(dict(proof.form)["client_assertion"], options={"verify_signature": False})
    assert (claims["iat"], claims["exp"]) == (1_799_999_990, 1_800_000_290)


@pytest.mark.parametrize(
    ("configured", "algorithm"), [(None, "HS256"), ("HS384", "HS384"), ("HS512", "HS512")], ids=str
)
def test_a_secret_signs(configured: str | None, algorithm: str) -> None:
    """The key is the secret's UTF-8 (OpenID Connect Core §10.1); secret and assertion are both to be hidden."""
    long = SECRET * 4
    proof = prove("client_secret_jwt", client_secret=Secret(long), issuer={"assertion_alg": configured})
    signed = dict(proof.form)["client_assertion"]
    claims = jwt.decode(
        signed, long.encode(), [algorithm], options={"verify_exp": False, "verify_iat": False, "verify_aud": False}
    )
    assert claims["sub"] == "client"
    assert "client_secret" not in dict(proof.form)
    assert {signed, long} <= {secret.reveal() for secret in proof.secrets}


@pytest.mark.parametrize(("algorithm", "least"), [("HS256", 32), ("HS384", 48), ("HS512", 64)])
def test_a_secret_too_short_for_its_hash_is_refused(algorithm: str, least: int) -> None:
    """RFC 7518 §3.2 demands as many octets as the hash has."""
    prove("client_secret_jwt", client_secret=Secret("s" * least), issuer={"assertion_alg": algorithm})
    with pytest.raises(IssuerMisconfigured, match=f"{algorithm} needs a client_secret of at least {least} bytes"):
        prove("client_secret_jwt", client_secret=Secret("s" * (least - 1)), issuer={"assertion_alg": algorithm})


def test_a_secret_cannot_sign_rs256() -> None:
    with pytest.raises(IssuerMisconfigured, match="RS256 does not fit the client's client_secret"):
        prove("client_secret_jwt", client_secret=Secret("s" * 32), issuer={"assertion_alg": "RS256"})


@pytest.mark.parametrize(
    ("grant", "form"),
    [("jwt-bearer", ()), ("github-app", ()), ("token-exchange", (("client_id", "client"),))],
)
def test_without_authentication_a_grant_that_names_the_client_says_no_more(grant: str, form: tuple[Any, ...]) -> None:
    """RFC 7521 §4.1: the assertion is about the client; any other grant needs its id (RFC 6749 §3.2.1)."""
    occasion = Occasion(IssuerConfig("main"), "https://i", "https://i/t", NOW, lambda: "j")
    proof = authenticate(Credentials("client", auth="none"), occasion, grant=grant)
    assert (proof.form, proof.headers, proof.certificate) == (form, {}, None)


@pytest.mark.parametrize(
    ("auth", "needs"),
    [
        ("client_secret_post", "client_secret"),
        ("client_secret_basic", "client_secret"),
        ("private_key_jwt", "private_key"),
        ("client_secret_jwt", "client_secret"),
        ("tls_client_auth", "certificate"),
        ("self_signed_tls_client_auth", "certificate"),
        ("kerberos", "unknown client authentication"),
    ],
)
def test_credentials_that_do_not_fit_the_method(auth: str, needs: str) -> None:
    with pytest.raises(IssuerMisconfigured, match=needs):
        prove(auth)


def test_a_secret_that_is_no_text_is_refused_without_showing_it() -> None:
    """Half a surrogate pair cannot be encoded; neither the error nor its chain holds the text."""
    with pytest.raises(IssuerMisconfigured, match="not text") as raised:
        prove("client_secret_basic", client_secret=Secret("hunter2\ud800"), basic_encoding="raw")
    assert raised.value.__context__ is None
