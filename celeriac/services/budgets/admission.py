"""Admission of model calls: provider limits first, then budgets (`ledger.py` decides)."""

from dataclasses import replace
from datetime import date
from uuid import uuid4

from celeriac.domain.executions.model import Lease
from celeriac.domain.usage import (
    CallEstimate,
    ModelCall,
    Reservation,
)
from celeriac.services.budgets.ledger import NOTHING, BudgetLedger, Used
from celeriac.services.budgets.provider_limits import ProviderLimits
from celeriac.services.ports import Job


class Admission:
    """Admits model calls under rate limits and budgets, and charges them."""

    def __init__(self, limits: ProviderLimits, budgets: BudgetLedger) -> None:
        """Check `limits` first, so that a call waiting for its provider reserves no budget."""
        self.limits = limits
        self._budgets = budgets

    async def admit(
        self, lease: Lease, job: Job, call: CallEstimate, *, may_park: bool
    ) -> Reservation | None:
        """Admit a model call, at once or after a wait; see `RunContext.admit`.

        Returns None if no limit and no budget applies to the call.
        """
        taken = await self.limits.take(call, may_park=may_park)
        try:
            reserved = await self._budgets.reserve(lease, job, call, may_park=may_park)
        except BaseException:
            if taken is not None:
                await self.limits.give_back(taken)
            raise
        if taken is None:
            return reserved
        return replace(reserved or Reservation(uuid4(), reserved=False), taken=taken)

    async def charge(
        self, lease: Lease, job: Job, call: ModelCall, reservation: Reservation | None
    ) -> date | None:
        """Replace what was reserved for a call by what it used.

        A call without a reservation is charged afterwards; raises BudgetSpentError if that exceeds
        a budget. Returns the day (UTC) of the budget windows that were charged.
        """
        counted = call.booked or call
        used = Used(counted.cost, counted.input_tokens + counted.output_tokens)
        try:  # the budgets first: a cancellation during the correction must not lose the charge
            if reservation is not None and reservation.reserved:
                return await self._budgets.settle(job, reservation.id, used) or reservation.day
            return await self._budgets.spend(lease, job, used)
        finally:
            if reservation is not None and reservation.taken is not None:
                await self.limits.correct(reservation.taken, used.tokens)

    async def release(self, job: Job, reservation: Reservation) -> None:
        """Give back what was reserved for a call that was not made."""
        if reservation.taken is not None:
            await self.limits.correct(reservation.taken, 0)
        if reservation.reserved:
            await self._budgets.settle(job, reservation.id, NOTHING)
