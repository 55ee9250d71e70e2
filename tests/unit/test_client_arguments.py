"""The command line becomes a value, or a usage error that names what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenbroker_client.arguments import parse
from tokenbroker_client.errors import UsageError
from tokenbroker_client.formats import FORMATS
from tokenbroker_client.help_text import HELP

SEE_HELP = "see `broker-token --help`"
LIST = "list them with `broker-token --list`"


@pytest.mark.parametrize(
    ("argv", "error", "hint"),
    [
        pytest.param([], "no profile is named", LIST, id="nothing"),
        pytest.param([""], "no profile is named", LIST, id="an empty profile"),
        pytest.param(["a", "b"], "unrecognized arguments: b", SEE_HELP, id="two profiles"),
        pytest.param(["a", "--form", "env"], "unrecognized arguments: --form", SEE_HELP, id="half an option"),
        pytest.param(["a", "--as", "interactive"], "argument --as: invalid choice", SEE_HELP, id="nothing raises one"),
        pytest.param(["a", "--format", "yaml"], "argument --format: invalid choice", SEE_HELP, id="an unknown format"),
        pytest.param(["a", "--min-ttl", "soon"], "expected a number of seconds", SEE_HELP, id="not a number"),
        pytest.param(["a", "--min-ttl=-5"], "expected a number of seconds", SEE_HELP, id="a negative time"),
        pytest.param(["a", "--timeout", "inf"], "expected a number of seconds", SEE_HELP, id="for ever"),
        pytest.param(["a", "--timeout", "0"], "expected more than 0 seconds", SEE_HELP, id="no time at all"),
        pytest.param(
            ["a", "--format", "env", "--env", "A;id"],
            "argument --env: expected the name of a variable",
            SEE_HELP,
            id="a name that the shell would run",
        ),
        pytest.param(
            ["a", "--env", "A"],
            "option --env needs --format env",
            'add `--format env`, as in `eval "$(broker-token PROFILE --format env --env NAME)"`',
            id="a name for no variable",
        ),
        pytest.param(
            ["a", "--list"],
            "option --list takes no PROFILE",
            "list them all with `broker-token --list`",
            id="a list of one",
        ),
        pytest.param(
            ["--list", "--format", "env"],
            "option --list prints a table or, with --json, JSON",
            SEE_HELP,
            id="a list to eval",
        ),
    ],
)
def test_usage_errors(argv: list[str], error: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(argv)
    assert error in caught.value.message
    assert caught.value.hint == hint
    assert caught.value.exit_code == 2


def test_scopes_are_given_one_by_one_or_together() -> None:
    assert parse(["p", "--scope", "a b", "--scope", "c"]).scopes == ("a", "b", "c")


def test_json_is_short_for_a_format() -> None:
    assert parse(["p", "--json"]) == parse(["p", "--format", "json"])


def test_help_goes_before_everything() -> None:
    """A person who asks for help with half a command gets it."""
    assert parse(["--help", "--env", "X"]).help


def test_the_help_names_every_format_and_option() -> None:
    assert all(name in HELP for name in FORMATS)
    for option in ("--audience", "--as", "--no-prompt", "--rejected", "--reason", "--list", "--socket", "--timeout"):
        assert f"\n  {option} " in HELP


def test_the_help_fits_a_terminal() -> None:
    assert max(len(line) for line in HELP.splitlines()) <= 88


def test_the_readme_holds_the_help() -> None:
    readme = (Path(__file__).parents[2] / "client" / "README.md").read_text()
    assert f"```\n{HELP}```" in readme
