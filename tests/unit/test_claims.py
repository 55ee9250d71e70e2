"""What an issuer answered is compared with what was asked."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest

from tokenbroker import claims
from tokenbroker.config import ClientConfig, IssuerConfig
from tokenbroker.errors import TokenMismatch
from tokenbroker.model import AgentType, Checked, IssuerAnswer, Secret, SecretRef, TokenKey

CLIENT = ClientConfig("mine", "main", AgentType.INTERACTIVE, "o@example.com", "id", SecretRef("op://v/i/f"))
KEY = TokenKey("search", "mine", ("a", "b"), audience="https://api")


def answer(found: dict[str, Any] | None, scope: tuple[str, ...] | None = ("a", "b")) -> IssuerAnswer:
    return IssuerAnswer(Secret("t"), "Bearer", 60, scope, found)


def issuer(**more: Any) -> IssuerConfig:
    return IssuerConfig("main", **more)


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(answer(None), id="an opaque token is taken as it is"),
        pytest.param(answer({"aud": "https://api", "owner": "o@example.com"}), id="claims that agree"),
        pytest.param(answer({"aud": ["x", "https://api"]}), id="one of several audiences"),
        pytest.param(answer({}), id="absent claims"),
        pytest.param(answer({"scope": "b a c"}, None), id="scopes in the token alone"),
        pytest.param(answer({"permissions": ["a"], "roles": ["b"]}, None), id="scopes spread over claims"),
        pytest.param(answer(None, None), id="nothing said of scopes: as requested"),
    ],
)
def test_accepted(given: IssuerAnswer) -> None:
    assert {"a", "b"} <= set(claims.check(given, KEY, CLIENT, issuer()))


@pytest.mark.parametrize(
    ("given", "how", "message"),
    [
        pytest.param(
            answer({"aud": "https://other"}), {}, "audience is https://other, asked was https://api", id="audience"
        ),
        pytest.param(answer({"aud": 3}), {}, "something that is no audience", id="audience of a wrong type"),
        pytest.param(answer({"owner": "x"}), {}, "claim owner is x, client `mine` has owner o@example.com", id="owner"),
        pytest.param(
            answer({"agent_type": "autonomous"}), {}, "agent_type is autonomous, client `mine` has", id="agent type"
        ),
        pytest.param(
            answer({"owner": "o@example.com"}),
            {"claims": {"owner": "https://x/owner"}},
            "claim https://x/owner is absent",
            id="a claim that the configuration places, absent",
        ),
        pytest.param(answer(None, ("a",)), {}, "did not grant scope b to client `mine`; it granted a", id="a scope"),
        pytest.param(answer({"scope": "a"}, None), {}, "did not grant scope b", id="a scope, silently"),
        pytest.param(answer(None, ()), {"granted_scopes": "subset"}, "it granted none", id="no scope at all"),
    ],
)
def test_refused_with_both_values(given: IssuerAnswer, how: dict[str, Any], message: str) -> None:
    with pytest.raises(TokenMismatch, match=message.replace("(", r"\(")) as caught:
        claims.check(given, KEY, CLIENT, issuer(**how))
    assert caught.value.hint


@pytest.mark.parametrize(("audience", "fits"), [("https://api", True), (["https://api"], True), ("https://x", False)])
def test_a_resource_is_an_audience_too(audience: object, *, fits: bool) -> None:
    """RFC 8707 §2: the issuer restricts the token to the resource that was asked for, by its audience."""
    key = replace(KEY, audience=None, resource="https://api")
    with nullcontext() if fits else pytest.raises(TokenMismatch, match="is https://x, asked was https://api"):
        claims.check(answer({"aud": audience}), key, CLIENT, issuer())


def test_fewer_scopes_are_served_where_the_configuration_says_so() -> None:
    assert ("a",) == claims.check(answer(None, ("a",)), KEY, CLIENT, issuer(granted_scopes="subset"))
    assert () == claims.check(answer(None, ()), KEY, CLIENT, issuer(granted_scopes="ignore"))


NOW = 1_800_000_000
ASKED = claims.Asked("id")


class Key:
    """A DPoP key as far as its name."""

    thumbprint = "our-key"

    def prove(self, method: str, url: str, *, token: Secret, nonce: str | None, now: float) -> str:
        raise AssertionError


def jwt(found: dict[str, Any], **more: Any) -> IssuerAnswer:
    return replace(answer(found), **({"checked": Checked.CLAIMS, "issuer": "https://login"} | more))


@pytest.mark.parametrize(
    ("given", "asked", "how"),
    [
        pytest.param(jwt({"iss": "https://login"}), ASKED, {}, id="the issuer's own identifier"),
        pytest.param(
            jwt({"iss": "https://sts/x"}), ASKED, {"token_issuer": "any"}, id="any issuer, where that is said"
        ),
        pytest.param(jwt({"iss": "https://sts/x"}), ASKED, {"token_issuer": "https://sts/x"}, id="the configured one"),
        pytest.param(jwt({"iss": "https://x"}, issuer=None), ASKED, {}, id="an issuer with no known identifier"),
        pytest.param(jwt({"azp": "id", "client_id": "id"}), ASKED, {}, id="our client"),
        pytest.param(
            jwt({"client_id": "x"}), claims.Asked("id", grant="jwt-bearer"), {}, id="whoever an assertion was made by"
        ),
        pytest.param(jwt({"org_id": "org_1"}), claims.Asked("id", "org_1"), {}, id="the organization by id"),
        pytest.param(
            jwt({"org_id": "org_1", "org_name": "acme"}), claims.Asked("id", "acme"), {}, id="the organization by name"
        ),
        pytest.param(jwt({"org_id": "org_1"}), claims.Asked("id", "acme"), {}, id="a name that nothing says"),
        pytest.param(
            jwt({"org_id": "org_1", "org_name": "acme"}), claims.Asked("id", "org_1"), {}, id="an id beside a name"
        ),
        pytest.param(answer(None), ASKED, {"claims": {"owner": "x/owner"}}, id="a place in an opaque token"),
        pytest.param(jwt({}), claims.Asked("id", "org_1"), {}, id="no organization, and no place for it"),
        pytest.param(jwt({"iat": NOW, "nbf": NOW + 60, "exp": NOW + 90}), ASKED, {}, id="nbf within the tolerance"),
        pytest.param(jwt({"iat": True, "nbf": "x", "exp": 10**400}), ASKED, {}, id="times that are none"),
        pytest.param(jwt({"scope": "a b c"}, scope=("a", "b")), ASKED, {}, id="a token for more than was said"),
        pytest.param(jwt({"roles": ["x"]}, scope=("a", "b")), ASKED, {}, id="roles beside granted scopes"),
        pytest.param(jwt({"scp": "a b"}, scope=("api://x/a", "a", "b")), ASKED, {}, id="short names of Entra"),
        pytest.param(
            jwt({"cnf": {"jkt": "our-key"}}, proof_key=Key()), ASKED, {}, id="a token that is bound to our key"
        ),
        pytest.param(
            jwt({}, checked=Checked.INTROSPECTION, proof_key=Key()), ASKED, {}, id="introspection without cnf"
        ),
    ],
)
def test_what_agrees_is_served(given: IssuerAnswer, asked: claims.Asked, how: dict[str, Any]) -> None:
    assert {"a", "b"} <= set(claims.check(given, KEY, CLIENT, issuer(**how), asked))


@pytest.mark.parametrize(
    ("given", "asked", "how", "values"),
    [
        pytest.param(jwt({"iss": "https://x"}), ASKED, {}, ("https://x", "https://login"), id="another issuer"),
        pytest.param(jwt({"iss": "https://login/"}), ASKED, {}, ("https://login/",), id="a slash is another issuer"),
        pytest.param(
            jwt({"iss": "https://login"}),
            ASKED,
            {"token_issuer": "https://sts"},
            ("https://sts",),
            id="not the configured",
        ),
        pytest.param(jwt({}), ASKED, {"token_issuer": "https://sts"}, ("absent", "https://sts"), id="no issuer"),
        *(
            pytest.param(
                jwt({name: "theirs"}), ASKED, {}, (f"{name} is theirs", "is id"), id=f"another client by {name}"
            )
            for name in claims.CLIENT_CLAIMS
        ),
        pytest.param(
            jwt({"client_id": "theirs"}),
            claims.Asked("id", grant="token-exchange"),
            {},
            ("client_id is theirs", "is id"),
            id="another client by an exchange",
        ),
        pytest.param(
            jwt({"client_id": "id", "azp": "theirs"}), ASKED, {}, ("azp is theirs",), id="one of two client claims"
        ),
        pytest.param(
            jwt({"org_id": "org_2"}), claims.Asked("id", "org_1"), {}, ("org_2", "org_1"), id="another organization"
        ),
        pytest.param(
            jwt({"org_id": "org_1", "org_name": "x"}), claims.Asked("id", "acme"), {}, ("x", "acme"), id="another name"
        ),
        pytest.param(
            jwt({"org_id": "org_1"}),
            claims.Asked("id", "org_1"),
            {"claims": {"org_id": "https://x/org"}},
            ("https://x/org", "absent", "org_1"),
            id="no organization where it has to be",
        ),
        pytest.param(jwt({"iat": NOW, "exp": NOW}), ASKED, {}, (f"{NOW}",), id="dead when it was born"),
        pytest.param(jwt({"iat": NOW, "nbf": NOW + 61}), ASKED, {}, (f"{NOW + 61}", f"{NOW} "), id="not valid yet"),
        pytest.param(jwt({"nbf": NOW, "exp": NOW - 1}), ASKED, {}, (f"{NOW - 1}", f"nbf {NOW}"), id="never valid"),
        pytest.param(
            jwt({"scope": "a"}), ASKED, {}, ("scope b", "granted a, although its answer says otherwise"), id="narrowed"
        ),
        pytest.param(
            jwt({"cnf": {"jkt": "k"}}), ASKED, {}, ("key k", "asked was one bound to none"), id="bound, unasked"
        ),
    ],
)
def test_what_differs_is_refused_with_both_values(
    given: IssuerAnswer, asked: claims.Asked, how: dict[str, Any], values: tuple[str, ...]
) -> None:
    with pytest.raises(TokenMismatch) as caught:
        claims.check(given, KEY, CLIENT, issuer(**how), asked)
    assert [value for value in values if value not in caught.value.message] == []
    assert caught.value.hint


def test_default_scope_of_entra_stands_for_the_roles_that_came() -> None:
    """`<resource>/.default` is no scope that is granted: the token has the application's roles instead."""
    key = TokenKey("search", "mine", ("https://graph/.default",))
    assert ("Mail.Read",) == claims.check(jwt({"roles": ["Mail.Read"]}, scope=None), key, CLIENT, issuer())


def test_a_claim_that_repeats_a_secret_or_the_token_shows_neither() -> None:
    """What an issuer echoes into a claim must not reach a log by way of the error, nor by way of `jti`."""
    hidden = (Secret("hunter2-hunter2"),)
    given = jwt({"owner": "hunter2-hunter2 T0KEN-T0KEN eyJhbGciOiJub25lIn0.e30.x \x1b[1m", "jti": "T0KEN-T0KEN"})
    given = replace(given, access_token=Secret("T0KEN-T0KEN"))
    with pytest.raises(TokenMismatch) as caught:
        claims.check(given, KEY, CLIENT, issuer(), claims.Asked("id", hidden=hidden))
    assert "claim owner is …, client" in caught.value.message
    assert claims.jti(given) == "…"
    assert claims.jti(jwt({"jti": "hunter2-hunter2"}), hidden) == "…"


@pytest.mark.parametrize(
    ("confirmation", "kind"),
    [({"jkt": "k"}, "dpop"), ({"x5t#S256": "x"}, "certificate"), ({}, None), ("junk", None)],
)
@pytest.mark.parametrize("checked", [Checked.CLAIMS, Checked.INTROSPECTION])
def test_binding_is_seen_wherever_the_claims_are_from(checked: Checked, confirmation: object, kind: str | None) -> None:
    assert claims.bound_to(jwt({"cnf": confirmation}, checked=checked)) == kind


@pytest.mark.parametrize(
    ("found", "absent", "granted"),
    [
        pytest.param({"sub": "me"}, "none", (), id="a JWT of an issuer that always names scopes has none"),
        pytest.param({"sub": "me"}, "as_asked", ("a", "b"), id="a JWT without them has what was asked (RFC 6749 §5.1)"),
        pytest.param({"sub": "me", "scope": "a b"}, "none", ("a", "b"), id="a JWT that names them has them"),
        pytest.param(None, "none", ("a", "b"), id="an opaque token says nothing"),
    ],
)
def test_what_silence_about_scopes_means(found: dict[str, Any] | None, absent: Any, granted: tuple[str, ...]) -> None:
    """Auth0 names what it granted in answer and token, and says nothing when that is nothing."""
    assert claims.granted_scopes(answer(found, None), KEY, absent) == granted
    if not granted:
        with pytest.raises(TokenMismatch, match="did not grant scope a b to client `mine`; it granted none"):
            claims.check(answer(found, None), KEY, CLIENT, issuer(absent_scope=absent))


OURS = {"aud": "https://api", "owner": "o@example.com", "agent_type": "interactive"}
MISSING = "it has no claim {}, which could not be compared"
UNASKED = "it has scope {}, which was not asked for"


@pytest.mark.parametrize(
    ("given", "asked", "remarks"),
    [
        pytest.param(jwt(OURS), ASKED, (), id="all is there"),
        pytest.param(answer(None), ASKED, (), id="an opaque token has no claims to miss"),
        pytest.param(jwt({}), ASKED, (MISSING.format("aud, owner, agent_type"),), id="nothing is there"),
        pytest.param(jwt(OURS | {"owner": None}), ASKED, (MISSING.format("owner"),), id="null is absent"),
        pytest.param(jwt({}, checked=Checked.INTROSPECTION), ASKED, (MISSING.format("aud, owner, agent_type"),),
                     id="an issuer that tells as good as nothing"),
        pytest.param(jwt(OURS), claims.Asked("id", "org_1"), (MISSING.format("org_id"),), id="no organization"),
        pytest.param(jwt(OURS | {"org_id": "org_1"}), claims.Asked("id", "org_1"), (), id="the organization"),
        pytest.param(jwt(OURS | {"org_id": "org_1", "org_name": "acme"}), claims.Asked("id", "acme"), (),
                     id="its name"),
        pytest.param(jwt(OURS | {"org_name": "acme"}), claims.Asked("id", "org_1"), (MISSING.format("org_id"),),
                     id="a name where an id was asked"),
        pytest.param(jwt(OURS | {"org_id": "org_1"}), claims.Asked("id", "acme"),
                     ("its org_id org_1 could not be compared with the name acme",), id="an id where a name was asked"),
        pytest.param(jwt(OURS, scope=("a", "admin", "b")), ASKED, (UNASKED.format("admin"),), id="more was granted"),
        pytest.param(answer(None, ("a", "admin", "b")), ASKED, (UNASKED.format("admin"),), id="more, by the answer"),
        pytest.param(jwt(OURS | {"scope": "z a b y"}), ASKED, (UNASKED.format("y z"),), id="more is in the token"),
        pytest.param(jwt(OURS | {"permissions": ["a", "b", "c"]}, scope=None), ASKED, (UNASKED.format("c"),),
                     id="more permissions"),
        pytest.param(jwt(OURS | {"roles": ["c"]}), ASKED, (), id="roles beside the granted scopes"),
        pytest.param(answer(None, ("a", "b", "metadata:read")), ASKED, (), id="what GitHub always adds"),
        pytest.param(jwt({"scope": "a b \x1b[1m" + "z" * 200} | OURS), ASKED, (UNASKED.format("[1m" + "z" * 96 + "…"),),
                     id="text that steers a terminal"),
    ],
)  # fmt: skip
def test_what_could_not_be_compared_or_is_odd_is_remarked(
    given: IssuerAnswer, asked: claims.Asked, remarks: tuple[str, ...]
) -> None:
    """It is served, and a person is told."""
    claims.check(given, KEY, CLIENT, issuer(), asked)
    assert claims.remarks(given, KEY, CLIENT, issuer(), asked) == remarks


@pytest.mark.parametrize(
    ("scopes", "granted"),
    [
        pytest.param((), ("a",), id="who asks for none takes the issuer's own choice"),
        pytest.param(("https://graph/.default",), ("Mail.Read",), id="who asks for all of an application's"),
        pytest.param(("api://x/a",), ("a",), id="a short name of what was asked"),
    ],
)
def test_scopes_that_were_asked_for_in_other_words_are_not_odd(
    scopes: tuple[str, ...], granted: tuple[str, ...]
) -> None:
    key = TokenKey("search", "mine", scopes)
    assert claims.remarks(jwt(OURS, scope=granted), key, CLIENT, issuer()) == ()


def test_absent_claims_are_named_as_the_configuration_names_them() -> None:
    """A resource is an audience too; without either no `aud` is missed."""
    resource = TokenKey("search", "mine", (), resource="https://api")
    assert claims.remarks(jwt(OURS | {"aud": None}), resource, CLIENT, issuer()) == (MISSING.format("aud"),)
    assert claims.remarks(jwt(OURS | {"aud": None}), TokenKey("search", "mine", ()), CLIENT, issuer()) == ()
    named = issuer(claims={"owner": "https://x/owner", "org_id": "tenant"})
    found = jwt({"https://x/owner": "o@example.com", "tenant": "acme", "org_id": "org_9"})
    remarked = claims.remarks(found, TokenKey("search", "mine", ()), CLIENT, named, claims.Asked("id", "acme"))
    assert remarked == (MISSING.format("agent_type"),)


def test_a_remark_repeats_no_secret() -> None:
    """An issuer may echo a secret as a scope."""
    hidden = claims.Asked("id", hidden=(Secret("hunter2-hunter2"),))
    given = replace(jwt(OURS | {"scope": "hunter2-hunter2 T0KEN-T0KEN"}), access_token=Secret("T0KEN-T0KEN"))
    assert claims.remarks(given, KEY, CLIENT, issuer(), hidden) == (UNASKED.format("…"),)
