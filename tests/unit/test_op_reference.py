from __future__ import annotations

import pytest

from tokenbroker.model import SecretRef
from tokenbroker.vaults.op.reference import parse_reference


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        pytest.param("op://V/I/F", ("V", "I", None, "F", None), id="three parts"),
        pytest.param("op://My Vault/i-1_2.x/Sec Tion/the key", ("My Vault", "i-1_2.x", "Sec Tion", "the key", None),
                     id="section and spaces"),
        pytest.param("op://V/I/F?attribute=otp", ("V", "I", None, "F", "attribute=otp"), id="attribute"),
    ],
)  # fmt: skip
def test_reference_comes_apart(uri: str, parts: tuple[str | None, ...]) -> None:
    one = parse_reference(SecretRef(uri))
    assert one is not None
    assert (one.vault, one.item, one.section, one.field, one.query) == parts


@pytest.mark.parametrize(
    "uri",
    [
        "keyring://a/b", "op://V/I", "op://V//F", "op://V/I/s/f/more", "op://V/I/ü", "op://V/I/F}}", "op://V/{{I/F",
        "op://V/I/$HOME", "op://V/I/a'b", "op://V/I/F\n", " op://V/I/F",
    ],
)  # fmt: skip
def test_what_inject_cannot_carry_is_no_reference(uri: str) -> None:
    """A name with braces, quotes or a dollar could change what the template asks for."""
    assert parse_reference(SecretRef(uri)) is None


def test_items_are_the_same_whatever_their_case() -> None:
    one, other = parse_reference(SecretRef("op://Vault/Item/a")), parse_reference(SecretRef("op://vault/ITEM/b"))
    assert one is not None
    assert other is not None
    assert one.item_key == other.item_key
