"""Keys that tokens are bound to, and the proofs that are made with them."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import pickle
from itertools import count
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes_issuer import unsigned_jwt
from tokenbroker.dev.verifier import Proofs
from tokenbroker.errors import (
    IssuerError,
    IssuerMisconfigured,
    IssuerNeedsPerson,
    IssuerUnavailable,
    TokenMismatch,
    UsageError,
)
from tokenbroker.issuers.dpop import MAX_NONCE, MAX_ORIGINS, MAX_URL, DpopKey, Nonces, asks_for_nonce, target
from tokenbroker.issuers.exchange import Attempt, Reply
from tokenbroker.issuers.problems import refusal
from tokenbroker.issuers.response import confirm, parse
from tokenbroker.model import Checked, Instant, IssuerAnswer, Secret

NOW = 1_800_000_000.7
URL = "https://api.example.com/search"
TOKEN = Secret("t0ken")
ATTEMPT = Attempt("main", "login.example.com", Instant(wall=NOW, elapsed=5.0), dpop=True)
NAMES = count()
KEY = DpopKey.make(lambda: f"jti-{next(NAMES)}")


def decoded(part: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def parts(proof: str) -> tuple[Any, Any]:
    header, claims, _ = proof.split(".")
    return decoded(header), decoded(claims)


def test_a_proof_says_what_the_standard_wants() -> None:
    """RFC 9449 §4.2, each member."""
    header, claims = parts(KEY.prove("GET", f"{URL}?q=1#x", token=TOKEN, nonce="n-1", now=NOW))
    assert (header["typ"], header["alg"]) == ("dpop+jwt", "ES256")
    assert header["jwk"].keys() == {"kty", "crv", "x", "y"}
    assert claims.pop("jti").startswith("jti-")
    ath = base64.urlsafe_b64encode(hashlib.sha256(b"t0ken").digest()).rstrip(b"=").decode()
    assert claims == {"htm": "GET", "htu": URL, "iat": 1_800_000_000, "ath": ath, "nonce": "n-1"}


def test_the_proof_of_a_token_request_names_no_token() -> None:
    claims = parts(KEY.prove("POST", URL, token=None, nonce=None, now=NOW))[1]
    assert claims.keys() == {"jti", "htm", "htu", "iat"}


def test_every_proof_has_a_name_of_its_own() -> None:
    names = {parts(KEY.prove("GET", URL, token=TOKEN, nonce=None, now=NOW))[1]["jti"] for _ in range(50)}
    assert len(names) == 50


def test_others_accept_the_signature() -> None:
    """By PyJWT, and by hand, for enough signatures that some halves begin with a zero."""
    for _ in range(300):
        proof = KEY.prove("GET", URL, token=TOKEN, nonce=None, now=NOW)
        header = parts(proof)[0]
        key = jwt.PyJWK(header["jwk"], algorithm="ES256")
        jwt.decode(proof, key, algorithms=["ES256"], options={"verify_iat": False})
    signed, _, mark = proof.rpartition(".")
    raw = base64.urlsafe_b64decode(mark + "==")
    pair = utils.encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
    key.key.verify(pair, signed.encode(), ec.ECDSA(SHA256()))


def test_the_verifier_of_the_protected_side_accepts_it() -> None:
    proof = KEY.prove("GET", f"{URL}?q=1", token=TOKEN, nonce=None, now=NOW)
    api = Proofs("https://api.example.com", clock=lambda: NOW)
    api.check([proof], token="t0ken", bound={"cnf": {"jkt": KEY.thumbprint}}, method="GET", path="/search")


def test_the_thumbprint_is_that_of_the_standard() -> None:
    """RFC 7638, computed by hand for a P-256 key of RFC 7515 A.3."""
    jwk = {
        "kty": "EC",
        "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    }
    assert DpopKey(None, jwk, str).thumbprint == "oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U"


def test_the_private_key_is_in_no_text_and_in_no_copy() -> None:
    shown = f"{KEY!r} {KEY}"
    assert shown == f"<DpopKey {KEY.thumbprint}> <DpopKey {KEY.thumbprint}>"
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            attempt(KEY)


def test_two_keys_are_two() -> None:
    assert DpopKey.make(str).thumbprint != DpopKey.make(str).thumbprint


@pytest.mark.parametrize(
    ("url", "htu"),
    [
        ("https://api.example.com", "https://api.example.com/"),
        ("HTTPS://API.Example.com:443/A?b#c", "https://api.example.com/A"),
        ("http://127.0.0.1:80/x", "http://127.0.0.1/x"),
        ("http://127.0.0.1:8080/x", "http://127.0.0.1:8080/x"),
        ("https://[::1]:8443/", "https://[::1]:8443/"),
        ("https://h/a%2Fb/../c;d=1,2", "https://h/a%2Fb/../c;d=1,2"),
        ("https://h?q=/x", "https://h/"),
        ("https://h:0443/", "https://h/"),
    ],
)
def test_the_address_in_a_proof_is_normalized(url: str, htu: str) -> None:
    assert target(url) == htu


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/search",
        "//h/x",
        "ftp://h/",
        "file:///etc/passwd",
        "https:///x",
        "https://user@h/",
        "https://user:pw@h/",
        "https://h\\@evil/",
        "https://h/a b",
        "https://h/\n",
        "https://h/\r\nX: y",
        "https://h/\t",
        "https://h/\x00",
        "https://h/ü",
        "https://ü.example/",
        "https://\u212a/",
        "https://h:0/",
        "https://h:65536/",
        "https://h:x/",
        "https://h:/",
        "https://[::1/",
        "https://h/#a#b\x7f",
        'https://h/"',
        "https://h/" + "x" * MAX_URL,
    ],
)
def test_no_proof_is_made_for_what_is_no_address(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        KEY.prove("GET", url, token=TOKEN, nonce=None, now=NOW)
    assert "pw" not in f"{caught.value} {caught.value.hint}".replace("password", "")


@pytest.mark.parametrize("method", ["", "GET ", "G\nET", "GET\x00", "GÉT", "A" * 33, "GET/"])
def test_no_proof_is_made_for_what_is_no_method(method: str) -> None:
    with pytest.raises(UsageError):
        KEY.prove(method, URL, token=TOKEN, nonce=None, now=NOW)


@given(st.text(max_size=60), st.text(max_size=10))
def test_any_text_is_proved_or_refused(rest: str, method: str) -> None:
    """And an address that is taken twice is the same address."""
    try:
        claims = parts(KEY.prove(method, f"https://h{rest}", token=TOKEN, nonce=None, now=NOW))[1]
    except UsageError:
        return
    assert claims["htm"] == method
    assert target(claims["htu"]) == claims["htu"]


def reply(status: int = 400, body: Any = None, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, named, json.dumps(body if body is not None else {}).encode())


def test_a_nonce_is_remembered_for_its_origin_alone() -> None:
    nonces = Nonces()
    assert nonces.learn("https://a.example/token", reply(200, dpop_nonce="one"))
    assert nonces.of("https://A.example:443/other?x") == "one"
    assert nonces.of("https://a.example:444/token") is None
    assert nonces.learn("https://a.example/token", reply(400, dpop_nonce="two"))
    assert nonces.of("https://a.example/token") == "two"


@pytest.mark.parametrize("text", ["", "a b", 'a"b', "a\\b", "ü", "x" * (MAX_NONCE + 1), "a\nb", "one, two"])
def test_junk_is_no_nonce(text: str) -> None:
    nonces = Nonces()
    assert not nonces.learn(URL, reply(dpop_nonce=text))
    assert nonces.of(URL) is None


def test_the_memory_of_nonces_has_an_end() -> None:
    nonces = Nonces()
    for number in range(MAX_ORIGINS + 5):
        nonces.learn(f"https://h{number}/", reply(dpop_nonce="n"))
    known = [nonces.of(f"https://h{number}/") for number in range(MAX_ORIGINS + 5)]
    assert known == [None] * 5 + ["n"] * MAX_ORIGINS


@pytest.mark.parametrize(
    ("status", "body", "asks"),
    [
        (400, {"error": "use_dpop_nonce"}, True),
        (401, {"error": "use_dpop_nonce"}, True),
        (500, {"error": "use_dpop_nonce"}, False),
        (200, {"error": "use_dpop_nonce"}, False),
        (400, {"error": "invalid_dpop_proof"}, False),
        (400, ["use_dpop_nonce"], False),
    ],
)
def test_what_asks_for_a_nonce(status: int, body: Any, asks: bool) -> None:  # noqa: FBT001  # a parameter of the test
    assert asks_for_nonce(reply(status, body)) is asks


def read(body: Any, key: DpopKey | None = KEY) -> IssuerAnswer:
    answer = parse(reply(200, body), ATTEMPT, default_ttl=300.0, max_ttl=86400.0, proof_key=key)
    confirm(answer, ATTEMPT)
    return answer


@pytest.mark.parametrize("named", ["DPoP", "dpop", "DPOP"])
def test_a_bound_token_is_taken_with_its_key(named: str) -> None:
    answer = read({"access_token": "t", "token_type": named})
    assert (answer.token_type, answer.proof_key) == ("DPoP", KEY)


@pytest.mark.parametrize("body", [{"token_type": "Bearer"}, {"token_type": "mac"}, {"token_type": 7}, {}])
def test_a_downgrade_is_refused_naming_both(body: dict[str, Any]) -> None:
    with pytest.raises(TokenMismatch, match=r"of type (Bearer|mac|unknown), asked was DPoP"):
        read({"access_token": "t", **body})


def test_a_bound_token_that_nobody_asked_for_is_refused_with_the_key_to_set() -> None:
    with pytest.raises(IssuerMisconfigured, match="of type DPoP, asked was Bearer") as caught:
        read({"access_token": "t", "token_type": "DPoP"}, None)
    assert "dpop = true" in str(caught.value.hint)


def test_a_jwt_that_is_bound_to_our_key_is_taken() -> None:
    token = unsigned_jwt({"cnf": {"jkt": KEY.thumbprint}})
    assert read({"access_token": token, "token_type": "DPoP"}).claims == {"cnf": {"jkt": KEY.thumbprint}}


@pytest.mark.parametrize(
    ("claims", "shown"),
    [
        ({"cnf": {"jkt": "other"}}, "other"),
        ({"cnf": {"jkt": 7}}, "7"),
        ({"cnf": "x"}, "absent"),
        ({"sub": "x"}, "absent"),
    ],
)
def test_a_jwt_that_is_bound_to_another_key_or_none_is_refused_naming_both(claims: Any, shown: str) -> None:
    with pytest.raises(TokenMismatch) as caught:
        read({"access_token": unsigned_jwt(claims), "token_type": "DPoP"})
    assert f"cnf.jkt is {shown}, the thumbprint of our key is {KEY.thumbprint}" in caught.value.message


def test_introspection_may_leave_the_binding_out_but_not_get_it_wrong() -> None:
    def introspected(claims: dict[str, Any]) -> IssuerAnswer:
        return IssuerAnswer(TOKEN, "DPoP", 60.0, None, claims, Checked.INTROSPECTION, proof_key=KEY)

    confirm(introspected({"active": True}), ATTEMPT)
    with pytest.raises(TokenMismatch):
        confirm(introspected({"cnf": {"jkt": "other"}}), ATTEMPT)


def judged(body: Any, *, dpop: bool = True, **headers: str) -> IssuerError:
    attempt = Attempt("main", "login.example.com", Instant(wall=NOW, elapsed=5.0), dpop=dpop)
    return refusal(reply(400, body, **headers), attempt)


def test_a_nonce_that_is_refused_again_is_passing_trouble() -> None:
    assert type(judged({"error": "use_dpop_nonce"})) is IssuerUnavailable


@pytest.mark.parametrize(
    ("date", "kind", "says"),
    [
        ("Fri, 15 Jan 2027 08:00:00 GMT", IssuerMisconfigured, "invalid_dpop_proof"),
        ("Fri, 15 Jan 2027 07:59:00 GMT", IssuerNeedsPerson, "clock is 61 s ahead"),
        ("Fri, 15 Jan 2027 08:00:30 GMT", IssuerNeedsPerson, "clock is 29 s behind"),
    ],
)
def test_a_refused_proof_names_a_wrong_clock(date: str, kind: type[IssuerError], says: str) -> None:
    error = judged({"error": "invalid_dpop_proof"}, date=date)
    assert type(error) is kind
    assert says in error.message


@pytest.mark.parametrize(
    "body",
    [
        {"error": "use_dpop_nonce"},
        {"error": "invalid_dpop_proof"},
        {"error": "invalid_grant", "error_description": "DPoP proof JWT not provided"},
    ],
)
def test_an_issuer_that_wants_proofs_unasked_is_told_of_with_the_key_to_set(body: Any) -> None:
    error = judged(body, dpop=False)
    assert type(error) is IssuerMisconfigured
    assert error.hint is not None
    assert error.hint.startswith("set dpop = true")
