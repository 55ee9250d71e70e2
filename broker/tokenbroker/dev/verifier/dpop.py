"""Tokens that are bound to a key (RFC 9449 §7): the proof that comes with each request, checked in the order of §4.3.

The URL is what this API says of itself, not what `Host` says. A proof is remembered only after all else was good, so
that nobody without a bound token can fill the store.
"""

from __future__ import annotations

import time
from collections import deque
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tokenbroker.dev.verifier import jose
from tokenbroker.dev.verifier.refusal import DPOP, Refused, invalid, unavailable
from tokenbroker.dev.verifier.routes import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

WINDOW = 60.0  # seconds that a proof may be old
AHEAD = 5.0  # seconds that the clock of its maker may be ahead
MAX_PROOF = 8 * 1024  # characters
MAX_SEEN = 100_000  # proofs that are remembered, about 20 MB
NONCE_LIFE = 300.0  # seconds until there is a new nonce; the one before is still taken
PORTS = {"http": 80, "https": 443}


class Replays:
    """The proofs that were seen while they could be used again. Bounded: when it is full, new ones are refused."""

    def __init__(self, limit: int = MAX_SEEN) -> None:
        """Remember `limit` proofs."""
        self._limit = limit
        self._seen: set[str] = set()
        self._order: deque[tuple[float, str]] = deque()

    def first(self, name: str, *, now: float, until: float) -> bool:
        """Note a proof, unless it was seen. Raises `Refused` (503) when there is no room: forgetting would be worse."""
        while self._order and self._order[0][0] < now:
            self._seen.discard(self._order.popleft()[1])
        if name in self._seen:
            return False
        if len(self._seen) >= self._limit:
            raise unavailable("too many proofs at once")
        self._seen.add(name)
        self._order.append((until, name))
        return True


class Nonces:
    """The nonces of an API that wants them (RFC 9449 §9): one for everybody, a new one every five minutes."""

    def __init__(self, make: Callable[[], str]) -> None:
        """Get each from `make`, e.g. `secrets.token_urlsafe`."""
        self._make = make
        self._now, self._before = make(), ""
        self._since: float | None = None

    def current(self, *, now: float) -> str:
        """Return the nonce of this moment, in epoch seconds."""
        if self._since is None:
            self._since = now
        if now - self._since >= NONCE_LIFE:
            self._now, self._before = self._make(), "" if now - self._since >= 2 * NONCE_LIFE else self._now
            self._since = now
        return self._now

    def accepts(self, nonce: object, *, now: float) -> bool:
        """Whether a proof with `nonce` is from now or shortly before."""
        good = [text for text in (self.current(now=now), self._before) if text]
        return nonce in good


class Proofs:
    """Judges proofs for the API at `origin`."""

    def __init__(
        self,
        origin: str,
        *,
        algorithms: Sequence[str] = jose.ALGORITHMS,
        window: float = WINDOW,
        nonces: Nonces | None = None,
        replays: Replays | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Be known as `origin` (`https://api.example.com`) to those who call; proofs may be `window` seconds old.

        Raises `ValueError` for an origin that is none and for an algorithm that is not one of `jose.ALGORITHMS`.
        """
        if not set(algorithms) <= set(jose.ALGORITHMS) or not algorithms:
            raise ValueError(f"proof algorithms must be some of {', '.join(jose.ALGORITHMS)}")
        self.algorithms = tuple(algorithms)
        self._origin = _origin(origin)
        self._window = window
        self._nonces = nonces
        self._replays = replays if replays is not None else Replays()
        self._clock = clock

    def check(self, proofs: Sequence[str], *, token: str, bound: Mapping[str, Any], method: str, path: str) -> None:
        """Check every `DPoP` header of a request for the plain `path`, with `token`, whose claims are `bound`.

        Raises `Refused`.
        """
        key_name = _confirmed(bound)
        proof, jwk = self._opened(proofs)
        if proof.get("htm") != method:
            raise _bad("the proof is for another method")
        if self._target(proof.get("htu")) != (*self._origin, path):
            raise _bad("the proof is for another URL")
        now = self._clock()
        if self._nonces is not None and not self._nonces.accepts(proof.get("nonce"), now=now):
            nonce = self._nonces.current(now=now)
            raise Refused(HTTPStatus.UNAUTHORIZED, "use_dpop_nonce", "the proof needs a nonce of ours", nonce=nonce)
        made = proof.get("iat")
        if isinstance(made, bool) or not isinstance(made, int | float) or not now - self._window <= made <= now + AHEAD:
            raise _bad("the proof is not of now")
        if proof.get("ath") != jose.digest(token.encode()):
            raise _bad("the proof is for another token")
        if jose.thumbprint(jwk) != key_name:
            raise invalid("the token is bound to another key")
        once = jose.digest(f"{key_name} {proof['jti']}".encode(errors="surrogatepass"))
        if not self._replays.first(once, now=now, until=made + self._window):
            raise _bad("the proof was used before")

    def _opened(self, proofs: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the claims and the key of the one proof, verified."""
        if len(proofs) != 1 or len(proofs[0]) > MAX_PROOF:
            raise _bad("one DPoP header is needed")
        try:
            head = jose.header(proofs[0])
            jwk = self._key(head)
            proof = jose.claims(proofs[0], jose.usable(jwk)[head["alg"]])
        except (jose.Malformed, KeyError):
            raise _bad("the proof is malformed") from None
        except jose.BadSignature:
            raise _bad("the proof's signature is not valid") from None
        if not isinstance(proof.get("jti"), str) or not proof["jti"]:
            raise _bad("the proof has no jti")
        return proof, jwk

    def _key(self, head: Mapping[str, Any]) -> dict[str, Any]:
        if head.get("typ") != "dpop+jwt":
            raise _bad("the proof is of another type")
        if head.get("alg") not in self.algorithms:
            raise _bad("the proof's algorithm is not accepted")
        jwk = head.get("jwk")
        if not isinstance(jwk, dict):
            raise _bad("the proof has no key")
        if jose.PRIVATE & jwk.keys():
            raise _bad("the proof has a private key in it")
        return jwk

    def _target(self, htu: object) -> tuple[str, str, int | None, str] | None:
        """Return what `htu` points to, normalised, without query and fragment (RFC 9449 §4.3, point 9)."""
        try:
            return (*_origin(str(htu)), plain(urlsplit(str(htu)).path or "/"))
        except (ValueError, Refused):
            return None


def _origin(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port. Raises `ValueError`."""
    parts = urlsplit(url)
    if parts.scheme not in PORTS or not parts.hostname or "@" in parts.netloc:
        raise ValueError(f"not the address of an API: {url!r}")
    return parts.scheme, parts.hostname, PORTS[parts.scheme] if parts.port is None else parts.port


def _confirmed(claims: Mapping[str, Any]) -> str:
    """Return the thumbprint that a token is bound to; any other binding beside it could not be checked here."""
    bound = claims.get("cnf")
    if "cnf" not in claims:
        raise invalid("the token is not bound to a key")
    if not isinstance(bound, dict) or bound.keys() != {"jkt"} or not isinstance(bound["jkt"], str):
        raise invalid("the token is bound in a way that is not known here")
    return bound["jkt"]


def _bad(reason: str) -> Refused:
    return Refused(HTTPStatus.UNAUTHORIZED, "invalid_dpop_proof", reason, scheme=DPOP)
