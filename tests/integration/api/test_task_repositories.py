"""Repositories of tasks over HTTP: refused where a task is made; chosen for a batch."""

from typing import Any

import pytest

from celeriac.client import Client
from tests.support.api import Asker, assert_problem

pytestmark = pytest.mark.requirement("F26")

GIT = "https://git.example.com/acme/shop.git"
TASKS = "/api/v1/tasks"


def task(git: str = GIT, **repository: Any) -> dict[str, Any]:
    return {"name": "fix", "agent": "coder", "spec": {"repository": {"git": git, **repository}}}


@pytest.fixture
def coder(admin: Asker) -> Asker:
    """An agent that works in repositories."""
    made = {"name": "coder", "spec": {"runner": "command", "command": "code"}}
    assert admin.post("/api/v1/agents", json=made).status_code == 201
    return admin


@pytest.mark.parametrize(
    ("fields", "place", "cure"),
    [
        ({"git": "file:///srv/git/shop"}, "repository", "CELERIAC_REPOSITORIES_ALLOW"),
        ({"git": "ssh://git@git.example.com/x"}, "repository", "CELERIAC_REPOSITORIES_ALLOW"),
        ({"git": "https://127.0.0.1/x"}, "repository.git", "CELERIAC_OUTBOUND_ALLOW_HOSTS"),
        ({"git": "https://localhost:8443/x"}, "repository.git", "CELERIAC_OUTBOUND_ALLOW_HOSTS"),
    ],
)
def test_a_repository_that_may_not_be_used_is_refused_with_the_task(
    coder: Asker, fields: dict[str, str], place: str, cure: str
) -> None:
    wrong = task(**fields)
    refused = assert_problem(coder.post(TASKS, json=wrong), 422, "invalid_input")
    assert refused["field"] == f"spec.{place}"
    assert cure in refused["detail"]
    applied = assert_problem(
        coder.post("/api/v1/apply", json={"tasks": [wrong]}), 422, "document_invalid"
    )
    assert [each["field"] for each in applied["fields"]] == [f"tasks.0.spec.{place}"]
    assert coder.post(TASKS, json=task()).status_code == 201
    changed = coder.patch(f"{TASKS}/fix", json={"spec": wrong["spec"]})
    assert assert_problem(changed, 422, "invalid_input")["field"] == f"spec.{place}"
    assert coder.get(f"{TASKS}/fix").json()["spec"]["repository"]["git"] == GIT


def test_a_batch_chooses_and_its_repetition_keeps_the_choice(coder: Asker, client: Client) -> None:
    assert coder.post(TASKS, json=task()).status_code == 201
    url = f"{TASKS}/fix/execute-batch"
    batch = coder.post(url, json={"items": [{}, {}], "repository": {"ref": "release-2"}})
    assert batch.status_code == 202, batch.text
    ids = batch.json()["execution_ids"]
    path = "/api/v1/task-executions"
    for each in ids:
        options = coder.get(f"{path}/{each}").json()["options"]
        assert options["repository"]["ref"] == "release-2"
    wrong = coder.post(url, json={"items": [{}], "repository": {"path": "other"}})
    assert assert_problem(wrong, 422, "invalid_input")["field"] == "repository.path"
    accepted = client.executions.execute_batch("fix", [{}], repository={"ref": "v1"})
    assert accepted.count == 1
    cancelled = coder.post(f"{path}/bulk/cancel", json={"task": "fix", "limit": 50})
    assert cancelled.is_success, cancelled.text
    again = coder.post(
        f"{path}/bulk/retry", json={"task": "fix", "status": ["cancelled"], "limit": 50}
    )
    assert again.is_success, again.text
    new = coder.get(f"{path}?batch_id={again.json()['batch_id']}").json()["items"]
    options = [coder.get(f"{path}/{each['id']}").json()["options"] for each in new]
    assert sorted(each["repository"]["ref"] for each in options) == ["release-2", "release-2", "v1"]


def test_each_item_of_a_batch_may_choose(coder: Asker, client: Client) -> None:
    assert coder.post(TASKS, json=task(overrides=["ref", "path"])).status_code == 201
    url, path = f"{TASKS}/fix/execute-batch", "/api/v1/task-executions"
    choices = [{"ref": "one"}, None, {"path": "lib"}]
    body = {"items": [{"n": n} for n in range(3)], "repository": {"ref": "all"}}
    key = {"Idempotency-Key": "each"}
    made = coder.post(url, json={**body, "repositories": choices}, headers=key)
    assert made.status_code == 202, made.text
    found = [coder.get(f"{path}/{each}").json() for each in made.json()["execution_ids"]]
    chosen = [(each["variables"]["n"], each["options"]["repository"]) for each in found]
    assert [(n, each["ref"], each["path"]) for n, each in chosen] == [
        (0, "one", None),
        (1, "all", None),
        (2, "all", "lib"),
    ]
    again = coder.post(url, json={**body, "repositories": choices}, headers=key)
    assert again.json()["execution_ids"] == made.json()["execution_ids"]
    for wrong, field in (
        ([{}, {}], "repositories"),
        ([None, {"ref": "a..b"}, None], "repositories.1.ref"),
        ([None, None, {"git": "https://git.example.com/other"}], "repositories.2.git"),
    ):
        refused = coder.post(url, json={**body, "repositories": wrong})
        assert assert_problem(refused, 422, "invalid_input")["field"] == field
    assert len(coder.get(path).json()["items"]) == 3
    accepted = client.executions.execute_batch("fix", [{}, {}], repositories=[{"ref": "x"}, None])
    assert accepted.count == 2
