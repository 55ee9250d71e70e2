"""The verifier without a web framework: each check of a token has a token that fails it alone."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.verifier_tokens import (
    AUDIENCE,
    ISSUER,
    KEY,
    KID,
    METADATA,
    NOW,
    Documents,
    b64,
    ed_key,
    good,
    public,
    rsa_key,
    signed,
    verifier,
)  # fmt: skip
from tokenbroker.dev.verifier import AUTH0, ENTRA, RFC9068, Dialect, Expected, Refused, Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenbroker.dev.verifier import Caller, Verifier


async def ask(judge: Verifier, token: str, *, method: str = "GET", path: str = "/search") -> Caller:
    found = await judge.check(Request(method, path, [f"Bearer {token}"]))
    assert found is not None
    return found


async def refusal(judge: Verifier, *authorization: str, **changes: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        await judge.check(replace(Request("GET", "/search", authorization), **changes))
    return caught.value


async def said(token: str, **expected: Any) -> tuple[int, str | None, str]:
    found = await refusal(verifier(**expected), f"Bearer {token}")
    return found.status, found.error, found.reason


async def test_a_good_token_says_who_calls() -> None:
    caller = await ask(verifier(), signed(good(act={"sub": "worker", "act": {"sub": "older"}})))

    assert (caller.client_id, caller.subject, caller.owner) == ("agent", "agent", "ada@example.com")
    assert (caller.agent_type, caller.actor) == ("interactive", "worker")


@pytest.mark.parametrize(
    ("alg", "make"),
    [("RS256", rsa_key), ("PS256", rsa_key), ("EdDSA", ed_key), ("ES256", lambda: KEY)],
)
@pytest.mark.parametrize("named", [True, False], ids=["key names its algorithm", "key names none"])
async def test_each_algorithm_is_understood(alg: str, make: Callable[[], Any], *, named: bool) -> None:
    key = make()
    documents = Documents([{**public(key), "kid": KID, **({"alg": alg} if named else {})}])

    assert (await ask(verifier(documents), signed(good(), key=key, alg=alg))).client_id == "agent"


def unsigned(head: bytes) -> str:
    return f"{b64(head)}.e30."


HEADERS: dict[str, tuple[Callable[[], str], str]] = {
    "not three parts": (lambda: "a.b", "the token is not a JWT"),
    "header that is no base64": (lambda: "a.e30.e30", "the token is not a JWT"),
    "signature that is no base64": (lambda: signed(good()).rpartition(".")[0] + ".a", "the token is malformed"),
    "a character after a good signature": (lambda: signed(good()) + "!", "the token is not a JWT"),
    "header that is no JSON": (lambda: unsigned(b"x"), "the token is not a JWT"),
    "header that is a list": (lambda: unsigned(b"[]"), "the token is not a JWT"),
    "header in UTF-16": (lambda: unsigned("{}".encode("utf-16")), "the token is not a JWT"),
    "header of 5,000 lists": (lambda: unsigned(b"[" * 5000), "the token is not a JWT"),
    "header with a name twice": (
        lambda: unsigned(b'{"alg":"none","alg":"ES256","typ":"at+jwt","kid":"k1"}'),
        "the token is not a JWT",
    ),
    "a character that no token has": (lambda: "a.b.c\u00fc", "the token is not a JWT"),
    "an extension": (lambda: signed(good(), crit=["b64"], b64=True), "the token is not a JWT"),
    "longer than 16 KiB": (lambda: "a" * (16 * 1024 + 1), "the token is too long"),
    "alg none": (lambda: unsigned(b'{"alg":"none","typ":"at+jwt","kid":"k1"}'), "the algorithm is not accepted"),
    "HS256": (lambda: signed(good(), key="k" * 32, alg="HS256"), "the algorithm is not accepted"),
    "typ JWT without being told": (lambda: signed(good(), typ="JWT"), "the token is not an access token"),
    "typ of a proof": (lambda: signed(good(), typ="dpop+jwt"), "the token is not an access token"),
    "no typ": (
        lambda: unsigned(b'{"alg":"ES256","kid":"k1"}'),
        "the token is not an access token",
    ),
    "no kid": (lambda: signed(good(), kid=None), "the token names no key"),
    "a kid that is a number": (
        lambda: unsigned(b'{"alg":"ES256","typ":"at+jwt","kid":1}'),
        "the token names no key",
    ),
    "unknown kid": (lambda: signed(good(), kid="k2"), "the key is unknown"),
    "another algorithm than the key's": (
        lambda: signed(good(), key=rsa_key(), alg="RS256"),
        "the algorithm is not the key's",
    ),
    "a key of its own in the header": (
        lambda: signed(good(), key=(own := ec.generate_private_key(ec.SECP256R1())), jwk=public(own)),
        "the signature is not valid",
    ),
    "a key set of its own in the header": (
        lambda: signed(good(), key=ec.generate_private_key(ec.SECP256R1()), jku="https://thief.example.com/jwks"),
        "the signature is not valid",
    ),
    "another payload": (
        lambda: ".".join(
            [signed(good()).split(".")[0], signed(good(sub="x")).split(".")[1], signed(good()).split(".")[2]]
        ),
        "the signature is not valid",
    ),
    "a payload that is a list": (lambda: signed(b"[]"), "the token is malformed"),
    "a claim twice": (lambda: signed(b'{"iss":"a","iss":"b"}'), "the token is malformed"),
}


@pytest.mark.parametrize(("make", "reason"), HEADERS.values(), ids=HEADERS.keys())
async def test_a_token_in_another_form_is_refused(make: Callable[[], str], reason: str) -> None:
    assert await said(make()) == (401, "invalid_token", reason)


CLAIMS: dict[str, tuple[dict[str, Any], str]] = {
    "no iss": ({"iss": None}, "the claim iss is missing"),
    "iss without its slash": ({"iss": ISSUER.rstrip("/")}, "the issuer is another"),
    "iss in capitals": ({"iss": ISSUER.upper()}, "the issuer is another"),
    "iss in a list": ({"iss": [ISSUER]}, "the issuer is another"),
    "no aud": ({"aud": None}, "the claim aud is missing"),
    "aud that begins with ours": ({"aud": AUDIENCE + ".evil.example"}, "the audience is another"),
    "aud that ours begins with": ({"aud": AUDIENCE[:-1]}, "the audience is another"),
    "aud as an object": ({"aud": {AUDIENCE: 1}}, "the audience is another"),
    "an empty list of aud": ({"aud": []}, "the audience is another"),
    "no exp": ({"exp": None}, "the claim exp is missing"),
    "exp reached, leeway over": ({"exp": NOW - 30}, "the token has expired"),
    "exp as a text": ({"exp": str(NOW + 60)}, "the claim exp is not a number"),
    "exp true": ({"exp": True}, "the claim exp is not a number"),
    "no iat": ({"iat": None}, "the claim iat is missing"),
    "iat ahead": ({"iat": NOW + 31}, "the token is not valid yet"),
    "iat as a text": ({"iat": str(NOW)}, "the claim iat is not a number"),
    "nbf ahead": ({"nbf": NOW + 31}, "the token is not valid yet"),
    "nbf as a list": ({"nbf": [1]}, "the claim nbf is not a number"),
    "no sub": ({"sub": None}, "the claim sub is missing"),
    "no jti": ({"jti": None}, "the claim jti is missing"),
    "jti as a number": ({"jti": 7}, "the claim jti is missing"),
    "no client": ({"client_id": None}, "the claim client_id is missing"),
    "two clients": ({"azp": "other"}, "the token names two clients"),
    "scope as an object": ({"scope": {}}, "the claim scope is not a list of texts"),
    "scp with a number in it": ({"scp": ["search:read", 1]}, "the claim scp is not a list of texts"),
    "no owner": ({"owner": None}, "the claim owner is missing"),
    "blank owner": ({"owner": "  "}, "the claim owner is missing"),
    "owner as a list": ({"owner": ["ada"]}, "the claim owner is missing"),
    "no agent_type": ({"agent_type": None}, "the claim agent_type is missing"),
    "another agent_type": ({"agent_type": "Interactive"}, "the agent_type is unknown"),
    "act as a text": ({"act": "worker"}, "the claim act is not an object"),
    "act without sub": ({"act": {}}, "the claim sub is missing"),
    "bound by DPoP": ({"cnf": {"jkt": "x"}}, "the token is bound to a key and cannot be a bearer token"),
    "bound by a certificate": (
        {"cnf": {"x5t#S256": "x"}}, "the token is bound to a key and cannot be a bearer token",
    ),
    "bound to nothing": ({"cnf": {}}, "the token is bound to a key and cannot be a bearer token"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "reason"), CLAIMS.values(), ids=CLAIMS.keys())
async def test_a_token_that_says_another_thing_is_refused(changes: dict[str, Any], reason: str) -> None:
    assert await said(signed(good(**changes))) == (401, "invalid_token", reason)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        ("NaN", "the token is malformed"),
        ("Infinity", "the token is malformed"),
        ("1e999", "the claim exp is not a number"),
        ("-1e999", "the claim exp is not a number"),
    ],
)
async def test_an_expiry_that_never_comes_is_refused(number: str, reason: str) -> None:
    """Python's JSON reads them all; a comparison with NaN is always false, so such a token would live for ever."""
    payload = json.dumps(good(exp=0)).replace('"exp": 0', f'"exp": {number}').encode()

    assert (await said(signed(payload)))[2] == reason


async def test_a_number_too_large_for_a_float_is_no_fault_of_the_server() -> None:
    assert (await said(signed(good(iat=10**400))))[2] == "the token is not valid yet"


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"exp": NOW - 29}, id="expired within the leeway"),
        pytest.param({"iat": NOW + 30, "nbf": NOW + 30}, id="early within the leeway"),
        pytest.param({"aud": ["https://x.example.com", AUDIENCE]}, id="several audiences"),
        pytest.param({"client_id": None, "azp": "agent"}, id="azp"),
        pytest.param({"client_id": None, "appid": "agent"}, id="appid"),
        pytest.param({"azp": "agent"}, id="the same client under two names"),
        pytest.param({"scope": None, "scp": ["search:read"]}, id="scp"),
        pytest.param({"scope": "openid", "permissions": ["search:read"]}, id="permissions beside scope"),
        pytest.param({"scope": None, "roles": ["search:read"]}, id="roles"),
        pytest.param({"exp": NOW + 0.5}, id="a fraction"),
    ],
)
async def test_what_issuers_do_differently_is_understood(changes: dict[str, Any]) -> None:
    assert (await ask(verifier(), signed(good(**changes)))).actor == "agent"


async def test_the_leeway_is_ours_to_shorten() -> None:
    assert (await said(signed(good(exp=NOW - 29)), leeway=0))[2] == "the token has expired"


@pytest.mark.parametrize("leeway", [-1, 31, float("inf"), float("nan")])
def test_a_leeway_beyond_thirty_seconds_is_refused(leeway: float) -> None:
    with pytest.raises(ValueError, match="leeway"):
        Expected(issuer=ISSUER, audience=AUDIENCE, leeway=leeway)


@pytest.mark.parametrize("empty", ["issuer", "audience", "org_id"])
def test_an_empty_expectation_is_refused(empty: str) -> None:
    """A token with an empty audience would pass it."""
    with pytest.raises(ValueError, match="empty"):
        Expected(**{"issuer": ISSUER, "audience": AUDIENCE, empty: ""})  # type: ignore[arg-type]  # texts all three


async def test_all_scopes_are_needed_and_named() -> None:
    judge = verifier(routes={"GET /search": ["search:read", "billing:read"]})

    found = await refusal(judge, f"Bearer {signed(good())}")

    assert (found.status, found.error, found.scope) == (403, "insufficient_scope", "billing:read search:read")


@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt"])
async def test_both_spellings_of_the_type_are_taken(typ: str) -> None:
    assert (await ask(verifier(), signed(good(), typ=typ))).owner


AUTH0_TOKEN = good(
    jti=None, client_id=None, azp="agent", owner=None, agent_type=None,
    **{"https://example.com/owner": "ada", "https://example.com/type": "autonomous"},
)  # fmt: skip
NAMESPACED = replace(AUTH0, owner="https://example.com/owner", agent_type="https://example.com/type")


async def test_auth0s_default_profile_is_taken_when_told() -> None:
    token = signed(AUTH0_TOKEN, typ="JWT")

    caller = await ask(verifier(dialect=NAMESPACED), token)

    assert (caller.owner, caller.agent_type, caller.client_id) == ("ada", "autonomous", "agent")
    assert (await said(token))[2] == "the token is not an access token"
    assert (await said(token, dialect=AUTH0))[2] == "the claim owner is missing"


async def test_entras_token_is_named_by_uti() -> None:
    token = {"client_id": None, "azp": "agent", "scope": None, "roles": ["search:read"]}

    assert (await ask(verifier(dialect=ENTRA), signed(good(jti=None, uti="u1", **token), typ="JWT"))).owner
    assert (await said(signed(good(jti=None, **token), typ="JWT"), dialect=ENTRA))[2] == "the claim uti is missing"


async def test_scopes_are_read_where_the_dialect_says() -> None:
    """An API may decide that a user's `roles` open nothing."""
    dialect = Dialect(scopes=("scope",))

    found = await said(signed(good(scope="x", roles=["search:read"])), dialect=dialect)

    assert found[:2] == (403, "insufficient_scope")


@pytest.mark.parametrize(
    ("claims", "reason"),
    [({}, "the claim org_id is missing"), ({"org_id": "org_2"}, "the organization is another")],
)
async def test_only_our_organization_is_served(claims: dict[str, str], reason: str) -> None:
    assert (await said(signed(good(**claims)), org_id="org_1"))[2] == reason
    assert (await ask(verifier(org_id="org_1"), signed(good(org_id="org_1")))).owner
    assert (await ask(verifier(), signed(good(**claims)))).owner


@pytest.mark.parametrize(
    ("grants", "allowed"),
    [
        pytest.param((), False, id="no grant"),
        pytest.param((("other", "GET /search"),), False, id="another client"),
        pytest.param((("agent", "POST /search"),), False, id="another route"),
        pytest.param((("agent", "GET /search"),), True, id="this client, this route"),
        pytest.param((("*", "GET /search"),), True, id="every client"),
        pytest.param((("agent", "*"),), True, id="every route"),
    ],
)
async def test_a_client_needs_a_grant(grants: tuple[tuple[str, str], ...], *, allowed: bool) -> None:
    judge, token = verifier(grants=grants), signed(good())
    if allowed:
        assert (await ask(judge, token)).owner
    else:
        found = await refusal(judge, f"Bearer {token}")
        assert (found.status, found.error) == (403, "access_denied")


async def test_a_client_that_is_called_like_the_wildcard_is_nobody_special() -> None:
    found = await refusal(verifier(grants=(("agent", "GET /search"),)), f"Bearer {signed(good(client_id='*'))}")
    assert found.error == "access_denied"


@pytest.mark.parametrize(
    "authorization",
    [[], [""], ["Bearer"], ["Bearer "], ["Basic YTpi"], ["DPoP x.y.z"], ["Bearer\tx.y.z"]],
)
async def test_no_token_is_a_challenge_without_an_error(authorization: list[str]) -> None:
    """The answer "SHOULD NOT include an error code or other error information" (RFC 6750 §3.1)."""
    judge = verifier()

    answer = judge.answer(await refusal(judge, *authorization))

    assert answer.status == 401
    assert [value for name, value in answer.headers if name == "WWW-Authenticate"] == [
        f'Bearer resource_metadata="{METADATA}"'
    ]


async def test_two_headers_are_refused_even_when_both_are_good() -> None:
    header = f"Bearer {signed(good())}"
    found = await refusal(verifier(), header, header)
    assert (found.status, found.error) == (400, "invalid_request")


async def test_two_tokens_in_one_header_are_refused() -> None:
    token = signed(good())
    assert (await refusal(verifier(), f"Bearer {token}, Bearer {token}")).error == "invalid_token"


async def test_the_scheme_may_be_written_in_any_case() -> None:
    assert await verifier().check(Request("GET", "/search", [f"bEARER {signed(good())}"]))


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: raw.decode("latin-1")))
async def test_whatever_is_sent_is_refused_in_order(text: str) -> None:
    """No answer but a refusal, whatever stands behind the scheme, and nothing of it in the answer."""
    judge = verifier()
    found = await refusal(judge, f"Bearer {text}")
    assert found.status == 401
    answer = judge.answer(found)
    assert all(value.isascii() and value.isprintable() for _, value in answer.headers)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from([*good(), "nbf", "azp", "scp", "roles", "act", "cnf"]), JSON)
async def test_a_signed_claim_of_any_kind_is_judged_and_never_a_crash(name: str, value: object) -> None:
    judge = verifier()
    try:
        await judge.check(Request("GET", "/search", [f"Bearer {signed({**good(), name: value})}"]))
    except Refused as found:
        assert found.status in {401, 403}  # noqa: PT017  # letting it through is right as well


async def test_an_attackers_text_does_not_leave_its_quotes() -> None:
    """A claim's name is the API's own, yet what stands in a header is quoted whatever it is."""
    judge = verifier(dialect=replace(RFC9068, owner='a"b\\c'))
    answer = judge.answer(await refusal(judge, f"Bearer {signed(good(owner=None))}"))
    assert r'error_description="the claim a\"b\\c is missing"' in dict(answer.headers)["WWW-Authenticate"]


async def test_a_refusal_has_nothing_of_the_token() -> None:
    token = signed(good(owner=None))
    judge = verifier()
    found = await refusal(judge, f"Bearer {token}")
    answer = judge.answer(found)
    shown = f"{found!r} {found} {answer}"
    assert not any(part in shown for part in token.split("."))


def test_the_core_loads_no_web_framework() -> None:
    code = "import sys, tokenbroker.dev.verifier.asgi; print(*{'aiohttp', 'starlette', 'httpx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.strip()
