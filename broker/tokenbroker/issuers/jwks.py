"""An issuer's public keys (RFC 7517) and the JWTs that they signed.

Rules of this file:
1. The key set comes from the issuer's metadata or the configuration, never from a token: `jku`, `x5u`, `jwk` and `x5c`
   in a header are not looked at.
2. Only public keys of the algorithms below are keys: a shared secret, or a public key used as one, signs nothing here.
3. Whoever needs keys waits `WITHIN` at most, and nobody asks again for `ASK_AGAIN_AFTER`, whatever came of it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from tokenbroker.errors import IssuerError
from tokenbroker.issuers.exchange import Attempt, strict_object

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from tokenbroker.config import IssuerConfig
    from tokenbroker.issuers.compact import Jwt
    from tokenbroker.issuers.exchange import Reply
    from tokenbroker.ports import Clock

FRESH_FOR: Final = 300.0  # seconds that keys are used without a question (PyJWKClient's)
ASK_AGAIN_AFTER: Final = 30.0  # seconds between two questions, for an unknown key or after a failure
WITHIN: Final = 3.0  # seconds for one question: a caller waits for its token meanwhile
RSA_BITS: Final = (2048, 8192)  # RFC 7518 §3.3 wants 2048; above the other a check takes milliseconds

_OK: Final = 200
_CURVES: Final = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
_EDWARDS: Final = frozenset({"Ed25519", "Ed448"})
_RSA: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
ASYMMETRIC: Final = _RSA | _CURVES.keys() | {"EdDSA"}
"""The signatures that can be checked (RFC 7518 §3.1, RFC 8037 §3.1)."""


@dataclass(frozen=True, slots=True)
class Key:
    """One public key, ready for use."""

    kid: str | None
    alg: str | None
    """The one algorithm that it is for; `None`: any that it can do."""
    kind: str
    """`RSA`, or the name of its curve."""
    public: Any
    """The key as the cryptography package has it."""

    def fits(self, kid: str | None, alg: str) -> bool:
        """Tell whether it may have made a signature; a JWT without `kid` may be by any key of the kind."""
        if self.alg not in {None, alg} or (kid is not None and kid != self.kid):
            return False
        if alg in _RSA:
            return self.kind == "RSA"
        return self.kind == _CURVES[alg] if alg in _CURVES else alg == "EdDSA" and self.kind in _EDWARDS


class Verdict(Enum):
    """What became of the check of one signature."""

    GOOD = "good"
    BAD = "bad"
    """The issuer has the key that the JWT names, and that key did not sign it."""
    UNKNOWN = "unknown"
    """The issuer's keys are at hand, and none is the one."""
    LATER = "later"
    """The issuer's keys cannot be had now."""


def read(body: bytes) -> tuple[Key, ...]:
    """Return the usable keys of a JWK set (RFC 7517 §5); others are passed over, as §5 says.

    Imports PyJWT, which takes tens of milliseconds the first time: call it in a thread.
    Raises `ValueError` or `TypeError` for what is no JWK set.
    """
    listed = strict_object(body).get("keys")
    if not isinstance(listed, list):
        raise TypeError("no JWK set")
    return tuple(key for item in listed if isinstance(item, dict) and (key := _key(item)) is not None)


def signed_by(token: str, alg: str, keys: tuple[Key, ...]) -> bool:
    """Tell whether one of `keys`, which fit, signed `token`. Takes about a tenth of a millisecond for each."""
    import jwt  # noqa: PLC0415  # 40 ms, paid in `read`

    for key in keys:
        try:
            jwt.PyJWS(algorithms=[alg]).decode_complete(token, key.public, algorithms=[alg])
        except (jwt.PyJWTError, ValueError, TypeError):
            continue
        return True
    return False


def _key(jwk: Mapping[str, Any]) -> Key | None:
    from jwt import PyJWTError  # noqa: PLC0415
    from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm  # noqa: PLC0415

    forms = {"RSA": RSAAlgorithm.from_jwk, "EC": ECAlgorithm.from_jwk, "OKP": OKPAlgorithm.from_jwk}
    form = forms.get(str(jwk.get("kty")))
    operations = jwk.get("key_ops", ["verify"])
    for_signatures = jwk.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations
    if form is None or not for_signatures or "d" in jwk:  # a private key that is published proves nothing any more
        return None
    try:
        public = form(dict(jwk))
    except (PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        return None
    kind = "RSA" if jwk["kty"] == "RSA" else str(jwk["crv"])
    if kind == "RSA" and not RSA_BITS[0] <= getattr(public, "key_size", 0) <= RSA_BITS[1]:
        return None
    kid, alg = jwk.get("kid"), jwk.get("alg")
    return Key(kid if isinstance(kid, str) else None, alg if isinstance(alg, str) else None, kind, public)


class KeySet:
    """One issuer's keys. Any number of callers cause one question."""

    def __init__(self, config: IssuerConfig, *, clock: Clock, get: Callable[[str, Attempt], Awaitable[Reply]]) -> None:
        """Fetch with `get(url, attempt)`, which raises `IssuerError` for anything but an HTTP answer."""
        self._config = config
        self._clock = clock
        self._get = get
        self._uri = ""
        self._keys: tuple[Key, ...] = ()
        self._asked: float | None = None
        self._search: asyncio.Task[None] | None = None
        self.failure: str | None = None
        """Why the last question got no answer; keys from before it are used on."""

    @property
    def asked(self) -> float:
        """Seconds of the clock that never goes back, when the issuer was last asked."""
        return -1.0 if self._asked is None else self._asked

    async def verdict(self, token: str, jwt: Jwt, uri: str) -> Verdict:
        """Check the signature of `token`, whose `alg` is one of `ASYMMETRIC`, by the keys at `uri`.

        An unknown key, or a known one that did not sign, may be a rotation: the keys are asked for again then.
        A caller that is cancelled cancels nobody else's question.
        """
        found: tuple[Key, ...] = ()
        for age in (FRESH_FOR, ASK_AGAIN_AFTER):
            await self._refresh(uri, age)
            found = tuple(key for key in self._keys if key.fits(jwt.kid, jwt.alg))
            if found and await self._signed(token, jwt.alg, found):
                return Verdict.GOOD
        if found:
            return Verdict.BAD
        return Verdict.UNKNOWN if self.failure is None else Verdict.LATER

    async def close(self) -> None:
        """Stop a question that is under way. May be called twice."""
        if self._search is not None:
            search = self._search
            search.cancel()
            await asyncio.wait([search])

    async def _signed(self, token: str, alg: str, keys: tuple[Key, ...]) -> bool:
        if len(keys) == 1:
            return signed_by(token, alg, keys)  # less than what a thread costs
        return await asyncio.to_thread(signed_by, token, alg, keys)

    async def _refresh(self, uri: str, age: float) -> None:
        """Ask for the keys if they were last asked for `age` seconds ago; wait for a question that is under way."""
        if uri != self._uri:
            await self.close()
            self._uri, self._keys, self._asked, self.failure = uri, (), None, None
        now = self._clock.now().elapsed
        if self._search is None and (self._asked is None or now - self._asked >= age):
            self._asked = now
            self._search = asyncio.create_task(self._ask(uri), name=f"keys of {self._config.name}")
        if self._search is not None:
            await asyncio.wait([self._search])  # unlike awaiting it, this does not cancel it

    async def _ask(self, uri: str) -> None:
        """Settle what is known. Trouble becomes knowledge, so that an abandoned question leaves no trace."""
        attempt = Attempt(issuer=self._config.name, host=urlsplit(uri).netloc, started=self._clock.now())
        self.failure = "the question for its keys was stopped"
        try:
            async with asyncio.timeout(min(WITHIN, self._config.timeout)):
                reply = await self._get(uri, attempt)
                if reply.status != _OK or reply.unreadable is not None:
                    what = str(reply.status) if reply.status != _OK else reply.unreadable
                    self.failure = f"{attempt.subject} answered the question for its keys with {what}"
                    return
                self._keys = await asyncio.to_thread(read, reply.body)
            self.failure = None
        except IssuerError as error:
            self.failure = error.message
        except TimeoutError:
            self.failure = f"{attempt.subject} did not give its keys within {min(WITHIN, self._config.timeout):g} s"
        except (ValueError, TypeError):
            self.failure = f"{attempt.subject} sent something that is no JWK set"
        finally:
            self._search = None
