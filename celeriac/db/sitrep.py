"""The statements of the situation report: each on an index and bounded, whatever the history."""

from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

from celeriac.db.executions.silence import is_silent
from celeriac.domain.executions.states import Held, Status, WaitingFor
from celeriac.domain.rollups import Grain
from celeriac.domain.sitrep import MOST_COUNTED, MOST_QUEUES, LateSchedule, LiveCount

_COLUMNS = "status, held, waiting_for, queue, available_at"


def _of_workspace(status: str) -> str:
    return f"""(SELECT {_COLUMNS} FROM executions
    WHERE workspace_id = :workspace_id AND status = '{status}' AND max_crashes <> -1
    ORDER BY id LIMIT :most)"""  # noqa: S608 - put together from constants


_AGE = "extract(epoch FROM clock_timestamp() - min(available_at))"
_OF_WORKSPACE = text(f"""
SELECT status, held, waiting_for, queue, count(*), {_AGE} FROM (
    {" UNION ALL ".join(map(_of_workspace, ("pending", "queued", "running", "waiting")))}
) AS live GROUP BY status, held, waiting_for, queue
""")  # noqa: S608 - put together from constants


def _first_queues(name: str, condition: str) -> str:
    """Return the queues of rows that an index of them holds, one probe for each, as SQL."""
    return f"""{name} AS (
    (SELECT queue FROM executions WHERE {condition} ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT queue FROM executions WHERE {condition} AND queue > {name}.queue
            ORDER BY queue LIMIT 1)
    FROM {name} WHERE {name}.queue IS NOT NULL
)"""  # noqa: S608 - put together from constants


def _by_queue(status: str, name: str, condition: str) -> str:
    return f"""
SELECT '{status}' AS status, NULL AS held, NULL AS waiting_for, q.queue, n.count, n.age
FROM (SELECT queue FROM {name} WHERE queue IS NOT NULL LIMIT :queues) AS q, LATERAL (
    SELECT count(*) AS count, {_AGE} AS age
    FROM (SELECT available_at FROM executions
          WHERE {condition} AND queue = q.queue LIMIT :most) AS part) AS n"""  # noqa: S608


def _sample(condition: str) -> str:
    return f"""
SELECT status, held, waiting_for, queue, count(*), {_AGE}
FROM (SELECT {_COLUMNS} FROM executions WHERE {condition} LIMIT :most) AS part
GROUP BY status, held, waiting_for, queue"""  # noqa: S608 - put together from constants


_DUE = "status = 'pending' AND held IS NULL"
_SENT = "status = 'queued' AND queued_at IS NOT NULL"
_ELSEWHERE = f"""
({_sample("status = 'pending' AND held = 'time'")})
UNION ALL ({_sample("status = 'pending' AND held = 'paused'")})
UNION ALL ({_sample("status = 'waiting' AND waiting_until IS NOT NULL")})
UNION ALL (
SELECT 'pending', 'limit', NULL, '', count(*), NULL
FROM (SELECT 1 FROM execution_limits WHERE state = 'waiting' LIMIT :most) AS part
HAVING count(*) > 0)"""  # noqa: S608 - put together from constants
_OF_ALL = text(f"""
WITH RECURSIVE {_first_queues("due", _DUE)}, {_first_queues("sent", _SENT)}
{_by_queue("pending", "due", _DUE)}
UNION ALL {_by_queue("queued", "sent", _SENT)}
UNION ALL ({_sample("status = 'running' AND worker_id IS NOT NULL")})
UNION ALL {_ELSEWHERE}
""")
_HELD = text(_ELSEWHERE)


def live(connection: Connection, *, workspace_id: UUID | None) -> list[LiveCount]:
    """Return how many executions have not ended, by state and queue.

    Of each state of a workspace the oldest MOST_COUNTED + 1 are counted; of all workspaces so many
    of each queue. Those of the instance that wait for their children are not counted.
    """
    most = MOST_COUNTED + 1
    if workspace_id is None:
        rows = connection.execute(_OF_ALL, {"most": most, "queues": MOST_QUEUES})
    else:
        rows = connection.execute(_OF_WORKSPACE, {"most": most, "workspace_id": workspace_id})
    return [_live(row) for row in rows]


def held(connection: Connection, *, most: int) -> list[LiveCount]:
    """Return how many executions of the instance are held or wait, up to `most` of each kind.

    Those that are due, at the broker or running are not among them, nor those that wait for their
    children.
    """
    return [_live(row) for row in connection.execute(_HELD, {"most": most})]


def _live(row: Row[Any]) -> LiveCount:
    status, held, waiting_for, queue, count, oldest = tuple(row)
    return LiveCount(
        status=Status(status),
        held=Held(held) if held else None,
        waiting_for=WaitingFor(waiting_for) if waiting_for else None,
        queue=queue,
        count=int(count),
        oldest_seconds=None if oldest is None else float(oldest),
    )


_WORKERS = text("""
SELECT hostname, pid, queues, slots, running, version, started_at, seen_at, consuming,
       extract(epoch FROM clock_timestamp() - seen_at), lost_at IS NOT NULL,
       EXISTS (SELECT FROM pauses p WHERE p.worker = workers.hostname)
FROM workers
WHERE stopped_at IS NULL AND seen_at > now() - make_interval(secs => :remembered)
ORDER BY seen_at DESC
LIMIT :limit
""")


def workers(connection: Connection, *, remembered: float, limit: int) -> list[tuple[Any, ...]]:
    """Return worker processes that reported within `remembered` seconds and have not stopped."""
    return list(
        map(tuple, connection.execute(_WORKERS, {"remembered": remembered, "limit": limit}))
    )


_ONE_WORKSPACE = "workspace_id = :workspace_id"
_APPROVALS = {
    one: text(f"""
SELECT count(*), extract(epoch FROM clock_timestamp() - min(created_at))
FROM (SELECT created_at FROM approvals WHERE status = 'open' {condition} LIMIT :most) AS part
""")  # noqa: S608 - put together from constants
    for one, condition in (
        (True, f"AND {_ONE_WORKSPACE} ORDER BY id"),
        (False, "ORDER BY expires_at"),
    )
}


def approvals(connection: Connection, *, workspace_id: UUID | None) -> tuple[int, float | None]:
    """Return how many questions are open, up to MOST_COUNTED + 1, and the age of the oldest."""
    found = connection.execute(
        _APPROVALS[workspace_id is not None],
        {"workspace_id": workspace_id, "most": MOST_COUNTED + 1},
    ).one()
    return int(found[0]), None if found[1] is None else float(found[1])


_RUNNING = {
    True: f"{_ONE_WORKSPACE} AND status = 'running' AND max_crashes <> -1 ORDER BY id",
    False: "status = 'running' AND worker_id IS NOT NULL",
}
_SILENT = {
    one: text(f"""
SELECT count(*), extract(epoch FROM now() - min(greatest(active_at, attempt_started_at)))
FROM (SELECT id, active_at, attempt_started_at FROM executions
      WHERE {condition} LIMIT :most) AS part
WHERE {is_silent("part")}
""")  # noqa: S608 - put together from constants
    for one, condition in _RUNNING.items()
}


def silent(connection: Connection, *, workspace_id: UUID | None) -> tuple[int, float | None]:
    """Return how many running executions are silent, and the longest silence in seconds.

    MOST_COUNTED + 1 that run are looked at, in a workspace the oldest ones.
    """
    found = connection.execute(
        _SILENT[workspace_id is not None],
        {"workspace_id": workspace_id, "most": MOST_COUNTED + 1},
    ).one()
    return int(found[0]), None if found[1] is None else float(found[1])


_REGRESSED = {
    one: text(f"""
SELECT count(*), extract(epoch FROM clock_timestamp() - max(last_seen_at))
FROM (SELECT last_seen_at FROM failure_groups
      WHERE state = 'regressed' {condition} LIMIT :most) AS part
""")  # noqa: S608 - put together from constants
    for one, condition in ((True, f"AND {_ONE_WORKSPACE}"), (False, ""))
}


def regressed(connection: Connection, *, workspace_id: UUID | None) -> tuple[int, float | None]:
    """Return how many groups of failures are `regressed`, up to MOST_COUNTED + 1.

    And how many seconds ago the latest of their failures was.
    """
    found = connection.execute(
        _REGRESSED[workspace_id is not None],
        {"workspace_id": workspace_id, "most": MOST_COUNTED + 1},
    ).one()
    return int(found[0]), None if found[1] is None else float(found[1])


_SINCE = "date_trunc(:grain, now() - make_interval(secs => :seconds), 'UTC')"
_FAILING_TASKS = {
    one: text(f"""
WITH recent AS (
    SELECT task_id, state, last_seen_at FROM failure_groups
    WHERE {condition} ORDER BY {newest} DESC LIMIT :most
), failing AS (
    SELECT DISTINCT task_id FROM recent
    WHERE last_seen_at >= {_SINCE} AND state NOT IN ('known', 'muted')
), sums AS (
    SELECT workspace_id, task_id, sum(failed)::bigint AS failed FROM execution_rollups
    WHERE scope = 'task' AND grain = :grain AND start >= {_SINCE} {also}
      AND task_id = ANY (ARRAY(SELECT task_id FROM failing))
    GROUP BY workspace_id, task_id
    HAVING sum(completed) = 0 AND sum(failed) > 0
)
SELECT w.name, t.name, sums.failed
FROM sums JOIN tasks t ON t.id = sums.task_id JOIN workspaces w ON w.id = sums.workspace_id
ORDER BY sums.failed DESC, t.name LIMIT :limit
""")  # noqa: S608 - put together from constants
    for one, condition, newest, also in (
        (True, _ONE_WORKSPACE, "last_execution_id", f"AND {_ONE_WORKSPACE}"),
        (False, f"last_seen_at >= {_SINCE}", "last_seen_at", ""),
    )
}


def failing_tasks(
    connection: Connection,
    *,
    workspace_id: UUID | None,
    grain: Grain,
    seconds: float,
    limit: int,
) -> list[tuple[str, str, int]]:
    """Return tasks of which all executions that ended in the last `seconds` failed.

    Each row has workspace, task and number of failures; the most failures first. A task whose
    failures people have set to known or muted is left out. The newest MOST_COUNTED groups of
    failures are looked at.
    """
    found = connection.execute(
        _FAILING_TASKS[workspace_id is not None],
        {
            "workspace_id": workspace_id,
            "grain": grain,
            "seconds": seconds,
            "most": MOST_COUNTED,
            "limit": limit,
        },
    )
    return [(row[0], row[1], row[2]) for row in found]


_STUCK_JOBS = {
    one: text(f"""
SELECT coalesce(sum(number), 0), max(age) FROM (
    SELECT count(*) AS number, extract(epoch FROM clock_timestamp() - max(worked)) AS age
    FROM (SELECT workspace_id, greatest(worked_at, started_at, created_at) AS worked
          FROM bulk_jobs WHERE status IN ('pending', 'running') AND {condition}
          ORDER BY workspace_id, id LIMIT :most) AS part
    GROUP BY workspace_id) AS workspaces
WHERE age > :seconds
""")  # noqa: S608 - put together from constants
    for one, condition in ((True, _ONE_WORKSPACE), (False, "true"))
}


def stuck_bulk_jobs(
    connection: Connection, *, workspace_id: UUID | None, seconds: float
) -> tuple[int, float | None]:
    """Return how many bulk jobs nobody works on, and for how many seconds at most.

    Jobs of a workspace take turns, so they count if none of them has done a batch for `seconds`.
    MOST_COUNTED + 1 jobs are looked at.
    """
    found = connection.execute(
        _STUCK_JOBS[workspace_id is not None],
        {"workspace_id": workspace_id, "seconds": seconds, "most": MOST_COUNTED + 1},
    ).one()
    return int(found[0]), None if found[1] is None else float(found[1])


_ENDPOINTS = {
    one: text(f"""
SELECT url, extract(epoch FROM clock_timestamp() - failing_since), NOT active
FROM webhook_endpoints
WHERE failing_since IS NOT NULL AND {condition}
ORDER BY workspace_id, id LIMIT :limit
""")  # noqa: S608 - put together from constants
    for one, condition in ((True, _ONE_WORKSPACE), (False, "true"))
}


def failing_endpoints(
    connection: Connection, *, workspace_id: UUID | None, limit: int
) -> list[tuple[Any, ...]]:
    """Return webhook endpoints that fail: URL, since how many seconds, whether not active."""
    return list(
        map(
            tuple,
            connection.execute(
                _ENDPOINTS[workspace_id is not None], {"workspace_id": workspace_id, "limit": limit}
            ),
        )
    )


_LATE = {
    one: text(f"""
SELECT name, extract(epoch FROM clock_timestamp() - due_at) FROM schedules
WHERE active AND due_at IS NOT NULL AND due_at < now() - make_interval(secs => :seconds)
  AND {condition}
ORDER BY due_at LIMIT :limit
""")  # noqa: S608 - put together from constants
    for one, condition in ((True, _ONE_WORKSPACE), (False, "true"))
}


def late_schedules(
    connection: Connection, *, workspace_id: UUID | None, seconds: float, limit: int
) -> list[LateSchedule]:
    """Return schedules that are overdue by `seconds`, the latest first."""
    values = {"workspace_id": workspace_id, "seconds": seconds, "limit": limit}
    rows = connection.execute(_LATE[workspace_id is not None], values)
    return [LateSchedule(name=name, late_seconds=float(late)) for name, late in rows]


_PAUSES = text("""
SELECT p.scope, coalesce(p.queue, p.worker, t.name, f.name, l.name, p.key, w.name), p.queue,
       p.reason,
       extract(epoch FROM clock_timestamp() - p.created_at)
FROM (SELECT * FROM pauses
      WHERE CAST(:workspace_id AS uuid) IS NULL OR workspace_id IS NULL
         OR workspace_id = :workspace_id
      ORDER BY id DESC LIMIT :limit) AS p
LEFT JOIN tasks t ON t.id = p.task_id
LEFT JOIN workflows f ON f.id = p.workflow_id
LEFT JOIN limits l ON l.id = p.limit_id
LEFT JOIN workspaces w ON w.id = p.workspace_id
ORDER BY p.id DESC
""")


def pauses(
    connection: Connection, *, workspace_id: UUID | None, limit: int
) -> list[tuple[Any, ...]]:
    """Return what is paused: scope, name, queue, reason and for how many seconds."""
    return list(
        map(tuple, connection.execute(_PAUSES, {"workspace_id": workspace_id, "limit": limit}))
    )


_PERIODIC = text("""
SELECT s.name, s.active, s.cron, s.every_seconds, s.at, s.zone, s.due_at,
       extract(epoch FROM clock_timestamp() - s.due_at), f.scheduled_at, f.started_at, f.status,
       f.reason, f.error, e.status, e.error_message, r.status, r.error_message
FROM (SELECT * FROM schedules WHERE workspace_id = :workspace_id
      ORDER BY id DESC LIMIT :limit) AS s
LEFT JOIN LATERAL (SELECT * FROM schedule_fires WHERE schedule_id = s.id
                   ORDER BY id DESC LIMIT 1) AS f ON true
LEFT JOIN executions e ON e.id = f.execution_id
LEFT JOIN workflow_runs r ON r.id = f.run_id
ORDER BY s.id DESC
""")


def periodic(connection: Connection, *, workspace_id: UUID, limit: int) -> list[tuple[Any, ...]]:
    """Return the newest schedules of a workspace, each with its last fire and what it started."""
    return list(
        map(tuple, connection.execute(_PERIODIC, {"workspace_id": workspace_id, "limit": limit}))
    )


_SENT_TASKS = text("""
SELECT a.id, a.resource_id, a.details ->> 'name', a.at, r.status, r.queue, r.started_at,
       r.changed_at, r.error_message
FROM (SELECT * FROM audit_logs
      WHERE workspace_id = :workspace_id AND resource_type = 'celery_task'
        AND (CAST(:before AS uuid) IS NULL OR id < :before)
      ORDER BY id DESC LIMIT :limit) AS a
LEFT JOIN plain_task_runs r ON r.task_id = a.resource_id AND r.status <> 'in_progress'
ORDER BY a.id DESC
""")


def sent_tasks(
    connection: Connection, *, workspace_id: UUID, before: UUID | None, limit: int
) -> list[tuple[Any, ...]]:
    """Return plain Celery tasks that members have sent, the newest first, with recorded ends."""
    values = {"workspace_id": workspace_id, "before": before, "limit": limit}
    return list(map(tuple, connection.execute(_SENT_TASKS, values)))
