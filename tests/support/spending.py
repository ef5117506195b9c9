"""Budgets under test: calls that are admitted and charged as an attempt's are."""

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import cast
from uuid import UUID

from sqlalchemy import text

from celeriac.db.budgets import reservations
from celeriac.db.engine import Database
from celeriac.domain.agents import LlmAgent
from celeriac.domain.budgets import Budget
from celeriac.domain.executions.model import Claim
from celeriac.domain.tasks import Limits
from celeriac.domain.usage import CallEstimate, ModelCall, Rate, Reservation
from celeriac.kit.threads import Threads
from celeriac.services.approvals.ask import Questions
from celeriac.services.budgets.admission import Admission
from celeriac.services.budgets.ledger import BudgetLedger
from celeriac.services.budgets.provider_limits import ProviderLimits
from celeriac.services.cassettes import CassetteStore
from celeriac.services.catalog.specs import SpecCache
from celeriac.services.executions.context import AttemptServices
from celeriac.services.executions.dispatch import Dispatch
from celeriac.services.executions.steps import StepStore
from celeriac.services.files.working import WorkingFiles
from celeriac.services.ports import Job, LiveEvents, RateLimiter, TaskQueue
from celeriac.services.sessions import SessionStore
from tests.support.core import Core
from tests.support.memory import MemoryLiveEvents, MemoryTaskQueue
from tests.support.memory_rates import MemoryRateLimiter
from tests.support.objects import files_in


def admission_of(
    database: Database,
    rates: Mapping[str, Rate] | None = None,
    limiter: RateLimiter | None = None,
) -> Admission:
    """Return a process's admission; the limiter is in memory unless given."""
    limits = ProviderLimits(
        limiter or MemoryRateLimiter(), rates or {}, database, Threads("rates", 2)
    )
    live = MemoryLiveEvents()
    return Admission(limits, BudgetLedger(database, Questions(database, live), live))


def services_of(
    database: Database,
    live: LiveEvents | None = None,
    queue: TaskQueue | None = None,
    *,
    tree_executions: int = 100_000,
    home: Path | None = None,
) -> AttemptServices:
    """Return the services of a process's attempts; `queue` gets the messages of children.

    Files are saved below `home`; without one no attempt may have any.
    """
    live = live or MemoryLiveEvents()
    return AttemptServices(
        admission=admission_of(database),
        sessions=SessionStore(database),
        questions=Questions(database, live),
        cassettes=CassetteStore(database),
        live=live,
        steps=StepStore(
            database,
            live,
            SpecCache(database),
            Dispatch(database, queue or MemoryTaskQueue(), live),
            tree_executions=tree_executions,
        ),
        files=cast("WorkingFiles", None) if home is None else files_in(database, home),
    )


def job_of(claim: Claim, budget: Budget | None = None) -> Job:
    """Return a job of the claimed attempt, whose budget is that of its options or `budget`."""
    return Job(
        execution_id=claim.lease.execution_id,
        attempt=claim.lease.attempt,
        task_name="test",
        agent_name="tester",
        agent=LlmAgent(model="test/model"),
        prompt="Do it.",
        variables={},
        output_schema=None,
        limits=Limits(),
        workspace_id=claim.workspace_id,
        owner_id=claim.owner_id,
        task_id=claim.task_id,
        options=claim.options,
        budget=claim.options.budget or budget,
    )


def planned(tokens: int = 10, cost: str | None = "0.01") -> CallEstimate:
    """Return a call that is about to be made."""
    return CallEstimate("test", "model", tokens, 0, None if cost is None else Decimal(cost))


def made(tokens: int = 10, cost: str | None = "0.01") -> ModelCall:
    """Return a call that was made."""
    return ModelCall("test", "model", tokens, 0, cost=None if cost is None else Decimal(cost))


class Spending:
    """A process that spends, and what the database has of it."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.admission = admission_of(core.database)

    def another_process(self) -> "Spending":
        """Return one that knows nothing yet."""
        return Spending(self.core)

    async def admit(
        self, claim: Claim, call: CallEstimate, *, budget: Budget | None = None, park: bool = True
    ) -> Reservation | None:
        """Ask leave for a call."""
        return await self.admission.admit(claim.lease, job_of(claim, budget), call, may_park=park)

    async def charge(
        self,
        claim: Claim,
        call: ModelCall,
        reservation: Reservation | None,
        *,
        budget: Budget | None = None,
    ) -> None:
        """Charge a call."""
        await self.admission.charge(claim.lease, job_of(claim, budget), call, reservation)

    def release(self) -> int:
        """Do what the keeper does about reservations that were left behind."""
        with self.core.database.autocommit() as connection:
            return reservations.release_leaked(connection, limit=100)

    def window(self, budget_id: UUID) -> tuple[Decimal | int, int, Decimal | int, int]:
        """Return what is spent and reserved: money and tokens of both."""
        query = text(
            "SELECT spent_cost, spent_tokens, reserved_cost, reserved_tokens"
            " FROM budget_windows WHERE budget_id = :id"
        )
        with self.core.database.autocommit() as connection:
            row = connection.execute(query, {"id": budget_id}).one()
        return row[0], row[1], row[2], row[3]
