"""A worker's part in single steps, for tests that need an execution in a certain state."""

from collections.abc import Sequence
from uuid import UUID, uuid4

from sqlalchemy import text

from celeriac.db import sessions, workers
from celeriac.db.executions import leases, queries
from celeriac.db.executions.leases import PendingWrites
from celeriac.domain.executions.events import NewEvent
from celeriac.domain.executions.model import Claim, Message, Outcome, WorkerIdentity
from celeriac.domain.executions.states import Status
from celeriac.domain.sessions import SessionStatus
from celeriac.domain.usage import ModelCall
from celeriac.kit.ids import uuid7
from celeriac.services.executions.attempt import Registration
from celeriac.services.executions.finish import Finish
from celeriac.services.executions.run import ClaimAttempt
from celeriac.wiring.core import CoreServices
from tests.support.core import describe


def claim(container: CoreServices, execution_id: UUID | str, *, attempt: int = 0) -> Claim:
    """Claim a queued execution, as a worker does that got its message."""
    worker = WorkerIdentity(uuid7(), "test-worker")
    with container.database.autocommit() as connection:
        workers.register(connection, describe(worker), lease_seconds=60)
    registration = Registration(worker)
    registration.renewed(paused=False)
    claiming = ClaimAttempt(container.database, registration, lease_seconds=60)
    with container.database.autocommit() as connection:
        found = queries.get(connection, UUID(str(execution_id)), workspace=None)
    assert found is not None, f"{execution_id} is lost"
    claimed = claiming(Message(found.id, attempt, str(found.celery_task_id)), uuid4())
    assert claimed is not None, f"{execution_id} must be queued with {attempt} attempts behind it"
    container.live.changed([claimed.lease.execution_id])
    return claimed


def write_events(
    container: CoreServices,
    claimed: Claim,
    events: Sequence[NewEvent] = (),
    *,
    calls: Sequence[ModelCall] = (),
) -> None:
    """Write what an agent emits, as its worker does in batches."""
    with container.database.autocommit() as connection:
        query = text("SELECT batch_no + 1 FROM executions WHERE id = :id")
        number = connection.execute(query, {"id": claimed.lease.execution_id}).scalar_one()
        notes = PendingWrites(claimed.lease, events=list(events), calls=list(calls), number=number)
        written = leases.store_batch(connection, [notes])
    assert written, "the lease must be held"
    container.live.changed([claimed.lease.execution_id])


def begin_session(container: CoreServices, claimed: Claim, *, runner: str = "llm") -> UUID:
    """Make a session for a running attempt, as its runner does."""
    with container.database.autocommit() as connection:
        made = sessions.begin(connection, claimed.lease, runner=runner, parent_id=None)
        assert made is not None, "the lease must be held"
        assert sessions.save(
            connection, claimed.lease, made, number=1, external_id="x-1", state={"secret": "state"},
            status=SessionStatus.ACTIVE,
        )  # fmt: skip
    return made


def finish(container: CoreServices, claimed: Claim, outcome: Outcome) -> Status:
    """Write how the attempt ended."""
    finishing = Finish(container.database, container.live)
    status = finishing(claimed, outcome, (), None).status
    assert status is not None, "the lease must be held"
    return status
