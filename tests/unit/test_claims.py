"""What an issuer answered is compared with what was asked."""

from __future__ import annotations

from typing import Any

import pytest

from tokenbroker import claims
from tokenbroker.config import ClientConfig, IssuerConfig
from tokenbroker.errors import TokenMismatch
from tokenbroker.model import AgentType, IssuerAnswer, Secret, SecretRef, TokenKey

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


def test_fewer_scopes_are_served_where_the_configuration_says_so() -> None:
    assert ("a",) == claims.check(answer(None, ("a",)), KEY, CLIENT, issuer(granted_scopes="subset"))
    assert () == claims.check(answer(None, ()), KEY, CLIENT, issuer(granted_scopes="ignore"))
