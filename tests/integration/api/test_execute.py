"""Running tasks over HTTP."""

import pytest

from tests.support.api import EXECUTE, Asker


@pytest.mark.requirement("A1")
def test_execute_answers_queued_with_links(ada: Asker) -> None:
    response = ada.post(EXECUTE, json={"variables": {"text": "One."}})
    assert response.status_code == 202, response.text
    body = response.json()
    assert body["status"] == "queued"
    execution, celery = body["execution_id"], body["celery_task_id"]
    links = body["_links"]
    assert links["self"] == f"/api/v1/task-executions/{execution}"
    assert links["task"] == f"/api/v1/tasks/{body['task_id']}"
    assert links["session"] is None
    assert links["celery_task"] == f"/api/v1/admin/celery-tasks/{celery}"
    for name in ("self", "task", "celery_task", "events"):
        assert ada.get(links[name]).status_code == 200, f"the link {name} leads nowhere"
