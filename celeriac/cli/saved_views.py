"""`celeriac views`: filters of executions under a name."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, cast

import typer

from celeriac.cli.core.arguments import Limit
from celeriac.cli.core.context import CommandContext, api_command
from celeriac.cli.core.ids import names_of
from celeriac.cli.core.output import UsageProblemError
from celeriac.cli.executions.selection import FILTERS, Conditions, parse_duration
from celeriac.domain.executions.states import WaitingFor
from celeriac.kit.text import printable

if TYPE_CHECKING:
    from celeriac.client.saved_views import ViewFilter
    from celeriac.wire import SavedView

app = typer.Typer(name="views", help="Filters of executions under a name, for --view.")

ViewName = Annotated[
    str,
    typer.Argument(metavar="VIEW", help="The view's name or id.", autocompletion=names_of("views")),
]


@dataclass(frozen=True, kw_only=True)
class ViewSelection(Conditions):
    """What the executions of a view must have, as options."""

    waiting_for: Annotated[
        WaitingFor | None, typer.Option(help="Only those that wait for this.")
    ] = None
    within: Annotated[
        int | None,
        typer.Option(
            parser=parse_duration,
            metavar="DURATION",
            help="Only those created in this time before the view is used: 30m, 24h or 7d. "
            "--since and --until stay at one time.",
        ),
    ] = None

    def for_client(self) -> "ViewFilter":
        """Return the filter for the client, without options that are not given."""
        wanted = cast("ViewFilter", self.conditions())
        if self.waiting_for is not None:
            wanted["waiting_for"] = self.waiting_for.value
        if self.within is not None:
            wanted["created_within"] = self.within
        return wanted


@api_command(app, "list")
def list_views(context: CommandContext, limit: Limit = 50) -> None:
    """List your views and the shared ones, the newest first, then those that are built in."""
    context.output.write_list(
        context.client.views.list(),
        ("NAME", "FOR", "BY", "FILTER"),
        lambda each: (each.name, _whose(each), each.created_by, _filter(each)),
        limit=limit,
        cut=("FILTER", "NAME"),
        drop=("BY", "FOR"),
    )


@api_command(app, "create")
def create_view(
    context: CommandContext,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name to use with --view.")],
    *,
    shared: Annotated[
        bool, typer.Option("--shared", help="For all members of the workspace, not only for you.")
    ] = False,
    selection: ViewSelection,
) -> None:
    """Save filters of executions under a name, for --view.

    Tasks and agents are looked up by their names when the view is used.

    Examples:
      celeriac views create bad-invoices --task invoice --status failed --within 24h
      celeriac executions list --view bad-invoices --label customer=acme
    """
    wanted = selection.for_client()
    if not wanted:
        raise UsageProblemError(f"The view has no filters: give {FILTERS}.")
    _show(context, context.client.views.create(name, shared=shared, **wanted))


@api_command(app)
def show(context: CommandContext, view: ViewName) -> None:
    """Show a view and its filter."""
    _show(context, context.client.views.get(view))


@api_command(app)
def change(
    context: CommandContext,
    view: ViewName,
    *,
    name: Annotated[str | None, typer.Option("--name", help="Its new name.")] = None,
    shared: Annotated[
        bool | None,
        typer.Option("--shared/--private", help="For all members, or for you alone."),
    ] = None,
    selection: ViewSelection,
) -> None:
    """Change a view. Filters, if any are given, replace all that it had.

    Examples:
      celeriac views change bad-invoices --shared
      celeriac views change bad-invoices --task invoice --status failed --within 7d
    """
    wanted = selection.for_client()
    if name is None and shared is None and not wanted:
        raise UsageProblemError(f"Give --name, --shared, --private or {FILTERS}.")
    _show(context, context.client.views.change(view, name=name, shared=shared, **wanted))


@api_command(app)
def delete(context: CommandContext, view: ViewName) -> None:
    """Delete a view; nothing else changes."""
    context.client.views.delete(view)
    context.output.write({"view": view, "deleted": True}, f"deleted · {view}")


def _show(context: CommandContext, found: "SavedView") -> None:
    context.output.write_details(
        found,
        {
            "id": found.id,
            "name": found.name,
            "for": _whose(found),
            "by": found.created_by or "",
            "filter": _filter(found),
            "problem": found.problem or "",
            "changed": found.updated_at or "",
        },
    )


def _whose(view: "SavedView") -> str:
    if view.built_in:
        return "all, built in"
    return "the workspace" if view.shared else "you"


def _filter(view: "SavedView") -> str:
    parts = []
    for name, value in view.filter.items():
        shown = ",".join(map(str, value)) if isinstance(value, list) else value
        parts.append(f"{name}={shown}")
    unusable = " (can't be used)" if view.problem else ""
    return printable(" ".join(parts)) + unusable
