"""The SQL that docs/operations.md gives to operators does what the page says."""

import re
from pathlib import Path
from uuid import UUID

from sqlalchemy import text

from celeriac.domain.outcome import Completed
from celeriac.services.submit import Request
from celeriac.wiring import Container
from tests.support.catalog import make_actor, make_task
from tests.support.consistency import assert_consistent
from tests.support.working import claim, finish

_PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
_WAITING, _DELETE = re.findall(r"```sql\n(.*?);\n```", _PAGE, re.DOTALL)


def test_what_waits_is_counted_by_queue(container: Container) -> None:
    _submit(container)
    _submit(container)
    _submit(container, delay_seconds=600)
    with container.database.statement() as connection:
        rows = connection.execute(text(_WAITING)).all()
    assert [tuple(row) for row in rows] == [("task_execution", 2, 3)]


def test_old_executions_go_with_all_that_is_theirs(container: Container) -> None:
    old, young, waiting = (_submit(container) for _ in range(3))
    for execution_id in (old, young):
        finish(container, claim(container, execution_id), Completed(None))
    with container.database.transaction() as connection:
        age = text("UPDATE executions SET completed_at = now() - interval '91 days' WHERE id = :id")
        connection.execute(age, {"id": old})
        connection.execute(text(_DELETE))
        left = connection.execute(text("SELECT id FROM executions")).scalars().all()
        told = connection.execute(text("SELECT DISTINCT execution_id FROM events")).scalars().all()
    assert set(left) == set(told) == {young, waiting}
    assert_consistent(container.database)


def _submit(container: Container, delay_seconds: float = 0.0) -> UUID:
    actor = make_actor(container.database)
    request = Request(task_id=make_task(container.database, actor), delay_seconds=delay_seconds)
    return container.submit.one(actor, request).execution_id
