"""Statistics of executions that ended: windows of time, and totals of all time."""

from celeriac.db import rollups
from celeriac.db.engine import Database
from celeriac.domain.accounts import Actor
from celeriac.domain.errors import InvalidInputError
from celeriac.domain.rollups import (
    LONGEST_WINDOW_SECONDS,
    MOST_LISTED,
    SHORTEST_WINDOW_SECONDS,
    Grain,
    QueueSums,
    Sums,
    TaskSums,
    Window,
    grain_of,
)


class Rollups:
    """Folds ends into sums and reads windows of them. Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def window(self, actor: Actor, seconds: float, *, every: bool = False, top: int = 10) -> Window:
        """Return what ended in the last `seconds`, with the `top` tasks and queues.

        That is of the actor's workspace, or with `every` of all workspaces. Ends of the last few
        seconds may be missing: see `Window.behind_seconds`. Raises InvalidInputError, and
        ForbiddenError: only an administrator sums up all workspaces.
        """
        if every:
            actor.require_administrator()
        if not SHORTEST_WINDOW_SECONDS <= seconds <= LONGEST_WINDOW_SECONDS:
            raise InvalidInputError(
                f"window_seconds must be from {SHORTEST_WINDOW_SECONDS} (a minute) to "
                f"{LONGEST_WINDOW_SECONDS} (92 days).",
                field="window_seconds",
            )
        if not 0 <= top <= MOST_LISTED:
            raise InvalidInputError(f"top must be from 0 to {MOST_LISTED}.", field="top")
        workspace = None if every else actor.workspace_id
        grain = grain_of(seconds)
        with self._database.autocommit() as connection:
            span = rollups.span(connection, grain, seconds=seconds)
            since = span.since
            total = rollups.sums(connection, grain, since=since, workspace_id=workspace)
            tasks = rollups.by_task(connection, grain, since=since, workspace_id=workspace, top=top)
            queues = rollups.by_queue(
                connection, grain, since=since, workspace_id=workspace, top=top
            )
            names = rollups.names(connection, [task_id for task_id, _ in tasks])
        return Window(
            since=since,
            until=span.until,
            grain=grain,
            behind_seconds=span.behind_seconds,
            sums=total,
            tasks=[
                TaskSums(task_id=each, task=name, workspace=workspace_name, sums=sums)
                for each, sums in tasks
                for name, workspace_name in [names.get(each, (None, None))]
            ],
            queues=[QueueSums(queue=queue, sums=sums) for queue, sums in queues],
        )

    def totals(self, actor: Actor, *, every: bool = False) -> Sums:
        """Return the sums of all time, of the actor's workspace or with `every` of all.

        Raises ForbiddenError: only an administrator sums up all workspaces.
        """
        if every:
            actor.require_administrator()
        workspace = None if every else actor.workspace_id
        with self._database.autocommit() as connection:
            return rollups.sums(connection, Grain.TOTAL, since=None, workspace_id=workspace)

    def fold(self, limit: int) -> int:
        """Fold what has been appended into its sums, `limit` ends at a time; return how many."""
        total = 0
        while True:
            with self._database.autocommit() as connection:
                folded = rollups.fold(connection, limit=limit)
            total += folded
            if folded < limit:
                return total
