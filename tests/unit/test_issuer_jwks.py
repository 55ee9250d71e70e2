"""An issuer's keys, and which signatures they vouch for."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes_clock import FakeClock
from tokenbroker.config import IssuerConfig
from tokenbroker.errors import IssuerUnavailable
from tokenbroker.issuers import compact, jwks
from tokenbroker.issuers.exchange import Attempt, Reply
from tokenbroker.issuers.jwks import KeySet, Verdict

URI = "https://login.example/jwks"
RSA = rsa.generate_private_key(65537, 2048)
P256, P384, P521 = (ec.generate_private_key(curve()) for curve in (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1))
ED = ed25519.Ed25519PrivateKey.generate()
OTHER = ec.generate_private_key(ec.SECP256R1())
FORMS: dict[str, Any] = {
    "RS": jwt.algorithms.RSAAlgorithm,
    "PS": jwt.algorithms.RSAAlgorithm,
    "ES": jwt.algorithms.ECAlgorithm,
    "Ed": jwt.algorithms.OKPAlgorithm,
}


def public(key: Any, alg: str = "ES256", kid: str | None = "k", **more: Any) -> dict[str, Any]:
    form = FORMS[alg[:2]]
    return {**form.to_jwk(key.public_key(), as_dict=True), **({"kid": kid} if kid else {}), **more}


PRIVATE = jwt.algorithms.ECAlgorithm.to_jwk(P256, as_dict=True) | {"kid": "k"}


def signed(key: Any = P256, alg: str = "ES256", kid: str | None = "k", **header: Any) -> str:
    return jwt.encode({"sub": "x"}, key, alg, {**({"kid": kid} if kid else {}), **header})


class Server:
    """Where the keys are; counts questions."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.reply: Reply | Exception = Reply(200, {}, json.dumps({"keys": keys}).encode())
        self.asked = 0
        self.reached = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def get(self, url: str, attempt: Attempt) -> Reply:
        assert (url, attempt.host) == (URI, "login.example")
        self.asked += 1
        self.reached.set()
        await self.gate.wait()
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply

    def publish(self, *keys: dict[str, Any]) -> None:
        self.reply = Reply(200, {}, json.dumps({"keys": keys}).encode())


def keyset(server: Server, clock: FakeClock) -> KeySet:
    return KeySet(IssuerConfig("main"), clock=clock, get=server.get)


async def verdict(keys: KeySet, token: str) -> Verdict:
    read = compact.read(token)
    assert read is not None
    return await keys.verdict(token, read, URI)


async def judged(token: str, *published: dict[str, Any]) -> Verdict:
    return await verdict(keyset(Server(*published), FakeClock()), token)


@pytest.mark.parametrize(
    ("alg", "key"),
    [
        *((alg, RSA) for alg in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
        ("ES256", P256),
        ("ES384", P384),
        ("ES512", P521),
        ("EdDSA", ED),
    ],
)
async def test_every_asymmetric_signature_is_checked(alg: str, key: Any) -> None:
    assert await judged(signed(key, alg), public(key, alg)) is Verdict.GOOD
    tampered = signed(key, alg).rpartition(".")[0] + "." + signed(key, alg, n=1).rpartition(".")[2]
    assert await judged(tampered, public(key, alg)) is Verdict.BAD


@pytest.mark.parametrize(
    ("token", "published", "expected"),
    [
        pytest.param(signed(OTHER), [public(P256)], Verdict.BAD, id="a forged signature under a known name"),
        pytest.param(signed(kid="new"), [public(P256)], Verdict.UNKNOWN, id="a key that is not published"),
        pytest.param(signed(kid=None), [public(OTHER, kid="o"), public(P256)], Verdict.GOOD, id="no kid: any key"),
        pytest.param(signed(OTHER, kid=None), [public(P256)], Verdict.BAD, id="no kid, and no key that signed it"),
        pytest.param(signed(), [public(OTHER), public(P256)], Verdict.GOOD, id="two keys of one name"),
        pytest.param(signed(), [public(P256, use="enc")], Verdict.UNKNOWN, id="a key for encryption is none"),
        pytest.param(signed(), [public(P256, key_ops=["deriveKey"])], Verdict.UNKNOWN, id="nor one for other work"),
        pytest.param(signed(), [public(P256) | {"alg": "ES384"}], Verdict.UNKNOWN, id="nor one for another algorithm"),
        pytest.param(signed(RSA, "RS256"), [public(P256)], Verdict.UNKNOWN, id="nor one of another kind"),
        pytest.param(signed(), [PRIVATE], Verdict.UNKNOWN, id="a published private key is none"),
        pytest.param(signed(), [{"kty": "oct", "k": "AAAA", "kid": "k"}], Verdict.UNKNOWN, id="a secret is none"),
        pytest.param(signed(), ["junk", {"kty": []}, public(P256)], Verdict.GOOD, id="junk beside a key"),
        pytest.param(
            signed(OTHER, jwk=public(OTHER), jku="https://evil.example", x5u="https://evil.example"),
            [public(P256)],
            Verdict.BAD,
            id="a key that the token brings along",
        ),
        pytest.param(signed(), [public(P256, x="AA")], Verdict.UNKNOWN, id="a point that is on no curve"),
    ],
)
async def test_verdict(token: str, published: list[dict[str, Any]], expected: Verdict) -> None:
    assert await judged(token, *published) is expected


async def test_a_public_key_used_as_a_secret_signs_nothing() -> None:
    """The old trick: HS256 with the RSA key's PEM as the shared secret. No published key fits such a token."""
    pem = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"k"}').decode().rstrip("=")
    mac = base64.urlsafe_b64encode(hmac.digest(pem, f"{head}.e30".encode(), "sha256")).decode().rstrip("=")
    assert "HS256" not in jwks.ASYMMETRIC
    assert await judged(f"{head}.e30.{mac}", public(RSA, "RS256")) is Verdict.UNKNOWN


async def test_short_rsa_keys_vouch_for_nothing() -> None:
    short = rsa.generate_private_key(65537, 1024)  # noqa: S505  # what is refused here
    assert jwks.read(json.dumps({"keys": [public(short, "RS256")]}).encode()) == ()


async def test_keys_are_asked_for_once_in_five_minutes() -> None:
    server, clock = Server(public(P256)), FakeClock()
    keys = keyset(server, clock)
    for passed in (0, 299):
        await clock.advance(passed)
        assert await verdict(keys, signed()) is Verdict.GOOD
    assert server.asked == 1
    await clock.advance(1)
    await verdict(keys, signed())
    assert server.asked == 2


@pytest.mark.parametrize("kid", ["new", "k", None])
async def test_a_rotation_is_noticed_but_not_asked_for_at_every_token(kid: str | None) -> None:
    """Under a new name, under the old one, or under none: asked again, at most every 30 s."""
    server, clock = Server(public(P256)), FakeClock()
    keys = keyset(server, clock)
    assert await verdict(keys, signed()) is Verdict.GOOD
    server.publish(public(OTHER, kid=kid))
    for _ in range(3):
        assert await verdict(keys, signed(OTHER, kid=kid)) is not Verdict.GOOD
    assert server.asked == 1
    await clock.advance(30)
    assert await verdict(keys, signed(OTHER, kid=kid)) is Verdict.GOOD
    assert server.asked == 2


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(IssuerUnavailable("issuer `main` cannot be reached"), id="unreachable"),
        pytest.param(Reply(404, {}, b""), id="not there"),
        pytest.param(Reply(302, {"location": "https://evil.example"}, b""), id="a redirect"),
        pytest.param(Reply(200, {}, b"", oversize=True), id="too much"),
        pytest.param(Reply(200, {"content-encoding": "gzip"}, b"x"), id="packed"),
        pytest.param(Reply(200, {}, b"<html>"), id="a web page"),
        pytest.param(Reply(200, {}, b"{}"), id="no set"),
        pytest.param(Reply(200, {}, b'{"keys": {}}'), id="a set that is no list"),
    ],
)
async def test_keys_that_cannot_be_had_are_not_asked_for_at_every_token(reply: Reply | Exception) -> None:
    server, clock = Server(), FakeClock()
    server.reply = reply
    keys = keyset(server, clock)
    for _ in range(3):
        assert await verdict(keys, signed()) is Verdict.LATER
    assert server.asked == 1
    assert keys.failure
    assert "issuer `main`" in keys.failure
    server.publish(public(P256))
    await clock.advance(30)
    assert await verdict(keys, signed()) is Verdict.GOOD


async def test_keys_from_before_serve_while_the_issuer_does_not() -> None:
    server, clock = Server(public(P256)), FakeClock()
    keys = keyset(server, clock)
    await verdict(keys, signed())
    server.reply = Reply(503, {}, b"")
    await clock.advance(400)
    assert await verdict(keys, signed()) is Verdict.GOOD


async def test_many_callers_ask_once_and_one_that_leaves_takes_nobody_along() -> None:
    server, clock = Server(public(P256)), FakeClock()
    server.gate.clear()
    keys = keyset(server, clock)
    first, *others = [asyncio.create_task(verdict(keys, signed())) for _ in range(20)]
    await clock.advance(0)
    first.cancel()
    await asyncio.wait([first])
    server.gate.set()
    assert set(await asyncio.gather(*others)) == {Verdict.GOOD}
    assert (first.cancelled(), server.asked) == (True, 1)


async def test_silence_holds_nobody_up_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "WITHIN", 0.05)
    server = Server(public(P256))
    server.gate.clear()
    keys = keyset(server, FakeClock())
    async with asyncio.timeout(2):
        assert await verdict(keys, signed()) is Verdict.LATER
    assert "within 0.05 s" in str(keys.failure)


async def test_closing_ends_the_question() -> None:
    server = Server(public(P256))
    server.gate.clear()
    keys = keyset(server, FakeClock())
    asking = asyncio.create_task(verdict(keys, signed()))
    await server.reached.wait()
    await keys.close()
    await keys.close()
    assert await asking is Verdict.LATER


values = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.lists(st.text(max_size=3), max_size=2)
members = st.sampled_from(["kty", "crv", "x", "y", "n", "e", "d", "kid", "alg", "use", "key_ops"])
kinds = st.sampled_from(["RSA", "EC", "OKP", "P-256", "Ed25519", "AQAB", "AA"]) | values


@given(keys=st.lists(st.dictionaries(members, kinds), max_size=3))
def test_junk_in_a_set_is_passed_over(keys: list[dict[str, Any]]) -> None:
    """RFC 7517 §5: unknown and malformed keys are ignored, and nothing else is raised."""
    jwks.read(json.dumps({"keys": keys}).encode())
