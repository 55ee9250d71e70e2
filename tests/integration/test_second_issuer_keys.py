"""The second issuer refuses what it must: assertions, proofs of possession, certificates."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509

from tests.integration.second_issuer_client import (
    EC,
    KEYS,
    OTHER,
    RSA,
    SECRET,
    Ahead,
    Answer,
    ahead,
    ask,
    assertion,
    post,
    proof,
    public,
    send,
)
from tests.standins.second_issuer import Authority, Client, SecondIssuer

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric import ec


class TestAssertions:
    @pytest.mark.parametrize(("alg", "key", "kid"), [("RS256", RSA, "rsa"), ("PS256", RSA, "rsa"), ("ES256", EC, "ec")])
    async def test_it_takes_a_good_one_once(self, alg: str, key: Any, kid: str) -> None:
        """RFC 7523 §3: and refuses the same one again."""
        async with SecondIssuer.start(clients=[Client("agent", auth="private_key_jwt", keys=KEYS)]) as issuer:
            form = assertion(issuer, key, alg, {"kid": kid})
            assert (await ask(issuer, form)).status == 200
            assert (await ask(issuer, form)).verdict == (401, "invalid_client")

    @pytest.mark.parametrize("alg", ["HS256", "HS384", "HS512"])
    async def test_it_takes_a_shared_secret_as_key(self, alg: str) -> None:
        """OpenID Connect Core §9, client_secret_jwt."""
        secret = "x" * 64
        async with SecondIssuer.start(clients=[Client("agent", [secret], "client_secret_jwt")]) as issuer:
            assert (await ask(issuer, assertion(issuer, secret, alg))).status == 200
            assert (await ask(issuer, assertion(issuer, "y" * 64, alg))).verdict == (401, "invalid_client")

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            pytest.param({"key": OTHER}, "signature", id="another key"),
            pytest.param({"header": {}}, "the header has none", id="no key named"),
            pytest.param({"header": {"kid": "who"}}, "no registered key", id="an unknown key"),
            pytest.param({"header": {"kid": "rsa"}}, "does not fit", id="the name of another key"),
            pytest.param({"header": {"kid": "ec", "crit": ["exp"]}}, "critical", id="a critical extension"),
            pytest.param({"aud": "https://elsewhere.example"}, "aud is", id="another audience"),
            pytest.param({"sub": "who"}, "sub is not", id="another subject"),
            pytest.param({"jti": None}, "jti is missing", id="no jti"),
            pytest.param({"exp": None}, "exp is missing", id="no exp"),
            pytest.param(ahead(exp=-1, iat=-60), "has passed", id="expired"),
            pytest.param(ahead(exp=400), "it lives", id="too long a life"),
            pytest.param(ahead(iat=-290, exp=60), "it lives", id="too long a life from iat on"),
            pytest.param(ahead(iat=120, exp=180), "in the future", id="from the future"),
            pytest.param(ahead(nbf=120, exp=180), "in the future", id="not yet good"),
            pytest.param({"key": None, "alg": "none"}, "algorithm none", id="no signature"),
            pytest.param({"key": "x" * 64, "alg": "HS256"}, "algorithm HS256", id="a shared secret"),
        ],
    )
    async def test_it_refuses(self, changes: dict[str, Any], reason: str) -> None:
        """Each is a failed authentication."""
        async with SecondIssuer.start(clients=[Client("agent", ["x" * 64], "private_key_jwt", keys=KEYS)]) as issuer:
            assert (await ask(issuer, assertion(issuer, **changes))).verdict == (401, "invalid_client")
            assert reason in str(issuer.refusals[-1])

    async def test_entra_names_a_certificate_and_the_token_endpoint(self, tmp_path: Path) -> None:
        """PS256, `x5t#S256`, audience the token endpoint; anything else has AADSTS700027."""
        identity = Authority(tmp_path).self_signed()
        client = Client("agent", auth="private_key_jwt", certificates=[identity.certificate])
        async with SecondIssuer.start("entra", [client], assertion_algs=("ES256",)) as issuer:
            scope = {"scope": "https://api.example/.default"}
            header = {"x5t#S256": identity.thumbprint}
            good = assertion(issuer, identity.key, header=header, aud=issuer.token_endpoint)
            assert (await ask(issuer, good | scope)).json["expires_in"] == 3599
            refused = await ask(issuer, assertion(issuer, identity.key, header=header) | scope)
            assert (refused.status, refused.json["error_codes"]) == (400, [700027])


class TestProofs:
    async def test_nonces_are_asked_for_and_rotate(self) -> None:
        """RFC 9449 §8: a challenge, then a new nonce with each success."""
        async with SecondIssuer.start(
            clients=[Client("agent", [SECRET], dpop_bound=True)], dpop_nonce="rotate"
        ) as issuer:
            url = issuer.token_endpoint
            challenge = await ask(issuer, post(), proof(url))
            assert challenge.verdict == (400, "use_dpop_nonce")
            nonce = challenge.headers["DPoP-Nonce"]
            good = await ask(issuer, post(), proof(url, nonce=nonce))
            assert (good.json["token_type"], good.headers["DPoP-Nonce"] != nonce) == ("DPoP", True)
            assert (await ask(issuer, post(), proof(url, nonce=nonce))).verdict == (400, "use_dpop_nonce")
            assert issuer.minted[0].claims["cnf"].keys() == {"jkt"}

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            pytest.param({"header": {"typ": "JWT"}}, "typ is", id="typ"),
            pytest.param({"header": {"jwk": public(OTHER)}}, "signature", id="another key"),
            pytest.param({"header": {"jwk": {**public(EC), "d": "AA"}}}, "a private key", id="a private key"),
            pytest.param({"header": {"jwk": {"kty": "oct", "k": "AA"}}}, "a private key", id="a symmetric key"),
            pytest.param({"htm": "GET"}, "htm is", id="another method"),
            pytest.param({"htu": "http://127.0.0.1/token"}, "htu is", id="another URL"),
            pytest.param({"iat": Ahead(-600)}, "iat is", id="old"),
            pytest.param({"iat": Ahead(600)}, "iat is", id="from the future"),
            pytest.param({"iat": None}, "iat is", id="no iat"),
            pytest.param({"jti": None}, "jti is missing", id="no jti"),
        ],
    )
    async def test_it_refuses(self, changes: dict[str, Any], reason: str) -> None:
        """RFC 9449 §4.3, check by check."""
        async with SecondIssuer.start(clients=[Client("agent", [SECRET])]) as issuer:
            answer = await ask(issuer, post(), proof(issuer.token_endpoint, **changes))
            assert answer.verdict == (400, "invalid_dpop_proof")
            assert reason in answer.json["error_description"]

    async def test_it_refuses_a_query_a_replay_and_none_at_all(self) -> None:
        """`htu` has no query; a `jti` is good once; a bound client must send a proof."""
        async with SecondIssuer.start(clients=[Client("agent", [SECRET], dpop_bound=True)]) as issuer:
            url, once = issuer.token_endpoint, proof(issuer.token_endpoint)
            assert (await ask(issuer, post(), once)).status == 200
            for headers in (once, proof(f"{url}?a=b"), {}):
                assert (await ask(issuer, post(), headers)).verdict == (400, "invalid_dpop_proof")

    async def test_an_issuer_may_ignore_proofs(self) -> None:
        """Then it answers Bearer."""
        async with SecondIssuer.start(clients=[Client("agent", [SECRET])], dpop="ignored") as issuer:
            assert (await ask(issuer, post(), proof(issuer.token_endpoint))).json["token_type"] == "Bearer"

    async def test_a_bound_token_opens_the_resource_only_with_its_key(self) -> None:
        """RFC 9449 §7: a nonce of the resource's own, `ath`, the same key, and no Bearer."""
        async with SecondIssuer.start(clients=[Client("agent", [SECRET])], resource_nonce="once") as issuer:
            token = (await ask(issuer, post(), proof(issuer.token_endpoint))).json["access_token"]
            ath = base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).rstrip(b"=").decode()

            async def get(scheme: str = "DPoP", key: ec.EllipticCurvePrivateKey = EC, **claims: Any) -> Answer:
                sent = proof(issuer.resource, key, htm="GET", **claims)
                return await send("GET", issuer.resource, headers={"Authorization": f"{scheme} {token}", **sent})

            challenge = await get(ath=ath)
            assert challenge.status == 401
            assert 'DPoP error="use_dpop_nonce"' in challenge.headers["WWW-Authenticate"]
            nonce = challenge.headers["DPoP-Nonce"]
            assert (await get(ath=ath, nonce=nonce)).status == 200
            assert (await get(ath="x", nonce=nonce)).status == 401
            assert (await get(key=OTHER, ath=ath, nonce=nonce)).status == 401
            assert (await get("Bearer", ath=ath, nonce=nonce)).status == 401


class TestCertificates:
    @pytest.mark.parametrize("mtls", ["same_port", "alias"])
    async def test_a_certificate_is_the_credential(self, tmp_path: Path, mtls: str) -> None:
        """RFC 8705 §2.1 and §3: the authority and the subject count, and the token is bound."""
        authority = Authority(tmp_path)
        good, self_signed = authority.client("CN=agent,O=Example"), authority.self_signed("CN=agent,O=Example")
        clients = [
            Client("agent", auth="tls_client_auth", tls_subject="CN=agent,O=Example", certificate_bound=True),
            Client("own", auth="self_signed_tls_client_auth", certificates=[self_signed.certificate]),
        ]
        async with SecondIssuer.start(clients=clients, tls=authority, mtls=mtls) as issuer:
            url = f"{issuer.mtls_origin}/token" if issuer.mtls_origin else None

            async def by(client_id: str, tls: ssl.SSLContext) -> int:
                return (await ask(issuer, {"client_id": client_id}, url=url, tls=tls)).status

            assert await by("agent", good.context(authority.ca_file)) == 200
            assert issuer.minted[-1].claims["cnf"] == {"x5t#S256": good.thumbprint}
            assert await by("own", self_signed.context(authority.ca_file)) == 200
            assert await by("agent", self_signed.context(authority.ca_file)) == 401
            assert await by("own", good.context(authority.ca_file)) == 401
            assert await by("agent", authority.client("CN=agent").context(authority.ca_file)) == 401
            plain = await ask(issuer, {"client_id": "agent"}, tls=good.context(authority.ca_file))
            assert plain.status == (200 if mtls == "same_port" else 401)

    async def test_an_alternative_name_may_be_registered(self, tmp_path: Path) -> None:
        """RFC 8705 §2.1.2."""
        authority = Authority(tmp_path)
        client = Client("agent", auth="tls_client_auth", tls_san=("dns", "agent.example"))
        async with SecondIssuer.start(clients=[client], tls=authority, mtls="same_port") as issuer:
            for name, status in (("agent.example", 200), ("other.example", 401)):
                tls = authority.client("CN=x", [x509.DNSName(name)]).context(authority.ca_file)
                assert (await ask(issuer, {"client_id": "agent"}, tls=tls)).status == status
