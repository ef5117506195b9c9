"""`celeriac budgets`, `usage` and `prices`."""

from datetime import datetime
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from celeriac.cli.core.arguments import Home, Json, Limit
from celeriac.cli.core.context import CommandContext, open_client
from celeriac.cli.core.output import CommandError, ExitCode, Output, moment, money
from celeriac.cli.ids import BudgetId, ExecutionId
from celeriac.domain.budget_kinds import OnBudget, Period
from celeriac.domain.usage import UsageBy, dollars
from celeriac.kit.words import counted

if TYPE_CHECKING:
    from celeriac import wire
    from celeriac.agents.models import Prices


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


@open_client
def list_budgets(
    session: CommandContext, limit: Limit = 50, task: TaskOption = None, user: UserOption = None
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


@open_client
def set_budget(
    session: CommandContext,
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


@open_client
def show(session: CommandContext, budget: BudgetId) -> None:
    """Show a budget and how far it is used."""
    _show(session, session.client.budgets.get(budget))


@open_client
def of(
    session: CommandContext,
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


@open_client
def remove(session: CommandContext, budget: BudgetId) -> None:
    """Remove a budget: it bounds nothing any more."""
    session.client.budgets.remove(budget)
    if session.output.as_json:
        session.output.json({"id": budget, "removed": True})
    else:
        session.output.raw(f"removed · {budget}")


def _show(session: CommandContext, found: "wire.Budget") -> None:
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
            "under way": (
                f"{money(standing.reserved_cost)}, {counted(standing.reserved_tokens, 'token')}"
            ),
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
        parts.append(counted(standing.overshoot_tokens, "token"))
    return " and ".join(parts) or "-"


_DAY = ["%Y-%m-%d"]


@open_client
def usage(
    session: CommandContext,
    *,
    by: Annotated[UsageBy, typer.Option(help="What to add up by.")] = UsageBy.DAY,
    since: Annotated[
        datetime | None, typer.Option(formats=_DAY, help="First day, UTC; 30 days back.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=_DAY, help="Last day, UTC; today.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(metavar="TASK", help="Only of this task: its id or name.")
    ] = None,
    user: Annotated[
        UUID | None, typer.Option(metavar="ID", help="Only of this user; for admins.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500, help="How many.")] = 50,
) -> None:
    """Add up what model calls used: of your executions; an admin sees everybody's.

    The newest days come first, of all else the dearest.

    Examples:
      celeriac usage --by model
      celeriac usage --by user --since 2026-11-01
    """
    found = session.client.usage.totals(
        by.value,
        since=since.date() if since else None,
        until=until.date() if until else None,
        task=task,
        user_id=user,
        limit=limit,
    ).items
    if session.output.as_json:
        session.output.json(found)
        return
    session.output.table(
        (by.upper(), "CALLS", "INPUT", "CACHED", "OUTPUT", "COST", "WITHOUT PRICE"),
        (
            (
                each.name or each.key,
                f"{each.calls:,}",
                f"{each.input_tokens:,}",
                f"{each.cached_tokens:,}",
                f"{each.output_tokens:,}",
                money(each.cost),
                f"{each.unpriced_calls:,}" if each.unpriced_calls else "-",
            )
            for each in found
        ),
    )


_MILLION = 1_000_000
_UNKNOWN = "not known"


def prices(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="As agents name it: provider/model.")
    ] = None,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Show your own prices, or what a model costs, in US dollars per million tokens.

    Your own are those of the file that CELERIAC_PRICES_FILE names, as workers started here see it.

    Examples:
      celeriac prices
      celeriac prices openai/gpt-5-mini
    """
    from celeriac.wiring.core import load_prices, load_settings, model_price

    settings = load_settings(home)
    table = load_prices(settings)
    output = Output(as_json=as_json)
    if model is None:
        _show_own(output, table)
        return
    read, written = (
        model_price(settings, table, model, input_tokens=count, output_tokens=_MILLION - count)
        for count in (_MILLION, 0)
    )
    if output.as_json:
        output.json({"model": model, "input": read, "output": written})
    else:
        output.fields({"model": model, "input": _shown(read), "output": _shown(written)})
    if read is None:
        raise CommandError(
            f"No price of {model} is known. Add it to the file that CELERIAC_PRICES_FILE names.",
            exit_code=ExitCode.NOT_FOUND,
        )


def _show_own(output: Output, table: "Prices") -> None:
    if output.as_json:
        output.json({"version": table.version, "prices": dict(table.own)})
        return
    output.say(f"Version {table.version}" if table.version else "No version is named.")
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
