"""Durable calls of one attempt: answers them from stored steps, stores new ones, and waits.

A call has a name and, from Python, a path: its place in the code (`agents/places.py`). The path
identifies the step and the name is checked. Without a path the name identifies it.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import cast

from celeriac.agents.places import Encloses, all_enclosing, enclosing, is_behind, key_of
from celeriac.agents.results import encode_result
from celeriac.domain.approvals import Answer, Question
from celeriac.domain.errors import (
    InvalidInputError,
    PermanentError,
    ResultsTooLargeError,
    StepsChangedError,
)
from celeriac.domain.executions.model import Parked
from celeriac.domain.executions.states import Status, WaitingFor
from celeriac.domain.executions.steps import (
    MAX_CHILDREN,
    MAX_RESULTS_BYTES,
    MAX_STEPS,
    Child,
    NewChildren,
    NewStep,
    StepKind,
    StepStatus,
    StoredStep,
)
from celeriac.kit.json_types import JsonObject, JsonValue, storable
from celeriac.kit.text import clip
from celeriac.kit.words import counted
from celeriac.logs.redact import redact_text
from celeriac.services.ports import Job, RunContext

IN_PLACE_SECONDS = 2.0
"""A sleep of which no more is left is waited for in place: parking takes about as long."""

MAX_QUESTIONS = 100
"""How many questions an attempt parks for; later attempts ask the others."""

_KEPT_CHARACTERS = 16_000
"""The longest result of a step, and the longest text of its error, that is kept in memory."""

_FEW_CHILDREN = 50
"""The results of at most so many children are stored with their step too."""

_CHUNK = 500
"""How many children are started by one commit."""


class DurableCalls:
    """The durable calls of one attempt. Belongs to one event loop.

    With `parks` a call that must wait says so, and the attempt must then end with `parked`;
    without, it waits in place.
    """

    def __init__(self, job: Job, context: RunContext, *, parks: bool) -> None:
        self._job = job
        self._context = context
        self._steps = context.stored_steps
        self._parks = parks
        self._loading = asyncio.Lock()
        self._loaded_at: float | None = None
        self._by_place: dict[str, StoredStep] = {}
        self._enclosing: dict[str, Encloses] = {}
        self._next = 1
        self._questions: dict[str, Question] = {}
        self._seconds: list[float] = []
        self._children = 0

    @property
    def must_wait(self) -> bool:
        """Whether a call has to wait, so that the attempt must be parked."""
        return bool(self._questions or self._seconds or self._children)

    def parked(self, *, more: bool = False) -> Parked:
        """Return how to park the attempt: until something that a call waits for is there.

        That is the end of all children, or with `more` of any: other calls begin then.
        """
        if self._children and more:
            reason = WaitingFor.CHILD
            note = f"Waits for the next of {counted(self._children, 'execution')}."
        elif self._children:
            reason, note = WaitingFor.CHILDREN, f"Waits for {counted(self._children, 'execution')}."
        elif self._questions:
            reason, note = WaitingFor.APPROVAL, next(iter(self._questions.values())).title
        else:
            reason, note = WaitingFor.SLEEP, f"Sleeps for {min(self._seconds):.0f} s."
        return Parked(
            reason,
            note,
            questions=tuple(self._questions.values()),
            seconds=min(self._seconds, default=None),
            children=bool(self._children),
            live_children=self._children if more else None,
        )

    async def begin(self, path: str | None, name: str) -> JsonObject:
        """Return `state`: `completed` with `value`, `failed` with `error`, or `new`: to be done."""
        step = await self._find(path, name, StepKind.STEP)
        if step is None or (step.status is StepStatus.FAILED and self._repeats(step)):
            return {"state": "new"}
        if step.status is StepStatus.FAILED:
            return {"state": "failed", "error": step.error}
        value = await self._steps.result(step.number) if step.has_large_result else step.result
        return {"state": "completed", "value": value}

    async def done(
        self,
        path: str | None,
        name: str,
        *,
        value: JsonValue = None,
        error: JsonObject | None = None,
        tries: int = 1,
    ) -> None:
        """Store the result or the last error of a step.

        Raises PermanentError for a value that can't be stored.
        """
        result = None
        if error is None:
            result = encode_result(value, f"The step {name!r}")
        else:
            kept = {name: _kept(each) for name, each in error.items()}
            message = redact_text(str(kept.get("message", "")))
            error = {**kept, "message": message, "last_number": self._next - 1}
        step = await self._find(path, name, StepKind.STEP)
        await self._store(
            NewStep(
                number=self._number(step),
                path=path,
                name=name,
                kind=StepKind.STEP,
                status=StepStatus.COMPLETED if error is None else StepStatus.FAILED,
                tries=tries,
                result=result,
                error=error,
            ),
            value,
        )

    async def sleep(
        self, path: str | None, name: str, *, seconds: float | None, until: str | None
    ) -> bool:
        """Sleep; False if the attempt must be parked for that."""
        step = await self._find(path, name, StepKind.SLEEP)
        if step is not None:
            assert self._loaded_at is not None
            left = (step.wake_seconds or 0.0) - (time.monotonic() - self._loaded_at)
        else:
            new = NewStep(
                number=self._number(None),
                path=path,
                name=name,
                kind=StepKind.SLEEP,
                status=StepStatus.WAITING,
                wake_seconds=seconds,
                wake_at=until,
            )
            left = await self._store(new) or 0.0
        if left <= 0:
            return True
        if self._parks and left > IN_PLACE_SECONDS:
            self._seconds.append(left)
            return False
        resume = self._context.time_limits.pause()
        try:
            await asyncio.sleep(left)
        finally:
            resume()
        return True

    async def ask(self, path: str | None, name: str, question: Question) -> Answer | None:
        """Ask a person; None if the attempt must be parked for that."""
        if not self._parks:
            return await self._context.ask(question)
        if await self._find(path, name, StepKind.ASK) is None:
            new = NewStep(
                number=self._number(None),
                path=path,
                name=name,
                kind=StepKind.ASK,
                status=StepStatus.WAITING,
            )
            await self._store(new)
        answer = (await self._context.answers()).get(question.key)
        if answer is None and len(self._questions) < MAX_QUESTIONS:
            self._questions.setdefault(question.key, question)
        return answer

    async def run(
        self,
        path: str | None,
        name: str,
        new: NewChildren,
        *,
        kind: StepKind = StepKind.RUN,
        keep_errors: bool = False,
    ) -> list[JsonObject] | None:
        """Run executions of a task to their ends; None if the attempt must be parked for that.

        `new` has all items. Returns one object for each, in their order: `execution_id`, `status`,
        `result`, `error_code` and `error_message`. With `keep_errors` the step counts as completed
        whatever became of them.
        """
        if not self._parks:
            raise PermanentError(
                "Only a durable agent can run other tasks: it must not keep its slot while it "
                'waits for them. Set "durable": true in its spec, or decorate the function with '
                '@celeriac.agent("…", durable=True).'
            )
        width = len(new.variables)
        if width > MAX_CHILDREN:
            raise InvalidInputError(
                f"The step {name!r} has {counted(width, 'item')}; the limit is {MAX_CHILDREN:,}.",
                field="items",
            )
        step = await self._find(path, name, kind)
        if step is not None and step.width != width:
            raise StepsChangedError(
                f"The step {name!r} had {counted(step.width or 0, 'item')}, and has {width} in "
                "this attempt. Take the list from a step, so that it is the same in each attempt."
            )
        if step is not None and step.status is StepStatus.COMPLETED and step.result is not None:
            return cast("list[JsonObject]", step.result)
        number = self._number(step)
        waiting = NewStep(
            number=number,
            path=path,
            name=name,
            kind=kind,
            status=StepStatus.WAITING,
            width=width,
            parallel=new.parallel,
        )
        places: Sequence[int] = ()
        if step is None:
            places = range(width)
        elif step.status is StepStatus.WAITING or self._repeats(step):
            repeats = step.status is not StepStatus.WAITING
            known = await self._steps.children(number)
            places = [
                place
                for place in range(width)
                if place not in known or (repeats and known[place].status is not Status.COMPLETED)
            ]
        starts = step is None or step.status is not StepStatus.WAITING
        for start in range(0, len(places), _CHUNK):
            chunk = places[start : start + _CHUNK]
            first = waiting if starts and start == 0 else None
            await self._start(number, new, chunk, first)
        return await self._ended(step, waiting, starts=bool(places), keep_errors=keep_errors)

    async def _start(
        self, number: int, new: NewChildren, places: Sequence[int], step: NewStep | None
    ) -> None:
        chunk = NewChildren(
            task=new.task,
            places=places,
            variables=[new.variables[place] for place in places],
            queue=new.queue,
            priority=new.priority,
            parallel=new.parallel,
        )
        await self._steps.start(number, chunk, step)
        if step is not None:
            self._remember(step)

    async def _ended(
        self, step: StoredStep | None, waiting: NewStep, *, starts: bool, keep_errors: bool
    ) -> list[JsonObject] | None:
        """Return the children of a step, and store that they have ended; None if some have not."""
        width = waiting.width or 0
        if width:
            known = await self._steps.children(waiting.number)
            live = width - sum(child.status.terminal for child in known.values())
            if live:
                self._children += live
                return None
        results = await self._results(waiting) if width else {}
        ended: list[JsonObject] = [
            {
                "execution_id": str(child.execution_id),
                "status": child.status.value,
                "result": child.result,
                "error_code": child.error_code,
                "error_message": child.error_message,
            }
            for _, child in sorted(results.items())
        ]
        if step is None or step.status is StepStatus.WAITING or starts:
            await self._store_ended(waiting, ended, keep_errors=keep_errors)
        return ended

    async def _store_ended(
        self, waiting: NewStep, ended: list[JsonObject], *, keep_errors: bool
    ) -> None:
        """Store that all children of a step have ended, and what became of them if that is little.

        A later attempt then needs no query for the step.
        """
        failed = [each for each in ended if each["status"] != Status.COMPLETED]
        error: JsonObject | None = None
        result: str | None = None
        if failed and not keep_errors:
            error = {
                "code": failed[0]["error_code"] or failed[0]["status"],
                "message": failed[0]["error_message"] or "",
                "last_number": self._next - 1,
            }
        else:
            result = _small(ended)
        new = NewStep(
            number=waiting.number,
            path=waiting.path,
            name=waiting.name,
            kind=waiting.kind,
            status=StepStatus.COMPLETED if error is None else StepStatus.FAILED,
            result=result,
            error=error,
            width=waiting.width,
        )
        await self._store(new, None if result is None else ended)

    async def _results(self, step: NewStep) -> Mapping[int, Child]:
        found = await self._steps.results(step.number, most_bytes=MAX_RESULTS_BYTES)
        if found is None:
            raise ResultsTooLargeError(
                f"The results of the step {step.name!r} have more than {MAX_RESULTS_BYTES:,} bytes "
                "of JSON together. Let its executions return less, such as the location of what "
                "they have stored, or split the items over several steps and sum up the results of "
                "each before the next."
            )
        return found

    async def _find(self, path: str | None, name: str, kind: StepKind) -> StoredStep | None:
        """Return the stored step of a call. Raises StepsChangedError if it is another one."""
        await self._load()
        step = self._by_place.get(key_of(path, name))
        if step is None:
            self._check_new(path, name, kind)
            return None
        if (step.name, step.kind) == (name, kind):
            return step
        where = f"call {path} of the function" if path else f"the step {name!r}"
        raise _changed(
            f"{where} was {step.kind} {step.name!r}, and is now {kind} {name!r}",
            expected=step.name,
            found=name,
        )

    def _check_new(self, path: str | None, name: str, kind: StepKind) -> None:
        """Raise StepsChangedError for a new call where earlier attempts had others around or in it.

        They had a gather there that is gone now, or a step where a gather is now: what is stored
        would be done again.
        """
        if path is None:
            return
        was = self._enclosing.get(path)
        if was is Encloses.GATHER or (was is Encloses.STEP and kind is not StepKind.STEP):
            what = f"{was} with stored calls in it"
            raise _changed(
                f"call {path} of the function was {what}, and is now {kind} {name!r}",
                expected=was,
                found=name,
            )
        for place, now in enclosing(path):
            step = self._by_place.get(place)
            if step is not None and now is Encloses.GATHER:
                raise _changed(
                    f"call {place} of the function was {step.kind} {step.name!r}, and is now {now} "
                    f"with {kind} {name!r} in it",
                    expected=step.name,
                    found=now,
                )

    async def _load(self) -> None:
        async with self._loading:
            if self._loaded_at is None:
                found = await self._steps.load()
                self._by_place = {key_of(each.path, each.name): each for each in found}
                self._enclosing = all_enclosing(each.path for each in found)
                self._next = max((each.number for each in found), default=0) + 1
                self._loaded_at = time.monotonic()

    def _number(self, step: StoredStep | None) -> int:
        if step is not None:
            return step.number
        number, self._next = self._next, self._next + 1
        if number > MAX_STEPS:
            raise PermanentError(
                f"The execution has {MAX_STEPS:,} steps, the most that one may store. Do more in "
                "each step, or start other executions with ctx.run."
            )
        return number

    async def _store(self, step: NewStep, value: JsonValue = None) -> float | None:
        seconds = await self._steps.store(step)
        self._remember(step, value)
        return seconds

    def _remember(self, step: NewStep, value: JsonValue = None) -> None:
        large = len(step.result or "") > _KEPT_CHARACTERS
        self._by_place[key_of(step.path, step.name)] = StoredStep(
            number=step.number,
            path=step.path,
            name=step.name,
            kind=step.kind,
            status=step.status,
            attempt=self._job.attempt,
            retry_count=self._job.retry_count,
            # later attempts read it when they need it, and so does this one
            result=None if large else value,
            has_large_result=large,
            error=step.error,
            width=step.width,
        )

    def _repeats(self, step: StoredStep) -> bool:
        """Whether a failed step is done again: the execution was retried because of it."""
        if step.status is not StepStatus.FAILED or self._job.retry_count <= step.retry_count:
            return False
        last = int((step.error or {}).get("last_number", 0))
        later = (each for each in self._by_place.values() if each.number > last)
        return not any(is_behind(each.path, step.path) for each in later)


def _changed(what: str, *, expected: str, found: str) -> StepsChangedError:
    return StepsChangedError(
        f"The steps of this execution have changed: {what}. A later attempt must make the same "
        "durable calls in the same order. Restore the code, or cancel the execution and run the "
        "task again.",
        expected=expected,
        found=found,
    )


def _kept(value: JsonValue) -> JsonValue:
    return clip(value, _KEPT_CHARACTERS) if isinstance(value, str) else value


def _small(ended: list[JsonObject]) -> str | None:
    """Return what became of children as JSON; None if it is large, or nested too deep as a list."""
    if len(ended) > _FEW_CHILDREN:
        return None
    try:
        text = storable(ended)
    except TypeError:
        return None
    return text if len(text) <= _KEPT_CHARACTERS else None
