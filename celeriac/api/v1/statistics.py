"""`/api/v1/stats`: rates, success and durations of what ended in a window of time."""

from typing import Annotated, Any

from fastapi import APIRouter, Query

from celeriac import wire
from celeriac.api.core.auth import Caller
from celeriac.api.core.parameters import Services
from celeriac.api.core.requests import JsonRoute
from celeriac.domain.rollups import (
    LONGEST_WINDOW_SECONDS,
    MOST_LISTED,
    QUANTILES,
    SHORTEST_WINDOW_SECONDS,
    Histogram,
    Sums,
    Window,
)

router = APIRouter(tags=["statistics"], route_class=JsonRoute)


@router.get("/stats", summary="Statistics of executions")
def get_statistics(
    actor: Caller,
    services: Services,
    window_seconds: Annotated[
        int,
        Query(
            ge=SHORTEST_WINDOW_SECONDS,
            le=LONGEST_WINDOW_SECONDS,
            description="The length of the window, up to 92 days.",
        ),
    ] = 3_600,
    top: Annotated[
        int, Query(ge=0, le=MOST_LISTED, description="How many tasks and queues to list.")
    ] = 10,
    all_workspaces: Annotated[
        bool, Query(description="Of all workspaces, for administrators.")
    ] = False,
) -> wire.Statistics:
    """Return what ended in the last `window_seconds`, in all and by task and queue.

    The window begins with a whole minute (up to an hour), hour (up to two days) or day. Ends of
    the last few seconds may be missing. The cost of the answer does not grow with the history.
    """
    window = services.rollups.window(actor, window_seconds, every=all_workspaces, top=top)
    total = services.rollups.totals(actor, every=all_workspaces)
    return wire.Statistics(
        **_ended(window, window.sums),
        since=window.since,
        until=window.until,
        behind_seconds=window.behind_seconds,
        tasks=[
            wire.EndedOfTask(
                task_id=each.task_id,
                task=each.task,
                workspace=each.workspace,
                **_ended(window, each.sums),
            )
            for each in window.tasks
        ],
        queues=[
            wire.EndedOfQueue(queue=each.queue, **_ended(window, each.sums))
            for each in window.queues
        ],
        all_time=wire.EndedInAll(
            completed=total.completed, failed=total.failed, cancelled=total.cancelled
        ),
    )


def _ended(window: Window, sums: Sums) -> dict[str, Any]:
    rate = sums.success_rate
    return {
        "completed": sums.completed,
        "failed": sums.failed,
        "cancelled": sums.cancelled,
        "completed_per_minute": round(window.per_minute(sums.completed), 3),
        "failed_per_minute": round(window.per_minute(sums.failed), 3),
        "success_rate": None if rate is None else round(rate, 4),
        "retries": sums.retries,
        "lost_attempts": sums.crashes,
        "model_calls": sums.model_calls,
        "input_tokens": sums.input_tokens,
        "output_tokens": sums.output_tokens,
        "cached_tokens": sums.cached_tokens,
        "denied_tools": sums.denied_tools,
        "no_ops": sums.no_ops,
        "cost": sums.cost,
        "wait": _durations(sums.average_wait_seconds, sums.wait),
        "run": _durations(sums.average_run_seconds, sums.run),
    }


def _durations(average: float | None, histogram: Histogram) -> wire.Durations:
    found = {name: histogram.quantile(share) for name, share in QUANTILES.items()}
    return wire.Durations(
        average=None if average is None else round(average, 3),
        **{name: None if each is None else round(each, 3) for name, each in found.items()},
    )
