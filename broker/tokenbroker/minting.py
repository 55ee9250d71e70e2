"""Mint one token: credentials and grant → quota and breaker → issuer → checks.

What is tried again, and with which credential, is decided in `exchange`.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from tokenbroker import claims, delegation
from tokenbroker.allowance import Allowance, Holder
from tokenbroker.breaker import Breaker
from tokenbroker.errors import IssuerError
from tokenbroker.model import Credentials, Grant, SecretRef, Token, Validity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tokenbroker.config import ClientConfig, Config, ProfileConfig, RevokeOn
    from tokenbroker.model import Instant, Secret, TokenKey
    from tokenbroker.ports import Clock, Issuer

    Held = Mapping[str, Token]  # profile → its token, which is presented for exchange


class Minting:
    """Token requests for one configuration."""

    def __init__(
        self, config: Config, issuers: Mapping[str, Issuer], *, clock: Clock, random: Callable[[], float]
    ) -> None:
        """`issuers` has one adapter for each of the configuration's issuers; `random` gives numbers in [0, 1)."""
        self.issuers = issuers
        self.allowance = Allowance()
        self.breaker = Breaker(clock.now, random)
        self._config = config
        self._clock = clock
        self._random = random

    def inherit(self, before: Minting) -> None:
        """Take over what is known of the issuers, as far as they are the same as before."""
        self.allowance, self.breaker = before.allowance, before.breaker
        others = {name for name, issuer in self._config.issuers.items() if before._config.issuers.get(name) != issuer}
        clients = {client.name for client in self._config.clients.values() if client.issuer in others}
        self.breaker.forgive(others, clients)
        self.allowance.forgive(clients.__contains__)

    def low(self, key: TokenKey) -> bool:
        """Tell whether so little is left of a quota that `key` counts for, that its tokens must be spared."""
        holder = self._holder(key)
        return self.allowance.low(holder, self._config.issuers[holder.issuer].quota_floor, self._clock.now())

    def forgive(self, clients: set[str]) -> None:
        """Let the requests of these clients be tried at once, whatever issuers said or did not say to the last ones."""
        known = clients & self._config.clients.keys()
        self.breaker.forgive({self._config.clients[name].issuer for name in known}, known)
        self.allowance.forgive(known.__contains__)

    async def mint(self, key: TokenKey, secrets: Mapping[SecretRef, Secret], held: Held) -> Token:
        """Make one token request and check what came. `held` has the tokens that are presented for exchange.

        Raises what the issuer port raises, `TokenMismatch`, and what is remembered if the request would be in vain.
        """
        client = self._config.clients[key.client]
        issuer = self._config.issuers[client.issuer]
        profile = self._config.profiles[key.profile]
        organization = {"organization": profile.organization} if profile.organization else {}
        credentials, grant = self.credentials(client, secrets), self._grant(client, profile, secrets, held)
        own = (secret for ref, secret in secrets.items() if ref != client.client_id)  # which is no secret
        hidden = (*own, *(token.value for token in held.values()))
        asked = claims.Asked(credentials.client_id, profile.organization or issuer.organization, grant.type, hidden)
        issued = self._clock.now()
        with self._restrained(key, issued):
            answer = await self.issuers[client.issuer].issue(
                credentials,
                scopes=key.scopes,
                audience=key.audience,
                resource=key.resource,
                extra={**profile.extra_params, **organization},  # over the issuer's own, which its adapter knows
                grant=grant,
            )
        self.allowance.note(self._holder(key), answer.quotas, issued)
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
            remarks=(*answer.remarks, *claims.remarks(answer, key, client, issuer, asked)),
        )

    def issuer_that_revokes(self, key: TokenKey, on: RevokeOn) -> Issuer | None:
        """Return the issuer of the token of `key`, if it is configured to be told of this occasion."""
        client = self._config.clients.get(key.client)
        if client is None or on not in self._config.issuers[client.issuer].revoke_on:
            return None
        return self.issuers[client.issuer]

    def credentials(self, client: ClientConfig, secrets: Mapping[SecretRef, Secret]) -> Credentials:
        """Return what `client` authenticates with."""
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
