"""Bulk jobs over HTTP, worked on as by the keeper."""

from typing import Any
from uuid import uuid4

import pytest

from celeriac.api.v1.bulk_jobs import BulkFilter
from celeriac.db import cassettes
from celeriac.domain.executions.model import Completed, Failed, Failure
from celeriac.services.bulk_jobs.work import WorkOnBulkJobs
from celeriac.services.cassettes import packed
from celeriac.services.operations.rollups import Rollups
from celeriac.wiring.core import CoreServices, build_performers
from tests.support.api import AGENT, EXECUTE, TASK, Asker, assert_problem
from tests.support.cassettes import cassette, recorded
from tests.support.working import claim, finish

JOBS = "/api/v1/bulk-jobs"
EXECUTIONS = "/api/v1/task-executions"
ONE = {"variables": {"text": "One."}}


def run(asker: Asker, count: int = 1) -> list[str]:
    """Submit executions; return their ids, the newest first."""
    return [asker.post(EXECUTE, json=ONE).json()["execution_id"] for _ in range(count)][::-1]


def work(container: CoreServices) -> None:
    keeper = WorkOnBulkJobs(container.database, build_performers(container))
    while keeper():
        pass


def started(asker: Asker, container: CoreServices, **body: Any) -> dict[str, Any]:
    """Preview, start and work on a job; return it."""
    preview = asker.post(JOBS, json=body)
    assert preview.status_code == 201, preview.text
    begun = asker.post(preview.json()["_links"]["start"])
    assert (begun.status_code, begun.json()["status"]) == (202, "pending"), begun.text
    work(container)
    job: dict[str, Any] = asker.get(begun.json()["_links"]["self"]).json()
    return job


@pytest.mark.requirement("F19")
def test_a_job_is_previewed_started_and_says_what_it_did(
    ada: Asker, container: CoreServices
) -> None:
    running, *_ = run(ada)
    claim(container, running)
    ended, first, second = run(ada, 3)
    preview = ada.post(
        JOBS, json={"action": "cancel", "filter": {"task": "summarise", "status": ["queued"]}}
    ).json()
    assert (preview["status"], preview["total"], preview["more"]) == ("preview", 3, False)
    assert preview["statuses"] == {"queued": 3}
    assert [each["id"] for each in preview["sample"]] == [ended, first, second]
    assert not {"variables", "result", "error_details"} & preview["sample"][0].keys()
    assert (preview["looked_at"], preview["unfit"], preview["remaining"]) == (3, [], 3)
    assert preview["filter"] == {"task": "summarise", "status": ["queued"]}
    assert ada.get(JOBS).json()["items"] == [], "nobody has started it"

    finish(container, claim(container, ended), Completed(1))
    late, *_ = run(ada)
    place = preview["_links"]["self"]
    assert ada.post(f"{place}/start").json()["status"] == "pending"
    work(container)
    job = ada.get(place).json()
    assert (job["status"], job["done"], job["skipped"], job["failed"]) == ("completed", 2, 1, 0)
    assert (job["remaining"], job["reasons"]) == (0, {"ended": 1})
    assert job["completed_at"] >= job["started_at"]
    (skipped,) = ada.get(job["_links"]["items"], params={"outcome": ["skipped", "failed"]}).json()[
        "items"
    ]
    assert (skipped["execution_id"], skipped["code"]) == (ended, "ended")
    assert "only one that has not ended can be cancelled" in skipped["message"]
    page = ada.get(job["_links"]["items"], params={"limit": 2}).json()
    rest = ada.get(
        job["_links"]["items"], params={"limit": 2, "cursor": page["next_cursor"]}
    ).json()
    assert [each["execution_id"] for each in page["items"] + rest["items"]] == [
        ended, first, second,
    ]  # fmt: skip
    statuses = {each["id"]: each["status"] for each in ada.get(EXECUTIONS).json()["items"]}
    assert statuses == {
        running: "running", ended: "completed", first: "cancelled", second: "cancelled",
        late: "queued",
    }  # fmt: skip
    assert [each["id"] for each in ada.get(JOBS).json()["items"]] == [job["id"]]
    assert ada.post(f"{place}/stop").json() == job, "one that has ended does not change"


def test_every_criterion_narrows_the_selection(ada: Asker, container: CoreServices) -> None:
    """One that is not read would let a job change what its filter excludes."""
    (failed,) = run(ada)
    finish(container, claim(container, failed), Failed(Failure("agent_failed", "No.")))
    Rollups(container.database).fold(100)
    ada.post("/api/v1/agents", json=AGENT | {"name": "other"})
    ada.post("/api/v1/tasks", json=TASK | {"name": "other", "agent": "other"})
    ada.post(EXECUTE, json=ONE | {"labels": {"customer": "acme"}})
    group = ada.get("/api/v1/failure-groups").json()["items"][0]["id"]
    nobody = str(uuid4())
    narrowing: dict[str, Any] = {
        "id": [nobody],
        "status": ["waiting"],
        "task": "other",
        "agent": "other",
        "batch_id": nobody,
        "origin_id": nobody,
        "parent_id": nobody,
        "session_id": nobody,
        "trigger_type": "scheduled",
        "waiting_for": "approval",
        "error_code": "agent_failed",
        "flag": "no_op",
        "failure_group": group,
        "label": ["customer:other"],
        "without_label": ["customer:acme"],
        "created_after": "2100-01-01T00:00:00Z",
        "created_before": "2020-01-01T00:00:00Z",
        "queue": "nowhere",
        "view": "did-nothing",
    }
    assert narrowing.keys() == BulkFilter.model_fields.keys()

    def total(**wanted: Any) -> int:
        preview = ada.post(JOBS, json={"action": "cancel", "filter": wanted})
        assert preview.status_code == 201, preview.text
        return int(preview.json()["total"])

    assert total(task="summarise") == 1
    selected = {name for name, value in narrowing.items() if total(**{name: value})}
    assert not selected, "these were not read"


def test_failures_are_retried_as_a_batch(ada: Asker, container: CoreServices) -> None:
    failed = run(ada, 2)
    for each in failed:
        finish(container, claim(container, each), Failed(Failure("agent_failed", "No.")))
    job = started(ada, container, action="retry", filter={"error_code": "agent_failed"}, limit=1)
    assert (job["total"], job["more"], job["done"]) == (1, True, 1)
    (item,) = ada.get(job["_links"]["items"]).json()["items"]
    (made,) = ada.get(job["_links"]["new_executions"]).json()["items"]
    assert (item["execution_id"], item["new_execution_id"]) == (failed[0], made["id"])
    assert made["origin_id"] == failed[0]


def test_recorded_executions_are_replayed_from_their_cassettes(
    ada: Asker, container: CoreServices
) -> None:
    (plain,) = run(ada)
    finish(container, claim(container, plain), Completed({"summary": "a"}))
    origin = ada.post(EXECUTE, json=ONE | {"record": True}).json()["execution_id"]
    claimed = claim(container, origin)
    with container.database.autocommit() as connection:
        tape = packed(cassette(recorded("Summarise: One.", "a")))
        assert cassettes.record(connection, claimed.lease, "summarise", tape)
    finish(container, claimed, Completed({"summary": "a"}))
    preview = ada.post(JOBS, json={"action": "replay", "filter": {"task": "summarise"}}).json()
    assert preview["statuses"] == {"completed": 2}
    (unfit,) = preview["unfit"]
    assert (unfit["execution_id"], unfit["code"]) == (plain, "not_recorded")
    job = started(ada, container, action="replay", filter={"task": "summarise"})
    assert (job["done"], job["skipped"], job["reasons"]) == (1, 1, {"not_recorded": 1})
    (made,) = ada.get(job["_links"]["new_executions"]).json()["items"]
    replayed = ada.get(f"{EXECUTIONS}/{made['id']}").json()
    assert (replayed["origin_id"], replayed["options"]["cassette_id"]) == (origin, origin)


def test_wrong_values_are_named(ada: Asker, admin: Asker) -> None:
    for body, field in (
        ({"action": "cancel", "filter": {}}, "filter"),
        ({"action": "cancel"}, "filter"),
        ({"action": "burn", "filter": {"task": "summarise"}}, "action"),
        ({"action": "cancel", "filter": {"status": ["completed"]}}, "filter.status"),
        ({"action": "cancel", "filter": {"status": []}}, "filter.status"),
        ({"action": "cancel", "filter": {"id": []}}, "filter.id"),
        ({"action": "delete", "filter": {"task": None}}, "filter"),
        ({"action": "delete", "filter": {"label": []}}, "filter.label"),
        ({"action": "delete", "filter": {"without_label": []}}, "filter.without_label"),
        ({"action": "cancel", "filter": {"cursor": "x"}}, "filter.cursor"),
        ({"action": "retry", "filter": {"queue": "night"}}, "filter.queue"),
        ({"action": "retry", "filter": {"task": "summarise"}, "limit": 100_001}, "limit"),
        ({"action": "label", "filter": {"task": "summarise"}}, "labels"),
        ({"action": "label", "filter": {"id": ["x"]}, "labels": {"a": "b"}}, "filter.id.0"),
        ({"action": "prioritise", "filter": {"task": "summarise"}}, "priority"),
        ({"action": "move", "filter": {"task": "summarise"}, "to_queue": "A b"}, "to_queue"),
        ({"action": "cancel", "filter": {"task": "summarise"}, "priority": "high"}, "priority"),
    ):
        problem = assert_problem(ada.post(JOBS, json=body), 422, "invalid_input")
        assert problem["field"] == field
    unknown = {"action": "cancel", "filter": {"task": "unknown"}}
    assert_problem(ada.post(JOBS, json=unknown), 404, "not_found")
    preview = ada.post(JOBS, json={"action": "cancel", "filter": {"status": ["pending"]}}).json()
    assert_problem(ada.post(f"{JOBS}/{preview['id']}/stop"), 409, "conflict")
    assert_problem(admin.post(f"{JOBS}/{preview['id']}/start"), 404, "not_found")
    assert_problem(
        ada.get(f"{JOBS}/{preview['id']}/items", params={"outcome": "open"}), 422, "invalid_input"
    )
