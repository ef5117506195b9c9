"""`celeriac budgets`: how much model calls may cost."""

from itertools import islice
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from celeriac.cli.exits import CommandError, ExitCode
from celeriac.cli.formatting import moment, money
from celeriac.cli.ids import BudgetId, ExecutionId
from celeriac.cli.options import Limit
from celeriac.cli.session import Session, connected
from celeriac.domain.budget_kinds import OnBudget, Period

if TYPE_CHECKING:
    from celeriac import wire

TaskOption = Annotated[
    str | None, typer.Option("--task", metavar="TASK", help="Of this task: its id or name.")
]
UserOption = Annotated[UUID | None, typer.Option("--user", metavar="ID", help="Of this user.")]


def build_app() -> typer.Typer:
    """Return the group `budgets`."""
    app = typer.Typer(
        name="budgets", help="How much model calls may cost: set, list and remove budgets."
    )
    app.command("list")(list_budgets)
    app.command("set")(set_budget)
    for command in (show, of, remove):
        app.command()(command)
    return app


@connected
def list_budgets(
    session: Session, limit: Limit = 50, task: TaskOption = None, user: UserOption = None
) -> None:
    """List budgets of your tasks and your own, the newest first; an admin sees everybody's."""
    found = list(islice(session.client.budgets.list(task=task, user_id=user), limit))
    if session.output.as_json:
        session.output.json(found)
        return
    session.output.table(
        ("ID", "OF", "NAME", "PERIOD", "WINDOW", "SPENT", "TOKENS", "WHEN SPENT"),
        (
            (
                str(each.id),
                each.scope.value,
                each.subject_name or str(each.subject_id),
                each.period.value,
                each.standing.window,
                _dollars(each.standing),
                _tokens(each.standing),
                each.on_budget.value,
            )
            for each in found
        ),
        cut=("NAME",),
        drop=("WHEN SPENT", "WINDOW", "OF", "TOKENS", "PERIOD"),
    )


@connected
def set_budget(
    session: Session,
    *,
    period: Annotated[Period, typer.Argument(help="It begins anew each day or month, in UTC.")],
    task: TaskOption = None,
    user: UserOption = None,
    cost: Annotated[
        str | None, typer.Option("--cost", metavar="DOLLARS", help="US dollars, as in 2.50.")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option("--tokens", min=1, help="Input and output tokens together.")
    ] = None,
    when_spent: Annotated[
        OnBudget, typer.Option("--when-spent", help="Stop executions, or ask a person.")
    ] = OnBudget.STOP,
) -> None:
    """Set the budget of a task, or of a user, in the place of an earlier one.

    What was used since the day or month began counts. Only admins set users' budgets.

    Examples:
      celeriac budgets set day --task summarise --cost 5
      celeriac budgets set month --user 0199f3a2-… --tokens 20000000 --when-spent ask
    """
    if (task is None) == (user is None):
        raise CommandError("Name either --task or --user.", exit_code=ExitCode.USAGE)
    if cost is None and tokens is None:
        raise CommandError("Give --cost, --tokens or both.", exit_code=ExitCode.USAGE)
    _show(
        session,
        session.client.budgets.set(
            period.value,
            task=task,
            user_id=user,
            max_cost=cost,
            max_tokens=tokens,
            on_budget=when_spent.value,
        ),
    )


@connected
def show(session: Session, budget: BudgetId) -> None:
    """Show a budget and how far it is used."""
    _show(session, session.client.budgets.get(budget))


@connected
def of(
    session: Session,
    execution: ExecutionId,
) -> None:
    """Show how all budgets stand that hold an execution: its own, its task's and its user's."""
    found = session.client.budgets.of_execution(execution).items
    if session.output.as_json:
        session.output.json(found)
        return
    session.output.table(
        ("OF", "WINDOW", "SPENT", "TOKENS", "BEYOND"),
        (
            (each.scope.value, each.window, _dollars(each), _tokens(each), _beyond(each))
            for each in found
        ),
    )


@connected
def remove(session: Session, budget: BudgetId) -> None:
    """Remove a budget: it bounds nothing any more."""
    session.client.budgets.remove(budget)
    if session.output.as_json:
        session.output.json({"id": budget, "removed": True})
    else:
        session.output.raw(f"removed · {budget}")


def _show(session: Session, found: "wire.Budget") -> None:
    if session.output.as_json:
        session.output.json(found)
        return
    standing = found.standing
    session.output.fields(
        {
            "id": str(found.id),
            "of": f"{found.scope} {found.subject_name or found.subject_id}",
            "period": f"{found.period} (now {standing.window})",
            "spent": _dollars(standing),
            "tokens": _tokens(standing),
            "under way": (f"{money(standing.reserved_cost)}, {standing.reserved_tokens:,} tokens"),
            "beyond": _beyond(standing),
            "when spent": found.on_budget.value,
            "changed": moment(found.updated_at),
        }
    )


def _dollars(standing: "wire.BudgetStanding") -> str:
    limit = "" if standing.max_cost is None else f" of {money(standing.max_cost)}"
    return f"{money(standing.spent_cost)}{limit}"


def _tokens(standing: "wire.BudgetStanding") -> str:
    limit = "" if standing.max_tokens is None else f" of {standing.max_tokens:,}"
    return f"{standing.spent_tokens:,}{limit}"


def _beyond(standing: "wire.BudgetStanding") -> str:
    parts = []
    if standing.overshoot_cost:
        parts.append(money(standing.overshoot_cost))
    if standing.overshoot_tokens:
        parts.append(f"{standing.overshoot_tokens:,} tokens")
    return " and ".join(parts) or "-"
