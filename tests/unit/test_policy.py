"""Rules, profiles, scopes: who may have what."""

from __future__ import annotations

import pytest

from tokenbroker import policy
from tokenbroker.config import ClientConfig, Config, IssuerConfig, PeerPattern, ProfileConfig, RuleConfig
from tokenbroker.errors import BrokerError, Denied, NoClient, ScopeExceedsProfile, UnknownProfile
from tokenbroker.model import AgentType, Peer, SecretRef

INTERACTIVE, AUTONOMOUS = AgentType.INTERACTIVE, AgentType.AUTONOMOUS
PYTHON = "/usr/bin/python3.11"


def client(name: str, agent_type: AgentType) -> ClientConfig:
    return ClientConfig(name, "main", agent_type, "o@example.com", "id", SecretRef(f"op://V/{name}/credential"))


def config(*rules: RuleConfig, profiles: dict[str, ProfileConfig] | None = None) -> Config:
    return Config(
        issuers={"main": IssuerConfig("main", token_endpoint="https://i.example.com/token")},
        clients={"mine": client("mine", INTERACTIVE), "cron": client("cron", AUTONOMOUS)},
        profiles=profiles
        or {
            "search": ProfileConfig("search", ("mine", "cron"), audience="https://s.example.com", scopes=("a", "b")),
            "billing": ProfileConfig("billing", ("mine",), resource="https://b.example.com"),
        },
        rules=rules,
    )


def peer(exe: str | None = PYTHON, agent_type: AgentType | None = INTERACTIVE) -> Peer:
    return Peer(uid=1000, pid=42, exe=exe, agent_type=agent_type)


ALLOW = RuleConfig("*", "allow")


def decide(
    cfg: Config, profile: str = "search", who: Peer | None = None, *, lowered: bool = False
) -> policy.Allow | policy.Ask:
    return policy.decide(cfg, cfg.profiles[profile], who or peer(), lowered=lowered)


@pytest.mark.parametrize(
    ("rules", "who", "allowed"),
    [
        pytest.param([], peer(), False, id="nothing matches: deny"),
        pytest.param([ALLOW], peer(), True, id="an allow matches"),
        pytest.param([RuleConfig("search", "deny"), ALLOW], peer(), False, id="the first match decides: deny"),
        pytest.param([ALLOW, RuleConfig("search", "deny")], peer(), True, id="the first match decides: allow"),
        pytest.param([RuleConfig("bill*", "allow")], peer(), False, id="another profile's glob does not match"),
        pytest.param([RuleConfig("sea*", "allow")], peer(), True, id="a glob matches"),
        pytest.param(
            [RuleConfig("*", "allow", PeerPattern(exe="/usr/bin/python3*"))], peer(), True, id="the exe's glob matches"
        ),
        pytest.param(
            [RuleConfig("*", "allow", PeerPattern(exe="/usr/bin/python3*"))],
            peer("/tmp/usr/bin/python3"),  # noqa: S108  # a path in a value
            False,
            id="the exe's glob covers the whole path",
        ),
        pytest.param(
            [RuleConfig("*", "allow", PeerPattern(exe="*"))], peer(None), False, id="an unknown exe matches no pattern"
        ),
        pytest.param(
            [RuleConfig("*", "allow", PeerPattern(agent_type=INTERACTIVE))],
            peer(agent_type=AUTONOMOUS),
            False,
            id="agent type differs",
        ),
        pytest.param(
            [RuleConfig("*", "allow", PeerPattern(agent_type=AUTONOMOUS))],
            peer(agent_type=None),
            True,
            id="what is unknown counts as autonomous",
        ),
    ],
)
def test_rules(rules: list[RuleConfig], who: Peer, allowed: bool) -> None:  # noqa: FBT001  # a column of the table
    if allowed:
        assert isinstance(decide(config(*rules), who=who), policy.Allow)
    else:
        with pytest.raises(Denied):
            decide(config(*rules), who=who)


def test_ask_carries_what_a_yes_would_allow() -> None:
    decision = decide(config(RuleConfig("*", "ask")))
    assert isinstance(decision, policy.Ask)
    assert decision.allow.client.name == "mine"


@pytest.mark.parametrize(
    ("who", "lowered", "rule", "name"),
    [
        pytest.param(
            peer(agent_type=INTERACTIVE), False, ALLOW, "mine", id="interactive peers get the interactive client"
        ),
        pytest.param(
            peer(agent_type=AUTONOMOUS), False, ALLOW, "cron", id="autonomous peers get the autonomous client"
        ),
        pytest.param(peer(agent_type=INTERACTIVE), True, ALLOW, "cron", id="a peer may lower itself"),
        pytest.param(
            peer(agent_type=AUTONOMOUS),
            False,
            RuleConfig("*", "allow", treat_as=INTERACTIVE),
            "mine",
            id="treat_as overrides evidence",
        ),
        pytest.param(
            peer(agent_type=INTERACTIVE),
            True,
            RuleConfig("*", "allow", treat_as=INTERACTIVE),
            "cron",
            id="treat_as never raises a lowered",
        ),
    ],
)
def test_the_client_is_the_one_for_what_the_peer_counts_as(
    who: Peer,
    lowered: bool,  # noqa: FBT001  # a column of the table
    rule: RuleConfig,
    name: str,
) -> None:
    decision = decide(config(rule), who=who, lowered=lowered)
    assert isinstance(decision, policy.Allow)
    assert name == decision.client.name


def test_a_profile_without_a_client_for_the_peer_is_denied_saying_so() -> None:
    with pytest.raises(NoClient, match=r"profile `billing` has no client for autonomous programs, which /usr/bin/pyth"):
        decide(config(ALLOW), "billing", peer(agent_type=AUTONOMOUS))


def test_a_denial_names_program_profile_and_rule() -> None:
    rule = RuleConfig("search", "deny", line=31)
    with pytest.raises(Denied, match=r"a rule denies profile `search` to /usr/bin/python3.11 \(pid 42\)") as caught:
        decide(config(rule))
    assert "line 31" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        pytest.param({"name": "search"}, "search", id="by name"),
        pytest.param({"name": None, "audience": "https://s.example.com"}, "search", id="by audience"),
        pytest.param({"name": None, "resource": "https://b.example.com"}, "billing", id="by resource"),
        pytest.param(
            {"name": None, "resource": "https://s.example.com"}, "search", id="by resource, where it is an audience"
        ),
        pytest.param({"name": "search", "audience": "https://s.example.com"}, "search", id="by both"),
    ],
)
def test_a_profile_is_found(asked: dict[str, str], found: str) -> None:
    assert found == policy.find_profile(config(), **asked).name


@pytest.mark.parametrize(
    ("asked", "message", "hint"),
    [
        pytest.param({"name": "serach"}, "unknown profile `serach`", "did you mean `search`", id="nearest name"),
        pytest.param({"name": "zzzzzz"}, "unknown profile `zzzzzz`", "broker-token --list", id="no near name"),
        pytest.param({"name": None, "audience": "x"}, "no profile has audience x", "list", id="unknown audience"),
        pytest.param({"name": None}, "names no profile", "list", id="nothing named"),
        pytest.param({"name": "search", "audience": "x"}, "profile `search` is not for x", "list", id="not for that"),
    ],
)
def test_a_profile_is_not_found(asked: dict[str, str], message: str, hint: str) -> None:
    with pytest.raises(UnknownProfile, match=message) as caught:
        policy.find_profile(config(), **asked)
    assert hint in str(caught.value.hint)


def test_an_audience_of_two_profiles_asks_for_a_name() -> None:
    two = {n: ProfileConfig(n, ("mine",), audience="x") for n in ("one", "two")}
    with pytest.raises(UnknownProfile, match="fits more than one profile: `one`, `two`"):
        policy.find_profile(config(profiles=two), name=None, audience="x")


@pytest.mark.parametrize(
    ("scopes", "kept"),
    [
        pytest.param(None, ("a", "b"), id="none asked: all of the profile"),
        pytest.param(["b"], ("b",), id="less"),
        pytest.param(["b", "a", "b"], ("a", "b"), id="sorted, without repeats"),
        pytest.param([], (), id="explicitly nothing"),
    ],
)
def test_the_key_has_the_asked_scopes(scopes: list[str] | None, kept: tuple[str, ...]) -> None:
    cfg = config()
    assert kept == policy.key_for(cfg.profiles["search"], cfg.clients["mine"], scopes).scopes


def test_more_than_the_profile_has_is_refused() -> None:
    cfg = config()
    with pytest.raises(ScopeExceedsProfile, match="profile `search` does not include scope admin; it has a b"):
        policy.key_for(cfg.profiles["search"], cfg.clients["mine"], ["a", "admin"])


def test_every_refusal_names_a_next_step() -> None:
    cfg = config()
    for ask in ({"name": "x"}, {"name": None}):
        with pytest.raises(BrokerError) as caught:
            policy.find_profile(cfg, **ask)
        assert caught.value.hint


def test_lowering_itself_is_no_way_around_a_denial() -> None:
    """A rule that denies what the peer is holds, whatever it asks to be treated as."""
    cfg = config(RuleConfig("*", "deny", PeerPattern(agent_type=INTERACTIVE)), ALLOW)
    with pytest.raises(Denied):
        decide(cfg, lowered=True)
    assert isinstance(decide(cfg, who=peer(agent_type=AUTONOMOUS)), policy.Allow)


@pytest.mark.parametrize(
    ("rule", "who", "lowered", "why"),
    [
        pytest.param(ALLOW, peer(), True, "it asked to be treated as one", id="it lowered itself"),
        pytest.param(
            RuleConfig("*", "allow", treat_as=INTERACTIVE),
            peer(agent_type=AUTONOMOUS),
            True,
            "it asked to be treated as one",
            id="it lowered itself below what a rule gives it",
        ),
        pytest.param(
            RuleConfig("*", "allow", treat_as=AUTONOMOUS), peer(), False, "a rule treats it as one", id="by a rule"
        ),
        pytest.param(
            ALLOW, peer(agent_type=None), False, "nothing shows that a person is near it", id="by want of evidence"
        ),
    ],
)
def test_the_reason_for_having_no_client_is_the_true_one(
    rule: RuleConfig,
    who: Peer,
    lowered: bool,  # noqa: FBT001  # a column of the table
    why: str,
) -> None:
    with pytest.raises(NoClient, match=why):
        decide(config(rule), "billing", who, lowered=lowered)


def test_lowering_itself_is_no_way_around_a_rule_that_asks() -> None:
    asks = RuleConfig("*", "ask", PeerPattern(agent_type=INTERACTIVE))
    assert isinstance(decide(config(asks, ALLOW), lowered=True), policy.Ask)
    assert isinstance(decide(config(asks, ALLOW), who=peer(agent_type=AUTONOMOUS)), policy.Allow)
