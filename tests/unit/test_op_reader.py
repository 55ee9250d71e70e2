"""How many calls a read makes, and what it brings: by an `op` in memory that knows which references are wrong."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tokenbroker.errors import PromptDismissed, VaultError
from tokenbroker.model import Secret, SecretRef
from tokenbroker.vaults.op.errors import Completed
from tokenbroker.vaults.op.reader import MAX_ROUNDS, OpReader

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tokenbroker.vaults.op.reference import OpReference

GOOD = [SecretRef(f"op://V/good{n}/f") for n in range(3)]
WRONG = [SecretRef(f"op://V/wrong{n}/f") for n in range(3)]


class Op:
    """Answers `inject` as `op` does: all values, or the name of the first wrong item. Each call takes `seconds`."""

    def __init__(self, *, wrong: Sequence[SecretRef] = WRONG, seconds: Sequence[float] = ()) -> None:
        self.wrong = list(wrong)
        self.seconds = list(seconds)
        self.now = 0.0
        self.calls: list[str] = []
        self.values: dict[str, str] = {}
        self.dismissed_from: int | None = None

    async def __call__(
        self, argv: Sequence[str], *, stdin: bytes | None = None, asked: Sequence[OpReference] = (), fresh: bool = False
    ) -> Completed:
        self.calls.append(argv[0])
        self.now += self.seconds.pop(0) if self.seconds else 0.0
        if self.dismissed_from is not None and len(self.calls) >= self.dismissed_from:
            return self._error("error initializing client: authorization prompt dismissed, please try again")
        bad = next((one for one in asked if one.ref in self.wrong), None)
        if bad is not None:
            return self._error(f'could not read secret: "{bad.item}" isn\'t an item in the "V" vault. Specify the item')
        template = (stdin or b"").decode()
        filled = re.sub(r"\{\{ (op://[^ ]+) \}\}", lambda m: self.values.get(m[1], "value"), template)
        return Completed(0, filled.encode() + b"\n")

    @staticmethod
    def _error(text: str) -> Completed:
        return Completed(1, b"", f"[ERROR] 2026/11/24 10:00:00 {text}\n".encode())


def good(found: Mapping[SecretRef, Secret | VaultError]) -> list[SecretRef]:
    return [ref for ref in GOOD if found[ref] == Secret("value")]


async def test_sparing_reads_find_out_wrong_references_one_read_after_the_other() -> None:
    """Two calls a read; the second read has the good ones, for it leaves out what was wrong."""
    op = Op(wrong=WRONG[:2])
    reader = OpReader(op, frugal=True)
    first = await reader.read([*WRONG[:2], *GOOD], fresh=True)
    assert (len(op.calls), good(first)) == (2, [])
    second = await reader.read([*WRONG[:2], *GOOD], fresh=True)
    assert (len(op.calls), good(second)) == (4, GOOD)
    assert all(isinstance(second[ref], VaultError) for ref in WRONG[:2])


async def test_a_wrong_reference_that_was_mended_is_read_again() -> None:
    op = Op(wrong=WRONG[:1])
    reader = OpReader(op, frugal=True)
    await reader.read([WRONG[0], *GOOD], fresh=True)
    op.wrong = []
    found = await reader.read([WRONG[0], *GOOD], fresh=True)
    assert found[WRONG[0]] == Secret("value")
    calls = len(op.calls)
    await reader.read([WRONG[0], *GOOD], fresh=True)
    assert len(op.calls) == calls + 1, "and is one of the good from then on"


async def test_good_references_are_not_lost_with_the_prompt_for_the_wrong_ones() -> None:
    op = Op(wrong=WRONG[:1])
    reader = OpReader(op, frugal=True)
    await reader.read([WRONG[0], *GOOD], fresh=True)
    op.dismissed_from = 4
    assert good(await reader.read([WRONG[0], *GOOD], fresh=True)) == GOOD
    op.dismissed_from = 5
    with pytest.raises(PromptDismissed):
        await reader.read([WRONG[0], *GOOD], fresh=True)


async def test_a_further_call_that_takes_as_long_as_a_person_ends_the_read() -> None:
    """Nobody has found out yet whether each call asks; this one seems to have."""
    op = Op(seconds=[8.0, 7.0, 7.0, 7.0])
    found = await OpReader(op, elapsed=lambda: op.now).read([*WRONG, *GOOD], fresh=True)
    assert len(op.calls) == 2
    assert good(found) == []


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param([8.0, 1.5, 1.5, 1.5], id="asked once"),
        pytest.param([1.5, 1.5, 1.5, 1.5], id="authorized already"),
        pytest.param([12.0, 6.5, 6.5, 6.5], id="slow, under launchd"),
    ],
)
async def test_further_calls_that_ask_nobody_go_on(seconds: list[float]) -> None:
    op = Op(seconds=seconds)
    found = await OpReader(op, elapsed=lambda: op.now).read([*WRONG, *GOOD], fresh=True)
    assert (len(op.calls), good(found)) == (1 + len(WRONG), GOOD)
    assert len(WRONG) <= MAX_ROUNDS


async def test_control_characters_are_removed_as_op_does_it_however_the_value_was_read() -> None:
    """Else the same secret would be another one when something else is wrong."""
    op = Op(wrong=[])
    op.values = {GOOD[0].uri: "a\r\nb\tc\x07"}
    found = await OpReader(op).read(GOOD, fresh=False)
    assert found[GOOD[0]] == Secret("a\nb\tc")
