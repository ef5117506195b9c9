"""Sums of executions that ended: the fold of appended ends, and windows of them.

The statements of ends append a row to `execution_ends` (`executions/ended.py`); the keeper folds
these into the sums of their minute, hour, day and of all time, for their task and queue, their
workspace and the system (docs/adr/0060), and failures in their groups (docs/adr/0065).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, TextClause, text

from celeriac.db.failures import FOLD as FAILURES
from celeriac.db.schema.rollups import COUNTS
from celeriac.domain.metrics import OTHER
from celeriac.domain.rollups import (
    MOST_QUEUES_OF_TASK,
    THRESHOLDS,
    Grain,
    Histogram,
    RollupScope,
    Sums,
)

NOBODY = UUID(int=0)
"""The workspace and task of rows with a wider scope."""

_EPOCH = datetime.fromtimestamp(0, UTC)
_KEY = "scope, grain, start, workspace_id, task_id, queue"
BUCKET = f"width_bucket(duration, CAST('{{{','.join(map(str, THRESHOLDS))}}}' AS bigint[]))"


def _histogram(column: str) -> str:
    """Return a query of the histograms of a duration of `spread`, by key, as SQL."""
    return f"""
    SELECT {_KEY}, sum(duration) / 1000.0 AS seconds, array_agg(bucket ORDER BY bucket) AS buckets,
           array_agg(number ORDER BY bucket) AS counts
    FROM (SELECT {_KEY}, {BUCKET} AS bucket, count(*) AS number, sum(duration) AS duration
          FROM (SELECT {_KEY}, greatest({column}, 0) AS duration FROM spread
                WHERE {column} IS NOT NULL) AS known
          GROUP BY {_KEY}, 7) AS counted
    GROUP BY {_KEY}"""  # noqa: S608 - put together from constants


def _merged(name: str) -> str:
    """Return what adds a histogram to that of a row, as SQL."""
    return f"""({name}_buckets, {name}_counts) = (
        SELECT array_agg(bucket ORDER BY bucket), array_agg(number ORDER BY bucket)
        FROM (SELECT bucket, sum(number)::bigint AS number
              FROM (SELECT * FROM unnest(r.{name}_buckets, r.{name}_counts)
                    UNION ALL
                    SELECT * FROM unnest(excluded.{name}_buckets, excluded.{name}_counts))
                   AS each (bucket, number)
              GROUP BY bucket) AS added)"""  # noqa: S608 - put together from constants


_SUMS_OF_TASK = """FROM execution_rollups t
                      WHERE t.scope = 'task' AND t.grain = 'total' AND t.start = to_timestamp(0)
                        AND t.workspace_id = p.workspace_id AND t.task_id = p.task_id"""
_TOTALS = ", ".join(COUNTS)
_FOLD = text(f"""
WITH folding AS (
    DELETE FROM execution_ends WHERE id = ANY (ARRAY(
        SELECT id FROM execution_ends ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED))
    RETURNING *
), listened AS (
    SELECT DISTINCT queue FROM workers, unnest(queues) AS each (queue)
), places AS (
    SELECT p.*, p.queue IN (SELECT queue FROM listened) OR EXISTS (
               SELECT {_SUMS_OF_TASK} AND t.queue = p.queue) AS known
    FROM (SELECT DISTINCT workspace_id, task_id, queue FROM folding) AS p
), named AS (
    -- queues are named by those who submit: besides those of workers only so many become rows
    SELECT workspace_id, task_id, queue,
           CASE WHEN known OR
                     (SELECT count(*) {_SUMS_OF_TASK}
                        AND t.queue <> :other AND t.queue NOT IN (SELECT queue FROM listened))
                     + row_number() OVER (PARTITION BY workspace_id, task_id, known ORDER BY queue)
                     <= :queues
                THEN queue ELSE :other END AS counted_as
    FROM places AS p
), spread AS (
    SELECT s.scope, g.grain, g.start, s.workspace_id, s.task_id, s.queue, f.outcome, f.retries,
           f.crashes, f.model_calls, f.input_tokens, f.output_tokens, f.cached_tokens,
           f.denied_tools, f.no_op, f.cost, f.wait_ms, f.run_ms
    FROM folding f JOIN named n USING (workspace_id, task_id, queue),
    LATERAL (VALUES ('system', CAST(:nobody AS uuid), CAST(:nobody AS uuid), ''),
                    ('workspace', f.workspace_id, CAST(:nobody AS uuid), ''),
                    ('task', f.workspace_id, f.task_id, n.counted_as))
        AS s (scope, workspace_id, task_id, queue),
    LATERAL (VALUES ('minute', date_trunc('minute', f.ended_at, 'UTC')),
                    ('hour', date_trunc('hour', f.ended_at, 'UTC')),
                    ('day', date_trunc('day', f.ended_at, 'UTC')),
                    ('total', to_timestamp(0)))
        AS g (grain, start)
), summed AS (
    SELECT {_KEY},
           count(*) FILTER (WHERE outcome = 'completed') AS completed,
           count(*) FILTER (WHERE outcome = 'failed') AS failed,
           count(*) FILTER (WHERE outcome = 'cancelled') AS cancelled,
           sum(retries) AS retries, sum(crashes) AS crashes, sum(model_calls) AS model_calls,
           sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
           sum(cached_tokens) AS cached_tokens, sum(denied_tools) AS denied_tools,
           count(*) FILTER (WHERE no_op) AS no_ops, sum(cost) AS cost
    FROM spread GROUP BY {_KEY}
), waits AS ({_histogram("wait_ms")}
), runs AS ({_histogram("run_ms")}
), folded AS (
    -- in the order of their keys, as every other fold locks them
    INSERT INTO execution_rollups AS r ({_KEY}, {_TOTALS}, cost, wait_seconds, wait_buckets,
                                        wait_counts, run_seconds, run_buckets, run_counts)
    SELECT {_KEY}, {_TOTALS}, cost, coalesce(waits.seconds, 0), waits.buckets, waits.counts,
           coalesce(runs.seconds, 0), runs.buckets, runs.counts
    FROM summed LEFT JOIN waits USING ({_KEY}) LEFT JOIN runs USING ({_KEY})
    ORDER BY {_KEY}
    ON CONFLICT ({_KEY}) DO UPDATE
    SET {", ".join(f"{each} = r.{each} + excluded.{each}" for each in COUNTS)},
        cost = r.cost + excluded.cost,
        wait_seconds = r.wait_seconds + excluded.wait_seconds,
        run_seconds = r.run_seconds + excluded.run_seconds,
        {_merged("wait")},
        {_merged("run")}
){FAILURES}
-- a fold that is lost with the server has not deleted its ends either
SELECT count(*), set_config('synchronous_commit', 'off', true) FROM folding
""")  # noqa: S608 - put together from constants


def fold(connection: Connection, *, limit: int) -> int:
    """Move up to `limit` ends into their sums, in one statement; return how many.

    Any number of folds may run at once: each takes ends that no other has locked.
    """
    parameters = {
        "limit": limit,
        "nobody": NOBODY,
        "queues": MOST_QUEUES_OF_TASK,
        "other": OTHER,
    }
    return int(connection.execute(_FOLD, parameters).scalars().one())


_CLOCK = text("""
SELECT now(), date_trunc(:grain, now() - make_interval(secs => :seconds), 'UTC'),
       (SELECT extract(epoch FROM now() - ended_at) FROM execution_ends ORDER BY id LIMIT 1)
""")


@dataclass(frozen=True, slots=True)
class Span:
    """The time that a window covers, and the age of the oldest end that is not folded."""

    until: datetime
    since: datetime
    behind_seconds: float | None


def span(connection: Connection, grain: Grain, *, seconds: float) -> Span:
    """Return the span of the last `seconds`; it begins with a whole `grain`."""
    row = connection.execute(_CLOCK, {"grain": grain, "seconds": seconds}).one()
    return Span(row[0], row[1], None if row[2] is None else float(row[2]))


_VALUES = (
    *COUNTS, "cost", "wait_seconds", "run_seconds", "wait_buckets", "wait_counts", "run_buckets",
    "run_counts",
)  # fmt: skip

_ROWS = text(f"""
SELECT {", ".join(_VALUES)} FROM execution_rollups
WHERE scope = :scope AND grain = :grain AND start >= :since AND workspace_id = :workspace_id
  AND task_id = :nobody AND queue = ''
""")  # noqa: S608 - put together from constants


def sums(
    connection: Connection, grain: Grain, *, since: datetime | None, workspace_id: UUID | None
) -> Sums:
    """Return the sums of a workspace, or of the system; `since` is None for those of all time."""
    rows = connection.execute(
        _ROWS,
        {
            "scope": RollupScope.SYSTEM if workspace_id is None else RollupScope.WORKSPACE,
            "grain": grain,
            "since": since or _EPOCH,
            "workspace_id": workspace_id or NOBODY,
            "nobody": NOBODY,
        },
    )
    return Sums.merged(list(map(_sums, rows)))


def _best(key: str, condition: str) -> TextClause:
    """Return a query of the sums of the keys with the most ends in a window."""
    return text(f"""
WITH part AS MATERIALIZED (
    SELECT {key} AS key, {", ".join(_VALUES)} FROM execution_rollups
    WHERE scope = 'task' AND grain = :grain AND start >= :since AND {condition}
), best AS MATERIALIZED (
    SELECT key, {", ".join(f"sum({each})::bigint AS {each}" for each in COUNTS)}, sum(cost) AS cost,
           sum(wait_seconds) AS wait_seconds, sum(run_seconds) AS run_seconds
    FROM part GROUP BY key
    ORDER BY sum(completed + failed + cancelled) DESC, key
    LIMIT :top
){_of_best("wait")}{_of_best("run")}
SELECT {_TOTALS}, cost, wait_seconds, run_seconds, waits.buckets, waits.counts, runs.buckets,
       runs.counts, key
FROM best LEFT JOIN waits USING (key) LEFT JOIN runs USING (key)
ORDER BY completed + failed + cancelled DESC, key
""")  # noqa: S608 - put together from constants


def _of_best(name: str) -> str:
    return f"""
, {name}s AS (
    SELECT key, array_agg(bucket ORDER BY bucket) AS buckets,
           array_agg(number ORDER BY bucket) AS counts
    FROM (SELECT key, bucket, sum(number)::bigint AS number
          FROM part, unnest({name}_buckets, {name}_counts) AS each (bucket, number)
          WHERE key IN (SELECT key FROM best)
          GROUP BY key, bucket) AS added
    GROUP BY key
)"""  # noqa: S608 - put together from constants


_OF_ONE = "workspace_id = :workspace_id"
_BY_TASK = {True: _best("task_id", _OF_ONE), False: _best("task_id", "true")}
_BY_QUEUE = {True: _best("queue", _OF_ONE), False: _best("queue", "true")}


def by_task(
    connection: Connection,
    grain: Grain,
    *,
    since: datetime,
    workspace_id: UUID | None,
    top: int,
) -> list[tuple[UUID, Sums]]:
    """Return the sums of up to `top` tasks of a workspace, or of all; the most ends first."""
    query = _BY_TASK[workspace_id is not None]
    rows = connection.execute(query, _of(grain, since, workspace_id, top))
    return [(row[-1], _sums(row)) for row in rows]


def by_queue(
    connection: Connection,
    grain: Grain,
    *,
    since: datetime,
    workspace_id: UUID | None,
    top: int,
) -> list[tuple[str, Sums]]:
    """Return the sums of up to `top` queues of a workspace, or of all; the most ends first."""
    query = _BY_QUEUE[workspace_id is not None]
    rows = connection.execute(query, _of(grain, since, workspace_id, top))
    return [(row[-1], _sums(row)) for row in rows]


_NAMES = text("""
SELECT t.id, t.name, w.name FROM tasks t JOIN workspaces w ON w.id = t.workspace_id
WHERE t.id = ANY (CAST(:ids AS uuid[]))
""")


def names(connection: Connection, task_ids: Sequence[UUID]) -> dict[UUID, tuple[str, str]]:
    """Return the names of tasks and of their workspaces, of those that exist."""
    rows = connection.execute(_NAMES, {"ids": list(task_ids)})
    return {row[0]: (row[1], row[2]) for row in rows}


_DELETE = text("""
DELETE FROM execution_rollups WHERE (scope, grain, start, workspace_id, task_id, queue) IN (
    SELECT scope, grain, start, workspace_id, task_id, queue FROM execution_rollups
    WHERE grain = :grain AND start < now() - make_interval(secs => :seconds)
    ORDER BY start
    LIMIT :limit)
""")


def delete_old(connection: Connection, grain: Grain, *, days: float, limit: int) -> int:
    """Delete sums of minutes, hours or days that are older than `days`; return how many rows."""
    parameters = {"grain": grain, "seconds": days * 86_400, "limit": limit}
    return connection.execute(_DELETE, parameters).rowcount


def _of(grain: Grain, since: datetime, workspace_id: UUID | None, top: int) -> dict[str, object]:
    return {"grain": grain, "since": since, "workspace_id": workspace_id, "top": top}


def _sums(row: Row[Any]) -> Sums:
    """Return the sums of a row of `_VALUES`."""
    width = len(COUNTS)
    counts = dict(zip(COUNTS, map(int, row[:width]), strict=True))
    cost, wait, run, *histograms = row[width : width + 7]
    return Sums(
        **counts,
        cost=Decimal(cost),
        wait_seconds=float(wait),
        run_seconds=float(run),
        wait=Histogram.stored(*histograms[:2]),
        run=Histogram.stored(*histograms[2:]),
    )
