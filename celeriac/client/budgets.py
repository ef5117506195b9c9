"""Budgets and usage."""

from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from uuid import UUID

from celeriac import wire
from celeriac.client.transport import Resource, given, path


class Budgets(Resource):
    """`client.budgets`: limits for the cost of the model calls of tasks, users and workspaces."""

    def set(
        self,
        period: str,
        *,
        task: str | UUID | None = None,
        user_id: str | UUID | None = None,
        workspace: str | UUID | None = None,
        max_cost: Decimal | str | None = None,
        max_tokens: int | None = None,
        on_budget: str = "stop",
    ) -> wire.Budget:
        """Set the budget of a task, a user or a workspace for each `day` or `month`.

        It replaces an earlier one. `max_cost` is in US dollars; `on_budget` is `stop` or `ask`.
        """
        body = given(
            period=period,
            task=task,
            user_id=user_id,
            workspace=workspace,
            max_cost=max_cost,
            max_tokens=max_tokens,
            on_budget=on_budget,
        )
        return self._transport.post(wire.Budget, path("budgets"), body)

    def get(self, budget_id: str | UUID) -> wire.Budget:
        """Return a budget and how far it is used."""
        return self._transport.get(wire.Budget, path("budgets", budget_id))

    def list(
        self,
        *,
        task: str | UUID | None = None,
        user_id: str | UUID | None = None,
        workspace: str | UUID | None = None,
    ) -> Iterator[wire.Budget]:
        """Yield budgets, the newest first."""
        wanted = given(task=task, user_id=user_id, workspace=workspace)
        return self._transport.pages(wire.Budget, path("budgets"), wanted)

    def delete(self, budget_id: str | UUID) -> None:
        """Remove a budget."""
        self._transport.send("DELETE", path("budgets", budget_id))

    def of_execution(self, execution_id: str | UUID) -> wire.BudgetStates:
        """Return the state of all budgets that apply to an execution."""
        return self._transport.get(
            wire.BudgetStates, path("task-executions", execution_id, "budgets")
        )


class Usage(Resource):
    """`client.usage`: tokens and cost of model calls."""

    def totals(
        self,
        by: str = "day",
        *,
        since: date | None = None,
        until: date | None = None,
        task: str | UUID | None = None,
        user_id: str | UUID | None = None,
        limit: int = 50,
    ) -> wire.UsageTotals:
        """Return totals by `task`, `user`, `day` or `model`, by default of the last 30 days.

        Administrators can sum up all workspaces, by `workspace`.
        """
        wanted = given(by=by, since=since, until=until, task=task, user_id=user_id, limit=limit)
        return self._transport.get(wire.UsageTotals, path("usage"), wanted)

    def calls(self, execution_id: str | UUID) -> Iterator[wire.MadeCall]:
        """Yield an execution's model calls, the oldest first."""
        return self._transport.pages(
            wire.MadeCall, path("task-executions", execution_id, "model-calls")
        )
