"""What goes over the socket comes out as it went in, and nothing else comes out."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbroker_client import proof, wire

TOKEN = "eyJhbGciOiJub25lIn0.e30."

text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)
maybe = st.none() | text
visible = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1)
number = st.integers(0, 10**10)
known = set(wire.TokenAnswer.__dataclass_fields__)

requests = st.builds(
    wire.TokenRequest,
    profile=maybe,
    audience=maybe,
    resource=maybe,
    scopes=st.lists(visible).map(tuple),
    min_ttl=st.none() | st.integers(1, 99999).map(float),
    reason=maybe,
    agent_type=st.sampled_from([None, "autonomous", "interactive"]),
    interaction=st.sampled_from(["allow", "never"]),
)
answers = st.builds(
    wire.TokenAnswer,
    access_token=visible,
    token_type=text,
    expires_in=number,
    scope=st.text(),
    expires_at=number | st.floats(0, 10**10),
    profile=st.text(),
    agent_type=st.text(),
    owner=st.text(),
    fingerprint=st.text(),
    source=st.text(),
    session=st.text(),
    others=st.dictionaries(text.filter(lambda name: name not in known), number | text, max_size=3),
)
errors = st.builds(
    wire.ErrorAnswer,
    error=text,
    error_description=st.text(),
    code=text,
    hint=maybe,
    retryable=st.booleans(),
    retry_after=st.none() | number,
    correlation_id=maybe,
)
profiles = st.builds(
    wire.ProfileInfo,
    profile=text,
    audience=maybe,
    resource=maybe,
    scopes=st.lists(visible).map(tuple),
    agent_types=st.lists(visible).map(tuple),
    decision=text,
)


@given(requests)
def test_a_request_survives_the_wire(request: wire.TokenRequest) -> None:
    assert request == wire.decode_request(wire.encode_request(request))


@given(answers)
def test_an_answer_survives_the_wire(answer: wire.TokenAnswer) -> None:
    """Fields that this version does not know survive too."""
    assert answer == wire.decode_token(wire.encode_token(answer))


@given(errors)
def test_an_error_survives_the_wire(answer: wire.ErrorAnswer) -> None:
    assert answer == wire.decode_error(wire.encode_error(answer))


@given(st.lists(profiles, max_size=3).map(tuple))
def test_profiles_survive_the_wire(listed: tuple[wire.ProfileInfo, ...]) -> None:
    assert listed == wire.decode_profiles(wire.encode_profiles(listed))


@given(text, text)
def test_a_rejection_survives_the_wire(profile: str, fingerprint: str) -> None:
    assert (profile, fingerprint) == wire.decode_rejected(wire.encode_rejected(profile, fingerprint))


@given(
    st.builds(
        proof.ProofRequest,
        profile=text,
        fingerprint=st.text("0123456789abcdef", min_size=12, max_size=12),
        method=st.sampled_from(["GET", "POST", "M-SEARCH"]),
        url=visible,
        nonce=st.none() | st.text(st.characters(codec="ascii", min_codepoint=0x5D, max_codepoint=0x7E), min_size=1),
    )
)
def test_the_wish_for_a_proof_survives_the_wire(request: proof.ProofRequest) -> None:
    assert request == proof.decode_request(proof.encode_request(request))


PROOF = proof.ProofAnswer("aaa.bbb.ccc", fingerprint="0123456789ab", thumbprint="x" * 43)


def test_a_proof_survives_the_wire_and_is_in_no_repr() -> None:
    assert proof.decode_answer(proof.encode_answer(PROOF)) == PROOF
    assert "bbb" not in repr(PROOF)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"proof": "a.b"}, id="not three parts"),
        pytest.param({"proof": "a.b.c\r\nX: y"}, id="a line break"),
        pytest.param({"proof": "a.b.c\n"}, id="a line break at the end"),
        pytest.param({"proof": "a.b." + "c" * proof.MAX_PROOF}, id="too long"),
        pytest.param({"proof": None}, id="none"),
        pytest.param({"token_type": "Bearer"}, id="another type"),
        pytest.param({"thumbprint": "short"}, id="no thumbprint"),
        pytest.param({"fingerprint": 7}, id="no fingerprint"),
    ],
)
def test_an_answer_without_a_usable_proof_is_refused(changed: dict[str, object]) -> None:
    body = json.dumps({**json.loads(proof.encode_answer(PROOF)), **changed}).encode()
    with pytest.raises(wire.WireError) as caught:
        proof.decode_answer(body)
    assert "X: y" not in str(caught.value)


@given(st.binary())
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """No input makes a decoder raise anything but `WireError`."""
    for decode in (
        wire.decode_request,
        wire.decode_token,
        wire.decode_error,
        wire.decode_rejected,
        wire.decode_profiles,
        wire.decode_object,
        proof.decode_request,
        proof.decode_answer,
    ):
        try:
            decode(data)
        except wire.WireError:
            continue


def test_the_token_is_the_first_bytes_of_the_answer() -> None:
    """bin/broker-token finds it there without a JSON parser."""
    assert wire.encode_token(wire.TokenAnswer(TOKEN)).startswith(b'{"access_token":"' + TOKEN.encode() + b'",')


def test_a_token_is_in_no_repr() -> None:
    answer = wire.TokenAnswer(TOKEN, others={"copy": TOKEN})
    assert TOKEN not in f"{answer!r} {answer}"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{}", id="no token"),
        pytest.param(b'{"access_token":null}', id="null is not a token"),
        pytest.param(b'{"access_token":""}', id="an empty token"),
        pytest.param(b'{"access_token":7}', id="a number"),
        pytest.param(b'{"access_token":"a b"}', id="a space"),
        pytest.param(b'{"access_token":"a\\nb"}', id="a line break"),
        pytest.param(b'{"access_token":"\xc3\xa9"}', id="not ASCII"),
        pytest.param(json.dumps({"access_token": "x" * (wire.MAX_TOKEN + 1)}).encode(), id="too long"),
        pytest.param(b'{"access_token":"SECRET","expires_in":"soon"}', id="a field of the wrong type"),
        pytest.param(b'{"access_token":"SECRET"', id="cut off"),
        pytest.param(b'["SECRET"]', id="a list"),
        pytest.param(b"[" * 100000, id="nested without end"),
    ],
)
def test_an_answer_without_a_usable_token_is_refused(body: bytes) -> None:
    """The error and its causes never quote the body."""
    with pytest.raises(wire.WireError) as caught:
        wire.decode_token(body)
    assert "SECRET" not in repr(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param(b"profile=search", "usage", id="no grant type"),
        pytest.param(b"grant_type=password", "unsupported_grant_type", id="another grant type"),
        pytest.param(b"grant_type=client_credentials&scope=a&scope=b", "usage", id="a repeated parameter"),
        pytest.param(b"grant_type=client_credentials&min_ttl=-1", "usage", id="a negative time"),
        pytest.param(b"grant_type=client_credentials&min_ttl=nan", "usage", id="not a number"),
        pytest.param(b"grant_type=client_credentials&min_ttl=inf", "usage", id="for ever"),
        pytest.param(b"grant_type=client_credentials&interaction=maybe", "usage", id="an unknown interaction"),
        pytest.param(b"grant_type=client_credentials&agent_type=root", "usage", id="an unknown agent type"),
        pytest.param(b"grant_type=client_credentials&profile=%ff", "usage", id="not UTF-8 behind percent signs"),
        pytest.param(b"\xff", "usage", id="not UTF-8"),
    ],
)
def test_a_wrong_request_is_refused(body: bytes, code: str) -> None:
    with pytest.raises(wire.WireError) as caught:
        wire.decode_request(body)
    assert caught.value.code == code


def test_parameters_that_are_unknown_or_empty_are_as_if_not_there() -> None:
    """An OAuth library sends its client_id, and RFC 6749 §3.2 says what an empty value means."""
    body = b"grant_type=client_credentials&client_id=x&profile=search&scope=&new_in_2030=1"
    assert wire.decode_request(body) == wire.TokenRequest(profile="search")


def test_a_zero_validity_can_be_asked_for() -> None:
    """0 is a wish; it is not the same as saying nothing."""
    asked = wire.TokenRequest(profile="search", min_ttl=0)
    assert wire.decode_request(wire.encode_request(asked)).min_ttl == 0


def test_an_error_of_another_server_needs_only_the_word_of_the_rfc() -> None:
    answer = wire.decode_error(b'{"error":"invalid_scope"}')
    assert (answer.code, answer.error_description) == ("invalid_scope", "invalid_scope")


@pytest.mark.parametrize(
    ("code", "retryable", "status"),
    [
        pytest.param("denied", False, 4, id="a rule said no"),
        pytest.param("prompt_dismissed", False, 4, id="a person said no"),
        pytest.param("locked", False, 5, id="locked"),
        pytest.param("cooling_down", False, 5, id="nobody is asked for a while"),
        pytest.param("min_ttl_unmet", False, 6, id="too short a token"),
        pytest.param("issuer_unavailable", True, 75, id="the issuer is away"),
        pytest.param("new_in_2030", True, 75, id="an unknown code that may be retried"),
        pytest.param("new_in_2030", False, 1, id="an unknown code"),
    ],
)
def test_exit_codes(code: str, retryable: bool, status: int) -> None:  # noqa: FBT001  # a column of the table
    assert wire.exit_code(code, retryable=retryable) == status
