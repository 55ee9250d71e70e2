"""Values: a secret cannot be shown by accident, and validity is judged on two clocks."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbroker.model import Credentials, Instant, Secret, Token, Validity

TEXT = "s3cr+t%/&= ü"
SECRET = Secret(TEXT)


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(repr(SECRET), id="repr"),
        pytest.param(str(SECRET), id="str"),
        pytest.param(f"{SECRET}", id="formatting"),
        pytest.param(f"{SECRET:>40}", id="formatting with a width"),
        pytest.param("%s %r" % (SECRET, SECRET), id="percent formatting"),  # noqa: UP031  # the subject
        pytest.param(repr([SECRET, {"a": SECRET}]), id="in containers"),
        pytest.param(repr(Credentials("id", client_secret=SECRET, private_key=SECRET)), id="in credentials"),
        pytest.param(repr(Token(SECRET, Validity(Instant(0, 0), 1), ())), id="in a token"),
        pytest.param(repr(ValueError(SECRET)), id="in an exception"),
    ],
)
def test_a_secret_is_not_shown(shown: str) -> None:
    assert TEXT not in shown
    assert ascii(TEXT) not in shown


@pytest.mark.parametrize("leave", [pickle.dumps, copy.deepcopy, copy.copy, json.dumps])
def test_a_secret_does_not_leave_by_a_serializer(leave: object) -> None:
    with pytest.raises(TypeError) as caught:
        leave(SECRET)  # type: ignore[operator]  # each is a function of one value
    assert TEXT not in str(caught.value)


def test_secrets_are_compared_by_content() -> None:
    assert Secret(TEXT) == SECRET
    assert Secret("other") != SECRET
    assert SECRET != TEXT
    assert {Secret(TEXT)} == {SECRET}


def test_a_fingerprint_is_the_beginning_of_the_sha_256() -> None:
    assert Secret("abc").fingerprint() == "ba7816bf8f01"


@given(
    lifetime=st.floats(1, 1e6),
    wall=st.floats(-1e6, 1e6),
    elapsed=st.floats(0, 1e6),
)
def test_validity_believes_the_clock_that_saw_more_time_pass(lifetime: float, wall: float, elapsed: float) -> None:
    """Never more is left than either clock alone would say."""
    validity = Validity(Instant(1e9, 50.0), lifetime)
    now = Instant(1e9 + wall, 50.0 + elapsed)
    assert validity.remaining(now) <= lifetime - elapsed + 1e-6
    assert validity.remaining(now) <= lifetime - wall + 1e-6
    assert validity.expires_at(now) == pytest.approx(now.wall + validity.remaining(now))
