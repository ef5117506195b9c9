"""Agents and tasks are deleted: their names are free, what they did stays."""

from collections.abc import Callable
from threading import Thread
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from celeriac.api.app import create_app
from celeriac.domain.accounts import Role
from celeriac.domain.executions.model import Completed
from celeriac.wiring.core import CoreServices
from tests.support.api import AGENT, EXECUTE, TASK, Asker, assert_problem
from tests.support.waiting import wait_until
from tests.support.working import claim, finish

AGENT_PATH = "/api/v1/agents/writer"
TASK_PATH = "/api/v1/tasks/summarise"
RUN: dict[str, Any] = {"variables": {"text": "a"}}


def run_to_its_end(asker: Asker, container: CoreServices) -> str:
    """Run `summarise` and return the execution's id."""
    execution_id = str(asker.post(EXECUTE, json=RUN).json()["execution_id"])
    finish(container, claim(container, UUID(execution_id)), Completed({"summary": "1"}))
    return execution_id


def test_a_deleted_task_frees_its_name_and_keeps_its_history(
    ada: Asker, admin: Asker, container: CoreServices
) -> None:
    task_id = ada.get(TASK_PATH).json()["id"]
    ended = run_to_its_end(ada, container)
    budget = ada.post("/api/v1/budgets", json={"task": "summarise", "period": "day",
                                               "max_tokens": 9}).json()  # fmt: skip
    assert ada.delete(TASK_PATH).status_code == 204
    assert_problem(ada.get(TASK_PATH), 404, "not_found")
    assert_problem(ada.get(f"/api/v1/tasks/{task_id}"), 404, "not_found")
    assert_problem(ada.patch(TASK_PATH, json={"active": True}), 404, "not_found")
    assert_problem(ada.delete(TASK_PATH), 404, "not_found")
    assert ada.get("/api/v1/tasks").json()["items"] == []
    assert ada.get("/api/v1/budgets").json()["items"] == []
    assert_problem(ada.post(EXECUTE, json=RUN), 404, "not_found")
    assert_problem(ada.post(f"/api/v1/tasks/{task_id}/execute", json=RUN), 404, "not_found")

    execution = ada.get(f"/api/v1/task-executions/{ended}").json()
    assert (execution["status"], execution["task_name"]) == ("completed", "summarise")
    listed = ada.get(f"/api/v1/task-executions?task={task_id}").json()["items"]
    assert [each["id"] for each in listed] == [ended]
    assert ada.get(f"/api/v1/task-executions/{ended}/report").status_code == 200
    body = assert_problem(ada.post(f"/api/v1/task-executions/{ended}/retry"), 409, "conflict")
    assert "summarise" in body["detail"]

    assert ada.post("/api/v1/tasks", json=TASK).status_code == 201
    assert ada.get(TASK_PATH).json()["id"] != task_id
    assert ada.get("/api/v1/task-executions?task=summarise").json()["items"] == []
    assert ada.post(EXECUTE, json=RUN).json()["task_id"] == ada.get(TASK_PATH).json()["id"]
    trail = admin.get(f"/api/v1/audit-logs?resource_id={task_id}").json()["items"]
    assert [each["action"] for each in trail] == ["task.delete", "task.create"]
    assert trail[0]["details"] == {"name": "summarise"}
    trail = admin.get(f"/api/v1/audit-logs?resource_id={budget['id']}").json()["items"]
    assert [each["action"] for each in trail] == ["budget.delete", "budget.set"]


def test_a_name_that_another_process_knows_is_looked_up_again(
    ada: Asker, container: CoreServices
) -> None:
    with TestClient(create_app(container)) as other_process:
        other = Asker(other_process, ada.token)
        assert other.post(EXECUTE, json=RUN).status_code == 202
        ada.delete(f"{TASK_PATH}?cancel=true")
        assert_problem(other.post(EXECUTE, json=RUN), 404, "not_found")
        assert_problem(other.get("/api/v1/task-executions?task=summarise"), 404, "not_found")
        again = ada.post("/api/v1/tasks", json=TASK).json()
    with TestClient(create_app(container)) as other_process:
        other = Asker(other_process, ada.token)
        other.post(EXECUTE, json=RUN)
        ada.delete(f"{TASK_PATH}?cancel=true")
        third = ada.post("/api/v1/tasks", json=TASK).json()
        assert third["id"] != again["id"]
        assert other.post(EXECUTE, json=RUN).json()["task_id"] == third["id"]
        batch = other.post("/api/v1/tasks/summarise/execute-batch", json={"items": [{"text": "b"}]})
        assert batch.json()["task_id"] == third["id"]
        budget = {"task": "summarise", "period": "day", "max_tokens": 9}
        assert other.post("/api/v1/budgets", json=budget).json()["subject_id"] == third["id"]


def test_a_task_with_work_that_has_not_ended_is_kept_unless_it_is_cancelled(
    ada: Asker, container: CoreServices
) -> None:
    waiting = ada.post(EXECUTE, json={**RUN, "delay_seconds": 60}).json()["execution_id"]
    running = ada.post(EXECUTE, json=RUN).json()["execution_id"]
    claimed = claim(container, UUID(running))
    body = assert_problem(ada.delete(TASK_PATH), 409, "conflict")
    assert "cancel=true" in body["detail"]
    assert ada.get(TASK_PATH).json()["active"] is True
    assert ada.delete(f"{TASK_PATH}?cancel=true").status_code == 204
    assert ada.get(f"/api/v1/task-executions/{waiting}").json()["status"] == "cancelled"
    held = ada.get(f"/api/v1/task-executions/{running}").json()
    assert (held["status"], held["cancel_requested_by"]) == ("running", "ada")
    finish(container, claimed, Completed({"summary": "1"}))
    assert ada.get(f"/api/v1/task-executions/{running}").json()["status"] == "completed"


def test_an_agent_that_a_task_uses_is_kept(
    ada: Asker, admin: Asker, container: CoreServices
) -> None:
    agent_id = ada.get(AGENT_PATH).json()["id"]
    body = assert_problem(ada.delete(AGENT_PATH), 409, "conflict")
    assert "summarise" in body["detail"]
    assert body["details"]["tasks"] == ["summarise"]
    ended = run_to_its_end(ada, container)
    ada.delete(TASK_PATH)
    assert ada.delete(AGENT_PATH).status_code == 204
    assert_problem(ada.get(AGENT_PATH), 404, "not_found")
    assert_problem(ada.get(f"/api/v1/agents/{agent_id}"), 404, "not_found")
    assert ada.get("/api/v1/agents").json()["items"] == []
    assert_problem(ada.post("/api/v1/tasks", json={**TASK, "agent": agent_id}), 404, "not_found")
    assert ada.get(f"/api/v1/task-executions/{ended}").json()["status"] == "completed"
    assert ada.post("/api/v1/agents", json=AGENT).status_code == 201
    trail = admin.get(f"/api/v1/audit-logs?resource_id={agent_id}").json()["items"]
    assert [each["action"] for each in trail] == ["agent.delete", "agent.create"]


def test_who_may_delete(ada: Asker, admin: Asker, person: Callable[..., Asker]) -> None:
    viewer, other = person("vera", Role.VIEWER), person("olaf")
    task_id = ada.get(TASK_PATH).json()["id"]
    assert_problem(viewer.delete(TASK_PATH), 403, "forbidden")
    for stranger in (other, admin):
        assert_problem(stranger.delete(f"/api/v1/tasks/{task_id}"), 404, "not_found")
    assert_problem(other.delete(f"/api/v1/agents/{ada.get(AGENT_PATH).json()['id']}"), 404,
                   "not_found")  # fmt: skip
    assert ada.delete(f"/api/v1/tasks/{task_id}").status_code == 204
    assert_problem(ada.post(EXECUTE, json=RUN), 404, "not_found")


def test_a_task_that_is_being_made_keeps_its_agent(ada: Asker, container: CoreServices) -> None:
    """Whoever comes second waits, and then sees what the first one did."""
    ada.delete(TASK_PATH)
    answers: list[int] = []

    def waits() -> bool:
        with container.database.autocommit() as connection:
            query = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            return bool(connection.execute(text(query)).scalar_one())

    with container.database.transaction() as connection:
        agent_id = connection.execute(text("SELECT id FROM agents FOR UPDATE")).scalar_one()
        making = Thread(
            target=lambda: answers.append(ada.post("/api/v1/tasks", json=TASK).status_code)
        )
        making.start()
        wait_until(waits, "the new task waits for its agent")
        connection.execute(
            text("UPDATE agents SET deleted_at = now() WHERE id = :id"), {"id": agent_id}
        )
    making.join()
    assert answers == [404]


def test_executions_of_a_deleted_task_still_run(ada: Asker, container: CoreServices) -> None:
    """One that was submitted in the same moment is no orphan."""
    accepted = ada.post(EXECUTE, json=RUN).json()["execution_id"]
    with container.database.transaction() as connection:
        connection.execute(text("UPDATE tasks SET deleted_at = now(), active = false"))
    finish(container, claim(container, UUID(accepted)), Completed({"summary": "1"}))
    assert ada.get(f"/api/v1/task-executions/{accepted}").json()["status"] == "completed"


@pytest.mark.parametrize("path", ["/api/v1/tasks/none", "/api/v1/agents/none"])
def test_what_is_not_there_cannot_be_deleted(ada: Asker, path: str) -> None:
    assert_problem(ada.delete(path), 404, "not_found")
