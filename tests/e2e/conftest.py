"""What most of these tests start from: a user with two clients in the vault, and the development issuer beside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.rig import Background, Daemon, Rig
from tests.e2e.standard import configuration, fill_vault, register
from tokenbroker.dev.issuer import DevIssuer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def beside() -> Iterator[Background]:
    with Background() as made:
        yield made


@pytest.fixture(scope="module")
def issuer(beside: Background) -> DevIssuer:
    """An issuer that knows the clients of the standard configuration."""
    made = beside.enter(DevIssuer.start())
    register(made)
    return made


@pytest.fixture
def rig(issuer: DevIssuer) -> Iterator[Rig]:
    """A user of one test, whose daemon is not started yet."""
    with Rig() as made:
        fill_vault(made.op)
        made.configure(configuration(issuer.url))
        yield made


@pytest.fixture
def daemon(rig: Rig) -> Iterator[Daemon]:
    """The daemon of that user, the vault still locked."""
    with rig.serve() as running:
        yield running
