"""The daemon in this process: what becomes of it when one of its parts breaks."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from tests.integration.http_peer import PATIENCE, short_folder
from tokenbroker.config import Config
from tokenbroker.daemon import Daemon, Options
from tokenbroker.errors import Fault
from tokenbroker.paths import Surroundings
from tokenbroker.vaults.dev import DevVault

if TYPE_CHECKING:
    from collections.abc import Callable


def renewals(daemon: Daemon, fault: Callable[[], None]) -> None:
    """Break the renewal of tokens."""

    async def run() -> None:
        fault()

    daemon.broker.cache.run = run  # type: ignore[method-assign]


def housekeeping(daemon: Daemon, fault: Callable[[], None]) -> None:
    """Break what is done every half minute."""

    def expire() -> bool:
        fault()
        return False

    daemon.unlocks.expire = expire  # type: ignore[method-assign]


@pytest.mark.parametrize("part", [renewals, housekeeping])
async def test_daemon_ends_with_an_error_when_a_part_that_never_ends_has(
    part: Callable[[Daemon, Callable[[], None]], None], caplog: pytest.LogCaptureFixture
) -> None:
    """In good order, for systemd to start it anew; the text of the fault, which may hold anything, is in no log."""

    def fault() -> None:
        raise KeyError("s3cret")

    with short_folder() as home:
        here = Surroundings({"BROKER_SOCKET": str(home / "b/s")}, "linux", os.getuid(), home)
        daemon = Daemon(Options(None, config=Config(), vault=DevVault({})), here)
        part(daemon, fault)
        with pytest.raises(Fault):
            await asyncio.wait_for(daemon.run(), PATIENCE)
        assert not (home / "b/s").exists()
    assert f"Part of the daemon ended by a fault part={part.__name__}: KeyError at " in caplog.text
    assert "s3cret" not in caplog.text
