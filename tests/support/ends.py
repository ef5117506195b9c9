"""Every way in which an execution can end, and what it leaves then."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text

from celeriac.db import approvals, sessions
from celeriac.domain.approvals import OnExpiry
from celeriac.domain.executions.model import (
    Claim,
    Completed,
    Failed,
    Failure,
    HandedBack,
    Outcome,
    Parked,
    Retry,
    Stopped,
)
from celeriac.domain.executions.states import Status, Transition, WaitingFor
from tests.support.asking import a_question
from tests.support.core import LEASE_SECONDS, Core

EVENTS = ("execution.completed", "execution.failed", "execution.cancelled")
EXPIRES_SECONDS = 60.0
FAILURE = Failure("agent_failed", "no such lead", {"type": "LookupError", "attempt": 1})
ASKS = Parked(
    WaitingFor.APPROVAL,
    "It asks.",
    questions=(a_question("pay", on_expiry=OnExpiry.FAIL, expires_seconds=EXPIRES_SECONDS),),
)


@dataclass(frozen=True)
class Way:
    """A way to end: the transition, the status before, and who does it."""

    transition: Transition
    source: Status
    end: Callable[[Core, Claim], object]
    program: str | None = None
    """Who is named in the audit trail, if this is a failure."""
    holds: bool = True
    """Whether the ending statement waits for one of the attempt; otherwise it is sent again."""


def _finish(outcome: Outcome) -> Callable[[Core, Claim], object]:
    return lambda core, claim: core.finish(claim, outcome, (), None, has_rows=True)


def _complete_and_claim(core: Core, claim: Claim) -> object:
    return core.finish(claim, Completed(1), (), core.next_claim(), has_rows=True)


def _cancel(core: Core, claim: Claim) -> object:
    return core.cancel(core.actor, [claim.lease.execution_id])


def _cancelled(outcome: Outcome) -> Callable[[Core, Claim], object]:
    """Request the cancellation; then the attempt ends with `outcome`."""

    def end(core: Core, claim: Claim) -> object:
        _cancel(core, claim)
        return core.finish(claim, outcome, (), None, has_rows=True)

    return end


def _lose(core: Core, _claim: Claim) -> object:
    core.execute("UPDATE executions SET max_crashes = 1")
    core.pass_time(LEASE_SECONDS + 1)
    return core.rescue()


def _lose_cancelled(core: Core, claim: Claim) -> object:
    _cancel(core, claim)
    core.pass_time(LEASE_SECONDS + 1)
    return core.rescue()


def _expire(core: Core, _claim: Claim) -> object:
    core.pass_time(EXPIRES_SECONDS + 1)
    return core.expire()


def _lapse(core: Core, _claim: Claim) -> object:
    core.execute("UPDATE executions SET started_at = NULL, expires_at = now()")
    return core.end_expired()


RUNNING, STOP = Status.RUNNING, Transition.STOP
WAYS = {
    "complete": Way(Transition.COMPLETE, RUNNING, _finish(Completed(1))),
    "complete and claim": Way(Transition.COMPLETE, RUNNING, _complete_and_claim),
    "fail": Way(Transition.FAIL, RUNNING, _finish(Failed(FAILURE)), "worker"),
    "stop": Way(STOP, RUNNING, _cancelled(Stopped())),
    "retry, cancelled": Way(STOP, RUNNING, _cancelled(Retry(FAILURE, 0.0))),
    "hand back, cancelled": Way(STOP, RUNNING, _cancelled(HandedBack())),
    "park, cancelled": Way(STOP, RUNNING, _cancelled(ASKS)),
    "lose, cancelled": Way(STOP, RUNNING, _lose_cancelled, holds=False),
    "give up": Way(Transition.GIVE_UP, RUNNING, _lose, "keeper", holds=False),
    "expire": Way(Transition.EXPIRE, Status.WAITING, _expire, "keeper", holds=False),
    "cancel what waits": Way(Transition.CANCEL, Status.WAITING, _cancel),
    "cancel what is pending": Way(Transition.CANCEL, Status.PENDING, _cancel),
    "cancel what is queued": Way(Transition.CANCEL, Status.QUEUED, _cancel),
    "expire what is pending": Way(Transition.LAPSE, Status.PENDING, _lapse, holds=False),
    "expire what is queued": Way(Transition.LAPSE, Status.QUEUED, _lapse, holds=False),
}


def _survive(core: Core, _claim: Claim) -> object:
    core.pass_time(LEASE_SECONDS + 1)
    return core.rescue()


GOING_ON: dict[str, Callable[[Core, Claim], object]] = {
    "retry": _finish(Retry(FAILURE, 0.0)),
    "hand back": _finish(HandedBack()),
    "park": _finish(ASKS),
    "lose": _survive,
    "cancel what runs": _cancel,
}
"""What may end an execution, and does not here."""


def arrange(core: Core, source: Status) -> tuple[Claim, UUID]:
    """Bring an execution with a session and an open question to `source`.

    Returns its last claim and the session.
    """
    claim = core.running()
    session_id = begin_session(core, claim)
    with core.database.autocommit() as connection:
        assert approvals.ask(connection, claim.lease, a_question("mail")) is not None
    if source is Status.WAITING:
        core.end(claim, ASKS)
    elif source is not Status.RUNNING:
        core.end(claim, HandedBack())
        if source is Status.QUEUED:
            core.dispatch.send_due()
    assert core.status(claim.lease.execution_id) is source
    return claim, session_id


def begin_session(core: Core, claim: Claim) -> UUID:
    """Create the session of an attempt."""
    with core.database.autocommit() as connection:
        made = sessions.begin(connection, claim.lease, runner="python", parent_id=None)
    assert made is not None, "the lease must be held"
    return made


def endpoint(
    core: Core,
    events: Sequence[str] = EVENTS,
    *,
    workspace: UUID | None = None,
    active: bool = True,
) -> UUID:
    """Create a webhook endpoint, in the workspace of the core's actor unless one is given."""
    made = uuid4()
    core.execute(
        "INSERT INTO webhook_endpoints (id, workspace_id, owner_id, url, events, active)"
        " VALUES (:id, :workspace, :owner, 'https://hooks.example', :events, :active)",
        id=made,
        workspace=workspace or core.actor.workspace_id,
        owner=core.actor.user_id,
        events=list(events),
        active=active,
    )
    return made


def rows(core: Core, query: str, **parameters: Any) -> list[Any]:
    """Return what a query finds."""
    with core.database.autocommit() as connection:
        return list(connection.execute(text(query), parameters).all())


def deliveries(core: Core) -> list[tuple[UUID, UUID, str]]:
    """Return the endpoint, execution and event of every delivery."""
    query = "SELECT endpoint_id, execution_id, event FROM deliveries ORDER BY id"
    return [(row[0], row[1], row[2]) for row in rows(core, query)]
