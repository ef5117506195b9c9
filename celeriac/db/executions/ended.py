"""The end of executions: what every statement does that moves one into a terminal state.

Such a statement has an UPDATE of the executions `e` as its part `done`, and `{ended}` behind it.
`with_guards` fills it in, and refuses a statement that has a terminal target and no `{ended}`. Rows
of `done` that have not ended are ignored. `done` returns `{ended_columns}` and, if it may fail
executions, two more for the audit trail:

- `ended_by`: the program that the entry names,
- `ended_why`: further details as JSONB, or NULL.

Most executions are not counted: they are no item of a workflow, child of another one or part of a
Celery task, and have neither limits by key nor live children. A statement that updates only such
executions, because its condition has `{not_counted}`, may have `{ended_not_counted}` instead of
`{ended}`: the parts without counters.

A statement sees what was committed before it began. If it waits for the row of an execution, it
then ends the execution, but does not see a question or a session that was stored meanwhile
together with a change of that row. So an earlier statement of the same transaction must have locked
the row, unless nobody else can write these rows: see `hold` and docs/adr/0035.
"""

from collections.abc import Collection, Sequence
from types import MappingProxyType
from uuid import UUID

from sqlalchemy import Connection, text

from celeriac.db import spans
from celeriac.db.executions.children import NEXT_SIBLINGS, WAKE, shard_of
from celeriac.db.executions.run_items import COUNT_DOWN, noting_ends
from celeriac.domain.executions.states import TERMINAL, Status

ENDED_COLUMNS = (
    "e.id, e.status, e.attempt, e.workspace_id, e.owner_id, e.session_id, e.options, e.request_id,"
    " e.error_code, e.error_type, e.error_message, e.error_fingerprint, e.origin_id, e.parent_id,"
    " e.parent_step, e.trigger_type, e.batch_id,"
    " e.run_id, e.step_no, e.item_no, e.limit_keys, e.task_id, e.queue, e.retry_count,"
    " e.crash_count, e.cost, e.model_call_count, e.input_tokens, e.output_tokens, e.cached_tokens,"
    " e.denied_tool_count, e.no_op, e.created_at, e.available_at, e.started_at"
)

KEPT = """, kept AS (
    INSERT INTO execution_results (execution_id, result, error_details)
    SELECT id, result, error_details FROM produced
    ON CONFLICT (execution_id) DO UPDATE
    SET result = excluded.result, error_details = excluded.error_details
)"""
"""Stores what attempts have `produced`: a part with `id`, `result` and `error_details`, for those
that have either. It replaces what an earlier attempt has left."""

_ROWS = f"""
SELECT * FROM done WHERE status IN ({", ".join(f"'{status}'" for status in sorted(TERMINAL))})
"""

_SETTLE = """
UPDATE sessions s
SET status = CASE ended.status WHEN 'failed' THEN 'failed' ELSE 'ended' END,
    error_code = CASE ended.status WHEN 'failed' THEN ended.error_code END,
    error_message = CASE ended.status WHEN 'failed' THEN ended.error_message END,
    updated_at = now()
FROM ended
WHERE s.id = ended.session_id
  AND s.id = ANY (ARRAY(SELECT session_id FROM ended WHERE session_id IS NOT NULL))
  AND s.status = 'active'
  -- a session that the execution should fork, and has not forked yet, isn't its own
  AND (s.execution_id = ended.id OR ended.options ->> 'fork_session' IS DISTINCT FROM 'true')
"""

_WITHDRAW = """
UPDATE approvals SET status = 'withdrawn'
WHERE execution_id = ANY (ARRAY(SELECT id FROM ended))
  -- not status = 'open': the plan would read an index of all open questions
  AND status || '' = 'open'
"""

_AUDIT = """
INSERT INTO audit_logs (id, workspace_id, actor, action, resource_type, resource_id, request_id,
                        details)
SELECT celeriac_uuid7(), workspace_id, ended_by, 'execution.fail', 'execution', id::text,
       request_id,
       jsonb_build_object('code', error_code, 'message', error_message, 'attempt', attempt)
       || coalesce(ended_why, '{}'::jsonb)
FROM ended WHERE status = 'failed'
"""

# Folded by the keeper (docs/adr/0060, 0065). What was retried has a later time from which it could
# begin.
_NOTE_END = """
INSERT INTO execution_ends (workspace_id, task_id, wait_ms, run_ms, input_tokens, output_tokens,
                            cached_tokens, model_calls, retries, crashes, denied_tools, no_op, cost,
                            outcome, queue, execution_id, origin_id, fingerprint, error_code,
                            error_type, error_message)
SELECT workspace_id, task_id,
       1000 * extract(epoch FROM started_at
                      - CASE WHEN available_at BETWEEN created_at AND started_at
                             THEN available_at ELSE created_at END),
       1000 * extract(epoch FROM now() - started_at),
       input_tokens, output_tokens, cached_tokens, model_call_count, retry_count, crash_count,
       denied_tool_count, no_op, cost, status, queue,
       CASE WHEN error_fingerprint IS NOT NULL OR origin_id IS NOT NULL THEN id END, origin_id,
       error_fingerprint, CASE WHEN error_fingerprint IS NOT NULL THEN error_code END,
       CASE WHEN error_fingerprint IS NOT NULL THEN error_type END,
       CASE WHEN error_fingerprint IS NOT NULL THEN left(error_message, 500) END
FROM ended
"""

_DELIVER = """
INSERT INTO deliveries (id, workspace_id, lane, endpoint_id, url, execution_id, event)
SELECT celeriac_uuid7(), w.workspace_id, w.id, w.id, NULL, ended.id, 'execution.' || ended.status
FROM ended JOIN webhook_endpoints w ON w.workspace_id = ended.workspace_id
WHERE w.workspace_id = ANY (ARRAY(SELECT workspace_id FROM ended)) AND w.active
  AND 'execution.' || ended.status = ANY (w.events)
UNION ALL
SELECT celeriac_uuid7(), workspace_id,
       -- a lane for each host
       CAST(left(encode(sha256(convert_to(
           workspace_id || split_part(options ->> 'callback_url', '/', 3), 'UTF8')), 'hex'), 32)
           AS uuid),
       NULL, options ->> 'callback_url', id, 'execution.' || status
FROM ended WHERE options ->> 'callback_url' IS NOT NULL
"""

# Children that ended, by the parent's counters. Locked in one order: two statements may each end
# several children of several parents.
_GONE = f"""
SELECT w.execution_id, w.shard, gone.number FROM live_children w
JOIN (SELECT parent_id, {shard_of("id")} AS shard, count(*) AS number
      FROM ended WHERE parent_id IS NOT NULL GROUP BY 1, 2) AS gone
    ON w.execution_id = gone.parent_id AND w.shard = gone.shard
WHERE w.execution_id = ANY (ARRAY(SELECT parent_id FROM ended WHERE parent_id IS NOT NULL))
ORDER BY 1, 2
FOR NO KEY UPDATE OF w
"""

_COUNTED = """
UPDATE live_children w SET live = w.live - gone.number
FROM gone
WHERE w.execution_id = gone.execution_id AND w.shard = gone.shard
  AND w.execution_id = ANY (ARRAY(SELECT execution_id FROM gone))
RETURNING w.execution_id, w.live
"""

_COUNTED_OF_ALL = """
UPDATE live_children w SET live = w.live - emptied.number
FROM (SELECT execution_id, count(*) AS number FROM counted WHERE live = 0 GROUP BY 1) AS emptied
WHERE w.execution_id = emptied.execution_id AND w.shard = 0
  AND w.execution_id = ANY (ARRAY(SELECT execution_id FROM counted WHERE live = 0))
RETURNING w.execution_id, w.live
"""

# A parent that waits for any child and is parked at this moment is not seen. It looks for ends that
# were committed before itself; one that is missed in between is noticed with the next.
_WOKEN = """SELECT execution_id FROM counted_of_all WHERE live = 0
            UNION ALL
            SELECT w.id FROM executions w
            WHERE w.id = ANY (ARRAY(SELECT parent_id FROM ended WHERE parent_id IS NOT NULL))
              AND w.waiting_for = 'child'"""

_AWAKE_EVENTS = """
INSERT INTO events (execution_id, seq, type, attempt, data)
SELECT id, event_seq, 'resumed', attempt, '{}'::jsonb FROM awake WHERE resumed
"""

_FOLLOWED = f"""
UPDATE executions c
SET held = CASE WHEN c.limit_keys IS NOT NULL THEN 'time' END, available_at = now()
WHERE c.id = ANY (ARRAY(
    SELECT picked.id
    FROM (SELECT DISTINCT parent_id, parent_step FROM ended WHERE parent_id IS NOT NULL) AS family
    JOIN steps s ON s.execution_id = family.parent_id AND s.number = family.parent_step
        AND s.execution_id = ANY (ARRAY(SELECT parent_id FROM ended WHERE parent_id IS NOT NULL))
        AND s.parallel IS NOT NULL,
    LATERAL ({NEXT_SIBLINGS.format(ended="(SELECT id FROM ended)")}) AS picked))
RETURNING c.id
"""

_ORPHANS = """
INSERT INTO ended_parents (execution_id)
SELECT w.execution_id FROM live_children w
WHERE w.execution_id = ANY (ARRAY(SELECT id FROM ended)) AND w.shard = 0 AND w.live > 0
ON CONFLICT DO NOTHING
"""

# Celery tasks of executions that ended; locked in one order, too.
_OF_CALLS = """
SELECT c.id, part.number FROM celery_calls c
JOIN (SELECT coalesce(batch_id, id) AS subject_id, count(*) AS number
      FROM ended WHERE trigger_type = 'celery' GROUP BY 1) AS part
    ON c.subject_id = part.subject_id
WHERE c.subject_id = ANY (ARRAY(
    SELECT coalesce(batch_id, id) FROM ended WHERE trigger_type = 'celery'))
ORDER BY 1
FOR NO KEY UPDATE OF c
"""

_COUNT_CALLS = """
UPDATE celery_calls c
SET pending = c.pending - part.number, due_at = CASE WHEN c.pending <= part.number THEN now() END
FROM of_calls part
WHERE c.id = part.id AND c.id = ANY (ARRAY(SELECT id FROM of_calls))
"""

# Limits by key of executions that have them: what goes on, but needs no slot now, gives its slots
# back. These rows belong to executions that the statement has locked.
_GIVE_BACK = """
UPDATE execution_limits SET state = 'none'
WHERE execution_id = ANY (ARRAY(
        SELECT id FROM done WHERE limit_keys IS NOT NULL AND status IN ('pending', 'waiting')))
  AND state <> 'none'
"""

_DELETE_LIMITS = """
DELETE FROM execution_limits
WHERE execution_id = ANY (ARRAY(SELECT id FROM ended WHERE limit_keys IS NOT NULL))
"""

_PARTS = MappingProxyType(
    {
        "ended": _ROWS,
        "settled": _SETTLE,
        "withdrawn": _WITHDRAW,
        "slots_given_back": _GIVE_BACK,
        "limits_deleted": _DELETE_LIMITS,
        **COUNT_DOWN,
        **noting_ends(),
        "gone": _GONE,
        "counted": _COUNTED,
        "counted_of_all": _COUNTED_OF_ALL,
        "awake": WAKE.format(
            parents=_WOKEN,
            others="SELECT id FROM done",
        ),
        "awake_events": _AWAKE_EVENTS,
        "followed": _FOLLOWED,
        "orphans": _ORPHANS,
        "of_calls": _OF_CALLS,
        "called": _COUNT_CALLS,
        "end_noted": _NOTE_END,
        "delivered": _DELIVER,
        "audited": _AUDIT,
    }
)
"""The parts by name; each may read those before it.

They run for every completion, so a part must cost next to nothing for an execution that it does not
concern: no scan, and no row.
"""


MADE_DUE = "(EXISTS (SELECT FROM awake WHERE resumed) OR EXISTS (SELECT FROM followed))"
"""Whether the ends have made other executions due, as SQL behind the parts.

That is a parent that waited for its last child, or children that their step held back. The same
statement can't claim or send them: it doesn't see what its own parts have changed.
"""


NOT_COUNTED = (
    "e.run_id IS NULL AND e.parent_id IS NULL AND e.trigger_type <> 'celery'"
    " AND e.limit_keys IS NULL"
    " AND NOT EXISTS (SELECT FROM live_children w WHERE w.execution_id = e.id)"
)
"""Whether nothing counts the end of `e`, as SQL."""

_NOT_COUNTING = frozenset({"ended", "settled", "withdrawn", "end_noted", "delivered", "audited"})
"""The parts that every end has."""


def ended_parts(targets: Collection[Status], *, counted: bool = True) -> str:
    """Return the parts of a statement that moves executions to one of `targets`.

    Not `counted`: those for executions of which `NOT_COUNTED` holds.
    """
    failing = Status.FAILED in targets
    return "".join(
        f", {name} AS ({statement})"
        for name, statement in _PARTS.items()
        if (failing or statement is not _AUDIT) and (counted or name in _NOT_COUNTING)
    )


_HOLD = text(f"SELECT id FROM executions WHERE {spans.given('id')} ORDER BY id FOR NO KEY UPDATE")
_HOLD_UNLOCKED = text(f"{_HOLD.text} SKIP LOCKED")


def hold(
    connection: Connection, execution_ids: Sequence[UUID], *, skip_locked: bool = False
) -> set[UUID]:
    """Lock executions until the transaction ends, so that its next statement sees their rows.

    Writers of questions and sessions change or lock the execution's row in the same statement.
    Returns what is locked: all that exist, or with `skip_locked` those that nobody else has locked.
    """
    query = _HOLD_UNLOCKED if skip_locked else _HOLD
    return set(connection.execute(query, spans.of(execution_ids)).scalars())


_HOLD_ROWS = text(f"""
WITH ending AS (
    SELECT id, session_id FROM executions WHERE {spans.given("id")}
), session AS (
    SELECT id FROM sessions
    WHERE id = ANY (ARRAY(SELECT session_id FROM ending WHERE session_id IS NOT NULL))
    FOR NO KEY UPDATE SKIP LOCKED
), question AS (
    SELECT id FROM approvals
    WHERE execution_id = ANY(CAST(:ids AS uuid[])) AND status || '' = 'open'
    FOR NO KEY UPDATE SKIP LOCKED
), locked_session AS (
    SELECT id FROM sessions
    WHERE id = ANY (ARRAY(SELECT session_id FROM ending WHERE session_id IS NOT NULL))
      AND id <> ALL (ARRAY(SELECT id FROM session))
), locked_question AS (
    SELECT execution_id FROM approvals
    WHERE execution_id = ANY(CAST(:ids AS uuid[])) AND status || '' = 'open'
      AND id <> ALL (ARRAY(SELECT id FROM question))
)
SELECT id FROM ending
WHERE (session_id IS NULL OR session_id <> ALL (ARRAY(SELECT id FROM locked_session)))
  AND id <> ALL (ARRAY(SELECT execution_id FROM locked_question))
""")


def hold_rows(connection: Connection, execution_ids: Sequence[UUID]) -> set[UUID]:
    """Lock the sessions and open questions of executions that the transaction has locked.

    Returns the executions for which that was possible at once: a statement that ends many must not
    wait for the rows of one.
    """
    return set(connection.execute(_HOLD_ROWS, spans.of(execution_ids)).scalars())
