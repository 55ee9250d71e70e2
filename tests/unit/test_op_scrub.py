"""What may stand in a report that a person sends us: `op`'s words, and nobody's names."""

from __future__ import annotations

import time

import pytest

from tests.standins.op import auth, grants
from tokenbroker.vaults.op.scrub import scrub


@pytest.mark.parametrize(
    ("said", "left"),
    [
        pytest.param("[ERROR] 2026/11/24 09:12:13 authorization timeout\n", "authorization timeout", id="time"),
        pytest.param("could not read secret 'op://V/I F/x': nope", "could not read secret …: nope", id="reference"),
        pytest.param("cannot read op://Vault/Item/field now", "cannot read … now", id="bare reference"),
        pytest.param('"My Bank" isn\'t an item in the "Private" vault.', "… isn't an item in the … vault.", id="names"),
        pytest.param("item 'Work/Bank' does not have a field 'pin'", "item … does not have a field …", id="quotes"),
        pytest.param("could not find item My Bank in vault Private, because",
                     "could not find item … in vault … because", id="names without quotes"),
        pytest.param("Enter the password for jo@example.org at acme.1password.eu: ", "Enter the password for … at …:",
                     id="address"),
        pytest.param("no account found for filter ACME", "no account found for filter …", id="account"),
        pytest.param("user GLEFABCDEFGHIJKLMNOPQRS22M item abcdefghijklmnopqrstuvwx23", "user … item …", id="ids"),
        pytest.param("id 123e4567-e89b-12d3-a456-426614174000.", "id ….", id="uuid"),
        pytest.param("token ops_eyJzaWduSW5BZGRyZXNz bad", "token … bad", id="token"),
        pytest.param("open /Users/jo/Library/x: denied, /home/jo, 10.1.2.3:443", "open …: denied, …, …", id="paths"),
        pytest.param("nobody on /run/user/1000/x.sock; run /usr/bin/op", "nobody on … run /usr/bin/op", id="socket"),
        pytest.param("one\n\n* two\x1b[31m", "one * two [31m", id="lines and control characters"),
        pytest.param("see the ACME-Corp team", "see the … team", id="what the caller names"),
        pytest.param("x " * 400, "x " * 199 + "x…", id="length"),
    ],
)  # fmt: skip
def test_names_go_and_words_stay(said: str, left: str) -> None:
    assert scrub(said, "Acme-Corp", "") == left


@pytest.mark.parametrize(
    "text",
    [
        grants.COULD_NOT_CONNECT, grants.COULD_NOT_CONNECT_2024, grants.CONNECTION_RESET, grants.DISMISSED,
        grants.TIMEOUT, grants.LOCKED, auth.NOT_SIGNED_IN,
    ],
)  # fmt: skip
def test_messages_about_the_app_stay_whole(text: str) -> None:
    """Apostrophes are no quotes, and 1Password's own addresses name nobody."""
    assert scrub(text) == text


@pytest.mark.parametrize("text", ["a.", "a-", "x@", "x", '"', "/a", "in vault "])
def test_long_text_takes_no_long_time_and_shows_no_half_of_a_name(text: str) -> None:
    """The loop stands still meanwhile; measured: up to 25 ms, and minutes for all of it."""
    began = time.thread_time()
    assert scrub(text * 60_000) == ""
    assert scrub("kept\n" + 'in "' + "half a name " * 6_000) == "kept"
    scrub(text * (2000 // len(text)))
    assert time.thread_time() - began < 0.2
