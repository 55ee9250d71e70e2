"""One-time passwords: by rule, anew each time, to the program that asked."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.fakes_clock import settle
from tests.service.world import World, configuration
from tokenbroker.config import PeerPattern, RuleConfig, VaultConfig
from tokenbroker.errors import Busy, ConfigError, Denied, Locked, PeerGone, Revoked, Stopping, UsageError
from tokenbroker.model import AgentType
from tokenbroker.otp import OneTimePasswords

if TYPE_CHECKING:
    from tokenbroker.config import Config
    from tokenbroker.model import Peer

REF = "op://Agents/github/one-time password"


def allowing(*rules: RuleConfig) -> Config:
    config = configuration()
    return replace(config, rules=(*rules, *config.rules))


RULE = RuleConfig(None, "allow", otp="op://Agents/*")


class Counter:
    """A world with one-time passwords in both vaults."""

    def __init__(self, config: Config | None = None) -> None:
        self.world = World(config or allowing(RULE))
        for vault in (self.world.vault, self.world.cron_vault):
            vault.values[f"{REF}?attribute=otp"] = "123456"
        self.otp = OneTimePasswords(
            self.world.broker,
            inspector=self.world.inspector,
            approver=self.world.approver,
            audit=self.world.audit,
            clock=self.world.clock,
        )

    async def get(self, ref: str = REF, peer: Peer | None = None, *, may_prompt: bool = True) -> str:
        return (await self.otp.give(ref, peer or self.world.me, may_prompt=may_prompt)).reveal()


async def test_a_program_that_a_rule_allows_gets_the_code() -> None:
    counter = Counter()
    assert await counter.get() == "123456"
    assert await counter.get(f"{REF}?attribute=otp") == "123456"
    assert len(counter.world.vault.reads) == 2


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param([], id="no rule: a rule for all profiles is none for one-time passwords"),
        pytest.param([RuleConfig(None, "deny", otp="*github*"), RULE], id="the first match denies"),
        pytest.param([RuleConfig(None, "deny", otp="OP://AGENTS/GitHub/*"), RULE], id="names have no case"),
        pytest.param([RuleConfig(None, "allow", otp="op://Other/*")], id="another vault is allowed"),
        pytest.param(
            [RuleConfig(None, "allow", PeerPattern(exe="/usr/bin/curl"), otp="*")], id="another program is allowed"
        ),
        pytest.param([RuleConfig(None, "ask", otp="*")], id="a person is to be asked, and says no"),
    ],
)
async def test_nobody_else_gets_one_and_nothing_is_read(rules: list[RuleConfig]) -> None:
    counter = Counter(allowing(*rules))
    with pytest.raises(Denied):
        await counter.get()
    assert counter.world.vault.reads == []
    assert counter.world.audit.named("denied")


async def test_a_rule_for_one_time_passwords_gives_no_tokens() -> None:
    config = replace(configuration(), rules=(RuleConfig(None, "allow", otp="*"),))
    async with World(config) as world:
        with pytest.raises(Denied):
            await world.ask()


async def test_an_autonomous_program_causes_no_prompt() -> None:
    counter = Counter()
    with pytest.raises(Locked):
        await counter.get(peer=counter.world.cron)
    with pytest.raises(Locked):
        await counter.otp.give(REF, counter.world.me, lowered=True)
    with pytest.raises(Locked):
        await counter.get(may_prompt=False)
    assert counter.world.vault.reads == []


async def test_an_autonomous_program_reads_from_the_vault_of_its_kind() -> None:
    config = replace(allowing(RULE), autonomous_vault=VaultConfig("service-account", credential="systemd://op"))
    counter = Counter(config)
    assert await counter.get(peer=counter.world.cron) == "123456"
    assert (len(counter.world.vault.reads), len(counter.world.cron_vault.reads)) == (0, 1)


@pytest.mark.parametrize(
    "ref",
    [
        "",
        "github",
        "op://Agents/github",
        "op://Agents/github/x?attribute=value",
        "keyring://a/b",
        f"{REF}/a/b",
        "op://*/*/*",
    ],
)
async def test_what_is_no_reference_is_refused_before_any_rule(ref: str) -> None:
    counter = Counter(allowing(RuleConfig(None, "allow", otp="*")))
    with pytest.raises(UsageError):
        await counter.get(ref)


async def test_a_program_that_ended_meanwhile_gets_nothing() -> None:
    counter = Counter()
    counter.world.vault.gate.clear()
    asking = asyncio.ensure_future(counter.get())
    await settle()
    counter.world.inspector.end(counter.world.me.pid)
    counter.world.vault.gate.set()
    with pytest.raises(PeerGone):
        await asking


async def test_a_rule_that_was_removed_meanwhile_allows_nothing() -> None:
    counter = Counter()
    counter.world.vault.gate.clear()
    asking = asyncio.ensure_future(counter.get())
    await settle()
    counter.world.broker.config = configuration()
    counter.world.vault.gate.set()
    with pytest.raises(Denied):
        await asking


async def test_a_revoked_session_gets_nothing() -> None:
    counter = Counter()
    await counter.get()
    (session,) = counter.world.broker.sessions.list(counter.world.clock.now())
    counter.world.control.revoke_session(session.id)
    with pytest.raises(Revoked):
        await counter.get()
    assert len(counter.world.vault.reads) == 1


async def test_the_person_is_told_for_whom() -> None:
    counter = Counter()
    await counter.otp.give(REF, counter.world.me, reason="push\x1b[2J to main")
    (_, text), *_ = counter.world.announcer.notes
    assert f"a one-time password of {REF}" in text
    assert 'It says: "push [2J to main"' in text


async def test_the_record_has_no_code() -> None:
    counter = Counter()
    await counter.get()
    assert counter.world.audit.named("one-time password given")
    assert "123456" not in repr(counter.world.audit.events)


async def test_a_broker_that_cannot_serve_says_why() -> None:
    counter = Counter()
    counter.world.broker.unusable = ConfigError("line 3 is wrong")
    with pytest.raises(ConfigError):
        await counter.get()
    counter.world.broker.unusable = None
    await counter.world.broker.stop()
    with pytest.raises(Stopping):
        await counter.get()


async def test_treating_a_program_as_interactive_lets_it_cause_a_prompt() -> None:
    rule = RuleConfig(None, "allow", treat_as=AgentType.INTERACTIVE, otp="*")
    assert await Counter(allowing(rule)).get(peer=Counter().world.cron) == "123456"


async def test_a_rule_that_asks_since_then_gives_nothing() -> None:
    counter = Counter()
    counter.world.vault.gate.clear()
    asking = asyncio.ensure_future(counter.get())
    await settle()
    counter.world.broker.config = allowing(RuleConfig(None, "ask", otp="*"))
    counter.world.vault.gate.set()
    with pytest.raises(Busy):
        await asking


async def test_lowering_itself_is_no_way_around_a_rule_that_asks() -> None:
    """The rule is for interactive programs; who may not be asked for is not given to the same program as a job."""
    asks = RuleConfig(None, "ask", PeerPattern(agent_type=AgentType.INTERACTIVE), otp="*")
    config = replace(allowing(asks, RULE), autonomous_vault=VaultConfig("service-account", credential="systemd://op"))
    counter = Counter(config)
    with pytest.raises(Denied):
        await counter.otp.give(REF, counter.world.me, lowered=True)
    assert await counter.get(peer=counter.world.cron) == "123456"


async def test_a_loop_is_stopped_before_it_uses_up_what_others_need() -> None:
    counter = Counter()
    for _ in range(20):
        await counter.get()
    with pytest.raises(Busy):
        await counter.get()
    await counter.world.clock.advance(601)
    await counter.get()
    assert len(counter.world.vault.reads) == 21


async def test_no_loop_reads_more_than_a_hundred_in_a_day() -> None:
    counter = Counter()
    refusals: list[float] = []
    for _ in range(40):
        await counter.world.clock.advance(610)
        for _ in range(5):
            with contextlib.suppress(Busy):
                await counter.get()
                continue
            refusals.append(counter.world.clock.now().elapsed)
    assert (len(counter.world.vault.reads), len(refusals)) == (100, 100)
