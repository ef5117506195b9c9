"""Decides which executions may run next: the rule, and the parts of statements made of it.

An execution is eligible if it is pending, not held, due and not paused. Of the eligible executions
of a queue, the one with the highest priority runs first, and of several with that priority, the one
that has been due longest. A queue may have as many messages at the broker as its window says.

- A new execution is created `queued` only if `room` is true: its queue isn't paused, the window
  isn't full, and no eligible execution of the queue has at least its priority (`create`).
- The keeper sends the `first` executions of each queue, up to its window (`queue_due`).
- A worker that ends an execution claims the `first` one of the same queue (`CLAIM_NEXT`).

So a new execution overtakes no eligible one of at least its priority that was committed before its
statement began. Locked rows are skipped: another transaction is sending, claiming or cancelling
them. Executions whose transactions run at the same time have no order. One that has expired is
skipped too, and the keeper ends it.

Every statement that makes a row `pending` says whether it is `held`. A row that is not due yet is
held for its time, and `release_due` releases it. So is each that has limits by key, also if it is
due: `release_due` lets it wait for its slots (`limits`), unless it has them. Held rows are not in
the index of eligible rows, so they cost nothing however many there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection

from celeriac.db.executions.guards import filled, kept_with_guards
from celeriac.db.executions.paused import queue_paused, work_paused
from celeriac.domain.executions.fair_turns import Share
from celeriac.domain.executions.model import WorkerIdentity
from celeriac.domain.executions.states import Held, Transition


def held_for(seconds: str) -> str:
    """Return how a row is held that becomes pending with a delay of so many seconds, as SQL.

    What has limits by key is always held: `release_due` lets it wait for its slots.
    """
    return (
        f"CASE WHEN CAST({seconds} AS double precision) > 0 OR limit_keys IS NOT NULL"
        f" THEN '{Held.TIME}' END"
    )


def eligible(row: str) -> str:
    """Return whether `row` may run unless it is paused, as SQL.

    A released row is due, unless the clock was set back.
    """
    rule = "{row}.status IN ({queue_from}) AND {row}.held IS NULL AND {row}.available_at <= now()"
    return filled(rule, {"row": row}, queue=Transition.QUEUE)


def unexpired(row: str) -> str:
    """Return whether `row` has begun, or may still begin, as SQL."""
    return f"({row}.expires_at IS NULL OR {row}.started_at IS NOT NULL OR {row}.expires_at > now())"


def first(queue: str, *, limit: str, condition: str = "true", columns: str = "e.id") -> str:
    """Return a query for the first eligible executions of `queue`, and lock them.

    The parameters of `share_parameters` say whose they are; what these leave of `limit` goes to the
    first ones in the order of the index. All arguments are SQL; the `columns`, with the id, are
    those of `e`. If `condition` is false there are none.
    """
    which = f"""{eligible("e")} AND e.queue = {queue} AND {unexpired("e")} AND {condition}
          AND NOT {queue_paused(queue)} AND NOT {work_paused("e")}"""
    return f"""
        WITH shared AS (
            SELECT e.* FROM unnest(
                CAST(:share_queues AS text[]), CAST(:share_workspaces AS uuid[]),
                CAST(:share_users AS uuid[]), CAST(:share_priorities AS smallint[]),
                CAST(:share_counts AS int[]))
                AS share (queue, workspace_id, user_id, priority, count),
            LATERAL (
                SELECT {columns} FROM executions e
                WHERE {which} AND e.priority = share.priority
                  AND e.workspace_id = share.workspace_id AND e.owner_id = share.user_id
                ORDER BY e.available_at
                LIMIT share.count
                FOR UPDATE SKIP LOCKED) AS e
            WHERE share.queue = {queue} AND NOT EXISTS (
                SELECT FROM executions higher
                WHERE {eligible("higher")} AND higher.queue = {queue}
                  AND higher.priority > share.priority)
            LIMIT {limit}
        ), others AS (
            SELECT {columns} FROM executions e
            WHERE {which} AND e.id <> ALL (ARRAY(SELECT id FROM shared))
            ORDER BY e.priority DESC, e.workspace_id, e.owner_id, e.available_at
            LIMIT {limit} - (SELECT count(*) FROM shared)
            FOR UPDATE SKIP LOCKED
        )
        SELECT * FROM shared UNION ALL SELECT * FROM others"""


def share_parameters(shares: Sequence[Share]) -> dict[str, object]:
    """Return the parameters of a statement that takes the `first` executions of queues."""
    return {
        "share_queues": [each.queue for each in shares],
        "share_workspaces": [each.owner.workspace_id for each in shares],
        "share_users": [each.owner.user_id for each in shares],
        "share_priorities": [each.priority for each in shares],
        "share_counts": [each.count for each in shares],
    }


def sent(queue: str, *, most: str) -> str:
    """Return how many messages `queue` has at the broker, counted up to `most`, as SQL."""
    return filled(
        f"""(SELECT count(*) FROM (
            SELECT FROM executions s
            WHERE s.status = {{queue_to}} AND s.queue = {queue} AND s.queued_at IS NOT NULL
            LIMIT {most}) AS sent)""",
        queue=Transition.QUEUE,
    )


def room(queue: str, *, priority: str, window: str) -> str:
    """Return whether an execution of `priority` may be sent before it is stored, as SQL."""
    return f"""NOT {queue_paused(queue)} AND {window} > {sent(queue, most=window)} AND NOT EXISTS (
            SELECT FROM executions due
            WHERE {eligible("due")} AND due.queue = {queue} AND due.priority >= {priority})"""


CLAIM_NEXT = (
    ", {live}, due AS ("
    + first(
        ":next_queue",
        limit="1",
        condition="EXISTS (SELECT FROM done) AND EXISTS (SELECT FROM live)",
    )
    + """
), taken AS (
    UPDATE executions e
    SET status = {claim_to}, lease_token = :next_token, event_seq = event_seq + 2,
        queued_at = now(), celery_task_id = {celery_task_id}, {take}
    WHERE e.id = ANY (ARRAY(SELECT id FROM due))
    RETURNING {of_e}, e.event_seq
), took AS (
    INSERT INTO events (execution_id, seq, type, attempt, data)
    SELECT id, event_seq - 1, 'queued', attempt - 1,
           jsonb_build_object('queue', CAST(:next_queue AS text),
                              'celery_task_id', celery_task_id)
    FROM taken
    UNION ALL
    SELECT id, event_seq, 'started', attempt, jsonb_build_object('worker', CAST(:worker AS text))
    FROM taken
)
SELECT ended.status, {made_due}, {of_taken}
FROM (SELECT max(status) AS status FROM done) AS ended LEFT JOIN taken ON true
"""
)
"""The end of a finishing statement that claims the next execution of a queue.

The row becomes `queued` and `running` in one step, with both events, and with a Celery task id of
its own as if there had been a message. It is claimed only if the statement has ended the attempt
(`done`): a statement that the server executes late, after it was repeated, claims nothing. A worker
without a valid lease claims nothing either."""


@dataclass(frozen=True, slots=True)
class NextClaim:
    """Parameters for claiming the next execution in the finishing statement."""

    queue: str
    worker: WorkerIdentity
    token: UUID
    shares: Sequence[Share] = ()

    def parameters(self) -> dict[str, object]:
        """Return the parameters of the statement."""
        return {
            "next_queue": self.queue,
            "next_token": self.token,
            "worker_id": self.worker.id,
            "worker": self.worker.name,
            **share_parameters(self.shares),
        }


_RELEASE_DUE = kept_with_guards(
    """
WITH due AS (
    SELECT id FROM executions
    WHERE status IN ({queue_from}) AND held = 'time' AND available_at <= now()
    ORDER BY available_at
    LIMIT :limit
    FOR UPDATE SKIP LOCKED
), released AS (
    UPDATE executions e
    SET held = CASE WHEN e.limit_keys IS NOT NULL AND NOT EXISTS (
        SELECT FROM execution_limits l WHERE l.execution_id = e.id AND l.state = 'held')
        THEN 'limit' END
    WHERE e.id = ANY (ARRAY(SELECT id FROM due))
    RETURNING e.id, e.held, e.limit_keys, e.started_at,
              set_config('synchronous_commit', 'off', true)
), lined AS (
    UPDATE execution_limits l
    SET state = CASE WHEN l.key = released.limit_keys[1] THEN 'waiting' ELSE 'elsewhere' END,
        place = CASE WHEN released.started_at IS NULL THEN l.place ELSE 0 END
    FROM released
    WHERE l.execution_id = ANY (ARRAY(SELECT id FROM released WHERE held = 'limit'))
      AND l.execution_id = released.id
)
SELECT count(*) FROM released
""",
    queue=Transition.QUEUE,
)


def release_due(connection: Connection, *, limit: int) -> int:
    """Release rows that were held until now, the longest due first; return how many.

    What has limits by key then waits for its slots, and is counted, too: those that have begun
    before all others. They keep the time at which they became due, and so their places in the
    order. Locked rows are skipped. The commit doesn't wait for the disk: if a crash of the server
    loses it, they are released again.
    """
    return int(connection.execute(_RELEASE_DUE, {"limit": limit}).scalar_one())


_RELEASE_PARALLEL = kept_with_guards(
    """
WITH used AS (
    SELECT count(*) AS count FROM executions
    WHERE run_id = :run_id AND step_no = :step_no AND completed_at IS NULL
      AND (held IS NULL OR held <> 'parallel')
), free AS (
    SELECT id FROM executions
    WHERE run_id = :run_id AND step_no = :step_no AND completed_at IS NULL
      AND held = 'parallel' AND status IN ({queue_from})
    ORDER BY item_no
    LIMIT (SELECT greatest(0, :parallel - count) FROM used)
    FOR NO KEY UPDATE
), released AS (
    UPDATE executions e
    SET held = CASE WHEN e.available_at > now() OR e.limit_keys IS NOT NULL THEN 'time' END
    WHERE e.id = ANY (ARRAY(SELECT id FROM free)) AND e.status IN ({queue_from})
    RETURNING e.id
)
SELECT count(*) FROM released
""",
    queue=Transition.QUEUE,
)


def release_parallel(connection: Connection, run_id: UUID, step_no: int, *, parallel: int) -> int:
    """Release items of a workflow's step, the first ones first, until `parallel` of them are free.

    Returns how many were released. The rows are counted, so an earlier statement of the transaction
    must have locked the step: who counts later sees what was released.
    """
    parameters = {"run_id": run_id, "step_no": step_no, "parallel": parallel}
    return int(connection.execute(_RELEASE_PARALLEL, parameters).scalar_one())
