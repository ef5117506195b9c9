"""The SQL that docs/operations.md gives to operators does what the page says."""

import re
from pathlib import Path

from sqlalchemy import text

from celeriac.domain.executions.model import SubmitRequest
from celeriac.wiring.core import CoreServices
from tests.support.catalog import make_actor, make_task

_PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
_WAITING, _SIZES = re.findall(r"```sql\n(SELECT.*?);\n```", _PAGE, re.DOTALL)


def test_what_waits_is_counted_by_queue(container: CoreServices) -> None:
    for delay in (0.0, 0.0, 600.0):
        _submit(container, delay)
    with container.database.autocommit() as connection:
        rows = connection.execute(text(_WAITING)).all()
    assert [tuple(row) for row in rows] == [("task_execution", 2, 3)]


def test_sizes_of_partitions_are_listed(container: CoreServices) -> None:
    with container.database.autocommit() as connection:
        rows = connection.execute(text(_SIZES)).all()
    assert len(rows) >= 2  # this week's and the next one's
    assert all(row[0].startswith("executions_") for row in rows)


def _submit(container: CoreServices, delay_seconds: float) -> None:
    actor = make_actor(container.database)
    request = SubmitRequest(
        task_id=make_task(container.database, actor), delay_seconds=delay_seconds
    )
    container.submit(actor, request)
