"""A second OAuth issuer, written from the RFCs alone, so that no mistake is shared by both ends.

`async with SecondIssuer.start(face="auth0", clients=[Client("agent", ["secret"])]) as issuer:` listens on a free
loopback port in this process. `faces.Face` has the switches; any of them may be given to `start` by name.
"""

from __future__ import annotations

from tests.standins.second_issuer.certificates import Authority, Identity
from tests.standins.second_issuer.faces import FACES, Dialect, Face
from tests.standins.second_issuer.github import Installation
from tests.standins.second_issuer.limits import Quota
from tests.standins.second_issuer.server import SecondIssuer, reply, reset
from tests.standins.second_issuer.state import CLIENT_CREDENTIALS, JWT_BEARER, TOKEN_EXCHANGE, Client

__all__ = [
    "CLIENT_CREDENTIALS",
    "FACES",
    "JWT_BEARER",
    "TOKEN_EXCHANGE",
    "Authority",
    "Client",
    "Dialect",
    "Face",
    "Identity",
    "Installation",
    "Quota",
    "SecondIssuer",
    "reply",
    "reset",
]
