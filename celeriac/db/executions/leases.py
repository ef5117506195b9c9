"""Writes of running workers: renewals of their leases, and the events and usage of their agents.

Each worker process renews one lease, in its row of `workers`, for all attempts that it has claimed.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import Connection, text

from celeriac.db import spans
from celeriac.db.plans import kept_text
from celeriac.domain.executions.events import EventType, NewEvent
from celeriac.domain.executions.model import Lease
from celeriac.domain.usage import ModelCall
from celeriac.kit.ids import uuid7

_RENEW = kept_text("""
WITH renewed AS (
    UPDATE workers
    SET lease_until = now() + make_interval(secs => :lease_seconds), seen_at = now()
    WHERE id = :worker_id AND lost_at IS NULL AND stopped_at IS NULL
    RETURNING id, hostname, set_config('synchronous_commit', 'off', true)
)
SELECT e.id, e.attempt, e.lease_token, e.cancel_requested_at IS NOT NULL,
       EXISTS (SELECT FROM pauses p WHERE p.scope = 'worker' AND p.worker = renewed.hostname)
FROM renewed LEFT JOIN executions e ON e.worker_id = :worker_id AND e.status = 'running'
""")


@dataclass(frozen=True, slots=True)
class Held:
    """An attempt that belongs to a worker, and whether its cancellation is requested."""

    lease: Lease
    cancelled: bool


@dataclass(frozen=True, slots=True)
class Renewed:
    """A lease that was renewed: the attempts of its process, and whether its worker is paused."""

    held: Sequence[Held]
    paused: bool


def renew(connection: Connection, worker_id: UUID, *, lease_seconds: float) -> Renewed | None:
    """Renew the lease of a worker process and return all attempts that belong to it.

    None if it has no row or is lost or stopped: then nothing is its own any more.
    """
    parameters = {"worker_id": worker_id, "lease_seconds": lease_seconds}
    rows = connection.execute(_RENEW, parameters).all()
    if not rows:
        return None
    held = [Held(Lease(row[0], row[1], row[2]), row[3]) for row in rows if row[0] is not None]
    return Renewed(held, paused=rows[0][4])


@dataclass(slots=True)
class PendingWrites:
    """A batch of events and usage of one attempt, in order.

    Batches of an attempt are numbered from 1 without gaps. A batch keeps its number and contents
    however often it is sent.
    """

    lease: Lease
    events: list[NewEvent] = field(default_factory=list)
    calls: list[ModelCall] = field(default_factory=list)
    progress: tuple[float, float | None, str] | None = None
    number: int = 1

    def __bool__(self) -> bool:
        """Whether there is anything to store."""
        return bool(self.events or self.calls or self.progress)


# not e.id = n.id: see `celeriac.db.plans`
_RECORD = kept_text(f"""
WITH notes AS (
    SELECT * FROM unnest(
        CAST(:ids AS uuid[]), CAST(:attempts AS int[]), CAST(:tokens AS uuid[]),
        CAST(:numbers AS int[]), CAST(:event_counts AS int[]), CAST(:messages AS int[]),
        CAST(:tools AS int[]), CAST(:denials AS int[]), CAST(:call_counts AS int[]),
        CAST(:input_tokens AS bigint[]), CAST(:output_tokens AS bigint[]),
        CAST(:cached_tokens AS bigint[]), CAST(:costs AS numeric[]),
        CAST(:done AS double precision[]), CAST(:total AS double precision[]),
        CAST(:note AS text[]))
    AS n (id, attempt, token, number, event_count, messages, tools, denials, calls, input_tokens,
          output_tokens, cached_tokens, cost, done, total, note)
), held AS (
    SELECT e.id, e.lease_token, e.batch_no FROM executions e
    JOIN notes n ON e.lease_token = n.token AND e.id IS NOT DISTINCT FROM n.id
        AND e.attempt = n.attempt
    WHERE {spans.given("e.id")} AND e.status = 'running'
    ORDER BY e.id
    FOR UPDATE OF e
), moved AS (
    UPDATE executions e
    SET batch_no = n.number, event_seq = event_seq + n.event_count, active_at = now(),
        message_count = message_count + n.messages, tool_call_count = tool_call_count + n.tools,
        denied_tool_count = denied_tool_count + n.denials,
        model_call_count = model_call_count + n.calls,
        input_tokens = e.input_tokens + n.input_tokens,
        output_tokens = e.output_tokens + n.output_tokens,
        cached_tokens = e.cached_tokens + n.cached_tokens, cost = e.cost + n.cost,
        progress_done = coalesce(n.done, progress_done),
        progress_total = CASE WHEN n.done IS NULL THEN progress_total ELSE n.total END,
        progress_note = coalesce(n.note, progress_note)
    FROM held JOIN notes n USING (id)
    -- a batch that an earlier try has stored is not stored again
    WHERE e.lease_token = held.lease_token AND e.id IS NOT DISTINCT FROM held.id
      AND held.batch_no = n.number - 1
      AND e.id = ANY (ARRAY(SELECT id FROM held)) AND {spans.within("e.id")}
    RETURNING e.id, e.attempt, e.event_seq - n.event_count AS before, e.workspace_id, e.owner_id,
              e.task_id
), logged AS (
    INSERT INTO events (execution_id, seq, type, attempt, at, data)
    SELECT v.id, moved.before + v.place, v.type, moved.attempt,
           now() - make_interval(secs => v.age), v.data::json
    FROM unnest(CAST(:event_ids AS uuid[]), CAST(:places AS int[]), CAST(:types AS text[]),
                CAST(:ages AS double precision[]), CAST(:data AS text[]))
         AS v (id, place, type, age, data)
    JOIN moved ON moved.id = v.id
), calls AS (
    SELECT c.*, now() - make_interval(secs => c.age) AS at,
           moved.attempt, moved.workspace_id, moved.owner_id, moved.task_id
    FROM unnest(CAST(:call_ids AS uuid[]), CAST(:called_ids AS uuid[]),
                CAST(:providers AS text[]), CAST(:models AS text[]),
                CAST(:call_input AS int[]), CAST(:call_output AS int[]),
                CAST(:call_cached AS int[]), CAST(:latencies AS int[]),
                CAST(:reasons AS text[]), CAST(:call_costs AS numeric[]),
                CAST(:call_ages AS double precision[]), CAST(:days AS date[]))
         AS c (id, execution_id, provider, model, input_tokens, output_tokens, cached_tokens,
               latency_ms, finish_reason, cost, age, day)
    JOIN moved ON moved.id = c.execution_id
), charged AS (
    INSERT INTO model_calls (id, execution_id, attempt, at, provider, model, input_tokens,
                             output_tokens, cached_tokens, latency_ms, finish_reason, cost)
    SELECT id, execution_id, attempt, at, provider, model, input_tokens, output_tokens,
           cached_tokens, latency_ms, finish_reason, cost
    FROM calls
), totalled AS (
    -- appended, not added to a row: no writer of a busy task waits for another
    INSERT INTO usage_deltas (owner_id, day, task_id, provider, model, workspace_id, calls,
                              unpriced_calls, input_tokens, output_tokens, cached_tokens, cost,
                              latencies_ms)
    SELECT owner_id, coalesce(day, CAST(at AT TIME ZONE 'UTC' AS date)), task_id, provider, model,
           workspace_id, count(*), count(*) FILTER (WHERE cost IS NULL), sum(input_tokens),
           sum(output_tokens), sum(cached_tokens), coalesce(sum(cost), 0), array_agg(latency_ms)
    FROM calls
    -- a replayed call was paid by the execution that recorded it
    WHERE NOT starts_with(provider, 'cassette/')
    GROUP BY 1, 2, 3, 4, 5, 6
)
SELECT id FROM held JOIN notes n USING (id) WHERE held.batch_no >= n.number - 1
""")


def store_batch(connection: Connection, notes: Sequence[PendingWrites]) -> set[UUID]:
    """Store batches, one per lease, in one statement; events get their numbers here.

    Returns the executions whose batch is stored, by this or an earlier try; a missing one has lost
    its lease.
    """
    return {row[0] for row in connection.execute(_RECORD, _record_parameters(notes))}


def wait_briefly(connection: Connection, seconds: float) -> None:
    """Limit how long statements of the current transaction wait for a lock."""
    connection.execute(
        text("SELECT set_config('lock_timeout', :value, true)"),
        {"value": f"{round(seconds * 1000)}ms"},
    )


def _columns(leases: Sequence[Lease]) -> dict[str, object]:
    return {
        **spans.of([lease.execution_id for lease in leases]),
        "attempts": [lease.attempt for lease in leases],
        "tokens": [lease.token for lease in leases],
    }


def _record_parameters(notes: Sequence[PendingWrites]) -> dict[str, object]:
    events = [(n.lease.execution_id, i, e) for n in notes for i, e in enumerate(n.events, 1)]
    calls = [(n.lease.execution_id, call) for n in notes for call in n.calls]
    progress = [n.progress or (None, None, None) for n in notes]
    now = time.monotonic()
    return {
        **_columns([n.lease for n in notes]),
        "numbers": [n.number for n in notes],
        "event_counts": [len(n.events) for n in notes],
        "messages": [_count(n, EventType.MESSAGE) for n in notes],
        "tools": [_count(n, EventType.TOOL_CALL) for n in notes],
        "denials": [_count(n, EventType.TOOL_DENIED) for n in notes],
        "call_counts": [len(n.calls) for n in notes],
        "input_tokens": [sum(c.input_tokens for c in n.calls) for n in notes],
        "output_tokens": [sum(c.output_tokens for c in n.calls) for n in notes],
        "cached_tokens": [sum(c.cached_tokens for c in n.calls) for n in notes],
        "costs": [sum(c.cost or 0 for c in n.calls) for n in notes],
        "done": [done for done, _, _ in progress],
        "total": [total for _, total, _ in progress],
        "note": [note for _, _, note in progress],
        "event_ids": [execution_id for execution_id, _, _ in events],
        "places": [place for _, place, _ in events],
        "types": [event.type for _, _, event in events],
        "ages": [_age(event.made, now) for _, _, event in events],
        "data": [event.data for _, _, event in events],
        "call_ids": [uuid7() for _ in calls],
        "called_ids": [execution_id for execution_id, _ in calls],
        "providers": [call.provider for _, call in calls],
        "models": [call.model for _, call in calls],
        "call_input": [call.input_tokens for _, call in calls],
        "call_output": [call.output_tokens for _, call in calls],
        "call_cached": [call.cached_tokens for _, call in calls],
        "latencies": [call.latency_ms for _, call in calls],
        "reasons": [call.finish_reason for _, call in calls],
        "call_costs": [call.cost for _, call in calls],
        "call_ages": [_age(call.made, now) for _, call in calls],
        "days": [call.day for _, call in calls],
    }


def _age(made: float | None, now: float) -> float:
    """Return the age of a record in seconds: its time is the database's minus this."""
    return 0.0 if made is None else max(now - made, 0.0)


def _count(notes: PendingWrites, kind: EventType) -> int:
    return sum(event.type is kind for event in notes.events)
