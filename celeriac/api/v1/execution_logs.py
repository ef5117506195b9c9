"""The log lines of executions over HTTP: a part at a time, and live."""

import time
from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core.auth import Caller, still_allowed
from celeriac.api.core.parameters import ExecutionPath, Services, Shared
from celeriac.api.core.requests import JsonRoute
from celeriac.api.core.responses import json_response, problem_responses
from celeriac.api.v1.executions.stream import LAST_EVENT_ID, PING_SECONDS, stream_responses
from celeriac.domain.accounts import Actor
from celeriac.domain.errors import (
    DatabaseUnavailableError,
    InvalidInputError,
    NotFoundError,
    TooManyRequestsError,
)
from celeriac.logs.execution_log import Follower, Position
from celeriac.logs.reading import LogLine
from celeriac.services.execution_logs import is_at_least, parsed_position
from celeriac.wiring.api import ApiServices
from celeriac.wiring.core import CoreServices

router = APIRouter(
    prefix="/task-executions/{execution_id}/logs", tags=["executions"], route_class=JsonRoute
)

MOST_LINES = 1_000
"""Lines of one answer."""

MOST_STREAMS = 200
"""Live tails of one API process: each reads its file twice a second."""
NEXT_AFTER = "Celeriac-Next-After"
_LOOK_SECONDS = 0.5
_QUIET_SECONDS = 1.5
"""Without a line for so long, an execution that has ended has written all: processes write their
lines every 200 ms."""
_NDJSON = "application/x-ndjson"
_EXAMPLE = (
    '{"timestamp":"2026-11-22T09:30:00.125000Z","level":"info","service":"worker",'
    '"event":"execution.picked_up","attempt":1}\n'
)
_LINE, _RESTARTED, _END = "line", "restarted", "end"


class LogLevel(StrEnum):
    """The lowest level of the lines to return."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """The form of an answer."""

    JSON = "json"
    NDJSON = "ndjson"
    """The lines as they are in the file."""


_After = Annotated[
    str | None,
    Query(max_length=50, pattern="^[!-~]+$", description="`next_after` of the answer before."),
]
_Level = Annotated[LogLevel, Query(description="Only lines of this level or a higher one.")]


@router.get(
    "",
    response_model=wire.LogPage,
    summary="Read an execution's log",
    responses=problem_responses(404)
    | {
        200: {
            "description": "Some lines. As NDJSON, the header `Celeriac-Next-After` has "
            "`next_after`.",
            "content": {_NDJSON: {"schema": {"type": "string", "examples": [_EXAMPLE]}}},
        }
    },
)
def read_log(
    execution_id: ExecutionPath,
    actor: Caller,
    services: Services,
    *,
    after: _After = None,
    tail: Annotated[
        int | None,
        Query(ge=0, le=MOST_LINES, description="The last lines instead of the first ones."),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_LINES, description="Lines in one answer.")] = 100,
    level: _Level = LogLevel.DEBUG,
    format: Annotated[  # noqa: A002 - the parameter's public name
        LogFormat, Query(description="json, or ndjson for the lines as they are in the file.")
    ] = LogFormat.JSON,
) -> Response:
    """Return lines of API, worker, beat and agent about an execution, secrets masked.

    They are in a file on the machine of the process that wrote them: an API on another one must
    share its log directory (docs/logs.md). An answer has at most a megabyte.
    """
    if tail is not None and after is not None:
        raise InvalidInputError("Give either tail or after, not both.", field="tail")
    page = services.logs.read(actor, execution_id, after=after, tail=tail, limit=limit, level=level)
    behind = None if page.position is None else str(page.position)
    if format is LogFormat.NDJSON:
        headers = {} if behind is None else {NEXT_AFTER: behind}
        return Response(b"".join(raw + b"\n" for raw in page.raw), 200, headers, _NDJSON)
    items = [_line(line) for line, _ in page.lines]
    return json_response(
        wire.LogPage(
            items=items,
            next_after=behind,
            more=page.more,
            restarted=page.restarted,
            elsewhere=page.elsewhere,
        )
    )


@router.get(
    "/stream",
    summary="Follow an execution's log live",
    response_class=Response,
    responses=problem_responses(404, 429)
    | stream_responses(
        id="The position behind the line.",
        event="`line`; `restarted` if lines may be missing; `end` after the last line.",
        data="A LogLine as JSON.",
    ),
)
async def stream_log(
    request: Request,
    execution_id: ExecutionPath,
    actor: Caller,
    shared: Shared,
    services: Services,
    *,
    after: _After = None,
    level: _Level = LogLevel.DEBUG,
    last_event_id: Annotated[
        str | None, Header(alias=LAST_EVENT_ID, max_length=50, description="Resume after it.")
    ] = None,
) -> Response:
    """Send the lines of an execution, and those to come, until it has ended and all are written.

    `Last-Event-ID` resumes behind a line. A rotation of the file loses no line while the stream is
    open. The event `end` is the last one. The stream ends within seconds after the key is revoked
    or loses access to the execution.
    """
    begin = after if last_event_id is None else last_event_id
    position = None if begin is None else parsed_position(begin)
    # the errors of a first answer
    await run_in_threadpool(services.logs.read, actor, execution_id, after=begin, limit=1)
    if _Tail.live >= MOST_STREAMS:
        raise TooManyRequestsError(
            f"This process serves {MOST_STREAMS} live logs already. Close some, or read a page at "
            "a time.",
            retry_after=5,
        )
    tail = _Tail(request, services, actor, execution_id, level)
    content = tail.events(shared, services.logs.follower(execution_id, position))
    return EventSourceResponse(content, ping=PING_SECONDS, headers={"X-Accel-Buffering": "no"})


class _Tail:
    """One live tail."""

    live = 0
    """How many are open in this process."""

    def __init__(
        self,
        request: Request,
        services: ApiServices,
        actor: Actor,
        execution_id: UUID,
        level: str,
    ) -> None:
        self._request = request
        self._queries = services.queries
        self._actor = actor
        self._execution_id = execution_id
        self._level = level
        self._ended = False

    async def events(
        self, shared: CoreServices, follower: Follower
    ) -> AsyncIterator[ServerSentEvent]:
        """Yield what is sent."""
        _Tail.live += 1
        try:
            watching = shared.watcher.changes(
                self._execution_id, position=lambda: 0, idle_seconds=_LOOK_SECONDS
            )
            async with watching as changes:
                looked = quiet_since = 0.0
                async for change in changes:
                    now = time.monotonic()
                    if change.delta is not None and now - looked < _LOOK_SECONDS:
                        continue
                    looked = now
                    if not await still_allowed(self._request):
                        return
                    if not await self._look(changed=not change.idle and change.delta is None):
                        return
                    sent = False
                    async for each in self._new(follower):
                        sent = True
                        yield each
                    quiet_since = now if sent or not quiet_since else quiet_since
                    if self._ended and now - quiet_since >= _QUIET_SECONDS:
                        yield ServerSentEvent("{}", event=_END)
                        return
        finally:
            _Tail.live -= 1
            follower.close()

    async def _new(self, follower: Follower) -> AsyncIterator[ServerSentEvent]:
        more = True
        while more:
            part = await run_in_threadpool(follower.read)
            if part is None:
                return
            if part.restarted:
                yield ServerSentEvent("{}", event=_RESTARTED)
            for line, position in part.parsed():
                if is_at_least(line, self._level):
                    yield _sent(line, position)
            more = part.more and bool(part.lines)

    async def _look(self, *, changed: bool) -> bool:
        """Note whether the execution has ended; return whether the actor may still see it."""
        if self._ended or not (changed or self._unknown):
            return True
        try:
            found = await run_in_threadpool(
                self._queries.execution, self._actor, self._execution_id
            )
        except NotFoundError:
            return False
        except DatabaseUnavailableError:
            self._unknown = True
            return True
        self._unknown = False
        self._ended = found.status.terminal
        return True

    _unknown = False


def _line(line: LogLine) -> wire.LogLine:
    return wire.LogLine(
        at=line.at,
        level=line.level,
        service=line.service,
        event=line.event,
        fields=dict(line.fields),
    )


def _sent(line: LogLine, position: Position) -> ServerSentEvent:
    return ServerSentEvent(_line(line).model_dump_json(), event=_LINE, id=str(position))
