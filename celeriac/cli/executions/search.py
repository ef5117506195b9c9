"""`celeriac executions search`: executions that have a text, and how far back was looked."""

from typing import TYPE_CHECKING, Annotated

import typer

from celeriac.cli.core.arguments import Limit
from celeriac.cli.core.context import CommandContext
from celeriac.cli.core.output import moment, short
from celeriac.cli.executions.listing import Bulky
from celeriac.cli.executions.notes import note
from celeriac.cli.executions.selection import LiveSelection
from celeriac.kit.words import counted

if TYPE_CHECKING:
    from celeriac.wire import ExecutionSummary


def search(
    context: CommandContext,
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="What to look for, in upper or lower case.")
    ],
    *,
    limit: Limit = 20,
    windows: Annotated[
        int, typer.Option(min=1, max=10_000, help="Requests to make at most: each looks further.")
    ] = 20,
    cursor: Annotated[
        str | None, typer.Option(help="Go on where an earlier search has ended.")
    ] = None,
    selection: LiveSelection,
) -> None:
    """Search executions for a text, from the newest to older ones.

    Looks at the task's name, variables, result, labels, error message and note
    of the progress. Ends with --limit finds or after --windows requests, and
    then says how far back it looked and how to go on.

    Examples:
      celeriac executions search "order A-1734"
      celeriac executions search timeout --status failed --since 7d
    """
    found: list[ExecutionSummary] = []
    looked_at, back_to, following = 0, None, cursor
    for _ in range(windows):
        (window,) = context.client.executions.search_windows(
            text,
            windows=1,
            cursor=following,
            limit=min(limit - len(found), 100),
            **selection.for_client(),
        )
        found += window.items
        looked_at += window.looked_at
        back_to = window.searched_back_to or back_to
        following = window.next_cursor
        if following is None or len(found) >= limit:
            break
    if context.output.as_json:
        shown = [each.model_dump(by_alias=True, exclude=set[str](Bulky)) for each in found]
        context.output.json(
            {
                "items": shown,
                "looked_at": looked_at,
                "searched_back_to": back_to,
                "next_cursor": following,
            }
        )
        return
    context.output.write_list(
        iter(found),
        ("ID", "TASK", "STATUS", "CREATED", "NOTE"),
        lambda each: (each.id, each.task_name, each.status, each.created_at, short(note(each))),
        limit=limit,
        cut=("TASK", "NOTE"),
        drop=("CREATED",),
    )
    all_of_them = "" if following is None else f"; go on with --cursor {following}"
    since = "" if back_to is None else f", back to {moment(back_to)}"
    context.output.say(f"Looked at {counted(looked_at, 'execution')}{since}{all_of_them}.")
