"""Where a secret may be sent, and by which proxy."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from tokenbroker.issuers.addresses import is_loopback, proxy_for, same_origin, secure


@pytest.mark.parametrize(
    "url",
    [
        "https://login.example.com/oauth/token",
        "https://login.example.com",
        "https://login.example.com:8443/t?api-version=1",
        "https://[2001:db8::1]/t",
        "http://127.0.0.1:8080/t/",
        "http://localhost/t",
        "http://[::1]:9/t",
        "http://127.9.9.9/t",
    ],
)
def test_allowed(url: str) -> None:
    assert secure(url) is not None


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("http://login.example.com/t", id="plain http"),
        pytest.param("http://localhost.example.com/t", id="a name that begins like ours"),
        pytest.param("http://127.0.0.1.example.com/t", id="a name that looks like an address"),
        pytest.param("http://0.0.0.0/t", id="any address is not this machine"),
        pytest.param("http://[::ffff:10.0.0.1]/t", id="a mapped address"),
        pytest.param("ftp://login.example.com/t", id="another scheme"),
        pytest.param("https://user@login.example.com/t", id="a user name"),
        pytest.param("https://login.example.com\\@evil.example/t", id="a backslash"),
        pytest.param("https://login.example.com/t#part", id="a fragment"),
        pytest.param("https://login.exa\nmple.com/t", id="a newline"),
        pytest.param("https://login.example.com/t\n", id="a final newline"),
        pytest.param("https://lögin.example.com/t", id="not ASCII"),
        pytest.param("https:///t", id="no host"),
        pytest.param("https://h:0/t", id="port 0"),
        pytest.param("https://h:99999/t", id="port too high"),
        pytest.param("https://[1.2.3]/t", id="no IPv6 address"),
        pytest.param("login.example.com", id="no scheme"),
        pytest.param("", id="nothing"),
    ],
)
def test_refused(url: str) -> None:
    assert secure(url) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://h/a", "https://h:443/b", True),
        ("https://H/a", "https://h/b", True),
        ("https://h/a", "https://h:8443/a", False),
        ("https://h/a", "https://h.evil/a", False),
        ("http://127.0.0.1/a", "https://127.0.0.1/a", False),
    ],
)
def test_same_origin(one: str, other: str, same: bool) -> None:  # noqa: FBT001  # a table's column
    assert same_origin(urlsplit(one), urlsplit(other)) is same


def test_loopback_is_judged_by_name() -> None:
    assert [host for host in ("localhost", "127.0.0.1", "::1", "localhost.", "10.0.0.1", "") if is_loopback(host)] == [
        "localhost",
        "127.0.0.1",
        "::1",
    ]


HTTPS = "https://login.example.com/t"


@pytest.mark.parametrize(
    ("url", "configured", "env", "proxy"),
    [
        pytest.param(HTTPS, None, {}, None, id="none by default"),
        pytest.param(
            HTTPS, None, {"HTTPS_PROXY": "http://p:3128"}, "http://p:3128", id="HTTPS_PROXY is what people have"
        ),
        pytest.param(
            HTTPS, None, {"https_proxy": "http://a", "HTTPS_PROXY": "http://b"}, "http://a", id="lower case wins"
        ),
        pytest.param(HTTPS, None, {"HTTPS_PROXY": "p:3128"}, "http://p:3128", id="a bare host is an http proxy"),
        pytest.param(HTTPS, None, {"HTTP_PROXY": "http://p"}, None, id="HTTP_PROXY is not for https"),
        pytest.param(HTTPS, "http://mine", {"HTTPS_PROXY": "http://p"}, "http://mine", id="the configured one wins"),
        pytest.param(
            HTTPS, None, {"HTTPS_PROXY": "http://p", "NO_PROXY": "example.com"}, None, id="NO_PROXY by suffix"
        ),
        pytest.param(
            HTTPS, None, {"HTTPS_PROXY": "http://p", "NO_PROXY": "x, .example.com"}, None, id="NO_PROXY by dot"
        ),
        pytest.param(HTTPS, None, {"HTTPS_PROXY": "http://p", "no_proxy": "*"}, None, id="NO_PROXY for all"),
        pytest.param(
            HTTPS, None, {"HTTPS_PROXY": "http://p", "NO_PROXY": "login.example.com:443"}, None, id="with a port"
        ),
        *(
            pytest.param(url, None, {"HTTPS_PROXY": "http://p", "NO_PROXY": entry}, proxy, id=f"{entry} and {url}")
            for entry, url, proxy in (
                ("login.example.com:8443", HTTPS, "http://p"),
                ("10.0.0.0/8", "https://10.1.2.3/t", None),
                ("10.0.0.0/8:443", "https://10.1.2.3/t", None),
                ("10.0.0.0/8", "https://11.1.2.3/t", "http://p"),
                ("10.1.2.3", "https://10.1.2.3/t", None),
                ("0.0.0.0/0", HTTPS, "http://p"),
                ("fd00::/8", "https://[fd00::1]/t", None),
                ("[fd00::1]:443", "https://[fd00::1]/t", None),
                ("[fd00::1]:8443", "https://[fd00::1]/t", "http://p"),
                ("fd00::1", "https://[fd00::1]:8443/t", None),
                ("*.example.com", HTTPS, None),
                ("a.example example.com", HTTPS, None),
                ("10.0.0.0/99", "https://10.1.2.3/t", "http://p"),
            )
        ),
        pytest.param(HTTPS, None, {"HTTPS_PROXY": "http://p", "NO_PROXY": "ample.com"}, "http://p", id="half a name"),
        pytest.param(HTTPS, None, {"HTTPS_PROXY": "http://p", "NO_PROXY": ","}, "http://p", id="an empty NO_PROXY"),
        pytest.param(
            "http://127.0.0.1/t", "http://mine", {"HTTPS_PROXY": "http://p"}, None, id="never for this machine"
        ),
        pytest.param("https://localhost/t", "http://mine", {}, None, id="never for localhost by https"),
    ],
)
def test_proxy(url: str, configured: str | None, env: dict[str, str], proxy: str | None) -> None:
    assert proxy_for(url, configured, env) == proxy
