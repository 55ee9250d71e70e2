"""What can be wrong with the vault: each says what happened and the next step, and after that step all is well."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.rig import Rig
from tests.e2e.standard import configuration, fill_vault
from tokenbroker.vaults.op.program import USUAL_PLACES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.e2e.rig import Daemon
    from tokenbroker.dev.issuer import DevIssuer

APP = "turn on 1Password's Settings > Developer > Integrate with 1Password CLI"


def mended_by_unlock(rig: Rig) -> None:
    """The daemon lived on; `broker unlock` is the one step, and then both profiles are served."""
    assert rig.broker("unlock").code == 0
    assert rig.token("search").token
    assert rig.token("write").token


@pytest.mark.skipif(
    any(Path(folder, "op").exists() for folder in USUAL_PLACES), reason="this machine has an `op` of its own"
)
def test_op_is_not_installed(rig: Rig, daemon: Daemon) -> None:
    """Once it is, the same daemon finds it."""
    (rig.bin / "op").unlink()
    ran = rig.token("search")
    assert (ran.code, ran.message) == (1, "the 1Password command-line program `op` is not installed")
    assert ran.hint.startswith("install it as https://developer.1password.com/docs/cli/get-started says")
    rig.op.install(rig.bin)
    mended_by_unlock(rig)


@pytest.mark.parametrize(
    ("spoil", "code", "message", "hint"),
    [
        pytest.param(
            lambda rig: rig.op.app(running=False),
            1,
            "the 1Password app cannot be reached: it is not running, or is outdated",
            f"start the 1Password app, {APP}, then run `broker unlock`",
            id="app not running",
        ),
        pytest.param(
            lambda rig: rig.op.app(fault="locked-old-flow"),
            5,
            "the 1Password app is locked",
            "unlock the 1Password app, then run `broker unlock`",
            id="app locked",
        ),
        pytest.param(
            lambda rig: rig.op.app(fault="offline"),
            1,
            "1Password could not set up a session; the machine may be offline",
            "check the network connection, then run `broker unlock`",
            id="machine offline",
        ),
        pytest.param(
            lambda rig: rig.op.fault("garbage", times=None),
            1,
            "`op` answered with something that tokenbroker does not understand",
            "update `op`, check with `op --version`, then run `broker unlock`",
            id="op prints garbage",
        ),
        pytest.param(
            lambda rig: rig.op.fault("panic", times=None),
            1,
            "`op` crashed",
            "update `op`, check with `op --version`, then run `broker unlock`",
            id="op crashes",
        ),
    ],
)
def test_vault_cannot_be_read(
    rig: Rig, daemon: Daemon, *, spoil: Callable[[Rig], None], code: int, message: str, hint: str
) -> None:
    spoil(rig)
    ran = rig.token("search")
    assert (ran.code, ran.out, ran.message, ran.hint) == (code, "", message, hint)
    assert message in rig.broker("status").out
    rig.op.app(running=True, fault=None)
    rig.op.mend()
    mended_by_unlock(rig)


BROKEN = {
    "no-item": ("op://Agents/nothing/credential", "the vault has no such item, or it is archived"),
    "no-field": ("op://Agents/m2m/nothing", "the item has no such field"),
    "no-vault": ("op://Nowhere/m2m/credential", "there is no such vault, or this account may not see it"),
    "two-items": (
        "op://Agents/twice/credential",
        "more than one item matches; write the item's id instead of its name",
    ),
}
HINTS = {
    "no-item": 'see what there is with `op item list --vault "Agents"`',
    "no-field": 'see what there is with `op item get "m2m" --vault "Agents"`',
    "no-vault": "see what there is with `op vault list`",
    "two-items": 'see what there is with `op item list --vault "Agents"`',
}
TABLES = """\
[clients.{name}]
issuer = "main"
agent_type = "interactive"
owner = "owner@example.com"
client_id = "{name}"
client_secret = "{ref}"

[profiles.{name}]
clients = ["{name}"]
audience = "https://{name}.example"
"""


@pytest.fixture(scope="module")
def broken(issuer: DevIssuer) -> Iterator[Rig]:
    """A user four of whose references cannot be resolved."""
    with Rig() as rig:
        fill_vault(rig.op)
        for _ in range(2):
            rig.op.add_item("Agents", "twice", {"credential": "ambiguous"})
        tables = [TABLES.format(name=name, ref=ref) for name, (ref, _) in BROKEN.items()]
        rig.configure(configuration(issuer.url, *tables))
        with rig.serve():
            yield rig
        assert rig.op.prompts() == 1


@pytest.mark.parametrize("profile", BROKEN)
def test_reference_that_leads_nowhere_spoils_only_its_own_profile(broken: Rig, profile: str) -> None:
    """It is named, with the command that shows what there is; the others are served from the same prompt."""
    ran = broken.token(profile)
    ref, message = BROKEN[profile]
    assert (ran.code, ran.out, ran.message) == (1, "", f"{ref}: {message}")
    assert ran.hint == HINTS[profile]
    assert broken.token("search").token
    assert f"{ref}: {message}" in broken.broker("status").out
    unlocked = broken.broker("unlock")
    assert unlocked.code == 1
    assert f"not read: {ref}: {message}" in unlocked.out


@pytest.mark.skipif(sys.platform != "linux", reason="the stand-in's set-gid fault is Linux's")
def test_op_without_its_group_says_how_to_reinstall_it(rig: Rig, daemon: Daemon) -> None:
    rig.op.app(fault="wrong-gid")
    ran = rig.token("search")
    assert (ran.code, ran.hint.endswith("then run `broker unlock`")) == (1, True)
    assert "its CLI integration is off, or `op` is wrongly installed" in ran.message
