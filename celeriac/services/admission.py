"""Admission: leave for a model call, of the provider's limits and of all budgets."""

from datetime import date
from uuid import uuid4

from celeriac.domain.errors import ProviderRateLimitedError
from celeriac.domain.execution import Lease
from celeriac.domain.outcome import Parked
from celeriac.domain.usage import ModelCall, PlannedCall, Ticket
from celeriac.services.budget_book import NOTHING, BudgetBook, Used
from celeriac.services.ports import Job
from celeriac.services.provider_limits import ProviderLimits


class Admission:
    """Says whether a model call may be made now, and books what it used."""

    def __init__(self, limits: ProviderLimits, book: BudgetBook) -> None:
        """Ask `limits` first: who waits for a provider holds nothing of a budget meanwhile."""
        self._limits = limits
        self._book = book

    async def admit(
        self, lease: Lease, job: Job, call: PlannedCall, *, may_park: bool
    ) -> Ticket | None:
        """Give leave for a model call, at once or after a moment; see `RunContext.admit`.

        None where neither a limit nor a budget applies: the call was asked for nothing.
        """
        taken = await self._limits.take(call, may_park=may_park)
        try:
            reserved = await self._book.reserve(lease, job, call, may_park=may_park)
        except BaseException:
            if taken is not None:
                await self._limits.give_back(taken)
            raise
        if taken is None and reserved is None:
            return None
        if reserved is None:
            return Ticket(uuid4(), reserved=False, taken=taken)
        return Ticket(
            reserved.ticket,
            taken=taken,
            day=reserved.day,
            clip=reserved.clip,
            free=reserved.free,
        )

    async def charge(
        self, lease: Lease, job: Job, call: ModelCall, ticket: Ticket | None
    ) -> date | None:
        """Put what a call used in the place of what was reserved for it.

        One that was not reserved for is booked after the fact; raises BudgetSpentError where it
        exceeds a budget. Returns the day (UTC) of the budget windows that it was booked in.
        """
        used = _used(call)
        try:  # first: a cancellation while a limit is corrected must not cost the booking
            if ticket is not None and ticket.reserved:
                return await self._book.settle(job, ticket.id, used) or ticket.day
            return await self._book.spend(lease, job, used)
        finally:
            if ticket is not None and ticket.taken is not None:
                await self._limits.correct(ticket.taken, used.tokens)

    async def release(self, job: Job, ticket: Ticket) -> None:
        """Give back what was reserved for a call that came to nothing."""
        if ticket.taken is not None:
            await self._limits.correct(ticket.taken, 0)
        if ticket.reserved:
            await self._book.settle(job, ticket.id, NOTHING)

    def sent_away(
        self, lease: Lease, error: ProviderRateLimitedError, *, played: bool = False
    ) -> Parked | None:
        """Return how an execution waits whose provider asks to slow down; see ProviderLimits."""
        return self._limits.sent_away(lease.execution_id, error, played=played)


def _used(call: ModelCall) -> Used:
    told = call.booked or call
    return Used(told.cost, told.input_tokens + told.output_tokens)
