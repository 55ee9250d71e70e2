"""Who is using what."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.fakes_clock import FakeClock
from tests.fakes_peers import FakePeerInspector, interactive_peer
from tokenbroker import sessions as sessions_module
from tokenbroker.errors import Revoked
from tokenbroker.model import AgentType, Peer, Secret, Token, TokenKey, Validity
from tokenbroker.sessions import Sessions

KEY = TokenKey("search", "mine", ("read",), audience="https://search")
PERSON = AgentType.INTERACTIVE


class Table:
    """Sessions with their surroundings at hand."""

    def __init__(self) -> None:
        self.inspector = FakePeerInspector()
        self.clock = FakeClock()
        self.sessions = Sessions(self.inspector)

    def token(self, text: str = "t", lifetime: float = 3600) -> Token:
        return Token(Secret(text), Validity(self.clock.now(), lifetime), ("read",))

    def serve(self, peer: Peer, token: Token) -> str:
        session = self.sessions.of(peer, PERSON, self.clock.now())
        self.sessions.served(session, KEY, token)
        return session.id

    def ids(self) -> list[str]:
        return [session.id for session in self.sessions.list(self.clock.now())]


@pytest.fixture
def table() -> Table:
    return Table()


def test_calls_of_one_program_are_one_session(table: Table) -> None:
    """Each `broker-token` is a process of its own; they are booked under the program that called them."""
    first, second = interactive_peer(), replace(interactive_peer(pid=5000), root_pid=4121)
    token = table.token()
    assert table.serve(first, token) == table.serve(second, token)
    [session] = table.sessions.list(table.clock.now())
    assert session.holdings[KEY].served == 2


def test_a_reused_pid_is_another_session(table: Table) -> None:
    token = table.token()
    peer = interactive_peer()
    again = replace(peer, start_time=200.0, root_start_time=200.0)
    assert table.serve(peer, token) != table.serve(again, token)


def test_a_renewed_token_is_counted_anew(table: Table) -> None:
    peer = interactive_peer()
    table.serve(peer, table.token("old"))
    table.serve(peer, table.token("old"))
    table.serve(peer, table.token("new"))
    [session] = table.sessions.list(table.clock.now())
    assert session.holdings[KEY].served == 1
    assert session.holdings[KEY].fingerprint == Secret("new").fingerprint()


async def test_an_ended_program_is_listed_while_its_token_lives(table: Table) -> None:
    """A token that a command printed is still in somebody's hands."""
    session_id = table.serve(interactive_peer(), table.token(lifetime=60))
    table.inspector.end(4121)
    [session] = table.sessions.list(table.clock.now())
    assert session.ended_at is not None
    await table.clock.advance(61)
    assert session_id not in table.ids()


async def test_a_running_program_stays_listed_without_a_token(table: Table) -> None:
    session_id = table.serve(interactive_peer(), table.token(lifetime=60))
    await table.clock.advance(61)
    assert [session_id] == table.ids()


def test_a_process_of_which_nothing_is_known_does_not_stay_for_ever(table: Table) -> None:
    table.sessions.of(Peer(uid=1000), PERSON, table.clock.now())
    assert table.ids() == []


def test_a_revoked_session_is_refused_and_others_are_not(table: Table) -> None:
    table.serve(interactive_peer(), table.token())
    session = table.sessions.find(table.ids()[0])
    assert session is not None
    table.sessions.revoke(session)
    with pytest.raises(Revoked):
        table.sessions.of(interactive_peer(), PERSON, table.clock.now())
    table.sessions.of(interactive_peer(pid=7), PERSON, table.clock.now())


def test_the_table_does_not_grow_without_end(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest makes room, but not one that a person revoked: it would be served again."""
    monkeypatch.setattr(sessions_module, "MAX_SESSIONS", 3)
    table.serve(interactive_peer(pid=1), table.token())
    revoked = table.sessions.find(table.ids()[0])
    assert revoked is not None
    table.sessions.revoke(revoked)
    for pid in range(2, 50):
        table.inspector.start(pid, 100.0)
        table.serve(interactive_peer(pid=pid), table.token())
    assert len(table.sessions) == 3
    with pytest.raises(Revoked):
        table.sessions.of(interactive_peer(pid=1), PERSON, table.clock.now())


def test_a_session_holds_no_token(table: Table) -> None:
    """Neither in its text nor in anything that can be reached from it."""
    table.serve(interactive_peer(), table.token("the token itself"))
    [session] = table.sessions.list(table.clock.now())
    assert "the token itself" not in repr(session)
    reached = [session, *session.holdings.values()]
    assert not any(isinstance(value, Secret) for one in reached for value in _fields(one))


def _fields(one: object) -> list[object]:
    return [getattr(one, name) for name in one.__dataclass_fields__]  # type: ignore[attr-defined]  # both are dataclasses
