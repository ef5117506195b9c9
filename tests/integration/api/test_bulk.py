"""Cancelling and repeating many executions by filter."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event, text

from celeriac.domain.accounts import Role
from celeriac.domain.errors import BrokerUnavailableError
from celeriac.domain.executions.model import Completed, Failed, Failure
from celeriac.wiring.core import CoreServices
from tests.support.api import AGENT, EXECUTE, TASK, Asker, assert_problem
from tests.support.core import ASKING
from tests.support.together import together
from tests.support.working import claim, finish

EXECUTIONS = "/api/v1/task-executions"
CANCEL, RETRY = f"{EXECUTIONS}/bulk/cancel", f"{EXECUTIONS}/bulk/retry"
MOVE, PRIORITISE = f"{EXECUTIONS}/bulk/move", f"{EXECUTIONS}/bulk/prioritise"
ONE = {"variables": {"text": "One."}}
FAILED = Failed(Failure("agent_failed", "No."))


def _run(asker: Asker, **body: Any) -> str:
    response = asker.post(EXECUTE, json=ONE | body)
    assert response.status_code == 202, response.text
    return str(response.json()["execution_id"])


def _fail(asker: Asker, container: CoreServices, **body: Any) -> str:
    execution_id = _run(asker, **body)
    finish(container, claim(container, execution_id), FAILED)
    return execution_id


def _ask(asker: Asker, path: str, status: int | None = None, **more: Any) -> dict[str, Any]:
    response = asker.post(path, **more)
    dry = "dry_run" in path
    assert response.status_code == (status or (202 if path == RETRY and not dry else 200)), (
        response.text
    )
    body: dict[str, Any] = response.json()
    return body


def _statuses(asker: Asker) -> dict[str, str]:
    return {each["id"]: each["status"] for each in asker.get(EXECUTIONS).json()["items"]}


@contextmanager
def _statements(container: CoreServices) -> Iterator[list[str]]:
    sent: list[str] = []

    def executed(_c: object, _k: object, statement: str, *_: object) -> None:
        sent.append(statement)

    event.listen(container.database.engine, "before_cursor_execute", executed)
    try:
        yield sent
    finally:
        event.remove(container.database.engine, "before_cursor_execute", executed)


def test_what_matches_is_cancelled_and_nothing_else(ada: Asker, container: CoreServices) -> None:
    ada.post("/api/v1/tasks", json=TASK | {"name": "other"})
    other = ada.post("/api/v1/tasks/other/execute", json=ONE).json()["execution_id"]
    ended, running, queued = _run(ada), _run(ada), _run(ada)
    finish(container, claim(container, ended), Completed(1))
    claim(container, running)
    counted = _ask(ada, f"{CANCEL}?dry_run=true", json={"task": "summarise", "limit": 500})
    assert (counted["dry_run"], counted["affected"], counted["remaining"]) == (True, 0, 2)
    assert _statuses(ada)[queued] == "queued", "a dry run changes nothing"
    done = _ask(ada, CANCEL, json={"task": "summarise", "limit": 500})
    assert done == {
        "dry_run": False,
        "affected": 2,
        "execution_ids": [queued, running],
        "skipped": [],
        "remaining": 0,
        "next_cursor": None,
        "batch_id": None,
        "_links": {"executions": None},
    }
    assert _statuses(ada) == {
        other: "queued", ended: "completed", running: "running", queued: "cancelled",
    }  # fmt: skip
    assert ada.get(f"{EXECUTIONS}/{running}").json()["cancel_requested_by"] == "ada"
    again = _ask(ada, CANCEL, json={"task": "summarise", "limit": 500})
    assert (again["affected"], again["remaining"]) == (0, 0), "a running one is asked once"


def test_cancelling_many_writes_the_events_and_the_audit_of_one(
    ada: Asker, container: CoreServices
) -> None:
    alone = _run(ada)
    ada.post(f"{EXECUTIONS}/{alone}/cancel")
    together = _run(ada)
    _ask(ada, CANCEL, json={"limit": 5})

    def events(execution_id: str) -> list[Any]:
        found = ada.get(f"{EXECUTIONS}/{execution_id}/events").json()["items"]
        return [(each["type"], each["data"]) for each in found if each["type"] != "queued"]

    assert events(together) == events(alone)
    assert _audited(container, "execution.cancel") == [
        (alone, "ada", "execution", {}),
        (together, "ada", "execution", {}),
    ]


def _audited(container: CoreServices, action: str) -> list[tuple[str, str, str, Any]]:
    query = text("SELECT resource_id, actor, resource_type, details FROM audit_logs "
                 "WHERE action = :action ORDER BY id")  # fmt: skip
    with container.database.autocommit() as connection:
        return [tuple(row) for row in connection.execute(query, {"action": action})]


def test_pages_go_on_and_meet_nothing_that_came_later(ada: Asker) -> None:
    batch = {"items": [{"text": str(number)} for number in range(5)]}
    ids = ada.post("/api/v1/tasks/summarise/execute-batch", json=batch).json()["execution_ids"]
    wanted: dict[str, Any] = {"limit": 2}
    seen: list[str] = []
    late: list[str] = []
    for left in (3, 1, 0):
        done = _ask(ada, CANCEL, json=wanted)
        seen += done["execution_ids"]
        assert done["remaining"] == left
        late.append(_run(ada))
        wanted["cursor"] = done["next_cursor"]
    assert seen == ids[::-1]
    assert wanted["cursor"] is None
    assert {_statuses(ada)[each] for each in late} == {"queued"}


def test_each_filter_narrows_what_is_changed(ada: Asker, container: CoreServices) -> None:
    ada.post("/api/v1/agents", json=AGENT | {"name": "poet"})
    ada.post("/api/v1/tasks", json=TASK | {"name": "verse", "agent": "poet"})
    verse = ada.post("/api/v1/tasks/verse/execute", json=ONE).json()["execution_id"]
    finish(container, claim(container, verse), Failed(Failure("output_invalid", "No verse.")))
    failed, cancelled = _fail(ada, container), _run(ada)
    ada.post(f"{EXECUTIONS}/{cancelled}/cancel")
    now = datetime.now(UTC)
    hour = timedelta(hours=1)
    matches: list[tuple[dict[str, Any], int]] = [
        ({}, 2),
        ({"status": ["failed", "cancelled"]}, 3),
        ({"status": ["completed"]}, 0),
        ({"task": "verse"}, 1),
        ({"agent": "poet"}, 1),
        ({"agent": "writer", "status": ["failed", "cancelled"]}, 2),
        ({"error_code": "output_invalid"}, 1),
        ({"id": [failed, cancelled]}, 1),
        ({"created_after": (now - hour).isoformat()}, 2),
        ({"created_before": (now - hour).isoformat()}, 0),
        ({"trigger_type": "scheduled"}, 0),
        ({"batch_id": str(UUID(int=1))}, 0),
    ]
    counted = [
        _ask(ada, f"{RETRY}?dry_run=true", json=wanted | {"limit": 1})["remaining"]
        for wanted, _ in matches
    ]
    assert counted == [expected for _, expected in matches]
    lists = {
        "?agent=poet": [verse],
        "?error_code=agent_failed": [failed],
        f"?id={failed}&id={verse}": [failed, verse],
    }
    for query, expected in lists.items():
        items = ada.get(f"{EXECUTIONS}{query}").json()["items"]
        assert [each["id"] for each in items] == expected, query


def test_all_that_failed_is_run_again_as_one_by_one(ada: Asker, container: CoreServices) -> None:
    high = _fail(ada, container, priority="high", budget={"max_tokens": 50})
    ada.post(f"{EXECUTIONS}/{high}/retry")
    alone = ada.get(f"{EXECUTIONS}?origin_id={high}").json()["items"][0]
    low = _fail(ada, container, variables={"text": "Two."}, priority="low")
    done = _ask(ada, RETRY, json={"limit": 500})
    assert (done["affected"], done["remaining"], done["skipped"]) == (2, 0, [])
    made = {
        each["origin_id"]: each
        for each in ada.get(done["_links"]["executions"] + "&include=variables").json()["items"]
    }
    assert set(made) == {high, low}
    assert {each["id"] for each in made.values()} == set(done["execution_ids"])
    assert made[low]["variables"] == {"text": "Two."}
    same = ("priority", "queue", "options", "trigger_type", "owner_id", "execution_mode")
    assert [made[high][name] for name in same] == [alone[name] for name in same]
    assert made[high]["batch_id"] == done["batch_id"]
    assert {each["status"] for each in made.values()} == {"queued"}, "they are sent at once"
    entries = {key: rest for key, *rest in _audited(container, "execution.create")}
    assert entries[made[high]["id"]] == entries[alone["id"]]
    types = [
        [each["type"] for each in ada.get(f"{EXECUTIONS}/{key}/events").json()["items"]]
        for key in (made[high]["id"], alone["id"])
    ]
    assert types[0] == types[1] == ["created", "queued"]


def test_under_one_key_nothing_is_run_twice(ada: Asker, container: CoreServices) -> None:
    for _ in range(3):
        _fail(ada, container)
    wanted, key = {"limit": 2}, {"Idempotency-Key": "night"}
    first = ada.post(RETRY, json=wanted, headers=key)
    new = first.json()["execution_ids"]
    finish(container, claim(container, new[0]), FAILED)
    again = ada.post(RETRY, json=wanted, headers=key)
    assert again.status_code == 202
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json() == first.json()
    assert_problem(ada.post(RETRY, json={"limit": 3}, headers=key), 422, "idempotency_mismatch")
    rest = _ask(ada, RETRY, json=wanted | {"cursor": again.json()["next_cursor"]})
    assert (rest["affected"], rest["remaining"]) == (1, 0), "what failed meanwhile is not met"


def test_what_can_t_be_run_again_is_skipped_with_its_reason(
    ada: Asker, container: CoreServices
) -> None:
    spec = TASK["spec"] | {"variables_schema": {}}
    for name in ("gone", "asleep", "strict"):
        ada.post("/api/v1/tasks", json=TASK | {"name": name, "spec": spec})
    ids = {}
    for name in ("gone", "asleep", "strict", "summarise"):
        accepted = ada.post(f"/api/v1/tasks/{name}/execute", json=ONE).json()
        ids[name] = accepted["execution_id"]
        finish(container, claim(container, ids[name]), FAILED)
    ada.delete("/api/v1/tasks/gone")
    ada.patch("/api/v1/tasks/asleep", json={"active": False})
    schema = {"type": "object", "properties": {"text": {"type": "number"}}}
    ada.patch("/api/v1/tasks/strict", json={"spec": spec | {"variables_schema": schema}})
    done = _ask(ada, RETRY, json={"limit": 500})
    assert done["affected"] == 1
    rest = _ask(ada, RETRY, json={"limit": 500, "cursor": done["next_cursor"]})
    assert {each["execution_id"]: each["code"] for each in rest["skipped"]} == {
        ids["gone"]: "conflict",
        ids["asleep"]: "task_inactive",
        ids["strict"]: "variables_invalid",
    }
    assert (rest["affected"], rest["remaining"], rest["batch_id"]) == (0, 0, None)
    single = {
        name: ada.post(f"{EXECUTIONS}/{ids[name]}/retry").json()["detail"]
        for name in ("gone", "asleep", "strict")
    }
    assert {each["execution_id"]: each["message"] for each in rest["skipped"]} == {
        ids[name]: words for name, words in single.items()
    }


def test_a_key_under_which_nothing_was_made_stays_free(ada: Asker, container: CoreServices) -> None:
    ada.post("/api/v1/tasks", json=TASK | {"name": "asleep"})
    accepted = ada.post("/api/v1/tasks/asleep/execute", json=ONE).json()
    finish(container, claim(container, accepted["execution_id"]), FAILED)
    ada.patch("/api/v1/tasks/asleep", json={"active": False})
    key = {"Idempotency-Key": "k"}
    assert _ask(ada, RETRY, json={"limit": 1}, headers=key)["affected"] == 0
    ada.patch("/api/v1/tasks/asleep", json={"active": True})
    assert _ask(ada, RETRY, json={"limit": 1}, headers=key)["affected"] == 1
    assert _ask(ada, RETRY, json={"limit": 1}, headers=key)["affected"] == 1
    assert len(ada.get(f"{EXECUTIONS}?status=queued").json()["items"]) == 1


def test_the_number_of_statements_does_not_grow_with_the_executions(
    ada: Asker, container: CoreServices
) -> None:
    counts = []
    for number in (2, 40):
        batch = {"items": [{"text": str(each)} for each in range(number)]}
        ada.post("/api/v1/tasks/summarise/execute-batch", json=batch)
        with _statements(container) as cancelling:
            assert _ask(ada, CANCEL, json={"limit": 500})["affected"] == number
        with _statements(container) as repeating:
            done = _ask(ada, RETRY, json={"limit": 500, "status": ["cancelled"]})
            assert done["affected"] == number
        made = [each for each in repeating if "INSERT INTO executions" in each]
        counts.append((len(cancelling), len(made)))
        with container.database.autocommit() as connection:
            connection.execute(text("DELETE FROM executions"))
    assert counts[0] == counts[1]
    assert counts[0][1] == 1


@pytest.mark.requirement("A20")
def test_nobody_changes_or_counts_what_is_another_workspace_s(
    ada: Asker, person: Callable[..., Asker], admin: Asker, container: CoreServices
) -> None:
    failed, queued = _fail(ada, container), _run(ada)
    task = ada.get("/api/v1/tasks/summarise").json()
    eve, viewer = person("eve"), person("vera", Role.VIEWER)
    for wanted in (
        {},
        {"id": [failed, queued]},
        {"task": task["id"]},
        {"agent": task["agent"]["id"]},
    ):
        for path in (CANCEL, RETRY):
            for query in ("", "?dry_run=true"):
                for other in (eve, admin):
                    found = _ask(other, path + query, json=wanted | {"limit": 500})
                    assert (found["affected"], found["remaining"]) == (0, 0), wanted
    assert_problem(eve.post(CANCEL, json={"task": "summarise", "limit": 1}), 404, "not_found")
    for path in (CANCEL, RETRY):
        assert_problem(viewer.post(path, json={"limit": 1}), 403, "forbidden")
    assert _statuses(ada) == {failed: "failed", queued: "queued"}
    assert _ask(ada, CANCEL, json={"limit": 500})["execution_ids"] == [queued]


@pytest.mark.parametrize(
    ("path", "body", "field", "cure"),
    [
        (CANCEL, {}, "limit", "required"),
        (CANCEL, {"limit": 0}, "limit", "1"),
        (CANCEL, {"limit": 501}, "limit", "500"),
        (CANCEL, {"limit": 1, "status": ["failed"]}, "status.0", "'running'"),
        (RETRY, {"limit": 1, "status": ["running"]}, "status.0", "'failed'"),
        (RETRY, {"limit": 1, "status": []}, "status", "1"),
        (RETRY, {"limit": 1, "created_after": "2h"}, "created_after", "2030-01-31T12:00:00Z"),
        (RETRY, {"limit": 1, "stauts": ["failed"]}, "stauts", ""),
        (RETRY, {"limit": 1, "error_code": "No such"}, "error_code", ""),
        (RETRY, {"limit": 1, "id": ["x"]}, "id.0", ""),
        (RETRY, {"limit": 1, "id": [str(UUID(int=1))] * 101}, "id", "100"),
    ],
)
def test_bad_input_names_field_and_cure(
    ada: Asker, path: str, body: dict[str, Any], field: str, cure: str
) -> None:
    problem = assert_problem(ada.post(path, json=body), 422, "invalid_input")
    assert problem["field"] == field
    assert cure in problem["fields"][0]["message"], problem


def test_a_cursor_of_another_list_is_refused(ada: Asker) -> None:
    _run(ada), _run(ada)
    cursor = ada.get(f"{EXECUTIONS}?limit=1").json()["next_cursor"]
    for path in (CANCEL, RETRY):
        assert_problem(ada.post(path, json={"limit": 1, "cursor": cursor}), 422, "cursor_invalid")


def test_two_requests_with_one_key_at_once_make_one_batch(
    ada: Asker, container: CoreServices
) -> None:
    for _ in range(3):
        _fail(ada, container)
    key = {"Idempotency-Key": "both"}
    made = together(
        [lambda: ada.post(RETRY, json={"limit": 5}, headers=key).json() for _ in range(4)]
    )
    assert len({each["batch_id"] for each in made}) == 1
    assert all(each == made[0] for each in made)
    assert len(ada.get(f"{EXECUTIONS}?status=queued").json()["items"]) == 3


def test_a_task_that_changed_is_used_as_it_is_now(ada: Asker, container: CoreServices) -> None:
    failed = _fail(ada, container)
    task = ada.get("/api/v1/tasks/summarise").json()
    container.specs.current(UUID(task["id"]), workspace=UUID(task["workspace_id"]))
    # another process has changed it: the specification that is cached here is stale
    with container.database.autocommit() as connection:
        connection.execute(text("""
            WITH made AS (
                INSERT INTO task_versions (id, task_id, version, spec_hash)
                SELECT gen_random_uuid(), id, 2,
                       (SELECT spec_hash FROM task_versions WHERE id = tasks.current_version_id)
                FROM tasks RETURNING id, task_id)
            UPDATE tasks SET current_version_id = made.id FROM made WHERE tasks.id = made.task_id
        """))  # fmt: skip
    done = _ask(ada, RETRY, json={"limit": 5})
    assert done["affected"] == 1
    with container.database.autocommit() as connection:
        versions = connection.execute(
            text(
                "SELECT e.task_version_id = t.current_version_id FROM executions e "
                "JOIN tasks t ON t.id = e.task_id ORDER BY (e.id = :old) DESC"
            ),
            {"old": failed},
        )
        assert list(versions.scalars()) == [False, True]


def test_without_a_broker_the_new_ones_wait_for_the_keeper(
    ada: Asker, container: CoreServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fail(ada, container)

    def send(_: object) -> None:
        raise BrokerUnavailableError("The broker does not answer.")

    monkeypatch.setattr(container.queue, "send", send)
    done = _ask(ada, RETRY, json={"limit": 5})
    assert _statuses(ada)[done["execution_ids"][0]] == "pending"


def test_waiting_since_says_when_the_wait_began(ada: Asker, container: CoreServices) -> None:
    def shown(execution_id: str) -> dict[str, Any]:
        found: dict[str, Any] = ada.get(f"{EXECUTIONS}/{execution_id}").json()
        return found

    later = shown(_run(ada, delay_seconds=600))
    assert (later["status"], later["waiting_since"]) == ("pending", None)
    assert later["held"] == "time"
    queued = shown(_run(ada))
    assert queued["waiting_since"] == queued["available_at"]
    assert queued["held"] is None
    claimed = claim(container, queued["id"])
    assert shown(queued["id"])["waiting_since"] is None, "it runs"
    finish(container, claimed, ASKING)
    events = ada.get(f"{EXECUTIONS}/{queued['id']}/events").json()["items"]
    parked = {each["type"]: each["at"] for each in events}
    waiting = shown(queued["id"])
    assert (waiting["waiting_for"], waiting["waiting_since"]) == ("approval", parked["waiting"])
    ada.post(f"{EXECUTIONS}/{queued['id']}/cancel")
    assert shown(queued["id"])["waiting_since"] is None


@pytest.mark.requirement("F15")
def test_what_matches_is_moved_and_nothing_else(ada: Asker, container: CoreServices) -> None:
    ended, running, queued, other = _run(ada), _run(ada), _run(ada), _run(ada, queue="gpu")
    finish(container, claim(container, ended), Completed(1))
    claim(container, running)
    body = {"queue": "task_execution", "to_queue": "spare", "limit": 500}
    counted = _ask(ada, f"{MOVE}?dry_run=true", json=body)
    assert (counted["dry_run"], counted["affected"], counted["remaining"]) == (True, 0, 2)
    waiting = _ask(ada, f"{MOVE}?dry_run=true", json=body | {"status": ["queued"]})
    assert waiting["remaining"] == 1
    done = _ask(ada, MOVE, json=body)
    assert (done["affected"], done["execution_ids"], done["remaining"]) == (2, [queued, running], 0)
    found = {each["id"]: each["queue"] for each in ada.get(EXECUTIONS).json()["items"]}
    assert found == {
        ended: "task_execution", running: "spare", queued: "spare", other: "gpu",
    }  # fmt: skip
    assert _statuses(ada)[queued] == "queued", "it is sent to the other queue"
    assert _ask(ada, MOVE, json=body)["remaining"] == 0
    assert _audited(container, "execution.move") == [
        (each, "ada", "execution", {"from": "task_execution", "to": "spare"})
        for each in (queued, running)
    ]
    one = ada.post(f"{EXECUTIONS}/{other}/move", json={"to_queue": "spare"})
    assert (one.status_code, one.json()["queue"]) == (200, "spare")
    assert_problem(ada.post(f"{EXECUTIONS}/{ended}/move", json={"to_queue": "a"}), 409, "conflict")
    assert_problem(
        ada.post(f"{EXECUTIONS}/{other}/move", json={"to_queue": "a b"}), 422, "invalid_input"
    )


@pytest.mark.requirement("F15", "C4")
def test_what_matches_gets_another_priority_page_by_page(
    ada: Asker, container: CoreServices
) -> None:
    ids = [_run(ada) for _ in range(3)]
    ada.post(f"{EXECUTIONS}/{ids[1]}/prioritise", json={"priority": "high"})
    body = {"task": "summarise", "priority": "high", "limit": 2}
    assert _ask(ada, f"{PRIORITISE}?dry_run=true", json=body)["remaining"] == 3
    first = _ask(ada, PRIORITISE, json=body)
    assert (first["execution_ids"], first["remaining"]) == ([ids[2]], 1), "one had it already"
    last = _ask(ada, PRIORITISE, json=body | {"cursor": first["next_cursor"]})
    assert (last["execution_ids"], last["next_cursor"]) == ([ids[0]], None)
    found = {each["priority"] for each in ada.get(EXECUTIONS).json()["items"]}
    assert found == {"high"}
    assert len(_audited(container, "execution.prioritise")) == 3


@pytest.mark.requirement("F15")
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (MOVE, {"limit": 5}),
        (MOVE, {"limit": 5, "to_queue": "a b"}),
        (MOVE, {"limit": 5, "to_queue": "a", "status": ["completed"]}),
        (MOVE, {"limit": 501, "to_queue": "a"}),
        (PRIORITISE, {"limit": 5}),
        (PRIORITISE, {"limit": 5, "priority": "urgent"}),
        (PRIORITISE, {"limit": 5, "priority": "high", "queue": "a b"}),
    ],
)
def test_a_change_of_many_that_is_wrong_changes_nothing(
    ada: Asker, path: str, body: dict[str, Any]
) -> None:
    execution_id = _run(ada)
    assert_problem(ada.post(path, json=body), 422, "invalid_input")
    found = ada.get(f"{EXECUTIONS}/{execution_id}").json()
    assert (found["queue"], found["priority"]) == ("task_execution", "normal")


@pytest.mark.requirement("F15")
def test_executions_of_others_are_neither_moved_nor_prioritised(
    ada: Asker, person: Callable[..., Asker]
) -> None:
    execution_id = _run(ada)
    other = person("bob")
    for path, body in ((MOVE, {"to_queue": "a"}), (PRIORITISE, {"priority": "high"})):
        assert _ask(other, path, json=body | {"limit": 5})["affected"] == 0
        named = {"id": [execution_id], "limit": 5}
        assert _ask(other, path, json=body | named)["affected"] == 0
    assert ada.get(f"{EXECUTIONS}/{execution_id}").json()["queue"] == "task_execution"
