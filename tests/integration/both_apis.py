"""Both APIs over a world of fakes, as the daemon would build them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from tokenbroker.api.admin import AdminApi
from tokenbroker.api.public import PublicApi
from tokenbroker.control import Control
from tokenbroker.errors import UsageError
from tokenbroker.otp import OneTimePasswords
from tokenbroker.proofs import Proofs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.service.world import World
    from tokenbroker.events import Events


async def experiment(body: Mapping[str, Any]) -> dict[str, Any]:
    """Answer as the daemon does when asked to try `op`."""
    if body.get("setting") == "end":
        return {"setting": "end"}
    if "setting" not in body:
        raise UsageError("the request needs a `setting`")
    return {"setting": body["setting"], "session": 1, "caller": 1, "outcome": "ok", "seconds": 1.5, "text": ""}


def both_apis(
    world: World,
    events: Events,
    *,
    about: Callable[[], dict[str, Any]],
    reload: Callable[[], None],
    uid: int | None = None,
) -> tuple[PublicApi, AdminApi]:
    """Return the public and the admin API."""
    uid = os.getuid() if uid is None else uid
    otp = OneTimePasswords(
        world.broker, inspector=world.inspector, approver=world.approver, audit=events, clock=world.clock
    )
    admin = AdminApi(
        world.broker,
        world.inspector,
        events,
        world.clock,
        uid=uid,
        control=Control(world.broker, events, world.clock),
        about=about,
        reload=reload,
        experiment=experiment,
    )
    proofs = Proofs(world.broker, inspector=world.inspector, audit=events, clock=world.clock)
    return PublicApi(world.broker, otp, proofs, world.inspector, uid=uid), admin
