"""`broker init`: asks, checks, shows, and writes a private file or nothing at all."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING

import pytest

from tests.e2e.rig import API, BIN, OWNER, PATIENCE
from tests.e2e.standard import CRON_SECRET, SECRET
from tokenbroker.cli.first_config import render
from tokenbroker.cli.questions import Answers, Found, Question, questions
from tokenbroker.config.text import parse
from tokenbroker.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.e2e.rig import Rig
    from tokenbroker.dev.issuer import DevIssuer

CTRL_C = "\x03"
AGAIN = 0.5  # seconds until a key is pressed again
NOBODY = "http://127.0.0.1:9"  # an issuer that is not there

# In the order in which they are asked.
ANSWERS = {
    "preset": "", "url": NOBODY, "token_endpoint": "", "method": "", "audience": API, "scopes": "search:read",
    "backend": "", "account": "", "vault": "Agents", "item": "m2m-cron", "client_id": "", "client_secret": "",
    "agent_type": "autonomous", "owner": OWNER, "profile": "search", "program": "", "confirmation": "",
}  # fmt: skip

FOUND = ("token_endpoint",)  # not asked where discovery finds it

EXPECTED = f"""\
# The configuration of tokenbroker. It holds references to secrets, never secrets.
# After a change: `broker doctor` checks it, `broker reload` makes a running broker take it over.
version = 1

# Where secrets are kept: `op` is 1Password, opened with one prompt.
[vault]
backend = "op"

# The OAuth authorization server that mints the tokens.
[issuers.main]
preset = "oidc"
url = "{NOBODY}"

# The OAuth client. For programs of the other agent_type, add another client to the profile.
[clients.main]
issuer = "main"
agent_type = "autonomous"
owner = "{OWNER}"
client_id = "op://Agents/m2m-cron/username"
client_secret = "op://Agents/m2m-cron/credential"

# What a token is for; programs ask for it by this name, and never get more scopes than these.
[profiles.search]
clients = ["main"]
audience = "{API}"
scopes = ["search:read"]

# Who may have it. The first rule that matches decides (allow, ask, deny); without one: denied.
[[rules]]
profile = "search"
decide = "allow"
"""


@pytest.fixture
def new(rig: Rig) -> Path:
    """Where a configuration is to be, its folder not made yet."""
    return rig.home / "made/here/config.toml"


def lines(*wrong: tuple[str, str], without: tuple[str, ...] = (), **answers: str) -> str:
    """Return the input that gives these answers; each of `wrong` is given before the right one."""
    given = []
    for name, answer in (ANSWERS | answers).items():
        if name not in without:
            given += [text for before, text in wrong if before == name] + [answer]
    return "".join(f"{line}\n" for line in given)


def init(rig: Rig, path: Path, text: str, *arguments: str) -> tuple[int, str, str]:
    """Run the verb on a pipe; return its transcript."""
    done = subprocess.run(
        [BIN / "broker", "init", "--config", path, *arguments],
        env=rig.environ(),
        input=text,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_file_is_private_explained_and_shown(rig: Rig, new: Path) -> None:
    """Mode 0600 in a folder of mode 0700, and the next commands are named."""
    code, out, err = init(rig, new, lines())
    assert (code, err) == (0, "")
    assert new.read_text() == EXPECTED
    assert [oct(path.stat().st_mode & 0o777) for path in (new, new.parent)] == ["0o600", "0o700"]
    assert [path.name for path in new.parent.iterdir()] == ["config.toml"]
    assert EXPECTED in out
    assert "not found by discovery: issuer `main` (127.0.0.1:9) cannot be reached: connection refused" in out
    wrote, _, steps = out.partition(f"wrote {new}\nnext:\n")
    assert wrote
    commands = [line.split("  ")[1] for line in steps.splitlines()]
    assert commands == [f"broker doctor --config {new}", f"broker serve --config {new}", "broker-token search"]
    assert rig.op.calls() == []


def test_what_it_writes_works(rig: Rig, issuer: DevIssuer) -> None:
    """The issuer is found while asking, the daemon takes the file, and a program gets its token."""
    rig.config.unlink()
    rig.config.parent.rmdir()
    # The development issuer takes this client by client_secret_post too.
    code, out, _ = init(rig, rig.config, lines(url=issuer.url, without=FOUND))
    assert code == 0
    assert f"found the token endpoint {issuer.url}" in out
    assert rig.run("broker", "doctor", "--config", rig.config).out.count("FAULT") == 1  # no daemon yet
    with rig.serve():
        assert rig.broker("unlock").code == 0
        assert rig.token("search").token.count(".") == 2


@pytest.mark.parametrize("slash", ["", "/"], ids=["as it is", "with a slash too many"])
def test_the_issuers_own_spelling_is_taken(rig: Rig, new: Path, issuer: DevIssuer, slash: str) -> None:
    """RFC 8414 wants them identical; the final slash is not worth a failed start."""
    code, out, _ = init(rig, new, lines(url=issuer.url + slash, without=FOUND))
    assert code == 0
    assert tomllib.loads(new.read_text())["issuers"]["main"]["url"] == issuer.url
    assert ("the issuer calls itself" in out) is bool(slash)


def test_wrong_answers_are_asked_again_with_the_reason(rig: Rig, new: Path) -> None:
    """None of them is repeated where it may be a secret, and the file is as if they had not been."""
    wrong = (
        ("preset", "auth00"),
        ("url", "http://issuer.example"),
        ("url", ""),
        ("token_endpoint", "ftp://x"),
        ("vault", "No/Vault"),
        ("client_secret", SECRET),
        ("client_secret", "keyring://a/b"),
        ("owner", "S3cr3tS3cr3tS3cr3tS3cr3t"),
        ("program", "python3"),
        ("confirmation", "perhaps"),
    )
    code, out, err = init(rig, new, lines(*wrong))
    assert (code, err) == (0, "")
    assert new.read_text() == EXPECTED
    assert SECRET not in out
    assert "S3cr3t" not in out
    for reason in (
        "did you mean `auth0`?",
        "expected an https URL, found plain http to a host that is not loopback",
        "an answer is needed",
        "expected an http or https URL with a host",
        "a name with `/` in it goes by its id",
        "found a literal value, which is not shown; expected a reference such as op://Vault/Item/field",
        "which backend `op` reads, found one that begins with keyring://",
        "found what looks like a secret, which is not shown and does not belong here",
        "a relative path, which matches nothing",
        "expected yes, no, y or n, found `perhaps`",
    ):
        assert reason in out


def test_an_input_that_ends_names_what_is_missing(rig: Rig, new: Path) -> None:
    """The rest of the questions is named, the confirmation too, and nothing is written."""
    names = list(ANSWERS)
    for given in (0, len(names) - 1):
        text = "".join(f"{ANSWERS[name]}\n" for name in names[:given])
        missing = ", ".join(names[given:])
        code, _, err = init(rig, new, text)
        assert code == 2
        assert err == (
            f"broker: error: the input ended before {missing}; nothing was written\n"
            "broker: hint: run `broker init` in a terminal\n"
        )
    assert not new.parent.parent.exists()


def test_no_is_no(rig: Rig, new: Path) -> None:
    """The file was shown and not wanted."""
    code, out, err = init(rig, new, lines(confirmation="no"))
    assert (code, err) == (
        1,
        "broker: error: nothing was written, as you asked\nbroker: hint: run `broker init` again\n",
    )
    assert EXPECTED in out
    assert not new.parent.parent.exists()


def test_an_existing_file_stays(rig: Rig, new: Path) -> None:
    """Without --force not even a question is asked, and a dangling link counts as a file."""
    new.parent.mkdir(parents=True)
    new.symlink_to(rig.home / "nowhere")
    for path in (rig.config, new):
        code, out, err = init(rig, path, lines())
        assert (code, out) == (1, "")
        assert err == (
            f"broker: error: {path} is there already\n"
            "broker: hint: replace it with `broker init --force`, which keeps a copy\n"
        )


def test_force_keeps_a_copy(rig: Rig) -> None:
    """The old file, a private copy of it, and a link that leads to it stays a link."""
    before = rig.config.read_text()
    link = rig.home / "link.toml"
    link.symlink_to(rig.config)
    code, out, _ = init(rig, link, lines(), "--force")
    copy = rig.config.with_name("config.toml.bak")
    assert code == 0
    assert f"kept the old configuration as {copy}" in out
    assert (copy.read_text(), oct(copy.stat().st_mode & 0o777)) == (before, "0o600")
    assert link.is_symlink()
    assert rig.config.read_text() == EXPECTED


def test_a_folder_that_cannot_be_made_is_told(rig: Rig) -> None:
    """A file stands where a folder should be."""
    code, _, err = init(rig, rig.config / "below/config.toml", lines())
    assert code == 1
    assert err.startswith(f"broker: error: {rig.config}/below/config.toml cannot be written: ")


# A new session on the terminal that is stdin. A test run in the background is born deaf to SIGINT; this ends that.
ON_TERMINAL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """`broker init` on a terminal."""

    def __init__(self, rig: Rig, path: Path) -> None:
        self._end, theirs = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", ON_TERMINAL, BIN / "broker", "init", "--config", path],
            env=rig.environ(TERM="dumb"),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.said = ""
        self._insist = b""

    def hear(self, text: str) -> None:
        """Read until it has said `text` since the last answer."""
        while text not in self.said:
            self._read()

    def _read(self) -> bool:
        for _ in range(int(PATIENCE / AGAIN)):
            if select.select([self._end], [], [], AGAIN)[0]:
                break
            # CPython notices a signal too late when it comes between its last look and read(2). People press again.
            os.write(self._end, self._insist)
        else:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"nothing more after: {self.said}")
        more = os.read(self._end, 4096)
        self.said += more.decode()
        return bool(more)

    def type(self, text: str) -> None:
        """Type `text`; Ctrl-C is pressed until something happens."""
        self.said = ""
        self._insist = CTRL_C.encode() if text == CTRL_C else b""
        os.write(self._end, text.encode())

    def end(self) -> int:
        """Wait for its end and return its exit status."""
        with contextlib.suppress(OSError):  # EIO: the other side is closed
            while self._read():
                pass
        os.close(self._end)
        return self._process.wait(PATIENCE)


def answered(terminal: Terminal, names: Iterator[str]) -> None:
    """Answer the questions in turn, each when it has been asked."""
    asked = {q.name: q.ask for q in all_questions()} | {"confirmation": "write it? yes or no"}
    for name in names:
        terminal.hear(f"{asked[name]}")
        terminal.hear(": ")
        terminal.type(f"{ANSWERS[name]}\n")


def test_a_person_at_a_terminal(rig: Rig, new: Path) -> None:
    """The same questions, one after the other."""
    terminal = Terminal(rig, new)
    answered(terminal, iter(ANSWERS))
    assert terminal.end() == 0
    assert new.read_text() == EXPECTED


@pytest.mark.parametrize(
    ("key", "code"), [pytest.param(CTRL_C, 130, id="Ctrl-C"), pytest.param("\x04", 2, id="Ctrl-D")]
)
def test_leaving_writes_nothing(rig: Rig, new: Path, key: str, code: int) -> None:
    """A person who leaves at the last question leaves nothing behind."""
    terminal = Terminal(rig, new)
    answered(terminal, iter(list(ANSWERS)[:-1]))
    terminal.hear("write it? yes or no [yes]: ")
    terminal.type(key)
    assert terminal.end() == code
    assert "nothing was written" in terminal.said
    assert "Traceback" not in terminal.said
    assert not new.parent.parent.exists()


def all_questions(given: Mapping[str, str] = ANSWERS, found: Found | None = None) -> list[Question]:
    """Return every question, as asked of one who gives these answers."""
    answers: Answers = {}
    asked = []
    for question in questions(answers, found):
        asked.append(question)
        answers[question.name] = given.get(question.name) or ANSWERS.get(question.name) or question.default or ""
    return asked


def question(name: str, given: Mapping[str, str], found: Found | None = None) -> Question:
    return next(one for one in all_questions(given, found) if one.name == name)


def test_the_parser_has_the_last_word() -> None:
    """An answer that slipped through would be refused before anything is written."""
    answers: Answers = {one.name: ANSWERS.get(one.name) or one.default or "" for one in all_questions()}
    with pytest.raises(ConfigError):
        parse(render(answers | {"client_secret": CRON_SECRET}))
