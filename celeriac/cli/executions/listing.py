"""Following a list of executions: new ones, and changes of known ones."""

import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, NoReturn, cast
from uuid import UUID

from celeriac.cli.core.output import moment, short
from celeriac.cli.executions.notes import note
from celeriac.domain.executions.states import LIVE
from celeriac.kit.text import printable

if TYPE_CHECKING:
    from celeriac.cli.core.context import CommandContext
    from celeriac.client.executions import ExecutionFilter, Executions
    from celeriac.wire import ExecutionSummary

_PAUSE_SECONDS = 1.0
_RECONNECT_SECONDS = 60.0
"""How long the API may be unavailable, as for the stream of one execution."""
_UNAVAILABLE = frozenset({None, 502, 503, 504})
_TRACKED = 500
"""The most executions that are followed, and the most new ones that are read at once."""
_IDS = 100
"""The most ids in one request."""
_SLACK = timedelta(seconds=30)
"""An execution may become visible this long after its creation time, when its transaction ends."""
_UNSEEN = timedelta(hours=1)
"""Without any execution, new ones are searched among those created since then."""
_CHANGING = frozenset({"status", "waiting_for", "error_code", "flag"})
"""Filters of fields that change."""
_LONGEST = 100
_STATUS_WIDTH = max(map(len, LIVE | {"completed", "cancelled"}))


class Bulky(StrEnum):
    """Fields of an execution that may be large."""

    VARIABLES = "variables"
    RESULT = "result"
    ERROR_DETAILS = "error_details"


def follow_list(
    context: "CommandContext", wanted: "ExecutionFilter", *, limit: int, include: Sequence[str] = ()
) -> NoReturn:
    """Show the newest `limit` executions that match, then changes, until Ctrl-C.

    Raises ClientError, also if the API does not answer for a minute.
    """
    from celeriac.client import ClientError

    changes = ChangedExecutions(context.client.executions, wanted, include=include)
    _show(context, changes.first(limit), include)
    heard, away = time.monotonic(), False
    while True:
        time.sleep(_PAUSE_SECONDS)
        try:
            changed = changes.poll()
        except ClientError as error:
            if error.status not in _UNAVAILABLE or time.monotonic() - heard > _RECONNECT_SECONDS:
                raise
            if not away:
                context.say_away(True)
            away = True
            continue
        if away:
            context.say_away(False)
        heard, away = time.monotonic(), False
        _show(context, changed, include)


class ChangedExecutions:
    """Finds executions that are new or have changed since the last query.

    The filters for fields that change are applied here, so that an old execution is found when it
    begins to match. The newest 500 executions that have not ended are queried by their ids.
    """

    def __init__(
        self, executions: "Executions", wanted: "ExecutionFilter", *, include: Sequence[str] = ()
    ) -> None:
        self._executions = executions
        self._wanted = wanted
        lasting = {name: value for name, value in wanted.items() if name not in _CHANGING}
        self._lasting = cast("ExecutionFilter", lasting)
        self._include = list(include) or None
        self._tracked: dict[UUID, object] = {}
        self._recent: dict[UUID, datetime] = {}
        self._newest = datetime.now(UTC) - _UNSEEN + _SLACK

    def first(self, limit: int) -> list["ExecutionSummary"]:
        """Return the newest `limit` that match, the oldest of them first."""
        live: ExecutionFilter = {**self._lasting, "status": sorted(LIVE)}
        for each in islice(self._executions.list(**live), _TRACKED):
            self._note(each)
        for each in islice(self._executions.list(**self._lasting), 1):
            self._note(each)
        for each in self._created_lately():
            self._note(each)
        # later changes are in this list, or are found by the next `poll`
        listed = self._executions.list(include=self._include, **self._wanted)
        found = list(islice(listed, limit))[::-1]
        for each in found:
            self._note(each)
        return found

    def poll(self) -> list["ExecutionSummary"]:
        """Return those that match and are new or have changed, by the time of the change."""
        seen = {each.id: each for each in self._known()}
        for each in self._created_lately():
            if each.id not in self._recent:
                seen.setdefault(each.id, each)
        changed = [each for each in seen.values() if self._note(each)]
        return sorted(filter(self._matches, changed), key=lambda each: (changed_at(each), each.id))

    def _created_lately(self) -> Iterator["ExecutionSummary"]:
        since = self._newest - _SLACK
        begin = self._lasting.get("created_after")
        lately: ExecutionFilter = {
            **self._lasting,
            "created_after": since if begin is None else max(since, begin),
        }
        found = self._executions.list(include=self._include, **lately)
        return iter(list(islice(found, _TRACKED)))

    def _known(self) -> Iterator["ExecutionSummary"]:
        ids = list(self._tracked)
        for first in range(0, len(ids), _IDS):
            some = ids[first : first + _IDS]
            found = {
                each.id: each for each in self._executions.list(include=self._include, ids=some)
            }
            for key in some:
                if key not in found:
                    self._tracked.pop(key)  # deleted, or no longer visible
            yield from found.values()

    def _note(self, execution: "ExecutionSummary") -> bool:
        """Store the state of an execution; return whether it is new or has changed."""
        stand = (execution.status, execution.attempt, execution.waiting_for)
        stand_before = self._tracked.get(execution.id)
        if execution.created_at >= self._newest:
            self._newest = execution.created_at
            self._recent = {
                key: at for key, at in self._recent.items() if at >= self._newest - _SLACK
            }
        if execution.created_at >= self._newest - _SLACK:
            self._recent[execution.id] = execution.created_at
        if execution.status.terminal:
            self._tracked.pop(execution.id, None)
        else:
            self._tracked[execution.id] = stand
            if len(self._tracked) > _TRACKED:
                self._tracked.pop(min(self._tracked))
        return stand != stand_before

    def _matches(self, execution: "ExecutionSummary") -> bool:
        status = self._wanted.get("status")
        waiting_for = self._wanted.get("waiting_for")
        code, flag = self._wanted.get("error_code"), self._wanted.get("flag")
        return (
            (not status or execution.status.value in status)
            and waiting_for in {None, execution.waiting_for}
            and code in {None, execution.error_code}
            and flag in {None, *execution.flags}
        )


def changed_at(execution: "ExecutionSummary") -> datetime:
    """Return the latest time in an execution: of its end, its start and so on."""
    times = (
        execution.created_at,
        execution.queued_at,
        execution.started_at,
        execution.waiting_since,
        execution.cancel_requested_at,
    )
    return execution.completed_at or max(each for each in times if each is not None)


def _show(
    context: "CommandContext", changed: Iterable["ExecutionSummary"], include: Sequence[str]
) -> None:
    from rich.text import Text

    from celeriac.cli.executions.view import STYLES

    left_out = set[str](Bulky).difference(include)
    for each in changed:
        if context.output.as_json:
            context.output.json(each.model_dump(by_alias=True, exclude=left_out), indent=None)
            continue
        line = Text(f"{moment(changed_at(each))}  ", style="dim")
        line.append(f"{each.id}  ", style="")
        line.append(f"{each.status.value:<{_STATUS_WIDTH}}  ", style=STYLES[each.status])
        line.append(f"{printable(each.task_name)}", style="bold")
        attempt = f"  attempt {each.attempt}" if each.attempt > 1 else ""
        line.append(f"{attempt}  {printable(short(note(each), _LONGEST))}".rstrip())
        context.output.out.print(line, soft_wrap=True)
