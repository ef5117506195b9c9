"""The event stream of a run with the ends of its items: two logs, and one place in both."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from uuid import UUID

from fastapi import Request
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from celeriac.api.core import views
from celeriac.api.core.auth import still_allowed
from celeriac.api.v1.executions.stream import MAX_SEQ, PING_SECONDS, sent_event, stream_responses
from celeriac.domain.errors import DatabaseUnavailableError, InvalidInputError
from celeriac.domain.executions.events import TERMINAL_EVENTS
from celeriac.domain.workflows.records import EndPlace, WorkflowRun
from celeriac.wiring.api import ApiServices
from celeriac.wiring.core import CoreServices

ITEM_ENDED = "item_ended"
"""The SSE event of an item that has ended."""

RUN_STREAM = stream_responses(
    id="The event's number; with `items` the place of the reader, such as 7.1021.2.4.",
    event="Its type, or `item_ended`.",
    data="An Event as JSON; of `item_ended`: step, index, status, execution_id, child_run_id.",
)

_ID = re.compile(r"(\d{1,10})(?:\.(\d{1,18})\.(\d{1,4})\.(\d{1,9}))?")
_AT_ONCE = 500
_LOOK_SECONDS = 1.0
"""How often the database is asked for ends: they are not announced one by one."""


@dataclass(frozen=True, slots=True)
class RunPlace:
    """The place of a reader in the events of a run, and in the ends of its items."""

    seq: int = 0
    end: EndPlace = field(default_factory=EndPlace)

    def __str__(self) -> str:
        return f"{self.seq}.{self.end.xid}.{self.end.step_no}.{self.end.item_no}"


def place_of(last_event_id: str) -> RunPlace:
    """Return the place that the id of a sent event names. Raises InvalidInputError."""
    match = _ID.fullmatch(last_event_id)
    if match is None or int(match[1]) > MAX_SEQ:
        raise InvalidInputError(
            "Last-Event-ID must be the id of an event of this stream, such as 7 or 7.1021.2.4.",
            field="last-event-id",
        )
    numbers = [int(each) for each in match.groups(default="0")]
    return RunPlace(numbers[0], EndPlace(*numbers[1:]))


def ends_follow(services: ApiServices, run_id: UUID, place: RunPlace) -> bool:
    """Return whether an ended run has ends of items behind a place."""
    return bool(services.runs.ends(run_id, after=place.end, limit=1, whole=True))


def stream_with_items(
    request: Request, shared: CoreServices, services: ApiServices, run: WorkflowRun, place: RunPlace
) -> Response:
    """Return the stream of a run's events and ends of items after a place."""
    content = _sent(request, shared, _Reader(services, run.id, place, run.status.terminal))
    return EventSourceResponse(content, ping=PING_SECONDS, headers={"X-Accel-Buffering": "no"})


class _Reader:
    """Reads what follows a place, in the order in which it is sent."""

    def __init__(
        self, services: ApiServices, run_id: UUID, place: RunPlace, ended_before: bool
    ) -> None:
        self._runs = services.runs
        self.run_id = run_id
        self.place = place
        self._ended_before = ended_before
        self.over = False
        """Whether nothing follows what was read last."""

    def read(self) -> list[ServerSentEvent]:
        """Return what comes next: an empty list if there is nothing yet."""
        # The events first: when they say that the run has ended, all ends are there.
        events = self._runs.log(self.run_id, after=self.place.seq, limit=_AT_ONCE)
        last = bool(events) and events[-1].type in TERMINAL_EVENTS
        whole = last or (self._ended_before and not events)
        ends = self._runs.ends(self.run_id, after=self.place.end, limit=_AT_ONCE, whole=whole)
        found = []
        for end in ends:
            self.place = replace(self.place, end=end.place)
            data = views.item_ended(end).model_dump_json()
            found.append(ServerSentEvent(data, event=ITEM_ENDED, id=str(self.place)))
        if len(ends) == _AT_ONCE:  # others come before the last event
            return found
        for event in events:
            self.place = replace(self.place, seq=event.seq)
            found.append(sent_event(event, id=str(self.place)))
        self.over = whole
        return found


async def _sent(
    request: Request, shared: CoreServices, reader: _Reader
) -> AsyncIterator[ServerSentEvent]:
    watching = shared.watcher.changes(
        reader.run_id, position=lambda: reader.place.seq, idle_seconds=_LOOK_SECONDS
    )
    async with watching as changes:
        async for _ in changes:
            while not reader.over:
                try:
                    found = await run_in_threadpool(reader.read)
                except DatabaseUnavailableError:
                    break  # it is asked again in a second
                if not await still_allowed(request):  # checked after reading what is sent next
                    return
                for each in found:
                    yield each
                if not found:
                    break
            if reader.over:
                return
