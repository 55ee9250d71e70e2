"""The cache: one place per token, and the flights that fill the places.

Rules of this file:
1. A flight (one fetch or renewal) is a task of its own, and there is one per place: callers wait for it or go away,
   and it goes on.
2. A flight settles its slot whatever its outcome, cancellation included.
3. Only `lifecycle.py` says what becomes of a slot.
4. A flight that needs another place's token (RFC 8693) waits for that place's flight, and ends nothing when it is
   ended itself.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from tokenbroker import delegation, lifecycle
from tokenbroker.errors import BrokerError, Busy, CredentialRejected, Fault, IssuerError, whereabouts
from tokenbroker.lifecycle import Action, Slot

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tokenbroker.exchange import Exchange
    from tokenbroker.minting import Held
    from tokenbroker.model import Instant, Token, TokenKey
    from tokenbroker.ports import AuditSink, Clock

logger = logging.getLogger(__name__)

TICK: Final = 15.0  # seconds at most between two looks at all tokens: after the machine slept nothing else wakes us
SHORTEST_TICK: Final = 0.05
SLICE: Final = 50  # tokens looked at, so also renewals begun, before others have their turn
MAX_HABITS: Final = 10_000  # of places that are no more; after that all are learned anew
FAILURE_SHOWN: Final = 600.0  # seconds for which a failure without a token stays in `broker status`
_NOT_REFUSED: Final = Slot()


@dataclass(slots=True)
class Entry:
    """One token's place, and the flight that is filling it."""

    key: TokenKey
    slot: Slot
    flight: asyncio.Task[None] | None = None
    dropped: BrokerError | None = None
    """Why this place is no more; what callers that wait for its flight are told."""


class TokenCache:
    """All places, and the renewal of what is in them."""

    def __init__(self, exchange: Exchange, *, audit: AuditSink, clock: Clock, random: Callable[[], float]) -> None:
        """Start empty. `random` gives numbers in [0, 1)."""
        self.exchange = exchange
        self._audit = audit
        self._clock = clock
        self._random = random
        self._entries: dict[TokenKey, Entry] = {}
        # Scopes make many places of one client, and it is the client that an issuer locks after refusals.
        self._refused: dict[str, Slot] = {}  # client → how its credential fares, told as a place without a token
        self._marks: dict[str, int | None] = {}  # clients → what tells the secrets that were used last from others
        self._asked: set[str] = set()  # clients whose last answer was no refusal
        self._trying: dict[str, asyncio.Task[None]] = {}  # of the others: the one flight that tries
        self._habits: dict[TokenKey, Slot] = {}  # what is left of places that are no more
        self._news = asyncio.Event()
        self._next_look = float("-inf")  # on the elapsed clock

    def entry(self, key: TokenKey) -> Entry:
        """Return the place for `key`, making it if needed."""
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = Entry(key, self._habits.pop(key, Slot()))
        return entry

    def narrower(self, key: TokenKey) -> int:
        """Count the places that other choices of scopes have beside `key`, whose scopes are all that there are."""
        same = (key.profile, key.client)
        return sum((k.profile, k.client) == same and k.scopes != key.scopes for k in self._entries)

    def __contains__(self, key: TokenKey) -> bool:
        """Tell whether there is a place for `key`."""
        return key in self._entries

    def keep(self, entry: Entry) -> Entry:
        """Return the place that now stands for the entry's key: itself, also if it lapsed while its caller waited.

        One that was dropped stays so.
        """
        if entry.dropped is not None:
            return entry
        return self._entries.setdefault(entry.key, entry)

    def __iter__(self) -> Iterator[Entry]:
        """Yield the places; the caller changes none of them."""
        yield from self._entries.values()

    def __len__(self) -> int:
        """Count the places."""
        return len(self._entries)

    def start(self, entry: Entry, *, attempts: int, may_prompt: bool) -> None:
        """Begin a flight; `may_prompt` tells whether whoever caused it may also cause a prompt."""
        entry.slot = lifecycle.started(entry.slot)
        entry.flight = asyncio.create_task(
            self._fly(entry, attempts=attempts, may_prompt=may_prompt), name=f"fetch {entry.key.profile}"
        )
        entry.flight.add_done_callback(partial(self._landed, entry))

    def _landed(self, entry: Entry, flight: asyncio.Task[None]) -> None:
        """Settle the place of a flight that was cancelled before its first step, and so never knew of it."""
        if entry.flight is flight:
            entry.flight = None
            if entry.slot.fetching:
                entry.slot = lifecycle.cancelled(entry.slot)

    def renew(self, entry: Entry) -> None:
        """Renew in the background, if that needs nobody, and is not better left for later."""
        late = self.exchange.minting.low(entry.key)
        if late and lifecycle.state(entry.slot.token, self._clock.now()) is lifecycle.TokenState.STALE:
            return
        if self.exchange.needs_nobody(entry.key):
            self.start(entry, attempts=1, may_prompt=False)

    async def wait(self, entry: Entry, budget: float) -> None:
        """Wait for the flight, at most `budget` seconds. It goes on without us."""
        if entry.flight is None:
            return
        timer = asyncio.ensure_future(self._clock.sleep(budget))
        try:
            await asyncio.wait({entry.flight, timer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()

    def drop(self, which: Callable[[TokenKey], bool], told: BrokerError) -> list[tuple[TokenKey, Token]]:
        """Forget the tokens whose key fits; whoever waits for one is told `told`. Returns what was forgotten."""
        entries = [entry for entry in self._entries.values() if which(entry.key)]
        for entry in entries:
            self._remove(entry, lifecycle.dropped(entry.slot))
            self._asked.discard(entry.key.client)
            entry.dropped = told
            if entry.flight is not None:
                entry.flight.cancel()
        return [(entry.key, entry.slot.token) for entry in entries if entry.slot.token is not None]

    def discard(self, which: Callable[[TokenKey], bool], clients: Callable[[str], bool]) -> None:
        """Forget how the places and the clients that fit fared: they are others now."""
        for key in [key for key in self._habits if which(key)]:
            del self._habits[key]
        for name in [name for name in self._refused if clients(name)]:
            del self._refused[name]

    def give_up(self, which: Callable[[TokenKey], bool], told: BrokerError) -> None:
        """End the flights whose key fits and keep the tokens at hand; whoever has none to fall back on is told."""
        now = self._clock.now()
        self.drop(lambda key: which(key) and not lifecycle.usable(self._entries[key].slot, now), told)
        for entry in self._entries.values():
            if entry.flight is not None and which(entry.key):
                entry.flight.cancel()

    def flights(self, which: Callable[[TokenKey], bool]) -> int:
        """Count the flights whose key fits."""
        return sum(entry.flight is not None and which(entry.key) for entry in self._entries.values())

    def forgive(self, clients: Callable[[str], bool]) -> None:
        """End the back-offs of the clients that fit: a person did something that may have mended the cause.

        What costs something each time is tried at once only with other secrets than those that were used last.
        """
        now = self._clock.now()
        keys = (*self._entries, *self._habits)
        known = {name for name in (*self._refused, *(key.client for key in keys)) if clients(name)}
        mended = {name for name in known if self.exchange.mark(name) != self._marks.get(name)}
        for entry in self._entries.values():
            if entry.key.client in known:
                entry.slot = lifecycle.forgiven(entry.slot, now, mended=entry.key.client in mended)
        for key in [key for key in self._habits if key.client in known]:
            self._habits[key] = lifecycle.forgiven(self._habits[key], now, mended=key.client in mended)
        for name in known & self._refused.keys():
            self._refused[name] = lifecycle.forgiven(self._refused[name], now, mended=name in mended)
            if self._refused[name].failure is None:
                del self._refused[name]
        self.exchange.minting.forgive(known)

    def troubled_clients(self) -> set[str]:
        """Return the names of the clients that an issuer gave no token, for a reason that a person may have mended."""
        failures = ((entry.key.client, entry.slot.failure) for entry in self._entries.values())
        known = {client for client, failure in failures if failure and _for_a_person(failure.error)}
        return known | self._refused.keys()  # whose places may have lapsed since

    async def run(self) -> None:
        """Renew tokens before anyone waits for them, until cancelled."""
        while True:
            self._news.clear()
            delay = await self._look()
            timer = asyncio.ensure_future(self._clock.sleep(delay))
            news = asyncio.ensure_future(self._news.wait())
            try:
                await asyncio.wait({timer, news}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                timer.cancel()
                news.cancel()

    async def _look(self) -> float:
        """Start the renewals that are due, forget what lapsed; return the seconds until the next look."""
        wait = TICK
        now = self._clock.now()
        for number, entry in enumerate(list(self._entries.values()), start=1):
            due = self._due(entry, now)
            if due:
                wait = min(wait, due)
            elif self._entries.get(entry.key) is entry:
                self._tend(entry, now)
            if number % SLICE == 0:
                await asyncio.sleep(0)
                now = self._clock.now()
        wait = max(wait, SHORTEST_TICK)
        self._next_look = now.elapsed + wait
        return wait

    def _due(self, entry: Entry, now: Instant) -> float | None:
        """Return the seconds until the entry's renewal; a quota of which little is left lets it wait."""
        due = lifecycle.seconds_to_renewal(entry.slot, now)
        late = due == 0.0 and self.exchange.minting.low(entry.key)
        return lifecycle.seconds_to_renewal(entry.slot, now, late=True) if late else due

    def _tend(self, entry: Entry, now: Instant) -> None:
        if lifecycle.renewal_due(entry.slot, now):
            self.renew(entry)
        elif _lapsed(entry.slot, now):
            self._remove(entry, lifecycle.lapsed(entry.slot))

    def _remove(self, entry: Entry, habit: Slot) -> None:
        """Take a place away. Its `habit` is no secret, and stays: a lock at noon changes nobody's."""
        del self._entries[entry.key]
        if len(self._habits) >= MAX_HABITS:
            self._habits.clear()
        if habit != Slot():
            self._habits[entry.key] = habit

    def _expect(self, entry: Entry) -> None:
        """Look at all tokens sooner if this one, once it is used, may need that: a look at many takes long."""
        now = self._clock.now()
        due = lifecycle.seconds_to_renewal(replace(entry.slot, used=True), now)
        if due is not None and not now.elapsed < self._next_look <= now.elapsed + due:
            self._news.set()

    async def _fly(self, entry: Entry, *, attempts: int, may_prompt: bool) -> None:
        """One fetch from start to settled slot; raises nothing but cancellation."""
        key = entry.key
        exchange = self.exchange
        may_reread = exchange.may_reread(key, may_prompt=may_prompt)
        hold = partial(self._hold, exchange, key, attempts=attempts, may_prompt=may_prompt)
        try:
            held = await hold({})
            refused = await self._turn(key.client)
            suspect = may_reread and (_suspect(entry.slot) or _suspect(refused))
            if not suspect:
                _spare(refused, self._clock.now())
            ask = partial(exchange.fetch, key, attempts=attempts, may_reread=may_reread, suspect=suspect)
            token = await self._answer(key.client, partial(ask, held=held, replace=hold), may_reread=may_reread)
        except Exception as error:  # noqa: BLE001  # a fault of ours must not leave the slot in flight for ever
            self._fetch_failed(entry, error, reread=may_reread)
        except BaseException:
            entry.slot = lifecycle.cancelled(entry.slot)
            raise
        else:
            entry.slot = lifecycle.fetched(entry.slot, token, self._clock.now())
            told = {"fingerprint": token.fingerprint, "lifetime_s": round(token.lifetime)}
            self._audit.record("token fetched", {"profile": key.profile, "client": key.client, **told})
        finally:
            entry.flight = None
            self._expect(entry)

    async def _turn(self, client: str) -> Slot:
        """Wait while another flight finds out whether the client's credential works; return what is known of that."""
        while client not in self._asked and (first := self._trying.get(client)) is not None:
            await asyncio.wait({first})
        return self._refused.get(client, _NOT_REFUSED)

    async def _hold(
        self, exchange: Exchange, key: TokenKey, refused: Held, *, attempts: int, may_prompt: bool
    ) -> dict[str, Token]:
        """Return the tokens of other profiles that a fetch for `key` presents, and others than those `refused`."""
        held: dict[str, Token] = {}
        for inner in exchange.presented(key):
            entry = self.entry(inner)
            if inner.profile in refused:
                self._reject(entry, refused[inner.profile])
            held[inner.profile] = await self._obtain(entry, key, attempts=attempts, may_prompt=may_prompt)
        return held

    def _reject(self, entry: Entry, token: Token) -> None:
        slot = lifecycle.rejected(entry.slot, token.fingerprint, self._clock.now())
        if slot is not entry.slot:
            entry.slot = slot
            told = {"profile": entry.key.profile, "fingerprint": token.fingerprint}
            self._audit.record("token rejected", told)

    async def _obtain(self, entry: Entry, outer: TokenKey, *, attempts: int, may_prompt: bool) -> Token:
        """Return the token of a place for the flight of `outer`: the one at hand if it is fresh, else a new one.

        One that is due for renewal is renewed first, since many issuers let the new token end with the one presented,
        and not marked as used, since only the next exchange will need it.
        """
        action = lifecycle.decide(entry.slot, self._clock.now(), may_prompt=may_prompt)
        if action is Action.FETCH:
            usable = lifecycle.usable(entry.slot, self._clock.now())
            self.start(entry, attempts=1 if usable else attempts, may_prompt=may_prompt)
        elif action is Action.SERVE_AND_RENEW:
            self.renew(entry)
        if entry.flight is not None and action is not Action.SERVE:
            await asyncio.wait({entry.flight})  # unlike awaiting it, this does not cancel it
        now, slot = self._clock.now(), entry.slot
        if entry.dropped is None and slot.token is not None and lifecycle.usable(slot, now):
            return slot.token
        failure = None if slot.failure is None else slot.failure.error
        error = entry.dropped or failure or Busy("its fetch was given up", retry_after=1.0)
        raise delegation.not_had(error, entry.key, outer, lifecycle.retry_after(slot, now))

    async def _answer(self, client: str, ask: Callable[[], Awaitable[Token]], *, may_reread: bool) -> Token:
        """Ask the issuer, and note for the client's other places whether its credential was refused."""
        flight = asyncio.current_task()
        if client not in self._asked and flight is not None:
            self._trying[client] = flight
        try:
            token = await ask()
        except CredentialRejected as error:
            self._marks[client] = self.exchange.mark(client)
            self._asked.discard(client)
            slot = lifecycle.started(self._refused.get(client, _NOT_REFUSED))
            now, spread = self._clock.now(), self._random()
            self._refused[client] = lifecycle.failed(slot, error.anew(), now, spread=spread, reread=may_reread)
            raise
        except IssuerError:
            self._marks[client] = self.exchange.mark(client)
            self._asked.add(client)
            raise
        else:
            self._asked.add(client)
            self._refused.pop(client, None)
            return token
        finally:
            if self._trying.get(client) is flight:
                del self._trying[client]

    def _fetch_failed(self, entry: Entry, error: Exception, *, reread: bool) -> None:
        if not isinstance(error, BrokerError):
            logger.error("Fetch ended by a fault: %s", whereabouts(error))
            error = Fault("the broker has a fault; its log has the details", hint="see the log of the daemon")
        error = error.anew()  # its traceback leads to the credentials
        entry.slot = lifecycle.failed(entry.slot, error, self._clock.now(), spread=self._random(), reread=reread)
        told = {"profile": entry.key.profile, "client": entry.key.client, "code": error.code, "why": error.message}
        self._audit.record("fetch failed", told)


def _for_a_person(error: BrokerError) -> bool:
    return isinstance(error, IssuerError) and not error.retryable


def _suspect(slot: Slot) -> bool:
    """Tell whether the client's own credential is what the vault has yet to be read again for."""
    return (
        lifecycle.wants_reread(slot) and slot.failure is not None and isinstance(slot.failure.error, CredentialRejected)
    )


def _spare(refused: Slot, now: Instant) -> None:
    """Raise what the issuer said of a client's credential, while it is too early to try that again."""
    if refused.failure is not None and lifecycle.retry_after(refused, now) is not None:
        raise refused.failure.error.anew()


def _lapsed(slot: Slot, now: Instant) -> bool:
    """Tell whether nothing in the slot is of use any more."""
    if slot.fetching or lifecycle.usable(slot, now) or lifecycle.retry_after(slot, now) is not None:
        return False
    return slot.failure is None or now.elapsed - slot.failure.at.elapsed > FAILURE_SHOWN
