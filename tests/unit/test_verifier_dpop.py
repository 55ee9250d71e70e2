"""Tokens bound to a key (RFC 9449): each check of a proof has a proof that fails it alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import import_key

from tests.unit.verifier_tokens import (
    AUDIENCE,
    HOLDER,
    METADATA,
    NOW,
    b64,
    ed_key,
    good,
    jkt,
    proof,
    public,
    rsa_key,
    signed,
    verifier,
)  # fmt: skip
from tokenbroker.dev.verifier import Nonces, Proofs, Refused, Replays, Request
from tokenbroker.dev.verifier.jose import thumbprint

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenbroker.dev.verifier import Caller, Verifier

TOKEN = signed(good(cnf={"jkt": jkt(public(HOLDER))}))


def judge(**options: Any) -> Verifier:
    return verifier(proofs=Proofs(AUDIENCE, clock=lambda: NOW, **options))


async def ask(
    verifier: Verifier, *proofs: str, token: str = TOKEN, method: str = "GET", scheme: str = "DPoP"
) -> Caller:
    found = await verifier.check(Request(method, "/search", [f"{scheme} {token}"], proofs))
    assert found is not None
    return found


async def said(verifier: Verifier, *proofs: str, **options: Any) -> tuple[str | None, str]:
    with pytest.raises(Refused) as caught:
        await ask(verifier, *proofs, **options)
    assert caught.value.status == 401
    return caught.value.error, caught.value.reason


@pytest.mark.parametrize("scheme", ["DPoP", "dpop"])
async def test_a_token_with_its_proof_is_let_through(scheme: str) -> None:
    assert (await ask(judge(), proof(TOKEN), scheme=scheme)).client_id == "agent"


def without_signature(text: str) -> str:
    return text.rpartition(".")[0] + "."


OTHER = ec.generate_private_key(ec.SECP256R1())
BAD: dict[str, tuple[Callable[[], list[str]], str]] = {
    "no proof": (list, "one DPoP header is needed"),
    "two proofs": (lambda: [proof(TOKEN), proof(TOKEN, jti="p2")], "one DPoP header is needed"),
    "a proof of 8 KiB": (lambda: [proof(TOKEN, x="x" * 8192)], "one DPoP header is needed"),
    "no JWT": (lambda: ["x"], "the proof is malformed"),
    "no ASCII": (lambda: [proof(TOKEN) + "\udcff"], "the proof is malformed"),
    "another type": (lambda: [proof(TOKEN, head={"typ": "at+jwt"})], "the proof is of another type"),
    "no type": (lambda: [proof(TOKEN, head={"typ": "JWT"})], "the proof is of another type"),
    "HS256": (lambda: [proof(TOKEN, key="k" * 32, alg="HS256")], "the proof's algorithm is not accepted"),
    "no key": (lambda: [proof(TOKEN, head={"jwk": None})], "the proof has no key"),
    "a key that is a text": (lambda: [proof(TOKEN, head={"jwk": "x"})], "the proof has no key"),
    "a private key": (
        lambda: [proof(TOKEN, head={"jwk": {**public(HOLDER), "d": "AAAA"}})],
        "the proof has a private key in it",
    ),
    "a shared key": (
        lambda: [proof(TOKEN, head={"jwk": {"kty": "oct", "k": "AAAA"}})],
        "the proof has a private key in it",
    ),
    "a key of another kind than the algorithm": (
        lambda: [proof(TOKEN, key=rsa_key(), alg="RS256")],
        "the proof is malformed",
    ),
    "signed by another": (lambda: [proof(TOKEN, key=OTHER)], "the proof's signature is not valid"),
    "not signed": (lambda: [without_signature(proof(TOKEN))], "the proof's signature is not valid"),
    "no jti": (lambda: [proof(TOKEN, jti=None)], "the proof has no jti"),
    "an empty jti": (lambda: [proof(TOKEN, jti="")], "the proof has no jti"),
    "another method": (lambda: [proof(TOKEN, htm="POST")], "the proof is for another method"),
    "the method in small letters": (lambda: [proof(TOKEN, htm="get")], "the proof is for another method"),
    "no method": (lambda: [proof(TOKEN, htm=None)], "the proof is for another method"),
    "another path": (lambda: [proof(TOKEN, htu=f"{AUDIENCE}/other")], "the proof is for another URL"),
    "another host": (lambda: [proof(TOKEN, htu="https://api.example.org/search")], "the proof is for another URL"),
    "another port": (lambda: [proof(TOKEN, htu=f"{AUDIENCE}:8443/search")], "the proof is for another URL"),
    "another scheme": (lambda: [proof(TOKEN, htu="http://api.example.com/search")], "the proof is for another URL"),
    "a name before the host": (
        lambda: [proof(TOKEN, htu="https://a@api.example.com/search")],
        "the proof is for another URL",
    ),
    "a path with dots": (lambda: [proof(TOKEN, htu=f"{AUDIENCE}/x/../search")], "the proof is for another URL"),
    "no URL": (lambda: [proof(TOKEN, htu=None)], "the proof is for another URL"),
    "a URL that is a number": (lambda: [proof(TOKEN, htu=7)], "the proof is for another URL"),
    "too old": (lambda: [proof(TOKEN, iat=NOW - 61)], "the proof is not of now"),
    "of the future": (lambda: [proof(TOKEN, iat=NOW + 6)], "the proof is not of now"),
    "no iat": (lambda: [proof(TOKEN, iat=None)], "the proof is not of now"),
    "an iat that is a text": (lambda: [proof(TOKEN, iat=str(NOW))], "the proof is not of now"),
    "for another token": (lambda: [proof("x")], "the proof is for another token"),
    "for no token": (lambda: [proof(TOKEN, ath=None)], "the proof is for another token"),
}


@pytest.mark.parametrize(("make", "reason"), BAD.values(), ids=BAD.keys())
async def test_a_proof_that_fails_one_check_is_refused(make: Callable[[], list[str]], reason: str) -> None:
    assert await said(judge(), *make()) == ("invalid_dpop_proof", reason)


@pytest.mark.parametrize(
    "htu",
    [
        f"{AUDIENCE}/search?x=1#y", f"{AUDIENCE}:443/search", "HTTPS://API.example.COM/search",
    ],
)  # fmt: skip
async def test_the_url_is_compared_without_what_does_not_matter(htu: str) -> None:
    """RFC 9449 §4.3: query and fragment are ignored, scheme and host normalised."""
    assert (await ask(judge(), proof(TOKEN, htu=htu))).owner


@pytest.mark.parametrize("iat", [NOW - 60, NOW + 5])
async def test_clocks_may_differ_a_little(iat: int) -> None:
    assert (await ask(judge(), proof(TOKEN, iat=iat))).owner


async def test_a_proof_of_another_key_is_refused() -> None:
    """A thief of the token has a key, but not the one that it is bound to."""
    stolen = proof(TOKEN, key=OTHER, head={"jwk": public(OTHER)})
    assert await said(judge(), stolen) == ("invalid_token", "the token is bound to another key")


@pytest.mark.parametrize(
    ("cnf", "reason"),
    [
        (None, "the token is not bound to a key"),
        ("x", "the token is bound in a way that is not known here"),
        ({"jkt": 7}, "the token is bound in a way that is not known here"),
        ({"x5t#S256": "x"}, "the token is bound in a way that is not known here"),
        ({"jkt": jkt(public(HOLDER)), "x5t#S256": "x"}, "the token is bound in a way that is not known here"),
    ],
)
async def test_a_token_that_is_not_bound_to_a_key_is_refused(cnf: object, reason: str) -> None:
    token = signed(good(cnf=cnf))
    assert await said(judge(), proof(token), token=token) == ("invalid_token", reason)


async def test_a_bound_token_is_not_a_bearer_token_even_with_its_proof() -> None:
    assert (await said(judge(), proof(TOKEN), scheme="Bearer"))[0] == "invalid_token"
    assert (await ask(judge(), token=signed(good()), scheme="Bearer")).owner == "ada@example.com"


async def test_dpop_is_not_taken_unless_turned_on() -> None:
    assert await said(verifier(), proof(TOKEN)) == (None, "a token is needed")


async def test_a_proof_is_taken_once() -> None:
    verifier = judge()
    assert (await ask(verifier, proof(TOKEN))).owner
    assert await said(verifier, proof(TOKEN)) == ("invalid_dpop_proof", "the proof was used before")
    assert (await ask(verifier, proof(TOKEN, jti="p2"))).owner


async def test_a_proof_that_was_refused_is_not_remembered() -> None:
    verifier = judge()
    await said(verifier, proof(TOKEN, htm="POST"))
    assert (await ask(verifier, proof(TOKEN))).owner


def test_the_store_is_bounded_and_forgets_what_is_over() -> None:
    """When it is full it says so: to forget a proof that still works would let it be used again."""
    replays = Replays(2)
    assert replays.first("a", now=0, until=60)
    assert replays.first("b", now=1, until=61)
    with pytest.raises(Refused) as caught:
        replays.first("c", now=60, until=120)
    assert caught.value.status == 503
    assert not replays.first("a", now=60, until=120)
    assert replays.first("c", now=60.1, until=120)
    assert len(replays._seen) == len(replays._order) == 2


async def test_a_nonce_is_asked_for_and_given() -> None:
    verifier = judge(nonces=Nonces(lambda: "n1"))
    with pytest.raises(Refused) as caught:
        await ask(verifier, proof(TOKEN))

    headers = dict(verifier.answer(caught.value).headers)

    assert caught.value.error == "use_dpop_nonce"
    assert headers["DPoP-Nonce"] == "n1"
    assert 'DPoP error="use_dpop_nonce"' in headers["WWW-Authenticate"]
    assert (await ask(verifier, proof(TOKEN, nonce="n1"))).owner
    for wrong in ("n2", "", "\ud800", 7, ["n1"]):
        assert (await said(verifier, proof(TOKEN, nonce=wrong, jti="p2")))[0] == "use_dpop_nonce"


def test_a_nonce_is_taken_for_five_to_ten_minutes() -> None:
    names = iter("abcdef")
    nonces = Nonces(lambda: next(names))
    assert nonces.current(now=0) == "a"
    assert nonces.current(now=300) == "b"
    assert nonces.accepts("a", now=599)
    assert not nonces.accepts("a", now=600)
    assert nonces.accepts("b", now=600)
    assert not nonces.accepts("b", now=1300)
    assert not nonces.accepts("", now=1300)


async def test_without_a_token_both_schemes_are_offered() -> None:
    verifier = judge(algorithms=("ES256", "EdDSA"))
    with pytest.raises(Refused) as caught:
        await verifier.check(Request("GET", "/search"))
    shown = [value for name, value in verifier.answer(caught.value).headers if name == "WWW-Authenticate"]
    assert shown == [
        f'Bearer resource_metadata="{METADATA}"',
        f'DPoP algs="ES256 EdDSA", resource_metadata="{METADATA}"',
    ]


async def test_an_algorithm_that_is_left_out_is_not_accepted() -> None:
    assert (await said(judge(algorithms=("EdDSA",)), proof(TOKEN)))[1] == "the proof's algorithm is not accepted"


@pytest.mark.parametrize(("alg", "make"), [("RS256", rsa_key), ("PS256", rsa_key), ("EdDSA", ed_key)])
async def test_keys_of_each_kind_can_be_bound_to(alg: str, make: Callable[[], Any]) -> None:
    key = make()
    token = signed(good(cnf={"jkt": thumbprint(public(key))}))
    assert (await ask(judge(), proof(token, key=key, alg=alg, head={"jwk": public(key)}), token=token)).owner


def test_the_thumbprint_is_that_of_the_rfc() -> None:
    """RFC 8037 A.3."""
    okp = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "alg": "EdDSA"}
    assert thumbprint(okp) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


@pytest.mark.parametrize("make", [rsa_key, ed_key, lambda: HOLDER], ids=["RSA", "OKP", "EC"])
def test_the_thumbprint_is_that_of_another_library(make: Callable[[], Any]) -> None:
    jwk = public(make())
    assert thumbprint({**jwk, "kid": "x", "use": "sig"}) == import_key(jwk).thumbprint()


@pytest.mark.parametrize(
    "arguments",
    [("api.example.com",), ("ftp://api.example.com",), ("https://",), ("https://a@api.example.com",)],
)
def test_an_origin_that_is_none_is_refused(arguments: tuple[str]) -> None:
    with pytest.raises(ValueError, match="address"):
        Proofs(*arguments)


@pytest.mark.parametrize("algorithms", [(), ("HS256",), ("ES256", "none")])
def test_only_asymmetric_algorithms_can_be_offered(algorithms: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="algorithms"):
        Proofs(AUDIENCE, algorithms=algorithms)


@given(st.sampled_from(["jti", "htm", "htu", "iat", "ath", "nonce"]), st.text() | st.integers() | st.lists(st.text()))
async def test_a_proof_with_a_claim_of_any_kind_is_judged(name: str, value: object) -> None:
    try:
        await ask(judge(), proof(TOKEN, **{name: value}))  # type: ignore[arg-type]  # a claim, none of the options
    except Refused as found:
        assert found.status == 401  # noqa: PT017  # letting it through is right as well


@given(st.text(max_size=100))
async def test_a_proof_that_is_any_text_is_refused(text: str) -> None:
    assert (await said(judge(), text))[0] == "invalid_dpop_proof"
    assert (await said(judge(), f"{b64(text.encode(errors='replace'))}.e30.e30"))[0] == "invalid_dpop_proof"
