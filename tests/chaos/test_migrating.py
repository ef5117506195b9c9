"""A migration of the next release is applied while workers of this one go on (ADR 28)."""

from pathlib import Path
from threading import Thread
from uuid import UUID

import pytest
from sqlalchemy import text

from celeriac.db import migrate
from celeriac.db.migrate import Phase
from celeriac.domain.executions.states import Status
from tests.support.fleet import Fleet
from tests.support.migrations import write_migrations
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("F1")

_RUNNING = 4


def test_executions_go_on_while_the_next_schema_is_made(fleet: Fleet, tmp_path: Path) -> None:
    fleet.beat()
    worker = fleet.worker(slots=_RUNNING + 4)
    hold, noop = fleet.task("talk"), fleet.task("noop")
    held = [
        fleet.submit(hold, diary=str(fleet.diary), gate=str(fleet.gate)) for _ in range(_RUNNING)
    ]
    wait_until(lambda: len(fleet.diary_lines()) == _RUNNING, "all run")
    through: list[UUID] = []
    url = fleet.container.database.engine.url.render_as_string(hide_password=False)
    migration = Thread(
        target=migrate.upgrade,
        args=(url,),
        kwargs={"phases": [Phase.PRE], "extra": [write_migrations(tmp_path)]},
    )
    migration.start()
    while migration.is_alive() or not through:
        through.append(fleet.submit(noop))
        fleet.wait_terminal(through)
    migration.join()
    with fleet.container.database.autocommit() as connection:
        found = migrate.schema(connection)
    assert not found.up_to_date, "it was applied"
    assert found.usable

    after = [fleet.submit(noop) for _ in range(8)]
    fleet.open_gate()
    ended = fleet.wait_terminal([*held, *through, *after])
    assert {(each.status, each.attempt) for each in ended} == {(Status.COMPLETED, 1)}
    assert worker.exit_code is None
    column = text("SELECT count(*) FROM executions WHERE later = 7")
    assert fleet.scalar(column) == len(ended)
