"""The messages of sessions: what is new is appended, and what is read is what was written."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from celeriac.db import retention, sessions
from celeriac.db.sessions import MessageChange
from celeriac.domain.errors import DatabaseUnavailableError, LeaseLostError
from celeriac.domain.executions.model import Claim, Completed, Lease
from celeriac.domain.sessions import Session
from celeriac.kit.json_types import JsonValue, dumps, storable
from celeriac.services.sessions import AttemptSession, SessionStore
from tests.support.core import Core
from tests.support.forgetful import ForgetfulDatabase

LOST = [(1, 0), (2, 0), (0, 1), (1, 1), (0, 2)]
"""How many answers get lost after the commit, and how many before it."""

Message = dict[str, JsonValue]


@pytest.fixture
def forgetful(core: Core) -> Iterator[ForgetfulDatabase]:
    """The core's database, which can lose answers."""
    database = ForgetfulDatabase(core.database)
    yield database
    database.settle()
    database.close()


def message(number: int, words: str = "words") -> Message:
    return {"number": number, "text": f"{words} {number}"}


def conversation(count: int, words: str = "words") -> list[Message]:
    return [message(number, words) for number in range(count)]


def writing(
    core: Core,
    claim: Claim,
    *,
    given: Session | None = None,
    forks: bool = False,
    store: SessionStore | None = None,
) -> AttemptSession:
    """Return what an attempt writes its session with."""
    store = store or SessionStore(core.database)
    return AttemptSession(store, claim.lease, runner="llm", given=given, forks=forks)


def save(session: AttemptSession, messages: Sequence[JsonValue], **values: Any) -> UUID:
    return asyncio.run(session.save(messages=messages, **values))


def loaded(core: Core, session_id: UUID) -> Session:
    with core.database.autocommit() as connection:
        found = sessions.load(connection, session_id)
    assert found is not None
    return found


def stored(core: Core, session_id: UUID) -> list[JsonValue]:
    return list(loaded(core, session_id).messages)


def versions(core: Core, session_id: UUID) -> list[tuple[int, str]]:
    """Return the numbers of the stored messages, with the transactions that wrote them."""
    query = text(
        "SELECT seq, CAST(xmin AS text) FROM session_messages WHERE session_id = :id ORDER BY seq"
    )
    with core.database.autocommit() as connection:
        return [tuple(row) for row in connection.execute(query, {"id": session_id})]


@pytest.fixture
def claim(core: Core) -> Claim:
    """An execution that runs."""
    return core.running()


def rescued(core: Core, claim: Claim) -> Claim:
    """Return the claim of the attempt after one whose worker was lost."""
    core.pass_time(3600)
    core.rescue()
    core.pass_time(3600)
    return core.claim_again(claim)


def test_each_save_appends_what_is_new(core: Core, claim: Claim) -> None:
    session = writing(core, claim)
    written: list[tuple[int, str]] = []
    for count in (1, 3, 3, 7):
        session_id = save(session, conversation(count), state={"count": count})
        found = versions(core, session_id)
        assert found[: len(written)] == written, "what was stored is not written again"
        assert [seq for seq, _ in found] == list(range(1, count + 1))
        assert stored(core, session_id) == conversation(count)
        assert loaded(core, session_id).state == {"count": count}
        written = found


def test_what_is_read_is_what_was_written(core: Core, claim: Claim) -> None:
    odd: JsonValue = {"z": 1.0, "a": [None, True, "ä\u2028"], "n": 2**62, "e": 1e-7, "": {"b": {}}}
    session_id = save(writing(core, claim), [odd, "text", 5, None])
    assert dumps(stored(core, session_id)) == dumps([odd, "text", 5, None])


def test_the_next_attempt_appends_to_what_it_has_read(core: Core, claim: Claim) -> None:
    session_id = save(writing(core, claim), conversation(4))
    before = versions(core, session_id)
    again = rescued(core, claim)
    given = loaded(core, session_id)
    save(writing(core, again, given=given), [*given.messages, message(4)])
    assert versions(core, session_id)[:4] == before
    assert stored(core, session_id) == conversation(5)


def test_a_history_that_is_rewritten_is_stored_as_it_is(core: Core, claim: Claim) -> None:
    session = writing(core, claim)
    session_id = save(session, conversation(6))
    before = versions(core, session_id)
    compacted = [message(0), message(9, "a summary of"), message(5)]
    save(session, compacted)
    assert stored(core, session_id) == compacted
    assert versions(core, session_id)[:1] == before[:1]
    assert core.count("session_messages") == 3
    save(session, [*compacted, message(6)])
    assert stored(core, session_id) == [*compacted, message(6)]
    save(session, [])
    assert stored(core, session_id) == []
    assert core.count("session_messages") == 0


def test_a_save_without_messages_keeps_them(core: Core, claim: Claim) -> None:
    session = writing(core, claim)
    session_id = save(session, conversation(2))
    asyncio.run(session.save(state={"n": 1}, external_id="x"))
    found = loaded(core, session_id)
    assert (list(found.messages), found.state, found.external_id) == (
        conversation(2), {"n": 1}, "x",
    )  # fmt: skip


@pytest.mark.requirement("F2")
@pytest.mark.parametrize(("losses", "late"), LOST)
def test_a_save_that_is_sent_again_is_stored_once(
    core: Core, claim: Claim, forgetful: ForgetfulDatabase, losses: int, late: int
) -> None:
    session = writing(core, claim, store=SessionStore(forgetful))
    session_id = save(session, conversation(2))
    for messages in (conversation(5), conversation(3), [*conversation(3), message(7)]):
        forgetful.losses, forgetful.late = losses, late
        save(session, messages)
        forgetful.settle()
        assert stored(core, session_id) == messages
    core.assert_consistent()


class UnreliableStore(SessionStore):
    """Fails at random, before or after the save is stored; some saves are stored much later."""

    def __init__(self, core: Core, chance: random.Random) -> None:
        super().__init__(core.database)
        self._chance = chance
        self.overtaken: list[Any] = []

    async def save(self, lease: Lease, session_id: UUID, **values: Any) -> None:
        fate = self._chance.choice(["stored", "stored", "unanswered", "lost", "late"])
        if fate == "late":
            self.overtaken.append(lambda: super(UnreliableStore, self).save(
                lease, session_id, **values
            ))  # fmt: skip
        elif fate != "lost":
            await super().save(lease, session_id, **values)
        if fate != "stored":
            raise DatabaseUnavailableError("the answer got lost")


@pytest.mark.parametrize("seed", range(8))
def test_whatever_became_of_earlier_saves_the_last_one_is_what_is_stored(
    core: Core, claim: Claim, seed: int
) -> None:
    chance = random.Random(seed)
    store = UnreliableStore(core, chance)
    session = writing(core, claim, store=store)
    session_id = asyncio.run(session.save())
    history: list[Message] = []
    past = [history]
    for number in range(40):
        if chance.random() < 0.3:
            history = history[: chance.randrange(len(history) + 1)]
        elif chance.random() < 0.3:
            history = chance.choice(past)
        history = [*history, *(message(number, f"part {n}") for n in range(chance.randrange(3)))]
        past.append(history)
        try:
            save(session, history)
        except DatabaseUnavailableError:
            continue
        assert stored(core, session_id) == history
        while store.overtaken:
            asyncio.run(store.overtaken.pop()())
        assert stored(core, session_id) == history, "an overtaken save changed it"


def test_a_worker_that_lost_its_lease_saves_nothing(core: Core, claim: Claim) -> None:
    lost = writing(core, claim)
    session_id = save(lost, conversation(2))
    again = rescued(core, claim)
    with pytest.raises(LeaseLostError):
        save(lost, conversation(5))
    assert stored(core, session_id) == conversation(2)
    save(writing(core, again, given=loaded(core, session_id)), conversation(3))
    assert stored(core, session_id) == conversation(3)


def test_a_fork_keeps_what_it_was_made_of(core: Core, claim: Claim) -> None:
    parent = writing(core, claim)
    parent_id = save(parent, conversation(3))
    forking = core.running()
    fork = writing(core, forking, given=loaded(core, parent_id), forks=True)
    fork_id = save(fork, [*conversation(3), message(3, "fork")])
    assert fork_id != parent_id
    assert loaded(core, fork_id).parent_id == parent_id
    save(parent, [message(0, "rewritten")])
    assert stored(core, fork_id) == [*conversation(3), message(3, "fork")]
    save(fork, [*conversation(3), message(3, "fork"), message(4, "fork")])
    assert stored(core, parent_id) == [message(0, "rewritten")]
    core.finish(claim, Completed(1), (), None)
    delete(core, parent_id)
    assert stored(core, parent_id) == []
    assert len(stored(core, fork_id)) == 5
    core.assert_consistent()


def delete(core: Core, session_id: UUID) -> None:
    with core.database.transaction() as connection:
        sessions.delete(connection, session_id)


def test_retention_deletes_the_messages_with_their_sessions(core: Core, claim: Claim) -> None:
    kept = core.running()
    session_id, kept_id = (save(writing(core, each), conversation(2)) for each in (claim, kept))
    core.finish(claim, Completed(1), (), None)
    with core.database.transaction() as connection:
        gone = retention.mark_idle_sessions_deleted(connection, days=0, limit=10)
    assert gone == [session_id]
    with core.database.autocommit() as connection:
        left = [retention.delete_conversations(connection, gone, limit=1) for _ in range(3)]
    assert left == [1, 1, 0], "a bounded number in each statement"
    assert versions(core, session_id) == []
    assert stored(core, kept_id) == conversation(2)
    core.assert_consistent()


def test_lists_and_single_sessions_come_without_messages(core: Core, claim: Claim) -> None:
    session_id = save(writing(core, claim), conversation(2))
    with core.database.autocommit() as connection:
        found = sessions.get(connection, session_id, workspace=None)
    assert found is not None
    assert found.messages == ()


def test_a_message_that_json_cannot_hold_stores_nothing(core: Core, claim: Claim) -> None:
    session = writing(core, claim)
    session_id = save(session, conversation(1))
    with pytest.raises(TypeError):
        save(session, [message(0), uuid4(), float("nan")])
    save(session, conversation(2))
    assert stored(core, session_id) == conversation(2)


def test_saves_are_numbered_over_attempts(core: Core, claim: Claim) -> None:
    session_id = save(writing(core, claim), conversation(1))
    again = rescued(core, claim)
    save(writing(core, again, given=loaded(core, session_id)), conversation(2))
    assert loaded(core, session_id).save_no == 2
    change = MessageChange(0, [storable(message(9))])
    with core.database.autocommit() as connection:
        assert sessions.save(
            connection, again.lease, session_id, number=1, messages=change,
            status=loaded(core, session_id).status,
        ), "the lease is held"  # fmt: skip
    assert stored(core, session_id) == conversation(2)
