"""The Broker: one peer's request, from policy through the cache to a token or a reason.

Rules of this file:
1. Decide and record without an `await` between the two, so that no lock is needed.
2. Before a token is returned the peer is checked again, and after that check nothing awaits.
3. No sockets, no subprocesses, no clocks of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from tokenbroker import backoff, delegation, lifecycle, policy
from tokenbroker.errors import BrokerError, Busy, Denied, MinTtlUnmet, PeerGone, Stopping, VaultError
from tokenbroker.lifecycle import Action
from tokenbroker.model import AgentType, Asker, claimed
from tokenbroker.revocations import Revocations

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tokenbroker.cache import Entry, TokenCache
    from tokenbroker.config import Config, ProfileConfig
    from tokenbroker.exchange import Exchange
    from tokenbroker.model import Instant, Peer, Token, TokenKey
    from tokenbroker.ports import Approver, AuditSink, Clock, PeerInspector
    from tokenbroker.revocations import Dropped
    from tokenbroker.sessions import Session, Sessions
    from tokenbroker.unlocks import Unlocks
    from tokenbroker_client.wire import TokenRequest

WAIT_BUDGET: Final = 9.0  # seconds a caller with nothing to serve waits for the issuer; hosts kill helpers at ten
STALE_BUDGET: Final = 4.0  # seconds a caller waits for a renewal while a good token is at hand
MAX_NARROWER: Final = 16  # choices of fewer scopes per profile and client that have tokens at one time
MAX_RULINGS: Final = 10_000

Source = Literal["cache", "fetch", "stale"]


@dataclass(frozen=True, slots=True)
class Served:
    """A token on its way to a peer. `token.value` is for the wire alone."""

    token: Token
    key: TokenKey
    owner: str
    agent_type: AgentType
    source: Source
    session: str
    now: Instant


@dataclass(frozen=True, slots=True)
class _Caller:
    """One request, resolved."""

    peer: Peer
    config: Config
    """By which the decision was made."""
    lowered: bool
    entry: Entry
    allow: policy.Allow
    session: Session
    min_ttl: float
    may_prompt: bool
    reason: str | None
    approved: bool = False
    """A person said yes to this request."""

    def asker(self) -> Asker:
        """Say on whose behalf the vault may have to be read."""
        wants = f"profile `{self.entry.key.profile}`"
        return Asker(self.peer.named(), self.peer.pid, wants, claimed(self.reason))


class Broker:
    """Hands out tokens; fetches and renews them; forgets them."""

    def __init__(
        self,
        config: Config,
        *,
        unlocks: Unlocks,
        cache: TokenCache,
        sessions: Sessions,
        inspector: PeerInspector,
        approver: Approver,
        audit: AuditSink,
        clock: Clock,
    ) -> None:
        """Put the parts together; `cache`, `unlocks` and `sessions` may be looked at from outside."""
        self.config = config
        self.unlocks = unlocks
        self.cache = cache
        self.sessions = sessions
        self.revocations = Revocations(audit, clock)
        self._inspector = inspector
        self._approver = approver
        self._audit = audit
        self._clock = clock
        self._rulings: dict[tuple[object, ...], tuple[policy.Allow | policy.Ask, TokenKey]] = {}
        self._stopping = False
        self.unusable: BrokerError | None = None
        """Why nothing can be served, when there is no configuration to serve by; told to everyone who asks."""

    # --- asking

    def check_serving(self) -> None:
        """Raise what there is to tell everyone who asks now: `Stopping`, or that the configuration is wrong."""
        if self._stopping:
            raise _shutting_down()
        if self.unusable is not None:
            raise self.unusable.anew()

    def request(self, wanted: TokenRequest, peer: Peer) -> Served | Awaitable[Served]:
        """Answer a peer: at once when the cache can, else with something to await.

        Raises, now or when awaited, whatever of `errors.py` describes why there is no token.
        """
        self.check_serving()
        profile = policy.find_profile(
            self.config, name=wanted.profile, audience=wanted.audience, resource=wanted.resource
        )
        lowered = wanted.agent_type == "autonomous"
        decision, key = self._decide(profile, peer, lowered=lowered)
        allow = decision.allow if isinstance(decision, policy.Ask) else decision
        now = self._clock.now()
        if wanted.scopes:
            key = self._narrowed(key, policy.key_for(profile, allow.client, wanted.scopes))
        caller = _Caller(
            peer=peer,
            config=self.config,
            lowered=lowered,
            entry=self.cache.entry(key),
            allow=allow,
            session=self.sessions.of(peer, allow.agent_type, now),
            min_ttl=wanted.min_ttl or 0.0,
            may_prompt=wanted.interaction != "never" and allow.agent_type is AgentType.INTERACTIVE,
            reason=wanted.reason,
        )
        if isinstance(decision, policy.Ask):
            return self._after_approval(caller, wanted.reason)
        return self._at_once(caller, now) or self._obtain(caller)

    def rejected(self, profile: str, fingerprint: str, peer: Peer) -> bool:
        """Drop the profile's token of this fingerprint because an API refused it; tell whether one was dropped.

        Raises `UnknownProfile` and `Denied`: only who may have a token may say that it is bad.
        """
        self._decide(policy.find_profile(self.config, name=profile), peer, lowered=False)
        now = self._clock.now()
        for entry in self.cache:
            if entry.key.profile == profile:
                slot = lifecycle.rejected(entry.slot, fingerprint, now, low=self.cache.exchange.minting.low(entry.key))
                if slot is not entry.slot:
                    entry.slot = slot
                    self._audit.record("token rejected", {"profile": profile, "fingerprint": fingerprint})
                    return True
        return False

    def decision(self, profile: str, peer: Peer) -> policy.Allow | policy.Ask:
        """Say what the rules say of `peer` and `profile`. Raises `Denied`."""
        return self._decide(self.config.profiles[profile], peer, lowered=False, asked=False)[0]

    # --- forgetting

    def drop(self, which: Callable[[TokenKey], bool], told: BrokerError) -> list[Dropped]:
        """Forget the tokens whose key fits; whoever waits for one is told `told`. Returns what was forgotten."""
        dropped = self.cache.drop(which, told)
        self.sessions.forget({key for key, _ in dropped})
        return dropped

    def configure(self, config: Config, exchange: Exchange) -> None:
        """Take over a new configuration; tokens whose profile, client or issuer changed are dropped."""
        old, self.config = self.config, config
        exchange.minting.inherit(self.cache.exchange.minting)
        self.cache.exchange = exchange
        self._rulings.clear()

        def changed(key: TokenKey) -> bool:
            return delegation.definition(old, key) != delegation.definition(config, key)

        def another(client: str) -> bool:
            return delegation.credential(old, client) != delegation.credential(config, client)

        self.drop(changed, _reconfigured())
        self.cache.discard(changed, another)

    async def stop(self) -> None:
        """Refuse new requests, give up flights, forget everything."""
        self._stopping = True
        self.revocations.start(self.drop(lambda _: True, _shutting_down()), "shutdown", self.cache.exchange)
        await self.unlocks.close()
        await self.revocations.finish()

    # --- inside

    def _decide(
        self, profile: ProfileConfig, peer: Peer, *, lowered: bool, asked: bool = True
    ) -> tuple[policy.Allow | policy.Ask, TokenKey]:
        """Decide by policy, and name the token with all of the profile's scopes.

        Remembered, since rules look at nothing else than what stands in `memo`.
        """
        memo = (profile.name, peer.exe, peer.agent_type, lowered)
        ruling = self._rulings.get(memo)
        if ruling is None:
            try:
                decision = policy.decide(self.config, profile, peer, lowered=lowered)
            except Denied as denial:
                if asked:  # a listing asks for nothing
                    self._deny(profile.name, peer, denial)
                raise
            if len(self._rulings) >= MAX_RULINGS:
                self._rulings.clear()
            client = decision.allow.client if isinstance(decision, policy.Ask) else decision.client
            ruling = self._rulings[memo] = decision, policy.key_for(profile, client, None)
        return ruling

    def _deny(self, profile: str, peer: Peer, denial: Denied) -> None:
        told = {"profile": profile, "pid": peer.pid, "exe": peer.exe, "tty": peer.tty, "why": denial.message}
        self._audit.record("denied", told)

    def _narrowed(self, full: TokenKey, key: TokenKey) -> TokenKey:
        """Return `key`, unless the profile has so many choices of scopes in use that it must be an agent in a loop.

        Each is a token of its own at the issuer, and ten scopes make a thousand choices; nor when little is left of a
        quota. Raises `Busy`.
        """
        if key != full and key not in self.cache and self.cache.narrower(full) >= MAX_NARROWER:
            raise Busy(
                f"profile `{key.profile}` has {MAX_NARROWER} choices of its scopes in use, and no more at once",
                hint="ask for all of its scopes, or again when some of those tokens have expired: see `broker status`",
                retry_after=60.0,
            )
        if key != full and key not in self.cache and self.cache.exchange.minting.low(key):
            raise Busy(
                f"little is left of a quota at the issuer, too little for other scopes of profile `{key.profile}`",
                hint="ask for all of the profile's scopes; `broker status` shows the quotas",
                retry_after=60.0,
            )
        return key

    async def _after_approval(self, caller: _Caller, reason: str | None) -> Served:
        if not await self._approver.ask(caller.peer, caller.entry.key.profile, reason):
            denial = Denied(
                f"a rule asks a person before profile `{caller.entry.key.profile}` is given, and nobody said yes",
                hint='set decide = "allow" on the rule: this version has no way to ask',
            )
            self._deny(caller.entry.key.profile, caller.peer, denial)
            raise denial
        caller = replace(caller, approved=True)
        self._check(caller)
        return self._at_once(caller, self._clock.now()) or await self._obtain(caller)

    def _at_once(self, caller: _Caller, now: Instant) -> Served | None:
        """Serve from the cache, or raise what is remembered; `None` when the caller must wait for a fetch."""
        slot = caller.entry.slot
        action = lifecycle.decide(slot, now, min_ttl=caller.min_ttl, may_prompt=caller.may_prompt)
        if action is Action.SERVE_AND_RENEW:
            self.cache.renew(caller.entry)
        if action in {Action.SERVE, Action.SERVE_AND_RENEW}:
            return self._serve(caller, now, "cache" if slot.failure is None else "stale")
        if action in {Action.BACK_OFF, Action.UNMET}:
            raise self._nothing(caller, now)
        return None

    async def _obtain(self, caller: _Caller) -> Served:
        """Unlock if needed, fetch or join, and serve; fall back on a good token at hand."""
        entry = caller.entry
        has_fallback = lifecycle.usable(entry.slot, self._clock.now(), caller.min_ttl)
        try:
            # With a usable token at hand nobody is disturbed for a better one.
            await self.unlocks.of(caller.allow.client.agent_type).secrets(
                self.cache.exchange.refs(entry.key),
                may_prompt=caller.may_prompt and not has_fallback,
                asker=caller.asker(),
            )
        except VaultError:
            if self._stopping:  # what was cancelled looks locked, and no unlock would help
                raise _shutting_down() from None
            self._check(caller)
            if not lifecycle.usable(entry.slot, self._clock.now(), caller.min_ttl):
                raise
            return self._serve(caller, self._clock.now(), "stale")
        self._check(caller)
        entry = self.cache.keep(entry)  # it may have lapsed meanwhile
        caller = replace(caller, entry=entry)
        served = self._at_once(caller, self._clock.now())  # others may have fetched while this one waited
        if served is not None:
            return served
        if entry.flight is None:
            self.cache.start(
                entry,
                attempts=1 if has_fallback else backoff.FLIGHT_ATTEMPTS,
                may_prompt=caller.may_prompt and not has_fallback,
            )
        await self.cache.wait(entry, STALE_BUDGET if has_fallback else WAIT_BUDGET)
        return self._settle(caller)

    def _settle(self, caller: _Caller) -> Served:
        """Serve what the flight brought, else what is still good, else say why there is nothing."""
        self._check(caller)
        slot, now = caller.entry.slot, self._clock.now()
        if lifecycle.usable(slot, now, caller.min_ttl):
            return self._serve(caller, now, "fetch" if slot.failure is None and not slot.fetching else "stale")
        raise self._nothing(caller, now)

    def _check(self, caller: _Caller) -> None:
        """Raise if what was decided before a wait stands no more: locked, revoked, or another configuration."""
        if caller.entry.dropped is not None:
            raise caller.entry.dropped.anew()
        self.sessions.check(caller.session)
        if caller.config is self.config:
            return
        key = caller.entry.key
        profile = self.config.profiles.get(key.profile)
        if profile is None:
            raise _reconfigured()
        decision, _ = self._decide(profile, caller.peer, lowered=caller.lowered)
        allow = decision.allow if isinstance(decision, policy.Ask) else decision
        unasked = isinstance(decision, policy.Ask) and not caller.approved
        if unasked or (allow.client, allow.agent_type) != (caller.allow.client, caller.allow.agent_type):
            raise _reconfigured()
        if policy.key_for(profile, allow.client, key.scopes) != key:
            raise _reconfigured()

    def _serve(self, caller: _Caller, now: Instant, source: Source) -> Served:
        entry = caller.entry
        entry.slot = slot = lifecycle.served(entry.slot, now, caller.min_ttl)
        token = slot.token
        assert token is not None  # noqa: S101  # `served` refuses anything else
        if not self._inspector.still_there(caller.peer):
            raise PeerGone.of(caller.peer)
        self.sessions.served(caller.session, entry.key, token, approved=caller.approved)
        self._audit.record(
            "token served",
            {
                "profile": entry.key.profile,
                "fingerprint": token.fingerprint,
                "source": source,
                "pid": caller.peer.pid,
                "session": caller.session.id,
            },
        )
        return Served(
            token=token,
            key=entry.key,
            owner=caller.allow.client.owner,
            agent_type=caller.allow.agent_type,
            source=source,
            session=caller.session.id,
            now=now,
        )

    def _nothing(self, caller: _Caller, now: Instant) -> BrokerError:
        """Say why there is no token for this caller."""
        slot, profile = caller.entry.slot, caller.entry.key.profile
        if slot.token is not None and lifecycle.usable(slot, now):
            why = f"; renewing it failed: {slot.failure.error.message}" if slot.failure else ""
            return MinTtlUnmet(
                f"profile `{profile}` has no token that is valid for {caller.min_ttl:.0f} s: its tokens live "
                f"{int(slot.token.lifetime)} s, {int(slot.token.remaining(now))} s are left{why}",
                hint="ask for less with `--min-ttl`, or let the issuer's tokens live longer",
            )
        if slot.failure is not None and not slot.fetching:
            error = slot.failure.error.anew()
            error.retry_after = lifecycle.retry_after(slot, now) or error.retry_after
            return error
        return Busy(
            f"the issuer of profile `{profile}` has not answered within {WAIT_BUDGET:.0f} s",
            hint="run the command again; see `broker status`",
            retry_after=1.0,
        )


def _reconfigured() -> Busy:
    return Busy("the configuration changed meanwhile", hint="run the command again", retry_after=0.0)


def _shutting_down() -> Stopping:
    return Stopping("the broker is shutting down", hint="run the command again", retry_after=1.0)
