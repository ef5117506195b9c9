"""Bad input: each case is a problem with its stable code, and nothing is stored."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

from celeriac.wiring.core import CoreServices
from tests.support.api import AGENT, EXECUTE, TASK, Asker, assert_problem

BATCH = "/api/v1/tasks/summarise/execute-batch"
TASKS = "/api/v1/tasks"
AGENTS = "/api/v1/agents"
OK = {"variables": {"text": "One."}}

Case = tuple[str, str, Any, int, str, str | None]
"""Method, path and body of a request; status, code and field of the problem it is answered with."""


def task(**spec: Any) -> dict[str, Any]:
    return {"name": "other", "agent": "writer", "spec": spec}


def agent(**spec: Any) -> dict[str, Any]:
    return {"name": "other", "spec": {"runner": "llm", "model": "m/m"} | spec}


def deep(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


CASES: dict[str, Case] = {
    "unknown field": ("POST", EXECUTE, OK | {"vars": 1}, 422, "invalid_input", "vars"),
    "wrong type": ("POST", EXECUTE, {"variables": []}, 422, "invalid_input", "variables"),
    "missing variable": ("POST", EXECUTE, {}, 422, "variables_invalid", "variables"),
    "mistyped variable": ("POST", EXECUTE, {"variables": {"text": 1}}, 422, "variables_invalid",
                          "variables"),
    "unknown variable": ("POST", EXECUTE, {"variables": {"text": "a", "x": 1}}, 422,
                         "variables_invalid", "variables"),
    "priority as a number": ("POST", EXECUTE, OK | {"priority": 3}, 422, "invalid_input",
                             "priority"),
    "unknown priority": ("POST", EXECUTE, OK | {"priority": "urgent"}, 422, "invalid_input",
                         "priority"),
    "queue name": ("POST", EXECUTE, OK | {"queue": "No Queue"}, 422, "invalid_input", "queue"),
    "negative delay": ("POST", EXECUTE, OK | {"delay_seconds": -1}, 422, "invalid_input",
                       "delay_seconds"),
    "delay as text": ("POST", EXECUTE, OK | {"delay_seconds": "5"}, 422, "invalid_input",
                      "delay_seconds"),
    "time without a zone": ("POST", EXECUTE, OK | {"available_at": "2030-01-01T00:00:00"}, 422,
                            "invalid_input", "available_at"),
    "time as a number": ("POST", EXECUTE, OK | {"available_at": 5}, 422, "invalid_input",
                         "available_at"),
    "time long ago": ("GET", "/api/v1/task-executions?created_after=0001-01-01T00:00:00Z", None,
                      422, "invalid_input", "created_after"),
    "two delays": ("POST", EXECUTE,
                   OK | {"available_at": "2030-01-01T00:00:00Z", "delay_seconds": 1}, 422,
                   "invalid_input", "body"),
    "two expiries": ("POST", EXECUTE,
                     OK | {"expires_at": "2030-01-01T00:00:00Z", "expires_in": 1}, 422,
                     "invalid_input", "body"),
    "expires before it begins": ("POST", EXECUTE, OK | {"expires_in": 5, "delay_seconds": 5}, 422,
                                 "invalid_input", "body"),
    "expires at once": ("POST", EXECUTE, OK | {"expires_in": 0}, 422, "invalid_input",
                        "expires_in"),
    "unknown mode": ("POST", EXECUTE, OK | {"execution_mode": "later"}, 422, "invalid_input",
                     "execution_mode"),
    "body is a list": ("POST", EXECUTE, [], 422, "invalid_input", "body"),
    "unknown task": ("POST", "/api/v1/tasks/nothing/execute", OK, 404, "not_found", None),
    "unknown task id": ("POST", "/api/v1/tasks/0199f3a2-1c5e-7d30-9a64-0b8f6b1d2c11/execute", OK,
                        404, "not_found", None),
    "NUL in a path": ("GET", "/api/v1/tasks/%00", None, 422, "invalid_input", "task"),
    "name that looks like an id": ("POST", TASKS, TASK | {"name": "0" * 32}, 422, "invalid_input",
                                   "name"),
    "batch without items": ("POST", BATCH, {"items": []}, 422, "invalid_input", "items"),
    "batch without anything": ("POST", BATCH, {}, 422, "invalid_input", "items"),
    "batch with one bad item": ("POST", BATCH, {"items": [{"text": "a"}, {"text": 1}]}, 422,
                                "variables_invalid", "items.1"),
    "batch item of a wrong type": ("POST", BATCH, {"items": [{"text": "a"}, 2]}, 422,
                                   "invalid_input", "items.1"),
    "batch over the limit": ("POST", BATCH, {"items": [{"text": "a"}] * 10_001}, 413, "too_large",
                             "items"),
    "NUL in a value": ("POST", EXECUTE, {"variables": {"text": "a\0b"}}, 422, "invalid_input",
                       "variables.text"),
    "NUL in a key": ("POST", EXECUTE, {"variables": {"a\0": 1}}, 422, "invalid_input",
                     "variables"),
    "integer beyond 64 bits": ("POST", EXECUTE, {"variables": {"text": 2**63}}, 422,
                               "invalid_input", None),
    "integer far beyond": ("POST", EXECUTE, {"variables": {"text": 10**30}}, 422,
                           "invalid_input", None),
    "nested too deeply": ("POST", EXECUTE, {"variables": {"text": deep(70)}}, 422,
                          "invalid_input", None),
    "agent without a kind": ("POST", AGENTS, {"name": "other", "spec": {"model": "m"}}, 422,
                             "invalid_input", "spec"),
    "agent of an unknown kind": ("POST", AGENTS, agent(runner="magic"), 422, "invalid_input",
                                 "spec"),
    "agent without a model": ("POST", AGENTS, {"name": "o", "spec": {"runner": "llm"}}, 422,
                              "invalid_input", "spec.model"),
    "agent with a typing error": ("POST", AGENTS, agent(temprature=1), 422, "invalid_input",
                                  "spec.temprature"),
    "temperature as text": ("POST", AGENTS, agent(temperature="0.5"), 422, "invalid_input",
                            "spec.temperature"),
    "function without a module": ("POST", AGENTS,
                                  {"name": "o", "spec": {"runner": "python", "function": "f"}},
                                  422, "invalid_input", "spec.function"),
    "agent name with a slash": ("POST", AGENTS, AGENT | {"name": "a/b"}, 422, "invalid_input",
                                "name"),
    "agent name taken": ("POST", AGENTS, AGENT, 409, "name_taken", "name"),
    "task name taken": ("POST", TASKS, TASK, 409, "name_taken", "name"),
    "task without its agent": ("POST", TASKS, {"name": "o"}, 422, "invalid_input", "agent"),
    "task of an unknown agent": ("POST", TASKS, {"name": "o", "agent": "no"}, 404, "not_found",
                                 None),
    "template with a syntax error": ("POST", TASKS, task(prompt="{{ a"), 422, "template_invalid",
                                     "prompt"),
    "template that escapes": ("POST", TASKS, task(prompt="{{ ''.__class__.__mro__ }}"), 422,
                              "template_invalid", "prompt"),
    "template that escapes by a filter": ("POST", TASKS, task(prompt="{{ a|attr('__class__') }}"),
                                          422, "template_invalid", "prompt"),
    "template with an unknown variable": (
        "POST", TASKS,
        task(prompt="{{ b }}", variables_schema={"properties": {"a": {}}}),
        422, "template_invalid", "prompt"),
    "schema that is none": ("POST", TASKS, task(variables_schema={"type": "strin"}), 422,
                            "schema_invalid", "spec.variables_schema"),
    "schema from elsewhere": ("POST", TASKS,
                              task(output_schema={"$ref": "http://127.0.0.1:9/s.json"}), 422,
                              "schema_invalid", "spec.output_schema"),
    "soft limit over the hard one": (
        "POST", TASKS, task(limits={"soft_seconds": 9, "hard_seconds": 5}), 422, "invalid_input",
        "spec.limits"),
    "retries without end": ("POST", TASKS, task(retry={"max_retries": 10**6}), 422,
                            "invalid_input", "spec.retry.max_retries"),
    "whole number as text": ("POST", TASKS, task(max_crashes="3"), 422, "invalid_input",
                             "spec.max_crashes"),
    "user of an unknown role": ("POST", "/api/v1/api-keys", {"name": "k", "role": "king"}, 422,
                                "invalid_input", "role"),
    "key over one's role": ("POST", "/api/v1/api-keys", {"name": "k", "role": "admin"}, 403,
                            "forbidden", "role"),
    "Celery task that isn't listed": ("POST", "/api/v1/celery-tasks", {"name": "os.system"}, 422,
                                      "invalid_input", "name"),
    "bad cursor": ("GET", "/api/v1/task-executions?cursor=abc", None, 422, "cursor_invalid",
                   "cursor"),
    "cursor of another list": ("GET", "/api/v1/tasks?cursor=YWdlbnRzOgGZ86IcXn0wmmQLj2sdLBE",
                               None, 422, "cursor_invalid", "cursor"),
    "cursor that isn't ASCII": ("GET", "/api/v1/tasks?cursor=%C3%A4", None, 422, "cursor_invalid",
                                "cursor"),
    "page without end": ("GET", "/api/v1/tasks?limit=100000", None, 422, "invalid_input", "limit"),
    "unknown filter": ("GET", "/api/v1/task-executions?satus=failed", None, 422, "invalid_input",
                       "satus"),
    "unknown status": ("GET", "/api/v1/task-executions?status=done", None, 422, "invalid_input",
                       "status.0"),
    "id that is none": ("GET", "/api/v1/task-executions/abc", None, 422, "invalid_input",
                        "execution_id"),
    "no such path": ("GET", "/api/v1/nothing", None, 404, "not_found", None),
    "method that isn't there": ("DELETE", "/api/v1/tasks", None, 405, "method_not_allowed", None),
}  # fmt: skip


def _rows(container: CoreServices) -> dict[str, int]:
    tables = ("agents", "agent_versions", "tasks", "task_versions", "executions", "events",
              "idempotency_keys", "users", "api_keys",
              # refusals of the key are recorded themselves
              "audit_logs WHERE action <> 'request.refuse'")  # fmt: skip
    counts = ", ".join(f"(SELECT count(*) FROM {table}) AS {table.split()[0]}" for table in tables)
    with container.database.autocommit() as connection:
        return dict(connection.execute(text(f"SELECT {counts}")).mappings().one())


@pytest.mark.requirement("A6")
def test_each_is_a_problem_and_stores_nothing(ada: Asker, container: CoreServices) -> None:
    before = _rows(container)
    wrong = [name for name, case in CASES.items() if not _refused(ada, name, case)]
    assert not wrong, "see the printed answers"
    assert _rows(container) == before, "nothing may be stored"


def _refused(ada: Asker, name: str, case: Case) -> bool:
    method, path, body, status, code, field = case
    content = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    response = ada.request(method, path, content=content, headers=headers)
    try:
        found = assert_problem(response, status, code)
        assert found.get("field") == field
    except AssertionError:
        print(f"{name}: wanted {status} {code} at {field}, got {response.text[:500]}")  # noqa: T201
        return False
    return True


def test_what_is_refused_before_it_is_json(ada: Asker) -> None:
    surrogate = b'{"variables": {"a": "\\ud800"}}'
    for content in (b"", b"{", b'{"variables": NaN}', b"\xff\xfe", surrogate):
        response = ada.post(BATCH, content=content, headers={"Content-Type": "application/json"})
        status, code = (400, "malformed_json") if content else (422, "invalid_input")
        assert_problem(response, status, code)
    response = ada.post(BATCH, content=b"items=1", headers={"Content-Type": "text/plain"})
    assert assert_problem(response, 422, "invalid_input")["field"] == "Content-Type"


@pytest.mark.requirement("A6")
def test_an_inactive_task_takes_nothing(ada: Asker) -> None:
    assert ada.patch("/api/v1/tasks/summarise", json={"active": False}).status_code == 200
    assert_problem(ada.post(EXECUTE, json=OK), 409, "task_inactive")
    assert_problem(ada.post(BATCH, json={"items": [{"text": "a"}]}), 409, "task_inactive")
    assert ada.get("/api/v1/task-executions").json()["items"] == []


@pytest.mark.requirement("A20")
def test_things_of_other_workspaces_are_not_there(
    ada: Asker, admin: Asker, person: Callable[..., Asker]
) -> None:
    accepted = ada.post(EXECUTE, json=OK).json()
    links = accepted["_links"]
    for other in (person("eve"), admin):
        for path in (links["self"], links["task"], links["events"], links["stream"],
                     f"{links['self']}/report"):  # fmt: skip
            assert_problem(other.get(path), 404, "not_found")
        for path in (links["cancel"], f"{links['self']}/retry", f"{links['task']}/execute"):
            response = other.post(path, json=OK if path.endswith("execute") else None)
            assert_problem(response, 404, "not_found")
        assert_problem(other.patch(links["task"], json={"active": False}), 404, "not_found")
        assert_problem(other.post(EXECUTE, json=OK), 404, "not_found")
        for path in ("/api/v1/task-executions", "/api/v1/tasks", "/api/v1/agents"):
            assert other.get(path).json()["items"] == [], f"{path} shows only the workspace's"


def test_a_wrong_method_is_told_the_right_ones(ada: Asker) -> None:
    response = ada.post("/api/v1/tasks/summarise", json={})
    assert_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "DELETE, GET, PATCH"
