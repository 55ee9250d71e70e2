"""What a token holds, before it is served: a JWT's signature (RFC 7517), an opaque token's introspection (RFC 7662).

Rules of this file:
1. What can be checked and is wrong is refused: a JWT that nobody signed, or that the issuer's own key did not sign.
2. What cannot be checked is served where the configuration says `auto`, with `checked` telling how little was seen;
   under `require` it is refused, with the reason.
3. One further request at most for each token that is minted, and none where it was in vain a while ago.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from tokenbroker.errors import PASSING, IssuerError, IssuerMisconfigured, IssuerUnavailable, TokenMismatch
from tokenbroker.issuers import compact, introspection
from tokenbroker.issuers.exchange import scrub
from tokenbroker.issuers.introspection import Untold
from tokenbroker.issuers.jwks import ASK_AGAIN_AFTER, ASYMMETRIC, WITHIN, KeySet, Verdict
from tokenbroker.issuers.response import told_lifetime
from tokenbroker.model import Checked

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tokenbroker.config import IssuerConfig
    from tokenbroker.issuers.compact import Jwt
    from tokenbroker.issuers.discovery import Endpoints
    from tokenbroker.issuers.exchange import Attempt, Reply
    from tokenbroker.model import IssuerAnswer
    from tokenbroker.ports import Clock

    Introspect = Callable[[str], Awaitable[Reply]]

UNTOLD_FOR: Final = 600.0  # seconds in which an issuer that refused to introspect is not asked again
UNREACHED_FOR: Final = 30.0  # seconds in which one that could not be reached, or was unable, is not asked again


@dataclass(frozen=True, slots=True)
class _Obstacle:
    """Why a signature cannot be checked."""

    why: str
    """Goes on a sentence about the token."""
    hint: str
    again_in: float | None = None
    """Seconds after which it may be different; `None`: it stays so."""


class Inspection:
    """Looks into the tokens of one issuer."""

    def __init__(self, config: IssuerConfig, *, clock: Clock, get: Callable[[str, Attempt], Awaitable[Reply]]) -> None:
        """Fetch keys with `get(url, attempt)`, which raises `IssuerError` for anything but an HTTP answer."""
        self._config = config
        self._clock = clock
        self._keys = KeySet(config, clock=clock, get=get)
        self._untold_until = 0.0

    def wanted(self, answer: IssuerAnswer) -> bool:
        """Tell whether there may be anything to look at, by the configuration and the token's form."""
        config = self._config
        if answer.claims is None:
            return config.signature == "require" or self._to_ask(None)
        jwt = compact.read(answer.access_token.reveal())
        if jwt is None or not jwt.signed:
            return True
        checkable = config.signature == "require" or (config.signature == "auto" and self._obstacle(jwt) is None)
        return checkable or self._to_ask(jwt)

    async def look_into(
        self, answer: IssuerAnswer, endpoints: Endpoints, attempt: Attempt, introspect: Introspect
    ) -> IssuerAnswer:
        """Return `answer` with its claims and `checked` as found. Raises `TokenMismatch` and `IssuerError`."""
        token = answer.access_token.reveal()
        jwt = compact.read(token)
        if jwt is not None:
            answer = await self._verified(answer, jwt, endpoints, attempt)
        elif self._config.signature == "require":
            raise self._mismatch(
                f"{attempt.subject} sent an opaque token, which has no signature to check",
                'have the issuer make JWTs, or set signature = "auto"',
            )
        if answer.checked is Checked.SIGNATURE or not self._to_ask(jwt):
            return answer
        return await self._introspected(answer, endpoints, attempt, introspect)

    async def close(self) -> None:
        """Give up what is under way. May be called twice."""
        await self._keys.close()

    async def _verified(self, answer: IssuerAnswer, jwt: Jwt, endpoints: Endpoints, attempt: Attempt) -> IssuerAnswer:
        if not jwt.signed:
            raise self._mismatch(
                f"{attempt.subject} sent a JWT without a signature (RFC 7519 §6)",
                "have the issuer sign its tokens, say with RS256",
            )
        if self._config.signature == "ignore":
            return answer
        obstacle = self._obstacle(jwt)
        if obstacle is None:
            obstacle = await self._obstacle_at_keys(answer.access_token.reveal(), jwt, endpoints.jwks_uri, attempt)
        if obstacle is None:
            return replace(answer, checked=Checked.SIGNATURE)
        if self._config.signature == "auto":
            return answer
        message = f"{attempt.subject} sent a JWT whose signature cannot be checked: {obstacle.why}"
        if obstacle.again_in is None:
            raise self._mismatch(message, obstacle.hint)
        raise IssuerUnavailable(message, hint=self._placed(obstacle.hint), retry_after=obstacle.again_in)

    def _obstacle(self, jwt: Jwt) -> _Obstacle | None:
        """Say why nobody but the token's audience can check it, by its header alone."""
        if "crit" in jwt.header:
            return None  # refused, by the issuer's keys' side
        if jwt.alg not in ASYMMETRIC:
            shared = "with a secret that its audience has" if jwt.alg.startswith("HS") else "in a way not known here"
            return _Obstacle(
                f"it is signed with {scrub(jwt.alg, (), 20)}, {shared}",
                'choose RS256 for the API at the issuer, or set signature = "auto"',
            )
        if "nonce" in jwt.header:  # Entra's tokens for Microsoft Graph: the header that was signed is another one
            return _Obstacle("its header has a nonce, so only its audience can", 'set signature = "auto"')
        return None

    async def _obstacle_at_keys(self, token: str, jwt: Jwt, uri: str | None, attempt: Attempt) -> _Obstacle | None:
        """Check the signature; say why that was impossible. Raises `TokenMismatch` for one that is bad."""
        if "crit" in jwt.header:
            raise self._mismatch(
                f"{attempt.subject} sent a JWT whose header has `crit`, extensions which the broker does not know "
                "(RFC 7515 §4.1.11)",
                'have the issuer leave them out, or set signature = "ignore" if the API knows them',
            )
        if uri is None:
            return _Obstacle("the issuer names no keys", "set jwks_uri")
        name = f"{jwt.alg}, kid {scrub(jwt.kid, attempt.secrets, 60)}" if jwt.kid else f"{jwt.alg}, no kid"
        match await self._keys.verdict(token, jwt, uri):
            case Verdict.GOOD:
                return None
            case Verdict.BAD:
                raise self._mismatch(
                    f"{attempt.subject} sent a JWT ({name}) that the key of that name at {uri} did not sign",
                    "check jwks_uri, and who answers under the issuer's address",
                )
            case Verdict.LATER:
                return _Obstacle(f"{self._keys.failure}", f"see whether {uri} can be reached", ASK_AGAIN_AFTER)
        stale = self._keys.asked < attempt.started.elapsed
        return _Obstacle(
            f"no key at {uri} is the one that it names ({name})",
            'check jwks_uri, or set signature = "auto"',
            ASK_AGAIN_AFTER if stale else None,
        )

    def _to_ask(self, jwt: Jwt | None) -> bool:
        """Tell whether the issuer is to be asked what a token holds whose signature says nothing."""
        match self._config.introspection:
            case "never":
                return False
            case "require":
                return True
        return jwt is None and self._clock.now().elapsed >= self._untold_until

    async def _introspected(
        self, answer: IssuerAnswer, endpoints: Endpoints, attempt: Attempt, introspect: Introspect
    ) -> IssuerAnswer:
        """Ask what the token holds; what stands in a JWT itself counts, because that is what the API reads."""
        try:
            reply = await self._asked(endpoints.introspection, introspect)
            told = introspection.read(reply, answer.access_token, attempt)
        except Untold as silence:
            return self._untold(answer, silence, attempt)
        left = told_lifetime(told, reply, attempt)
        return replace(
            answer,
            claims=told if answer.claims is None else answer.claims,
            checked=Checked.INTROSPECTION,
            lifetime=answer.lifetime if left is None else min(answer.lifetime, left),
        )

    async def _asked(self, url: str | None, introspect: Introspect) -> Reply:
        """Ask, and wait no longer than a token that is good without an answer may be held up. Raises `Untold`."""
        if url is None:
            raise Untold("the issuer names no introspection endpoint")
        try:
            async with asyncio.timeout(None if self._config.introspection == "require" else WITHIN):
                return await introspect(url)
        except IssuerUnavailable as error:
            raise Untold(error.message, passes=True) from None
        except IssuerError as error:
            raise Untold(error.message) from None
        except TimeoutError:
            raise Untold(f"no answer within {WITHIN:g} s", passes=True) from None

    def _untold(self, answer: IssuerAnswer, silence: Untold, attempt: Attempt) -> IssuerAnswer:
        """Serve what nobody explains, unless an explanation is required. Raises `IssuerError`."""
        if self._config.introspection == "auto":
            self._untold_until = self._clock.now().elapsed + (UNREACHED_FOR if silence.passes else UNTOLD_FOR)
            return answer
        message = f"{attempt.subject} does not say what its token holds (RFC 7662): {silence}"
        if silence.passes:
            raise IssuerUnavailable(message, retry_after=PASSING)
        raise IssuerMisconfigured(
            message,
            hint='let this client introspect at the issuer, or set introspection = "auto" '
            f"in [issuers.{self._config.name}]",
        )

    def _mismatch(self, message: str, hint: str) -> TokenMismatch:
        return TokenMismatch(message, hint=self._placed(hint))

    def _placed(self, hint: str) -> str:
        """Say where a setting that a hint names has its place."""
        return f"{hint} in [issuers.{self._config.name}]" if "set " in hint else hint
