"""The parameter `ctx` of users' functions.

`AgentContext` and `ChildContext` share all methods. They differ in the transport: the worker
handles the messages of a coroutine function itself, a child process writes them to its pipe.
Imports little, because each child process loads it.
"""

import inspect
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Any
from weakref import WeakKeyDictionary

from celeriac.agents.python.base_context import Transport
from celeriac.agents.python.calls import AwaitedCalls, PlainCalls
from celeriac.agents.python.gathering import Raised, gathered, size_of, too_large, within
from celeriac.agents.python.steps import (
    MAX_GATHERED_BYTES,
    SCOPE,
    Call,
    Effect,
    Flow,
    Parking,
    Pause,
    Place,
    Scope,
)
from celeriac.kit.json_types import JsonObject


class AgentContext(AwaitedCalls):
    """The parameter `ctx` of a coroutine function; most methods return a coroutine.

    They raise LeaseLostError once this worker no longer owns the attempt.
    """

    def __init__(self, job: JsonObject, transport: Transport[Any, Any]) -> None:
        super().__init__(job, transport)
        self._places: WeakKeyDictionary[Any, Place] = WeakKeyDictionary()

    def _perform(self, place: Place, flow: Flow[Any]) -> Any:
        call = self._performed(flow)
        self._places[call] = place
        return call

    async def _performed(self, flow: Flow[Any]) -> Any:
        given: Any = None
        error: Exception | None = None
        while True:
            try:
                effect = flow.send(given) if error is None else flow.throw(error)
            except StopIteration as end:
                return end.value
            given, error = None, None
            try:
                given = await self._effect(effect)
            except Exception as raised:  # noqa: BLE001 - the flow decides
                error = raised

    async def _effect(self, effect: Effect) -> Any:
        import asyncio  # not at the top: child processes load this module, and must start fast

        if isinstance(effect, Pause):
            return await asyncio.sleep(effect.seconds)
        if isinstance(effect, Call):
            with within(Scope.inside(effect.place)):
                value = effect.function()
                return await value if inspect.isawaitable(value) else value
        reply = await self._transport.request(effect.message)
        if reply["type"] == "park":
            raise Parking
        return reply

    async def label(self, labels: Mapping[str, str | None] | None = None) -> dict[str, str]:
        """Set labels of the execution, and remove those with None; return all that it has then.

        Without `labels` nothing is changed. Raises InvalidInputError, which names the label.
        """
        return _labels_of(await self._transport.request(self._labels(labels)))

    async def results(self, step: str | Mapping[str, Any]) -> AsyncIterator[Any]:
        """Yield the results of a step of the workflow's run that this execution is part of.

        They come in the order of the step's items, null for those that have failed, and are read
        in pages. `step` is its id, or what `steps.ID.results` gives if the results are too large to
        be passed: that may also be of a run above. Raises InvalidInputError if there is no such
        step, or it has not ended.
        """
        after: int | None = -1
        while after is not None:
            page = await self._transport.request(self._wanted(step, after))
            for each in page["results"]:
                yield each
            after = page["next_after"]

    async def gather(
        self, *work: Awaitable[Any], parallel: int | None = None, return_errors: bool = False
    ) -> list[Any]:
        """Await all of `work` at once, such as durable calls and coroutines that make some.

        At most `parallel` of them at the same time. Returns the results in order. Raises the first
        error when all have ended; with `return_errors` the errors are among the results.
        """
        import asyncio  # not at the top: child processes load this module, and must start fast

        scope = (SCOPE.get() or self._scope).branches(self._made_for(work))
        results: list[Any] = [None] * len(work)
        left = iter(enumerate(work))
        room = MAX_GATHERED_BYTES

        async def turn() -> None:
            nonlocal room
            for number, each in left:
                results[number] = await self._branch(scope(number), each)
                if inspect.iscoroutine(each) and each in self._places:
                    room -= size_of(results[number])
                    if room < 0:
                        results[number] = too_large()
                if isinstance(results[number], Parking) and parallel is not None:
                    return  # it keeps its turn: what it waits for goes on

        async with asyncio.TaskGroup() as turns:
            for _ in range(min(parallel or len(work), len(work))):
                turns.create_task(turn())
        for number, each in left:
            results[number] = Parking(more=True)
            if inspect.iscoroutine(each):
                each.close()
        return gathered(results, return_errors=return_errors)

    def _made_for(self, work: Sequence[Awaitable[Any]]) -> list[Place]:
        """Return the places of the durable calls among `work`."""
        calls = (each for each in work if inspect.iscoroutine(each))
        return [self._places[call] for call in calls if call in self._places]

    async def _branch(self, scope: Scope, work: Awaitable[Any]) -> Any:
        """Await one branch; a durable call that was made for it gets its place there."""
        call = self._places.get(work) if inspect.iscoroutine(work) else None
        if call is not None:
            call.path = scope.next(call.name).path
        try:
            with within(scope):
                return await work
        except Parking as parked:
            return parked
        except Exception as error:  # noqa: BLE001 - raised when all have ended
            return Raised(error)


class ChildContext(PlainCalls):
    """The parameter `ctx` of a plain function: the methods of `AgentContext`, without `await`."""

    def _perform(self, _place: Place, flow: Flow[Any]) -> Any:
        given: Any = None
        error: Exception | None = None
        while True:
            try:
                effect = flow.send(given) if error is None else flow.throw(error)
            except StopIteration as end:
                return end.value
            given, error = None, None
            try:
                given = self._effect(effect)
            except Exception as raised:  # noqa: BLE001 - the flow decides
                error = raised

    def _effect(self, effect: Effect) -> Any:
        if isinstance(effect, Pause):
            return time.sleep(effect.seconds)
        if isinstance(effect, Call):
            with within(Scope.inside(effect.place)):
                value = effect.function()
            if inspect.iscoroutine(value):
                value.close()
                raise TypeError("a plain function can't await: give ctx.step a plain function")
            return value
        reply = self._transport.request(effect.message)
        if reply["type"] == "park":
            raise Parking
        return reply

    def label(self, labels: Mapping[str, str | None] | None = None) -> dict[str, str]:
        """Change labels of the execution, and return all: see `AgentContext.label`."""
        return _labels_of(self._transport.request(self._labels(labels)))

    def results(self, step: str | Mapping[str, Any]) -> Iterator[Any]:
        """Yield the results of a step of the workflow's run: see `AgentContext.results`."""
        after: int | None = -1
        while after is not None:
            page = self._transport.request(self._wanted(step, after))
            yield from page["results"]
            after = page["next_after"]

    def gather(
        self,
        *work: Callable[[], Any],
        parallel: int | None = None,
        return_errors: bool = False,
    ) -> list[Any]:
        """Call each of `work`, such as `lambda: ctx.run("task")`, one after the other.

        The function waits when all were called, so the executions that they run do so at the same
        time; at most `parallel`. Returns the results in order. Raises the first error when all
        have ended; with `return_errors` the errors are among the results.
        """
        scope = (SCOPE.get() or self._scope).branches()
        results: list[Any] = []
        for number, each in enumerate(work):
            if (
                parallel is not None
                and sum(isinstance(one, Parking) for one in results) >= parallel
            ):
                results.append(Parking(more=True))
                continue
            try:
                with within(scope(number)):
                    results.append(each())
            except Parking as parked:
                results.append(parked)
            except Exception as error:  # noqa: BLE001 - raised when all have ended
                results.append(Raised(error))
        return gathered(results, return_errors=return_errors)


def _labels_of(reply: JsonObject) -> dict[str, str]:
    """Return the labels of a reply; raises InvalidInputError if the change was refused."""
    if reply["type"] == "refused":
        from celeriac.domain.errors import InvalidInputError  # few functions need it

        raise InvalidInputError(reply["message"], field=reply["field"])
    return dict(reply["labels"])
