"""What a token holds, before it is served: a JWT's signature (RFC 7517), an opaque token's introspection (RFC 7662).

Rules of this file:
1. What can be checked and is wrong is refused: a JWT that nobody signed, that the issuer's own key did not sign, or
   whose key is none of the issuer's.
2. What cannot be checked is served where the configuration says `auto`, with `checked` telling how little was seen and
   a remark telling why; under `require` it is refused, with the reason.
3. One further request at most for each token that is minted, and none where it was in vain a while ago.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from tokenbroker.errors import PASSING, IssuerError, IssuerMisconfigured, IssuerUnavailable, TokenMismatch
from tokenbroker.issuers import compact, introspection
from tokenbroker.issuers.introspection import Untold
from tokenbroker.issuers.jwks import ASK_AGAIN_AFTER, ASYMMETRIC, WITHIN, KeySet, Verdict
from tokenbroker.issuers.response import check_begun, told_lifetime
from tokenbroker.model import Checked
from tokenbroker.scrub import scrub

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
    """A clause; `it` is the token."""
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
        self._untold_why = ""

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

    def unseen(self, answer: IssuerAnswer) -> IssuerAnswer:
        """Return `answer`, into which nobody will look, with the reason."""
        if answer.claims is None:
            return self._unexplained(answer) if self._config.introspection == "auto" else answer
        if self._config.signature == "ignore":
            return self._unchecked(answer)
        jwt = compact.read(answer.access_token.reveal())
        obstacle = None if jwt is None else self._obstacle(jwt)
        return answer if obstacle is None else _remarked(answer, obstacle.why)

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
        if answer.checked is Checked.SIGNATURE:
            return answer
        if not self._to_ask(jwt):
            return self.unseen(answer) if jwt is None else answer
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
            return self._unchecked(answer)
        obstacle = self._obstacle(jwt)
        if obstacle is None:
            obstacle = await self._obstacle_at_keys(answer.access_token.reveal(), jwt, endpoints.jwks_uri, attempt)
        if obstacle is None:
            return replace(answer, checked=Checked.SIGNATURE)
        if self._config.signature == "auto":
            return _remarked(answer, obstacle.why)
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
            return _Obstacle("its header has a nonce, so only its audience can check it", 'set signature = "auto"')
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
                why = f"the issuer's keys cannot be had: {self._keys.failure}"
                return _Obstacle(why, f"see whether {uri} can be reached", ASK_AGAIN_AFTER)
        if self._keys.asked >= attempt.started.elapsed:
            raise TokenMismatch(
                f"{attempt.subject} sent a JWT ({name}) that no key at {uri} can have signed",
                hint=f'write signature = "ignore" in [issuers.{self._config.name}] if it signs with keys that it does '
                "not publish, as Okta's org server does; otherwise check jwks_uri, and who answers there",
            )
        return _Obstacle(  # a rotation, perhaps
            f"its key ({name}) is not among those at {uri}, which were fetched before it was issued",
            "see whether the issuer publishes the key",
            ASK_AGAIN_AFTER,
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
            reply = await self._asked(endpoints, introspect)
            told = introspection.read(reply, answer.access_token, attempt)
        except Untold as silence:
            return self._untold(answer, silence, attempt)
        check_begun(told, reply, attempt)
        left = told_lifetime(told, reply, attempt)
        return replace(
            answer,
            claims=told if answer.claims is None else answer.claims,
            checked=Checked.INTROSPECTION,
            lifetime=answer.lifetime if left is None else min(answer.lifetime, left),
        )

    async def _asked(self, endpoints: Endpoints, introspect: Introspect) -> Reply:
        """Ask, and wait no longer than a token that is good without an answer may be held up. Raises `Untold`."""
        url, elsewhere = endpoints.introspection, endpoints.introspection_elsewhere
        if url is None and elsewhere is not None:
            raise Untold(
                "its introspection endpoint is on another host and not asked; if that is right, write "
                f'introspection_endpoint = "{scrub(elsewhere, ())}" in [issuers.{self._config.name}]'
            )
        if url is None:
            raise Untold("it names no introspection endpoint")
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
            self._untold_why = str(silence)
            return self._unexplained(answer)
        message = f"{attempt.subject} does not say what its token holds (RFC 7662): {silence}"
        if silence.passes:
            raise IssuerUnavailable(message, retry_after=PASSING)
        raise IssuerMisconfigured(
            message,
            hint='let this client introspect at the issuer, or set introspection = "auto" '
            f"in [issuers.{self._config.name}]",
        )

    def _unexplained(self, answer: IssuerAnswer) -> IssuerAnswer:
        """Return `answer` with what the issuer gave as the reason when it was last asked."""
        return _remarked(answer, f"the issuer does not say what it holds: {self._untold_why}")

    def _unchecked(self, answer: IssuerAnswer) -> IssuerAnswer:
        return _remarked(answer, f'signature = "ignore" is set in [issuers.{self._config.name}]')

    def _mismatch(self, message: str, hint: str) -> TokenMismatch:
        return TokenMismatch(message, hint=self._placed(hint))

    def _placed(self, hint: str) -> str:
        """Say where a setting that a hint names has its place."""
        return f"{hint} in [issuers.{self._config.name}]" if "set " in hint else hint


def _remarked(answer: IssuerAnswer, remark: str) -> IssuerAnswer:
    return replace(answer, remarks=(*answer.remarks, remark))
