"""The issuer's keys: what is fetched when, and what of a key set is used."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.warnings import InsecureKeyLengthWarning

from tests.unit.verifier_tokens import KEY, KID, Documents, good, public, rsa_key, signed, verifier
from tokenbroker.dev.verifier import KeySet, KeysUnavailable, Refused, Request
from tokenbroker.dev.verifier.keys import parsed


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_callers_share_one_fetch(clock: Clock) -> None:
    documents = Documents()
    keys = KeySet(documents.fetch, clock=clock)
    assert all(await asyncio.gather(*(keys.find(KID) for _ in range(20))))
    assert documents.asked == 1


async def test_forged_names_cause_one_fetch_in_thirty_seconds(clock: Clock) -> None:
    documents = Documents()
    keys = KeySet(documents.fetch, clock=clock)
    for name in ("a", "b", "c", KID):
        await keys.find(name)
    assert documents.asked == 1
    clock.now = 30
    assert await keys.find("a") is None
    assert documents.asked == 2


async def test_a_known_key_does_not_wait_for_the_fetch_that_an_unknown_one_causes(clock: Clock) -> None:
    """Else forged names could hold up everybody for as long as the issuer takes."""
    documents, gate = Documents(), asyncio.Event()
    gate.set()

    async def fetch() -> bytes:
        await gate.wait()
        return await documents.fetch()

    keys = KeySet(fetch, clock=clock)
    await keys.find(KID)
    gate.clear()
    clock.now = 30
    held = asyncio.create_task(keys.find("forged"))
    await asyncio.sleep(0)
    assert await keys.find(KID)
    assert not held.done()
    gate.set()
    assert await held is None


async def test_without_any_key_nothing_can_be_said(clock: Clock) -> None:
    """503, not 401; and the issuer is asked once in five seconds, however many wait."""
    documents = Documents(down=True)
    keys = KeySet(documents.fetch, clock=clock)
    for _ in range(3):
        with pytest.raises(KeysUnavailable):
            await keys.find(KID)
    assert documents.asked == 1
    documents.down, clock.now = False, 5
    assert await keys.find(KID)
    with pytest.raises(Refused) as caught:
        await verifier(Documents(down=True)).check(Request("GET", "/search", [f"Bearer {signed(good())}"]))
    assert caught.value.status == 503


async def test_a_503_has_no_challenge() -> None:
    judge = verifier(Documents(down=True))
    with pytest.raises(Refused) as caught:
        await judge.check(Request("GET", "/search", [f"Bearer {signed(good())}"]))
    headers = dict(judge.answer(caught.value).headers)
    assert headers["Retry-After"] == "5"
    assert "WWW-Authenticate" not in headers


async def test_known_keys_outlive_an_issuer_that_is_down_and_unknown_ones_are_not_judged(clock: Clock) -> None:
    documents = Documents()
    keys = KeySet(documents.fetch, clock=clock)
    await keys.find(KID)
    documents.down, clock.now = True, 10_000
    assert await keys.find(KID)
    with pytest.raises(KeysUnavailable):
        await keys.find("new")


async def test_a_withdrawn_key_is_forgotten(clock: Clock) -> None:
    documents = Documents()
    keys = KeySet(documents.fetch, clock=clock)
    await keys.find(KID)
    documents.keys, clock.now = [], 300
    assert await keys.find(KID) is None


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"keys":{}}', b'{"keys":[],"keys":[]}', b"<html>", b"[" * 5000])
async def test_a_document_that_is_no_key_set_counts_as_none(clock: Clock, raw: bytes) -> None:
    keys = KeySet(Documents(raw=raw).fetch, clock=clock)
    with pytest.raises(KeysUnavailable):
        await keys.find(KID)


GOOD = {**public(KEY), "kid": KID}
P384 = public(ec.generate_private_key(ec.SECP384R1()))


@pytest.mark.parametrize(
    "jwk",
    [
        pytest.param({"kty": "oct", "k": "AAAA", "kid": KID}, id="a shared key"),
        pytest.param({**GOOD, "use": "enc"}, id="for encryption"),
        pytest.param({**GOOD, "key_ops": ["sign"]}, id="for signing alone"),
        pytest.param({**GOOD, "key_ops": 7}, id="operations that are none"),
        pytest.param({**GOOD, "alg": "HS256"}, id="with an algorithm of another family"),
        pytest.param({**GOOD, "d": "AAAA"}, id="a private key"),
        pytest.param({**GOOD, "x": "AAAA"}, id="a point off the curve"),
        pytest.param({**GOOD, "x": 7}, id="a number for a coordinate"),
        pytest.param({**GOOD, "kty": ["EC"]}, id="a list for a type"),
        pytest.param({**GOOD, "crv": ["P-256"]}, id="a list for a curve"),
        pytest.param({**P384, "kid": KID}, id="another curve"),
        pytest.param(public(KEY), id="without a name"),
        pytest.param({**GOOD, "kid": 7}, id="with a number for a name"),
        pytest.param("key", id="no object"),
    ],
)
def test_a_key_that_cannot_be_used_is_left_out(jwk: Any) -> None:
    """And takes no other with it."""
    other = {**GOOD, "kid": "other"}
    assert parsed(_document(jwk, other)).keys() == {"other"}


def _document(*keys: Any) -> bytes:
    return json.dumps({"keys": keys}).encode()


async def test_a_short_rsa_key_signs_nothing() -> None:
    key = rsa_key(1024)
    judge = verifier(Documents([{**public(key), "kid": KID}]))
    with pytest.warns(InsecureKeyLengthWarning):
        token = signed(good(), key=key, alg="RS256")
    with pytest.raises(Refused) as caught:
        await judge.check(Request("GET", "/search", [f"Bearer {token}"]))
    assert caught.value.reason == "the signature is not valid"
