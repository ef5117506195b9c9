"""Claims and finishes attempts.

Each is one guarded statement; finishing may claim the next pending execution of the queue.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, TextClause, text

from celeriac.db.executions.guards import with_guards
from celeriac.db.executions.park import park, resume_answered
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import (
    Claim,
    Completed,
    Failed,
    HandedBack,
    Lease,
    Message,
    Outcome,
    Parked,
    Retry,
    Stopped,
)
from celeriac.domain.executions.states import Status, Transition
from celeriac.kit.json_types import MAX_DEPTH, JsonObject, storable

_CLAIM = with_guards(
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
    return claim_from_row((message.execution_id, *row[:12]), token)


_CLAIMED = with_guards(
    """
SELECT id, attempt, task_id, task_version_id, agent_version_id, owner_id, variables, retry_count,
       celery_task_id, request_id, queue, session_id, options
FROM executions
WHERE status = {claim_to} AND lease_until IS NOT NULL AND lease_token = :token
""",
    claim=Transition.CLAIM,
)


def find_claim(connection: Connection, token: UUID) -> Claim | None:
    """Return the claim that was made under `token` and is still held, if any.

    For after an answer was lost on its way: reads all rows that run, so never without need.
    """
    row = connection.execute(_CLAIMED, {"token": token}).one_or_none()
    return None if row is None else claim_from_row(row, token)


CLAIM_NEXT = """
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

CLAIM_COLUMNS = (
    "id, attempt, task_id, task_version_id, agent_version_id, owner_id, variables, retry_count, "
    "celery_task_id, request_id, queue, session_id, options"
)
"""The columns of `taken` that `claim_of` reads."""


@dataclass(frozen=True, slots=True)
class NextClaim:
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


def claim_from_row(columns: Sequence[Any], token: UUID) -> Claim | None:
    """Make a claim of the columns `CLAIM_COLUMNS`, or None where nothing was taken."""
    if columns[0] is None:
        return None
    return Claim(Lease(columns[0], columns[1], token), *columns[2:13])


_END = """
WITH done AS (
    UPDATE executions
    SET status = {end_to}, completed_at = now(), lease_until = NULL, event_seq = event_seq + 1,
        result = CAST(:result AS jsonb), error_code = :code, error_message = :message,
        error_details = CAST(:details AS jsonb)
    WHERE id = :id AND status IN ({end_from}) AND attempt = :attempt AND lease_token = :token
    RETURNING id, event_seq, attempt, status
), logged AS (
    INSERT INTO events (execution_id, seq, type, attempt, data)
    SELECT id, event_seq, :type, attempt, CAST(:data AS jsonb) FROM done
)"""


_RELEASE = """
WITH done AS (
    UPDATE executions
    SET status = CASE WHEN cancel_requested_at IS NULL THEN {retry_to} ELSE {stop_to} END,
        completed_at = CASE WHEN cancel_requested_at IS NULL THEN NULL ELSE now() END,
        available_at = now() + make_interval(secs => :delay), lease_until = NULL,
        retry_count = retry_count + :retries, event_seq = event_seq + 1,
        error_code = coalesce(:code, error_code), error_message = coalesce(:message, error_message),
        error_details = coalesce(CAST(:details AS jsonb), error_details)
    WHERE id = :id AND status IN ({retry_from}) AND attempt = :attempt AND lease_token = :token
    RETURNING id, event_seq, attempt, status
), logged AS (
    INSERT INTO events (execution_id, seq, type, attempt, data)
    SELECT id, event_seq, CASE status WHEN {stop_to} THEN 'cancelled' ELSE :type END, attempt,
           CAST(:data AS jsonb)
    FROM done
)"""


_ALONE = "SELECT status FROM done"
_WITH_TURN = (
    CLAIM_NEXT
    + " SELECT ended.status, "
    + CLAIM_COLUMNS
    + " FROM (SELECT max(status) AS status FROM done) AS ended LEFT JOIN taken ON true"
)


def _both(statement: str, **transitions: Transition) -> tuple[TextClause, TextClause]:
    """Return a finishing statement by itself and with the taking of the next execution."""
    turn = {"queue": Transition.QUEUE, "claim": Transition.CLAIM}
    return with_guards(statement + _ALONE, **transitions), with_guards(
        statement + _WITH_TURN, **transitions, **turn
    )


_COMPLETE = _both(_END, end=Transition.COMPLETE)
_FAIL = _both(_END, end=Transition.FAIL)
_STOP = _both(_END, end=Transition.STOP)
_SEND_BACK = _both(_RELEASE, retry=Transition.RETRY, stop=Transition.STOP)


@dataclass(frozen=True, slots=True)
class Finished:
    """What was written: the new status, or None for a lost lease; and the next claim, if any.

    `again` tells that it had been written before, by a try whose answer got lost; `instead` is
    what was written in the place of an outcome that can't be stored.
    """

    status: Status | None
    claim: Claim | None = None
    again: bool = False
    instead: Outcome | None = None


def finish(
    connection: Connection, lease: Lease, outcome: Outcome, turn: NextClaim | None = None
) -> Finished:
    """Write how the attempt of `lease` ended and, on `turn`, claim the next pending execution.

    All in one statement. The status is None where the lease is no longer ours: the outcome is not,
    and must not be, written. Asked for a second time after an answer got lost on the way, it finds
    its own writing and returns the same status. A retry or hand-back of an execution whose
    cancellation was asked for cancels it.
    """
    if isinstance(outcome, Parked):
        return _parked(connection, lease, outcome)
    (alone, with_turn), values = _finishing(outcome)
    parameters = {
        "id": lease.execution_id, "attempt": lease.attempt, "token": lease.token, **values
    }  # fmt: skip
    if turn is None:
        status = connection.execute(alone, parameters).scalar_one_or_none()
        claim = None
    else:
        row = connection.execute(with_turn, {**parameters, **turn.parameters()}).one()
        status = row[0]
        claim = claim_from_row(row[1:], turn.token)
    if status is not None:
        return Finished(Status(status), claim)
    known = _as_finished(connection, lease)
    return Finished(known, claim, again=known is not None)


def _parked(connection: Connection, lease: Lease, outcome: Parked) -> Finished:
    """Park; an execution all of whose questions are answered already goes on at once."""
    status = park(connection, lease, outcome)
    if status is None:
        known = _as_finished(connection, lease)
        return Finished(known, again=known is not None)
    if outcome.questions:
        resume_answered(connection, [lease.execution_id])
    return Finished(status)


_AS_FINISHED = text(
    "SELECT status FROM executions WHERE id = :id AND attempt = :attempt AND lease_token = :token"
    " AND lease_until IS NULL"
)


def _as_finished(connection: Connection, lease: Lease) -> Status | None:
    parameters = {"id": lease.execution_id, "attempt": lease.attempt, "token": lease.token}
    status = connection.execute(_AS_FINISHED, parameters).scalar_one_or_none()
    return None if status is None else Status(status)


def _finishing(
    outcome: Completed | Failed | Stopped | Retry | HandedBack,
) -> tuple[tuple[TextClause, TextClause], JsonObject]:
    nothing = {"result": None, "code": None, "message": None, "details": None}
    match outcome:
        case Completed(result, truncated):
            data = storable({"truncated": True}) if truncated else "{}"
            event = {"type": EventType.COMPLETED, "data": data}
            return _COMPLETE, nothing | event | {"result": storable(result, depth=MAX_DEPTH)}
        case Failed(failure):
            error = _error(failure.code, failure.message, failure.details)
            return _FAIL, nothing | error | {"type": EventType.FAILED}
        case Stopped():
            return _STOP, nothing | {"type": EventType.CANCELLED, "data": "{}"}
        case Retry(failure, delay):
            error = _error(failure.code, failure.message, failure.details, delay=round(delay, 3))
            step = {"type": EventType.RETRY_SCHEDULED, "delay": delay, "retries": 1}
            return _SEND_BACK, nothing | error | step
        case HandedBack(failure, delay):
            back = {"type": EventType.HANDED_BACK, "data": "{}", "delay": delay, "retries": 0}
            if failure is None:
                return _SEND_BACK, {**nothing, **back}
            error = _error(failure.code, failure.message, failure.details, delay=round(delay, 3))
            return _SEND_BACK, {**nothing, **back, **error}


def _kind(details: JsonObject) -> JsonObject:
    return {"error_type": details["type"]} if isinstance(details.get("type"), str) else {}


def _error(code: str, message: str, details: JsonObject, **more: float) -> dict[str, str]:
    return {
        "code": code,
        "message": message,
        "details": storable(details),
        "data": storable({"code": code, "message": message, **_kind(details), **more}),
    }
