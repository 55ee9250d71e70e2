"""Tokens bound to a key that never leaves the daemon, and the proofs that show who has it (RFC 9449).

Rules of this file:
1. One key per token, which the token carries: the key is forgotten with it, at a lock too, and two tokens cannot be
   linked by it. Nothing here keeps a key.
2. No I/O and no clock. Making the first key imports cryptography, 50 ms: do it off the event loop.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import TYPE_CHECKING, Any, Final, NoReturn
from urllib.parse import urlsplit

from tokenbroker.errors import UsageError
from tokenbroker.issuers.exchange import strict_object

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tokenbroker.issuers.exchange import Reply
    from tokenbroker.model import Secret

HEADER: Final = "DPoP"
NONCE_HEADER: Final = "dpop-nonce"  # as in `Reply.headers`
MAX_URL: Final = 4096  # characters
MAX_NONCE: Final = 1024  # characters; some are encrypted timestamps
MAX_ORIGINS: Final = 16  # an issuer has one or two; no list grows without end

_METHOD = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,32}")  # token, RFC 9110 §5.6.2
_NONCE = re.compile(rf"[\x21\x23-\x5b\x5d-\x7e]{{1,{MAX_NONCE}}}")  # 1*NQCHAR, RFC 9449 §8.1
# Narrower than RFC 3986, so that no two parsers see two hosts: no user name, no backslash, nothing but ASCII.
_URL = re.compile(
    r"(https?)://([a-z0-9._~-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?(/[\x21\x24-\x3e\x40-\x5b\x5d-\x7e]*)?"
    r"(?:[?#][\x21-\x5b\x5d-\x7e]*)?",
    re.ASCII | re.IGNORECASE,  # without ASCII the Kelvin sign would be a k
)
_PORTS: Final = {"http": 80, "https": 443}
_LARGEST_PORT: Final = 65535
_ASKING: Final = frozenset({400, 401})
_FIELD_SIZE: Final = 32  # bytes of a coordinate and of half a signature on P-256 (RFC 7518 §3.4)


class DpopKey:
    """A `ProofKey` on P-256. It has no text form and cannot be copied out of the process."""

    __slots__ = ("_header", "_key", "_new_name", "thumbprint")

    def __init__(self, key: Any, jwk: Mapping[str, str], new_name: Callable[[], str]) -> None:
        """Sign with `key`, whose public half is `jwk`; `new_name` gives a `jti` never used before, 128 bits or more."""
        self._key = key
        self._new_name = new_name
        self._header = _encoded({"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk})
        # RFC 7638 §3: the required members in the order of their names, without white space.
        self.thumbprint: str = _digest(json.dumps(jwk, separators=(",", ":"), sort_keys=True))

    @classmethod
    def make(cls, new_name: Callable[[], str]) -> DpopKey:
        """Make a new key."""
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415  # 50 ms, for clients with DPoP alone

        key = ec.generate_private_key(ec.SECP256R1())
        numbers = key.public_key().public_numbers()
        point = {name: _base64(getattr(numbers, name).to_bytes(_FIELD_SIZE)) for name in ("x", "y")}
        return cls(key, {"kty": "EC", "crv": "P-256", **point}, new_name)

    def prove(self, method: str, url: str, *, token: Secret | None, nonce: str | None, now: float) -> str:
        """See `ProofKey.prove`; without `token` it is the proof of a token request (RFC 9449 §5)."""
        claims: dict[str, Any] = {"jti": self._new_name(), "htm": _method(method), "htu": target(url), "iat": int(now)}
        if token is not None:
            claims["ath"] = _digest(token.reveal())
        if nonce is not None:
            claims["nonce"] = nonce
        signed = f"{self._header}.{_encoded(claims)}"
        return f"{signed}.{self._sign(signed.encode())}"

    def _sign(self, data: bytes) -> str:
        """Return the signature as RFC 7518 §3.4 writes it: both numbers at full length."""
        from cryptography.hazmat.primitives.asymmetric import ec, utils  # noqa: PLC0415  # loaded by `make`
        from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415

        pair = utils.decode_dss_signature(self._key.sign(data, ec.ECDSA(SHA256())))
        return _base64(b"".join(number.to_bytes(_FIELD_SIZE) for number in pair))

    def __repr__(self) -> str:
        """Show the name of the public half."""
        return f"<DpopKey {self.thumbprint}>"

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied into another process."""
        raise TypeError("a DpopKey cannot be serialized")


class Nonces:
    """The last nonce that each origin gave, to be used in the next proof for it (RFC 9449 §8.2)."""

    def __init__(self) -> None:
        """Know none."""
        self._by_origin: dict[str, str] = {}

    def of(self, url: str) -> str | None:
        """Return the nonce for a proof for `url`."""
        return self._by_origin.get(_origin(url))

    def learn(self, url: str, reply: Reply) -> bool:
        """Remember the nonce that comes with any answer of `url`; tell whether there was one. Junk is none."""
        nonce = reply.headers.get(NONCE_HEADER, "")
        if not _NONCE.fullmatch(nonce):
            return False
        self._by_origin.pop(_origin(url), None)
        self._by_origin[_origin(url)] = nonce
        if len(self._by_origin) > MAX_ORIGINS:
            del self._by_origin[next(iter(self._by_origin))]
        return True


def asks_for_nonce(reply: Reply) -> bool:
    """Tell whether the issuer refused for want of its nonce alone (RFC 9449 §8)."""
    if reply.status not in _ASKING:
        return False
    try:
        return strict_object(reply.body).get("error") == "use_dpop_nonce"
    except (ValueError, TypeError):
        return False


def target(url: str) -> str:
    """Return the `htu` for a request to `url`: without query and fragment, normalized (RFC 9449 §4.2, RFC 3986 §6.2.3).

    The path stays as it is: it is compared with what is sent. Raises `UsageError` for what no request can be sent to.
    """
    found = _URL.fullmatch(url) if len(url) <= MAX_URL else None
    if found is None:
        raise UsageError(
            "no proof can be made for that URL",
            hint="send the address of the request: http or https, encoded as it is sent, without user and password",
        )
    scheme, host = found[1].lower(), found[2].lower()
    port = int(found[3]) if found[3] else _PORTS[scheme]
    if not 0 < port <= _LARGEST_PORT:
        raise UsageError("no proof can be made for that URL: its port is none", hint="ports are 1 to 65535")
    shown = "" if port == _PORTS[scheme] else f":{port}"
    return f"{scheme}://{host}{shown}{found[4] or '/'}"


def _method(method: str) -> str:
    if not _METHOD.fullmatch(method):
        raise UsageError("no proof can be made for that method", hint="send the request's method as it is sent: GET")
    return method


def _origin(url: str) -> str:
    parts = urlsplit(target(url))
    return f"{parts.scheme}://{parts.netloc}"


def _encoded(value: Mapping[str, Any]) -> str:
    return _base64(json.dumps(value, separators=(",", ":")).encode())


def _digest(text: str) -> str:
    return _base64(hashlib.sha256(text.encode()).digest())


def _base64(data: bytes) -> str:
    """Return base64url without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
