"""What the issuer knows: clients, keys, addresses, a clock that a test may move, and what was seen before."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.standins.second_issuer import jose
from tests.standins.second_issuer.refusals import Refused

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography import x509

    from tests.standins.second_issuer.faces import Face

CLIENT_CREDENTIALS = "client_credentials"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"


@dataclass
class Client:
    """A registered client. Mutable: a test rotates a secret or disables a client by assignment.

    `secrets` has the newest first; whether older ones are good too is the face's `old_secrets`.
    `tls_san` is a pair such as `("dns", "agent.example")`, `("uri", …)`, `("ip", …)` or `("email", …)`.
    """

    id: str
    secrets: list[str] = field(default_factory=list)
    auth: str = "client_secret_post"
    expired_secrets: list[str] = field(default_factory=list)
    keys: list[jose.Jwk] = field(default_factory=list)
    certificates: list[x509.Certificate] = field(default_factory=list)
    tls_subject: str | None = None
    tls_san: tuple[str, str] | None = None
    grants: tuple[str, ...] = (CLIENT_CREDENTIALS, JWT_BEARER, TOKEN_EXCHANGE)
    scopes: tuple[str, ...] = ()
    audiences: tuple[str, ...] = ()
    organizations: tuple[str, ...] = ()
    owner: str | None = "alice@example.com"
    agent_type: str | None = "interactive"
    subject: str | None = None
    claims: dict[str, Any] = field(default_factory=dict)
    dpop_bound: bool = False
    certificate_bound: bool = False
    enabled: bool = True
    token_format: str | None = None


@dataclass
class Clock:
    """The issuer's idea of the time, in seconds since the epoch; `offset` moves it."""

    offset: float = 0.0

    def now(self) -> float:
        return time.time() + self.offset


@dataclass(frozen=True)
class SigningKey:
    """A key that access tokens are signed with."""

    alg: str
    private: jose.PrivateKey
    kid: str

    @property
    def jwk(self) -> jose.Jwk:
        return jose.to_jwk(self.private.public_key(), kid=self.kid, alg=self.alg, use="sig")


@cache
def _rsa(number: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


_taken = count()
RSA_KEYS = 6
"""RSA keys are slow to make, so a process shares this many: issuers that live at once differ in theirs."""


def new_keys() -> list[SigningKey]:
    """Return an RS256 and an ES256 key with names that were not used before."""
    privates: list[tuple[str, jose.PrivateKey]] = [
        ("RS256", _rsa(next(_taken) % RSA_KEYS)),
        ("ES256", ec.generate_private_key(ec.SECP256R1())),
    ]
    return [SigningKey(alg, private, secrets.token_urlsafe(8)) for alg, private in privates]


class Nonces:
    """Server nonces for DPoP (RFC 9449 §8). `mode`: never asked for, one that lives on, or a new one each time."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.current = secrets.token_urlsafe(12)

    def renew(self) -> str:
        """Forget the nonce that was good so far."""
        self.current = secrets.token_urlsafe(12)
        return self.current

    def check(self, nonce: object) -> None:
        """Refuse a proof without the nonce that is good now."""
        if self.mode != "never" and nonce != self.current:
            raise Refused("nonce", f"nonce {nonce!r}", DPoP_Nonce=self.current)

    def after_success(self) -> dict[str, str]:
        """Return the header that goes with a success."""
        if self.mode == "never":
            return {}
        if self.mode == "rotate":
            self.renew()
        return {"DPoP-Nonce": self.current}


class Replays:
    """Identifiers seen before."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, ...]] = set()

    def first(self, *identifier: str) -> bool:
        """Say whether `identifier` is new, and remember it."""
        new = identifier not in self._seen
        self._seen.add(identifier)
        return new


@dataclass
class Minted:
    """An access token that was issued; `claims` also for an opaque one."""

    token: str
    client_id: str
    claims: dict[str, Any]
    is_jwt: bool
    revoked: bool = False


@dataclass
class State:
    """Everything the handlers share."""

    face: Face
    clients: dict[str, Client]
    issuer: str
    token_endpoint: str
    clock: Clock
    keys: list[SigningKey]
    token_nonces: Nonces
    resource_nonces: Nonces
    authorities: list[x509.Certificate] = field(default_factory=list)
    minted: list[Minted] = field(default_factory=list)
    replays: Replays = field(default_factory=Replays)

    def client(self, client_id: str) -> Client:
        """Return a client that exists and is enabled."""
        client = self.clients.get(client_id)
        if client is None:
            raise Refused("unknown_client", client_id)
        if not client.enabled:
            raise Refused("disabled_client", client_id)
        return client

    def find(self, token: str) -> Minted | None:
        return next((minted for minted in self.minted if minted.token == token), None)

    def active(self, token: str) -> Minted | None:
        """Return the token if it was issued here, has not expired and is not revoked."""
        minted = self.find(token)
        if minted is None or minted.revoked or minted.claims["exp"] <= self.clock.now():
            return None
        return minted

    def audiences(self, names: Iterable[str]) -> set[str]:
        """Resolve what a face accepts as an assertion's audience; any other name is a literal."""
        bare = self.issuer.rstrip("/")
        known = {"issuer": self.issuer, "issuer_slash": f"{bare}/", "token_endpoint": self.token_endpoint}
        return {known.get(name, name) for name in names}
