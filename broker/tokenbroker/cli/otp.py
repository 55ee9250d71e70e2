"""The verb that prints a one-time password, for programs that a rule allows it to."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tokenbroker_client import environment, transport, wire
from tokenbroker_client.errors import BadAnswer, BrokerRefused

if TYPE_CHECKING:
    import argparse

    from tokenbroker.paths import Surroundings


def otp(arguments: argparse.Namespace, here: Surroundings) -> int:
    """Print the present one-time password and nothing else.

    Raises `NoBroker`, `NoAnswer`, `BadAnswer`, `BrokerRefused`, and `UsageError` for a wrong BROKER_INTERACTION.
    """
    wanted = wire.OtpRequest(
        reference=arguments.reference,
        reason=arguments.reason,
        agent_type=arguments.agent_type,
        interaction="never" if arguments.no_prompt else environment.interaction(here.environ),
    )
    status, _, content = transport.request(
        str(here.socket(arguments.socket)),
        "POST",
        wire.OTP_PATH,
        wire.encode_otp(wanted),
        {"Content-Type": "application/json"},
        environment.default_timeout(terminal=sys.stdin.isatty()),
    )
    try:
        if status != 200:  # noqa: PLR2004  # OK
            raise BrokerRefused(wire.decode_error(content))
        print(wire.decode_otp_answer(content))
    except wire.WireError as error:
        raise BadAnswer(str(error), hint="compare `broker --version` with the daemon's") from None
    return 0
