"""Each preset as its user meets it: `broker init` asks, what it wrote works, and the doctor says what is broken.

Each product is played by the second issuer, and everything but its address is as `broker init --preset` wrote it. The
daemon is a process of its own; the commands run in this one, which saves most of the time.
"""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests.e2e.preset_cases import CASES, SECRET, USE, VAULT, pem
from tests.e2e.rig import Rig
from tests.e2e.standard import configuration
from tests.standins.second_issuer import Installation, SecondIssuer
from tokenbroker import cli
from tokenbroker.config.presets import PRESETS
from tokenbroker_client import cli as token_cli

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.preset_cases import Case, Fault
    from tests.e2e.rig import Background
    from tests.standins.second_issuer import Client


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """A user whose daemon runs for all of these tests, on a configuration that nobody needs."""
    with Rig() as made:
        made.op.person("approve", delay=0.0)
        made.configure(configuration("http://127.0.0.1:9"))
        with made.serve():
            yield made


class Person:
    """Types commands, in this process."""

    def __init__(self, rig: Rig, capfd: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self._capfd = capfd
        self._patch = patch
        self.config = str(rig.config)
        for name, value in rig.environ().items():
            patch.setenv(name, value)

    def broker(self, *arguments: str, stdin: str = "") -> tuple[int, str]:
        """Run `broker`; return its status and what it printed."""
        self._patch.setattr(sys, "stdin", io.StringIO(stdin))
        self._capfd.readouterr()
        code = cli.main(arguments)
        out, err = self._capfd.readouterr()
        return code, out + err

    def token(self, *arguments: str) -> str:
        """Run `broker-token`."""
        self._capfd.readouterr()
        code = token_cli.main(arguments)
        out, err = self._capfd.readouterr()
        assert (code, err) == (0, "")
        return out.removesuffix("\n")


@pytest.fixture
def person(rig: Rig, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Person:
    return Person(rig, capfd, monkeypatch)


def in_vault(rig: Rig, case: Case, client: Client, issuer: SecondIssuer) -> str:
    """Put what the client proves itself by into the vault; return the item's name."""
    item = f"item-{len(rig.op.store.look()['items'])}"
    fields, files = {"username": client.id, "credential": SECRET}, {}
    if client.keys or client.certificates:
        fields["private key"] = pem()
    if client.certificates:
        fields["certificate"] = client.certificates[0].public_bytes(Encoding.PEM).decode()
    if case.preset == "google":
        told = {"type": "service_account", "client_email": client.id, "private_key": pem(), "private_key_id": "k1"}
        files["key.json"] = json.dumps({**told, "token_uri": issuer.token_endpoint})
    if case.preset == "zitadel":
        told = {"type": "serviceaccount", "userId": client.id, "key": pem(), "keyId": "k1"}
        files["key.json"] = json.dumps(told)
    rig.op.add_item("Agents", item, fields, files=files)
    return item


def findings(text: str, word: str) -> list[str]:
    return [line[6:] for line in text.splitlines() if line.startswith(word.ljust(6))]


def wrote(person: Person, case: Case, issuer: SecondIssuer, item: str) -> str:
    """Answer the questions; return the file."""
    answers = {**case.target, **VAULT, "item": item, **case.credential, **USE}
    places = {"ISSUER": issuer.url, "ENDPOINT": issuer.token_endpoint}
    typed = "".join(f"{places.get(answer, answer)}\n" for answer in answers.values())
    code, said = person.broker("init", "--preset", case.preset, "--force", "--config", person.config, stdin=typed)
    assert code == 0, said
    path = Path(person.config)
    text = path.read_text()
    for line in case.written:
        assert line.replace("ITEM", item).replace("ENDPOINT", issuer.token_endpoint) in text.splitlines()
    if case.preset == "google":  # which has one address for all the world
        text = text.replace('preset = "google"', f'preset = "google"\ntoken_endpoint = "{issuer.token_endpoint}"')
        path.write_text(text)
    return text


def ids(case: Case) -> str:
    return f"{case.preset} by {case.target.get('method') or 'its usual way'}"


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_a_preset_from_the_first_question_to_its_faults(
    case: Case, rig: Rig, person: Person, beside: Background
) -> None:
    """What `broker init` wrote gives a token of the product's; broken, the doctor names cause and next step."""
    client = case.client()
    issuer = beside.enter(SecondIssuer.start(case.preset, [client]))
    issuer.installations[7] = Installation("Iv1.app")
    text = wrote(person, case, issuer, in_vault(rig, case, client, issuer))
    for implied in ("basic_encoding", "assertion_", "granted_scopes", "token_issuer"):
        assert implied not in text
    assert person.broker("reload")[0] == 0
    assert person.broker("unlock")[0] == 0

    code, said = person.broker("doctor", "--config", person.config)
    assert (code, findings(said, "FAULT")) == (0, [])
    (found,) = [
        line for line in findings(said, "ok") if line.startswith("client `main`, profile `main`: a token with ")
    ]
    assert found.endswith(case.checked)
    assert person.token("main", "--as", "autonomous") == issuer.minted[-1].token
    assert len(issuer.minted) == 1

    for number, fault in enumerate(case.faults):
        assert person.broker("revoke", "--all")[0] == 0
        afresh(person, number)
        registered = issuer.clients[client.id] = replace(client)
        issuer.installations[7] = Installation("Iv1.app")
        fault.breaks(issuer, registered)
        code, said = person.broker("doctor", "--config", person.config)
        assert code == 1
        explained(fault, said)
        issuer.quota = None


def afresh(person: Person, number: int) -> None:
    """Have the daemon take the issuer for another one: what it refused, or minted in vain, it is not asked for soon."""
    path = Path(person.config)
    lines = [line for line in path.read_text().splitlines() if not line.startswith("timeout = ")]
    lines.insert(lines.index("[issuers.main]") + 1, f'timeout = "{9 + number}s"')
    path.write_text("\n".join(lines) + "\n")
    assert person.broker("reload")[0] == 0


def explained(fault: Fault, said: str) -> None:
    """Check that this one fault is told, with the next step and without anything secret."""
    (found,) = findings(said, "FAULT")
    assert found.startswith("client `main`, profile `main`: ")
    assert fault.says in found
    lines = said.splitlines()
    assert fault.hint in lines[lines.index(f"FAULT {found}") + 1]
    for hidden in (SECRET, "PRIVATE KEY", "eyJ"):
        assert hidden not in said


def test_every_preset_is_met() -> None:
    assert {case.preset for case in CASES} == set(PRESETS)
