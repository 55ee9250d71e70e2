"""What a Connect server's answers mean, without a server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbroker.errors import VaultUnavailable
from tokenbroker.model import Secret, SecretRef
from tokenbroker.vaults.connect.answers import (
    Absent,
    Entry,
    Malformed,
    TokenRefused,
    TooBig,
    file_named,
    is_id,
    judge,
    named,
    parse_entries,
    parse_health,
    parse_item,
)
from tokenbroker.vaults.op.item import pick
from tokenbroker.vaults.op.reference import OpReference, parse_reference

WHERE = "the Connect server at http://127.0.0.1:8080"
A, B = "a" * 26, "b" * 26


def reference(uri: str) -> OpReference:
    parsed = parse_reference(SecretRef(uri))
    assert parsed is not None
    return parsed


def item(**more: Any) -> bytes:
    return json.dumps({"id": A, **more}).encode()


@pytest.mark.parametrize(
    ("status", "kind"),
    [(200, None), (400, Absent), (401, TokenRefused), (403, Absent), (404, Absent), (413, TooBig),
     (429, VaultUnavailable), (201, VaultUnavailable), (204, VaultUnavailable), (302, VaultUnavailable),
     (402, VaultUnavailable), (500, VaultUnavailable), (502, VaultUnavailable)],
)  # fmt: skip
def test_each_status_has_one_meaning(status: int, kind: type[Exception] | None) -> None:
    found = judge(status, None, WHERE)
    assert found is None if kind is None else type(found) is kind


def test_the_hint_of_a_failing_server_is_a_command_that_asks_it() -> None:
    error = judge(502, None, WHERE)
    assert isinstance(error, VaultUnavailable)
    assert error.hint == "look at it with `curl http://127.0.0.1:8080/health`, then run `broker unlock`"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, 600), ("5", 5.0), (" 5 ", 5.0), ("", 600), ("-1", 600), ("1e9", 600), ("Tue, 24 Nov 2026", 600),
     ("90000", 86400.0)],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_pause_of_our_own(header: str | None, seconds: float) -> None:
    error = judge(429, header, WHERE)
    assert isinstance(error, VaultUnavailable)
    assert error.retry_after == seconds


@pytest.mark.parametrize(("text", "it_is"), [(A, True), ("A" * 26, False), ("a" * 25, False), ("a" * 27, False),
                                             (f"{A}\n", False), ("é" * 26, False), (None, False)])  # fmt: skip
def test_an_id_is_26_small_letters_and_digits(text: object, *, it_is: bool) -> None:
    assert is_id(text) is it_is


@given(st.lists(st.text()), st.sampled_from([None, 1, 4]), st.sampled_from(["", " ", "\n\t"]))
def test_a_listing_reads_as_json_would(titles: list[str], indent: int | None, around: str) -> None:
    """It is taken apart member by member, so that a long one does not hold the interpreter."""
    listing = [{"id": A, "title": title} for title in titles]
    body = f"{around}{json.dumps(listing, indent=indent)}{around}".encode()
    assert parse_entries(body, "title") == [Entry(A, title) for title in titles]


@pytest.mark.parametrize(
    "body",
    [b"", b"[", b"]", b"{}", b"1", b"[1]", b"[{}", b"[{} {}]", b"[,]", b"[]]", b"[] x", b"nul", b"null x", b"\xff",
     b"[" * 9000, b'[{"a": NOPE}]'],
)  # fmt: skip
def test_what_is_no_listing_is_refused_whole(body: bytes) -> None:
    with pytest.raises(Malformed) as raised:
        parse_entries(body, "title")
    assert raised.value.__context__ is None


def test_null_is_an_empty_listing() -> None:
    assert parse_entries(b" null\n", "title") == []


def test_entries_without_an_id_of_the_right_form_and_archived_ones_are_passed_over() -> None:
    """An id becomes part of an address, so one of another form is not believed."""
    listing = [
        {"id": A, "title": "kept"},
        {"id": B, "title": "old", "state": "ARCHIVED"},
        {"id": B, "title": "gone", "state": "DELETED"},
        {"id": "../../x", "title": "evil"},
        {"id": 7, "title": "odd"},
        {"title": "none"},
    ]
    assert parse_entries(json.dumps(listing).encode(), "title") == [Entry(A, "kept")]


@pytest.mark.parametrize(
    ("name", "found"),
    [("One", [A]), ("one", [A]), ("ONE", [A]), ("two", [B]), ("three", []), (A, [A]), (A.upper(), []), (B, [B])],
)
def test_names_in_any_case_and_ids_exactly(name: str, found: list[str]) -> None:
    assert named([Entry(A, "One"), Entry(B, "Two")], name) == found


def test_an_id_goes_before_the_same_name() -> None:
    assert named([Entry(A, "x"), Entry(B, A)], A) == [A]


def test_a_field_gets_the_label_of_its_section() -> None:
    kept = parse_item(item(
        sections=[{"id": "s1", "label": "Live"}, {"id": "s2"}, {"label": "no id"}],
        fields=[{"id": "1", "label": "k", "value": "a", "section": {"id": "s1"}},
                {"id": "2", "label": "k", "value": "b", "section": {"id": "s2"}},
                {"id": "3", "label": "k", "value": "c", "section": {"id": "unknown"}},
                {"id": "4", "label": "k", "value": "d", "section": {}},
                {"id": "5", "label": "j", "value": "e", "section": None}],
    ))  # fmt: skip
    for uri, value in {"live/k": "a", "s2/k": "b", "UNKNOWN/k": "c", "k": "d", "j": "e"}.items():
        assert pick(kept.content, reference(f"op://V/I/{uri}")) == Secret(value)


def test_text_that_no_text_can_hold_is_left_out() -> None:
    """JSON can spell half a character; it could not be written to the issuer."""
    kept = parse_item(b'{"id": "%s", "fields": [{"id": "f", "value": "\\ud800"}]}' % A.encode())
    assert kept.content.fields == [{"id": "f"}]


@pytest.mark.parametrize("key", ["fields", "files", "sections"])
def test_lists_may_be_null_or_absent(key: str) -> None:
    assert parse_item(item(**{key: None})).content.fields == []


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"{}", b'{"id": "x"}', item(fields=[1]), item(fields="x"), item(files={"a": 1}),
     item(sections=[[]]), b"[" * 9000, b"\xff", item(fields=[{"value": "s3cret"}])[:-3]],
)  # fmt: skip
def test_what_is_no_item_is_refused_without_its_text(body: bytes) -> None:
    with pytest.raises(Malformed) as raised:
        parse_item(body)
    assert raised.value.__context__ is None
    assert "s3cret" not in str(raised.value)


def test_an_item_shows_nothing_of_what_it_holds() -> None:
    assert "s3cret" not in repr(parse_item(item(fields=[{"id": "f", "value": "s3cret"}])))


def test_a_file_at_the_top_goes_before_one_in_a_section() -> None:
    kept = parse_item(item(
        sections=[{"id": "s", "label": "Keys"}],
        files=[{"id": "f1", "name": "key.pem", "section": {"id": "s"}}, {"id": "f2", "name": "KEY.pem"},
               {"id": "../x", "name": "evil"}, {"name": "none"}],
    ))  # fmt: skip
    for uri, found in {"key.pem": "f2", "keys/key.pem": "f1", "s/key.pem": "f1", "f1": "f1", "other": None,
                       "evil": None, "none": None}.items():  # fmt: skip
        assert file_named(kept.content, reference(f"op://V/I/{uri}")) == found


@pytest.mark.parametrize(
    ("report", "says"),
    [({"version": "1.8.1"}, "1.8.1"), ({"version": "1.8.1", "dependencies": None}, "1.8.1"),
     ({"version": "1", "dependencies": [{"status": "ACTIVE"}]}, "1"),
     ({"version": "1", "dependencies": [{"status": "ACTIVE"}, {"status": "TOKEN_NEEDED"}]}, "1, not all of it active"),
     ({"version": "1", "dependencies": [{}]}, "1, not all of it active")],
)  # fmt: skip
def test_health_is_a_version_and_whether_all_of_it_is_active(report: dict[str, Any], says: str) -> None:
    assert parse_health(json.dumps(report).encode()) == says


@pytest.mark.parametrize("report", ["[]", "{", '{"version": 1}', '{"version": "a b"}', '{"version": ""}',
                                    '{"version": "1", "dependencies": [1]}'])  # fmt: skip
def test_health_in_the_servers_own_words_is_refused(report: str) -> None:
    with pytest.raises(Malformed):
        parse_health(report.encode())
