from __future__ import annotations

import pytest

from tokenbroker.errors import PromptDismissed
from tokenbroker.model import Secret, SecretRef
from tokenbroker.vaults.dev import DevVault

REF = SecretRef("dev://one")


class Person:
    """Answers the simulated prompt, and counts."""

    def __init__(self, *, approves: bool) -> None:
        self.approves = approves
        self.asked = 0

    async def __call__(self) -> bool:
        self.asked += 1
        return self.approves


async def test_without_a_simulated_person_nobody_is_asked() -> None:
    vault = DevVault({REF: Secret("s")})
    assert not vault.may_prompt
    assert await vault.read([REF]) == {REF: Secret("s")}


async def test_one_read_is_one_prompt() -> None:
    person = Person(approves=True)
    vault = DevVault({REF: Secret("s")}, prompt=person)
    assert vault.may_prompt
    await vault.read([REF, SecretRef("dev://two"), SecretRef("dev://three")])
    assert person.asked == 1


async def test_refusal_gives_nothing() -> None:
    with pytest.raises(PromptDismissed):
        await DevVault({REF: Secret("s")}, prompt=Person(approves=False)).read([REF])


async def test_closed_vault_has_forgotten() -> None:
    vault = DevVault({REF: Secret("s")})
    await vault.close()
    assert not isinstance((await vault.read([REF]))[REF], Secret)
