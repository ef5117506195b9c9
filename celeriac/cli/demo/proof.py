"""What the demo's executions say about themselves after their end."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from celeriac.cli.core.output import CommandError
from celeriac.client import Client
from celeriac.domain.executions.events import EventType
from celeriac.wire import Event

_STATED = {"status", "result", "duration_seconds", "input_tokens", "output_tokens"}

Result = Mapping[str, Any]
"""An execution after its end: ids, `_STATED` fields, and counts of its events."""


class DemoFailedError(CommandError):
    """A part of the demo did not do what it is there to show."""

    code = "demo_failed"


def fault_in(events: Sequence[Event]) -> str | None:
    """Return why an execution or a run did not complete exactly once, by its events; or None."""
    completed = sum(event.type is EventType.COMPLETED for event in events)
    gapless = [event.seq for event in events] == list(range(1, len(events) + 1))
    if completed == 1 and gapless:
        return None
    return f"has {completed} `completed` events{'' if gapless else ' and gaps in its log'}"


def results_of(client: Client, labels: Mapping[UUID, tuple[str, str]]) -> Sequence[Result]:
    """Return the results of executions, whose tasks and texts are `labels`.

    Raises DemoFailedError unless each completed exactly once, and one lost its worker.
    """
    results: list[Result] = []
    faults = []
    for execution_id, (task, text) in labels.items():
        events = list(client.executions.events(execution_id))
        if fault := fault_in(events):
            faults.append(f"{task} on {text} {fault}")
        counts = Counter(event.type for event in events)
        results.append(
            {
                "execution_id": execution_id,
                "task": task,
                "text": text,
                **client.executions.get(execution_id).model_dump(include=_STATED),
                "attempts": counts[EventType.STARTED],
                "workers_lost": counts[EventType.WORKER_LOST],
                "completed_events": counts[EventType.COMPLETED],
            }
        )
    if faults:
        raise DemoFailedError("\n  ".join(["Not all completed exactly once:", *faults]))
    if not any(each["workers_lost"] for each in results):
        raise DemoFailedError("The killed worker held no execution, so nothing was shown.")
    return results
