"""`@agent("name")`: how a package offers its functions to Celeriac.

Standard library only: child processes import this before the user's module.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeVar

_Function = TypeVar("_Function", bound=Callable[..., object])

_registered: dict[str, str] = {}


def agent(name: str) -> Callable[[_Function], _Function]:
    """Offer a function of a module as the agent `name`; the function itself stays as it is.

    The function gets the execution's variables as keyword arguments, checked against its type
    hints, and, where it has a parameter `ctx`, an `AgentContext` (coroutine functions) or a
    `ChildContext` (plain functions). What it returns must fit JSON; pydantic models and
    dataclasses do. A coroutine function has an event loop of its own in the worker, and should not
    block it; a plain function runs in a child process of its own, with memory and time limits.

    Raises TypeError for what is no function of a module, ValueError where another function has
    the name.
    """

    def register(function: _Function) -> _Function:
        path = function_path(function)
        if _registered.setdefault(name, path) != path:
            raise ValueError(f"@agent({name!r}) is taken by {_registered[name]}; choose another")
        return function

    return register


def registered_agents() -> Mapping[str, str]:
    """Return the functions offered by the modules imported so far: name → `module:function`."""
    return MappingProxyType(dict(sorted(_registered.items())))


def is_registered(function: object) -> bool:
    """Whether `@agent` offers this function."""
    try:
        return function_path(function) in _registered.values()
    except TypeError:
        return False


def function_path(function: object) -> str:
    """Return `module:function`; raises TypeError where a module doesn't hold it by that name."""
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", None)
    if not callable(function) or not module or not str(name).isidentifier():
        raise TypeError(
            f"{function!r} is no function at the top of a module; "
            "only such a function can be found again by a worker"
        )
    return f"{module}:{name}"
