"""Mint one token: secrets → issuer → checks; again after passing trouble; once more with a rotated credential.

Rules of this file:
1. At most two token requests are made for one rejected credential, however many callers wait.
2. The vault is read again only when a person may be asked, or when it never asks.
3. During a rotation either of two secrets may be the one that works: the second request of an incident is made with
   what the vault has now, or, when that was the one refused, with the one that it replaced.
"""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING, Final

from tokenbroker import claims, lifecycle
from tokenbroker.errors import BrokerError, CredentialRejected, IssuerUnavailable, VaultError
from tokenbroker.model import Asker, Credentials, Grant, Secret, SecretRef, Token, Validity

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tokenbroker.config import ClientConfig, Config, ProfileConfig
    from tokenbroker.model import TokenKey
    from tokenbroker.ports import AuditSink, Clock, Issuer
    from tokenbroker.unlock import Unlock
    from tokenbroker.unlocks import Unlocks

RETRY_WITHIN: Final = 10.0  # seconds after a fetch began in which it may try once more


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
        self._incidents: dict[str, asyncio.Lock] = {}
        """Per client: held by the flight that finds out which credential works."""

    def needs_nobody(self, key: TokenKey) -> bool:
        """Tell whether a fetch for `key` could not put a question on anybody's screen now."""
        client = self._config.clients[key.client]
        unlock = self._unlock_of(client)
        if not unlock.vault.may_prompt:
            return True
        try:
            return unlock.peek(tuple(client.refs())) is not None
        except VaultError:
            return False

    def may_reread(self, key: TokenKey, *, may_prompt: bool) -> bool:
        """Tell whether the vault may be read again on behalf of someone who may, or may not, cause a prompt."""
        return may_prompt or not self._unlock_of(self._config.clients[key.client]).vault.may_prompt

    def _unlock_of(self, client: ClientConfig) -> Unlock:
        return self._unlocks.of(client.agent_type)

    async def fetch(self, key: TokenKey, *, attempts: int, may_reread: bool, suspect: bool = False) -> Token:
        """Return a new token for `key`.

        Makes up to `attempts` token requests while the trouble is passing. `may_reread` allows reading the vault again
        for a refused credential; `suspect` says that it was refused before, so that is done first.
        Raises what the issuer and vault ports raise, and `TokenMismatch`.
        """
        client = self._config.clients[key.client]
        if suspect and not await self._credential_changed(client):
            raise _unchanged(client)
        began = self._clock.now().elapsed
        for attempt in count(1):
            secrets = await self._unlock_of(client).secrets(tuple(client.refs()), may_prompt=False)
            try:
                return await self._request(key, client, secrets)
            except IssuerUnavailable as error:
                late = self._clock.now().elapsed - began > RETRY_WITHIN
                if attempt == attempts or late or error.retry_after is not None:
                    raise
                await self._clock.sleep(lifecycle.attempt_delay(attempt, spread=self._random()))
            except CredentialRejected:
                if suspect:
                    raise
                token = await self._with_another(key, client, secrets, may_reread=may_reread)
                if token is None:
                    raise
                return token
        raise AssertionError  # the count has no end

    async def _with_another(
        self, key: TokenKey, client: ClientConfig, refused: Mapping[SecretRef, Secret], *, may_reread: bool
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
                return await self._request(key, client, other)
        return await self._request(key, client, other)

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

    async def _request(self, key: TokenKey, client: ClientConfig, secrets: Mapping[SecretRef, Secret]) -> Token:
        """Make one token request and check what came."""
        issuer = self._config.issuers[client.issuer]
        profile = self._config.profiles[key.profile]
        organization = {"organization": profile.organization} if profile.organization else {}
        issued = self._clock.now()
        try:
            answer = await self._issuers[client.issuer].issue(
                self._credentials(client, secrets),
                scopes=key.scopes,
                audience=key.audience,
                resource=key.resource,
                extra={**profile.extra_params, **organization},  # over the issuer's own, which its adapter knows
                grant=self._grant(client, profile, secrets),
            )
        except CredentialRejected:
            self._unlock_of(client).judge(secrets, works=False)
            raise
        self._unlock_of(client).judge(secrets, works=True)
        return Token(
            value=answer.access_token,
            validity=Validity(issued, answer.lifetime),
            scope=claims.check(answer, key, client, issuer),
            token_type=answer.token_type,
            jitter=self._random(),
            checked=answer.checked,
            bound_to=claims.bound_to(answer),
            proof_key=answer.proof_key,
            jti=claims.jti(answer),
        )

    def _grant(self, client: ClientConfig, profile: ProfileConfig, secrets: Mapping[SecretRef, Secret]) -> Grant:
        return Grant(
            type=client.grant or self._config.issuers[client.issuer].grant,
            subject=client.subject,
            subject_token=secrets[client.subject_token] if client.subject_token else None,
            subject_token_type=client.subject_token_type,
            actor_token=secrets[client.actor_token] if client.actor_token else None,
            actor_token_type=client.actor_token_type,
            requested_token_type=client.requested_token_type,
            installation=client.installation,
            repositories=profile.repositories,
        )

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
