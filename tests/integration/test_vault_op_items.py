"""Items as people keep them, read at once and item by item: both ways give the same (contract 1.4 to 1.6, 7)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_ssh_private_key,
)

from tests.standins.op_things import Field, File
from tests.standins.op_world import OpWorld
from tokenbroker.config import VaultConfig
from tokenbroker.errors import SecretAmbiguous, SecretNotFound
from tokenbroker.model import Secret, SecretRef
from tokenbroker.vaults.op.app import OpVault
from tokenbroker.vaults.op.runner import OpRunner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

PRIVATE_KEY = ec.generate_private_key(ec.SECP256R1())
PEM = PRIVATE_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
OPENSSH = PRIVATE_KEY.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
SEED = "JBSWY3DPEHPK3PXP"
OTPAUTH = f"otpauth://totp/Example:me?secret={SEED}&issuer=Example"
NO_INJECT = 'unknown command "inject" for "op"'


@pytest.fixture
def world(tmp_path: Path) -> Iterator[OpWorld]:
    """Give a world with one item of each kind."""
    made = OpWorld.create(tmp_path)
    made.set(latency="none", time_scale=0.001)
    made.add_item("Agents", "api", {"username": "client", "credential": "api-secret", "hostname": "id.example.com"})
    made.add_item("Agents", "login", {"username": "me", "password": "pass word"}, category="LOGIN")
    made.add_item("Agents", "note", {"notesPlain": "first line\nsecond"}, category="SECURE_NOTE")
    made.add_item("Agents", "split/title", {"credential": "behind a slash"})
    made.add_item("Agents", "sections", [
        ("token", Field("top")),
        ("token", Field("test one", section="Test")),
        ("token", Field("live one", section="Live")),
        ("key", Field("twin a", section="Twin", section_id="twin-a")),
        ("key", Field("twin b", section="Twin", section_id="twin-b")),
        ("same", Field("same one", id="same-one")),
        ("same", Field("same two", id="same-two")),
    ])  # fmt: skip
    made.add_item("Agents", "archived", {"credential": "gone"}, archived=True)
    made.add_item("Agents", "otp", {"one-time password": Field(OTPAUTH, type="OTP", section="Codes", id="TOTP_x")})
    made.add_item("Agents", "ssh", {"private key": Field(PEM, type="SSHKEY", id="private_key", openssh=OPENSSH)})
    pems = {"credential": PEM, "spaces": PEM.replace("\n", " \n"), "crlf": PEM.replace("\n", "\r\n")}
    files: dict[str, str | File] = {"key.pem": PEM, "other.pem": File("in a section", section="Files")}
    made.add_item("Agents", "pem", pems, files=files)
    made.install(tmp_path / "programs")
    yield made
    made.close()


@pytest.fixture
async def vault(world: OpWorld, tmp_path: Path) -> AsyncIterator[OpVault]:
    del world  # it has installed `op`
    config = VaultConfig(op=str(tmp_path / "programs/op"))
    made = OpVault(config, environ={}, home=tmp_path, runner=OpRunner(grace=0.2))
    yield made
    await made.close()


@pytest.fixture(params=["at once", "item by item"])
def way(request: pytest.FixtureRequest, world: OpWorld) -> str:
    """Have references read by `op inject`, or one item after the other because `op` has none."""
    if request.param == "item by item":
        world.fault("error", command="inject", text=NO_INJECT, times=None)
    return str(request.param)


def item(world: OpWorld, title: str) -> dict[str, object]:
    return next(dict(one) for one in world.store.look()["items"] if one["title"] == title)


async def read(vault: OpVault, *uris: str) -> list[object]:
    """Read all; secrets as their text, the rest as it is."""
    refs = [SecretRef(uri) for uri in uris]
    found = await vault.read(refs)
    return [value.reveal() if isinstance(value, Secret) else value for value in (found[ref] for ref in refs)]


READABLE = {
    "API Credential": ("api/credential", "api-secret"),
    "API Credential, a plain field": ("api/hostname", "id.example.com"),
    "Login": ("login/password", "pass word"),
    "Secure Note": ("note/notesPlain", "first line\nsecond"),
    "field on the top, although sections have one of the name": ("sections/token", "top"),
    "field of a section": ("sections/Live/token", "live one"),
    "field of the other section, in another case": ("sections/test/TOKEN", "test one"),
    "section of two with one label, by its id": ("sections/twin-b/key", "twin b"),
    "field of two with one label, by its id": ("sections/same-two", "same two"),
    "one-time password, as it is set up": ("otp/Codes/one-time password", OTPAUTH),
    "SSH key": ("ssh/private key", PEM),
    "SSH key as OpenSSH wants it": ("ssh/private key?ssh-format=openssh", OPENSSH),
    "PEM in a field": ("pem/credential", PEM),
    "PEM with spaces at the ends of its lines": ("pem/spaces", PEM.replace("\n", " \n")),
    "PEM in a file": ("pem/key.pem", PEM),
    "file in a section": ("pem/Files/other.pem", "in a section"),
    "file, its content asked for by name": ("pem/key.pem?attribute=content", PEM),
}


async def test_every_kind_of_item_is_read(vault: OpVault, way: str, world: OpWorld) -> None:
    """One unlock reads them all, in one call where `op` can, and with one prompt either way."""
    found = await read(vault, *(f"op://Agents/{path}" for path, _ in READABLE.values()))
    assert dict(zip(READABLE, found, strict=True)) == {claim: text for claim, (_, text) in READABLE.items()}
    assert world.prompts() == 1
    assert (len(world.calls()) == 1) is (way == "at once")
    assert world.leaks() == []


async def test_item_by_item_only_files_and_formats_are_read_alone(vault: OpVault, world: OpWorld) -> None:
    world.fault("error", command="inject", text=NO_INJECT, times=None)
    keys = ["op://Agents/pem/key.pem", "op://Agents/pem/credential", "op://Agents/ssh/private key?ssh-format=openssh"]
    await vault.read([SecretRef(uri) for uri in keys], fresh=True)
    get = ["--format", "json", "--cache=false"]
    assert [call.argv for call in world.calls()[1:]] == [
        ["item", "get", "pem", "--vault", "Agents", *get],
        ["read", "--no-newline", keys[0], "--cache=false"],
        ["item", "get", "ssh", "--vault", "Agents", *get],
        ["read", "--no-newline", keys[2], "--cache=false"],
    ]


@pytest.mark.usefixtures("way")
async def test_ids_stand_for_every_name(vault: OpVault, world: OpWorld) -> None:
    """So titles with characters that a reference cannot hold are read, as a title with a slash."""
    split = item(world, "split/title")
    place = split["vault"]
    assert isinstance(place, dict)
    by_title, by_id = await read(
        vault, "op://Agents/split/title/credential", f"op://{place['id']}/{split['id']}/credential"
    )
    assert by_id == "behind a slash"
    assert isinstance(by_title, SecretNotFound)


@pytest.mark.usefixtures("way")
async def test_archived_item_is_not_there_by_title_nor_by_id(vault: OpVault, world: OpWorld) -> None:
    uris = ["op://Agents/archived/credential", f"op://Agents/{item(world, 'archived')['id']}/credential"]
    found = await read(vault, *uris, "op://Agents/api/credential")
    assert [type(one) for one in found] == [SecretNotFound, SecretNotFound, str]
    assert "archived" in str(found[0])


@pytest.mark.usefixtures("way")
async def test_one_time_password_is_that_of_the_moment(vault: OpVault, world: OpWorld) -> None:
    world.set(clock_offset=31.0 - time.time())
    (code,) = await read(vault, "op://Agents/otp/one-time password?attribute=otp")
    assert code == "996554", "of the second half minute of 1970 (RFC 6238)"


async def test_one_time_password_that_an_items_json_lacks_is_read_alone(vault: OpVault, world: OpWorld) -> None:
    """One report says that the JSON holds the seed alone (contract 1.4)."""
    world.fault("error", command="inject", text=NO_INJECT, times=None)
    world.set(totp_in_json=False)
    (code,) = await read(vault, "op://Agents/otp/one-time password?attribute=otp")
    assert isinstance(code, str)
    assert len(code) == 6
    assert [call.argv[0] for call in world.calls()] == ["inject", "item", "read"]


async def test_two_fields_that_fit_are_an_error_item_by_item(vault: OpVault, world: OpWorld) -> None:
    """`op` itself takes one of them, nobody knows which; where we choose, we do not."""
    world.fault("error", command="inject", text=NO_INJECT, times=None)
    assert [type(one) for one in await read(vault, "op://Agents/sections/same", "op://Agents/sections/Twin/key")] == [
        SecretAmbiguous,
        SecretAmbiguous,
    ]


@pytest.mark.parametrize("path", ["pem/credential", "pem/spaces", "pem/crlf", "pem/key.pem", "ssh/private key"])
@pytest.mark.usefixtures("way")
async def test_private_key_still_loads(vault: OpVault, path: str) -> None:
    (text,) = await read(vault, f"op://Agents/{path}")
    assert isinstance(text, str)
    loaded = load_pem_private_key(text.encode(), None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    assert loaded.private_numbers() == PRIVATE_KEY.private_numbers()


@pytest.mark.usefixtures("way")
async def test_openssh_key_still_loads(vault: OpVault) -> None:
    (text,) = await read(vault, "op://Agents/ssh/private key?ssh-format=openssh")
    assert isinstance(text, str)
    loaded = load_ssh_private_key(text.encode(), None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    assert loaded.private_numbers() == PRIVATE_KEY.private_numbers()


async def test_control_characters_are_lost_in_whichever_way_it_is_read(vault: OpVault, world: OpWorld) -> None:
    """A limit of `op inject` (contract 1.6) that its output does not show; line ends of Windows become plain ones."""
    uri = "op://Agents/pem/crlf"
    assert await read(vault, uri) == [PEM]
    world.fault("error", command="inject", text=NO_INJECT)
    assert await read(vault, uri) == [PEM]


@pytest.mark.usefixtures("way")
async def test_file_that_is_not_text_is_unreadable_and_spoils_no_other(vault: OpVault, world: OpWorld) -> None:
    world.add_item("Agents", "binary", {"credential": "text"}, files={"key.p12": "\udcff\udcfe"})
    found = await read(vault, "op://Agents/binary/key.p12", "op://Agents/binary/credential")
    assert isinstance(found[0], SecretNotFound)
    assert found[1] == "text"
