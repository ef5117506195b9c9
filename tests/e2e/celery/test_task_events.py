"""Celery's signals as JSON lines, on stdout and in the worker's file (A10, A16, B6, B11)."""

from collections import Counter
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from tests.support.fleet import Fleet
from tests.support.logfiles import json_lines
from tests.support.programs import Program
from tests.support.waiting import wait_until

_LONG = "ä" * 500


@pytest.mark.requirement("A10", "B11")
def test_a_success_is_three_lines(fleet: Fleet, worker: Program) -> None:
    lines = _run(fleet, worker, "plain.echo", ["short"])
    assert _events(lines) == ["celery.task_prerun", "celery.task_success", "celery.task_postrun"]
    begun, success, ended = lines
    assert (begun["args"], begun["kwargs"]) == ('["short"]', "{}")
    assert success["result"] == "short"
    assert ended["state"] == "SUCCESS"


@pytest.mark.requirement("A10")
def test_arguments_and_results_are_cut_at_200_characters(fleet: Fleet, worker: Program) -> None:
    begun, success, _ = _run(fleet, worker, "plain.echo", [_LONG])
    assert begun["args"] == '["' + "ä" * 197 + "…"
    assert success["result"] == "ä" * 199 + "…"


@pytest.mark.requirement("A10")
def test_secrets_in_arguments_are_masked(fleet: Fleet, worker: Program) -> None:
    lines = _run(fleet, worker, "plain.echo", [{"api_key": "hunter2", "city": "Oslo"}])
    assert "hunter2" not in str(lines)
    assert "Oslo" in lines[0]["args"]


@pytest.mark.requirement("A10", "B6", "B11")
def test_a_failure_has_its_whole_traceback(fleet: Fleet, worker: Program) -> None:
    lines = _run(fleet, worker, "plain.fail", ["no luck"])
    assert _events(lines) == ["celery.task_prerun", "celery.task_failure", "celery.task_postrun"]
    failure = lines[1]
    assert failure["level"] == "error"
    assert (failure["error_type"], failure["error"]) == ("StumbleError", "no luck")
    trace = failure["traceback"]
    assert trace.startswith("Traceback (most recent call last):")
    assert "raise StumbleError(message)" in trace
    assert trace.rstrip().endswith("StumbleError: no luck")


@pytest.mark.requirement("A10", "B11")
def test_a_retry_is_told(fleet: Fleet, worker: Program) -> None:
    lines = _run(fleet, worker, "plain.stumble", ["trips"])
    # the second try may begin before the first has told its end
    assert Counter(_events(lines)) == {
        "celery.task_prerun": 2,
        "celery.task_retry": 1,
        "celery.task_success": 1,
        "celery.task_postrun": 2,
    }
    (retry,) = (line for line in lines if line["event"] == "celery.task_retry")
    assert retry["level"] == "warning"
    assert "StumbleError('trips')" in retry["reason"]
    states = {line.get("state") for line in lines if line["event"] == "celery.task_postrun"}
    assert states == {"RETRY", "SUCCESS"}


@pytest.mark.requirement("A10", "B11")
def test_a_revoked_task_is_told(fleet: Fleet, worker: Program) -> None:
    task_id = str(uuid4())
    fleet.celery.control.revoke(task_id, destination=["w1@fleet"], reply=True, timeout=30)
    (revoked,) = _run(fleet, worker, "plain.echo", ["late"], task_id, ended="celery.task_revoked")
    assert revoked["event"] == "celery.task_revoked"
    assert revoked["terminated"] is False


@pytest.mark.requirement("A10")
def test_a_worker_that_is_ready_says_so(fleet: Fleet, worker: Program) -> None:
    wait_until(lambda: worker.logged("celery.worker_ready"), "the line is written")
    (ready,) = worker.logged("celery.worker_ready")
    assert ready["worker"] == "w1@fleet"


@pytest.mark.requirement("B11")
@pytest.mark.parametrize("program", ["worker", "beat"])
def test_a_program_that_no_terminal_sees_writes_json_and_nothing_else(
    fleet: Fleet, program: str
) -> None:
    options = ["-n", "json@fleet", "-Q", "json"] if program == "worker" else []
    beats = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'celeriac-beat'")
    before = fleet.scalar(beats)
    started = fleet.program(
        f"json-{program}", ["-m", "celeriac", program, *options],
        PYTHONWARNINGS="ignore", CELERIAC_LOG_CONSOLE="auto",
    )  # fmt: skip
    if program == "worker":
        wait_until(lambda: started.logged("celery.worker_ready"), "it is ready", within=30)
    else:  # Celery ends a beat with 1 that gets SIGTERM while it imports its scheduler
        wait_until(lambda: fleet.scalar(beats) > before, "its scheduler has begun", within=30)
    wait_until(lambda: started.output().endswith("\n"), "it has written lines", within=30)
    lines = json_lines(started.log)
    started.terminate()  # a worker says so in Celery's own words
    assert started.wait_end() == 0
    assert {line["service"] for line in lines} == {program}
    assert all({"timestamp", "level", "event"} <= set(line) for line in lines)


@pytest.mark.requirement("A16")
def test_the_workers_file_has_what_stdout_has(fleet: Fleet, worker: Program) -> None:
    lines = _run(fleet, worker, "plain.echo", ["filed"])
    file = fleet.home / "celeriac" / "logs" / "celery-worker.log"
    wait_until(lambda: lines[-1] in json_lines(file), "the file has the last line")
    assert [line for line in json_lines(file) if line in lines] == lines


def _run(
    fleet: Fleet,
    worker: Program,
    name: str,
    args: list[object],
    task_id: str | None = None,
    *,
    ended: str = "celery.task_postrun",
) -> list[dict[str, Any]]:
    """Run a task to its end and return its log lines, checked for what each of them must have."""
    task_id = task_id or str(uuid4())
    result = fleet.celery.send_task(name, args=args, task_id=task_id)
    result.get(timeout=60, propagate=False)

    def told() -> list[dict[str, Any]]:
        lines = worker.log.read_text().splitlines()
        return json_lines(
            "\n".join(line for line in lines if task_id in line and '"task_id' in line)
        )

    wait_until(lambda: ended in _events(told()), f"{ended} is written")
    for line in told():
        assert list(line)[:4] == ["timestamp", "level", "service", "event"], line
        assert line["service"] == "worker"
        assert line["task_name"] == name
        assert line["worker"] == "w1@fleet", line
    return told()


def _events(lines: list[dict[str, Any]]) -> list[str]:
    return [line["event"] for line in lines]
