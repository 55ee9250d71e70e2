"""docs/issuers.md is true: presets, keys with their defaults and the broker's words are compared with the code."""

from __future__ import annotations

import re
import tomllib
from dataclasses import MISSING, Field, fields
from typing import Any

import pytest

from tests.units.test_docs import ROOT, text_of
from tokenbroker.config import ClientConfig, IssuerConfig
from tokenbroker.config import text as config_text
from tokenbroker.config.clients import AUTH_NEEDS
from tokenbroker.config.issuers import issuer
from tokenbroker.config.presets import PRESETS

DOCUMENT = ROOT / "docs/issuers.md"
URL = "https://issuer.example.com"


def rows(head: str) -> list[list[str]]:
    """Return the rows of the tables that begin with the head cell `head`."""
    found = re.findall(rf"^\| {re.escape(head)} \|.*\n\|[ |-]+\n((?:\|.*\n)+)", text_of(DOCUMENT), re.MULTILINE)
    assert found, head
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for table in found for row in table.splitlines()]


def sections() -> dict[str, str]:
    """Return what stands below each heading of a product, by the preset in its example."""
    parts = re.split(r"^## ", text_of(DOCUMENT), flags=re.MULTILINE)
    return {match[1]: part for part in parts if (match := re.search(r'^preset = "([a-z0-9-]+)"$', part, re.MULTILINE))}


def example(preset: str) -> str:
    (found,) = re.findall(r"^```toml\n(.*?)^```$", sections()[preset], re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.mark.parametrize("preset", PRESETS)
def test_each_preset_has_a_section_with_everything(preset: str) -> None:
    """The console, the configuration, what surprises, what errors mean, the ways to authenticate."""
    text = sections()[preset]
    assert 3 <= len(re.findall(r"^\d\. ", text, re.MULTILINE)) <= 6
    assert "\n- " in text
    assert "| it says | the broker says |" in text
    assert "\nMethods: " in text


@pytest.mark.parametrize("preset", PRESETS)
def test_each_example_is_whole_and_says_nothing_twice(preset: str) -> None:
    """It parses, its only profile is allowed, and it sets nothing that the preset implies."""
    config = config_text.parse(example(preset))
    assert [(rule.profile, rule.decide) for rule in config.rules] == [("main", "allow")]
    assert list(config.profiles) == list(config.clients) == list(config.issuers) == ["main"]
    document = tomllib.loads(example(preset))
    implied = {**PRESETS[preset].defaults(), "url": PRESETS[preset].url}
    for table in (document["issuers"]["main"], document["clients"]["main"]):
        assert not [key for key, value in table.items() if implied.get(key) == value]
    auth, grant = config.clients["main"].auth or config.issuers["main"].auth, config.clients["main"].grant
    assert {auth, grant, config.issuers["main"].grant} & {*PRESETS[preset].methods}


def test_the_table_of_presets() -> None:
    """In their order, with the URL's example and what each insists on."""
    for row, (name, preset) in zip(rows("preset"), PRESETS.items(), strict=True):
        assert row[0] == f"`{name}`"
        fixed = preset.url is not None or preset.token_endpoint is not None
        assert row[2] == ("not needed" if fixed else f"`{preset.url_example}`")
        assert row[3] == f"`{preset.methods[0]}`"
        assert ("`audience`" in row[4]) is preset.audience_required
        assert ("scope" in row[4]) is preset.scope_required
        for wanted in (preset.scope_needed, preset.scope_suffix):
            assert wanted is None or wanted in row[4]
        assert ("`token_endpoint`" in row[4]) is (preset.endpoint_example is not None)


def default_of(one: Field[Any]) -> Any:
    return one.default_factory() if one.default_factory is not MISSING else one.default


def test_the_keys_of_an_issuer() -> None:
    """All there are, in order; each default is what a file with that line gives, or is marked as the preset's."""
    listed = {row[0].strip("`"): row[1] for row in rows("key of an issuer")}
    real = {one.name: default_of(one) for one in fields(IssuerConfig) if one.name != "name"}
    assert set(listed) == set(real)
    for key, told in listed.items():
        if told == "*preset*":
            assert key in {*PRESETS["oidc"].defaults(), "claims"}
        elif told == "":
            assert real[key] is None
        else:
            line = tomllib.loads(f"url = '{URL}'\n{key} = {told.strip('`')}")
            assert getattr(issuer("main", line), key) == real[key], key
    assert {*PRESETS["oidc"].defaults(), "claims"} == {key for key, told in listed.items() if told == "*preset*"}


def test_the_keys_of_a_client() -> None:
    """All there are, with those that are required."""
    listed = {row[0].strip("`"): row[1].strip("`") for row in rows("key of a client")}
    real = {one.name: default_of(one) for one in fields(ClientConfig) if one.name != "name"}
    words = {None: "", MISSING: "required", "access_token": '"access_token"'}
    assert listed == {key: words[value] for key, value in real.items()}


def test_the_ways_to_authenticate() -> None:
    """Each with the keys that it needs."""
    listed = {row[0].strip("`"): set(re.findall(r"`(\w+)`", row[1])) for row in rows("`auth`")}
    assert listed == {auth: set(needed) for auth, needed in AUTH_NEEDS.items()}


def test_the_brokers_words_are_its_own() -> None:
    """What stands before a colon in `…` is found in the code."""
    code = "\n".join(path.read_text() for path in (ROOT / "broker").rglob("*.py"))
    for _, told in rows("it says"):
        for words in re.findall(r"`… ([^`]+)`", told):
            for part in re.split(r"…|\d+", words.partition(":")[0]):
                assert part.strip() in code, words
