"""`celeriac sitrep`."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from celeriac.cli.core.context import CommandContext, open_client
from celeriac.cli.core.output import cell, duration
from celeriac.domain.sitrep import Level, SitrepScope
from celeriac.kit.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celeriac import wire

_WARNING = 1
_CRITICAL = 2
UNKNOWN = 3
"""The exit code if nothing is known: levels and this are those of the plugins of Nagios."""

_CODES = {Level.WELL: 0, Level.INFO: 0, Level.WARNING: _WARNING, Level.CRITICAL: _CRITICAL}
_SHOWN = 10
_SERVER_ERRORS = 500


@open_client
def sitrep(
    context: CommandContext,
    *,
    instance: Annotated[
        bool, typer.Option("--instance", help="Of all workspaces; for administrators.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew until Ctrl-C.")] = False,
    every: Annotated[
        float, typer.Option("--every", min=1.0, metavar="SECONDS", help="How often, with --watch.")
    ] = 2.0,
) -> None:
    """Say what is wrong, what waits, what runs, and what has ended lately.

    Exit codes: 0 all is well, 1 a warning, 2 critical, or the API does not
    answer, 3 unknown: wrong usage, a wrong setting, or a refused key.

    Examples:
      celeriac sitrep
      celeriac sitrep --json | jq -r '.problems[].code'
      celeriac sitrep --instance --watch
    """
    scope = SitrepScope.INSTANCE if instance else SitrepScope.WORKSPACE
    while True:
        found = _ask(context, scope, again=watch)
        if found is not None:
            _show(context, found, again=watch)
        if not watch:
            raise typer.Exit(_CRITICAL if found is None else _CODES[found.level])
        time.sleep(every)


def _ask(context: CommandContext, scope: SitrepScope, *, again: bool) -> "wire.Sitrep | None":
    """Return the report; None, with a message, if the API can't say.

    Raises ClientError, unless it is asked again, if the API refuses the request.
    """
    from celeriac.client import ClientError

    try:
        return context.client.sitrep(scope=scope.value)
    except ClientError as error:
        away = error.code == "unreachable" or (error.status or 0) >= _SERVER_ERRORS
        if not away and not again:
            raise
        context.output.say(f"The report can't be read: {error.message}")
        return None


def _show(context: CommandContext, found: "wire.Sitrep", *, again: bool) -> None:
    output = context.output
    if output.as_json:
        output.json(found, indent=None if again else 2)
        return
    if again:
        output.out.clear()
    for line in lines_of(found):
        output.raw(line)


def lines_of(found: "wire.Sitrep") -> "Iterator[str]":
    """Return a report as lines; errors and reasons can't look like lines of it."""
    return (" ".join(line.splitlines()) for line in _lines(found))


def _lines(found: "wire.Sitrep") -> "Iterator[str]":
    yield f"{found.level.value.upper()}: {found.headline}"
    for problem in found.problems:
        yield f"  {problem.level.value:8} {problem.text}"
        yield f"           {problem.cure}  ({problem.link})"
    plus = "+" if found.capped else ""
    yield (
        f"tasks: {_number(found.active_tasks)} active, {_number(found.pending_tasks)}{plus} "
        f"pending, {_number(found.completed_tasks)} completed, {_number(found.failed_tasks)} failed"
        f"{_share(found.success_rate)}"
    )
    window = found.window.data
    if window is not None and window.seconds:
        yield (
            f"last {duration(window.seconds)}: {window.per_minute or 0:.1f} a minute, "
            f"{window.failed:,} failed, p95 wait {duration(window.wait_p95_seconds)}, "
            f"run {duration(window.run_p95_seconds)}"
        )
    yield from _plain_tasks(found)
    yield from _parts(found)
    if found.recent_tasks.data is not None:
        for task in found.recent_tasks.data.items[:_SHOWN]:
            error = f": {task.error_message}" if task.error_message else ""
            yield f"  recent   {task.name} · {task.status or 'unknown'}{error}"
    for name, section in _sections(found):
        if not section.ok:
            old = (
                ""
                if section.age_seconds is None
                else f"; shown as of {section.age_seconds:.0f} s ago"
            )
            yield f"  missing  {name}: {section.error}{old}"


def _plain_tasks(found: "wire.Sitrep") -> "Iterator[str]":
    plain, waiting = found.plain_tasks.data, found.plain_waiting.data
    if plain is None:
        return
    if not (
        plain.running or any(plain.totals.model_dump().values()) or (waiting and waiting.count)
    ):
        return
    plus = "+" if waiting and waiting.capped else ""
    yield (
        f"of these, plain Celery tasks: {plain.running:,} active, "
        f"{_number(waiting.count if waiting else None)}{plus} pending, "
        f"{plain.totals.completed:,} completed, {plain.totals.failed:,} failed"
    )
    for each in (waiting.tasks if waiting else ())[:_SHOWN]:
        yield f"  waiting  {each.name} in {each.queue}: {each.count:,}"


def _parts(found: "wire.Sitrep") -> "Iterator[str]":
    for each in found.waiting.data or ():
        count = f"{each.count:,}{'+' if each.capped else ''}"
        yield f"  waiting  {each.reason}: {count}, the oldest for {_age(each.oldest_seconds)}"
    for queue in found.queues.data or ():
        depth = f"{queue.depth:,}{'+' if queue.capped else ''}"
        yield (
            f"  queue    {queue.queue}: {depth} waiting{_oldest(queue.oldest_seconds)}, "
            f"{counted(queue.slots, 'slot')} of {counted(queue.workers, 'worker')}"
            f"{', paused' if queue.paused else ''}"
        )
    for worker in found.workers.data or ():
        yield (
            f"  worker   {worker.hostname} ({worker.pid}): {worker.status}, "
            f"{worker.running} of {worker.slots} slots"
        )
    for periodic in found.periodic_tasks.data or ():
        if periodic.kind == "maintenance" and periodic.last_status == "completed":
            continue  # `celeriac maintenance` lists all
        yield (
            f"  periodic {periodic.name}: {periodic.last_status or 'has not run'}, "
            f"next {cell(periodic.next_run_at)}"
        )


def _sections(found: "wire.Sitrep") -> "Iterator[tuple[str, wire.SitrepSection[object]]]":
    for name in type(found).model_fields:
        section = getattr(found, name)
        if hasattr(section, "age_seconds"):
            yield name, section


def _number(count: int | None) -> str:
    return "?" if count is None else f"{count:,}"


def _share(share: float | None) -> str:
    return "" if share is None else f" ({share:.1%} of those that were not cancelled succeeded)"


def _age(seconds: float | None) -> str:
    return duration(None if seconds is None else max(seconds, 0.0))


def _oldest(seconds: float | None) -> str:
    return "" if seconds is None else f", the oldest for {_age(seconds)}"
