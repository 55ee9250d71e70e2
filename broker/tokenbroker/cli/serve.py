"""The verb that runs the daemon."""

from __future__ import annotations

import asyncio
import logging
import resource
import sys
from typing import TYPE_CHECKING, Final

from tokenbroker.errors import ConfigError
from tokenbroker.system.hardening import harden

if TYPE_CHECKING:
    import argparse

    from tokenbroker.paths import Surroundings


DESCRIPTORS: Final = 4096  # the usual soft limits, 1024 and 256 on macOS, are fewer than our connections may need
NOTICE: Final = """\
broker: DEVELOPMENT PARTS ONLY: vault, issuer and API are made up, and end with this process
broker: try: curl -H "Authorization: Bearer $(broker-token search)" {url}/search"""


def serve(arguments: argparse.Namespace, here: Surroundings) -> int:
    """Run until a signal ends it."""
    _log_to_stderr(arguments.log_level, journal="JOURNAL_STREAM" in here.environ)
    _allow_descriptors()
    measures = harden(platform=here.platform)
    for name, outcome in measures.items():
        if outcome != "on":
            logging.getLogger(__name__).warning("Hardening not in force measure=%s why=%s", name, outcome)
    if arguments.dev and arguments.config:
        raise ConfigError("--dev takes no --config: development parts never meet a real configuration")
    run = _development if arguments.dev else _real
    asyncio.run(run(arguments, here, measures))
    return 0


async def _real(arguments: argparse.Namespace, here: Surroundings, measures: dict[str, str]) -> None:
    from tokenbroker.daemon import Daemon, Options  # noqa: PLC0415  # after hardening, before anything is read

    options = Options(here.config_file(arguments.config), arguments.socket, hardening=measures)
    await Daemon(options, here).run()


async def _development(arguments: argparse.Namespace, here: Surroundings, measures: dict[str, str]) -> None:
    from tokenbroker.daemon import Daemon, Options  # noqa: PLC0415
    from tokenbroker.dev.world import DevWorld  # noqa: PLC0415
    from tokenbroker.vaults.dev import DevVault  # noqa: PLC0415

    async with DevWorld.start() as world:
        print(NOTICE.format(url=world.api.url), file=sys.stderr)
        options = Options(None, arguments.socket, world.config, DevVault(world.secrets), measures)
        await Daemon(options, here).run()


def _allow_descriptors() -> None:
    """Make room for two descriptors per connection, its own and the peer's handle, as far as the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < room:
        resource.setrlimit(resource.RLIMIT_NOFILE, (room, hard))


def _log_to_stderr(level: str, *, journal: bool) -> None:
    """Log to stderr; the journal has a time of its own."""
    logging.basicConfig(
        level=level.upper(),
        format="%(levelname)s %(message)s" if journal else "%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
