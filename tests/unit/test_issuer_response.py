"""What an issuer's success means."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes_issuer import unsigned_jwt
from tokenbroker.errors import BrokerError, IssuerError, IssuerMisconfigured, IssuerUnavailable, TokenMismatch
from tokenbroker.issuers.exchange import Attempt, Reply
from tokenbroker.issuers.response import MAX_TOKEN, parse
from tokenbroker.model import Checked, Instant, IssuerAnswer, Secret

NOW = Instant(wall=1_800_000_000.0, elapsed=5.0)
ATTEMPT = Attempt("main", "login.example.com", NOW, secrets=(Secret("hunter2-hunter2"),))
DEFAULT, LONGEST = 300.0, 86400.0


def read(
    body: Any, status: int = 200, headers: dict[str, str] | None = None, *, oversize: bool = False
) -> IssuerAnswer:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = Reply(status, headers or {}, content, oversize)
    return parse(reply, ATTEMPT, default_ttl=DEFAULT, max_ttl=LONGEST)


def lifetime(expires_in: bytes | None, **claims: Any) -> float:
    token = unsigned_jwt(claims) if claims else "opaque"
    member = b"" if expires_in is None else b', "expires_in": ' + expires_in
    return read(b'{"access_token": "' + token.encode() + b'"' + member + b"}").lifetime


@pytest.mark.parametrize(
    ("expires_in", "seconds"),
    [
        pytest.param(b"3599", 3599, id="a number is seconds"),
        pytest.param(b'"3600"', 3600, id="digits in a string are seconds"),
        pytest.param(b"59.5", 59.5, id="a float is seconds"),
        pytest.param(b"864000", LONGEST, id="ten days are cut to the maximum"),
        pytest.param(b"1e300", LONGEST, id="a huge float is cut to the maximum"),
        pytest.param(None, DEFAULT, id="a missing lifetime is the default"),
        pytest.param(b"null", DEFAULT, id="null is the default"),
        pytest.param(b"0", DEFAULT, id="zero does not mean for ever"),
        pytest.param(b"-5", DEFAULT, id="a negative lifetime is no lifetime"),
        pytest.param(b"0.5", DEFAULT, id="less than a second is no lifetime"),
        pytest.param(b"true", DEFAULT, id="true is not one second"),
        pytest.param(b'"abc"', DEFAULT, id="junk text is no lifetime"),
        pytest.param(b'"3600.0"', DEFAULT, id="a float in a string is no lifetime"),
        pytest.param('"٣٦٠٠"'.encode(), DEFAULT, id="digits of other scripts are no lifetime"),
        pytest.param(b"1e999", DEFAULT, id="an overflowing number is no lifetime"),
        pytest.param(b"9" * 400, DEFAULT, id="a number beyond floats is no lifetime"),
        pytest.param(b"[60]", DEFAULT, id="a list is no lifetime"),
    ],
)
def test_lifetime_of_an_opaque_token(expires_in: bytes | None, seconds: float) -> None:
    assert lifetime(expires_in) == seconds


@pytest.mark.parametrize(
    ("expires_in", "claims", "seconds"),
    [
        pytest.param(None, {"iat": 100, "exp": 700}, 600, id="without expires_in the JWT says it"),
        pytest.param(b'"soon"', {"iat": 100, "exp": 700}, 600, id="junk in expires_in gives way to the JWT"),
        pytest.param(b"3600", {"iat": 100, "exp": 700}, 600, id="the shorter wins when it is the JWT's"),
        pytest.param(b"60", {"iat": 100, "exp": 700}, 60, id="the shorter wins when it is expires_in"),
        pytest.param(None, {"exp": NOW.wall + 90.5}, 90.5, id="without iat it counts from the start of the request"),
        pytest.param(None, {"iat": 700, "exp": 100}, DEFAULT, id="a JWT that ends before it begins is no guide"),
        pytest.param(None, {"iat": 0, "exp": 10**9}, LONGEST, id="a JWT for thirty years is cut to the maximum"),
        pytest.param(None, {"sub": "x"}, DEFAULT, id="a JWT without expiry gets the default"),
        pytest.param(None, {"iat": "1", "exp": []}, DEFAULT, id="junk times are no guide"),
    ],
)
def test_lifetime_of_a_jwt_of_another_clock(expires_in: bytes | None, claims: dict[str, Any], seconds: float) -> None:
    assert lifetime(expires_in, **claims) == seconds


def date(ahead: float) -> str:
    return formatdate(NOW.wall + ahead, usegmt=True)


@pytest.mark.parametrize(
    ("age", "issuer_ahead", "seconds"),
    [
        pytest.param(0, 0, 600, id="a fresh one has all of it"),
        pytest.param(590, 0, 10, id="a cached one has what is left"),
        pytest.param(590, None, 10, id="also where the answer has no Date"),
        pytest.param(0, 3600, 600, id="an issuer whose clock is ahead of ours"),
        pytest.param(0, -3600, 600, id="an issuer whose clock is behind ours"),
        pytest.param(590, 3600, 10, id="a cached one of an issuer whose clock is ahead"),
        pytest.param(590, -3600, 10, id="a cached one of an issuer whose clock is behind"),
    ],
)
def test_a_jwt_lives_as_long_as_is_left_of_it(age: float, issuer_ahead: float | None, seconds: float) -> None:
    """The API believes `exp`, so a JWT that was minted earlier gets no new life from being handed out again."""
    minted = NOW.wall + (issuer_ahead or 0.0) - age
    body = {"access_token": unsigned_jwt({"iat": minted, "exp": minted + 600}), "expires_in": 3600}
    headers = {} if issuer_ahead is None else {"date": date(issuer_ahead)}
    assert read(body, headers=headers).lifetime == seconds


def test_a_jwt_that_has_expired_by_every_clock_is_refused() -> None:
    body = {"access_token": unsigned_jwt({"iat": NOW.wall - 700, "exp": NOW.wall - 100}), "expires_in": 3600}
    with pytest.raises(IssuerUnavailable, match="already expired"):
        read(body, headers={"date": date(0)})


@pytest.mark.parametrize("name", ["iat", "nbf"])
@pytest.mark.parametrize(
    ("begins", "issuer_ahead", "refused"),
    [
        pytest.param(60, 0, False, id="within the tolerance"),
        pytest.param(61, 0, True, id="later by every clock"),
        pytest.param(3600, 3600, False, id="by the issuer's clock it has begun: ours is slow"),
        pytest.param(3660, 3600, False, id="or is about to"),
        pytest.param(3700, 3600, True, id="later than even its clock, which is ahead"),
        pytest.param(0, -3600, False, id="by our clock it has begun: the issuer's Date is slow"),
        pytest.param(61, -3600, True, id="later than even our clock, which is ahead"),
        pytest.param(3600, None, False, id="without a Date there is our clock alone, which may be slow"),
    ],
)
def test_a_jwt_that_is_not_valid_yet_is_refused(
    name: str, begins: float, issuer_ahead: float | None, *, refused: bool
) -> None:
    """An API would refuse it without saying why (RFC 7519 §4.1.5)."""
    begin = NOW.wall + begins
    body = {"access_token": unsigned_jwt({"iat": NOW.wall - 5, name: begin, "exp": begin + 9000})}
    headers = {} if issuer_ahead is None else {"date": date(issuer_ahead)}
    if not refused:
        assert read(body, headers=headers).lifetime >= 1
        return
    with pytest.raises(TokenMismatch, match=f"its {name} is {begin:.0f}, the time there is") as caught:
        read(body, headers=headers)
    assert f"{NOW.wall + (issuer_ahead or 0):.0f}" in caught.value.message
    assert "the issuer's clock" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("scope", "granted"),
    [
        pytest.param("b a a", ("a", "b"), id="scopes are sorted and single"),
        pytest.param(" a  b ", ("a", "b"), id="extra spaces are no scopes"),
        pytest.param(["b", "a"], ("a", "b"), id="a list is understood"),
        pytest.param("", (), id="an empty string grants nothing"),
        pytest.param(None, None, id="null says nothing"),
        pytest.param(7, None, id="a number says nothing"),
        pytest.param([1], None, id="a list of numbers says nothing"),
    ],
)
def test_scope(scope: Any, granted: tuple[str, ...] | None) -> None:
    assert read({"access_token": "t", "scope": scope}).scope == granted


def test_absent_scope_is_none() -> None:
    assert read({"access_token": "t"}).scope is None


@pytest.mark.parametrize("said", ["Bearer", "bearer", "BEARER"])
def test_bearer_in_any_case(said: str) -> None:
    """The type is case-insensitive (RFC 6749 §7.1) and comes out in one spelling."""
    assert read({"access_token": "t", "token_type": said}).token_type == "Bearer"


def test_content_type_is_ignored() -> None:
    assert read({"access_token": "t"}, headers={"content-type": "text/html"}).access_token == Secret("t")


@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        pytest.param({"token_type": "Bearer"}, IssuerMisconfigured, "without an access token", id="no token"),
        pytest.param(
            {"access_token": 7}, IssuerMisconfigured, "without an access token", id="a token that is a number"
        ),
        pytest.param({"access_token": ""}, IssuerMisconfigured, "no header can carry", id="an empty token"),
        pytest.param({"access_token": "a\r\nb"}, IssuerMisconfigured, "no header can carry", id="header injection"),
        pytest.param({"access_token": "a\n"}, IssuerMisconfigured, "no header can carry", id="a final newline"),
        pytest.param({"access_token": "a b"}, IssuerMisconfigured, "no header can carry", id="a space"),
        pytest.param({"access_token": "ü"}, IssuerMisconfigured, "no header can carry", id="not ASCII"),
        pytest.param({"access_token": "x" * (MAX_TOKEN + 1)}, IssuerMisconfigured, "16384", id="too long"),
        pytest.param({"access_token": "t", "token_type": "DPoP"}, IssuerMisconfigured, "type DPoP", id="DPoP"),
        pytest.param({"access_token": "t", "token_type": None}, IssuerMisconfigured, "unknown", id="null type"),
        pytest.param({"access_token": "t", "scope": "a\u0007"}, IssuerMisconfigured, "RFC 6749", id="bell in a scope"),
        pytest.param(
            b'{"access_token": "a", "access_token": "b"}', IssuerMisconfigured, "a key is repeated", id="repeated key"
        ),
        pytest.param(b'{"access_token": "a", "expires_in": NaN}', IssuerMisconfigured, "NaN", id="NaN"),
        pytest.param(b'{"access_token": "a", "expires_in": -Infinity}', IssuerMisconfigured, "NaN", id="infinity"),
        pytest.param(b"[" * 60000, IssuerMisconfigured, "too deeply", id="deep nesting"),
        pytest.param(b"[]", IssuerMisconfigured, "no object", id="a list"),
        pytest.param(b"OK", IssuerMisconfigured, "no JSON", id="plain text"),
        pytest.param(b" <!doctype html>", IssuerMisconfigured, "web page", id="a web page"),
        pytest.param(b'{"access_token": "abc', IssuerUnavailable, "cut short", id="truncated"),
        pytest.param(b"", IssuerUnavailable, "cut short", id="nothing at all"),
        pytest.param(b'{"access_token": "\xff"}', IssuerUnavailable, "garbled", id="not UTF-8"),
        pytest.param(b'{"access_token": "\\ud800"}', IssuerUnavailable, "garbled", id="half a surrogate pair"),
    ],
)
def test_what_is_refused(body: Any, kind: type[IssuerError], says: str) -> None:
    with pytest.raises(kind, match=says) as raised:
        read(body)
    assert raised.value.message.startswith("issuer `main` (login.example.com)")


def test_the_longest_token_is_accepted() -> None:
    assert read({"access_token": "x" * MAX_TOKEN}).access_token == Secret("x" * MAX_TOKEN)


@pytest.mark.parametrize("encoding", ["gzip", "br", "GZIP", "gzip, identity"])
def test_compressed_answers_are_refused(encoding: str) -> None:
    with pytest.raises(IssuerMisconfigured, match="compressed"):
        read({"access_token": "t"}, headers={"content-encoding": encoding})


def test_oversize_answers_are_refused() -> None:
    with pytest.raises(IssuerMisconfigured, match="64 KiB"):
        read(b"", oversize=True)


def test_a_refusal_with_status_200_is_a_refusal() -> None:
    with pytest.raises(IssuerError, match="invalid_client"):
        read({"error": "invalid_client"})


def test_a_web_page_with_502_is_retryable() -> None:
    with pytest.raises(IssuerUnavailable):
        read(b"<html>bad gateway</html>", 502)


def test_claims_of_a_jwt_are_handed_on() -> None:
    claims = {"aud": "https://api", "scope": "a", "owner": "o@example.com"}
    assert read({"access_token": unsigned_jwt(claims)}).claims == claims


@pytest.mark.parametrize(
    "token",
    [
        pytest.param("opaque", id="no dots"),
        pytest.param("a.b.c", id="dots around junk"),
        pytest.param("e30.e30.x", id="a header without alg"),
        pytest.param(unsigned_jwt({}) + ".x.y", id="five parts, a JWE"),
        pytest.param("W10.e30.x", id="a header that is a list"),
        pytest.param("é.e30.x".encode().hex() + "+.e30.x", id="not base64url"),
    ],
)
def test_other_tokens_are_opaque(token: str) -> None:
    assert read({"access_token": token}).claims is None


def test_a_jwt_of_two_minds_is_refused() -> None:
    """A payload with a repeated claim cannot slip past the check of its claims by being taken as opaque."""
    head, _, tail = unsigned_jwt({}).split(".")
    payload = base64.urlsafe_b64encode(b'{"aud": "a", "aud": "b"}').decode().rstrip("=")
    with pytest.raises(IssuerMisconfigured, match="a key is repeated"):
        read({"access_token": f"{head}.{payload}.{tail}"})


def compact(header: bytes, payload: bytes, signature: str = "x") -> str:
    return ".".join([*(base64.urlsafe_b64encode(p).decode().rstrip("=") for p in (header, payload)), signature])


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b'{"aud": "\\ud800"}', id="half a surrogate pair"),
        pytest.param(b"\xff", id="not UTF-8"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b'{"exp": NaN}', id="NaN"),
        pytest.param(b"[" * 11000, id="deep nesting"),
    ],
)
def test_claims_that_cannot_be_read_are_not_passed_over(payload: bytes) -> None:
    """A JWT by its header is never taken for opaque: its claims would be served unseen."""
    with pytest.raises(IssuerMisconfigured, match="sent a JWT of ambiguous JSON"):
        read({"access_token": compact(b'{"alg": "ES256"}', payload)})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
members = st.sampled_from(
    ["access_token", "token_type", "expires_in", "scope", "error", "error_description", "error_codes"]
)
headers = st.dictionaries(
    st.sampled_from(["retry-after", "date", "content-encoding", "auth0-client-quota-limit"]), st.text(max_size=40)
)
statuses = st.sampled_from([200, 204, 301, 307, 400, 401, 403, 404, 408, 429, 500, 503]) | st.integers(100, 999)


@given(body=st.binary(max_size=200), status=statuses, received=headers)
def test_arbitrary_bytes_never_surprise(body: bytes, status: int, received: dict[str, str]) -> None:
    """Whatever comes is a whole answer or a `BrokerError`, never another exception."""
    with suppress(BrokerError):
        read(body, status, received)


@given(body=st.dictionaries(members, json_values), status=statuses, received=headers)
def test_arbitrary_members_never_surprise(body: dict[str, Any], status: int, received: dict[str, str]) -> None:
    """Well-formed answers with odd members too; and every lifetime is finite, positive and within the maximum."""
    try:
        answer = read(json.dumps(body).encode(), status, received)
    except BrokerError:
        return
    assert 1 <= answer.lifetime <= LONGEST


@given(
    # The beginning keeps it from being a word of the message: hypothesis draws texts that stand in our own code too.
    token=st.text("abcdefghijklmnopqrstuvwxyzABCDEF0123456789._-", min_size=12, max_size=60).map("T0K.".__add__),
    body=st.dictionaries(members, json_values),
    echo=st.sets(members),
    status=statuses,
)
def test_a_token_is_in_no_error(token: str, body: dict[str, Any], echo: set[str], status: int) -> None:
    """An answer that repeats the token anywhere does not get it into an error's words."""
    answer = body | dict.fromkeys(echo, token) | {"access_token": token}
    said = ""
    try:
        read(answer, status)
    except BrokerError as error:
        said = f"{error} {error!r} {error.hint}"
    assert token not in said


def _encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


@given(
    header=st.binary(max_size=40) | st.dictionaries(st.sampled_from(["alg", "kid", "x"]), json_values).map(_encoded),
    payload=st.binary(max_size=40)
    | st.dictionaries(st.sampled_from(["exp", "iat", "nbf", "aud", "scope", "cnf"]), json_values).map(_encoded),
    signature=st.text("AZaz09_-=.", max_size=6),
    received=headers,
)
def test_tokens_of_every_form_never_surprise(
    header: bytes, payload: bytes, signature: str, received: dict[str, str]
) -> None:
    """Three parts of anything are a JWT, an opaque token or an error that does not quote it, with a usable lifetime."""
    token = compact(header, payload, signature)
    said = ""
    try:
        answer = read({"access_token": token}, headers=received)
    except IssuerError as error:
        said = f"{error} {error!r} {error.hint}"
    if said:
        assert token not in said
        return
    assert 1 <= answer.lifetime <= LONGEST
    assert (answer.claims is None) == (answer.checked is Checked.NOTHING)
