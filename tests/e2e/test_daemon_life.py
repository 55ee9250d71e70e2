"""The daemon ends, crashes and comes back: requests in flight are answered, and clients go on."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from tests.e2e.rig import BIN, Background, Rig, finished, wait_until
from tokenbroker.dev.issuer import DevIssuer, Fault
from tokenbroker_client.client import Client
from tokenbroker_client.errors import NoBroker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.rig import Daemon


@pytest.fixture
def held(issuer: DevIssuer, beside: Background) -> Iterator[asyncio.Event]:
    """Make the issuer wait before it answers, until the event is set."""
    event = asyncio.Event()
    issuer.fault = Fault(hold=event)
    yield event
    issuer.fault = Fault()
    beside.call(event.set)


def test_request_in_flight_is_answered_when_the_daemon_is_told_to_end(
    rig: Rig, issuer: DevIssuer, beside: Background, held: asyncio.Event
) -> None:
    """After SIGTERM nobody new is let in, who was asking gets the token, then the daemon exits with 0."""
    with rig.serve() as daemon:
        before = issuer.requests
        asking = rig.start(BIN / "broker-token", "search")
        wait_until(lambda: issuer.requests > before)
        daemon.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "Stopping" in daemon.log)
        assert rig.token("search").code in {3, 75}
        beside.call(held.set)
        assert finished(asking).token
        assert daemon.process.wait(10) == 0


def test_request_that_takes_too_long_does_not_keep_the_daemon_from_ending(rig: Rig) -> None:
    """A prompt that nobody answers is given up after the drain of five seconds, and `op` with it."""
    rig.op.person("hang")
    with rig.serve() as daemon:
        asking = rig.start(BIN / "broker-token", "search")
        rig.op.wait_until(lambda op: op.dialog_open())
        assert daemon.stop() == 0
    ran = finished(asking)
    assert (ran.code, ran.out) == (75, ""), ran.err
    assert ran.hint == "run the command again"
    assert [call.outcome for call in rig.op.calls()] == ["killed"]


def test_clients_go_on_after_a_restart(rig: Rig) -> None:
    """In between exit 3; afterwards the same client object is served by the new daemon, which knows no old token."""
    client = Client(str(rig.socket))
    with rig.serve():
        first = client.token("search").access_token
    ran = rig.token("search")
    assert (ran.code, ran.message) == (3, f"no broker is listening on {rig.socket}")
    with pytest.raises(NoBroker):
        client.token("search")
    with rig.serve():
        second = client.token("search").access_token
        assert second not in {"", first}
        assert rig.token("search").token == second


def test_daemon_that_was_killed_leaves_nothing_in_the_way(rig: Rig, daemon: Daemon) -> None:
    """Its socket is a dead file: clients say so, the next daemon replaces it."""
    assert rig.token("search").token
    daemon.kill()
    assert rig.socket.exists()
    assert rig.token("search").code == 3
    with rig.serve():
        assert rig.token("search").token


def test_ten_reloads_and_locks_in_the_middle_of_requests_lose_nothing(rig: Rig, daemon: Daemon) -> None:
    """Whoever asks meanwhile gets a token, or is told that the vault was locked; never anything else."""
    askers = [rig.start(BIN / "broker-token", profile) for _ in range(5) for profile in ("search", "write")]
    for _ in range(10):
        daemon.hang_up()
        rig.ask("POST", "/v1/lock", b"{}", admin=True)
    for ran in map(finished, askers):
        assert ran.code == 0 or "the vault was locked meanwhile" in ran.message
    assert rig.token("search").token
    assert rig.status()["config_error"] is None


def test_reload_costs_nobody_who_is_waiting_an_answer(
    rig: Rig, issuer: DevIssuer, beside: Background, held: asyncio.Event
) -> None:
    """The request that the issuer has not answered yet goes on over the connection that it began with."""
    with rig.serve() as daemon:
        before = issuer.requests
        asking = rig.start(BIN / "broker-token", "search")
        wait_until(lambda: issuer.requests > before)
        assert rig.run(BIN / "broker", "reload").code == 0
        assert rig.run(BIN / "broker", "reload").code == 0
        beside.call(held.set)
        assert finished(asking).token
        assert issuer.requests == before + 1
        assert daemon.stop() == 0
