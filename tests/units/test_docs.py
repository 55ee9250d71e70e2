"""The documents are true: help, configurations, code, commands, codes and links are compared with what there is."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.integration.http_peer import short_folder
from tokenbroker import errors
from tokenbroker.api import messages, public
from tokenbroker.cli import _MODULES, parser
from tokenbroker.cli.help import VERBS
from tokenbroker.config import text as config_text
from tokenbroker.config.presets import PRESETS
from tokenbroker_client import client as client_errors
from tokenbroker_client import wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _pytest.mark import ParameterSet

ROOT = Path(__file__).parents[2]
OTHERS = [ROOT / "client/README.md", ROOT / "tests/scenarios/README.md"]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *OTHERS])
BIN = Path(sys.executable).parent
NOT_YET = re.compile(r"^## Not there yet$.*?(?=^## )", re.MULTILINE | re.DOTALL)
PATIENCE = 30.0  # seconds


class Block(NamedTuple):
    """A fenced block."""

    document: str
    line: int
    language: str
    text: str


@cache
def text_of(path: Path) -> str:
    return path.read_text()


def blocks(language: str) -> list[ParameterSet]:
    """Return the fenced blocks of one language in all documents, as parameters."""
    found = []
    for path in DOCUMENTS:
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text_of(path), re.MULTILINE | re.DOTALL):
            if match[1] == language:
                name = str(path.relative_to(ROOT))
                line = text_of(path).count("\n", 0, match.start()) + 1
                found.append(pytest.param(Block(name, line, match[1], match[2]), id=f"{name}:{line}"))
    return found


def documents() -> list[ParameterSet]:
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in DOCUMENTS]


@cache
def help_of(program: str) -> str:
    done = subprocess.run([BIN / program, "--help"], capture_output=True, text=True, check=True)
    return done.stdout


@cache
def help_of_all() -> str:
    """Return what `broker-token` and every verb of `broker` say of themselves."""
    return help_of("broker-token") + "".join(
        sub.format_help()
        for sub in parser()._subparsers._group_actions[0].choices.values()  # type: ignore[union-attr]  # argparse has no public way to its verbs
    )


@pytest.mark.parametrize("name", ["README.md", "client/README.md"])
def test_the_help_is_a_copy_of_the_real_one(name: str) -> None:
    assert f"```\n{help_of('broker-token')}```" in text_of(ROOT / name)


@pytest.mark.parametrize("block", blocks("toml"))
def test_every_configuration_can_be_used(block: Block) -> None:
    config_text.parse(block.text)


def test_a_first_configuration_comes_with_everything_that_it_needs() -> None:
    """The first example of the README has a profile that some rule allows."""
    first = blocks("toml")[0].values[0]
    assert isinstance(first, Block)
    config = config_text.parse(first.text)
    assert first.document == "README.md"
    assert [rule.decide for rule in config.rules] == ["allow"]
    assert config.rules[0].profile in config.profiles


def test_the_fuller_example_names_every_preset() -> None:
    listed = re.search(r'^preset = "auth0"\s+# (.+)$', text_of(ROOT / "README.md"), re.MULTILINE)
    assert listed is not None
    assert set(PRESETS) == set(listed[1].split())


def test_messages_of_the_troubleshooting_table_are_real() -> None:
    """Each stands in the code, with something in place of every `…`."""
    code = "\n".join(path.read_text() for root in ("broker", "client") for path in (ROOT / root).rglob("*.py"))
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # a text over two lines
    for message, *_ in rows("README.md", "message"):
        for part in message.strip("` ").split("…"):
            assert part.removeprefix("op://").removeprefix("config.toml").strip(": ") in code, message


@pytest.fixture(scope="module")
def dev_socket() -> Iterator[str]:
    """Run `broker serve --dev` for as long as the tests of this file need it."""
    with contextlib.ExitStack() as stack:
        socket = str(stack.enter_context(short_folder()) / "b" / "broker.sock")
        serving = stack.enter_context(
            subprocess.Popen([BIN / "broker", "serve", "--dev", "--socket", socket], stderr=subprocess.PIPE, text=True)
        )
        stack.callback(serving.terminate)
        assert serving.stderr is not None
        assert any("Listening" in line for line in serving.stderr)
        yield socket


@pytest.mark.parametrize("block", blocks("python"))
def test_python_examples_run(block: Block, dev_socket: str) -> None:
    """Against the development parts, which have a profile `search`."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", block.text],
        env={**os.environ, "BROKER_SOCKET": dev_socket},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert 0 == done.returncode, done.stderr


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_socket_can_be_asked_with_curl(dev_socket: str) -> None:
    """The README's own options, with this socket."""
    shown = r"\$ curl --unix-socket \S+ (http://localhost/token .*?)\n```"
    command = re.search(shown, text_of(ROOT / "README.md"), re.DOTALL)
    assert command is not None
    arguments = command[1].replace("\\\n", " ").split()
    done = subprocess.run(["curl", "-sS", "--unix-socket", dev_socket, *arguments], capture_output=True, check=True)
    assert wire.decode_token(done.stdout).profile == "search"


def prose(path: Path) -> str:
    """Return a document without the list of what is not there yet."""
    return NOT_YET.sub("", text_of(path))


@pytest.mark.parametrize("path", documents())
def test_commands_that_are_named_exist(path: Path) -> None:
    """Every `make` target, every verb of `broker`, every option of both commands."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = "\n".join("".join(found) for found in re.findall(r"`([^`\n]+)`|^\$ (.+)$", prose(path), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z-]+)", code, re.MULTILINE)) <= targets
    verbs = set(re.findall(r"^broker ([a-z][a-z-]*)", code, re.MULTILINE))
    assert verbs <= VERBS.keys()
    for verb in verbs:
        assert find_spec(f"tokenbroker.cli.{_MODULES[verb]}"), (
            f"`broker {verb}` belongs on the list of what is not there yet"
        )
    for command in re.findall(r"(?<![\w/-])broker(?:-token)? [^|&;\n]*", code):
        for option in re.findall(r"(?<=\s)--[a-z-]+", command.partition("#")[0]):
            assert option in help_of_all(), command


def anchors(path: Path) -> set[str]:
    """Return the fragments that GitHub makes of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", text_of(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", documents())
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(path)):
        if not target.startswith(("http:", "https:", "mailto:")):
            name, _, fragment = target.partition("#")
            file = (path.parent / name).resolve() if name else path
            assert file.exists(), target
            assert not fragment or fragment in anchors(file), target


@pytest.mark.parametrize("path", documents())
def test_files_and_tests_that_are_named_exist(path: Path) -> None:
    """Paths from the project's root in backquotes; a test after `::` is looked for in the file."""
    for name, _, test in re.findall(
        r"`((?:tests|broker|client|docs|systemd|launchd|bench|scripts)/[\w./-]+)(::(\w+))?`", text_of(path)
    ):
        assert (ROOT / name).exists(), name
        assert not test or f"def {test}(" in (ROOT / name).read_text(), f"{name}::{test}"


def tree(kind: type[errors.BrokerError] = errors.BrokerError) -> dict[str, type[errors.BrokerError]]:
    """Return every error that this package defines, by its code; what only groups others has none of its own."""
    found = {kind.code: kind} if kind.__module__ == errors.__name__ and "code" in vars(kind) else {}
    for below in kind.__subclasses__():
        found |= tree(below)
    return found


def rows(document: str, head: str) -> list[list[str]]:
    """Return the rows of the table that begins with the head cell `head`."""
    table = re.search(rf"^\| {re.escape(head)} \|.*\n\|[ -|]+\n((?:\|.*\n)+)", text_of(ROOT / document), re.MULTILINE)
    assert table is not None, head
    return [[cell.strip().strip("`") for cell in row.strip("|").split(" | ")] for row in table[1].splitlines()]


def test_the_protocol_lists_every_error_as_it_is() -> None:
    """Code, HTTP status, RFC error, exit code of broker-token, retryable."""
    listed = {row[0]: row[1:5] for row in rows("docs/protocol.md", "code")}
    real = {
        code: [
            str(kind.status),
            kind.oauth,
            str(wire.exit_code(code, retryable=kind("").retryable)),
            "yes" if kind("").retryable else "no",
        ]
        for code, kind in tree().items()
    }
    assert listed == real


def test_the_protocol_lists_what_the_client_says_by_itself() -> None:
    kinds = (client_errors.UsageError, client_errors.NoBroker, client_errors.NoAnswer, client_errors.BadAnswer)
    listed = {row[0]: row[1] for row in rows("docs/protocol.md", "client's code")}
    assert {kind.code: str(kind.exit_code) for kind in kinds} == listed


def test_the_protocol_lists_every_parameter() -> None:
    every = wire.TokenRequest("p", "a", "r", ("s",), 1.0, "why", "autonomous", "never")
    sent = dict(part.split("=") for part in wire.encode_request(every).decode().split("&"))
    assert sent.keys() == {row[0] for row in rows("docs/protocol.md", "parameter")}


def test_the_protocol_lists_every_field_of_a_token() -> None:
    assert set(wire._TOKEN_FIELDS) == {row[0] for row in rows("docs/protocol.md", "field of a token")}
    assert set(wire._ERROR_FIELDS) == {row[0] for row in rows("docs/protocol.md", "field of an error")}


def test_the_protocol_names_the_limits() -> None:
    limits = messages.Limits()
    told = text_of(ROOT / "docs/protocol.md")
    for number in (limits.head // 1024, limits.body // 1024):
        assert f"{number} KiB" in told
    for seconds in (limits.request_time, limits.idle_time):
        assert f"{seconds:g} s" in told
    assert f"{limits.connections} connections" in told
    assert public.FORM in told


def test_the_exit_codes_of_the_readme_are_all_there_are() -> None:
    listed = {int(row[0]) for row in rows("README.md", "exit code")}
    assert {value for name, value in vars(wire).items() if name.startswith("EXIT_")} == listed
