"""Paths and tables of the verifier: nothing that another reader could take for another path gets through."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.verifier_tokens import good, signed, verifier
from tokenbroker.dev.verifier import Refused, Request, Routes
from tokenbroker.dev.verifier.routes import plain

TRICKS = [
    "/items/..%2fsearch", "/items/%2e%2e/search", "/items/../search", "/./search", "/search/.", "/search/..",
    "//search", "/items//1", "/%73earch", "/search%2F", "/search%5c", "/search\\", "/items/a%00b", "/items/a%0ab",
    "/search;x=1", "/items/%3Bx", "/items/%252e%252e", "/items/%2", "/items/%zz", "/items/%ff", "/search#x", "/se arch",
    "/search\n", "search", "", "*", "http://api.example.com/search", "/s\u00e9arch", "/search?x=1", "/items/%C0%AE",
]  # fmt: skip


@pytest.mark.parametrize("path", TRICKS)
async def test_a_path_with_a_second_reading_is_refused(path: str) -> None:
    """Even on public routes, and with a good token."""
    with pytest.raises(Refused) as caught:
        await verifier().check(Request("GET", path, [f"Bearer {signed(good())}"]))
    assert (caught.value.status, caught.value.error) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/search/"), ("GET", "/Search"), ("GET", "/"), ("GET", "/items/"), ("GET", "/items"),
        ("GET", "/items/1/2"), ("GET", "/health/"), ("OPTIONS", "/search"), ("DELETE", "/search"), ("get", "/search"),
        ("TRACE", "/health"), ("POST", "/health"), ("WEBSOCKET", "/search"),
    ],
)  # fmt: skip
async def test_what_is_not_in_the_table_is_not_there(method: str, path: str) -> None:
    with pytest.raises(Refused) as caught:
        await verifier().check(Request(method, path, [f"Bearer {signed(good())}"]))
    assert caught.value.status == 404


@pytest.mark.parametrize("path", ["/items/1", "/items/a%20b", "/items/%C3%A9", "/items/a~b", "/items/x:y@z"])
async def test_one_segment_fits_a_name(path: str) -> None:
    assert await verifier().check(Request("GET", path, [f"Bearer {signed(good())}"]))


@pytest.mark.parametrize(("method", "status"), [("GET", 401), ("HEAD", 401), ("POST", 401), ("OPTIONS", 404)])
async def test_no_method_goes_around_the_check(method: str, status: int) -> None:
    with pytest.raises(Refused) as caught:
        await verifier().check(Request(method, "/search"))
    assert caught.value.status == status


async def test_head_needs_what_get_needs() -> None:
    token = f"Bearer {signed(good(scope='search:write'))}"
    with pytest.raises(Refused) as caught:
        await verifier().check(Request("HEAD", "/search", [token]))
    assert caught.value.scope == "search:read"


async def test_public_routes_need_no_token_and_name_no_caller() -> None:
    assert await verifier().check(Request("GET", "/health")) is None
    assert await verifier().check(Request("HEAD", "/health", ["Bearer x", "Bearer y"])) is None


def test_where_two_routes_fit_both_are_needed() -> None:
    """Which of the two handlers the framework takes is not known here."""
    routes = Routes(
        {"GET /items/{id}": ["read"], "GET /items/all": ["admin"]}, grants=[("*", "*")], public=["GET /{x}/all"]
    )

    needed = routes.needed("GET", "/items/all")

    assert needed is not None
    assert needed.scopes == {"read", "admin"}
    assert needed.routes == {"GET /items/{id}", "GET /items/all"}


def test_where_two_routes_fit_a_grant_for_each_is_needed() -> None:
    routes = Routes({"GET /items/{id}": ["read"], "GET /items/all": ["admin"]}, grants=[("a", "GET /items/{id}")])
    with pytest.raises(Refused):
        routes.granted("a", ["GET /items/{id}", "GET /items/all"])


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"scopes": {"/search": ["x"]}, "grants": []}, id="no method"),
        pytest.param({"scopes": {"HEAD /search": ["x"]}, "grants": []}, id="HEAD of its own"),
        pytest.param({"scopes": {"GET search": ["x"]}, "grants": []}, id="no slash"),
        pytest.param({"scopes": {"GET /search": []}, "grants": []}, id="no scopes"),
        pytest.param({"scopes": {"GET /search": "search:read"}, "grants": []}, id="scopes as one text"),
        pytest.param(
            {"scopes": {"GET /search": ["x"]}, "grants": [("a", "GET /serach")]}, id="grant for another route"
        ),
        pytest.param({"scopes": {}, "grants": [], "public": ["/x"]}, id="public without method"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="route"):
        Routes(**arguments)


@given(st.text(alphabet="/.%2efFEc5\\;~ab\u00e9 ?#0", max_size=20))
def test_what_is_plain_has_no_dots_no_empty_segment_and_one_decoding(text: str) -> None:
    """Decoding it again, or normalising it, changes nothing: whatever stands behind reads the same path."""
    try:
        found = plain(text)
    except Refused:
        return
    segments = found.split("/")[1:]
    assert found.startswith("/")
    assert not {".", ".."} & set(segments)
    assert "" not in segments[:-1]
    assert "%" not in found
    assert len(segments) == text.count("/")
