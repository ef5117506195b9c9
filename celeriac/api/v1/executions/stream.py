"""The event stream of an execution: events from the database, live output from Redis."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol
from uuid import UUID

from fastapi import Request
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from celeriac.api.core import views
from celeriac.api.core.auth import CHECK_SECONDS, still_allowed
from celeriac.domain.accounts import Actor
from celeriac.domain.errors import DatabaseUnavailableError
from celeriac.domain.executions.events import TERMINAL_EVENTS, Event
from celeriac.kit.json_types import dumps
from celeriac.wiring.api import ApiServices
from celeriac.wiring.core import CoreServices

LAST_EVENT_ID = "Last-Event-ID"
MAX_SEQ = 2**31 - 1
DELTA = "delta"


def stream_responses(*, id: str, event: str, data: str) -> dict[int | str, dict[str, Any]]:  # noqa: A002 - the name in SSE
    """Return the documented answers of a stream, with descriptions of the parts of an event."""
    parts = {"id": id, "event": event, "data": data}
    return {
        200: {
            "description": "Server-Sent Events.",
            "content": {
                "text/event-stream": {
                    "schema": {
                        "type": "object",
                        "description": "One event of the stream.",
                        "properties": {
                            name: {"type": "string", "description": text}
                            for name, text in parts.items()
                        },
                        "required": ["event", "data"],
                    }
                }
            },
        },
        204: {"description": "It has ended and no event follows."},
    }


STREAM = stream_responses(
    id="The event's number.", event="Its type, or `delta`.", data="An Event as JSON."
)

_AT_ONCE = 500
PING_SECONDS = 15


async def stream(
    request: Request,
    shared: CoreServices,
    services: ApiServices,
    actor: Actor,
    execution_id: UUID,
    *,
    after: int,
) -> Response:
    """Return the stream of events after number `after`. Raises NotFoundError."""
    execution = await run_in_threadpool(services.queries.execution, actor, execution_id)
    if execution.status.terminal and execution.event_seq <= after:
        return Response(status_code=204)
    return stream_log(request, shared, services.queries.log, execution_id, after=after)


class ReadLog(Protocol):
    """Reads up to `limit` events of a log that are numbered above `after`."""

    def __call__(self, key: UUID, /, *, after: int, limit: int) -> Sequence[Event]:
        """Return the events."""
        ...


def stream_log(
    request: Request, shared: CoreServices, read_log: ReadLog, key: UUID, *, after: int
) -> Response:
    """Return the stream of an execution's or a run's events after number `after`."""
    content = _events(request, shared, read_log, key, after)
    return EventSourceResponse(content, ping=PING_SECONDS, headers={"X-Accel-Buffering": "no"})


async def _events(
    request: Request, shared: CoreServices, read_log: ReadLog, execution_id: UUID, after: int
) -> AsyncIterator[ServerSentEvent]:
    # watching begins before the first query, so that no event is lost in between
    watching = shared.watcher.changes(
        execution_id, position=lambda: after, idle_seconds=CHECK_SECONDS
    )
    async with watching as changes:
        async for change in changes:
            if not await still_allowed(request):
                return
            if change.idle:
                continue
            if change.delta is not None:
                yield ServerSentEvent(dumps(change.delta), event=DELTA)
                continue
            while found := await _read(read_log, execution_id, after):
                if not await still_allowed(request):  # checked after reading what is sent next
                    return
                for event, sent in found:
                    after = event.seq
                    yield sent
                    if event.type in TERMINAL_EVENTS:
                        return


async def _read(
    read_log: ReadLog, execution_id: UUID, after: int
) -> list[tuple[Event, ServerSentEvent]]:
    def read() -> list[tuple[Event, ServerSentEvent]]:
        found = read_log(execution_id, after=after, limit=_AT_ONCE)
        return [(event, sent_event(event, id=str(event.seq))) for event in found]

    try:
        return await run_in_threadpool(read)
    except DatabaseUnavailableError:
        return []  # the watcher repeats it in a second


def sent_event(event: Event, *, id: str) -> ServerSentEvent:  # noqa: A002 - the name in SSE
    """Return an event of a log as it is sent."""
    data = views.event(event).model_dump_json()
    return ServerSentEvent(data, event=event.type.value, id=id)
