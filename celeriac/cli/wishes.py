"""Options of commands that run a task, beyond what and when."""

from typing import TYPE_CHECKING, Annotated

import typer

from celeriac.cli.exits import UsageProblemError
from celeriac.cli.ids import IdOf

if TYPE_CHECKING:
    from celeriac.client.wishes import Wishes

_AGENT = "What its agent may do"

SessionOption = Annotated[
    str | None,
    typer.Option(
        "--session",
        metavar="ID",
        help="Go on with the session of an earlier execution.",
        rich_help_panel=_AGENT,
    ),
    IdOf("sessions", "a session"),
]
Fork = Annotated[
    bool,
    typer.Option(
        "--fork",
        help="With --session: go on with a copy, and leave it as it is.",
        rich_help_panel=_AGENT,
    ),
]
BudgetCost = Annotated[
    float | None,
    typer.Option(
        min=0,
        metavar="DOLLARS",
        help="What its model calls may cost, instead of the task's budget.",
        rich_help_panel=_AGENT,
    ),
]
BudgetTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="COUNT",
        help="The tokens that its model calls may use, instead of the task's budget.",
        rich_help_panel=_AGENT,
    ),
]
AskBeyond = Annotated[
    bool,
    typer.Option(
        "--ask",
        help="Ask a person when this budget is spent; else it fails then.",
        rich_help_panel=_AGENT,
    ),
]
Record = Annotated[
    bool,
    typer.Option("--record", help="Save its model traffic as a cassette.", rich_help_panel=_AGENT),
]


def wishes(
    *,
    priority: str | None,
    queue: str | None,
    session: str | None,
    fork: bool,
    cost: float | None,
    tokens: int | None,
    ask: bool,
    record: bool,
) -> "Wishes":
    """Return what the options ask for; raises UsageProblemError where they don't go together."""
    if fork and session is None:
        raise UsageProblemError("--fork needs --session, the session to go on with a copy of.")
    if ask and cost is None and tokens is None:
        raise UsageProblemError("--ask goes with --budget-cost or --budget-tokens.")
    budget: dict[str, object] | None = None
    if cost is not None or tokens is not None:
        budget = {"on_budget": "ask" if ask else "stop"}
        budget |= {} if cost is None else {"max_cost": str(cost)}
        budget |= {} if tokens is None else {"max_tokens": tokens}
    return {
        "priority": priority,
        "queue": queue,
        "session_id": session,
        "fork_session": fork,
        "budget": budget,
        "record": record,
    }
