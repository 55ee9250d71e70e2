"""Speak to the daemon over the admin socket."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from tokenbroker_client import transport, wire
from tokenbroker_client.errors import BadAnswer, BrokerRefused

if TYPE_CHECKING:
    import argparse

    from tokenbroker.paths import Surroundings

LOOK_TIMEOUT: Final = 5.0  # seconds; looking never waits for anyone
ACT_TIMEOUT: Final = 180.0  # seconds; `unlock` waits for a person, and for one more round of the vault


def ask(
    arguments: argparse.Namespace, here: Surroundings, method: str, path: str, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Send one request to the daemon and return its JSON object.

    Raises `NoBroker`, `NoAnswer`, `BadAnswer`, and `BrokerRefused` with what the daemon said.
    """
    status, _, content = transport.request(
        str(here.admin_socket(arguments.socket)),
        method,
        path,
        b"" if body is None else json.dumps(body).encode(),
        {"Content-Type": "application/json"},
        LOOK_TIMEOUT if method == "GET" else ACT_TIMEOUT,
    )
    if status != 200:  # noqa: PLR2004  # OK
        raise BrokerRefused(wire.decode_error(content))
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise BadAnswer("the daemon's answer is not a JSON object", hint="compare `broker --version` with the daemon's")
    return answer
