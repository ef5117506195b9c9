"""What happens at the same moment as the deletion of a workspace."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from celeriac.db import workspaces
from celeriac.db.workflows import runs
from celeriac.wiring.core import CoreServices
from celeriac.wiring.keeper import build_maintenance
from tests.support.api import AGENT, EXECUTE, TASK, Asker, assert_problem
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("F8")

TEAM = "/api/v1/workspaces/team"


@pytest.fixture
def team(admin: Asker) -> Asker:
    """The administrator, after making the workspace `team`."""
    assert admin.post("/api/v1/workspaces", json={"name": "team"}).status_code == 201
    return admin


@pytest.fixture
def boss(team: Asker, person: Callable[..., Asker]) -> Asker:
    """An admin of `team`, with a personal key that acts in it."""
    made = person("boss")
    joined = team.post(f"{TEAM}/members", json={"user": "boss", "role": "admin"})
    assert joined.status_code == 201
    return Asker(made.client, made.token, workspace="team")


def test_what_is_stored_during_the_deletion_is_cancelled_by_the_keeper(
    boss: Asker, team: Asker, container: CoreServices
) -> None:
    for path, body in (("/api/v1/agents", AGENT), ("/api/v1/tasks", TASK)):
        assert boss.post(path, json=body).status_code == 201
    flow = {"name": "f", "spec": {"steps": {"one": {"task": "summarise", "with": {"text": "a"}}}}}
    assert boss.post("/api/v1/workflows", json=flow).status_code == 201
    first = boss.post(EXECUTE, json={"variables": {"text": "a"}}).json()["execution_id"]
    run = UUID(boss.post("/api/v1/workflows/f/run", json={"input": {}}).json()["run_id"])
    assert team.delete(f"{TEAM}?cancel=true").status_code == 204
    # as if both requests had begun before the deletion and were committed after it
    with container.database.transaction() as connection:
        for statement, key in (
            ("UPDATE executions SET status = 'pending', {} WHERE id = %s", UUID(first)),
            ("UPDATE workflow_runs SET status = 'running', {} WHERE id = %s", run),
            ("UPDATE executions SET status = 'pending', {} WHERE run_id = %s", run),
        ):
            live = "completed_at = NULL, cancel_requested_at = NULL"
            changed = connection.exec_driver_sql(statement.format(live), (key,))
            assert changed.rowcount == 1
    (job,) = (
        each for each in build_maintenance(container) if each.name == "cancel_in_deleted_workspaces"
    )

    assert job.work() == 2
    assert job.work() == 0

    with container.database.autocommit() as connection:
        status = connection.execute(
            text("SELECT status, cancel_requested_by FROM executions WHERE id = :id"), {"id": first}
        ).one()
        asked = runs.uncancelled_in(connection, _workspace(container), limit=1, compensating=False)
    assert tuple(status) == ("cancelled", "deleted workspace")
    assert asked == []
    with container.database.autocommit() as connection:
        of_run = text("SELECT status FROM executions WHERE run_id = :id")
        assert connection.execute(of_run, {"id": run}).scalar_one() == "pending", "its run's affair"


def _workspace(container: CoreServices) -> UUID:
    with container.database.autocommit() as connection:
        found = connection.exec_driver_sql("SELECT id FROM workspaces WHERE name = 'team'")
        return UUID(str(found.scalar_one()))


@pytest.mark.parametrize("change", ["role", "removal"])
def test_a_change_of_a_member_waits_for_the_deletion_and_holds_nothing(
    boss: Asker, team: Asker, container: CoreServices, change: str
) -> None:
    """Both lock the workspace first: they can't wait for each other."""
    user = team.get(f"{TEAM}/members").json()["items"][0]["id"]
    path = f"{TEAM}/members/{user}"
    workspace_id = UUID(team.get(TEAM).json()["id"])

    def ask() -> Any:
        if change == "role":
            return team.patch(path, json={"role": "viewer"})
        return team.delete(f"{path}?without_admin=true")

    with ThreadPoolExecutor(1) as pool:
        with container.database.transaction() as connection:
            assert workspaces.lock(connection, workspace_id)
            asked = pool.submit(ask)
            wait_until(lambda: _waits(container), "the change waits for a lock")
            connection.exec_driver_sql("SET LOCAL lock_timeout = '2s'")
            workspaces.end(connection, workspace_id)
        assert_problem(asked.result(), 404, "not_found")


def _waits(container: CoreServices) -> bool:
    with container.database.autocommit() as connection:
        query = text(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return bool(connection.execute(query).scalar_one())
