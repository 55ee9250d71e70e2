"""Durations, references and URLs of the configuration, and what the presets make of it."""

from __future__ import annotations

import pytest

from tests.unit.config_documents import client, refusal
from tokenbroker.config.text import parse
from tokenbroker.model import SecretRef


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        pytest.param('"12h"', 43_200, id="hours"),
        pytest.param('"30m"', 1_800, id="minutes"),
        pytest.param('"45s"', 45, id="seconds"),
        pytest.param('"7d"', 604_800, id="days"),
        pytest.param('"1h30m"', 5_400, id="combined"),
        pytest.param('"never"', None, id="never is without limit"),
        pytest.param("90", 90, id="a number is seconds"),
        pytest.param("0.5", 0.5, id="fractions of a second"),
    ],
)
def test_durations(value: str, seconds: float | None) -> None:
    """Durations are seconds, however they are written."""
    assert parse(f"version = 1\nunlock.max_age = {value}").unlock.max_age == seconds


@pytest.mark.parametrize(
    ("value", "found"),
    [
        pytest.param('"12"', "found `12`", id="a string of digits has no unit"),
        pytest.param('""', "found an empty string", id="an empty string"),
        pytest.param('"1h 30m"', "found another string", id="spaces"),
        pytest.param('"30m1h"', "found `30m1h`", id="units in the wrong order"),
        pytest.param("true", "found a boolean", id="a boolean is no number"),
        pytest.param("0", "found one outside of that", id="nothing"),
        pytest.param("-1", "found one outside of that", id="less than nothing"),
        pytest.param("nan", "found one outside of that", id="not a number"),
        pytest.param("inf", "found one outside of that", id="infinity is written never"),
        pytest.param("1" + "0" * 400, "found one outside of that", id="more than a float holds"),
        pytest.param('"367d"', "found one outside of that", id="more than a year"),
        pytest.param("1979-05-27", "found a date or time", id="a date"),
    ],
)
def test_wrong_durations_are_refused(value: str, found: str) -> None:
    """What is no duration is named as what it is."""
    error = refusal(f"version = 1\n[unlock]\nidle = {value}")
    assert error.message.startswith("config.toml line 3: unlock.idle: expected a duration ")
    assert error.message.endswith(found)


@pytest.mark.parametrize(
    ("backend", "reference", "taken"),
    [
        pytest.param("op", "op://V/I/f", True, id="vault, item, field"),
        pytest.param("op", "op://V/I/section/f", True, id="with a section"),
        pytest.param("op", "op://My Vault/i.t_e-m/private key", True, id="spaces, dots, dashes"),
        pytest.param("op", "op://V/I/f?attribute=otp", True, id="an attribute"),
        pytest.param("op", "op://V/I/key?ssh-format=openssh", True, id="a key format"),
        pytest.param("op", "op://V/I", False, id="no field"),
        pytest.param("op", "op://V//f", False, id="an empty item"),
        pytest.param("op", "op://V/I/s/f/x", False, id="too many parts"),
        pytest.param("op", "op://V/I/f?attribute=otp&x=y", False, id="two parameters"),
        pytest.param("op", "op://V/$HOME/f", False, id="a variable, which op would expand"),
        pytest.param("op", "op://V/I/f\\n", False, id="a line end"),
        pytest.param("op", "OP://V/I/f", False, id="capitals, which the SDK does not take"),
        pytest.param("keyring", "keyring://agents/me@example.com", True, id="keyring: service and user"),
        pytest.param("keyring", "keyring://agents", False, id="keyring: no user"),
        pytest.param("keyring", "keyring://agents/a/b", False, id="keyring: a part too many"),
        pytest.param("keyring", "op://V/I/f", False, id="keyring: another vault's"),
        pytest.param("dev", "dev://item/field", True, id="dev: item and field"),
        pytest.param("dev", "dev://item", False, id="dev: no field"),
    ],
)
def test_references(backend: str, reference: str, *, taken: bool) -> None:
    """A reference has the form of its backend, and is kept as written."""
    text = client(reference, backend=backend)
    if taken:
        assert parse(text, allow_dev=True).refs() == (SecretRef(reference),)
    else:
        assert refusal(text, allow_dev=True).message.startswith("config.toml line 10: clients.c.client_secret: ")


@pytest.mark.parametrize(
    ("url", "taken"),
    [
        pytest.param("http://127.0.0.1:8080/x", True, id="loopback"),
        pytest.param("http://127.9.9.9", True, id="all of 127.0.0.0/8"),
        pytest.param("http://[::1]:8080/", True, id="IPv6 loopback"),
        pytest.param("http://localhost", True, id="localhost"),
        pytest.param("https://i.example:8443/tenant/v2.0", True, id="a port and a path"),
        pytest.param("http://localhost.example", False, id="what only begins like localhost"),
        pytest.param("http://127.0.0.1.example", False, id="what only begins like an address"),
        pytest.param("http://0.0.0.0", False, id="every address is not loopback"),
        pytest.param("http://128.0.0.1", False, id="next to loopback"),
        pytest.param("https://i.example\\\\@j.example", False, id="a backslash, which parsers read differently"),
        pytest.param("https://i.example/ x", False, id="a space"),
        pytest.param("https://i.ex\\tample/", False, id="a tab, which urlsplit would drop"),
        pytest.param("https://i.example:99999", False, id="no port"),
        pytest.param("https://[::1", False, id="half an address"),
        pytest.param("https:///path", False, id="no host"),
        pytest.param("i.example", False, id="no scheme"),
        pytest.param("ftp://i.example", False, id="another scheme"),
    ],
)
def test_issuer_urls(url: str, *, taken: bool) -> None:
    """Secrets go by https, or by http to this machine; nothing about the host is open to interpretation."""
    text = f'version = 1\n[issuers.i]\nurl = "{url}"'
    if taken:
        assert parse(text).issuers["i"].url == url
    else:
        assert refusal(text).message.startswith("config.toml line 3: issuers.i.url: expected ")


def test_the_development_backend_is_taken_where_it_is_allowed() -> None:
    """`broker serve --dev` may use the development vault."""
    assert parse('version = 1\nvault.backend = "dev"', allow_dev=True).vault.backend == "dev"


@pytest.mark.parametrize("resource", ["https://api.example/v1?tenant=1", "urn:example:api"])
def test_a_resource_is_any_absolute_uri(resource: str) -> None:
    """A resource indicator is kept as written (RFC 8707 §2)."""
    document = f'{client("op://V/I/f")}[profiles.p]\nclients = ["c"]\nresource = "{resource}"'
    assert parse(document).profiles["p"].resource == resource
