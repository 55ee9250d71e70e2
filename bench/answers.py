"""How soon a caller has a clear error for each wrong answer of an issuer: HTTP that works, and says no or nonsense."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from bench.networks import told
from bench.report import Row
from tests.standins.fault_issuer import FaultIssuer, answer, endless, error, raw
from tests.standins.networks import Reached
from tokenbroker.broker import WAIT_BUDGET
from tokenbroker.errors import (
    BrokerError,
    CredentialRejected,
    IssuerMisconfigured,
    IssuerThrottled,
    IssuerUnavailable,
    TokenMismatch,
)
from tokenbroker.issuers.connections import warm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.standins.fault_issuer import Behaviour

TOKEN: Final = {"access_token": "t", "token_type": "Bearer", "expires_in": 60}
HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

ANSWERS: dict[str, tuple[Behaviour, type[BrokerError]]] = {
    "401 invalid_client": (error("invalid_client", 401), CredentialRejected),
    "401 unauthorized_client (Keycloak)": (error("unauthorized_client", 401), CredentialRejected),
    "403 and nothing (glewlwyd)": (answer(b"", 403), CredentialRejected),
    "400 invalid_scope": (error("invalid_scope"), IssuerMisconfigured),
    "404": (answer(b"", 404), IssuerMisconfigured),
    "429 in plain text (Entra)": (answer("Too Many Requests", 429, {"Retry-After": "60"}), IssuerThrottled),
    "503": (answer("<html>", 503, content_type="text/html"), IssuerUnavailable),
    "half of the JSON": (raw(HEAD + b'Content-Length: 99\r\n\r\n{"access_token": "t", '), IssuerUnavailable),
    "JSON without end": (endless(HEAD + b"\r\n", b" " * 4096), IssuerMisconfigured),
    "fewer scopes than asked": (answer({**TOKEN, "scope": "openid"}), TokenMismatch),
}


async def each() -> list[tuple[float, BrokerError]]:
    """Meet every answer, side by side: some are tried three times."""

    async def meet(behaviour: Behaviour) -> tuple[float, BrokerError]:
        async with FaultIssuer(behaviour) as issuer:
            return await told(Reached({"token_endpoint": issuer.url}))

    return await asyncio.gather(*(meet(behaviour) for behaviour, _ in ANSWERS.values()))


def rows() -> Iterator[Row]:
    """Measure once."""
    warm()
    for (name, (_, kind)), (seconds, problem) in zip(ANSWERS.items(), asyncio.run(each()), strict=True):
        clear = type(problem) is kind and seconds < WAIT_BUDGET
        target = f"< {WAIT_BUDGET:g} s, its class"
        yield Row(f"clear error: {name}", f"{seconds:.2f} s", problem.code, target=target, met=clear)
