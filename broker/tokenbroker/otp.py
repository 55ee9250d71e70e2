"""One-time passwords of the vault's items, for programs that a rule allows: read anew each time, kept nowhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tokenbroker import policy
from tokenbroker.config.fields import Problem
from tokenbroker.config.values import secret_reference
from tokenbroker.errors import Busy, Denied, PeerGone, SecretNotFound, UsageError
from tokenbroker.model import AgentType, Asker, Secret, SecretRef, claimed

if TYPE_CHECKING:
    from tokenbroker.broker import Broker
    from tokenbroker.model import Peer
    from tokenbroker.ports import Approver, AuditSink, Clock, PeerInspector

DAY: Final = 86400.0  # seconds
LIMITS: Final = ((20, 600.0), (100, DAY))
"""How many within how many seconds. A person logs in a few times a day; a service account on the smallest plan may be
read a thousand times in one, and jobs need that too."""
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
        self._read_at: list[float] = []

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
        self._count()
        sessions = self._broker.sessions
        session = sessions.of(peer, allow.agent_type, self._clock.now())
        try:
            code = await self._broker.unlocks.of(allow.agent_type).read_once(
                SecretRef(base + _QUERY),
                may_prompt=may_prompt and allow.agent_type is AgentType.INTERACTIVE,
                asker=Asker(peer.named(), peer.pid, f"a one-time password of {base}", claimed(reason)),
            )
        except SecretNotFound as error:
            raise SecretNotFound(
                f"{base}: no one-time password can be read there", hint=(error.hint or "").replace(_QUERY, "") or None
            ) from None
        # While a person was asked, rules may have changed and the session may have been revoked.
        if policy.decide_otp(self._broker.config, base, peer, lowered=lowered) != allow:
            raise Busy("the configuration changed meanwhile", hint="run the command again", retry_after=0.0)
        sessions.check(session)
        if not self._inspector.still_there(peer):
            raise PeerGone.of(peer)
        self._audit.record("one-time password given", {"otp": base, "pid": peer.pid, "exe": peer.exe})
        return code

    def _count(self) -> None:
        """Raise `Busy` when so many were read that it must be a loop: each is a call, and may be a prompt."""
        now = self._clock.now().elapsed
        self._read_at = [at for at in self._read_at if now - at < DAY]
        for most, within in LIMITS:
            recent = [at for at in self._read_at if now - at < within]
            if len(recent) >= most:
                raise Busy(
                    f"{most} one-time passwords were read within {within / 60:.0f} min, and no more are",
                    hint="ask when a login needs one; see the log for who asks",
                    retry_after=within - (now - recent[-most]),
                )
        self._read_at.append(now)

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
