"""Admission: leave for a model call, of the provider's limits and of all budgets."""

from celeriac.domain.execution import Lease
from celeriac.domain.usage import ModelCall, PlannedCall, Ticket
from celeriac.services.ports import Job


class Admission:
    """Says whether a model call may be made now."""

    async def admit(
        self, lease: Lease, job: Job, call: PlannedCall, *, may_park: bool
    ) -> Ticket | None:
        """Give leave for a model call, at once or after a moment; see `RunContext.admit`."""
        return None

    def settle(self, ticket: Ticket, call: ModelCall) -> None:
        """Put what a call used in the place of what was reserved for it."""
