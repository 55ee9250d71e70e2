"""The stand-in for `op` speaks as the 1Password contract says: commands, outputs, texts, exit codes."""

from __future__ import annotations

import base64
import json
import re
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.standins.op_things import Field
from tests.standins.op_world import HOSTILE_VALUES, ROOT, OpWorld

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STAMPED = re.compile(r"\[ERROR] \d{4}/\d{2}/\d{2} \d{2}:\d{2}:\d{2} (.*)\n", re.DOTALL)
TOKEN = "ops_" + base64.urlsafe_b64encode(b'{"email":"sa@example.com"}').decode().rstrip("=")
READ = ("read", "op://V/I/credential")
Done = subprocess.CompletedProcess[bytes]


class Op:
    """Runs the stand-in of a world as a program would, with a minimal environment."""

    def __init__(self, world: OpWorld, folder: Path) -> None:
        self.world = world
        self.program = world.install(folder / "bin")

    def __call__(self, *argv: str, env: dict[str, str] | None = None, **options: Any) -> Done:
        given: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 10} | options
        if "input" not in given:
            given.setdefault("stdin", subprocess.DEVNULL)
        done: Done = subprocess.run([self.program, *argv], env={"HOME": "/home/u"} | (env or {}), **given)
        return done

    def out(self, *argv: str, **options: Any) -> str:
        """Return stdout of a call that must succeed in silence."""
        done = self(*argv, **options)
        assert (done.returncode, done.stderr) == (0, b"")
        return str(done.stdout.decode())

    def error(self, *argv: str, rc: int = 1, **options: Any) -> str:
        """Return the text after the timestamp of a call that must fail with nothing on stdout."""
        done = self(*argv, **options)
        assert (done.returncode, done.stdout) == (rc, b"")
        match = STAMPED.fullmatch(done.stderr.decode())
        assert match, done.stderr
        return match[1]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[OpWorld]:
    world = OpWorld.create(tmp_path)
    world.set(latency="none")
    world.person("approve", delay=0)
    world.add_item("V", "I", {"username": "abc", "credential": "s3cret", "empty": ""})
    yield world
    world.close()


@pytest.fixture
def op(world: OpWorld, tmp_path: Path) -> Op:
    return Op(world, tmp_path)


def test_version(op: Op) -> None:
    assert op.out("--version") == "2.40.0\n"


def test_the_program_itself_finds_its_state_in_the_environment(op: Op) -> None:
    program = ROOT / "tests" / "standins" / "op" / "op"
    env = {"FAKE_OP_STATE": op.world.store.path}
    done = subprocess.run([sys.executable, "-IS", program, *READ], env=env, stdout=subprocess.PIPE)
    assert done.stdout == b"s3cret\n"


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param(["--format", "json", "vault", "list"], id="before the subcommand"),
        pytest.param(["vault", "list", "--format=json"], id="after it"),
        pytest.param(["vault", "--format", "json", "ls"], id="between, with an alias"),
    ],
)
def test_global_flags_stand_anywhere(op: Op, argv: list[str]) -> None:
    assert [vault["name"] for vault in json.loads(op.out(*argv))] == ["V"]


@pytest.mark.parametrize("value", HOSTILE_VALUES.values(), ids=HOSTILE_VALUES.keys())
def test_values_are_byte_exact_through_a_pipe(op: Op, value: str) -> None:
    item = op.world.add_item("V", "hostile", {"credential": value})
    assert op("read", "op://V/hostile/credential").stdout == value.encode() + b"\n"
    shown = json.loads(op.out("item", "get", item, "--format", "json", "--fields", "label=credential"))
    assert shown["value"] == value


def test_anything_but_a_pipe_loses_bytes(op: Op, tmp_path: Path) -> None:
    op.world.add_item("V", "raw", {"credential": "a\udcff\x7fb"})
    assert op("read", "-n", "op://V/raw/credential").stdout == b"a\xff\x7fb"
    with (tmp_path / "out").open("wb") as out:
        op("read", "-n", "op://V/raw/credential", stdout=out)
    assert (tmp_path / "out").read_bytes() == "a\ufffdb".encode()


def test_read_writes_a_private_file(op: Op, tmp_path: Path) -> None:
    assert op.out("read", "op://v/i/Credential", "-n", "--out-file", str(tmp_path / "f")) == ""
    assert (tmp_path / "f").read_text() == "s3cret"
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600


NO_FIELD = "could not read secret 'op://V/I/nope': item 'V/I' does not have a field 'nope'"
NO_ITEM = '"nope" isn\'t an item in the "V" vault. Specify the item with its UUID, name, or domain.'
NO_VAULT = '"Local" isn\'t a vault in this account. Specify the vault with its ID or name.'
BAD_REF = "invalid secret reference: "


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["read", "op://V/I/nope"], NO_FIELD),
        (["read", "op://V/I/s/f"], "could not read secret 'op://V/I/s/f': item 'V/I' does not have a field 's.f'"),
        (["read", "op://V/nope/f"], f"could not read secret 'op://V/nope/f': could not get item V/nope: {NO_ITEM}"),
        (["read", "op://Local/I/f"], f"could not read secret 'op://Local/I/f': could not get item Local/I: {NO_VAULT}"),
        (["read", "op://V/I(/f"], f"{BAD_REF}invalid character in secret reference: '('"),
        (["read", "op://V/ü/f"], f"{BAD_REF}invalid character in secret reference: 'ü'"),
        (["read", "V/I/f"], f'{BAD_REF}secret reference is not prefixed with "op://"'),
        (["read", "op://V/I/f?x=y"], f"{BAD_REF}secret reference has invalid query parameter key"),
        (["read", "--reveal", "op://V/I/f"], "unknown flag: --reveal"),
        (["item", "get", "nope", "--vault", "V"], NO_ITEM),
        (["item", "get", "nope"], '"nope" isn\'t an item. Specify the item with its UUID, name, or domain.'),
        (["item", "get", "I", "--vault", "Local"], NO_VAULT),
        (["item", "get", "-"], "expected data on stdin but none found"),
        (["inject"], "expected data on stdin but none found"),
        (["frobnicate"], 'unknown command "frobnicate" for "op"'),
        (["vault", "list", "--account", "5GHH"], "error initializing client: no account found for filter 5GHH"),
        (["whoami"], "account is not signed in"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_error_texts(op: Op, argv: list[str], text: str) -> None:
    """Each error is the recorded text behind a timestamp, with status 1 and an empty stdout."""
    assert op.error(*argv) == text


def test_duplicate_titles_are_listed_with_their_ids(op: Op) -> None:
    ids = [op.world.add_item("Test Data", "Delete Me") for _ in range(2)]
    lines = "".join(f'\n\t* for the item "Delete Me" in vault Test Data: {i}' for i in ids)
    head = 'More than one item matches "delete me". Try again and specify the item by its ID: '
    assert op.error("item", "get", "delete me") == head + lines
    assert json.loads(op.out("item", "get", ids[1], "--format", "json"))["id"] == ids[1]


def test_archived_items_are_hidden(op: Op) -> None:
    op.world.add_item("V", "Old", {"credential": "x"}, archived=True)
    assert op.error("item", "get", "Old").startswith("could not find item Old in vault V, because it has been deleted")
    assert [i["title"] for i in json.loads(op.out("item", "list", "--format", "json"))] == ["I"]
    assert json.loads(op.out("item", "get", "Old", "--format", "json", "--include-archive"))["title"] == "Old"


def test_item_json_shows_secrets_and_omits_empty_values(op: Op) -> None:
    item = json.loads(op.out("item", "get", "I", env={"OP_FORMAT": "json"}))
    assert item["category"] == "API_CREDENTIAL"
    assert [field.get("value") for field in item["fields"]] == ["abc", "s3cret", None]
    assert "value" not in item["fields"][2]
    assert item["fields"][1]["reference"] == "op://V/I/credential"


def test_human_output_conceals_unless_revealed(op: Op) -> None:
    item = op.world.add_item("V", "csv", {"username": "tok,en", "credential": 'a"b'})
    hidden = f"[use 'op item get {item} --reveal' to reveal]"
    assert op.out("item", "get", "csv", "--fields", "username,credential") == f'"tok,en",{hidden}\n'
    assert op.out("item", "get", "csv", "--fields", "label=credential", "--reveal") == '"a""b"\n'
    assert 'a"b' not in op.out("item", "get", "csv")


def test_fields_are_an_object_or_an_array(op: Op) -> None:
    get = ["item", "get", "I", "--format", "json", "--fields"]
    assert json.loads(op.out(*get, "type=string"))["value"] == "abc"
    assert [f["label"] for f in json.loads(op.out(*get, "credential,username"))] == ["credential", "username"]


def test_items_come_from_a_pipe_as_concatenated_json(op: Op) -> None:
    listing = op("item", "list", "--format", "json").stdout
    assert op("item", "get", "-", "--format", "json", input=listing + listing).stdout.count(b"}\n{") == 1


def test_sections_files_and_attributes_are_referred_to(op: Op) -> None:
    fields: dict[str, str | Field] = {"x": "top", "key": Field("PEM", type="SSHKEY", section="more", openssh="OPENSSH")}
    op.world.add_item("V", "rich", fields, files={"cert.pem": "CERT"})
    assert op.out("read", "op://V/rich/MORE/key?ssh-format=openssh") == "OPENSSH\n"
    assert op.out("read", "op://V/rich/x?attribute=type") == "concealed\n"
    assert op.out("read", "op://V/rich/cert.pem") == "CERT\n"


def test_one_time_passwords_follow_rfc_6238(op: Op) -> None:
    """The vector of RFC 6238 appendix B at 59 s, cut to six digits by the default."""
    seed = base64.b32encode(b"12345678901234567890").decode()
    op.world.add_item("V", "otp", {"one-time password": Field(seed, type="OTP", section="add more")})
    real = json.loads(op.out("item", "get", "otp", "--format", "json"))["fields"][0]["totp"]
    assert op.out("item", "get", "otp", "--otp").strip().isdigit()
    assert len(real) == 6
    from tests.standins.op.items import one_time_password  # noqa: PLC0415  # its clock is the argument

    assert one_time_password(f"otpauth://totp/x?secret={seed}&digits=8", 59) == "94287082"


def test_inject_fills_cleans_and_ends_with_a_newline(op: Op) -> None:
    op.world.add_item("V", "dirty", {"credential": "a\x01\x1b\r\x7f\tb\nc"})
    template = b'x={{ op://V/dirty/credential }}\ny=op://V/I/username {{ "kept" }}'
    assert op("inject", input=template).stdout == b"x=a\tb\nc\ny=abc kept\n"


def test_inject_fails_whole_on_the_first_bad_reference(op: Op, tmp_path: Path) -> None:
    template = tmp_path / "template"
    template.write_text("{{ op://V/I/credential }} {{ op://V/I/nope }} {{ op://V/I/also }}")
    assert op.error("inject", "-i", str(template)) == NO_FIELD
    template.write_text("a\n{{ op://V/I(/x }}")
    assert op.error("inject", "-i", str(template)) == "parsing error at 2:12: invalid character: ("


def test_inject_reads_no_socket(op: Op) -> None:
    """Node gives its children socket pairs, which `op` does not take for input."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"{{ op://V/I/username }}")
        ours.shutdown(socket.SHUT_WR)
        assert op.error("inject", stdin=theirs) == "expected data on stdin but none found"


def test_run_conceals_what_its_command_prints(op: Op) -> None:
    env = {"X": "op://V/I/credential", "PATH": "/usr/bin:/bin"}
    command = ["--", "sh", "-c", "echo $X; exit 3"]
    done = op("run", *command, env=env)
    assert (done.returncode, done.stdout) == (3, b"<concealed by 1Password>\n")
    assert op("run", "--no-masking", *command, env=env).stdout == b"s3cret\n"


NOT_SIGNED_IN = "You are not currently signed in. Please run `op signin --help` for instructions"


def test_manual_sessions(op: Op, tmp_path: Path) -> None:
    """A password comes through a pipe only; the token printed is needed by each later call, and ages."""
    manual = Op(OpWorld.create(_folder(tmp_path / "manual"), mode="manual"), tmp_path / "manual")
    manual.world.add_item("V", "I", {"credential": "s3cret"})
    assert "shorthand" in json.loads(manual.out("account", "list", "--format", "json"))[0]
    reference = "op://V/I/credential"
    wrapped = f"could not read secret '{reference}': error initializing client: {NOT_SIGNED_IN}"
    assert manual.error("read", reference) == wrapped
    assert manual.error("vault", "list") == NOT_SIGNED_IN
    refused = manual("signin", "--raw")
    assert refused.stderr.startswith(b"Enter the password for user@example.com at my.1password.com: [ERROR] ")
    assert refused.stderr.endswith(b"operation not supported by device\n")
    token = manual("signin", "--raw", input=b"correct horse\n").stdout.decode().strip()
    assert manual.out("read", reference, env={"OP_SESSION_my": token}) == "s3cret\n"
    manual.world.advance(30 * 60 + 5)
    expired = manual.error("vault", "list", "--session", token)
    assert expired == "session expired, sign in to create a new session"


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_no_accounts_offers_to_add_one(op: Op) -> None:
    op.world.set(mode="none")
    done = op("read", "op://x/y/z")
    text = done.stderr.decode()
    assert (done.returncode, done.stdout) == (1, b"")
    assert text.startswith("No accounts configured for use with 1Password CLI.\n\n")
    assert "Do you want to add an account manually now? [Y/n] " in text
    assert text.endswith(" could not read secret 'op://x/y/z': error initializing client: \n")
    assert op.error("whoami") == "no account found for filter "


def test_a_service_account_token_goes_before_the_app(op: Op) -> None:
    """Even where the app would answer, so that a stray variable hijacks every call."""
    env = {"OP_SERVICE_ACCOUNT_TOKEN": TOKEN}
    assert op.out("read", "op://V/I/credential", env=env) == "s3cret\n"
    assert op.world.prompts() == 0
    assert json.loads(op.out("whoami", "--format", "json", env=env))["user_type"] == "SERVICE_ACCOUNT"
    op.world.add_vault("W")
    assert op.error("item", "get", "I", env=env).startswith("a vault query must be provided when this command is")
    op.world.service_account(vaults=[])
    assert op.error("vault", "get", "V", env=env).startswith('"V" isn\'t a vault in this account.')


@pytest.mark.parametrize(
    ("token", "end"),
    [
        ("ops_abcdefghijkl*", "(failed to DecodeSACredentials), illegal base64 data at input byte 12"),
        ("TOKEN=ops_x", "error initializing client: unrecognized auth type"),
    ],
    ids=["bad base64", "not a token"],
)
def test_malformed_service_account_tokens(op: Op, token: str, end: str) -> None:
    assert op.error("read", "op://V/I/credential", env={"OP_SERVICE_ACCOUNT_TOKEN": token}).endswith(end)


def test_corrupt_tokens_made_the_old_build_panic(op: Op) -> None:
    op.world.service_account(generation="2.18")
    done = op("whoami", env={"OP_SERVICE_ACCOUNT_TOKEN": "ops_*"})
    assert (done.returncode, done.stdout, done.stderr[:6]) == (2, b"", b"panic:")


def test_service_account_reads_are_counted_and_limited(op: Op) -> None:
    """A cold read by name costs 3 and a cached one 1; asking for the limits is free."""
    env = {"OP_SERVICE_ACCOUNT_TOKEN": TOKEN}
    for _ in range(2):
        op.out("read", "op://V/I/credential", env=env)
    rows = json.loads(op.out("service-account", "ratelimit", "--format", "json", env=env))
    assert [(row["type"], row["action"], row["used"]) for row in rows] == [
        ("token", "write", 0),
        ("token", "read", 4),
        ("account", "read_write", 4),
    ]
    with op.world.store.change() as state:
        state["ratelimit"]["token read"]["limit"] = 4
    op.world.advance(60)
    text = op.error("read", "op://V/I/credential", env=env)
    assert "(429) Too Many Requests: You've reached the maximum number of this type" in text
    assert "Please retry in 59 minutes or try other requests." in text
    op.world.advance(3600)
    assert op.out("read", "op://V/I/credential", env=env) == "s3cret\n"


def test_connect_goes_before_everything(op: Op) -> None:
    env = {"OP_CONNECT_HOST": "http://localhost:1", "OP_CONNECT_TOKEN": "t", "OP_SERVICE_ACCOUNT_TOKEN": "bad"}
    assert op.out("read", "op://V/I/credential", env=env) == "s3cret\n"
    op.world.set(connect={"reachable": False})
    assert 'could not retrieve vaults: Get "http://localhost:1/v1/vaults"' in op.error("read", "op://V/I/x", env=env)
