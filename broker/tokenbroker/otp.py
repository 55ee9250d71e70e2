"""One-time passwords of the vault's items, for programs that a rule allows: read anew each time, kept nowhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tokenbroker import policy
from tokenbroker.config.fields import Problem
from tokenbroker.config.values import secret_reference
from tokenbroker.errors import Denied, PeerGone, UsageError
from tokenbroker.model import AgentType, Asker, Secret, SecretRef, claimed

if TYPE_CHECKING:
    from tokenbroker.broker import Broker
    from tokenbroker.model import Peer
    from tokenbroker.ports import Approver, AuditSink, Clock, PeerInspector

_QUERY: Final = "?attribute=otp"
_parse: Final = secret_reference("op")


class OneTimePasswords:
    """Gives one-time passwords to peers."""

    def __init__(
        self, broker: Broker, *, inspector: PeerInspector, approver: Approver, audit: AuditSink, clock: Clock
    ) -> None:
        """Use the configuration and the unlocks of `broker`."""
        self._broker = broker
        self._inspector = inspector
        self._approver = approver
        self._audit = audit
        self._clock = clock

    async def give(
        self, reference: str, peer: Peer, *, may_prompt: bool = True, lowered: bool = False, reason: str | None = None
    ) -> Secret:
        """Return the present one-time password of the item's field `reference`.

        Raises `UsageError` for something that is no such reference, `Denied`, what `Unlock.secrets` raises, and
        `PeerGone`.
        """
        base = self._base(reference)
        self._broker.check_serving()
        try:
            allow = await self._allowed(base, peer, lowered=lowered, reason=reason)
        except Denied as denial:
            self._audit.record("denied", {"otp": base, "pid": peer.pid, "exe": peer.exe, "why": denial.message})
            raise
        sessions = self._broker.sessions
        session = sessions.of(peer, allow.agent_type, self._clock.now())
        code = await self._broker.unlocks.of(allow.agent_type).read_once(
            SecretRef(base + _QUERY),
            may_prompt=may_prompt and allow.agent_type is AgentType.INTERACTIVE,
            asker=Asker(peer.named(), peer.pid, f"a one-time password of {base}", claimed(reason)),
        )
        # While a person was asked, rules may have changed and the session may have been revoked.
        policy.decide_otp(self._broker.config, base, peer, lowered=lowered)
        sessions.check(session)
        if not self._inspector.still_there(peer):
            raise PeerGone.of(peer)
        self._audit.record("one-time password given", {"otp": base, "pid": peer.pid, "exe": peer.exe})
        return code

    async def _allowed(self, base: str, peer: Peer, *, lowered: bool, reason: str | None) -> policy.OtpAllow:
        allow = policy.decide_otp(self._broker.config, base, peer, lowered=lowered)
        if allow.ask and not await self._approver.ask(peer, base, reason):
            raise Denied(
                f"a rule asks a person before one-time passwords of {base} are given, and nobody said yes",
                hint='set decide = "allow" on the rule: this version has no way to ask',
            )
        return allow

    @staticmethod
    def _base(reference: str) -> str:
        base = reference.removesuffix(_QUERY)
        try:
            _parse(base)
        except Problem:
            base = "?"
        if "?" in base:
            raise UsageError(
                "that is not a reference to a one-time password",
                hint='write it as "op://Vault/Item/one-time password", without a query',
            )
        return base
