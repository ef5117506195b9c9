"""`celeriac budgets`, `usage` and `prices`."""

from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from celeriac.cli.core.arguments import Home, Json, Limit
from celeriac.cli.core.context import CommandContext, api_command, open_client
from celeriac.cli.core.ids import BudgetId, ExecutionId
from celeriac.cli.core.output import (
    CommandError,
    ExitCode,
    Output,
    UsageProblemError,
    amounts,
    money,
)
from celeriac.domain.budget_kinds import OnBudget, Period
from celeriac.domain.usage import UsageBy, dollars
from celeriac.kit.words import counted

if TYPE_CHECKING:
    from celeriac import wire
    from celeriac.agents.models import Prices


app = typer.Typer(name="budgets", help="Limits for the cost of model calls.")

TaskOption = Annotated[
    str | None, typer.Option("--task", metavar="TASK", help="Of this task: its id or name.")
]
UserOption = Annotated[UUID | None, typer.Option("--user", metavar="ID", help="Of this user.")]
OfWorkspace = Annotated[
    str | None,
    typer.Option("--of-workspace", metavar="NAME", help="Of this workspace: its id or name."),
]


@api_command(app, "list")
def list_budgets(
    context: CommandContext,
    limit: Limit = 50,
    task: TaskOption = None,
    user: UserOption = None,
    of_workspace: OfWorkspace = None,
) -> None:
    """List the budgets of the workspace and its tasks, the newest first.

    In your personal workspace also yours. An administrator also sees those of
    all users and workspaces.
    """
    context.output.write_list(
        context.client.budgets.list(task=task, user_id=user, workspace=of_workspace),
        ("ID", "OF", "NAME", "PERIOD", "WINDOW", "SPENT", "TOKENS", "WHEN SPENT"),
        lambda each: (
            each.id,
            each.scope,
            each.subject_name or each.subject_id,
            each.period,
            each.state.window,
            _dollars(each.state),
            _tokens(each.state),
            each.on_budget,
        ),
        limit=limit,
        cut=("NAME",),
        drop=("WHEN SPENT", "WINDOW", "OF", "TOKENS", "PERIOD"),
    )


@api_command(app, "set")
def set_budget(
    context: CommandContext,
    *,
    period: Annotated[Period, typer.Argument(help="It is reset each day or month, in UTC.")],
    task: TaskOption = None,
    user: UserOption = None,
    of_workspace: OfWorkspace = None,
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
    """Set the budget of a task, a user or a workspace. It replaces an earlier one.

    Usage since the day or month began counts. Only administrators set budgets of
    users and workspaces.

    Examples:
      celeriac budgets set day --task summarise --cost 5
      celeriac budgets set month --user 0199f3a2-… --tokens 20000000 --when-spent ask
    """
    if sum(each is not None for each in (task, user, of_workspace)) != 1:
        raise UsageProblemError("Name one of these: --task, --user or --of-workspace.")
    if cost is None and tokens is None:
        raise UsageProblemError("Give --cost, --tokens or both.")
    found = context.client.budgets.set(
        period.value,
        task=task,
        user_id=user,
        workspace=of_workspace,
        max_cost=cost,
        max_tokens=tokens,
        on_budget=when_spent.value,
    )
    _show(context, found)


@api_command(app)
def show(context: CommandContext, budget: BudgetId) -> None:
    """Show a budget and how far it is used."""
    _show(context, context.client.budgets.get(budget))


@api_command(app)
def of(context: CommandContext, execution: ExecutionId) -> None:
    """Show all budgets that apply to an execution: its own, its task's, user's and workspace's."""
    context.output.write_list(
        context.client.budgets.of_execution(execution).items,
        ("OF", "WINDOW", "SPENT", "TOKENS", "BEYOND"),
        lambda each: (each.scope, each.window, _dollars(each), _tokens(each), _beyond(each)),
    )


@api_command(app)
def delete(context: CommandContext, budget: BudgetId) -> None:
    """Remove a budget."""
    context.client.budgets.delete(budget)
    context.output.write({"id": budget, "deleted": True}, f"deleted · {budget}")


def _show(context: CommandContext, found: "wire.Budget") -> None:
    state = found.state
    context.output.write_details(
        found,
        {
            "id": found.id,
            "of": f"{found.scope} {found.subject_name or found.subject_id}",
            "period": f"{found.period} (now {state.window})",
            "spent": _dollars(state),
            "tokens": _tokens(state),
            "under way": f"{money(state.reserved_cost)}, {counted(state.reserved_tokens, 'token')}",
            "beyond": _beyond(state),
            "when spent": found.on_budget,
            "changed": found.updated_at,
        },
    )


def _dollars(state: "wire.BudgetState") -> str:
    limit = "" if state.max_cost is None else f" of {money(state.max_cost)}"
    return f"{money(state.spent_cost)}{limit}"


def _tokens(state: "wire.BudgetState") -> str:
    limit = "" if state.max_tokens is None else f" of {state.max_tokens:,}"
    return f"{state.spent_tokens:,}{limit}"


def _beyond(state: "wire.BudgetState") -> str:
    return amounts(state.overshoot_cost, state.overshoot_tokens) or "-"


_DAY = ["%Y-%m-%d"]


@open_client
def usage(
    context: CommandContext,
    *,
    by: Annotated[UsageBy, typer.Option(help="What to sum up by.")] = UsageBy.DAY,
    since: Annotated[
        datetime | None, typer.Option(formats=_DAY, help="First day, UTC; default 30 days ago.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=_DAY, help="Last day, UTC; default today.")
    ] = None,
    task: TaskOption = None,
    user: UserOption = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500, help="How many.")] = 50,
) -> None:
    """Sum up the usage of model calls of the workspace's executions.

    By workspace it is that of all workspaces, for administrators. Days are
    listed by time, the newest first; everything else by cost, the highest first.

    Examples:
      celeriac usage --by model
      celeriac usage --by user --since 2026-11-01
    """
    found = context.client.usage.totals(
        by.value,
        since=since.date() if since else None,
        until=until.date() if until else None,
        task=task,
        user_id=user,
        limit=limit,
    ).items
    context.output.write_list(
        found,
        (by.upper(), "CALLS", "INPUT", "CACHED", "OUTPUT", "COST", "WITHOUT PRICE"),
        lambda each: (
            each.name or each.key,
            f"{each.calls:,}",
            f"{each.input_tokens:,}",
            f"{each.cached_tokens:,}",
            f"{each.output_tokens:,}",
            money(each.cost),
            f"{each.unpriced_calls:,}" if each.unpriced_calls else None,
        ),
    )


_MILLION = 1_000_000
_UNKNOWN = "not known"


def prices(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="As in agents: provider/model.")
    ] = None,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Show your own prices, or the price of a model, in US dollars per million tokens.

    Your own prices are in the file that CELERIAC_PRICES_FILE names.

    Examples:
      celeriac prices
      celeriac prices openai/gpt-5-mini
    """
    from celeriac.agents.models import Prices
    from celeriac.wiring.core import load_settings, model_price

    settings = load_settings(home)
    table = Prices.load(settings.prices_file)
    output = Output(as_json=as_json)
    if model is None:
        _show_own(output, table)
        return
    read, written = (
        model_price(settings, table, model, input_tokens=count, output_tokens=_MILLION - count)
        for count in (_MILLION, 0)
    )
    output.write_details(
        {"model": model, "input": read, "output": written},
        {"model": model, "input": _shown(read), "output": _shown(written)},
    )
    if read is None:
        raise CommandError(
            f"No price of {model} is known. Add it to the file that CELERIAC_PRICES_FILE names.",
            exit_code=ExitCode.NOT_FOUND,
        )


def _show_own(output: Output, table: "Prices") -> None:
    if output.as_json:
        output.json({"version": table.version, "prices": dict(table.own)})
        return
    output.say(f"Version {table.version}" if table.version else "The file names no version.")
    output.table(
        ("MODEL", "INPUT", "CACHED INPUT", "OUTPUT"),
        (
            (name, _shown(each.input), _shown(each.cached_input, each.input), _shown(each.output))
            for name, each in sorted(table.own.items())
        ),
    )


def _shown(price: Decimal | None, otherwise: Decimal | None = None) -> str:
    price = otherwise if price is None else price
    return _UNKNOWN if price is None else f"${dollars(price)}"
