"""Usage of model calls: each call of an execution, and totals by day.

Workers append deltas of usage (`executions/leases.py`); the keeper folds them into the totals of
days. Everything that reads totals adds up the view `usage_entries` in one statement, and so sees
each call once (docs/adr/0029-usage-is-appended-and-folded.md).
"""

from datetime import date
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, FromClause, Select, Text, cast, func, select, text
from sqlalchemy.dialects.postgresql import BIGINT

from celeriac.db.paging import columns, given
from celeriac.db.rollups import BUCKET
from celeriac.db.schema.accounts import users, workspaces
from celeriac.db.schema.catalog import tasks
from celeriac.db.schema.usage import COUNTS, model_calls, usage_entries
from celeriac.domain.metrics import MOST_MODELS, OTHER
from celeriac.domain.usage import CASSETTE, MadeCall, UsageBy, UsageFilter, UsageTotal

_TODAY = text("SELECT CAST(now() AT TIME ZONE 'UTC' AS date)")


def today(connection: Connection) -> date:
    """Return the day (UTC) by the database's clock."""
    day: date = connection.execute(_TODAY).scalar_one()
    return day


def totals(
    connection: Connection, by: UsageBy, wanted: UsageFilter, *, limit: int
) -> list[UsageTotal]:
    """Return up to `limit` totals: the newest days first, all others the most expensive first."""
    days, cost = usage_entries.c, func.sum(usage_entries.c.cost)
    key, name, tables = _grouping(by)
    query: Select[Any] = (
        select(
            cast(key, Text).label("key"),
            name.label("name"),
            *(_sum(days[each]).label(each) for each in COUNTS),
            cost.label("cost"),
        )
        .select_from(tables)
        .where(days.day.between(wanted.since, wanted.until))
        .where(~days.provider.startswith(f"{CASSETTE}/"))  # of releases that counted replays
        .group_by(key, name)
        .limit(limit)
    )
    query = given(
        query,
        (days.workspace_id, wanted.workspace_id),
        (days.owner_id, wanted.owner_id),
        (days.task_id, wanted.task_id),
    )
    if by is UsageBy.DAY:
        query = query.order_by(key.desc())
    else:
        query = query.order_by(cost.desc(), _sum(days.input_tokens + days.output_tokens).desc())
    return [UsageTotal(**row) for row in connection.execute(query).mappings()]


_FOLD = text(f"""
WITH folding AS (
    DELETE FROM usage_deltas WHERE id = ANY (ARRAY(
        SELECT id FROM usage_deltas ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED))
    RETURNING *
), folded AS (
    -- in the order of their keys, as every writer of totals locks them
    INSERT INTO usage_days AS u (owner_id, day, task_id, provider, model, workspace_id, calls,
                                 unpriced_calls, input_tokens, output_tokens, cached_tokens, cost)
    SELECT owner_id, day, task_id, provider, model, workspace_id, sum(calls), sum(unpriced_calls),
           sum(input_tokens), sum(output_tokens), sum(cached_tokens), sum(cost)
    FROM folding
    GROUP BY 1, 2, 3, 4, 5, 6
    ORDER BY 1, 2, 3, 4, 5
    ON CONFLICT (owner_id, day, task_id, provider, model) DO UPDATE
    SET calls = u.calls + excluded.calls,
        unpriced_calls = u.unpriced_calls + excluded.unpriced_calls,
        input_tokens = u.input_tokens + excluded.input_tokens,
        output_tokens = u.output_tokens + excluded.output_tokens,
        cached_tokens = u.cached_tokens + excluded.cached_tokens, cost = u.cost + excluded.cost
), took AS (
    SELECT provider, model, CAST(duration AS bigint) AS duration
    FROM folding, unnest(latencies_ms) AS each (duration)
), known AS (
    SELECT DISTINCT provider, model FROM model_call_times
), named AS (
    -- models are named by those who call them: only so many become rows
    SELECT provider, model FROM known
    UNION ALL
    (SELECT DISTINCT provider, model FROM took
     WHERE (provider, model) NOT IN (SELECT provider, model FROM known)
     ORDER BY provider, model
     LIMIT greatest(0, :models - (SELECT count(*) FROM known)))
), timed AS (
    INSERT INTO model_call_times AS m (provider, model, bucket, calls, milliseconds)
    SELECT coalesce(n.provider, :other), coalesce(n.model, :other), {BUCKET}, count(*),
           sum(duration)
    FROM took t LEFT JOIN named n ON n.provider = t.provider AND n.model = t.model
    GROUP BY 1, 2, 3
    ORDER BY 1, 2, 3
    ON CONFLICT (provider, model, bucket) DO UPDATE
    SET calls = m.calls + excluded.calls, milliseconds = m.milliseconds + excluded.milliseconds
)
-- a fold that is lost with the server has not deleted its deltas either
SELECT count(*), set_config('synchronous_commit', 'off', true) FROM folding
""")  # noqa: S608 - put together from constants


def fold(connection: Connection, *, limit: int) -> int:
    """Move up to `limit` deltas into the totals of their days, in one statement; return how many.

    Any number of folds may run at once: each takes deltas that no other has locked.
    """
    parameters = {"limit": limit, "models": MOST_MODELS, "other": OTHER}
    return int(connection.execute(_FOLD, parameters).scalars().one())


def calls(
    connection: Connection, execution_id: UUID, *, after: UUID | None, limit: int
) -> list[MadeCall]:
    """Return up to `limit` model calls of an execution after the call `after`, the oldest first."""
    query = columns(MadeCall, model_calls).where(model_calls.c.execution_id == execution_id)
    if after is not None:
        query = query.where(model_calls.c.id > after)
    rows = connection.execute(query.order_by(model_calls.c.id).limit(limit))
    return [MadeCall(*row) for row in rows]


def _sum(column: ColumnElement[int]) -> ColumnElement[int]:
    return cast(func.sum(column), BIGINT)


def _grouping(by: UsageBy) -> tuple[ColumnElement[Any], ColumnElement[Any], FromClause]:
    """Return the key of a total, its name for people, and the tables of both."""
    days = usage_entries.c
    match by:
        case UsageBy.TASK:
            found = usage_entries.outerjoin(tasks, tasks.c.id == days.task_id)
            return days.task_id, tasks.c.name, found
        case UsageBy.USER:
            found = usage_entries.outerjoin(users, users.c.id == days.owner_id)
            return days.owner_id, users.c.name, found
        case UsageBy.WORKSPACE:
            found = usage_entries.outerjoin(workspaces, workspaces.c.id == days.workspace_id)
            return days.workspace_id, workspaces.c.name, found
        case UsageBy.DAY:
            return days.day, cast(days.day, Text), usage_entries
        case UsageBy.MODEL:
            model = days.provider + "/" + days.model
            return model, model, usage_entries
