"""The second issuer refuses what it must: secrets, targets, grants, and what becomes of a token."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlencode

import aiohttp
import jwt
import pytest
from oauthlib.oauth2 import BackendApplicationClient
from requests_oauthlib import OAuth2Session

from tests.integration.second_issuer_client import (
    ACCESS_TOKEN,
    FORM,
    JWT_TYPE,
    KEYS,
    RSA,
    SECRET,
    STRANGER,
    Answer,
    ahead,
    ask,
    assertion,
    basic,
    github_jwt,
    post,
    public,
    send,
)
from tests.standins.second_issuer import (
    FACES,
    JWT_BEARER,
    TOKEN_EXCHANGE,
    Client,
    Installation,
    Quota,
    SecondIssuer,
    metadata,
    reply,
    reset,
)


class TestSecrets:
    @pytest.mark.parametrize("secret", [SECRET, "s3cr+t%20/x", "a:b", "~*-._"])
    async def test_basic_is_form_decoded(self, secret: str) -> None:
        """RFC 6749 §2.3.1: encoded before base64; sent raw, the same secret is refused."""
        async with SecondIssuer.start(clients=[Client("agent", [secret], "client_secret_basic")]) as issuer:
            assert (await ask(issuer, {}, basic("agent", secret))).status == 200
            raw = await ask(issuer, {}, basic("agent", secret, encode=False))
            assert raw.status == (200 if secret == "~*-._" else 400)

    async def test_raw_basic_refuses_what_is_encoded(self) -> None:
        """Glewlwyd decodes nothing and says nothing."""
        client = Client("agent", [SECRET], "client_secret_basic", scopes=("read",))
        async with SecondIssuer.start("glewlwyd", [client]) as issuer:
            assert (await ask(issuer, {"scope": "read"}, basic("agent", SECRET, encode=False))).status == 200
            refused = await ask(issuer, {"scope": "read"}, basic("agent", SECRET))
            assert (refused.status, refused.text) == (403, "")

    async def test_an_independent_client_is_understood(self) -> None:
        """requests-oauthlib posts the same secret in its body."""
        async with SecondIssuer.start(clients=[Client("agent", [SECRET])]) as issuer:
            url = issuer.token_endpoint

            def fetch() -> dict[str, Any]:
                with OAuth2Session(client=BackendApplicationClient("agent")) as session:
                    session.headers["Connection"] = "close"
                    found: dict[str, Any] = session.fetch_token(
                        url, client_id="agent", client_secret=SECRET, include_client_id=True
                    )
                    return found

            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
                token = await asyncio.to_thread(fetch)
            assert token["access_token"] == issuer.minted[-1].token

    @pytest.mark.parametrize(
        ("form", "headers", "verdict"),
        [
            pytest.param(post(secret="no"), {}, (401, "invalid_client"), id="wrong secret"),
            pytest.param(post("who"), {}, (401, "invalid_client"), id="unknown client"),
            pytest.param({"client_id": "agent"}, {}, (401, "invalid_client"), id="no secret"),
            pytest.param({}, basic("agent", SECRET), (401, "invalid_client"), id="another method"),
            pytest.param(post(), basic("agent", SECRET), (400, "invalid_request"), id="two methods"),
            pytest.param(post(grant_type="password"), {}, (400, "unsupported_grant_type"), id="unknown grant"),
            pytest.param(post(scope="admin"), {}, (400, "invalid_scope"), id="foreign scope"),
            pytest.param(post(scope="a  b"), {}, (400, "invalid_scope"), id="two spaces in scope"),
            pytest.param(post(audience="https://x"), {}, (400, "invalid_target"), id="foreign audience"),
            pytest.param(post(resource="https://api.example#f"), {}, (400, "invalid_target"), id="fragment"),
            pytest.param(post(), {"Content-Type": "application/json"}, (400, "invalid_request"), id="not a form"),
        ],
    )
    async def test_it_refuses(self, form: dict[str, str], headers: dict[str, str], verdict: tuple[int, str]) -> None:
        """Each with the error of RFC 6749 §5.2, and nothing is issued."""
        async with SecondIssuer.start(clients=[Client("agent", [SECRET], scopes=("read",))]) as issuer:
            answer = await ask(issuer, form, headers)
            assert answer.verdict == verdict
            assert answer.headers["Cache-Control"] == "no-store"
            assert not issuer.minted

    @pytest.mark.parametrize("body", ["grant_type=client_credentials&grant_type=x", "client_secret=%zz", "a=b c"])
    async def test_it_refuses_a_broken_form(self, body: str) -> None:
        """RFC 6749 §3.2: no parameter twice; and the encoding is that of a form."""
        async with SecondIssuer.start(clients=[Client("agent", [SECRET])]) as issuer:
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            answer = await send("POST", issuer.token_endpoint, data=body, headers=headers)
            assert answer.verdict == (400, "invalid_request")

    async def test_old_secrets_are_good_only_where_they_overlap(self) -> None:
        """A rotation, with and without overlap."""
        client = Client("agent", ["new", "old"])
        async with SecondIssuer.start(clients=[client]) as issuer:
            assert (await ask(issuer, post(secret="old"))).status == 401
            issuer.switch(old_secrets=True)
            assert (await ask(issuer, post(secret="old"))).status == 200
            client.secrets.pop()
            assert (await ask(issuer, post(secret="old"))).status == 401


class TestTokens:
    @pytest.mark.parametrize("alg", ["RS256", "ES256"])
    async def test_an_independent_verifier_takes_them(self, alg: str) -> None:
        """RFC 9068, by PyJWT with the published keys, before and after a rotation."""
        client = Client("agent", [SECRET], scopes=("read",), organizations=("org",))
        async with SecondIssuer.start(clients=[client], signing_alg=alg) as issuer:
            for _ in range(2):
                token = (await ask(issuer, post())).json["access_token"]
                keys = {one["kid"]: one for one in (await send("GET", issuer.jwks_uri)).json["keys"]}
                header = jwt.get_unverified_header(token)
                key = jwt.PyJWK(keys[header["kid"]])
                claims = jwt.decode(token, key, [alg], audience="https://api.example", issuer=issuer.url)
                assert header["typ"] == "at+jwt"
                expected = {"sub": "agent", "client_id": "agent", "scope": "read", "org_id": "org"}
                assert expected.items() <= claims.items()
                issuer.rotate_keys()

    async def test_auth0_gives_an_opaque_one_without_audience(self) -> None:
        """And with one, its own dialect and the quota's headers."""
        async with SecondIssuer.start("auth0", [Client("agent", [SECRET])]) as issuer:
            issuer.quota = Quota(limit=10, remaining=1)
            opaque = await ask(issuer, post())
            assert (opaque.json["expires_in"], "." in opaque.json["access_token"]) == (86400, False)
            assert opaque.headers["Auth0-Client-Quota-Limit"].startswith("b=per_hour;q=10;r=0;t=3600,b=per_day;")
            assert (await ask(issuer, post(audience="https://api.example"))).status == 429
            issuer.quota = None
            await ask(issuer, post(audience="https://api.example"))
            claims = issuer.minted[-1].claims
            assert (claims["azp"], claims["iss"], "jti" in claims) == ("agent", issuer.origin + "/", False)
            assert (await ask(issuer, post(secret="no"))).verdict == (401, "access_denied")

    @pytest.mark.parametrize(
        ("face", "form", "verdict"),
        [
            ("okta", {}, (400, "invalid_scope")),
            ("entra", {"scope": "read"}, (400, "invalid_scope")),
            ("zitadel", {"scope": "read"}, (400, "invalid_scope")),
            ("hydra", {"audience": "https://api.example https://x"}, (400, "invalid_target")),
            ("keycloak", {"client_secret": "no"}, (401, "unauthorized_client")),
        ],
    )
    async def test_faces_refuse_in_their_own_words(
        self, face: str, form: dict[str, str], verdict: tuple[int, str]
    ) -> None:
        """Data alone makes the difference."""
        async with SecondIssuer.start(face, [Client("agent", [SECRET], scopes=("read",))]) as issuer:
            assert (await ask(issuer, post() | form)).verdict == verdict

    async def test_entra_throttles_in_plain_text(self) -> None:
        """429, no JSON, `Retry-After: 60`."""
        async with SecondIssuer.start("entra", [Client("agent", [SECRET])]) as issuer:
            issuer.throttle()
            answer = await ask(issuer, post(scope="https://api.example/.default"))
            found = answer.status, answer.text, answer.headers["Retry-After"]
            assert found == (429, "Too Many Requests", "60")

    async def test_cognito_keeps_its_token_endpoint_on_another_host(self) -> None:
        """On the issuer's host there is none."""
        async with SecondIssuer.start("cognito", [Client("agent", [SECRET])]) as issuer:
            assert (await ask(issuer, post())).status == 200
            assert (
                await ask(issuer, post(), url=issuer.token_endpoint.replace("localhost", "127.0.0.1"))
            ).status == 404

    async def test_metadata_is_where_the_face_says(self) -> None:
        """RFC 8414 §3.1: the well-known part goes before the issuer's path."""
        async with SecondIssuer.start("okta") as issuer:
            url = f"{issuer.origin}/.well-known/oauth-authorization-server/oauth2/default"
            assert (await send("GET", url)).json["issuer"] == issuer.url
            issuer.switch(well_known=("openid-appended",))
            assert (await send("GET", url)).status == 404


class TestGrants:
    async def test_google_reads_the_scope_in_the_assertion(self) -> None:
        """RFC 7523 §2.1: audience the token URL, no client authentication."""
        client = Client("agent", auth="none", keys=KEYS, scopes=("read",))
        async with SecondIssuer.start("google", [client]) as issuer:

            async def by(**claims: Any) -> Answer:
                made = assertion(issuer, RSA, "RS256", {"kid": "rsa"}, **{"aud": issuer.token_endpoint, **claims})
                return await ask(issuer, {"grant_type": JWT_BEARER, "assertion": made["client_assertion"]})

            assert (await by(scope="read")).status == 200
            assert (await by(scope="read", aud=issuer.url)).verdict == (400, "invalid_grant")
            assert (await by(scope="read", **ahead(exp=4000))).verdict == (400, "invalid_grant")
            assert (await by()).verdict == (400, "invalid_scope")

    async def test_zitadel_reads_the_scope_in_the_form(self) -> None:
        """And wants sub = iss."""
        async with SecondIssuer.start("zitadel", [Client("agent", auth="none", keys=KEYS)]) as issuer:
            form = {"grant_type": JWT_BEARER, "scope": "openid urn:zitadel:iam:org:project:id:7:aud"}
            good = assertion(issuer, RSA, "RS256", {"kid": "rsa"})["client_assertion"]
            assert (await ask(issuer, form | {"assertion": good})).status == 200
            assert issuer.minted[-1].claims["aud"] == "7"
            bad = assertion(issuer, RSA, "RS256", {"kid": "rsa"}, sub="who")["client_assertion"]
            assert (await ask(issuer, form | {"assertion": bad})).verdict == (400, "invalid_grant")

    async def test_exchange_says_who_acts(self) -> None:
        """RFC 8693 §4.1: the current actor outside, earlier ones inside."""
        async with SecondIssuer.start(clients=[Client("agent", [SECRET])]) as issuer:
            form = post(grant_type=TOKEN_EXCHANGE, subject_token_type=JWT_TYPE, actor_token_type=JWT_TYPE)
            form |= {"actor_token": issuer.subject_token("bot")}
            subject = issuer.subject_token("alice", act={"sub": "earlier"})
            answer = await ask(issuer, form | {"subject_token": subject})
            assert answer.json["issued_token_type"] == ACCESS_TOKEN
            claims = issuer.minted[-1].claims
            assert (claims["sub"], claims["act"]) == ("alice", {"sub": "bot", "act": {"sub": "earlier"}})

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param({"subject_token": "garbage"}, id="an unknown token"),
            pytest.param({"subject_token_type": "urn:x"}, id="an unknown type"),
            pytest.param({"actor_token_type": JWT_TYPE}, id="an actor's type without actor"),
            pytest.param({"requested_token_type": "urn:ietf:params:oauth:token-type:saml2"}, id="saml"),
            pytest.param({"subject_token": ""}, id="none"),
        ],
    )
    async def test_exchange_refuses(self, change: dict[str, str]) -> None:
        """RFC 8693 §2.2.2: invalid_request."""
        async with SecondIssuer.start(clients=[Client("agent", [SECRET])]) as issuer:
            form = post(grant_type=TOKEN_EXCHANGE, subject_token_type=JWT_TYPE)
            form |= {"subject_token": issuer.subject_token("alice")}
            assert (await ask(issuer, form | change)).verdict == (400, "invalid_request")


class TestGithub:
    @pytest.mark.parametrize(
        ("number", "claims", "body", "status", "words"),
        [
            pytest.param(1, ahead(exp=700), {}, 401, "too far in the future", id="exp over 10 min"),
            pytest.param(1, ahead(iat=60), {}, 401, "'iat'", id="iat in the future"),
            pytest.param(1, ahead(exp=-5), {}, 401, "future time", id="expired"),
            pytest.param(1, {"key": STRANGER}, {}, 401, "decoded", id="forged"),
            pytest.param(1, None, {}, 401, "Requires", id="no JWT"),
            pytest.param(1, {"iss": "78"}, {}, 404, "Integration", id="another app"),
            pytest.param(9, {}, {}, 404, "Not Found", id="another installation"),
            pytest.param(2, {}, {}, 403, "suspended", id="suspended"),
            pytest.param(1, {}, {"permissions": {"contents": "admin"}}, 422, "permissions", id="too much"),
            pytest.param(1, {}, {"repositories": ["three"]}, 422, "repository", id="no such repository"),
        ],
    )
    async def test_it_refuses(
        self, number: int, claims: dict[str, Any] | None, body: dict[str, Any], status: int, words: str
    ) -> None:
        """With GitHub's status and message."""
        async with SecondIssuer.start("github-app", [Client("77", keys=[public(RSA)])]) as issuer:
            issuer.installations = {1: Installation("77"), 2: Installation("77", suspended=True)}
            url = f"{issuer.origin}/app/installations/{number}/access_tokens"
            headers = {} if claims is None else github_jwt(**claims)
            answer = await send("POST", url, headers=headers, json=body)
            assert answer.status == status
            assert words in answer.json["message"]

    async def test_a_token_lives_until_it_is_revoked(self) -> None:
        """201 with ISO time; 204; then 401. And a spent quota is a 403."""
        async with SecondIssuer.start("github-app", [Client("77", keys=[public(RSA)])]) as issuer:
            issuer.installations = {1: Installation("77")}
            issuer.quota = Quota(remaining=1)
            url = f"{issuer.origin}/app/installations/1/access_tokens"
            made = await send("POST", url, headers=github_jwt(), json={"repositories": ["one"]})
            assert (made.status, made.json["repository_selection"]) == (201, "selected")
            assert made.json["expires_at"].endswith("Z")
            token = {"Authorization": f"token {made.json['token']}"}
            statuses = [
                (await send("DELETE", f"{issuer.origin}/installation/token", headers=token)).status for _ in "12"
            ]
            assert statuses == [204, 401]
            spent = await send("POST", url, headers=github_jwt())
            assert (spent.status, spent.headers["x-ratelimit-remaining"]) == (403, "0")


class TestAfterwards:
    @pytest.fixture
    def client(self) -> Client:
        return Client("agent", [SECRET], token_format="opaque")

    async def test_a_revoked_token_is_inactive(self, client: Client) -> None:
        """RFC 7009, RFC 7662; JWTs only where the face says so, and another client's never."""
        async with SecondIssuer.start(clients=[client, Client("other", ["s"])]) as issuer:

            async def tell(url: str, token: str, who: dict[str, str]) -> Answer:
                return await send("POST", url, data=urlencode({**who, "token": token}), headers=FORM)

            token = (await ask(issuer, post())).json["access_token"]
            assert (await tell(issuer.introspection_endpoint, token, post())).json["active"] is True
            assert (await tell(issuer.revocation_endpoint, token, post("other", "s"))).status == 400
            assert (await tell(issuer.revocation_endpoint, token, post(secret="no"))).status == 401
            assert (await tell(issuer.revocation_endpoint, token, post())).status == 200
            assert (await tell(issuer.introspection_endpoint, token, post())).json == {"active": False}
            assert (await tell(issuer.revocation_endpoint, "unknown", post())).status == 200
            client.token_format = "jwt"
            token = (await ask(issuer, post())).json["access_token"]
            refused = await tell(issuer.revocation_endpoint, token, post())
            assert refused.verdict == (400, "unsupported_token_type")
            issuer.switch(introspection="forbidden")
            assert (await tell(issuer.introspection_endpoint, token, post())).status == 403

    async def test_the_clock_can_be_moved(self, client: Client) -> None:
        """Tokens expire by it, and `Date` tells it."""
        async with SecondIssuer.start(clients=[client]) as issuer:
            bearer = {"Authorization": f"Bearer {(await ask(issuer, post())).json['access_token']}"}
            assert (await send("GET", issuer.resource, headers=bearer)).status == 200
            before = (await send("GET", issuer.jwks_uri)).headers["Date"]
            issuer.clock.offset = 86400
            assert (await send("GET", issuer.resource, headers=bearer)).status == 401
            assert (await send("GET", issuer.jwks_uri)).headers["Date"] != before

    async def test_faults_are_scripted_and_recorded(self, client: Client) -> None:
        """Each answers one request, then the issuer is itself again."""
        async with SecondIssuer.start(clients=[client]) as issuer:
            issuer.script(reply(503, "busy"), reset)
            assert (await ask(issuer, post())).text == "busy"
            with pytest.raises(aiohttp.ClientError):
                await ask(issuer, post())
            assert (await ask(issuer, post())).status == 200
            assert len(issuer.token_requests) == 3
            assert ("client_secret", SECRET) in issuer.token_requests[0].form

    @pytest.mark.parametrize("face", sorted(FACES))
    async def test_every_face_tells_of_itself(self, face: str) -> None:
        """At each place that it promises, its own issuer and a token endpoint."""
        async with SecondIssuer.start(face) as issuer:
            for path in metadata.paths(issuer.state):
                found = (await send("GET", issuer.origin + path)).json
                assert (found["issuer"], found["token_endpoint"]) == (issuer.url, issuer.token_endpoint)
