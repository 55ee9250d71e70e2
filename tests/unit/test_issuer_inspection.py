"""What is served, refused and asked for each form of token and each setting."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.fakes_clock import EPOCH, FakeClock
from tests.fakes_issuer import unsigned_jwt
from tokenbroker.config import IssuerConfig
from tokenbroker.errors import IssuerError, IssuerMisconfigured, IssuerUnavailable, TokenMismatch
from tokenbroker.issuers import inspection
from tokenbroker.issuers.discovery import Endpoints
from tokenbroker.issuers.exchange import Attempt, Reply
from tokenbroker.issuers.inspection import Inspection
from tokenbroker.issuers.response import parse
from tokenbroker.model import Checked, IssuerAnswer, Secret

TOKEN, JWKS, INTROSPECTION = (f"https://login.example/{name}" for name in ("token", "jwks", "introspect"))
KEY, OTHER = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
PUBLISHED = {**jwt.algorithms.ECAlgorithm.to_jwk(KEY.public_key(), as_dict=True), "kid": "k"}
EVERYTHING = Endpoints(TOKEN, "https://login.example", introspection=INTROSPECTION, jwks_uri=JWKS)
NOTHING = Endpoints(TOKEN, "https://login.example")
CLAIMS = {"sub": "x"}
SIGNED = jwt.encode(CLAIMS, KEY, "ES256", {"kid": "k"})
FORGED = jwt.encode(CLAIMS, OTHER, "ES256", {"kid": "k"})
UNKNOWN = jwt.encode(CLAIMS, OTHER, "ES256", {"kid": "z"})
UNNAMED = jwt.encode(CLAIMS, ec.generate_private_key(ec.SECP384R1()), "ES384")
SHARED = jwt.encode(CLAIMS, "a shared secret of an API, long enough", "HS256")
NONCE = jwt.encode(CLAIMS, OTHER, "ES256", {"kid": "k", "nonce": "n"})
CRITICAL = unsigned_jwt(CLAIMS, {"alg": "ES256", "kid": "k", "crit": ["b64"]})
NOBODY = unsigned_jwt(CLAIMS, {"alg": "None"})
CUT_OFF = SIGNED.rpartition(".")[0] + "."
ENCRYPTED = SIGNED + ".x.y"
OPAQUE = "an-opaque-token-of-some-length"


class Bench:
    """An inspection, and the issuer that it asks."""

    def __init__(self, **config: Any) -> None:
        self.clock = FakeClock()
        self.asked: list[str] = []
        self.keys: Reply | Exception = self.json({"keys": [PUBLISHED]})
        self.told: Reply | Exception | None = self.json({"active": True, "exp": EPOCH + 100.5, "sub": "x"})
        self.inspection = Inspection(IssuerConfig("main", **config), clock=self.clock, get=self._get)

    @staticmethod
    def json(body: Any, status: int = 200) -> Reply:
        return Reply(status, {}, json.dumps(body).encode())

    async def look(self, token: str, endpoints: Endpoints = EVERYTHING) -> IssuerAnswer:
        """Do as `TokenEndpoint` does."""
        attempt = Attempt("main", "login.example", self.clock.now(), secrets=(Secret("hunter2-hunter2"),))
        body = {"access_token": token, "expires_in": 3600}
        answer = parse(self.json(body), attempt, default_ttl=300, max_ttl=86400)
        if not self.inspection.wanted(answer):
            return self.inspection.unseen(answer)
        return await self.inspection.look_into(answer, endpoints, attempt, self._introspect)

    async def _get(self, url: str, _: Attempt) -> Reply:
        return await self._reply(url, self.keys)

    async def _introspect(self, url: str) -> Reply:
        return await self._reply(url, self.told)

    async def _reply(self, url: str, reply: Reply | Exception | None) -> Reply:
        self.asked.append(url)
        if reply is None:
            await asyncio.Event().wait()
        if isinstance(reply, Exception):
            raise reply
        assert reply is not None
        return reply


UNCHECKABLE = [
    pytest.param(
        SHARED, EVERYTHING, "it is signed with HS256, with a secret that its audience has", id="shared secret"
    ),
    pytest.param(NONCE, EVERYTHING, "its header has a nonce, so only its audience can check it", id="a nonce"),
    pytest.param(SIGNED, NOTHING, "the issuer names no keys", id="of an issuer that publishes no keys"),
]


async def test_a_good_signature_is_seen() -> None:
    bench = Bench()
    answer = await bench.look(SIGNED)
    assert (answer.checked, answer.claims, bench.asked) == (Checked.SIGNATURE, CLAIMS, [JWKS])
    assert answer.remarks == ()


@pytest.mark.parametrize(
    ("token", "says", "modes"),
    [
        pytest.param(FORGED, "did not sign", ("auto", "require"), id="signed by someone else"),
        pytest.param(CRITICAL, "crit", ("auto", "require"), id="with extensions that are not known"),
        pytest.param(UNKNOWN, "kid z.* no key at .*jwks can have", ("auto", "require"), id="by a key not published"),
        pytest.param(UNNAMED, "no kid.* no key at .*jwks can have", ("auto", "require"), id="by another kind of key"),
        pytest.param(NOBODY, "without a signature", ("auto", "require", "ignore"), id="by its own word unsigned"),
        pytest.param(CUT_OFF, "without a signature", ("auto", "require", "ignore"), id="with its signature cut off"),
    ],
)
async def test_a_bad_signature_is_refused(token: str, says: str, modes: tuple[str, ...]) -> None:
    for mode in modes:
        with pytest.raises(TokenMismatch, match=says) as caught:
            await Bench(signature=mode).look(token)
        assert caught.value.hint
        assert token not in f"{caught.value}{caught.value.hint}"


@pytest.mark.parametrize(("token", "endpoints", "says"), UNCHECKABLE)
async def test_a_signature_that_cannot_be_checked(token: str, endpoints: Endpoints, says: str) -> None:
    """Served by its claims alone and with the reason, unless the configuration requires a signature."""
    served = await Bench().look(token, endpoints)
    assert (served.checked, served.remarks) == (Checked.CLAIMS, (says,))
    with pytest.raises(IssuerError, match=says) as caught:
        await Bench(signature="require").look(token, endpoints)
    assert "[issuers.main]" in str(caught.value.hint)


async def test_keys_that_cannot_be_reached_are_passing_trouble_where_they_are_required() -> None:
    """Nor is another token minted at once: the error says for how long. Where they are not, a remark says why."""
    down = IssuerUnavailable("issuer `main` (login.example) cannot be reached: no route")
    auto, require = Bench(), Bench(signature="require")
    auto.keys = require.keys = down
    for token in (SIGNED, UNKNOWN):
        served = await auto.look(token)
        assert (served.checked, served.remarks) == (Checked.CLAIMS, (f"the issuer's keys cannot be had: {down}",))
    with pytest.raises(IssuerUnavailable, match="no route") as caught:
        await require.look(SIGNED)
    assert caught.value.retry_after == 30.0


async def test_a_key_that_may_have_come_since_is_passing_trouble() -> None:
    """The keys are older than the token, and were asked for too recently; after a newer look it is definite."""
    auto, require = Bench(), Bench(signature="require")
    for bench in (auto, require):
        await bench.look(SIGNED)
        await bench.clock.advance(29)
    served = await auto.look(UNKNOWN)
    assert (served.checked, len(served.remarks)) == (Checked.CLAIMS, 1)
    assert "its key (ES256, kid z) is not among those at" in served.remarks[0]
    with pytest.raises(IssuerUnavailable, match="kid z"):
        await require.look(UNKNOWN)
    for bench in (auto, require):
        assert bench.asked == [JWKS]
        await bench.clock.advance(1)
        with pytest.raises(TokenMismatch, match="kid z") as caught:
            await bench.look(UNKNOWN)
        assert bench.asked == [JWKS] * 2
        assert 'signature = "ignore" in [issuers.main] if it signs with keys that it does not' in str(caught.value.hint)


async def test_keys_from_before_a_failure_refuse_nothing() -> None:
    """What was published a while ago says nothing of a new key."""
    bench = Bench()
    await bench.look(SIGNED)
    bench.keys = Reply(503, {}, b"")
    await bench.clock.advance(31)
    served = await bench.look(UNKNOWN)
    assert (served.checked, "with 503" in served.remarks[0]) == (Checked.CLAIMS, True)


async def test_a_signature_that_is_ignored_is_said_to_be() -> None:
    served = await Bench(signature="ignore").look(UNKNOWN)
    assert (served.checked, served.remarks) == (Checked.CLAIMS, ('signature = "ignore" is set in [issuers.main]',))


async def test_a_key_id_shows_no_secret() -> None:
    """Nor anything else that an issuer repeats."""
    bench = Bench()
    await bench.look(SIGNED)
    await bench.clock.advance(1)
    served = await bench.look(jwt.encode(CLAIMS, OTHER, "ES256", {"kid": "hunter2-hunter2\x1b[1m"}))
    assert "kid …)" in served.remarks[0]


@pytest.mark.parametrize("token", [SIGNED, FORGED, SHARED, OPAQUE, ENCRYPTED])
async def test_nothing_is_asked_where_nothing_is_wanted(token: str) -> None:
    bench = Bench(signature="ignore", introspection="never")
    await bench.look(token)
    assert bench.asked == []


@pytest.mark.parametrize("token", [OPAQUE, ENCRYPTED])
async def test_an_opaque_token_is_asked_about_once(token: str) -> None:
    """What the issuer says counts like a JWT's claims, and shortens the lifetime; times may be floats."""
    bench = Bench()
    answer = await bench.look(token)
    assert (answer.checked, answer.lifetime, bench.asked) == (Checked.INTROSPECTION, 100.5, [INTROSPECTION])
    assert answer.remarks == ()
    assert answer.claims == {"exp": EPOCH + 100.5, "sub": "x"}


async def test_introspection_never_lengthens_a_life() -> None:
    bench = Bench()
    bench.told = bench.json({"active": True, "exp": EPOCH + 99999})
    assert (await bench.look(OPAQUE)).lifetime == 3600


async def test_what_repeats_the_token_is_no_claim() -> None:
    bench = Bench()
    bench.told = bench.json({"active": True, "jti": OPAQUE, "x": {"y": [f"<{OPAQUE}>"]}, "sub": "x"})
    assert (await bench.look(OPAQUE)).claims == {"sub": "x"}


async def test_a_token_that_is_not_active_is_refused_without_minting_another_at_once() -> None:
    bench = Bench()
    bench.told = bench.json({"active": False})
    with pytest.raises(IssuerUnavailable, match="not active") as caught:
        await bench.look(OPAQUE)
    assert caught.value.retry_after
    assert 'introspection = "never"' in str(caught.value.hint)


REFUSALS = [
    pytest.param(Bench.json({"error": "invalid_client"}, 401), 600, IssuerMisconfigured, id="401"),
    pytest.param(Reply(403, {}, b""), 600, IssuerMisconfigured, id="403"),
    pytest.param(Reply(404, {}, b"<html>"), 600, IssuerMisconfigured, id="404"),
    pytest.param(Bench.json({"error": "unsupported_token_type"}, 400), 600, IssuerMisconfigured, id="unsupported"),
    pytest.param(Bench.json([]), 600, IssuerMisconfigured, id="a list"),
    pytest.param(Bench.json({"active": "true"}), 600, IssuerMisconfigured, id="active is a text"),
    pytest.param(Reply(200, {}, b"", oversize=True), 600, IssuerMisconfigured, id="too much"),
    pytest.param(Reply(503, {}, b""), 30, IssuerUnavailable, id="503"),
    pytest.param(IssuerUnavailable("issuer `main` cannot be reached"), 30, IssuerUnavailable, id="unreachable"),
]


@pytest.mark.parametrize(("told", "pause", "error"), REFUSALS)
async def test_an_issuer_that_does_not_say_is_left_alone(
    told: Reply | Exception, pause: float, error: type[IssuerError]
) -> None:
    """The token is served unseen and the next ones are not asked about for a while; or refused, where required."""
    bench = Bench()
    bench.told = told
    for _ in range(3):
        served = await bench.look(OPAQUE)
        assert served.checked is Checked.NOTHING
        (remark,) = served.remarks
        assert remark.startswith("the issuer does not say what it holds: ")
        assert not isinstance(told, Reply) or told.status == 200 or f": {told.status}" in remark
    assert bench.asked == [INTROSPECTION]
    await bench.clock.advance(pause)
    await bench.look(OPAQUE)
    assert bench.asked == [INTROSPECTION] * 2
    required = Bench(introspection="require")
    required.told = told
    with pytest.raises(error) as caught:
        await required.look(OPAQUE)
    assert type(caught.value) is error
    assert caught.value.retry_after if error is IssuerUnavailable else caught.value.hint


async def test_an_issuer_without_introspection_gives_tokens_unseen_unless_it_is_required() -> None:
    assert (await Bench().look(OPAQUE, NOTHING)).checked is Checked.NOTHING
    with pytest.raises(IssuerMisconfigured, match="names no introspection endpoint"):
        await Bench(introspection="require").look(OPAQUE, NOTHING)


async def test_introspection_on_another_host_is_not_asked_and_said() -> None:
    """Tokens and secrets are sent there: that is a person's decision."""
    elsewhere = replace(NOTHING, introspection_elsewhere="https://elsewhere.example/i")
    bench = Bench()
    (remark,) = (await bench.look(OPAQUE, elsewhere)).remarks
    assert 'write introspection_endpoint = "https://elsewhere.example/i" in [issuers.main]' in remark
    assert bench.asked == []


async def test_a_token_that_the_issuer_says_is_not_valid_yet_is_refused() -> None:
    bench = Bench()
    told = {"active": True, "nbf": EPOCH + 61, "exp": EPOCH + 100}
    for headers, refused in (({}, False), ({"date": formatdate(EPOCH, usegmt=True)}, True)):
        bench.told = Reply(200, headers, json.dumps(told).encode())
        if not refused:
            assert (await bench.look(OPAQUE)).checked is Checked.INTROSPECTION
            continue
        with pytest.raises(TokenMismatch, match="not valid yet"):
            await bench.look(OPAQUE)


async def test_introspection_that_is_silent_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "WITHIN", 0.05)
    bench = Bench()
    bench.told = None
    async with asyncio.timeout(2):
        assert (await bench.look(OPAQUE)).checked is Checked.NOTHING


async def test_an_opaque_token_has_no_signature_where_one_is_required() -> None:
    with pytest.raises(TokenMismatch, match="opaque token, which has no signature"):
        await Bench(signature="require").look(OPAQUE)


async def test_required_introspection_vouches_for_a_jwt_that_its_signature_does_not() -> None:
    """Its own claims count on, because the API reads those; one that was verified needs no question."""
    bench = Bench(introspection="require")
    answer = await bench.look(SHARED)
    assert (answer.checked, answer.claims, answer.lifetime) == (Checked.INTROSPECTION, CLAIMS, 100.5)
    assert "HS256" in answer.remarks[0]
    assert (await bench.look(SIGNED)).checked is Checked.SIGNATURE
    assert bench.asked == [INTROSPECTION, JWKS]
