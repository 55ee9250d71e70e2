"""Tokens are taken back at their issuers: when a person revokes; where configured, on a lock and at the end."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.fakes_clock import settle
from tests.service.world import SECRET, World, configuration
from tokenbroker.config import ProfileConfig
from tokenbroker.errors import IssuerUnavailable
from tokenbroker.model import Revocation, Secret
from tokenbroker.revocations import AT_ONCE, BOUND, Report

if TYPE_CHECKING:
    from tokenbroker.config import Config, RevokeOn
    from tokenbroker.control import Revoked
    from tokenbroker.model import Credentials


def revoking(*occasions: RevokeOn) -> Config:
    """Return a configuration whose issuer is told on these occasions."""
    config = configuration()
    return replace(config, issuers={"main": replace(config.issuers["main"], revoke_on=occasions)})


async def report(act: Revoked | None) -> Report:
    """Wait for what the issuers say."""
    assert act is not None
    assert act.at_issuers is not None
    return await act.at_issuers


async def test_what_a_person_revokes_is_taken_back_at_its_issuer() -> None:
    """Every live token of the profile once, by the client that minted it."""
    async with World() as world:
        search, billing = await world.ask(), await world.ask("billing")
        assert await report(world.control.revoke_profile("search")) == Report(revoked=1)
        assert world.issuer.revoked == [search.token.value]
        assert await report(world.control.revoke_profile(None)) == Report(revoked=1)
        assert world.issuer.revoked == [search.token.value, billing.token.value]
        assert [each["profile"] for each in world.audit.named("token revoked at issuer")] == ["search", "billing"]


async def test_what_a_revoked_session_holds_is_taken_back() -> None:
    """Its program has the token; whoever shares it gets another one."""
    async with World() as world:
        served = await world.ask()
        assert await report(world.control.revoke_session(served.session)) == Report(revoked=1)
        assert world.issuer.revoked == [served.token.value]


@pytest.mark.parametrize(
    ("occasions", "revoked"),
    [((), 0), (("revoke",), 0), (("lock",), 1), (("revoke", "lock", "shutdown"), 1)],
    ids=["never", "on revoke alone", "on lock", "always"],
)
async def test_a_lock_takes_tokens_back_where_configured(occasions: tuple[RevokeOn, ...], revoked: int) -> None:
    """The lock itself does not wait, and has forgotten the secret when it returns."""
    async with World(revoking(*occasions)) as world:
        await world.ask()
        world.control.lock("test")
        assert world.unlock.peek(tuple(world.config.refs())) is None
        await world.broker.revocations.finish()
        assert len(world.issuer.revoked) == revoked


@pytest.mark.parametrize(("occasions", "revoked"), [((), 0), (("lock",), 0), (("shutdown",), 1)])
async def test_the_end_takes_tokens_back_where_configured(occasions: tuple[RevokeOn, ...], revoked: int) -> None:
    """When the broker has stopped the issuers have been told."""
    async with World(revoking(*occasions)) as world:
        await world.ask()
        await world.broker.stop()
        assert len(world.issuer.revoked) == revoked


async def test_an_issuer_that_cannot_revoke_is_reported_as_such() -> None:
    """With the time until which the tokens stay good."""
    async with World() as world:
        world.issuer.revocation = Revocation.UNSUPPORTED
        served = await world.ask()
        expires = served.token.validity.expires_at(world.clock.now())
        assert await report(world.control.revoke_profile(None)) == Report(unsupported=1, valid_until=expires)
        assert [each["why"] for each in world.audit.named("token not revoked")] == ["the issuer cannot"]


async def test_the_last_of_the_ends_is_reported() -> None:
    """Until then something is still good."""
    async with World() as world:
        world.issuer.revocation = Revocation.UNSUPPORTED
        await world.ask()
        await world.clock.advance(100)
        later = (await world.ask("billing")).token.validity.expires_at(world.clock.now())
        assert await report(world.control.revoke_profile(None)) == Report(unsupported=2, valid_until=later)


async def test_an_issuer_is_not_asked_everything_at_once() -> None:
    """A lock may drop dozens of tokens."""
    profiles = {f"p{n}": ProfileConfig(f"p{n}", ("mine",), audience=f"https://p{n}") for n in range(3 * AT_ONCE)}
    async with World(replace(configuration(), profiles=profiles)) as world:
        under_way, most = set[Secret](), 0

        async def note(_credentials: Credentials, token: Secret) -> Revocation:
            nonlocal most
            under_way.add(token)
            most = max(most, len(under_way))
            await asyncio.sleep(0)
            under_way.discard(token)
            return Revocation.REVOKED

        world.issuer.on_revoke = note
        for name in profiles:
            await world.ask(name)
        assert await report(world.control.revoke_profile(None)) == Report(revoked=3 * AT_ONCE)
        assert most == AT_ONCE == 8


async def test_an_issuer_that_cannot_be_asked_is_reported_with_the_reason() -> None:
    """Each reason once, however many tokens."""
    async with World() as world:
        await world.ask()
        await world.ask("billing")

        async def refuse(_credentials: Credentials, _token: Secret) -> Revocation:
            raise IssuerUnavailable("issuer `main` cannot be reached")

        world.issuer.on_revoke = refuse
        told = await report(world.control.revoke_profile(None))
        assert (told.failed, told.problems) == (2, ("issuer `main` cannot be reached",))


async def test_an_issuer_that_hangs_is_waited_for_no_longer_than_the_bound() -> None:
    """The rest of the batch is not held up, and nothing stays behind."""
    async with World(revoking("shutdown", "revoke")) as world:
        await world.ask()
        billing = await world.ask("billing")
        told: list[Secret] = []

        async def hang(_credentials: Credentials, token: Secret) -> Revocation:
            if token != billing.token.value:
                await asyncio.Event().wait()
            told.append(token)
            return Revocation.REVOKED

        world.issuer.on_revoke = hang
        act = world.control.revoke_profile(None)
        await settle()
        await world.clock.advance(BOUND)
        found = await report(act)
        assert (found.revoked, found.failed, found.problems) == (1, 1, ("the issuer has not answered within 5 s",))
        assert told == [billing.token.value]


async def test_without_its_credential_a_token_cannot_be_taken_back() -> None:
    """The secret may have been forgotten while the token was kept; nobody is asked for it."""
    async with World() as world:
        await world.ask()
        world.unlock.lock()
        told = await report(world.control.revoke_profile(None))
        assert told.problems == ("the credential of client `mine` is no longer in memory",)
        assert world.vault.reads == world.vault.reads[:1]


async def test_an_expired_token_is_not_sent_anywhere() -> None:
    """It is worth nothing, and neither is the request."""
    async with World(lifetime=60.0) as world:
        await world.ask()
        world.issuer.gate.clear()  # no renewal
        await world.clock.advance(61)
        assert world.control.revoke_profile(None).at_issuers is None


async def test_the_client_that_minted_it_takes_it_back() -> None:
    """RFC 7009 §2.1: the issuer refuses to revoke a token that another client got."""
    async with World() as world:
        await world.ask()
        seen: list[Credentials] = []

        async def note(credentials: Credentials, _token: Secret) -> Revocation:
            seen.append(credentials)
            return Revocation.REVOKED

        world.issuer.on_revoke = note
        await report(world.control.revoke_profile(None))
        assert [(each.client_id, each.client_secret) for each in seen] == [("id-mine", Secret(SECRET))]
