"""What is left of an issuer's words that repeat a secret: nothing, in whatever way they write it."""

from __future__ import annotations

import html
import json
import time
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tokenbroker.model import Secret
from tokenbroker.scrub import RUN, repeats, scrub

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "p@ss+wo%rd/&= xü\\\"'v1"
ENCODINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "form": quote_plus,
    "uri": lambda text: quote(text, safe=""),
    "lower case": lambda text: quote(text, safe="").replace("%2B", "%2b").replace("%C3%BC", "%c3%bc"),
    "twice": lambda text: quote_plus(quote_plus(text)),
    "latin-1": lambda text: quote(text, safe="", encoding="latin-1", errors="replace"),
    "json": json.dumps,
    "json, unicode kept": lambda text: json.dumps(text, ensure_ascii=False),
    "json in json": lambda text: json.dumps(json.dumps(text)),
    "repr": repr,
    "ascii": ascii,
    "repr of bytes": lambda text: repr(text.encode()),
    "html": html.escape,
    "zero-width space": "\u200b".join,
    "word joiner": "\u2060".join,
    "soft hyphen": "\u00ad".join,
    "variation selector": "\ufe0f".join,
    "hangul filler": "\u3164".join,
    "blanks": " ".join,
    "nul": "\x00".join,
    "line ends": "\r\n".join,
    "capitals": str.upper,
}
ENCODED = [pytest.param(encode, id=name) for name, encode in ENCODINGS.items()]
# Not those of which an encoding is made: cut in two, half an escape is no escape.
SAFE = st.text(
    st.sampled_from("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/=@!$*éü"), min_size=RUN
)


@pytest.mark.parametrize("encode", ENCODED)
def test_an_echo_is_seen_in_every_encoding(encode: Callable[[str], str]) -> None:
    assert scrub(f"client_secret={encode(SECRET)}&x=y is wrong", [Secret(SECRET)]) == "…"


@pytest.mark.parametrize("encode", ENCODED)
def test_an_echo_that_is_cut_is_seen(encode: Callable[[str], str]) -> None:
    """Its beginning, its end and its middle."""
    secret = "Zx8kPq2L+mN4vR7t/YbC1dWs9f=="
    for part in (secret[:12], secret[-12:], secret[8:20]):
        assert scrub(f"bad {encode(part)}", [Secret(secret)]) == "…"


@given(SAFE, st.sampled_from(sorted(ENCODINGS)), st.data())
def test_no_part_of_a_secret_is_ever_shown(secret: str, encoding: str, data: st.DataObject) -> None:
    """Of any secret, any part that is long enough to matter, in any encoding, between any words."""
    start = data.draw(st.integers(0, len(secret) - RUN))
    part = secret[start : data.draw(st.integers(start + RUN, len(secret)))]
    assume(sum(char.isascii() for char in part) >= RUN)
    words = f"{data.draw(st.text(st.sampled_from('ab %=,'), max_size=20))} {ENCODINGS[encoding](part)} is wrong"
    assert scrub(words, [Secret("another-one"), Secret(secret)]) == "…"


@given(st.text(max_size=60), st.text(min_size=RUN, max_size=60))
def test_whatever_a_secret_is_made_of_nothing_long_of_it_is_shown(words: str, secret: str) -> None:
    """As it stands; also where nothing is left of it when its punctuation is taken away."""
    shown = scrub(f"{words}{secret}{words}", [Secret(secret)])
    line = " ".join(secret.split())
    assert not any(line[at : at + RUN] in shown for at in range(len(line) - RUN + 1))


@pytest.mark.parametrize("secret", ["abc1", "tw o", "+abcdef", "client"])
def test_a_short_secret_counts_as_a_whole(secret: str) -> None:
    assert scrub(f"the client's {secret} is wrong", [Secret(secret)]) == "…"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("a  b\tc", "a b c", id="one line"),
        pytest.param("\u202eevil", "evil", id="text direction cannot be turned"),
        pytest.param("in\u200bvis\u00adible", "invisible", id="what cannot be seen is not there"),
        pytest.param("invalid_client", "invalid_client", id="a code"),
        pytest.param(
            "Client authentication failed (e.g., unknown client, no client authentication included)",
            "Client authentication failed (e.g., unknown client, no client authentication included)",
            id="common words",
        ),
        pytest.param("no eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln here", "no … here", id="a JWT of anybody's"),
    ],
)
def test_what_repeats_no_secret_is_shown(text: str, shown: str) -> None:
    secrets = [SECRET, "Zx8kPq2LmN4vR7tYbC1dWs9f", "correct horse battery staple", "++++++++", "\u200b", "", "c"[:0]]
    assert scrub(text, [Secret(secret) for secret in secrets]) == shown


@pytest.mark.parametrize("char", [" ", "a", "%", "%25", "%2525", "&", "&amp;", "\\", "\\u00", "\u200b", "é"])
def test_long_words_take_no_time(char: str) -> None:
    """A hostile answer of 64 KiB must not hold up the others, by processor time."""
    words = (char * 65536)[:65536]
    started = time.process_time()
    scrub(words, [Secret(SECRET), Secret("x" * 64)])
    assert time.process_time() - started < 0.05


def test_a_token_that_is_quoted_whole_is_told_apart_from_what_is_like_it() -> None:
    """A member that shares its beginning with the token, a client's id say, is not the token."""
    token = Secret("v1.client-of-ours.0f8fad5b+d9cb")
    assert repeats("v1.client-of-ours.0f8fad5b+d9cb", token)
    assert repeats("['v1.client-of-ours.0f8fad5b%2Bd9cb']", token)
    assert not repeats("client-of-ours", token)
