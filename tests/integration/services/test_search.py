"""Searches for a text: what is found, windows that continue, and literal characters."""

import time
from typing import Any
from uuid import UUID

import pytest

from celeriac.db.executions import search as rows
from celeriac.domain.errors import CursorInvalidError
from celeriac.domain.executions.model import Completed, ExecutionFilter, SubmitRequest
from celeriac.domain.executions.states import Status
from celeriac.services.executions.search import Search
from tests.support.catalog import make_actor
from tests.support.core import Core

pytestmark = pytest.mark.requirement("F19")


def _submit(core: Core, **variables: Any) -> UUID:
    request = SubmitRequest(task_id=core.task, labels={"customer": "Acme"}, variables=variables)
    return core.submit(core.actor, request).execution_id


def _found(core: Core, text: str, *, seconds: float = 60.0, **wanted: Any) -> list[UUID]:
    """Return what all windows find; each gets further."""
    search = Search(core.database, seconds=seconds)
    found: list[UUID] = []
    cursor, looked = None, 0
    while True:
        window = search.window(core.actor, ExecutionFilter(**wanted), text, cursor=cursor, limit=2)
        found += [each.id for each in window.items]
        looked += window.looked_at
        cursor = window.next_cursor
        if cursor is None:
            assert looked == core.count("executions") or wanted
            return found
        assert window.looked_at
        assert window.searched_back_to is not None


def test_a_text_is_found_in_all_that_people_see(core: Core) -> None:
    done = _submit(core, note='Grüße an 100% "Anna_B"\nund Co')
    claim = core.claim(core.message(done))
    assert claim is not None
    core.end(claim, Completed({"answer": "Order A-1734 was sent"}))
    waits = _submit(core, note="100 Anna-B")
    assert _found(core, "order a-1734") == [done]
    assert _found(core, "GRÜSSE".replace("SS", "ß")) == [done]
    assert _found(core, '"anna_b"\nUND') == [done]
    assert _found(core, "100%") == [done]
    assert _found(core, "a_b") == [done]
    assert _found(core, "anna") == [waits, done]
    assert _found(core, "anna", statuses=(Status.COMPLETED,)) == [done]
    assert _found(core, "acme") == [waits, done]
    assert _found(core, core.get(done).task_name) == [waits, done]
    assert _found(core, "nowhere") == []
    other = Search(core.database).window(
        make_actor(core.database), ExecutionFilter(), "anna", cursor=None, limit=2
    )
    assert (other.items, other.looked_at, other.searched_back_to) == ((), 0, None)
    with pytest.raises(CursorInvalidError):
        Search(core.database).window(core.actor, ExecutionFilter(), "anna", cursor="x", limit=2)


@pytest.mark.parametrize("bound", ["rows", "stored bytes", "bytes", "time"])
def test_windows_continue_where_the_one_before_has_ended(
    core: Core, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    ids = [_submit(core, number=f"item-{number}") for number in range(7)]
    monkeypatch.setattr(rows, "ROWS", 2 if bound in {"rows", "time"} else 200)
    if bound == "stored bytes":
        monkeypatch.setattr(rows, "_MAX_STORED_BYTES", 1)
    if bound == "bytes":
        monkeypatch.setattr(rows, "_MAX_BYTES", 1)
    seconds = 0.0 if bound == "time" else 60.0
    assert _found(core, "item-", seconds=seconds) == ids[::-1]
    assert _found(core, "item-0", seconds=seconds) == [ids[0]]


@pytest.mark.parametrize("words", ["é" * 199 + "z", "z" + "é" * 199, "zzzz"])
def test_repetitions_cost_no_more_than_other_texts(core: Core, words: str) -> None:
    """They are stored in a hundredth; and each place of them begins as the text does."""
    for _ in range(8):
        _submit(core, note="é" * 1_000_000)
    search = Search(core.database)
    began = time.monotonic()

    window = search.window(core.actor, ExecutionFilter(), words, cursor=None, limit=2)

    assert time.monotonic() - began < 1.0, "it took 3 s"
    assert 1 <= window.looked_at < 8
    assert window.next_cursor
