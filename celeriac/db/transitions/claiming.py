"""queued → running: a worker becomes the owner of an attempt."""

from uuid import UUID

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
        attempt_started_at = now(), event_seq = event_seq + 1
    WHERE id = :id AND status IN ({claim_from}) AND attempt = :attempt
    RETURNING id, attempt, event_seq, task_id, task_version_id, agent_version_id, owner_id,
              variables, retry_count, celery_task_id, request_id
), logged AS (
    INSERT INTO events (execution_id, seq, type, attempt, data)
    SELECT id, event_seq, 'started', attempt, jsonb_build_object('worker', CAST(:worker AS text))
    FROM claimed
)
SELECT attempt, task_id, task_version_id, agent_version_id, owner_id, variables, retry_count,
       celery_task_id, request_id, set_config('synchronous_commit', 'off', true)
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
    return Claim(Lease(message.execution_id, row[0], token), *row[1:9])
