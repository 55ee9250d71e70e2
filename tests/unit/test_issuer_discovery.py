"""Where the token endpoint is."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from tests.fakes_issuer import StillClock
from tokenbroker.config import IssuerConfig
from tokenbroker.errors import EndpointElsewhere, IssuerError, IssuerMisconfigured, IssuerNeedsPerson, IssuerUnavailable
from tokenbroker.issuers.discovery import SPARED_FOR, Discovery, Endpoints, candidates
from tokenbroker.issuers.exchange import Attempt, Reply

URL = "https://login.example.com/tenant"
FIRST = "https://login.example.com/.well-known/oauth-authorization-server/tenant"
SECOND = "https://login.example.com/.well-known/openid-configuration/tenant"
THIRD = "https://login.example.com/tenant/.well-known/openid-configuration"
GOOD = {"issuer": URL, "token_endpoint": "https://login.example.com/tenant/token"}
HERE = Endpoints("https://login.example.com/tenant/token", URL)


class Site:
    """A web site: address → what it answers; anything else is 404."""

    def __init__(self, pages: dict[str, Any] | None = None) -> None:
        self.pages = pages or {}
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def get(self, url: str, attempt: Attempt) -> Reply:
        self.asked.append(url)
        await self.gate.wait()
        page = self.pages.get(url, Reply(404, {}, b"<html>"))
        if isinstance(page, IssuerError):
            raise page
        return page if isinstance(page, Reply) else Reply(200, {}, json.dumps(page).encode())


def discovery(site: Site, clock: StillClock | None = None, **config: Any) -> Discovery:
    return Discovery(IssuerConfig("main", **({"url": URL} | config)), clock=clock or StillClock(), get=site.get)


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        pytest.param(
            "https://h",
            ("https://h/.well-known/oauth-authorization-server", "https://h/.well-known/openid-configuration"),
            id="without a path there are two",
        ),
        pytest.param(
            "https://h/",
            ("https://h/.well-known/oauth-authorization-server", "https://h/.well-known/openid-configuration"),
            id="a final slash is removed first (RFC 8414 §3.1)",
        ),
        pytest.param(URL, (FIRST, SECOND, THIRD), id="with a path there are three"),
        pytest.param(f"{URL}/", (FIRST, SECOND, THIRD), id="with a path and a final slash too"),
    ],
)
def test_candidates(url: str, addresses: tuple[str, ...]) -> None:
    assert candidates(url) == addresses


@pytest.mark.parametrize("where", [FIRST, SECOND, THIRD])
async def test_each_candidate_is_tried_in_order(where: str) -> None:
    site = Site({where: GOOD})
    assert await discovery(site).endpoints() == HERE
    assert site.asked == [FIRST, SECOND, THIRD][: [FIRST, SECOND, THIRD].index(where) + 1]


async def test_a_document_of_another_issuer_does_not_end_the_search() -> None:
    site = Site({FIRST: GOOD | {"issuer": "https://evil.example"}, SECOND: GOOD})
    assert await discovery(site).endpoints() == HERE


async def test_a_configured_endpoint_is_used_as_it_is() -> None:
    """It is a person's decision: no look-up, another host allowed, its final slash kept."""
    site = Site()
    found = await discovery(site, token_endpoint="https://elsewhere.example/o/token/").endpoints()
    assert (found.token, found.issuer, site.asked) == ("https://elsewhere.example/o/token/", URL, [])


async def test_without_url_the_endpoint_stands_for_the_issuer() -> None:
    found = await discovery(Site(), url=None, token_endpoint="https://h/t").endpoints()
    assert found == Endpoints("https://h/t", "https://h/t", identified=False)


@pytest.mark.parametrize(
    ("page", "kind", "says"),
    [
        pytest.param(
            GOOD | {"issuer": "https://evil.example"}, IssuerMisconfigured, "calls itself https://evil", id="other"
        ),
        pytest.param(
            GOOD | {"issuer": f"{URL}/"}, IssuerMisconfigured, "configured is", id="a final slash is a difference"
        ),
        pytest.param(
            GOOD | {"token_endpoint": "https://evil.example/t"},
            EndpointElsewhere,
            "another host",
            id="token endpoint elsewhere",
        ),
        pytest.param(
            GOOD | {"token_endpoint": "https://login.example.com:8443/t"},
            EndpointElsewhere,
            "another host",
            id="other port",
        ),
        pytest.param(
            GOOD | {"token_endpoint": "http://login.example.com/t"},
            IssuerMisconfigured,
            "not a plain https",
            id="plain http",
        ),
        pytest.param(
            GOOD | {"token_endpoint": "https://login.example.com\\@evil/t"},
            IssuerMisconfigured,
            "not a plain https",
            id="backslash",
        ),
        pytest.param(
            GOOD | {"token_endpoint": 7}, IssuerMisconfigured, "without issuer or token_endpoint", id="no address"
        ),
        pytest.param({"issuer": URL}, IssuerMisconfigured, "without issuer or token_endpoint", id="no endpoint"),
        pytest.param([], IssuerMisconfigured, "no clear JSON object", id="a list"),
        pytest.param(
            Reply(200, {}, b'{"issuer":1,"issuer":2}'), IssuerMisconfigured, "no clear JSON", id="repeated key"
        ),
        pytest.param(Reply(200, {}, b"", oversize=True), IssuerMisconfigured, "more than 64 KiB", id="too large"),
        pytest.param(
            Reply(200, {"content-encoding": "gzip"}, b"{}"), IssuerMisconfigured, "compressed", id="compressed"
        ),
        pytest.param(
            Reply(302, {"location": "https://portal.example/x?y"}, b""),
            IssuerMisconfigured,
            r"answered with a redirect \(302\) to portal.example, which is not followed$",
            id="a redirect is not followed",
        ),
        pytest.param(
            Reply(200, {}, b" <!doctype html>"),
            IssuerMisconfigured,
            "answered with a web page instead of its metadata, as captive portals and company proxies do",
            id="a web page",
        ),
        pytest.param(Reply(403, {}, b"<html>"), IssuerMisconfigured, r"a web page \(403\)", id="a page that blocks"),
        pytest.param(Reply(403, {}, b"<?xml?>"), IssuerMisconfigured, "no metadata", id="XML with 403"),
        pytest.param(Reply(404, {}, b""), IssuerMisconfigured, "no metadata", id="nothing there"),
        pytest.param(Reply(503, {"retry-after": "9"}, b""), IssuerUnavailable, "503", id="down"),
        pytest.param(IssuerUnavailable("no network"), IssuerUnavailable, "no network", id="network trouble"),
        pytest.param(IssuerNeedsPerson("bad certificate"), IssuerNeedsPerson, "bad certificate", id="certificate"),
    ],
)
async def test_what_is_refused(page: Any, kind: type[IssuerError], says: str) -> None:
    with pytest.raises(kind, match=says) as raised:
        await discovery(Site({FIRST: page})).endpoints()
    assert type(raised.value) is kind


@pytest.mark.parametrize(
    ("reply", "hint"),
    [
        (Reply(302, {"location": "https://portal.example/"}, b""), "sign in to the network"),
        (Reply(302, {"location": "/login"}, b""), "correct url in [issuers.main], or set token_endpoint there"),
        (Reply(200, {}, b"<html>"), "sign in to the network"),
    ],
    ids=["redirect elsewhere", "redirect at home", "page"],
)
async def test_the_network_is_suspected_before_the_url(reply: Reply, hint: str) -> None:
    """A right url is not to be broken for a captive portal."""
    with pytest.raises(IssuerMisconfigured) as raised:
        await discovery(Site(dict.fromkeys((FIRST, SECOND, THIRD), reply))).endpoints()
    assert str(raised.value.hint).startswith(hint)


async def test_a_page_for_one_candidate_hides_no_document_of_another() -> None:
    """Some answer any unknown address with a page or a redirect to their sign-in."""
    strange = {FIRST: Reply(200, {}, b"<html>"), SECOND: Reply(302, {"location": "/login"}, b"")}
    assert await discovery(Site(strange | {THIRD: GOOD})).endpoints() == HERE
    with pytest.raises(IssuerMisconfigured, match="calls itself"):
        await discovery(Site({THIRD: strange[FIRST], FIRST: GOOD | {"issuer": "https://x.example"}})).endpoints()


@pytest.mark.parametrize(
    ("named", "known"),
    [
        (["private_key_jwt", "client_secret_basic"], ("client_secret_basic", "private_key_jwt")),
        (["none", "\x1b[31m", 7, {}], ()),
        ("client_secret_post", ()),
        (None, ()),
    ],
    ids=["ours", "others", "no list", "nothing"],
)
async def test_methods_that_are_named_are_kept_for_hints(named: object, known: tuple[str, ...]) -> None:
    """Of what the document says, our own words alone are kept."""
    found = await discovery(Site({FIRST: GOOD | {"token_endpoint_auth_methods_supported": named}})).endpoints()
    assert found == replace(HERE, auth_methods=known)


async def test_the_hint_for_a_slash_is_the_line_to_write() -> None:
    with pytest.raises(IssuerMisconfigured) as raised:
        await discovery(Site({FIRST: GOOD | {"issuer": f"{URL}/"}})).endpoints()
    assert raised.value.hint == f'write url = "{URL}/" in [issuers.main]'


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"url": None}, "neither url nor token_endpoint"),
        ({"url": "http://login.example.com"}, "url is not a plain https"),
        ({"token_endpoint": "http://login.example.com/t"}, "token_endpoint is not a plain https"),
    ],
)
async def test_configured_addresses_are_checked_again(config: dict[str, Any], key: str) -> None:
    site = Site()
    with pytest.raises(IssuerMisconfigured, match=key):
        await discovery(site, **config).endpoints()
    assert site.asked == []


async def test_a_document_is_used_for_a_day() -> None:
    site, clock = Site({FIRST: GOOD}), StillClock()
    finder = discovery(site, clock)
    await finder.endpoints()
    clock.advance(24 * 3600 - 1)
    await finder.endpoints()
    assert len(site.asked) == 1
    clock.advance(1)
    await finder.endpoints()
    assert len(site.asked) == 2


async def test_a_failure_is_repeated_for_seconds_only() -> None:
    """Within five seconds the answer is the same without asking; after that the issuer gets its chance."""
    site, clock = Site({FIRST: IssuerUnavailable("down", retry_after=3.0)}), StillClock()
    finder = discovery(site, clock)
    for _ in range(2):
        with pytest.raises(IssuerUnavailable, match="down") as raised:
            await finder.endpoints()
        assert raised.value.retry_after == 3.0
    assert len(site.asked) == 1
    clock.advance(5)
    site.pages[FIRST] = GOOD
    assert await finder.endpoints() == HERE


async def test_callers_share_one_search_and_cancel_only_themselves() -> None:
    site = Site({FIRST: GOOD})
    site.gate.clear()
    finder = discovery(site)
    callers = [asyncio.create_task(finder.endpoints()) for _ in range(5)]
    await asyncio.sleep(0)
    callers[0].cancel()
    await asyncio.sleep(0)
    site.gate.set()
    assert await asyncio.gather(*callers[1:]) == [HERE] * 4
    assert callers[0].cancelled()
    assert site.asked == [FIRST]


async def test_discovery_as_a_whole_is_bounded() -> None:
    site = Site()
    site.gate.clear()
    with pytest.raises(IssuerUnavailable, match="in time"):
        await discovery(site, timeout=0.01).endpoints()


async def test_closing_ends_a_search() -> None:
    """Whoever waits for it is told, and not cancelled."""
    site = Site()
    site.gate.clear()
    finder = discovery(site)
    caller = asyncio.create_task(finder.endpoints())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await finder.close()
    await finder.close()
    with pytest.raises(IssuerUnavailable, match="stopped"):
        await caller


MORE = {
    "jwks_uri": "https://keys.example.net/jwks",
    "revocation_endpoint": "https://login.example.com/revoke",
    "introspection_endpoint": "https://login.example.com/introspect",
    "mtls_endpoint_aliases": {"token_endpoint": "https://mtls.login.example.com/token"},
}


async def test_the_other_endpoints_are_found_as_well() -> None:
    """Keys may be published anywhere; certificates are shown on the issuer's host, or one below it."""
    found = await discovery(Site({FIRST: GOOD | MORE})).endpoints()
    assert found == replace(
        HERE,
        mtls_token="https://mtls.login.example.com/token",
        revocation="https://login.example.com/revoke",
        introspection="https://login.example.com/introspect",
        jwks_uri="https://keys.example.net/jwks",
    )


@pytest.mark.parametrize("member", ["revocation_endpoint", "introspection_endpoint"])
@pytest.mark.parametrize("address", ["https://elsewhere.example/x", "http://login.example.com/x", 7, "x"])
async def test_where_a_token_is_sent_is_on_the_issuers_own_host(member: str, address: object) -> None:
    """Another one is as if there were none, until a person writes it down; an address it is said to have is told."""
    found = await discovery(Site({FIRST: GOOD | {member: address}})).endpoints()
    elsewhere = "https://elsewhere.example/x"
    told = elsewhere if (member, address) == ("introspection_endpoint", elsewhere) else None
    assert found == replace(HERE, introspection_elsewhere=told)
    configured: dict[str, Any] = {member: "https://elsewhere.example/x"}
    found = await discovery(Site({FIRST: GOOD}), **configured).endpoints()
    assert {found.revocation, found.introspection} == {None, "https://elsewhere.example/x"}


@pytest.mark.parametrize("member", ["token_endpoint", "revocation_endpoint", "introspection_endpoint"])
@pytest.mark.parametrize(
    "address", ["https://evil.example/x", "https://notlogin.example.com/x", "http://login.example.com/x", "x", 7]
)
async def test_an_alias_for_certificates_is_near_the_issuer(member: str, address: object) -> None:
    """Tokens are sent there too, so that another host is as if there were none; another port is the same host."""
    page = GOOD | {"mtls_endpoint_aliases": {member: address}}
    assert await discovery(Site({FIRST: page})).endpoints() == HERE
    page = GOOD | {"mtls_endpoint_aliases": {member: "https://login.example.com:8443/x"}}
    found = await discovery(Site({FIRST: page})).endpoints()
    assert "https://login.example.com:8443/x" in {found.mtls_token, found.mtls_revocation, found.mtls_introspection}


async def test_an_alias_is_no_way_down_from_https_to_http() -> None:
    """Also where plain http would do, on this machine; the way up is open."""
    for scheme, expected in (("https", None), ("http", "http://localhost:8080/x")):
        url = f"{scheme}://localhost"
        aliases = {"token_endpoint": "http://localhost:8080/x", "revocation_endpoint": "https://localhost:8443/r"}
        page = {"issuer": url, "token_endpoint": f"{url}/token", "mtls_endpoint_aliases": aliases}
        site = Site({f"{url}/.well-known/oauth-authorization-server": page})
        found = await discovery(site, url=url).endpoints()
        assert (found.mtls_token, found.mtls_revocation) == (expected, "https://localhost:8443/r")


async def test_beside_a_configured_token_endpoint_the_rest_is_looked_up_when_needed() -> None:
    """The configured one stays, wherever it is; a token endpoint of the metadata on another host does no harm then."""
    site = Site({FIRST: GOOD | MORE | {"token_endpoint": "https://third.example/token"}})
    finder = discovery(site, token_endpoint="https://elsewhere.example/token")
    assert (await finder.endpoints()).jwks_uri is None
    found = await finder.all_endpoints()
    assert (found.token, found.jwks_uri) == ("https://elsewhere.example/token", "https://keys.example.net/jwks")


async def test_nothing_depends_on_metadata_beside_a_configured_token_endpoint() -> None:
    """Its absence is no error, is waited for three seconds at most, and is not looked into again for a minute."""
    site, clock = Site(), StillClock()
    finder = discovery(site, clock=clock, token_endpoint="https://elsewhere.example/token")
    assert (await finder.all_endpoints()).jwks_uri is None
    asked = len(site.asked)
    clock.advance(SPARED_FOR - 1)
    await finder.all_endpoints()
    assert len(site.asked) == asked
    clock.advance(1)
    await finder.all_endpoints()
    assert len(site.asked) == 2 * asked
