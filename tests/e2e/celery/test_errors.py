"""Where an execution's error is stored (A17): its row, the error log, the audit trail.

Its session is the fourth place, where it has one (test_sessions.py).
"""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
import pytest

from celeriac.domain.executions.model import Execution
from celeriac.domain.executions.states import Status
from celeriac.domain.tasks import RetryPolicy
from tests.support.fleet import Fleet
from tests.support.logfiles import json_lines
from tests.support.programs import Program
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("A17")


@pytest.mark.requirement("A5", "B6")
def test_an_error_is_in_the_row_the_error_log_and_the_audit_trail(
    fleet: Fleet, worker: Program, http: httpx.Client
) -> None:
    failed = _run(fleet, http, "refuse", diary=str(fleet.diary))
    assert failed.status is Status.FAILED
    assert failed.error_message == "never"
    details = failed.error_details
    assert details is not None
    assert (details["type"], details["attempt"]) == ("PermanentError", 1)
    assert 'raise PermanentError("never")' in details["traceback"]

    (line,) = _error_lines(fleet, failed.id, "execution.failed")
    assert line["level"] == "error"
    assert line["error"] == failed.error_message
    assert line["traceback"] == details["traceback"]
    assert line["request_id"] == "the-request"

    (entry,) = _audit(http, failed.id, "execution.fail")
    assert entry["actor"] == "worker"
    assert entry["request_id"] == "the-request"
    assert entry["details"] == {"code": failed.error_code, "message": "never", "attempt": 1}


@pytest.mark.requirement("A9")
def test_each_retry_and_the_last_failure_are_recorded(
    fleet: Fleet, worker: Program, http: httpx.Client
) -> None:
    retry = RetryPolicy(max_retries=2, base_seconds=0.1)
    failed = _run(fleet, http, "tell", retry=retry, times=9)
    assert (failed.status, failed.attempt, failed.retry_count) == (Status.FAILED, 3, 2)
    types = fleet.event_types(failed.id)
    assert (types.count("retry_scheduled"), types[-1]) == (2, "failed")
    (line,) = _error_lines(fleet, failed.id, "execution.failed")
    assert line["attempt"] == 3
    file = fleet.home / "celeriac" / "logs" / f"task-execution-{failed.id}.log"
    retries = [x for x in json_lines(file) if x["event"] == "execution.retry_scheduled"]
    assert [x["attempt"] for x in retries] == [1, 2]
    assert all("RetryableError: attempt" in x["traceback"] for x in retries)
    assert len(_audit(http, failed.id, "execution.fail")) == 1


def test_who_loses_its_workers_too_often_is_in_all_places_as_well(
    fleet: Fleet, worker: Program, http: httpx.Client
) -> None:
    """Nobody is left to tell but the keeper."""
    victim = fleet.worker("victim", options=("-Q", "doomed"))
    task = fleet.task("crash", queue="doomed", max_crashes=1)
    execution_id = fleet.submit(task, diary=str(fleet.diary))
    victim.wait_end()
    (failed,) = fleet.wait_terminal([execution_id])
    assert (failed.status, failed.error_code) == (Status.FAILED, "worker_lost")
    (line,) = _error_lines(fleet, failed.id, "execution.worker_lost")
    assert line["worker"].startswith("victim@fleet")
    (entry,) = _audit(http, failed.id, "execution.fail")
    assert entry["actor"] == "keeper"
    assert entry["details"]["code"] == "worker_lost"


def _run(
    fleet: Fleet,
    http: httpx.Client,
    function: str,
    *,
    retry: RetryPolicy | None = None,
    **variables: Any,
) -> Execution:
    task = fleet.task(function, retry=retry or RetryPolicy())
    answer = http.post(
        f"/api/v1/tasks/{task}/execute",
        json={"variables": variables},
        headers={"X-Request-ID": "the-request"},
    )
    assert answer.status_code == 202, answer.text
    (done,) = fleet.wait_terminal([UUID(answer.json()["execution_id"])])
    return done


def _error_lines(fleet: Fleet, execution_id: UUID, event: str) -> list[dict[str, Any]]:
    """Return the lines of an execution in the error file of the day, once `event` is there."""
    errors = fleet.home / "celeriac" / "logs" / "errors"

    def found() -> list[dict[str, Any]]:
        # a test may begin on one day and end on the next
        files = sorted(errors.glob("task-errors-*.log"))
        lines = [line for file in files for line in json_lines(file)]
        return [line for line in lines if line["execution_id"] == str(execution_id)]

    wait_until(lambda: any(x["event"] == event for x in found()), f"{event} is in the error log")
    today = datetime.now(UTC).date()
    assert any(file.name.startswith(f"task-errors-{today:%Y-%m}") for file in errors.iterdir())
    return found()


def _audit(http: httpx.Client, execution_id: UUID, action: str) -> list[dict[str, Any]]:
    wanted = {"resource_type": "execution", "resource_id": str(execution_id), "action": action}
    answer = http.get("/api/v1/audit-logs", params=wanted)
    assert answer.status_code == 200, answer.text
    entries: list[dict[str, Any]] = answer.json()["items"]
    return entries
