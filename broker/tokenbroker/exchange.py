"""Mint one token: secrets → issuer → checks; again after passing trouble; once more with a rotated credential.

Rules of this file:
1. At most two token requests are made for one rejected credential, however many callers wait.
2. The vault is read again only when a person may be asked, or when it never asks.
3. During a rotation either of two secrets may be the one that works: the second request of an incident is made with
   what the vault has now, or, when that was the one refused, with the one that it replaced.
4. A token of another profile that an issuer refuses to exchange is replaced once; the next one that is refused stays.
"""

from __future__ import annotations

import asyncio
import contextlib
from itertools import count
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from tokenbroker import claims, delegation, lifecycle
from tokenbroker.allowance import Allowance, Holder
from tokenbroker.breaker import Breaker
from tokenbroker.errors import (
    BrokerError,
    CredentialRejected,
    IssuerError,
    IssuerUnavailable,
    SubjectRefused,
    VaultError,
)
from tokenbroker.model import Asker, Credentials, Grant, Secret, SecretRef, Token, Validity

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from tokenbroker.config import ClientConfig, Config, ProfileConfig, RevokeOn
    from tokenbroker.model import Instant, TokenKey
    from tokenbroker.ports import AuditSink, Clock, Issuer
    from tokenbroker.unlock import Unlock
    from tokenbroker.unlocks import Unlocks

    Held = Mapping[str, Token]  # profile → its token, which is presented for exchange
    Replace = Callable[[Held], Awaitable[Held]]  # drops those, and gives others

RETRY_WITHIN: Final = 3.0  # seconds after a fetch began in which it may try once more, and be done before callers leave
_NONE: Final[Held] = MappingProxyType({})


class Exchange:
    """Token requests for one configuration."""

    def __init__(
        self,
        config: Config,
        issuers: Mapping[str, Issuer],
        *,
        unlocks: Unlocks,
        audit: AuditSink,
        clock: Clock,
        random: Callable[[], float],
    ) -> None:
        """`issuers` has one adapter for each of the configuration's issuers; `random` gives numbers in [0, 1)."""
        self._config = config
        self._issuers = issuers
        self._unlocks = unlocks
        self._audit = audit
        self._clock = clock
        self._random = random
        self.allowance = Allowance()
        self.breaker = Breaker(clock.now, random)
        self._incidents: dict[str, asyncio.Lock] = {}
        """Per client: held by the flight that finds out which credential works."""
        self._in_vain: dict[str, frozenset[str]] = {}
        """Per client: fingerprints of the tokens that replaced refused ones, until something is accepted."""

    def needs_nobody(self, key: TokenKey) -> bool:
        """Tell whether a fetch for `key` could not put a question on anybody's screen now."""
        client = self._config.clients[key.client]
        unlock = self._unlock_of(client)
        if not unlock.vault.may_prompt:
            return True
        try:
            return unlock.peek(self.refs(key)) is not None
        except VaultError:
            return False

    def may_reread(self, key: TokenKey, *, may_prompt: bool) -> bool:
        """Tell whether the vault may be read again on behalf of someone who may, or may not, cause a prompt."""
        return may_prompt or not self._unlock_of(self._config.clients[key.client]).vault.may_prompt

    def refs(self, key: TokenKey) -> tuple[SecretRef, ...]:
        """Return the secrets that a fetch for `key` needs, those of the tokens that it exchanges included."""
        clients = self._config.clients
        client = clients[key.client]
        beneath = (clients[each.client] for each in delegation.lineage(self._config, client))
        return tuple(dict.fromkeys(ref for each in (client, *beneath) for ref in each.refs()))

    def presented(self, key: TokenKey) -> tuple[TokenKey, ...]:
        """Return the tokens of other profiles that a fetch for `key` presents. Raises `IssuerMisconfigured`."""
        return delegation.presented(self._config, self._config.clients[key.client])

    def low(self, key: TokenKey) -> bool:
        """Tell whether so little is left of a quota that `key` counts for, that its tokens must be spared."""
        holder = self._holder(key)
        return self.allowance.low(holder, self._config.issuers[holder.issuer].quota_floor, self._clock.now())

    def forgive(self, clients: set[str]) -> None:
        """Let the requests of these clients be tried at once, whatever issuers said or did not say to the last ones."""
        known = clients & self._config.clients.keys()
        self.breaker.forgive({self._config.clients[name].issuer for name in known}, known)
        self.allowance.forgive(known.__contains__)

    def _holder(self, key: TokenKey) -> Holder:
        client, profile = self._config.clients[key.client], self._config.profiles[key.profile]
        organization = profile.organization or self._config.issuers[client.issuer].organization
        return Holder(client.issuer, client.name, organization)

    @contextlib.contextmanager
    def _restrained(self, key: TokenKey, now: Instant) -> Iterator[None]:
        """Make one token request inside; raise what is known already if it would be in vain."""
        holder = self._holder(key)
        self.allowance.check(holder, now)
        with self.breaker.request(holder.issuer, holder.client):
            try:
                yield
            except IssuerError as error:
                self.allowance.note(holder, error.quotas, now)
                raise

    def _unlock_of(self, client: ClientConfig) -> Unlock:
        return self._unlocks.of(client.agent_type)

    async def fetch(
        self,
        key: TokenKey,
        *,
        attempts: int,
        may_reread: bool,
        suspect: bool = False,
        held: Held = _NONE,
        replace: Replace | None = None,
    ) -> Token:
        """Return a new token for `key`.

        Makes up to `attempts` token requests while the trouble is passing. `may_reread` allows reading the vault again
        for a refused credential; `suspect` says that it was refused before, so that is done first. `held` has the
        tokens of the profiles in `presented`; `replace` gives others for them once, if they are refused.
        Raises what the issuer and vault ports raise, and `TokenMismatch`.
        """
        client = self._config.clients[key.client]
        if suspect and not await self._credential_changed(client):
            raise _unchanged(client)
        try:
            return await self._persist(key, client, held, attempts=attempts, may_reread=may_reread, suspect=suspect)
        except SubjectRefused:
            others = await self._others(client, held, replace)
            if others is None:
                raise
        return await self._persist(key, client, others, attempts=attempts, may_reread=may_reread, suspect=suspect)

    async def _persist(
        self, key: TokenKey, client: ClientConfig, held: Held, *, attempts: int, may_reread: bool, suspect: bool
    ) -> Token:
        """Make token requests while the trouble is passing, and one more for a refused credential."""
        began = self._clock.now().elapsed
        for attempt in count(1):
            secrets = await self._unlock_of(client).secrets(tuple(client.refs()), may_prompt=False)
            try:
                return await self._request(key, client, secrets, held)
            except IssuerUnavailable as error:
                late = self._clock.now().elapsed - began > RETRY_WITHIN
                if attempt == attempts or late or error.retry_after is not None:
                    raise
                await self._clock.sleep(lifecycle.attempt_delay(attempt, spread=self._random()))
            except CredentialRejected:
                if suspect:
                    raise
                token = await self._with_another(key, client, secrets, held, may_reread=may_reread)
                if token is None:
                    raise
                return token
        raise AssertionError  # the count has no end

    async def _others(self, client: ClientConfig, refused: Held, replace: Replace | None) -> Held | None:
        """Return other tokens than those that were refused; `None` if there are none, or they are in vain."""
        if not refused or replace is None or _fingerprints(refused) & self._in_vain.get(client.name, frozenset()):
            return None
        others = await replace(refused)
        self._in_vain[client.name] = _fingerprints(others)
        return others if others != refused else None

    async def _with_another(
        self, key: TokenKey, client: ClientConfig, refused: Mapping[SecretRef, Secret], held: Held, *, may_reread: bool
    ) -> Token | None:
        """Make the second and last request of an incident, with another credential; `None` when there is none.

        One flight of a client at a time finds out what works; the others then use that, or are spared.
        """
        unlock = self._unlock_of(client)
        async with self._incidents.setdefault(client.name, asyncio.Lock()):
            other = await self._another(client, refused, may_reread=may_reread)
            if other is None:
                return None
            if unlock.verdict(other) is None:
                return await self._request(key, client, other, held)
        return await self._request(key, client, other, held)

    async def _another(
        self, client: ClientConfig, refused: Mapping[SecretRef, Secret], *, may_reread: bool
    ) -> Mapping[SecretRef, Secret] | None:
        """Return another credential than the one refused, and none that was refused a moment ago.

        What is in memory meanwhile, else what the vault has now, else what that replaced.
        """
        unlock, refs = self._unlock_of(client), tuple(client.refs())

        def fit(found: Mapping[SecretRef, Secret] | None) -> bool:
            return found is not None and found != refused and unlock.verdict(found) is not False

        present = unlock.peek(refs)
        if not fit(present) and may_reread and present == refused:
            await self._credential_changed(client)
            present = unlock.peek(refs)
        if fit(present):
            return present
        before = unlock.before(refs)
        if not fit(before):
            return None
        self._audit.record("credential before tried", {"client": client.name})
        return before

    async def _credential_changed(self, client: ClientConfig) -> bool:
        """Read the client's secrets again past every cache; tell whether anything is new."""
        unlock, refs = self._unlock_of(client), tuple(client.refs())
        asker = Asker("tokenbroker itself", None, f"another look at the secret of client `{client.name}`, now refused")
        before = unlock.peek(refs)
        try:
            after = await unlock.reread(refs, asker=asker)
        except BrokerError as error:
            self._audit.record("credential not read again", {"client": client.name, "why": str(error)})
            return False
        self._audit.record("credential read again", {"client": client.name, "changed": before != after})
        return before != after

    async def _request(
        self, key: TokenKey, client: ClientConfig, secrets: Mapping[SecretRef, Secret], held: Held
    ) -> Token:
        """Make one token request and check what came."""
        issuer = self._config.issuers[client.issuer]
        profile = self._config.profiles[key.profile]
        organization = {"organization": profile.organization} if profile.organization else {}
        credentials, grant = self._credentials(client, secrets), self._grant(client, profile, secrets, held)
        hidden = (*secrets.values(), *(token.value for token in held.values()))
        asked = claims.Asked(credentials.client_id, profile.organization or issuer.organization, grant.type, hidden)
        issued = self._clock.now()
        try:
            with self._restrained(key, issued):
                answer = await self._issuers[client.issuer].issue(
                    credentials,
                    scopes=key.scopes,
                    audience=key.audience,
                    resource=key.resource,
                    extra={**profile.extra_params, **organization},  # over the issuer's own, which its adapter knows
                    grant=grant,
                )
        except CredentialRejected:
            self._unlock_of(client).judge(secrets, works=False)
            raise
        self.allowance.note(self._holder(key), answer.quotas, issued)
        self._unlock_of(client).judge(secrets, works=True)
        self._in_vain.pop(client.name, None)
        delegation.check_actor(answer.claims, client, credentials.client_id, grant.actor_token)
        return Token(
            value=answer.access_token,
            validity=Validity(issued, answer.lifetime),
            scope=claims.check(answer, key, client, issuer, asked),
            token_type=answer.token_type,
            jitter=self._random(),
            checked=answer.checked,
            bound_to=claims.bound_to(answer),
            proof_key=answer.proof_key,
            jti=claims.jti(answer, asked.hidden),
        )

    def _grant(
        self, client: ClientConfig, profile: ProfileConfig, secrets: Mapping[SecretRef, Secret], held: Held
    ) -> Grant:
        def token(ref: SecretRef | None, of_profile: str | None) -> Secret | None:
            if of_profile is not None:
                return held[of_profile].value
            return None if ref is None else secrets[ref]

        return Grant(
            type=client.grant or self._config.issuers[client.issuer].grant,
            subject=client.subject,
            subject_token=token(client.subject_token, client.subject_profile),
            subject_token_type=client.subject_token_type,
            actor_token=token(client.actor_token, client.actor_profile),
            actor_token_type=client.actor_token_type,
            requested_token_type=client.requested_token_type,
            installation=client.installation,
            repositories=profile.repositories,
        )

    def credentials(self, key: TokenKey) -> Credentials | None:
        """Return what the client of `key` authenticates with, if that is in memory; asks nobody."""
        client = self._config.clients.get(key.client)
        if client is None:
            return None
        try:
            secrets = self._unlock_of(client).peek(tuple(client.refs()))
        except VaultError:
            return None
        return None if secrets is None else self._credentials(client, secrets)

    def issuer_that_revokes(self, key: TokenKey, on: RevokeOn) -> Issuer | None:
        """Return the issuer of the token of `key`, if it is configured to be told of this occasion."""
        client = self._config.clients.get(key.client)
        if client is None or on not in self._config.issuers[client.issuer].revoke_on:
            return None
        return self._issuers[client.issuer]

    def _credentials(self, client: ClientConfig, secrets: Mapping[SecretRef, Secret]) -> Credentials:
        issuer = self._config.issuers[client.issuer]
        client_id = client.client_id
        return Credentials(
            client_id=secrets[client_id].reveal() if isinstance(client_id, SecretRef) else client_id,
            auth=client.auth or issuer.auth,
            client_secret=secrets[client.client_secret] if client.client_secret else None,
            private_key=secrets[client.private_key] if client.private_key else None,
            certificate=secrets[client.certificate] if client.certificate else None,
            key_id=client.key_id,
            basic_encoding=client.basic_encoding or issuer.basic_encoding,
            dpop=issuer.dpop if client.dpop is None else client.dpop,
        )


def _unchanged(client: ClientConfig) -> CredentialRejected:
    return CredentialRejected(
        f"the issuer refused the credential of client `{client.name}`, and the vault still holds the same one",
        hint=f"check {client.client_secret or client.private_key} in the vault, then `broker unlock`",
    )


def _fingerprints(held: Held) -> frozenset[str]:
    return frozenset(token.fingerprint for token in held.values())
