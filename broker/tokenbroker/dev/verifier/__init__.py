"""How a protected API checks a token: an example to use or to copy, see docs/protecting-an-api.md.

The middlewares are in `tokenbroker.dev.verifier.web` (aiohttp) and `tokenbroker.dev.verifier.asgi`; everything here
does without a web framework.
"""

from tokenbroker.dev.verifier.checks import AUTH0, ENTRA, RFC9068, Caller, Dialect, Expected
from tokenbroker.dev.verifier.dpop import Nonces, Proofs, Replays
from tokenbroker.dev.verifier.keys import KeySet, KeysUnavailable
from tokenbroker.dev.verifier.refusal import Answer, Refused
from tokenbroker.dev.verifier.routes import ANY, Routes
from tokenbroker.dev.verifier.verifier import Request, Verifier

__all__ = [
    "ANY",
    "AUTH0",
    "ENTRA",
    "RFC9068",
    "Answer",
    "Caller",
    "Dialect",
    "Expected",
    "KeySet",
    "KeysUnavailable",
    "Nonces",
    "Proofs",
    "Refused",
    "Replays",
    "Request",
    "Routes",
    "Verifier",
]
