"""Parks and resumes executions (running → waiting → pending) and stores their questions."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import Connection

from celeriac.db.executions.ended import KEPT
from celeriac.db.executions.guards import with_guards
from celeriac.domain.approvals import Question
from celeriac.domain.executions.model import Lease, Parked
from celeriac.domain.executions.states import Status, Transition
from celeriac.domain.fingerprint import of_code
from celeriac.kit.ids import uuid7
from celeriac.kit.json_types import JsonObject, storable, storable_text
from celeriac.kit.text import clip_counted, clip_values
from celeriac.logs.redact import redact

LONGEST_TITLE = 4_000
_LONGEST_TEXT = 2_000
_LONGEST_ARGUMENTS = 200_000
_LONGEST_EVENT_ARGUMENTS = 20_000
"""As much as events of tool calls keep."""

NEW_QUESTIONS = """
fresh AS (
    SELECT q.*, row_number() OVER (ORDER BY q.place) AS number
    FROM unnest(CAST(:question_ids AS uuid[]), CAST(:keys AS text[]), CAST(:kinds AS text[]),
                CAST(:titles AS text[]), CAST(:tools AS text[]), CAST(:arguments AS text[]),
                CAST(:event_data AS text[]), CAST(:schemas AS text[]),
                CAST(:on_expiries AS text[]), CAST(:defaults AS text[]),
                CAST(:expiries AS double precision[]))
         WITH ORDINALITY
         AS q (id, key, kind, title, tool, arguments, event_data, schema, on_expiry,
               default_value, expires, place)
    WHERE NOT EXISTS (SELECT FROM approvals a WHERE a.execution_id = :id AND a.key = q.key)
)"""
"""The first part of a WITH: the questions that the execution `:id` has not stored yet.

Only the lease holder inserts questions, one statement at a time, so there is no race between check
and insert.
"""

FRESH_COUNT = "(SELECT count(*) FROM fresh)"
"""The number of their events."""

INSERT_QUESTIONS = """
, asked AS (
    INSERT INTO approvals (id, execution_id, task_id, workspace_id, owner_id, attempt, key, kind,
                           title, tool, arguments, schema, on_expiry, "default", expires_at)
    SELECT q.id, done.id, done.task_id, done.workspace_id, done.owner_id, done.attempt, q.key,
           q.kind, q.title, q.tool, q.arguments::json, q.schema::json, q.on_expiry,
           q.default_value::json, now() + make_interval(secs => q.expires)
    FROM done, fresh AS q
    WHERE done.asks
), asked_events AS (
    INSERT INTO events (execution_id, seq, type, attempt, data)
    SELECT done.id, done.first_number + q.number, 'approval_asked', done.attempt,
           -- of two objects jsonb alone makes one, and it sorts what the arguments say
           CASE WHEN q.event_data::json -> 'arguments' IS NULL
           THEN json_build_object('approval_id', q.id, 'kind', q.kind, 'title', q.title,
                                  'expires_at', now() + make_interval(secs => q.expires))
           ELSE json_build_object('approval_id', q.id, 'kind', q.kind, 'title', q.title,
                                  'expires_at', now() + make_interval(secs => q.expires),
                                  'arguments', q.event_data::json -> 'arguments') END
    FROM done, fresh AS q
    WHERE done.asks
), asked_deliveries AS (
    INSERT INTO deliveries (id, workspace_id, lane, endpoint_id, execution_id, approval_id, event)
    SELECT celeriac_uuid7(), w.workspace_id, w.id, w.id, done.id, q.id, 'approval.asked'
    FROM done, fresh AS q, webhook_endpoints w
    WHERE done.asks AND w.workspace_id = done.workspace_id
      AND w.workspace_id = ANY (ARRAY(SELECT workspace_id FROM done))
      AND w.active AND 'approval.asked' = ANY (w.events)
)"""
"""Follows `NEW_QUESTIONS` and an UPDATE `done` of the execution.

`done` must have increased `event_seq` by at least `FRESH_COUNT`. It returns, besides the row's
columns, `asks` (whether to insert at all) and `first_number` (the number before their events).
"""

QUESTION_PARTS = {
    "new_questions": NEW_QUESTIONS,
    "fresh_count": FRESH_COUNT,
    "insert_questions": INSERT_QUESTIONS,
}


def question_columns(questions: Sequence[Question]) -> Mapping[str, list[object]]:
    """Return the arrays that `NEW_QUESTIONS` unnests; only the first question of each key."""
    first: dict[str, Question] = {}
    for question in questions:
        first.setdefault(question.key, question)
    asked = list(first.values())
    return {
        "question_ids": [uuid7() for _ in asked],
        "keys": [storable_text(q.key) for q in asked],
        "kinds": [q.kind for q in asked],
        "titles": [clip_counted(storable_text(q.title), LONGEST_TITLE) for q in asked],
        "tools": [None if q.tool is None else storable_text(q.tool) for q in asked],
        "arguments": [storable(shown(q.arguments)) for q in asked],
        "event_data": [event_data(q.arguments) for q in asked],
        "schemas": [None if q.schema is None else storable(q.schema) for q in asked],
        "on_expiries": [q.on_expiry for q in asked],
        "defaults": [storable(q.default) for q in asked],
        "expiries": [q.expires_seconds for q in asked],
    }


def shown(arguments: JsonObject) -> JsonObject:
    """Return arguments as people are shown them: long texts of large ones are clipped.

    What the agent calls its tool with is its own; this is for reading.
    """
    if len(storable(arguments)) <= _LONGEST_ARGUMENTS:
        return arguments
    small: JsonObject = clip_values(arguments, _LONGEST_TEXT)
    if len(storable(small)) <= _LONGEST_ARGUMENTS:
        return small
    return {"clipped": clip_counted(storable(small), _LONGEST_ARGUMENTS // 2)}


def event_data(arguments: JsonObject) -> str:
    """Return, as JSON, what the question's event says of arguments.

    Secrets are masked; long arguments are one clipped text.
    """
    if not arguments:
        return "{}"
    masked = redact(shown(arguments))
    text = storable(masked)
    if len(text) > _LONGEST_EVENT_ARGUMENTS:
        masked = clip_counted(text, _LONGEST_EVENT_ARGUMENTS)
    return storable({"arguments": masked})


_PARK = with_guards(
    """
WITH {new_questions}, done AS (
    UPDATE executions e
    SET status = CASE WHEN cancel_requested_at IS NULL THEN {park_to} ELSE {stop_to} END,
        completed_at = CASE WHEN cancel_requested_at IS NULL THEN NULL ELSE now() END,
        waiting_for = CASE WHEN cancel_requested_at IS NULL THEN :reason END,
        parked_at = CASE WHEN cancel_requested_at IS NULL THEN now() ELSE parked_at END,
        waiting_until = CASE WHEN cancel_requested_at IS NULL THEN
            now() + make_interval(secs => CAST(:seconds AS double precision)) END,
        event_seq = event_seq + 1
            + CASE WHEN cancel_requested_at IS NULL THEN {fresh_count} ELSE 0 END
    WHERE id = :id AND status IN ({park_from}) AND attempt = :attempt AND lease_token = :token
    RETURNING {ended_columns}, e.event_seq, e.status = {park_to} AS asks,
              e.event_seq - 1 - {fresh_count} AS first_number
), logged AS (
    INSERT INTO events (execution_id, seq, type, attempt, data)
    SELECT id, event_seq, CASE status WHEN {stop_to} THEN 'cancelled' ELSE 'waiting' END, attempt,
           CAST(:data AS json)
    FROM done
){insert_questions}{ended}
SELECT status, {made_due} FROM done
""",
    QUESTION_PARTS,
    park=Transition.PARK,
    stop=Transition.STOP,
)


def park(connection: Connection, lease: Lease, parked: Parked) -> tuple[Status | None, bool]:
    """Park an execution and store its questions, in one statement.

    Returns its status, and whether others are due because it has ended; the status is None if the
    lease was lost: nothing was written. If cancellation is requested, the
    execution is cancelled instead. A question with a known key is not stored again: if all
    questions already have answers, the caller must resume the execution.
    """
    event = {"reason": parked.reason, "note": storable_text(parked.note)}
    if parked.seconds is not None:
        event["seconds"] = str(round(parked.seconds, 3))
    row = connection.execute(
        _PARK,
        {
            "id": lease.execution_id,
            "attempt": lease.attempt,
            "token": lease.token,
            "reason": parked.reason,
            "seconds": parked.seconds,
            "data": storable(event),
            **question_columns(parked.questions),
        },
    ).one_or_none()
    return (None, False) if row is None else (Status(row[0]), row[1])


_RESUMING = """
, moved AS (
    UPDATE executions e
    SET status = {resume_to}, available_at = now(), event_seq = event_seq + 1,
        held = CASE WHEN e.limit_keys IS NOT NULL THEN 'time' END,
        waiting_for = NULL, waiting_until = NULL
    WHERE e.id = ANY (ARRAY(SELECT id FROM ready)) AND e.status IN ({resume_from})
    RETURNING e.id, e.event_seq, e.attempt
)
INSERT INTO events (execution_id, seq, type, attempt, data)
SELECT id, event_seq, 'resumed', attempt, '{{}}'::jsonb FROM moved
RETURNING execution_id
"""

_RESUME_DUE = with_guards(
    """
WITH ready AS (
    SELECT id FROM executions
    WHERE status IN ({resume_from}) AND waiting_until IS NOT NULL AND waiting_until <= now()
    ORDER BY waiting_until
    LIMIT :limit
    FOR UPDATE SKIP LOCKED
)"""
    + _RESUMING,
    resume=Transition.RESUME,
)


def resume_due(connection: Connection, *, limit: int) -> list[UUID]:
    """Resume executions that are due, as `pending`; return which."""
    return [row[0] for row in connection.execute(_RESUME_DUE, {"limit": limit})]


_RESUME_ANSWERED = with_guards(
    """
WITH ready AS (
    SELECT id FROM executions e
    WHERE id = ANY(CAST(:ids AS uuid[])) AND status IN ({resume_from})
      AND (waiting_until IS NULL OR waiting_for IN ('approval', 'children', 'child'))
      AND NOT EXISTS (SELECT FROM approvals a WHERE a.execution_id = e.id AND a.status = 'open')
    ORDER BY id
    FOR UPDATE
)"""
    + _RESUMING,
    resume=Transition.RESUME,
)


def resume_answered(connection: Connection, execution_ids: Sequence[UUID]) -> list[UUID]:
    """Resume those of the executions that have no open question; return which."""
    return [row[0] for row in connection.execute(_RESUME_ANSWERED, {"ids": list(execution_ids)})]


_RESUME_ALONE = with_guards(
    """
WITH ready AS (
    SELECT id FROM executions e
    WHERE id = :id AND status IN ({resume_from})
      AND (NOT EXISTS (SELECT FROM live_children c
                       WHERE c.execution_id = e.id AND c.shard = 0 AND c.live > 0)
           OR (SELECT sum(c.live) FROM live_children c
               WHERE c.execution_id = e.id AND c.shard > 0) < CAST(:live AS bigint))
    FOR UPDATE
)"""
    + _RESUMING,
    resume=Transition.RESUME,
)


def resume_without_children(
    connection: Connection, execution_id: UUID, *, live: int | None = None
) -> bool:
    """Resume an execution that an earlier statement of the transaction has parked.

    Only if none of its children is left, or fewer than `live` are: they may have ended before it
    was parked.
    """
    parameters = {"id": execution_id, "live": live}
    return connection.execute(_RESUME_ALONE, parameters).one_or_none() is not None


_EXPIRE = with_guards(
    """
WITH done AS (
    UPDATE executions e
    SET status = {expire_to}, completed_at = now(), waiting_for = NULL, waiting_until = NULL,
        event_seq = event_seq + 1, error_code = :code, error_type = 'ApprovalExpiredError',
        error_message = :message, error_fingerprint = :fingerprint
    WHERE id = :id AND status IN ({expire_from})
    RETURNING {ended_columns}, 'keeper' AS ended_by,
              jsonb_build_object('approval_id', CAST(:approval_id AS text)) AS ended_why,
              e.event_seq
), logged AS (
    INSERT INTO events (execution_id, seq, type, attempt, data)
    SELECT id, event_seq, 'failed', attempt,
           jsonb_build_object('code', error_code, 'message', error_message)
    FROM done
), produced AS (
    SELECT id, NULL::json AS result,
           jsonb_build_object('type', 'ApprovalExpiredError', 'attempt', attempt, 'traceback', NULL)
           AS error_details
    FROM done
){kept}{ended}
SELECT id FROM done
""",
    {"kept": KEPT},
    expire=Transition.EXPIRE,
)


def expire(
    connection: Connection, execution_id: UUID, *, code: str, message: str, approval_id: UUID
) -> bool:
    """Fail an execution that waits for a question; False if it isn't waiting any more.

    An earlier statement of the transaction must have locked the execution.
    """
    parameters = {
        "id": execution_id,
        "code": code,
        "message": storable_text(message),
        "fingerprint": of_code(code),
        "approval_id": str(approval_id),
    }
    return connection.execute(_EXPIRE, parameters).one_or_none() is not None
