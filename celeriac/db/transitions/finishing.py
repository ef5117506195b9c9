"""running → whatever the attempt came to, written only by the holder of its lease."""

from dataclasses import dataclass

from sqlalchemy import Connection, TextClause, text

from celeriac.db.transitions.claiming import TAKE, TAKEN, Turn, claim_of
from celeriac.db.transitions.guards import guarded
from celeriac.db.transitions.parking import park, resume_answered
from celeriac.domain.events import EventType
from celeriac.domain.execution import Claim, Lease
from celeriac.domain.outcome import (
    Completed,
    Failed,
    HandedBack,
    Outcome,
    Parked,
    Retry,
    Stopped,
)
from celeriac.domain.states import Status, Transition
from celeriac.kit.jsontypes import MAX_DEPTH, JsonObject, storable

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
    TAKE
    + " SELECT ended.status, "
    + TAKEN
    + " FROM (SELECT max(status) AS status FROM done) AS ended LEFT JOIN taken ON true"
)


def _both(statement: str, **transitions: Transition) -> tuple[TextClause, TextClause]:
    """Return a finishing statement by itself and with the taking of the next execution."""
    turn = {"queue": Transition.QUEUE, "claim": Transition.CLAIM}
    return guarded(statement + _ALONE, **transitions), guarded(
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
    connection: Connection, lease: Lease, outcome: Outcome, turn: Turn | None = None
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
        claim = claim_of(row[1:], turn.token)
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
        case Completed(result):
            event = {"type": EventType.COMPLETED, "data": "{}"}
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


def _error(code: str, message: str, details: JsonObject, **more: float) -> dict[str, str]:
    return {
        "code": code,
        "message": message,
        "details": storable(details),
        "data": storable({"code": code, "message": message, **more}),
    }
