"""Each consumer gets exactly its form."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace

import pytest

from tests.standins.fake_daemon import PROFILES
from tokenbroker_client import formats, wire

ANSWER = wire.TokenAnswer("t0.k~en", expires_in=60, profile="search", others={"new": 1})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("token", "t0.k~en\n", id="the token alone"),
        pytest.param("header", "Authorization: Bearer t0.k~en\n", id="a header line"),
        pytest.param("headers-json", '{"Authorization": "Bearer t0.k~en"}\n', id="a JSON object of headers"),
        pytest.param("env", "export NAME='t0.k~en'\n", id="a line for eval"),
    ],
)
def test_formats(name: str, expected: str) -> None:
    assert formats.FORMATS[name](ANSWER, "NAME") == expected


@pytest.mark.parametrize("named", ["DPoP", "dpop"])
def test_a_bound_token_is_named_as_what_it_is(named: str) -> None:
    """RFC 9449 §7.1: as a Bearer token an API refuses it."""
    bound = replace(ANSWER, token_type=named)
    assert formats.header(bound, "") == "Authorization: DPoP t0.k~en\n"
    assert formats.headers_json(bound, "") == '{"Authorization": "DPoP t0.k~en"}\n'


@pytest.mark.parametrize(
    ("name", "told"), [("token", True), ("env", True), ("header", False), ("headers-json", False), ("json", False)]
)
def test_a_bound_token_without_its_scheme_comes_with_a_hint(name: str, told: bool) -> None:  # noqa: FBT001  # parametrized
    """Where the text does not say so itself; a Bearer token needs none."""
    assert (formats.warning(replace(ANSWER, token_type="DPoP"), name) is not None) is told
    assert formats.warning(ANSWER, name) is None


def test_json_is_the_whole_answer() -> None:
    """Fields that this client does not know are passed through."""
    shown = json.loads(formats.FORMATS["json"](ANSWER, ""))
    assert (shown["access_token"], shown["profile"], shown["new"]) == ("t0.k~en", "search", 1)


def test_no_token_can_be_more_than_a_value_to_the_shell() -> None:
    hostile = "a'b\"c$(id)`id`;\\"
    line = formats.env(wire.TokenAnswer(hostile), "NAME")
    shown = subprocess.run(["sh", "-c", f'{line} printf %s "$NAME"'], capture_output=True, text=True, check=True)
    assert shown.stdout == hostile


def test_the_table_of_profiles() -> None:
    assert formats.profile_table(PROFILES) == (
        "PROFILE  AUDIENCE                     SCOPES              AGENT TYPES             ALLOWED\n"
        "search   https://search.example.com   search:read         interactive             yes\n"
        "billing  https://billing.example.com  -                   autonomous interactive  no (asks)\n"
        "payroll  https://payroll.example.com  pay:read pay:write  -                       no\n"
    )
