"""Budgets: limits of cost and tokens, their state, and what is left for a call."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Self
from uuid import UUID

from pydantic import Field, PlainSerializer, model_validator

from celeriac.domain.base import Strict
from celeriac.domain.budget_kinds import BudgetScope, OnBudget, Period
from celeriac.domain.usage import CallEstimate, Clip, dollars
from celeriac.kit.words import counted

Money = Annotated[
    Decimal,
    Field(strict=False, ge=0, le=1_000_000_000, max_digits=18, decimal_places=9),
    PlainSerializer(dollars, return_type=str, when_used="json"),
]
"""US dollars; in JSON a number or a text, written as a text."""


class Budget(Strict):
    """A limit on model calls; cost, tokens or both are limited."""

    max_cost: Money | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=10**15)
    """Input and output tokens together."""
    on_budget: OnBudget = Field(default=OnBudget.STOP, strict=False)

    @model_validator(mode="after")
    def _has_a_limit(self) -> Self:
        if self.max_cost is None and self.max_tokens is None:
            raise ValueError("set max_cost, max_tokens or both; a budget needs a limit")
        return self


@dataclass(frozen=True, slots=True)
class BudgetState:
    """The use of a budget in its current window: a day, a month, or one execution.

    `max_cost` and `max_tokens` are the limits of this window, including the extensions that people
    granted; `raised` counts the extensions. Reserved amounts are not part of the spent ones.
    """

    budget_id: UUID
    """The budget's id; the execution's id, for an execution's own budget."""
    scope: BudgetScope
    subject_id: UUID
    window: str
    """`2026-11-22`, `2026-11`, or `run` for an execution's own."""
    on_budget: OnBudget
    max_cost: Decimal | None
    max_tokens: int | None
    spent_cost: Decimal
    spent_tokens: int
    reserved_cost: Decimal
    reserved_tokens: int
    raised: int

    @property
    def spent_out(self) -> bool:
        """Whether one of the limits is reached."""
        return (self.max_cost is not None and self.spent_cost >= self.max_cost) or (
            self.max_tokens is not None and self.spent_tokens >= self.max_tokens
        )

    @property
    def exceeded(self) -> bool:
        """Whether more is spent than one of the limits."""
        return self.overshoot_cost > 0 or self.overshoot_tokens > 0

    @property
    def overshoot_cost(self) -> Decimal:
        """Dollars spent beyond the limit: at most what the last call cost."""
        if self.max_cost is None:
            return Decimal(0)
        return max(self.spent_cost - self.max_cost, Decimal(0))

    @property
    def overshoot_tokens(self) -> int:
        """Tokens spent beyond the limit: at most those of the last call."""
        return 0 if self.max_tokens is None else max(self.spent_tokens - self.max_tokens, 0)

    @property
    def beyond(self) -> str:
        """The overshoot in words; empty if there is none."""
        parts = [f"${dollars(self.overshoot_cost)}"] if self.overshoot_cost else []
        if self.overshoot_tokens:
            parts.append(counted(self.overshoot_tokens, "token"))
        return f"{' and '.join(parts)} beyond the {self.name}" if parts else ""

    @property
    def private(self) -> bool:
        """Whether only the user and administrators may see the numbers.

        A user's budget applies in all their workspaces, whose members read errors and questions.
        """
        return self.scope is BudgetScope.USER

    def describe(self) -> str:
        """Return the budget and its use as a phrase, for errors and questions."""
        return f"the {self.name} is spent" + ("" if self.private else f": {self.use}")

    @property
    def name(self) -> str:
        """The budget in words: `execution's budget`, `task's budget of 2026-11-22`."""
        window = "" if self.scope is BudgetScope.EXECUTION else f" of {self.window}"
        return f"{self.scope}'s budget{window}"

    @property
    def use(self) -> str:
        """What is spent of each limit: `$0.50 of $2.00 and 10 of 100 tokens`."""
        parts = []
        if self.max_cost is not None:
            parts.append(f"${dollars(self.spent_cost)} of ${dollars(self.max_cost)}")
        if self.max_tokens is not None:
            parts.append(f"{self.spent_tokens:,} of {counted(self.max_tokens, 'token')}")
        return " and ".join(parts)


@dataclass(frozen=True, slots=True)
class StoredBudget:
    """The budget of a task, a user or a workspace, as a row; `subject_id` is the id of that."""

    id: UUID
    scope: BudgetScope
    subject_id: UUID
    subject_name: str
    workspace_id: UUID
    owner_id: UUID
    period: Period
    budget: Budget
    created_at: datetime
    updated_at: datetime
    state: BudgetState


class Extension(Strict):
    """The extension that a person grants, as the value of an answer; empty doubles the limit."""

    cost: Money | None = None
    tokens: int | None = Field(default=None, ge=0, le=10**15)


MIN_ANSWER_TOKENS = 16
"""Answers are not clipped to fewer tokens; the call is refused instead."""


def can_hold(state: BudgetState, call: CallEstimate) -> bool:
    """Whether the minimum usage of `call` fits into what is not spent."""
    tokens = state.spent_tokens + call.least_tokens
    if state.max_tokens is not None and tokens > state.max_tokens:
        return False
    if state.max_cost is None or call.least_cost is None:
        return True
    return state.spent_cost + call.least_cost <= state.max_cost


def clip_of(states: Iterable[BudgetState], call: CallEstimate) -> Clip | None:
    """Return the limit of an answer that the budgets require; None if the call's own is enough.

    `states` exclude the call's own reservation. The input counts as it is reserved.
    """
    limit = call.output_tokens if call.output_limit is None else call.output_limit
    rooms = [(room, each) for each in states for room in _rooms(each, call)]
    if not rooms:
        return None
    room, state = min(rooms, key=lambda each: each[0])
    shortest = MIN_ANSWER_TOKENS if call.least_output is None else call.least_output
    room = max(room, min(shortest, limit))
    return Clip(room, state.name) if room < limit else None


def _rooms(state: BudgetState, call: CallEstimate) -> Iterator[int]:
    """Yield, for each limit of a budget, the answer tokens that still fit."""
    if state.max_tokens is not None:
        used = state.spent_tokens + state.reserved_tokens
        yield state.max_tokens - used - call.input_tokens
    if state.max_cost is not None and call.cost is not None and call.input_cost is not None:
        answer = call.cost - call.input_cost
        if answer > 0 and call.output_tokens:
            used_cost = state.spent_cost + state.reserved_cost
            left = max(state.max_cost - used_cost - call.input_cost, Decimal(0))
            yield int(left * call.output_tokens / answer)
