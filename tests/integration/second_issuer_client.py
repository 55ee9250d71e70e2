"""A client of the second issuer, made by hand on aiohttp; PyJWT signs what the client signs."""

from __future__ import annotations

import base64
import json
import time
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus, urlencode

import aiohttp
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

if TYPE_CHECKING:
    import ssl

    from tests.standins.second_issuer import SecondIssuer

SECRET = "p@ss+wo%rd/&= xü:"
RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
STRANGER = rsa.generate_private_key(65537, 2048)
OTHER = ec.generate_private_key(ec.SECP256R1())
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
JWT_TYPE = "urn:ietf:params:oauth:token-type:jwt"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def public(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, **members: str) -> dict[str, Any]:
    found = (
        jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        if isinstance(key, rsa.RSAPrivateKey)
        else jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    )
    return {**found, **members}


KEYS = [public(RSA, kid="rsa"), public(EC, kid="ec")]


class Ahead(int):
    """Seconds from the moment at which a test runs, not from that at which it was collected."""


def claims_of(**claims: Any) -> dict[str, Any]:
    now = int(time.time())
    found = {name: now + value if isinstance(value, Ahead) else value for name, value in claims.items()}
    return {name: value for name, value in found.items() if value is not None}


class Answer:
    def __init__(self, status: int, headers: Any, text: str) -> None:
        self.status, self.headers, self.text = status, headers, text

    @property
    def json(self) -> dict[str, Any]:
        found = json.loads(self.text)
        assert isinstance(found, dict)
        return found

    @property
    def verdict(self) -> tuple[int, str | None]:
        return self.status, self.json.get("error")


async def send(method: str, url: str, *, tls: ssl.SSLContext | None = None, **more: Any) -> Answer:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, allow_redirects=False, ssl=tls or True, **more) as response,
    ):
        return Answer(response.status, response.headers, await response.text())


async def ask(
    issuer: SecondIssuer,
    form: dict[str, str],
    headers: dict[str, str] | None = None,
    *,
    url: str | None = None,
    tls: ssl.SSLContext | None = None,
) -> Answer:
    fields = {**FORM, **(headers or {})}
    body = urlencode({"grant_type": "client_credentials", **form})
    return await send("POST", url or issuer.token_endpoint, data=body, headers=fields, tls=tls)


def basic(client_id: str, secret: str, *, encode: bool = True) -> dict[str, str]:
    pair = f"{quote_plus(client_id)}:{quote_plus(secret)}" if encode else f"{client_id}:{secret}"
    return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


def post(client_id: str = "agent", secret: str = SECRET, **more: str) -> dict[str, str]:
    return {"client_id": client_id, "client_secret": secret, **more}


def assertion(
    issuer: SecondIssuer, key: Any = EC, alg: str = "ES256", header: dict[str, Any] | None = None, **claims: Any
) -> dict[str, str]:
    usual = {"iss": "agent", "sub": "agent", "aud": issuer.url, "iat": Ahead(0), "exp": Ahead(60)}
    found = claims_of(**{**usual, "jti": uuid.uuid4().hex, **claims})
    token = jwt.encode(found, key, alg, headers={"kid": "ec"} if header is None else header)
    return {"client_assertion_type": ASSERTION_TYPE, "client_assertion": token}


def proof(
    url: str, key: ec.EllipticCurvePrivateKey = EC, *, header: dict[str, Any] | None = None, **claims: Any
) -> dict[str, str]:
    found = claims_of(**{"jti": uuid.uuid4().hex, "htm": "POST", "htu": url, "iat": Ahead(0), **claims})
    return {"DPoP": jwt.encode(found, key, "ES256", headers={"typ": "dpop+jwt", "jwk": public(key), **(header or {})})}


def ahead(**more: int) -> dict[str, int]:
    return {name: Ahead(value) for name, value in more.items()}


def github_jwt(key: Any = RSA, **claims: Any) -> dict[str, str]:
    found = claims_of(**{"iss": "77", **ahead(iat=-60, exp=540), **claims})
    return {"Authorization": f"Bearer {jwt.encode(found, key, 'RS256')}"}
