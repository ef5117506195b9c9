"""Budgets and usage."""

from datetime import datetime
from uuid import UUID

from pydantic import Field

from celeriac.domain.budget_kinds import BudgetScope, OnBudget, Period
from celeriac.wire.base import Dollars, Links, Wire, links


class BudgetState(Wire):
    """The use of a budget in its current window."""

    budget_id: UUID = Field(description="The execution's id, for an execution's own budget.")
    scope: BudgetScope
    subject_id: UUID = Field(description="The execution, the task, the user or the workspace.")
    window: str = Field(
        description="`2026-11-22`, `2026-11`, or `run` for an execution's own budget.",
        examples=["2026-11-22"],
    )
    on_budget: OnBudget
    max_cost: Dollars | None = Field(
        description="The limit with all extensions granted by people.", examples=["5.00"]
    )
    max_tokens: int | None = Field(description="The limit with all extensions granted by people.")
    spent_cost: Dollars
    spent_tokens: int
    reserved_cost: Dollars = Field(description="Reserved for running model calls.")
    reserved_tokens: int = Field(description="Reserved for running model calls.")
    overshoot_cost: Dollars = Field(
        description="Spent beyond the limit: part of one call.", examples=["0.00"]
    )
    overshoot_tokens: int = Field(
        description="Spent beyond the limit: part of one call.", examples=[0]
    )
    raised: int = Field(description="How often people extended the limit.", examples=[0])


class BudgetStates(Wire):
    """All budgets that apply to an execution."""

    items: list[BudgetState]


class Budget(Wire):
    """The budget of a task, a user or a workspace."""

    id: UUID
    scope: BudgetScope
    subject_id: UUID = Field(description="The task, the user or the workspace.")
    subject_name: str | None = Field(examples=["summarise"])
    workspace_id: UUID
    owner_id: UUID = Field(description="Who made it.")
    period: Period = Field(description="Windows begin at midnight UTC: each day or each month.")
    max_cost: Dollars | None = Field(description="US dollars.", examples=["5.00"])
    max_tokens: int | None = Field(description="Input and output tokens together.")
    on_budget: OnBudget = Field(
        description="stop: the execution fails with `budget_spent`; ask: it waits for a person."
    )
    state: BudgetState
    created_at: datetime
    updated_at: datetime
    links: Links = links(self="/api/v1/budgets/{id}", task="/api/v1/tasks/{subject_id}")


class MadeCall(Wire):
    """A model call of an execution."""

    id: UUID
    attempt: int
    at: datetime
    provider: str = Field(examples=["openai"])
    model: str = Field(examples=["gpt-5-mini"])
    input_tokens: int
    output_tokens: int
    cached_tokens: int = Field(description="Part of the input tokens.")
    latency_ms: int
    finish_reason: str | None = Field(examples=["stop"])
    cost: Dollars | None = Field(
        description="US dollars; null if no price is known.", examples=["0.0002798"]
    )


class UsageTotal(Wire):
    """Total usage of model calls."""

    key: str = Field(
        description="The id of the task, user or workspace; the day; or `provider/model`.",
        examples=["2026-11-22"],
    )
    name: str | None = Field(examples=["2026-11-22"])
    calls: int
    unpriced_calls: int = Field(
        description="Calls without a known price; `cost` excludes them.", examples=[0]
    )
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost: Dollars


class UsageTotals(Wire):
    """Totals: the newest days first; all others the most expensive first."""

    items: list[UsageTotal]
