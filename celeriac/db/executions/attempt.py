"""Claims and finishes attempts.

Each is one guarded statement; finishing may claim the next pending execution of the queue.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, TextClause, text

from celeriac.db.executions.eligible import CLAIM_NEXT, NextClaim, held_for, unexpired
from celeriac.db.executions.ended import KEPT
from celeriac.db.executions.guards import CELERY_TASK_ID, kept_with_guards, not_counted, with_guards
from celeriac.db.executions.park import park, resume_answered, resume_without_children
from celeriac.db.executions.paused import paused
from celeriac.db.executions.pauses import give_back
from celeriac.domain.errors import LeaseExpiredError
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.flags import is_empty
from celeriac.domain.executions.model import (
    Claim,
    Completed,
    Failed,
    Failure,
    HandedBack,
    Lease,
    Message,
    Outcome,
    Parked,
    Retry,
    Stopped,
    WorkerIdentity,
)
from celeriac.domain.executions.states import Status, Transition
from celeriac.domain.fingerprint import fingerprint
from celeriac.kit.json_types import MAX_DEPTH, storable

CLAIM_COLUMNS = (
    "id attempt task_id task_version_id agent_version_id workspace_id owner_id variables "
    "retry_count celery_task_id request_id queue session_id trigger_type options run_id "
    "last_chance parent_id limit_keys traceparent"
).split()
"""The columns of which `claim_from_row` makes a claim."""

_LONGEST_TYPE = 200

_READ = {
    "variables": "coalesce((SELECT i.variables FROM execution_inputs i"
    " WHERE i.execution_id = {of}), '{{}}'::json)",
    "celery_task_id": "{row}.celery_task_id::text",
    "last_chance": "{row}.crash_count > 0 AND {row}.crash_count + 1 >= {row}.max_crashes",
}
_NO_COLUMNS = {"variables": "", "last_chance": "e.crash_count, e.max_crashes"}
"""What is returned by an update instead, of which `_READ` makes them."""


def _claimed(row: str, of: str = "ANY (ARRAY(SELECT {row}.id))") -> str:
    """Return the values of `CLAIM_COLUMNS` of the claimed `row`, as SQL.

    `of` is what its id equals: an array, unless it is known when the statement begins or the
    statement doesn't keep its plan (`celeriac.db.plans`).
    """
    values = (_READ.get(name, f"{{row}}.{name}") for name in CLAIM_COLUMNS)
    return ", ".join(each.format(row=row, of=of.format(row=row)) for each in values)


PARTS = {
    "of_claimed": _claimed("claimed", of="{row}.id AND i.execution_id = :id"),
    "of_taken": _claimed("taken"),
    "of_executions": _claimed("executions", of="{row}.id"),
    "of_claims": _claimed("claims"),
    "celery_task_id": CELERY_TASK_ID,
    "of_e": ", ".join(filter(None, (_NO_COLUMNS.get(n, f"e.{n}") for n in CLAIM_COLUMNS))),
    "kept": KEPT,
    "take": """attempt = attempt + 1, worker_id = :worker_id, worker_hostname = :worker,
        started_at = coalesce(started_at, now()), attempt_started_at = now(), batch_no = 0""",
    "live": """live AS (
    SELECT id FROM workers
    WHERE id = :worker_id AND lost_at IS NULL AND stopped_at IS NULL AND lease_until > now()
)""",
    "held": held_for(":delay"),
    # in this order: steps are looked for only if nothing else was done
    "did_nothing": """e.model_call_count = 0 AND e.tool_call_count = 0 AND e.message_count = 0
            AND NOT EXISTS (SELECT FROM steps s WHERE s.execution_id = e.id)
""",
    "unexpired": unexpired("e"),
}
"""The parts that the statements of claims and ends share."""

CLAIMED = (
    """
WITH {live}, claimed AS (
    UPDATE executions e
    SET status = {claim_to}, lease_token = :token, event_seq = event_seq + 1, {take}
    WHERE id = :id AND status IN ({claim_from}) AND attempt = :attempt
      AND celery_task_id = CAST(:celery_task_id AS uuid)
      AND {unexpired} AND EXISTS (SELECT FROM live) AND NOT """
    + paused("e")
    + """
    RETURNING {of_e}, e.event_seq, e.lease_token
), logged AS (
    INSERT INTO events (execution_id, seq, type, attempt, data)
    SELECT id, event_seq, 'started', attempt, jsonb_build_object('worker', CAST(:worker AS text))
    FROM claimed
)"""
)
"""The begin of a statement that claims the attempt of a message: `claimed` has its row, if any."""

_CLAIM = kept_with_guards(
    CLAIMED
    + """
SELECT {of_claimed}, EXISTS (SELECT FROM live), EXISTS (SELECT FROM pauses),
       set_config('synchronous_commit', 'off', true)
FROM (SELECT) AS one LEFT JOIN claimed ON true
""",
    PARTS,
    claim=Transition.CLAIM,
)


def claim(
    connection: Connection, message: Message, *, token: UUID, worker: WorkerIdentity
) -> Claim | None:
    """Make this worker the owner of the attempt that `message` names, or return None.

    None means that another worker has it, that the execution is paused, or that it was cancelled,
    parked or finished, or has expired: the message must be dropped. What is paused goes back to
    `pending`. Raises LeaseExpiredError if the worker has no valid lease. The commit doesn't wait
    for the disk (docs/adr/0003): if a crash of the server loses it, the row is still `queued` and
    this worker's writes are refused.
    """
    parameters = {
        **message_parameters(message), "token": token, **worker_parameters(worker)
    }  # fmt: skip
    row = connection.execute(_CLAIM, parameters).one()
    width = len(CLAIM_COLUMNS)
    check_lease(valid=row[width])
    found = claim_from_row(row, token)
    if found is None and row[width + 1]:
        give_back(connection, message)
    return found


def check_lease(*, valid: bool) -> None:
    """Raise LeaseExpiredError unless the lease of the worker is `valid`."""
    if not valid:
        raise LeaseExpiredError("The lease of this worker process has expired.")


def message_parameters(message: Message) -> dict[str, object]:
    """Return the parameters of a statement that claims what `message` names."""
    return {
        "id": message.execution_id,
        "attempt": message.attempt,
        "celery_task_id": message.celery_task_id,
    }


def worker_parameters(worker: WorkerIdentity) -> dict[str, object]:
    """Return the parameters of a statement that claims for `worker`."""
    return {"worker_id": worker.id, "worker": worker.name}


_CLAIMED = with_guards(
    """
SELECT {of_executions} FROM executions
WHERE status = {claim_to} AND worker_id = :worker_id AND lease_token = :token
""",
    PARTS,
    claim=Transition.CLAIM,
)


def find_claim(connection: Connection, token: UUID, worker_id: UUID) -> Claim | None:
    """Return the claim that the worker made with `token` and still holds, or None.

    Reads all that the worker runs; call it only after a lost answer.
    """
    parameters = {"token": token, "worker_id": worker_id}
    row = connection.execute(_CLAIMED, parameters).one_or_none()
    return None if row is None else claim_from_row(row, token)


_CLAIMED_WITH = with_guards(
    """
SELECT {of_executions}, lease_token FROM executions
WHERE status = {claim_to} AND worker_id = :worker_id
  AND lease_token = ANY (CAST(:tokens AS uuid[]))
""",
    PARTS,
    claim=Transition.CLAIM,
)


def find_claims(connection: Connection, tokens: Sequence[UUID], worker_id: UUID) -> list[Claim]:
    """Return what the worker has claimed with any of `tokens` and still holds; see `find_claim`."""
    rows = connection.execute(_CLAIMED_WITH, {"tokens": list(tokens), "worker_id": worker_id})
    claims = (claim_from_row(row, row[len(CLAIM_COLUMNS)]) for row in rows)
    return [each for each in claims if each is not None]


def claim_from_row(columns: Sequence[Any], token: UUID) -> Claim | None:
    """Return a claim from `CLAIM_COLUMNS`, or None if nothing was claimed."""
    if columns[0] is None:
        return None
    return Claim(Lease(columns[0], columns[1], token), *columns[2 : len(CLAIM_COLUMNS)])


_END = """
WITH done AS (
    UPDATE executions e
    SET status = {end_to}, completed_at = now(), event_seq = event_seq + 1,
        truncated = :truncated, no_op = CAST(:empty AS boolean) AND {did_nothing},
        error_code = :code, error_type = :error_type, error_message = :message,
        error_fingerprint = :fingerprint
    WHERE id = :id AND status IN ({end_from}) AND attempt = :attempt AND lease_token = :token
    RETURNING {ended_columns}, 'worker' AS ended_by, NULL::jsonb AS ended_why, e.event_seq
), logged AS (
    INSERT INTO events (execution_id, seq, type, attempt, data)
    SELECT id, event_seq, :type, attempt, CAST(:data AS json) FROM done
), produced AS (
    SELECT id, CAST(:result AS json) AS result, CAST(:details AS json) AS error_details
    FROM done
    -- an earlier attempt may have left details
    WHERE attempt > 1 OR CAST(:result AS json) IS NOT NULL OR CAST(:details AS json) IS NOT NULL
){kept}{ended}
"""


_RELEASE = """
WITH done AS (
    UPDATE executions e
    SET status = CASE WHEN cancel_requested_at IS NULL THEN {retry_to} ELSE {stop_to} END,
        completed_at = CASE WHEN cancel_requested_at IS NULL THEN NULL ELSE now() END,
        available_at = now() + make_interval(secs => :delay),
        held = CASE WHEN cancel_requested_at IS NULL THEN {held} END,
        retry_count = retry_count + :retries, event_seq = event_seq + 1,
        error_code = coalesce(:code, error_code), error_type = coalesce(:error_type, error_type),
        error_message = coalesce(:message, error_message)
    WHERE id = :id AND status IN ({retry_from}) AND attempt = :attempt AND lease_token = :token
    RETURNING {ended_columns}, e.event_seq
), logged AS (
    INSERT INTO events (execution_id, seq, type, attempt, data)
    SELECT id, event_seq, CASE status WHEN {stop_to} THEN 'cancelled' ELSE :type END, attempt,
           CAST(:data AS json)
    FROM done
), produced AS (
    SELECT id, NULL::json AS result, CAST(:details AS json) AS error_details FROM done
    WHERE CAST(:details AS json) IS NOT NULL
){kept}{ended}
"""


_ALONE = "SELECT status, {made_due} FROM done"
_CONDITION = "AND attempt = :attempt AND lease_token = :token"


def _variants(statement: str, **transitions: Transition) -> Mapping[tuple[bool, bool], TextClause]:
    """Return a finishing statement by whether its execution is counted, and whether it claims."""
    alone, claiming = statement + _ALONE, statement + CLAIM_NEXT
    narrow = partial(not_counted, condition=_CONDITION)
    both = {**transitions, "claim": Transition.CLAIM}
    return {
        (True, False): kept_with_guards(alone, PARTS, **transitions),
        (True, True): kept_with_guards(claiming, PARTS, **both),
        (False, False): kept_with_guards(narrow(alone), PARTS, **transitions),
        (False, True): kept_with_guards(narrow(claiming), PARTS, **both),
    }


_STATEMENTS = {
    Transition.COMPLETE: _variants(_END, end=Transition.COMPLETE),
    Transition.FAIL: _variants(_END, end=Transition.FAIL),
    Transition.STOP: _variants(_END, end=Transition.STOP),
    Transition.RETRY: _variants(_RELEASE, retry=Transition.RETRY, stop=Transition.STOP),
}


@dataclass(frozen=True, slots=True)
class Finished:
    """The stored status, None if the lease was lost, and the next claim, if any.

    `made_due` if the end has made other executions due, or parking this one again. `again` if an
    earlier try, whose answer was lost, had stored it; `instead` is what was stored instead of an
    outcome that can't be stored.
    """

    status: Status | None
    claim: Claim | None = None
    again: bool = False
    instead: Outcome | None = None
    made_due: bool = False


def finish(
    connection: Connection,
    lease: Lease,
    outcome: Outcome,
    next_claim: NextClaim | None = None,
    *,
    counted: bool = True,
) -> Finished:
    """Store the outcome of the attempt of `lease` and claim the next pending execution.

    All in one statement, with what every end does (`ended`). If a statement of the attempt that
    stores a question or a session may still be at work, the caller must `hold` the execution first,
    in the same transaction. The status is None if the lease was lost: nothing was written.
    Idempotent: a repeated call returns the status that the first call stored. A retry or hand-back
    of an execution whose cancellation is requested cancels it. With `counted` false a cheaper
    statement is tried first, which ends the execution only if nothing counts that.
    """
    if isinstance(outcome, Parked):
        return _parked(connection, lease, outcome)
    transition, values = finishing(outcome)
    parameters = {
        "id": lease.execution_id, "attempt": lease.attempt, "token": lease.token, **values
    }  # fmt: skip
    statements = _STATEMENTS[transition]
    for variant in (True,) if counted else (False, True):
        finished = _finish(
            connection, statements[variant, next_claim is not None], parameters, next_claim
        )
        if finished.status is not None:
            return finished
    known = _as_finished(connection, lease)
    return Finished(known, again=known is not None)


def _finish(
    connection: Connection,
    statement: TextClause,
    parameters: Mapping[str, object],
    next_claim: NextClaim | None,
) -> Finished:
    """Execute a finishing statement; without a status it has neither ended nor claimed anything."""
    if next_claim is None:
        row = connection.execute(statement, parameters).one_or_none()
        return Finished(None) if row is None else Finished(Status(row[0]), made_due=row[1])
    row = connection.execute(statement, {**parameters, **next_claim.parameters()}).one()
    if row[0] is None:
        return Finished(None)
    claim = claim_from_row(row[2:], next_claim.token)
    return Finished(Status(row[0]), claim, made_due=row[1])


def _parked(connection: Connection, lease: Lease, outcome: Parked) -> Finished:
    """Park; resumes at once if all questions have answers, or children have ended, already."""
    status, made_due = park(connection, lease, outcome)
    if status is None:
        known = _as_finished(connection, lease)
        return Finished(known, again=known is not None)
    if outcome.questions and resume_answered(connection, [lease.execution_id]):
        made_due = True
    live = outcome.live_children
    if outcome.children and resume_without_children(connection, lease.execution_id, live=live):
        made_due = True
    return Finished(status, made_due=made_due)


_AS_FINISHED = text(
    "SELECT status FROM executions WHERE id = :id AND attempt = :attempt AND lease_token = :token"
    " AND status <> 'running'"
)


def _as_finished(connection: Connection, lease: Lease) -> Status | None:
    parameters = {"id": lease.execution_id, "attempt": lease.attempt, "token": lease.token}
    status = connection.execute(_AS_FINISHED, parameters).scalar_one_or_none()
    return None if status is None else Status(status)


def finishing(
    outcome: Completed | Failed | Stopped | Retry | HandedBack,
) -> tuple[Transition, dict[str, object]]:
    """Return the transition of an outcome, and the values that are stored with it.

    A hand-back is written as a retry that doesn't count as one.
    """
    values: dict[str, object] = {"data": "{}", "truncated": False, "empty": False}
    values |= dict.fromkeys(_NONE)
    match outcome:
        case Completed(result, truncated):
            values |= {"type": EventType.COMPLETED, "truncated": truncated}
            values["empty"] = is_empty(result)
            if truncated:
                values["data"] = storable({"truncated": True})
            if result is not None:
                values["result"] = storable(result, depth=MAX_DEPTH)
            return Transition.COMPLETE, values
        case Failed(failure):
            key = fingerprint(failure.code, failure.message, failure.details)
            values |= {"type": EventType.FAILED, "fingerprint": key}
            return Transition.FAIL, values | _error(failure)
        case Stopped():
            return Transition.STOP, values | {"type": EventType.CANCELLED}
        case Retry(failure, delay):
            values |= _error(failure, delay=round(delay, 3))
            return Transition.RETRY, values | _step(EventType.RETRY_SCHEDULED, delay, retries=1)
        case HandedBack(failure, delay):
            if failure is not None:
                values |= _error(failure, delay=round(delay, 3))
            return Transition.RETRY, values | _step(EventType.HANDED_BACK, delay, retries=0)


_NONE = ("result", "code", "error_type", "message", "details", "fingerprint")


def _step(kind: EventType, delay: float, *, retries: int) -> dict[str, object]:
    return {"type": kind, "delay": delay, "retries": retries}


def _error(failure: Failure, **more: float) -> dict[str, object]:
    kind = failure.details.get("type")
    data = {"code": failure.code, "message": failure.message, **more}
    if isinstance(kind, str):
        data["error_type"] = kind
    return {
        "code": failure.code,
        "error_type": kind[:_LONGEST_TYPE] if isinstance(kind, str) else None,
        "message": failure.message,
        "details": storable(failure.details),
        "data": storable(data),
    }
