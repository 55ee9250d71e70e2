"""The breaker: leaves an issuer alone that does not answer, and a client's requests that it says are too many.

Rules of this file:
1. Nothing here awaits or reads a clock; time and chance are functions that it is given.
2. After `TRIES` failures in a row, of whichever tokens and clients, everybody is told the last one at once; when the
   wait is over one request tries, while the others are still told. Any answer closes the breaker.
3. A credential that is refused, a quota, a wrong request are answers; what comes of them is the cache's business.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tokenbroker import backoff, lifecycle
from tokenbroker.errors import IssuerError, IssuerThrottled, IssuerUnavailable, IssuerUntrusted, TokenUseless

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from tokenbroker.model import Instant

TRIES: Final = 3  # failures in a row before an issuer is left alone; a client that asks too often is at once
MEANWHILE: Final = 1.0  # seconds (`retry_after`) for those who ask while one request tries


@dataclass(slots=True)
class _Circuit:
    """How requests of one kind went last."""

    tries: int
    """Failures in a row before requests are held back."""
    failures: int = 0
    error: IssuerError | None = None
    retry_at: float = float("-inf")
    trial: object | None = None
    """The one request that is let through when the wait is over."""
    opened: int = 0
    """How often requests were held back. One from before that says nothing new when it fails too."""

    def answered(self) -> None:
        """Close it."""
        self.failures, self.error = 0, None


class Breaker:
    """One circuit per issuer, and one per issuer and client."""

    def __init__(self, clock: Callable[[], Instant], random: Callable[[], float]) -> None:
        """`clock` gives the present moment, `random` numbers in [0, 1)."""
        self._clock = clock
        self._random = random
        self._circuits: dict[Hashable, _Circuit] = {}

    @contextlib.contextmanager
    def request(self, issuer: str, client: str) -> Iterator[None]:
        """Make one token request inside, whose outcome is noted; raise what is remembered if it is not to be made."""
        whole = self._circuits.setdefault(issuer, _Circuit(TRIES))
        own = self._circuits.setdefault((issuer, client), _Circuit(1))
        for circuit in (whole, own):
            self._check(circuit)
        with self._through(whole, _unreachable), self._through(own, _throttled):
            yield

    def forgive(self, issuers: set[str], clients: set[str]) -> None:
        """Let these be tried at once."""
        for name, circuit in self._circuits.items():
            if name in issuers or (isinstance(name, tuple) and name[1] in clients):
                circuit.retry_at, circuit.failures = float("-inf"), 0

    def open(self) -> dict[str, IssuerError]:
        """Return the issuers that are left alone now, each with the reason; for `broker status`."""
        now = self._clock().elapsed
        return {
            name: circuit.error
            for name, circuit in self._circuits.items()
            if isinstance(name, str) and circuit.error is not None and now < circuit.retry_at
        }

    @contextlib.contextmanager
    def _through(self, circuit: _Circuit, failed: Callable[[IssuerError], bool | None]) -> Iterator[None]:
        mine = object() if circuit.failures >= circuit.tries else None
        circuit.trial = mine or circuit.trial
        opened = circuit.opened
        try:
            yield
        except IssuerError as error:
            if (verdict := failed(error)) is False:
                circuit.answered()
            elif verdict and opened == circuit.opened:
                self._failed(circuit, error)
            raise
        else:
            circuit.answered()
        finally:
            if circuit.trial is mine:
                circuit.trial = None

    def _check(self, circuit: _Circuit) -> None:
        wait = circuit.retry_at - self._clock().elapsed
        if circuit.failures >= circuit.tries and wait < -lifecycle.AFRESH and circuit.trial is None:
            circuit.failures = 0  # nobody tried though they might have: what was is long ago, as in `lifecycle.failed`
        if circuit.error is None or circuit.failures < circuit.tries or (wait <= 0 and circuit.trial is None):
            return
        error = circuit.error.anew()
        error.retry_after = max(wait, MEANWHILE)
        raise error

    def _failed(self, circuit: _Circuit, error: IssuerError) -> None:
        now = self._clock().elapsed
        circuit.failures += 1
        circuit.error = error.anew()
        if circuit.failures >= circuit.tries:
            circuit.opened += 1
            count = circuit.failures - circuit.tries + 1
            circuit.retry_at = now + backoff.back_off(error, count, spread=self._random())


def _unreachable(error: IssuerError) -> bool:
    answered = IssuerThrottled | TokenUseless
    return isinstance(error, IssuerUnavailable | IssuerUntrusted) and not isinstance(error, answered)


def _throttled(error: IssuerError) -> bool | None:
    """Tell whether the client asks too often; an issuer that did not answer does not tell (`None`)."""
    if isinstance(error, IssuerThrottled):
        return True
    return None if _unreachable(error) else False
