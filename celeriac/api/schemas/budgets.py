"""Requests about budgets."""

from typing import Any, Self
from uuid import UUID

from pydantic import ConfigDict, Field, model_validator

from celeriac.api.schemas.catalog import Reference
from celeriac.domain.budget import Budget, Period

_BUDGET: dict[str, Any] = {
    "task": "summarise",
    "period": "day",
    "max_cost": "5.00",
    "max_tokens": 2_000_000,
    "on_budget": "ask",
}


class NewBudget(Budget):
    """The budget of a task, or of a user, for a period."""

    model_config = ConfigDict(json_schema_extra={"examples": [_BUDGET]})

    task: Reference | None = Field(
        default=None, description="The task's id, or the name of one of yours."
    )
    user_id: UUID | None = Field(
        default=None, strict=False, description="The user's id; only admins set users' budgets."
    )
    period: Period = Field(strict=False)

    @model_validator(mode="after")
    def _is_for_one(self) -> Self:
        if (self.task is None) == (self.user_id is None):
            raise ValueError("name either a task or a user_id")
        return self

    def budget(self) -> Budget:
        """Return the limits alone."""
        return Budget(max_cost=self.max_cost, max_tokens=self.max_tokens, on_budget=self.on_budget)
