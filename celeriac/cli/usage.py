"""`celeriac usage`: what model calls used and cost."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

import typer

from celeriac.cli.formatting import money
from celeriac.cli.session import Session, connected
from celeriac.domain.usage import UsageBy

_DAY = ["%Y-%m-%d"]


@connected
def usage(
    session: Session,
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
