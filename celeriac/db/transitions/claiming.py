"""queued → running: a worker becomes the owner of an attempt, by its message or by taking turns."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection

from celeriac.db.transitions.guards import guarded
from celeriac.domain.execution import Claim, Lease, Message
from celeriac.domain.states import Transition

_CLAIM = guarded(
    """
WITH claimed AS (
    UPDATE executions
    SET status = {claim_to}, attempt = attempt + 1, lease_token = :token,
        lease_until = now() + make_interval(secs => :lease_seconds),
        worker_hostname = :worker, started_at = coalesce(started_at, now()),
        attempt_started_at = now(), batch_no = 0, event_seq = event_seq + 1
    WHERE id = :id AND status IN ({claim_from}) AND attempt = :attempt
    RETURNING id, attempt, event_seq, task_id, task_version_id, agent_version_id, owner_id,
              variables, retry_count, celery_task_id, request_id, queue, session_id, options
), logged AS (
    INSERT INTO events (execution_id, seq, type, attempt, data)
    SELECT id, event_seq, 'started', attempt, jsonb_build_object('worker', CAST(:worker AS text))
    FROM claimed
)
SELECT attempt, task_id, task_version_id, agent_version_id, owner_id, variables, retry_count,
       celery_task_id, request_id, queue, session_id, options,
       set_config('synchronous_commit', 'off', true)
FROM claimed
""",
    claim=Transition.CLAIM,
)


def claim(
    connection: Connection, message: Message, *, token: UUID, worker: str, lease_seconds: float
) -> Claim | None:
    """Make this worker the owner of the attempt that `message` offers, or return None.

    None means that somebody else has it, or that it was cancelled, parked or finished: the message
    is to be dropped. The commit doesn't wait for the disk (docs/adr/0003): a claim that a crash of
    the server forgets leaves the row `queued` and the forgotten worker fenced out.
    """
    row = connection.execute(
        _CLAIM,
        {
            "id": message.execution_id,
            "attempt": message.attempt,
            "token": token,
            "worker": worker,
            "lease_seconds": lease_seconds,
        },
    ).one_or_none()
    if row is None:
        return None
    return claim_of((message.execution_id, *row[:12]), token)


_CLAIMED = guarded(
    """
SELECT id, attempt, task_id, task_version_id, agent_version_id, owner_id, variables, retry_count,
       celery_task_id, request_id, queue, session_id, options
FROM executions
WHERE status = {claim_to} AND lease_until IS NOT NULL AND lease_token = :token
""",
    claim=Transition.CLAIM,
)


def claimed(connection: Connection, token: UUID) -> Claim | None:
    """Return the claim that was made under `token` and is still held, if any.

    For after an answer was lost on its way: reads all rows that run, so never without need.
    """
    row = connection.execute(_CLAIMED, {"token": token}).one_or_none()
    return None if row is None else claim_of(row, token)


TAKE = """
, turn AS (
    SELECT id FROM executions
    WHERE status IN ({queue_from}) AND queue = :next_queue AND available_at <= now()
      AND EXISTS (SELECT FROM done)
    ORDER BY priority DESC, available_at
    LIMIT 1
    FOR UPDATE SKIP LOCKED
), taken AS (
    UPDATE executions e
    SET status = {claim_to}, attempt = attempt + 1, lease_token = :next_token,
        lease_until = now() + make_interval(secs => :lease_seconds),
        worker_hostname = :worker, started_at = coalesce(started_at, now()),
        attempt_started_at = now(), queued_at = now(), celery_task_id = gen_random_uuid()::text,
        batch_no = 0, event_seq = event_seq + 2
    FROM turn WHERE e.id = turn.id
    RETURNING e.id, attempt, event_seq, task_id, task_version_id, agent_version_id, owner_id,
              variables, retry_count, celery_task_id, request_id, queue, session_id, options
), took AS (
    INSERT INTO events (execution_id, seq, type, attempt, data)
    SELECT id, event_seq - 1, 'queued', attempt - 1,
           jsonb_build_object('queue', CAST(:next_queue AS text),
                              'celery_task_id', celery_task_id)
    FROM taken
    UNION ALL
    SELECT id, event_seq, 'started', attempt, jsonb_build_object('worker', CAST(:worker AS text))
    FROM taken
)"""
"""Part of a finishing statement: take the next pending row of a queue, `queued` and `running` in
one step; with both events and a Celery task id of its own, as if a message had come and gone in
between. An id that several executions share would lead from each of them to any other.

It takes only where the statement has ended the attempt before (`done`): one that the server comes
to late, after it was sent again, takes nothing that nobody would know of."""

TAKEN = (
    "id, attempt, task_id, task_version_id, agent_version_id, owner_id, variables, retry_count, "
    "celery_task_id, request_id, queue, session_id, options"
)
"""The columns of `taken` that `claim_of` reads."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A worker's wish to go on with the next pending execution of a queue."""

    queue: str
    worker: str
    lease_seconds: float
    token: UUID = field(default_factory=uuid4)

    def parameters(self) -> dict[str, object]:
        """Return what `TAKE` needs."""
        return {
            "next_queue": self.queue,
            "next_token": self.token,
            "worker": self.worker,
            "lease_seconds": self.lease_seconds,
        }


def claim_of(columns: Sequence[Any], token: UUID) -> Claim | None:
    """Make a claim of the columns `TAKEN`, or None where nothing was taken."""
    if columns[0] is None:
        return None
    return Claim(Lease(columns[0], columns[1], token), *columns[2:13])
