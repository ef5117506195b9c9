"""Figures for monitoring. The cost of each query is bounded, whatever is stored or waits."""

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import timedelta

from sqlalchemy import Connection, text

from celeriac.db import maintenance, plain_tasks, sitrep, workers
from celeriac.db.budgets.windows import WINDOW_KEY
from celeriac.db.engine import clock
from celeriac.db.executions.silence import is_silent
from celeriac.db.schema.rollups import COUNTS
from celeriac.domain.executions.states import WaitingFor
from celeriac.domain.metrics import (
    MOST_BUDGETS,
    MOST_COUNTED,
    MOST_GROUPS,
    MOST_QUEUES,
    MOST_TASKS,
    OTHER,
    BudgetFigures,
    DatabaseFigures,
    KeeperFigures,
    ModelDurations,
    QueueDurations,
    QueueFigures,
    TaskFigures,
)
from celeriac.domain.rollups import Histogram
from celeriac.domain.sitrep import reason_of
from celeriac.kit.ids import uuid7_at

_MINUTE = timedelta(minutes=1)

# The oldest tasks have series of their own: a set that later tasks don't change. What is left of
# the totals of the system is that of all others.
_TASKS = text(f"""
WITH named AS (
    SELECT workspace_id, task_id, queue, {", ".join(COUNTS)}, cost FROM execution_rollups
    WHERE scope = 'task' AND grain = 'total'
    ORDER BY task_id, queue LIMIT :most
)
SELECT coalesce(w.name, n.workspace_id::text), coalesce(t.name, n.task_id::text), n.queue,
       {", ".join(f"n.{each}" for each in COUNTS)}, n.cost
FROM named n LEFT JOIN tasks t ON t.id = n.task_id LEFT JOIN workspaces w ON w.id = n.workspace_id
UNION ALL
SELECT :other, :other, :other,
       {", ".join(f"s.{each} - (SELECT coalesce(sum({each}), 0) FROM named)" for each in COUNTS)},
       s.cost - (SELECT coalesce(sum(cost), 0) FROM named)
FROM execution_rollups s WHERE s.scope = 'system' AND s.grain = 'total'
""")  # noqa: S608 - put together from constants


def _tasks(connection: Connection) -> list[TaskFigures]:
    rows = connection.execute(_TASKS, {"most": MOST_TASKS, "other": OTHER})
    found = [
        TaskFigures(
            workspace=row[0],
            task=row[1],
            queue=row[2],
            counts=dict(zip(COUNTS, map(int, row[3:-1]), strict=True)),
            cost=float(row[-1]),
        )
        for row in rows
    ]
    return [each for each in found if each.task != OTHER or any(each.counts.values())]


_DURATIONS = text("""
WITH named AS (
    SELECT queue, wait_seconds, run_seconds, wait_buckets, wait_counts, run_buckets, run_counts
    FROM execution_rollups WHERE scope = 'task' AND grain = 'total'
), seconds AS (
    SELECT queue, sum(wait_seconds) AS wait, sum(run_seconds) AS run FROM named
    GROUP BY queue ORDER BY queue LIMIT :most
), waits AS (
    SELECT queue, array_agg(bucket ORDER BY bucket) AS buckets,
           array_agg(number ORDER BY bucket) AS counts
    FROM (SELECT queue, bucket, sum(number)::bigint AS number
          FROM named, unnest(wait_buckets, wait_counts) AS each (bucket, number)
          GROUP BY queue, bucket) AS added
    GROUP BY queue
), runs AS (
    SELECT queue, array_agg(bucket ORDER BY bucket) AS buckets,
           array_agg(number ORDER BY bucket) AS counts
    FROM (SELECT queue, bucket, sum(number)::bigint AS number
          FROM named, unnest(run_buckets, run_counts) AS each (bucket, number)
          GROUP BY queue, bucket) AS added
    GROUP BY queue
)
SELECT queue, waits.buckets, waits.counts, s.wait, runs.buckets, runs.counts, s.run
FROM seconds s LEFT JOIN waits USING (queue) LEFT JOIN runs USING (queue)
""")


def _durations(connection: Connection) -> list[QueueDurations]:
    return [
        QueueDurations(
            queue=row[0],
            wait=Histogram.stored(row[1], row[2]),
            wait_seconds=float(row[3]),
            run=Histogram.stored(row[4], row[5]),
            run_seconds=float(row[6]),
        )
        for row in connection.execute(_DURATIONS, {"most": MOST_QUEUES})
    ]


# The names of queues with one look at the index for each; `known` are those of workers.
_QUEUES = text(f"""
WITH RECURSIVE due AS (
    (SELECT queue FROM executions WHERE status = 'pending' AND held IS NULL
     ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT e.queue FROM executions e
            WHERE e.status = 'pending' AND e.held IS NULL AND e.queue > due.queue
            ORDER BY e.queue LIMIT 1)
    FROM due WHERE due.queue IS NOT NULL
), sent AS (
    (SELECT queue FROM executions WHERE status = 'queued' AND queued_at IS NOT NULL
     ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT e.queue FROM executions e
            WHERE e.status = 'queued' AND e.queued_at IS NOT NULL AND e.queue > sent.queue
            ORDER BY e.queue LIMIT 1)
    FROM sent WHERE sent.queue IS NOT NULL
), running AS (
    SELECT queue, count(*) AS number, count(*) FILTER (WHERE {is_silent("part")}) AS silent
    FROM (SELECT id, queue, active_at, attempt_started_at FROM executions
          WHERE status = 'running' AND worker_id IS NOT NULL
          LIMIT :counted) AS part
    GROUP BY queue
), names AS (
    SELECT queue FROM due WHERE queue IS NOT NULL
    UNION SELECT queue FROM sent WHERE queue IS NOT NULL
    UNION SELECT queue FROM running
    UNION SELECT unnest(CAST(:known AS text[]))
    UNION SELECT queue FROM execution_rollups WHERE scope = 'task' AND grain = 'total'
    ORDER BY queue LIMIT :most
)
SELECT n.queue, d.number, s.number, coalesce(r.number, 0), coalesce(r.silent, 0),
       extract(epoch FROM now() - least(d.oldest, s.oldest)),
       EXISTS (SELECT FROM pauses p
               WHERE p.scope = 'system' OR p.scope = 'queue' AND p.queue = n.queue)
FROM names n LEFT JOIN running r USING (queue),
LATERAL (SELECT count(*) AS number, min(available_at) AS oldest
         FROM (SELECT available_at FROM executions e
               WHERE e.status = 'pending' AND e.held IS NULL AND e.queue = n.queue
               LIMIT :counted) AS part) AS d,
LATERAL (SELECT count(*) AS number, min(queued_at) AS oldest
         FROM (SELECT queued_at FROM executions e
               WHERE e.status = 'queued' AND e.queued_at IS NOT NULL AND e.queue = n.queue
               ORDER BY queued_at LIMIT :counted) AS part) AS s
""")  # noqa: S608 - put together from constants


def _queues(connection: Connection, known: Collection[str]) -> list[QueueFigures]:
    rows = connection.execute(
        _QUEUES, {"counted": MOST_COUNTED, "known": sorted(known), "most": MOST_QUEUES}
    )
    return [
        QueueFigures(
            queue=row[0],
            due=row[1],
            sent=row[2],
            running=row[3],
            silent=row[4],
            oldest_age_seconds=max(0.0, float(row[5] or 0)),
            paused=row[6],
        )
        for row in rows
    ]


_OTHERS = text("""
SELECT (SELECT count(*) FROM (SELECT FROM executions WHERE id >= :minute LIMIT :counted) AS new),
       open.number, open.age,
       coalesce((SELECT extract(epoch FROM now() - min(due_at)) FROM schedules
                 WHERE active AND due_at IS NOT NULL AND due_at < now()), 0),
       coalesce((SELECT extract(epoch FROM now() - ended_at) FROM execution_ends
                 ORDER BY id LIMIT 1), 0)
FROM (SELECT count(*) AS number,
             coalesce(extract(epoch FROM now() - min(created_at)), 0) AS age
      FROM (SELECT created_at FROM approvals WHERE status = 'open' LIMIT :counted) AS part) AS open
""")

_MODELS = text("""
SELECT provider, model, array_agg(bucket ORDER BY bucket), array_agg(calls ORDER BY bucket),
       sum(milliseconds) / 1000.0
FROM model_call_times GROUP BY provider, model ORDER BY provider, model
""")  # the fold bounds the number of models


def _models(connection: Connection) -> list[ModelDurations]:
    return [
        ModelDurations(
            provider=row[0],
            model=row[1],
            calls=Histogram.stored(row[2], row[3]),
            seconds=float(row[4]),
        )
        for row in connection.execute(_MODELS)
    ]


_FAILURE_GROUPS = text("""
SELECT state, count(*)
FROM (SELECT state FROM failure_groups ORDER BY last_seen_at DESC LIMIT :most) AS latest
GROUP BY state
""")


def _failure_groups(connection: Connection) -> dict[str, int]:
    rows = connection.execute(_FAILURE_GROUPS, {"most": MOST_GROUPS})
    return {state: int(number) for state, number in rows}


_NOT_COUNTED = (WaitingFor.APPROVAL, WaitingFor.CHILDREN, WaitingFor.CHILD)
"""No index has all of them: open questions have a figure of their own."""


def _held(connection: Connection) -> dict[tuple[str, str], int]:
    found: Counter[tuple[str, str]] = Counter()
    for each in sitrep.held(connection, most=MOST_COUNTED):
        if each.waiting_for not in _NOT_COUNTED:
            found[each.status.value, reason_of(each)] += each.count
    return dict(found)


_BUDGETS = text(f"""
SELECT w.name, b.scope, coalesce(t.name, u.name, w.name, b.subject_id::text), b.period,
       greatest(v.spent_cost / nullif(b.max_cost + v.extra_cost, 0),
                CAST(v.spent_tokens AS numeric) / nullif(b.max_tokens + v.extra_tokens, 0)) AS share
FROM budgets b JOIN budget_windows v ON v.budget_id = b.id AND v.window_key = {WINDOW_KEY}
JOIN workspaces w ON w.id = b.workspace_id
LEFT JOIN tasks t ON t.id = b.subject_id LEFT JOIN users u ON u.id = b.subject_id
ORDER BY share DESC NULLS LAST, b.id
LIMIT :most
""")  # noqa: S608 - put together from constants


def _budgets(connection: Connection) -> list[BudgetFigures]:
    return [
        BudgetFigures(
            workspace=row[0], scope=row[1], subject=row[2], period=row[3], share=float(row[4] or 0)
        )
        for row in connection.execute(_BUDGETS, {"most": MOST_BUDGETS})
    ]


def _keeper(connection: Connection) -> KeeperFigures:
    jobs = maintenance.find(connection)
    return KeeperFigures(
        last_round=max((each.ended_at.timestamp() for each in jobs), default=0.0),
        failures={each.name: each.failures for each in jobs},
    )


def read(
    connection: Connection, *, queues: Sequence[str], alive_seconds: float, statement_seconds: float
) -> DatabaseFigures:
    """Return all figures of the database; `queues` have some in any case. Needs a transaction.

    A worker process without a report for `alive_seconds` is gone. Each statement may take
    `statement_seconds`.
    """
    connection.execute(
        text("SELECT set_config('statement_timeout', :limit, true)"),
        {"limit": f"{statement_seconds * 1000:.0f}ms"},
    )
    slots = workers.slots(connection, within_seconds=alive_seconds)
    row = connection.execute(
        _OTHERS, {"minute": uuid7_at(clock(connection) - _MINUTE), "counted": MOST_COUNTED}
    ).one()
    return DatabaseFigures(
        tasks=_tasks(connection),
        queues=_queues(connection, {*queues, *(each for each in slots if each is not None)}),
        durations=_durations(connection),
        held=_held(connection),
        plain_tasks=plain_tasks.by_name(connection),
        models=_models(connection),
        failure_groups=_failure_groups(connection),
        workers=workers.live(connection, within_seconds=alive_seconds),
        slots=slots,
        submitted=row[0],
        approvals=row[1],
        approval_age_seconds=max(0.0, float(row[2])),
        schedule_late_seconds=max(0.0, float(row[3])),
        unfolded_seconds=max(0.0, float(row[4])),
        keeper=_keeper(connection),
        budgets=_budgets(connection),
    )
