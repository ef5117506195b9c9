"""Executions that start others, and what the database has of them."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import text

from celeriac.domain.executions.model import Claim, Parked
from celeriac.domain.executions.states import WaitingFor
from celeriac.domain.executions.steps import NewChildren, NewStep, StepKind, StepStatus
from celeriac.services.executions.attempt import Attempt
from celeriac.services.executions.steps import AttemptSteps
from tests.support.core import Core
from tests.support.spending import job_of, services_of

FOR_CHILDREN = Parked(WaitingFor.CHILDREN, "It waits for its children.", children=True)


def task_name(core: Core) -> str:
    """Return the name of the core's task."""
    with core.database.autocommit() as connection:
        query = text("SELECT name FROM tasks WHERE id = :id")
        return str(connection.execute(query, {"id": core.task}).scalar_one())


def steps_of(core: Core, claim: Claim, attempt: Attempt | None = None) -> AttemptSteps:
    """Return the stored steps of a claimed attempt."""
    services = services_of(core.database, core.live, core.queue)
    return AttemptSteps(services.steps, attempt or Attempt(claim.lease), job_of(claim))


def run_step(
    number: int = 1, *, width: int = 1, parallel: int | None = None, name: str = "run"
) -> NewStep:
    """Return a step that waits for children."""
    return NewStep(
        number=number,
        path=str(number),
        name=name,
        kind=StepKind.MAP,
        status=StepStatus.WAITING,
        width=width,
        parallel=parallel,
    )


def start_children(
    core: Core, claim: Claim, width: int = 1, *, number: int = 1, parallel: int | None = None
) -> Sequence[UUID]:
    """Start so many children as the step with this number does; return them."""
    new = NewChildren(
        task=task_name(core),
        places=range(width),
        variables=[{"n": n} for n in range(width)],
        parallel=parallel,
    )
    step = run_step(number, width=width, parallel=parallel)
    asyncio.run(steps_of(core, claim).start(number, new, step))
    return children_of(core, claim.lease.execution_id, number)


def children_of(core: Core, parent_id: UUID, number: int = 1) -> Sequence[UUID]:
    """Return the executions that a step has started."""
    query = text(
        "SELECT execution_id FROM children WHERE parent_id = :id AND step = :step ORDER BY item"
    )
    with core.database.autocommit() as connection:
        return list(connection.execute(query, {"id": parent_id, "step": number}).scalars())


def parent_of(
    core: Core, width: int = 1, *, parallel: int | None = None
) -> tuple[Claim, Sequence[UUID]]:
    """Return a running execution that has started children, and these."""
    claim = core.running()
    return claim, start_children(core, claim, width, parallel=parallel)


def claim_of(core: Core, execution_id: UUID) -> Claim:
    """Claim an execution."""
    core.dispatch.send_due()
    claim = core.claim(core.message(execution_id))
    assert claim is not None, "nobody else can have it"
    return claim
