"""What can go wrong between a program and its broker. Each error knows its message, its hint and the exit code.

Rule of this file: no message, hint or argument ever holds a token or a body.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenbroker_client import wire

if TYPE_CHECKING:
    from tokenbroker_client.wire import ErrorAnswer


class ClientError(Exception):
    """The base of everything that this package raises on purpose."""

    exit_code: int = wire.EXIT_FAILED
    code: str = "failed"
    retryable: bool = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        """Say what happened, and the one next step."""
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(ClientError):
    """The command line, an argument or an environment variable cannot be understood."""

    exit_code = wire.EXIT_USAGE
    code = "usage"


class NoBroker(ClientError):
    """Nobody that may be trusted is listening: not started, out of reach in a sandbox, or not ours."""

    exit_code = wire.EXIT_NO_BROKER
    code = "no_broker"


class NoAnswer(ClientError):
    """The broker took the request, and then said nothing or only half of it. Trying again may help."""

    exit_code = wire.EXIT_TRY_AGAIN
    code = "no_answer"
    retryable = True


class TokenKept(ClientError):
    """The broker keeps a token that an API refused, because rejections come too often. Later it may drop it."""

    exit_code = wire.EXIT_TRY_AGAIN
    code = "token_kept"
    retryable = True


class BadAnswer(ClientError):
    """What answered does not speak the broker's protocol."""

    code = "bad_answer"


class BrokerRefused(ClientError):
    """The broker answered with an error."""

    def __init__(self, answer: ErrorAnswer) -> None:
        """Keep what the broker said."""
        super().__init__(answer.error_description, hint=answer.hint)
        self.code = answer.code
        self.error = answer.error
        """RFC 6749 §5.2's word for it."""
        self.retryable = answer.retryable
        self.retry_after = answer.retry_after
        """Seconds, when the broker knows."""
        self.correlation_id = answer.correlation_id
        self.exit_code = wire.exit_code(answer.code, retryable=answer.retryable)
