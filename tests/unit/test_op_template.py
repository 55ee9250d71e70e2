from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbroker.model import SecretRef
from tokenbroker.vaults.op.template import GarbledOutput, build_template, parse_filled

NONCE = "0123456789abcdef"
REFS = [SecretRef("op://Vault/Item/one"), SecretRef("op://Vault/My Item/sec/two")]


def fill(template: bytes, values: dict[SecretRef, str], *, tail: bytes = b"\n") -> bytes:
    """Do what `op inject` does with a template."""
    for ref, value in values.items():
        template = template.replace(f"{{{{ {ref.uri} }}}}".encode(), value.encode())
    return template + tail


def test_template_asks_for_every_reference_in_inject_syntax() -> None:
    """Each reference stands once, in double braces, and nothing else of the template looks like one."""
    template = build_template(REFS, NONCE).decode()
    assert [template.count("{{ " + ref.uri + " }}") for ref in REFS] == [1, 1]
    assert template.count("op://") == 2


def may_be_a_secret(text: str) -> bool:
    """Tell whether a secret may have this text: none holds an unguessed nonce, nor is any its own reference."""
    return NONCE not in text and "op://Vault" not in text


@given(st.tuples(*[st.text(min_size=1).filter(may_be_a_secret)] * 2))
def test_any_text_parses_back(texts: tuple[str, ...]) -> None:
    """No secret can be mistaken for a frame, whatever it contains."""
    filled = f"<{NONCE}:0>{texts[0]}<{NONCE}:1>{texts[1]}<{NONCE}:2>"
    assert parse_filled(filled.encode(), REFS, NONCE) == dict(zip(REFS, texts, strict=True))


@pytest.mark.parametrize("tail", [b"", b"\n", b"\r\n"], ids=["no newline", "one newline", "windows newline"])
def test_newline_that_op_appends_is_no_part_of_a_value(tail: bytes) -> None:
    values = {REFS[0]: "ends in newline\n", REFS[1]: "a\n\nb"}
    assert parse_filled(fill(build_template(REFS, NONCE), values, tail=tail), REFS, NONCE) == values


def test_secret_that_holds_another_calls_frame_parses_back() -> None:
    values = {REFS[0]: "<ffff:1>{{ op://x/y/z }}<ffff:2>", REFS[1]: "<0123456789abcde:1>"}
    assert parse_filled(fill(build_template(REFS, NONCE), values), REFS, NONCE) == values


@pytest.mark.parametrize(
    ("value", "claim"),
    [
        pytest.param(b"", None, id="empty value is unusable"),
        pytest.param(b"{{ op://Vault/Item/one }}", None, id="unfilled slot is unusable"),
        pytest.param(b"\xff\xfe", None, id="bytes that are not text are unusable"),
        pytest.param(b" ", " ", id="space is a value"),
    ],
)
def test_unusable_value_spoils_no_other(value: bytes, claim: str | None) -> None:
    filled = b"<n:0>" + value + b"<n:1>good<n:2>\n"
    assert parse_filled(filled, REFS, "n") == {REFS[0]: claim, REFS[1]: "good"}


@pytest.mark.parametrize(
    "output",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x00\x01garbage", id="garbage"),
        pytest.param(b"<n:0>a<n:1>b", id="last mark missing"),
        pytest.param(b"<n:0>a<n:2>\n", id="middle mark missing"),
        pytest.param(b"<n:1>a<n:0>b<n:2>\n", id="marks out of order"),
        pytest.param(b"notice\n<n:0>a<n:1>b<n:2>\n", id="text before the first mark"),
        pytest.param(b"<n:0>a<n:1>b<n:2>\nmore", id="text after the last mark"),
        pytest.param(b"<m:0>a<m:1>b<m:2>\n", id="another call's nonce"),
    ],
)
def test_output_that_is_not_the_template_is_refused_whole(output: bytes) -> None:
    with pytest.raises(GarbledOutput):
        parse_filled(output, REFS, "n")


def test_time_to_parse_does_not_grow_with_the_number_of_references() -> None:
    """Each of them would copy what comes after it; measured: 6 ms, and 60 with copies."""
    asked = [SecretRef(f"op://V/i{n}/f") for n in range(40)]
    output = fill(build_template(asked, "n"), dict.fromkeys(asked, "v") | {asked[-1]: "v" * (14 << 20)})
    best = 1.0
    for _ in range(3):
        began = time.thread_time()
        values = parse_filled(output, asked, "n")
        best = min(best, time.thread_time() - began)
    assert len(values[asked[-1]] or "") == 14 << 20
    assert best < 0.03
