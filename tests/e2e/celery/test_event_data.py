"""docs/events.md tells of all that stands in events of real executions."""

import re
from pathlib import Path

from sqlalchemy import text

from celeriac.domain.executions.model import SubmitRequest
from celeriac.domain.executions.states import Status
from celeriac.domain.tasks import RetryPolicy
from tests.support.fleet import Fleet
from tests.support.programs import Program
from tests.support.waiting import wait_until

_PAGE = (Path(__file__).parents[3] / "docs" / "events.md").read_text()
_ROW = re.compile(r"^\| `(?P<type>\w+)` \| .*? \|(?P<data>.*)\|$", re.MULTILINE)
_DESCRIBED = {row["type"]: set(re.findall(r"`(\w+)`", row["data"])) for row in _ROW.finditer(_PAGE)}


def test_the_keys_of_every_event_are_described(fleet: Fleet, worker: Program) -> None:
    """Also those of all executions that the tests beside this one left behind."""
    _run_in_every_way(fleet)
    query = text(
        "SELECT type, array_agg(DISTINCT key) FROM events"
        " LEFT JOIN LATERAL json_object_keys(data) AS key ON true GROUP BY type"
    )
    with fleet.container.database.autocommit() as connection:
        stored = {row[0]: set(row[1]) - {None} for row in connection.execute(query)}
    assert stored.keys() >= {
        "created", "queued", "started", "completed", "failed", "retry_scheduled", "cancelled",
        "cancel_requested", "progress", "log",
    }  # fmt: skip
    undescribed = {
        kind: keys - _DESCRIBED[kind] for kind, keys in stored.items() if keys - _DESCRIBED[kind]
    }
    assert not undescribed


def _run_in_every_way(fleet: Fleet) -> None:
    retry = RetryPolicy(max_retries=1, base_seconds=0.1)
    gate = str(fleet.home / "a-gate-that-stays-shut")
    running = fleet.submit(fleet.task("talk"), diary=str(fleet.diary), gate=gate)
    waiting = fleet.container.submit(
        fleet.actor, SubmitRequest(task_id=fleet.task("noop"), delay_seconds=600)
    ).execution_id
    ends = {
        fleet.submit(fleet.task("noop")): Status.COMPLETED,
        fleet.submit(fleet.task("tell", retry=retry), times=9): Status.FAILED,
        waiting: Status.CANCELLED,
        running: Status.CANCELLED,
    }
    wait_until(lambda: "progress" in fleet.event_types(running), "it tells of its progress")
    fleet.container.cancel(fleet.actor, [running, waiting])
    for done in fleet.wait_terminal(list(ends)):
        assert done.status is ends[done.id]
