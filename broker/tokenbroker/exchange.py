"""Have one token minted: again after passing trouble, and once more with a rotated credential.

Rules of this file:
1. At most two token requests are made for one rejected credential, however many callers wait.
2. The vault is read again only when a person may be asked, or when it never asks.
3. During a rotation either of two secrets may be the one that works: the second request of an incident is made with
   what the vault has now, or, when that was the one refused, with the one that it replaced.
4. A token of another profile that an issuer refuses to exchange is replaced once; the next one that is refused stays.
"""

from __future__ import annotations

import asyncio
from itertools import count
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from tokenbroker import backoff, delegation
from tokenbroker.errors import (
    BrokerError,
    CredentialRejected,
    IssuerUnavailable,
    SubjectRefused,
    TokenMismatch,
    VaultError,
)
from tokenbroker.minting import Minting
from tokenbroker.model import Asker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from tokenbroker.config import ClientConfig, Config
    from tokenbroker.minting import Held
    from tokenbroker.model import Credentials, Secret, SecretRef, Token, TokenKey
    from tokenbroker.ports import AuditSink, Clock, Issuer
    from tokenbroker.unlock import Unlock
    from tokenbroker.unlocks import Unlocks

    Replace = Callable[[Held], Awaitable[Held]]  # drops those, and gives others

RETRY_WITHIN: Final = 3.0  # seconds after a fetch began in which it may try once more, and be done before callers leave
_NONE: Final[Held] = MappingProxyType({})


class Exchange:
    """Fetches for one configuration."""

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
        self.minting = Minting(config, issuers, clock=clock, random=random)
        self._config = config
        self._unlocks = unlocks
        self._audit = audit
        self._clock = clock
        self._random = random
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

    def credentials(self, key: TokenKey) -> Credentials | None:
        """Return what the client of `key` authenticates with, if that is in memory; asks nobody."""
        client = self._config.clients.get(key.client)
        if client is None:
            return None
        try:
            secrets = self._unlock_of(client).peek(tuple(client.refs()))
        except VaultError:
            return None
        return None if secrets is None else self.minting.credentials(client, secrets)

    def mark(self, client: str) -> int | None:
        """Return what tells the client's secrets from others, and nothing of them; `None` when none are in memory.

        Python's hash is keyed by a random number of the process, and never leaves it.
        """
        known = self._config.clients.get(client)
        if known is None:
            return None
        try:
            found = self._unlock_of(known).peek(tuple(known.refs()))
        except VaultError:
            return None
        return None if found is None else hash(tuple(found.items()))

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
                if attempt == attempts or late or error.retry_after is not None or backoff.costs(error):
                    raise
                await self._clock.sleep(backoff.attempt_delay(attempt, spread=self._random()))
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

    async def _request(
        self, key: TokenKey, client: ClientConfig, secrets: Mapping[SecretRef, Secret], held: Held
    ) -> Token:
        """Make one token request, and judge the credential by what comes of it."""
        try:
            token = await self.minting.mint(key, secrets, held)
        except CredentialRejected:
            self._unlock_of(client).judge(secrets, works=False)
            raise
        except TokenMismatch:
            self._accepted(client, secrets)
            raise
        self._accepted(client, secrets)
        return token

    def _accepted(self, client: ClientConfig, secrets: Mapping[SecretRef, Secret]) -> None:
        self._unlock_of(client).judge(secrets, works=True)
        self._in_vain.pop(client.name, None)

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


def _unchanged(client: ClientConfig) -> CredentialRejected:
    return CredentialRejected(
        f"the issuer refused the credential of client `{client.name}`, and the vault still holds the same one",
        hint=f"check {client.client_secret or client.private_key} in the vault, then `broker unlock`",
    )


def _fingerprints(held: Held) -> frozenset[str]:
    return frozenset(token.fingerprint for token in held.values())
