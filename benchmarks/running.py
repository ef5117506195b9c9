"""(g) What executions that only run cost PostgreSQL: row versions and log, by the leases alone."""

import time
from typing import Any

from benchmarks.figures import Figure, Target
from benchmarks.scale import Scale
from benchmarks.stage import Stage
from celeriac.domain.executions.model import SubmitRequest
from celeriac.domain.executions.states import Status
from celeriac.domain.tasks import DEFAULT_QUEUE
from celeriac.services.executions.stop import Cancel

_START_SECONDS = 120.0
_POLL_SECONDS = 0.1
_WAIT_SECONDS = 3600.0
"""They are cancelled when enough was seen."""

_REPORT_SECONDS = 12.0
"""Idle sessions of PostgreSQL report what they did ten seconds later."""

_VERSIONS = """
SELECT relname, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables
WHERE relname IN ('executions', 'workers')
"""


def measure(stage: Stage, scale: Scale) -> Figure:
    """Let `scale.running` executions run in one worker process for `scale.running_seconds`."""
    count, seconds = scale.running, scale.running_seconds
    with stage.programs.beat(), stage.programs.worker(pool="threads", concurrency=count):
        _wait(stage, lambda: stage.container.dispatch.capacity(DEFAULT_QUEUE) >= count)
        request = SubmitRequest(task_id=stage.tasks["wait"])
        waits = [{"seconds": _WAIT_SECONDS}] * count
        stage.container.submit.batch(stage.actor, request, waits)
        stage.container.dispatch.send_due()
        _wait(stage, lambda: _running(stage) == count)
        time.sleep(_REPORT_SECONDS)
        before, begin = _counters(stage), time.perf_counter()
        time.sleep(seconds)
        after, passed = _counters(stage), time.perf_counter() - begin
        still = _running(stage)
        cancel = Cancel(stage.container.database, stage.container.live)
        cancel.all_of_task(stage.actor, stage.tasks["wait"])
        stage.watch.wait_until_idle()
    each = {name: round((after[name] - before[name]) / passed, 2) for name in before}
    return Figure(
        "What do executions that only run cost PostgreSQL, per second?",
        {"executions": still, "seconds": round(passed, 1), "per_second": each},
        [Target("row versions of executions", each["executions_versions"], 0.0)],
    )


def _running(stage: Stage) -> int:
    query = "SELECT count(*) FROM executions WHERE status = :status"
    return int(stage.watch.rows(query, status=Status.RUNNING)[0][0])


def _counters(stage: Stage) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, versions, hot in stage.watch.rows(_VERSIONS):
        found[f"{name}_versions"] = versions
        found[f"{name}_versions_not_hot"] = versions - hot
    log = stage.watch.rows("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
    return found | {"wal_bytes": int(log[0][0])}


def _wait(stage: Stage, condition: Any) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not all run within {_START_SECONDS:g} s: {_running(stage)}")
        time.sleep(_POLL_SECONDS)
