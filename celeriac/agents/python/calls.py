"""The durable calls of `ctx`, with the types of what they return.

A call returns what a later attempt reads from JSON. So it has the type of the function's result if
that is a JSON type, and is `Any` for other types, such as models, which become objects. Imports
little, because each child process loads it.
"""

from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Protocol, TypeVar, Union, overload

from celeriac.agents.python.base_context import BaseContext

if TYPE_CHECKING:
    from celeriac.domain.approvals import Answer  # noqa: F401 - named in the base classes
    from celeriac.domain.errors import ChildFailedError


class _List(Protocol):
    """A list of JSON values. `Sequence` would take tuples, which become lists."""

    def __iter__(self) -> "Iterator[Json]": ...

    def reverse(self) -> None: ...


Json = Union[bool, int, float, str, _List, Mapping[str, "Json"], None]  # noqa: UP007 - recursive
"""The types that are the same after they were stored as JSON."""

P = ParamSpec("P")
J = TypeVar("J", bound=Json)

Variables = Mapping[str, Any]


class AwaitedCalls(BaseContext[Coroutine[Any, Any, None], "Coroutine[Any, Any, Answer]"]):
    """Those of a coroutine function."""

    @overload
    def step(
        self,
        function: Callable[..., Awaitable[J] | J],
        /,
        *arguments: Any,
        retry: int,
        backoff: float = 1.0,
        **named: Any,
    ) -> Coroutine[Any, Any, J]: ...

    @overload
    def step(
        self,
        name: str,
        function: Callable[..., Awaitable[J] | J],
        /,
        *arguments: Any,
        retry: int,
        backoff: float = 1.0,
        **named: Any,
    ) -> Coroutine[Any, Any, J]: ...

    @overload
    def step(
        self,
        first: str | Callable[..., object],
        /,
        *arguments: Any,
        retry: int,
        backoff: float = 1.0,
        **named: Any,
    ) -> Coroutine[Any, Any, Any]: ...

    @overload
    def step(
        self, function: Callable[P, Awaitable[J] | J], /, *arguments: P.args, **named: P.kwargs
    ) -> Coroutine[Any, Any, J]: ...

    @overload
    def step(
        self,
        name: str,
        function: Callable[P, Awaitable[J] | J],
        /,
        *arguments: P.args,
        **named: P.kwargs,
    ) -> Coroutine[Any, Any, J]: ...

    @overload
    def step(
        self, function: Callable[P, object], /, *arguments: P.args, **named: P.kwargs
    ) -> Coroutine[Any, Any, Any]: ...

    @overload
    def step(
        self, name: str, function: Callable[P, object], /, *arguments: P.args, **named: P.kwargs
    ) -> Coroutine[Any, Any, Any]: ...

    # for lambdas with defaults, which mypy takes for functions that need arguments
    @overload
    def step(  # type: ignore[overload-cannot-match]
        self, name: str, function: Callable[..., object], /
    ) -> Coroutine[Any, Any, Any]: ...

    def step(
        self,
        first: str | Callable[..., Any],
        /,
        *arguments: Any,
        retry: Any = 0,
        backoff: Any = 1.0,
        **named: Any,
    ) -> Any:
        """Call a function once: later attempts get its stored result.

        `ctx.step("charge", charge, order, retry=3)` or `ctx.step(charge, order)`, which is named
        after the function. The result must be a JSON value, as an agent's result. A failed call is
        repeated `retry` times after `backoff` seconds, doubled each time. Type checkers check the
        function's arguments if there is no `retry`. Raises StepFailedError with the code of the
        last error, and StepsChangedError if an earlier attempt has stored another step at this
        place.
        """
        return self._step(first, arguments, named, retry=retry, backoff=backoff)

    @overload
    def run(
        self,
        task: Callable[..., Awaitable[J] | J],
        variables: Variables | None = ...,
        *,
        name: str | None = ...,
        queue: str | None = ...,
        priority: str | None = ...,
    ) -> Coroutine[Any, Any, J]: ...

    @overload
    def run(
        self,
        task: str | Callable[..., object],
        variables: Variables | None = ...,
        *,
        name: str | None = ...,
        queue: str | None = ...,
        priority: str | None = ...,
    ) -> Coroutine[Any, Any, Any]: ...

    def run(
        self,
        task: str | Callable[..., Any],
        variables: Variables | None = None,
        *,
        name: str | None = None,
        queue: str | None = None,
        priority: str | None = None,
    ) -> Any:
        """Run a task of the workspace as a child of this execution, and return its result.

        `task` is its name, or a function with `@celeriac.agent`, whose name the task has. It has
        the task's queue and this execution's priority unless given. Raises ChildFailedError if it
        fails or is cancelled, and TypeError for another function.
        """
        return self._run(task, variables, name=name, queue=queue, priority=priority)

    @overload
    def map(
        self,
        task: Callable[..., Awaitable[J] | J],
        items: Sequence[Variables],
        *,
        parallel: int | None = ...,
        return_errors: Literal[False] = ...,
        name: str | None = ...,
        queue: str | None = ...,
        priority: str | None = ...,
    ) -> Coroutine[Any, Any, list[J]]: ...

    @overload
    def map(
        self,
        task: Callable[..., Awaitable[J] | J],
        items: Sequence[Variables],
        *,
        parallel: int | None = ...,
        return_errors: bool,
        name: str | None = ...,
        queue: str | None = ...,
        priority: str | None = ...,
    ) -> "Coroutine[Any, Any, list[J | ChildFailedError]]": ...

    @overload
    def map(
        self,
        task: str | Callable[..., object],
        items: Sequence[Variables],
        *,
        parallel: int | None = ...,
        return_errors: bool = ...,
        name: str | None = ...,
        queue: str | None = ...,
        priority: str | None = ...,
    ) -> Coroutine[Any, Any, list[Any]]: ...

    def map(
        self,
        task: str | Callable[..., Any],
        items: Sequence[Variables],
        *,
        parallel: int | None = None,
        return_errors: bool = False,
        name: str | None = None,
        queue: str | None = None,
        priority: str | None = None,
    ) -> Any:
        """Run a task once for each of `items`, its variables, and return the results in order.

        `task` is as for `run`. At most `parallel` of them run at once. Raises ChildFailedError for
        the first that failed, when all have ended; with `return_errors` the errors are among the
        results.
        """
        return self._map(
            task,
            items,
            parallel=parallel,
            return_errors=return_errors,
            name=name,
            queue=queue,
            priority=priority,
        )


# These overloads differ from those of `AwaitedCalls` in their results: `J`, not a coroutine of it.
# One class for both would need a type variable that takes `J` as its argument, which Python lacks.
class PlainCalls(BaseContext[None, "Answer"]):
    """Those of a plain function."""

    @overload
    def step(
        self,
        function: Callable[..., J],
        /,
        *arguments: Any,
        retry: int,
        backoff: float = 1.0,
        **named: Any,
    ) -> J: ...

    @overload
    def step(
        self,
        name: str,
        function: Callable[..., J],
        /,
        *arguments: Any,
        retry: int,
        backoff: float = 1.0,
        **named: Any,
    ) -> J: ...

    @overload
    def step(
        self,
        first: str | Callable[..., object],
        /,
        *arguments: Any,
        retry: int,
        backoff: float = 1.0,
        **named: Any,
    ) -> Any: ...

    @overload
    def step(self, function: Callable[P, J], /, *arguments: P.args, **named: P.kwargs) -> J: ...

    @overload
    def step(
        self, name: str, function: Callable[P, J], /, *arguments: P.args, **named: P.kwargs
    ) -> J: ...

    @overload
    def step(
        self, function: Callable[P, object], /, *arguments: P.args, **named: P.kwargs
    ) -> Any: ...

    @overload
    def step(
        self, name: str, function: Callable[P, object], /, *arguments: P.args, **named: P.kwargs
    ) -> Any: ...

    # for lambdas with defaults, which mypy takes for functions that need arguments
    @overload
    def step(  # type: ignore[overload-cannot-match]
        self, name: str, function: Callable[..., object], /
    ) -> Any: ...

    def step(
        self,
        first: str | Callable[..., Any],
        /,
        *arguments: Any,
        retry: Any = 0,
        backoff: Any = 1.0,
        **named: Any,
    ) -> Any:
        """Call a function once: see `AgentContext.step`."""
        return self._step(first, arguments, named, retry=retry, backoff=backoff)

    @overload
    def run(
        self,
        task: Callable[..., Awaitable[J] | J],
        variables: Variables | None = ...,
        *,
        name: str | None = ...,
        queue: str | None = ...,
        priority: str | None = ...,
    ) -> J: ...

    @overload
    def run(
        self,
        task: str | Callable[..., object],
        variables: Variables | None = ...,
        *,
        name: str | None = ...,
        queue: str | None = ...,
        priority: str | None = ...,
    ) -> Any: ...

    def run(
        self,
        task: str | Callable[..., Any],
        variables: Variables | None = None,
        *,
        name: str | None = None,
        queue: str | None = None,
        priority: str | None = None,
    ) -> Any:
        """Run a task as a child of this execution: see `AgentContext.run`."""
        return self._run(task, variables, name=name, queue=queue, priority=priority)

    @overload
    def map(
        self,
        task: Callable[..., Awaitable[J] | J],
        items: Sequence[Variables],
        *,
        parallel: int | None = ...,
        return_errors: Literal[False] = ...,
        name: str | None = ...,
        queue: str | None = ...,
        priority: str | None = ...,
    ) -> list[J]: ...

    @overload
    def map(
        self,
        task: Callable[..., Awaitable[J] | J],
        items: Sequence[Variables],
        *,
        parallel: int | None = ...,
        return_errors: bool,
        name: str | None = ...,
        queue: str | None = ...,
        priority: str | None = ...,
    ) -> "list[J | ChildFailedError]": ...

    @overload
    def map(
        self,
        task: str | Callable[..., object],
        items: Sequence[Variables],
        *,
        parallel: int | None = ...,
        return_errors: bool = ...,
        name: str | None = ...,
        queue: str | None = ...,
        priority: str | None = ...,
    ) -> list[Any]: ...

    def map(
        self,
        task: str | Callable[..., Any],
        items: Sequence[Variables],
        *,
        parallel: int | None = None,
        return_errors: bool = False,
        name: str | None = None,
        queue: str | None = None,
        priority: str | None = None,
    ) -> Any:
        """Run a task once for each of `items`: see `AgentContext.map`."""
        return self._map(
            task,
            items,
            parallel=parallel,
            return_errors=return_errors,
            name=name,
            queue=queue,
            priority=priority,
        )
