"""Results of steps, as an execution of the run reads them."""

from uuid import UUID

from celeriac.db.engine import Connection
from celeriac.db.workflows import results
from celeriac.domain.errors import InvalidInputError
from celeriac.domain.workflows.records import ResultsPage


def read_results(
    connection: Connection, execution_id: UUID, *, step: str, run_id: UUID | None, after: int
) -> ResultsPage:
    """Return results of a step of the run that an execution belongs to, from `after` on.

    `run_id` may name a run above it. Raises InvalidInputError.
    """
    found = results.step_of(connection, execution_id, step=step, run_id=run_id)
    if found is None:
        raise InvalidInputError(
            "This execution is no step of a workflow, so there are no results of other steps."
            if run_id is None
            else f"The run {run_id} is neither that of this execution nor one above it.",
            field="step" if run_id is None else "run",
        )
    if found.status is None:
        raise InvalidInputError(f"The run has no step {step!r}.", field="step")
    if not found.status.terminal:
        raise InvalidInputError(
            f"The step {step!r} is {found.status.value}. Name it in the `needs` of this step, so "
            "that it has ended before.",
            field="step",
        )
    return results.page(connection, found, after=after)
