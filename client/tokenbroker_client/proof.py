"""The words of `POST /proof`: a proof for one request with a token that is bound to the broker's key (RFC 9449).

Standard library only, no I/O; no error and no `repr` shows a proof.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from typing import Final

from tokenbroker_client.wire import WireError, decode_object

MAX_PROOF: Final = 8 * 1024  # characters; ours are about 500
MAX_URL: Final = 4096
MAX_NONCE: Final = 1024

_METHOD = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,32}")  # token, RFC 9110 §5.6.2
_URL = re.compile(rf"[\x21-\x7e]{{1,{MAX_URL}}}")
_NONCE = re.compile(rf"[\x21\x23-\x5b\x5d-\x7e]{{1,{MAX_NONCE}}}")  # 1*NQCHAR, RFC 9449 §8.1
_FINGERPRINT = re.compile(r"[0-9a-f]{12}")
_THUMBPRINT = re.compile(r"[A-Za-z0-9_-]{43}")  # SHA-256, RFC 7638
_JWS = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class ProofRequest:
    """What `POST /proof` asks for."""

    profile: str
    fingerprint: str
    """Of the token that goes with the request, as `POST /token` gave it."""
    method: str
    url: str
    """Of the request, as it is sent; query and fragment are left out of the proof."""
    nonce: str | None = None
    """What the API said in `DPoP-Nonce` (RFC 9449 §9)."""


@dataclass(frozen=True, slots=True)
class ProofAnswer:
    """A proof, for one request and this moment."""

    proof: str = field(repr=False)
    """The value of the request's `DPoP` header."""
    token_type: str = "DPoP"  # noqa: S105  # the scheme's name
    fingerprint: str = ""
    """Of the token that it goes with."""
    thumbprint: str = ""
    """The public key's (RFC 7638): the token's `cnf.jkt`."""


def nonce_of(text: str | None) -> str | None:
    """Return a `DPoP-Nonce` that can be put into a proof; anything else counts as none."""
    return text if text is not None and _NONCE.fullmatch(text) else None


def encode_request(request: ProofRequest) -> bytes:
    """Return the JSON body of `POST /proof`."""
    return json.dumps({name: value for name, value in asdict(request).items() if value is not None}).encode()


def decode_request(body: bytes) -> ProofRequest:
    """Read the JSON body of `POST /proof`; raises `WireError` naming the field that is wrong."""
    fields = decode_object(body)
    forms = {"fingerprint": _FINGERPRINT, "method": _METHOD, "url": _URL, "nonce": _NONCE}
    profile = fields.get("profile")
    if not isinstance(profile, str) or not profile:
        raise WireError("field profile: expected the name of a profile")
    known: dict[str, str] = {"profile": profile}
    for name, form in forms.items():
        value = fields.get(name)
        if value is None and name == "nonce":
            continue
        if not isinstance(value, str) or not form.fullmatch(value):
            raise WireError(f"field {name}: missing, too long, or with characters that it cannot have")
        known[name] = value
    return ProofRequest(**known)


def encode_answer(answer: ProofAnswer) -> bytes:
    """Return the JSON of an answer."""
    return json.dumps(asdict(answer), separators=(",", ":")).encode()


def decode_answer(body: bytes) -> ProofAnswer:
    """Read a 200 answer; raises `WireError` when it holds no proof that can be put into a header."""
    fields = decode_object(body)
    forms = {"proof": _JWS, "fingerprint": _FINGERPRINT, "thumbprint": _THUMBPRINT}
    known = {name: fields.get(name) for name in forms}
    texts = {name: value for name, value in known.items() if isinstance(value, str) and forms[name].fullmatch(value)}
    if texts.keys() != forms.keys() or len(texts["proof"]) > MAX_PROOF or fields.get("token_type") != "DPoP":
        raise WireError("the answer holds no usable proof")
    return ProofAnswer(**texts)
