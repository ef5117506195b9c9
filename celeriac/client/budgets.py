"""Budgets and usage."""

from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from uuid import UUID

from celeriac import wire
from celeriac.client.resources import given, pages
from celeriac.client.transport import API, Transport, segment

_PATH = f"{API}/budgets"


class Budgets:
    """`client.budgets`: how much the model calls of tasks and users may cost."""

    def __init__(self, transport: Transport) -> None:
        """Send through `transport`."""
        self._transport = transport

    def set(
        self,
        period: str,
        *,
        task: str | UUID | None = None,
        user_id: str | UUID | None = None,
        max_cost: Decimal | str | None = None,
        max_tokens: int | None = None,
        on_budget: str = "stop",
    ) -> wire.Budget:
        """Set the budget of a task or a user for each `day` or `month`.

        It takes the place of an earlier one. `max_cost` is in US dollars; `on_budget` is stop or
        ask.
        """
        body = given(
            period=period,
            task=task and str(task),
            user_id=user_id and str(user_id),
            max_cost=None if max_cost is None else str(max_cost),
            max_tokens=max_tokens,
            on_budget=on_budget,
        )
        return self._transport.post(wire.Budget, _PATH, body)

    def get(self, budget_id: str | UUID) -> wire.Budget:
        """Return a budget and how far it is used."""
        return self._transport.get(wire.Budget, f"{_PATH}/{segment(budget_id)}")

    def list(
        self, *, task: str | UUID | None = None, user_id: str | UUID | None = None
    ) -> Iterator[wire.Budget]:
        """Yield budgets, the newest first, reading page after page."""
        wanted = given(task=task and str(task), user_id=user_id and str(user_id))
        return pages(self._transport, wire.Budget, _PATH, wanted)

    def remove(self, budget_id: str | UUID) -> None:
        """Remove a budget: it bounds nothing any more."""
        self._transport.send("DELETE", f"{_PATH}/{segment(budget_id)}")

    def of_execution(self, execution_id: str | UUID) -> wire.BudgetStandings:
        """Return how all budgets stand that hold an execution."""
        path = f"{API}/task-executions/{segment(execution_id)}/budgets"
        return self._transport.get(wire.BudgetStandings, path)


class Usage:
    """`client.usage`: what model calls used."""

    def __init__(self, transport: Transport) -> None:
        """Send through `transport`."""
        self._transport = transport

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
        """Return totals by `task`, `user`, `day` or `model`; of the last 30 days if not told."""
        wanted = given(
            by=by,
            since=since and since.isoformat(),
            until=until and until.isoformat(),
            task=task and str(task),
            user_id=user_id and str(user_id),
            limit=limit,
        )
        return self._transport.get(wire.UsageTotals, f"{API}/usage", wanted)

    def calls(self, execution_id: str | UUID) -> Iterator[wire.MadeCall]:
        """Yield an execution's model calls, the oldest first, reading page after page."""
        path = f"{API}/task-executions/{segment(execution_id)}/model-calls"
        return pages(self._transport, wire.MadeCall, path)
