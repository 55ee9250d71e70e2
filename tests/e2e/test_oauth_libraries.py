"""The socket is a token endpoint: OAuth libraries that others wrote take a token from it and hold no credential."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import jwt
import oauthlib.oauth2
import pytest
from authlib.integrations.base_client.errors import OAuthError
from requests_oauthlib import OAuth2Session

from tests.e2e.rig import API, Daemon, Rig
from tests.e2e.unix_requests import session_on

if TYPE_CHECKING:
    from authlib.integrations.httpx_client import OAuth2Client

ENDPOINT = "http://broker/token"
# authlib says at import that it will turn to the successor of httpx.
quiet = pytest.mark.filterwarnings("ignore:The httpx module is deprecated")


def audience(token: str) -> object:
    """Return what the token is for; its signature is verified elsewhere."""
    return jwt.decode(token, options={"verify_signature": False})["aud"]


def authlib_client(rig: Rig) -> OAuth2Client:
    """Make authlib's client for httpx, on the socket."""
    from authlib.integrations.httpx_client import OAuth2Client  # noqa: PLC0415  # it warns, see `quiet`

    return OAuth2Client(token_endpoint_auth_method="none", transport=httpx.HTTPTransport(uds=str(rig.socket)))


@quiet
@pytest.mark.parametrize(
    ("asked", "aud"),
    [
        pytest.param({"profile": "search"}, API, id="by profile"),
        pytest.param({"audience": API, "scope": "search:read"}, API, id="by audience"),
        pytest.param({"resource": f"{API}/write", "scope": "search:write"}, f"{API}/write", id="by resource"),
    ],
)
def test_authlib_takes_a_token_over_the_socket(rig: Rig, daemon: Daemon, asked: dict[str, str], aud: str) -> None:
    with authlib_client(rig) as client:
        answer = client.fetch_token(ENDPOINT, grant_type="client_credentials", **asked)
    assert audience(answer["access_token"]) == aud
    assert (answer["token_type"], answer.is_expired()) == ("Bearer", False)


@quiet
@pytest.mark.parametrize(
    ("asked", "error"),
    [
        pytest.param({"profile": "search", "scope": "admin"}, "invalid_scope", id="scope beyond the profile"),
        pytest.param({"profile": "biling"}, "invalid_target", id="unknown profile"),
        pytest.param({"resource": "https://elsewhere.example"}, "invalid_target", id="unknown resource (RFC 8707)"),
    ],
)
def test_authlib_understands_a_refusal(rig: Rig, daemon: Daemon, asked: dict[str, str], error: str) -> None:
    """The error is RFC 6749's, with a description that the library shows."""
    with authlib_client(rig) as client, pytest.raises(OAuthError) as caught:
        client.fetch_token(ENDPOINT, grant_type="client_credentials", **asked)
    assert caught.value.error == error
    assert caught.value.description


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"include_client_id": True}, id="client id in the body"),
        pytest.param({}, id="client id in an Authorization header with no password"),
    ],
)
def test_requests_oauthlib_takes_a_token_over_the_socket(
    rig: Rig, daemon: Daemon, monkeypatch: pytest.MonkeyPatch, how: dict[str, bool]
) -> None:
    """The library wants some client id and is given one that means nothing."""
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")  # it takes a Unix socket for the open network
    client = oauthlib.oauth2.BackendApplicationClient(client_id="none")
    with session_on(str(rig.socket), OAuth2Session(client=client)) as session:
        answer = session.fetch_token(ENDPOINT, profile="search", **how)  # type: ignore[attr-defined]
    assert audience(answer["access_token"]) == API
    assert answer["scope"] == ["search:read"]


def test_requests_oauthlib_understands_a_refusal(rig: Rig, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
    client = oauthlib.oauth2.BackendApplicationClient(client_id="none", scope=["admin"])
    with (
        session_on(str(rig.socket), OAuth2Session(client=client)) as session,
        pytest.raises(oauthlib.oauth2.InvalidScopeError, match="profile `search` does not include scope admin"),
    ):
        session.fetch_token(ENDPOINT, profile="search", include_client_id=True)  # type: ignore[attr-defined]
