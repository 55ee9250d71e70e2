from __future__ import annotations

import json
from typing import Any

import pytest

from tokenbroker.errors import SecretAmbiguous, SecretNotFound
from tokenbroker.model import Secret, SecretRef
from tokenbroker.vaults.op.item import OpItem, parse_item, pick
from tokenbroker.vaults.op.reference import parse_reference
from tokenbroker.vaults.op.template import GarbledOutput

# Shape recorded from `op item get --format json` (contract 1.4).
FIELDS: list[dict[str, Any]] = [
    {"id": "username", "type": "STRING", "purpose": "USERNAME", "label": "username", "value": "me"},
    {"id": "notesPlain", "type": "STRING", "purpose": "NOTES", "label": "notesPlain"},
    {"id": "aaa", "section": {"id": "S1", "label": "First"}, "type": "CONCEALED", "label": "key", "value": "one"},
    {"id": "bbb", "section": {"id": "S2"}, "type": "CONCEALED", "label": "key", "value": "two"},
    {"id": "ccc", "type": "CONCEALED", "label": "twin", "value": "a"},
    {"id": "ddd", "type": "CONCEALED", "label": "twin", "value": "b"},
    {"id": "eee", "type": "STRING", "label": "both", "value": "top"},
    {"id": "fff", "section": {"id": "S2"}, "type": "STRING", "label": "both", "value": "inner"},
    {"id": "TOTP_x", "section": {"id": "add more"}, "type": "OTP", "label": "otp", "value": "seed", "totp": "741354"},
]


FILES: list[dict[str, Any]] = [
    {"id": "f1", "name": "key.pem", "size": 3},
    {"id": "f2", "name": "twin.pem", "section": {"id": "S1", "label": "First"}},
    {"id": "f3", "name": "twin.pem", "section": {"id": "S2"}},
]
ITEM = OpItem(FIELDS, FILES)


def picked(uri: str) -> object:
    reference = parse_reference(SecretRef(uri))
    assert reference is not None
    return pick(ITEM, reference)


@pytest.mark.parametrize(
    ("uri", "value"),
    [
        pytest.param("op://V/I/username", "me", id="by label"),
        pytest.param("op://V/I/USERNAME", "me", id="case does not matter"),
        pytest.param("op://V/I/ccc", "a", id="by id"),
        pytest.param("op://V/I/first/key", "one", id="section by label"),
        pytest.param("op://V/I/S2/key", "two", id="section by id, which has no label"),
        pytest.param("op://V/I/both", "top", id="without a section the top level wins"),
        pytest.param("op://V/I/otp?attribute=otp", "741354", id="one-time password"),
        pytest.param("op://V/I/otp?attribute=value", "seed", id="value asked for by name"),
    ],
)
def test_field_is_found(uri: str, value: str) -> None:
    assert picked(uri) == Secret(value)


@pytest.mark.parametrize(
    ("uri", "error"),
    [
        pytest.param("op://V/I/nope", SecretNotFound, id="no such field"),
        pytest.param("op://V/I/S9/key", SecretNotFound, id="no such section"),
        pytest.param("op://V/I/notesPlain", SecretNotFound, id="empty field has no value at all"),
        pytest.param("op://V/I/twin.pem", SecretAmbiguous, id="file in two sections"),
        pytest.param("op://V/I/key", SecretAmbiguous, id="in two sections"),
        pytest.param("op://V/I/twin", SecretAmbiguous, id="twice on the top level"),
    ],
)
def test_field_that_is_not_there_once_is_an_error(uri: str, error: type[Exception]) -> None:
    assert type(picked(uri)) is error


@pytest.mark.parametrize(
    "uri",
    [
        pytest.param("op://V/I/key.pem", id="file"),
        pytest.param("op://V/I/first/twin.pem", id="file of a section"),
        pytest.param("op://V/I/key.pem?attribute=content", id="content of a file"),
        pytest.param("op://V/I/first/key?ssh-format=openssh", id="key in another format"),
        pytest.param("op://V/I/username?attribute=otp", id="one-time password that the JSON lacks"),
        pytest.param("op://V/I/username?attribute=purpose", id="attribute of another kind"),
    ],
)
def test_what_no_json_holds_is_left_to_op_read(uri: str) -> None:
    assert picked(uri) is None


def test_section_that_is_no_object_is_no_section() -> None:
    reference = parse_reference(SecretRef("op://V/I/s/f"))
    assert reference is not None
    odd = OpItem([{"id": "f", "label": "f", "section": "s", "value": "x"}], [])
    assert isinstance(pick(odd, reference), SecretNotFound)


@pytest.mark.parametrize(
    "output",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'"x"',
        b'{"fields": 1}',
        b'{"fields": [1]}',
        b"\xff",
        b'{"fields": [], "files": 1}',
        b'{"fields": [], "files": ["x"]}',
    ],
)
def test_output_that_is_no_item_is_refused(output: bytes) -> None:
    with pytest.raises(GarbledOutput):
        parse_item(output)


def test_item_is_parsed_with_its_files_and_without() -> None:
    assert parse_item(json.dumps({"id": "x", "fields": FIELDS, "files": FILES}).encode()) == ITEM
    assert parse_item(json.dumps({"id": "x", "fields": FIELDS}).encode()) == OpItem(FIELDS, [])
