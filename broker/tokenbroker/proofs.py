"""Proofs for programs that use a token bound to a key which they do not have (RFC 9449 §7.1).

Rules of this file:
1. A proof is made for a token that is in the cache now, for the session that was given it, while a rule allows it.
2. Nothing awaits between the decision and the answer, and the peer is looked at again after the signature.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tokenbroker import lifecycle, policy
from tokenbroker.errors import Denied, PeerGone, UnknownToken, UsageError
from tokenbroker.model import AgentType

if TYPE_CHECKING:
    from tokenbroker.broker import Broker
    from tokenbroker.model import Peer, Token, TokenKey
    from tokenbroker.ports import AuditSink, Clock, PeerInspector
    from tokenbroker.sessions import Holding
    from tokenbroker_client.proof import ProofRequest


@dataclass(frozen=True, slots=True)
class Proven:
    """A proof on its way to a peer."""

    proof: str = field(repr=False)
    thumbprint: str
    fingerprint: str


class Proofs:
    """Makes proofs for peers."""

    def __init__(self, broker: Broker, *, inspector: PeerInspector, audit: AuditSink, clock: Clock) -> None:
        """Use the tokens, sessions and rules of `broker`."""
        self._broker = broker
        self._inspector = inspector
        self._audit = audit
        self._clock = clock

    def make(self, wanted: ProofRequest, peer: Peer) -> Proven:
        """Sign a proof for one request with one token.

        Raises `UnknownProfile`, `Denied`, `UnknownToken`, `UsageError` and `PeerGone`.
        """
        broker = self._broker
        broker.check_serving()
        policy.find_profile(broker.config, name=wanted.profile)
        held = broker.sessions.held(peer, wanted.profile, wanted.fingerprint)
        self._check_rules(wanted.profile, held and held[1], peer)
        token = self._cached(held[1].key, wanted.fingerprint) if held else None
        if held is None or token is None:
            raise _unknown(wanted)
        if token.proof_key is None:
            raise UsageError(
                f"the token of profile `{wanted.profile}` is not bound to a key of the broker's",
                hint="use it without a proof, or set dpop = true for its client in [clients]",
            )
        now = self._clock.now()
        proof = token.proof_key.prove(wanted.method, wanted.url, token=token.value, nonce=wanted.nonce, now=now.wall)
        if not self._inspector.still_there(peer):
            raise PeerGone.of(peer)
        told = {
            "profile": wanted.profile,
            "fingerprint": token.fingerprint,
            "method": wanted.method,
            "host": urlsplit(wanted.url).netloc,
            "pid": peer.pid,
            "session": held[0].id,
        }
        self._audit.record("proof made", told)
        return Proven(proof, token.proof_key.thumbprint, token.fingerprint)

    def _check_rules(self, profile: str, holding: Holding | None, peer: Peer) -> None:
        """Raise `Denied` unless the rules would still give the peer that token, or a person gave it."""
        config = self._broker.config
        client = config.clients.get(holding.key.client) if holding else None
        # With a job's token a program is judged as the job that it then said to be.
        lowered = client is not None and client.agent_type is AgentType.AUTONOMOUS
        try:
            decision = policy.decide(config, config.profiles[profile], peer, lowered=lowered)
        except Denied as denial:
            self._deny(profile, peer, denial)
            raise
        if isinstance(decision, policy.Ask) and not (holding and holding.approved):
            unasked = Denied(
                f"a rule asks a person before profile `{profile}` is given, and nobody was asked for this proof",
                hint='set decide = "allow" on the rule: this version has no way to ask',
            )
            self._deny(profile, peer, unasked)
            raise unasked

    def _deny(self, profile: str, peer: Peer, denial: Denied) -> None:
        told = {"profile": profile, "pid": peer.pid, "exe": peer.exe, "tty": peer.tty, "why": denial.message}
        self._audit.record("denied", told)

    def _cached(self, key: TokenKey, fingerprint: str) -> Token | None:
        """Return the token, unless it was replaced, dropped or has expired."""
        if key not in self._broker.cache:
            return None
        slot = self._broker.cache.entry(key).slot
        fits = slot.token is not None and slot.token.fingerprint == fingerprint
        return slot.token if fits and lifecycle.usable(slot, self._clock.now()) else None


def _unknown(wanted: ProofRequest) -> UnknownToken:
    return UnknownToken(
        f"profile `{wanted.profile}` has no token {wanted.fingerprint} at hand that this program was given",
        hint="ask for the token again, then for a proof with the fingerprint that comes with it",
    )
