"""Which budgets apply to a call, and their windows: what is spent and reserved in a period.

Every statement locks windows in the order of their keys, so that two never deadlock. A missing
window starts with what was used since its beginning, by the totals of usage: a call is in the
totals of the day whose windows it was charged to; replayed calls count in no window.
"""

from dataclasses import dataclass
from typing import Any, Self
from uuid import UUID

from sqlalchemy import Connection, text

from celeriac.domain.budget_kinds import BudgetScope, OnBudget
from celeriac.domain.budgets import Budget, BudgetState
from celeriac.domain.executions.options import TreeBudget


@dataclass(frozen=True, slots=True)
class ChargeScope:
    """Whose budgets a call is charged to: an execution's, its task's, user's and workspace's."""

    execution_id: UUID | None
    task_id: UUID | None
    owner_id: UUID | None
    workspace_id: UUID | None
    own: Budget | None
    tree: TreeBudget | None = None
    """The budget that a child shares with its parent."""

    @classmethod
    def of_subject(cls, subject_id: UUID) -> Self:
        """Return the scope of the budgets of one task, one user or one workspace."""
        return cls(None, subject_id, None, None, None)

    def parameters(self) -> dict[str, object]:
        """Return the parameters of `APPLYING`."""
        own = self.own
        shared = self.tree.budget if self.tree else None
        return {
            "tree_id": self.tree.execution_id if self.tree else None,
            "tree_cost": shared.max_cost if shared else None,
            "tree_tokens": shared.max_tokens if shared else None,
            "tree_on_budget": shared.on_budget if shared else None,
            "execution_id": self.execution_id,
            "task_id": self.task_id,
            "owner_id": self.owner_id,
            "workspace_id": self.workspace_id,
            "own_cost": own.max_cost if own else None,
            "own_tokens": own.max_tokens if own else None,
            "own_on_budget": own.on_budget if own else None,
        }


WINDOW_KEY = """to_char(now() AT TIME ZONE 'UTC',
                   CASE b.period WHEN 'day' THEN 'YYYY-MM-DD' ELSE 'YYYY-MM' END)"""

APPLYING = f"""
WITH applying AS (
    SELECT b.id, b.scope, b.subject_id, b.max_cost, b.max_tokens, b.on_budget,
           {WINDOW_KEY} AS window_key,
           CAST(date_trunc(b.period, now() AT TIME ZONE 'UTC') AS date) AS since
    FROM budgets b
    WHERE b.subject_id IN (CAST(:owner_id AS uuid), CAST(:task_id AS uuid),
                           CAST(:workspace_id AS uuid))
    UNION ALL
    SELECT CAST(:execution_id AS uuid), 'execution', CAST(:execution_id AS uuid),
           CAST(:own_cost AS numeric), CAST(:own_tokens AS bigint), CAST(:own_on_budget AS text),
           'run', NULL
    WHERE CAST(:own_on_budget AS text) IS NOT NULL
    UNION ALL
    SELECT CAST(:tree_id AS uuid), 'execution', CAST(:tree_id AS uuid),
           CAST(:tree_cost AS numeric), CAST(:tree_tokens AS bigint), CAST(:tree_on_budget AS text),
           'run', NULL
    WHERE CAST(:tree_on_budget AS text) IS NOT NULL
)"""


_BEGIN_WINDOWS = text(f"""{APPLYING}
INSERT INTO budget_windows (budget_id, window_key, spent_cost, spent_tokens)
SELECT a.id, a.window_key, coalesce(sum(u.cost), 0), coalesce(sum(u.tokens), 0)
FROM applying a
LEFT JOIN LATERAL (
    SELECT d.cost, d.input_tokens + d.output_tokens AS tokens FROM usage_entries d
    WHERE a.scope = 'user' AND d.owner_id = a.subject_id AND d.day >= a.since
      AND d.provider NOT LIKE 'cassette/%'
    UNION ALL
    SELECT d.cost, d.input_tokens + d.output_tokens FROM usage_entries d
    WHERE a.scope = 'task' AND d.task_id = a.subject_id AND d.day >= a.since
      AND d.provider NOT LIKE 'cassette/%'
    UNION ALL
    SELECT d.cost, d.input_tokens + d.output_tokens FROM usage_entries d
    WHERE a.scope = 'workspace' AND d.workspace_id = a.subject_id AND d.day >= a.since
      AND d.provider NOT LIKE 'cassette/%'
) u ON true
GROUP BY a.id, a.window_key
ORDER BY a.id, a.window_key
ON CONFLICT DO NOTHING
""")


def begin_windows(connection: Connection, scope: ChargeScope) -> None:
    """Create the current windows of all budgets that apply, with what was used in them so far."""
    connection.execute(_BEGIN_WINDOWS, scope.parameters())


USE = """coalesce(w.spent_cost, 0), coalesce(w.spent_tokens, 0), coalesce(w.reserved_cost, 0),
       coalesce(w.reserved_tokens, 0), coalesce(w.raised, 0)"""

_STATES = text(f"""{APPLYING}
SELECT a.id, a.scope, a.subject_id, a.window_key, a.on_budget,
       a.max_cost + coalesce(w.extra_cost, 0), a.max_tokens + coalesce(w.extra_tokens, 0),
       {USE}
FROM applying a
LEFT JOIN budget_windows w ON w.budget_id = a.id AND w.window_key = a.window_key
ORDER BY a.scope, a.window_key
""")


def states(connection: Connection, scope: ChargeScope) -> list[BudgetState]:
    """Return the states of all budgets in `scope`."""
    return [state_of(row) for row in connection.execute(_STATES, scope.parameters())]


def state_of(row: Any) -> BudgetState:
    """Return the state of a budget from the columns of `BudgetState` in their order."""
    budget_id, scope, subject_id, window, on_budget, *numbers = row
    return BudgetState(
        budget_id, BudgetScope(scope), subject_id, window, OnBudget(on_budget), *numbers
    )
