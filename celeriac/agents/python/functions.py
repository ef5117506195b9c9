"""The functions of `python` agents: register, find, check and call them; notice changed files."""

import difflib
import importlib
import inspect
import os
import sys
import sysconfig
import threading
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType, SimpleNamespace
from typing import Any, TypeVar

from celeriac.domain.errors import (
    AgentMisconfiguredError,
    TimeLimitError,
    VariablesInvalidError,
    WorkerMisconfiguredError,
)
from celeriac.kit.json_types import JsonObject

_Function = TypeVar("_Function", bound=Callable[..., object])

_registered: dict[str, str] = {}
_durable: set[str] = set()


def agent(name: str, *, durable: bool = False) -> Callable[[_Function], _Function]:
    """Register a function of a module as the agent `name`; the function is not changed.

    The function gets the execution's variables as keyword arguments, validated by its type hints.
    A parameter `ctx` gets an `AgentContext` (coroutine functions) or a `ChildContext` (plain
    functions). The result must be a JSON value, a pydantic model or a dataclass. A coroutine
    function runs in the worker, on its own event loop; a plain function runs in a child process,
    with memory and time limits. A `durable` function ends where it must wait, and is called again,
    with its steps answered, when it can go on (docs/python-agents.md).

    Raises TypeError if it is not a function at the top of a module, ValueError if another function
    has the name.
    """

    def register(function: _Function) -> _Function:
        path = function_path(function)
        if _registered.setdefault(name, path) != path:
            raise ValueError(f"@agent({name!r}) is taken by {_registered[name]}; choose another")
        if durable:
            _durable.add(path)
        return function

    return register


def registered_agents() -> Mapping[str, str]:
    """Return the functions registered by the modules imported so far: name → `module:function`."""
    return MappingProxyType(dict(sorted(_registered.items())))


def is_durable(path: str) -> bool:
    """Whether the function at `path` is registered as durable."""
    return path in _durable


def is_registered(function: object) -> bool:
    """Whether the function is registered with `@agent`."""
    try:
        return function_path(function) in _registered.values()
    except TypeError:
        return False


def task_name(task: object) -> str:
    """Return the name of a task that is given by its name, or by a function with `@agent`.

    Raises TypeError for anything else, and for a function with several names.
    """
    if isinstance(task, str):
        return task
    path = function_path(task)
    match [name for name, known in registered_agents().items() if known == path]:
        case [name]:
            return name
        case []:
            found = f"{path} has none"
        case names:
            found = f"{path} has several: {', '.join(names)}"
    raise TypeError(f"give the name of a task, or a function with one @celeriac.agent; {found}")


def function_path(function: object) -> str:
    """Return `module:function`; raises TypeError if it is not at the top of a module."""
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", None)
    if not callable(function) or not module or not str(name).isidentifier():
        raise TypeError(
            f"{function!r} is not a function at the top of a module; workers can't import others"
        )
    return f"{module}:{name}"


_PYTHON = tuple(
    os.path.join(sysconfig.get_path(name), "")  # noqa: PTH118 - compared as texts
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
_INSTALLED = frozenset({"site-packages", "dist-packages"})

_Stamp = tuple[int, int]


class LoadedModules:
    """The files of imported modules, as they were when first noted. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: set[str] = set()
        self._stamps: dict[str, _Stamp] = {}

    def note(self) -> None:
        """Note the files of modules imported since the last call."""
        with self._lock:
            for name in [name for name in list(sys.modules) if name not in self._names]:
                self._names.add(name)
                file = _users_file(name)
                stamp = _stamp(file) if file else None
                if file and stamp:
                    self._stamps[file] = stamp

    def changed(self) -> list[Path]:
        """Return the files that have changed since they were imported.

        A missing file doesn't count: editors replace files.
        """
        with self._lock:
            stamps = list(self._stamps.items())
        return [Path(file) for file, stamp in stamps if _stamp(file) not in {stamp, None}]

    def is_stale(self, name: str) -> bool:
        """Whether the file of a module has changed since it was imported."""
        file = _users_file(name)
        return file is not None and Path(file) in self.changed()


LOADED = LoadedModules()
"""The modules of this process."""


def _users_file(name: str) -> str | None:
    if name.partition(".")[0] == "celeriac":
        return None
    file = getattr(sys.modules.get(name), "__file__", None)
    if not isinstance(file, str) or not file.endswith(".py"):
        return None
    if not _INSTALLED.isdisjoint(Path(file).parts) or file.startswith(_PYTHON):
        return None
    return file


def _stamp(file: str) -> _Stamp | None:
    try:
        found = os.stat(file)  # noqa: PTH116 - called each second for each file
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


CONTEXT_PARAMETER = "ctx"

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, slots=True)
class _Parameter:
    required: bool
    convert: Callable[[Any], Any] | None
    """Converts a JSON value to the annotated type; raises pydantic.ValidationError."""


@dataclass(frozen=True, slots=True)
class AgentFunction:
    """A user's function, checked and ready to be called."""

    path: str
    call: Callable[..., Any]
    is_coroutine: bool
    wants_context: bool
    takes_any: bool
    """Whether it has a `**` parameter."""
    parameters: Mapping[str, _Parameter]

    def arguments(self, variables: JsonObject, context: object) -> dict[str, Any]:
        """Return the keyword arguments for `variables`, with `context` if the function takes it.

        Raises VariablesInvalidError naming each variable that is missing, unknown or of the
        wrong type.
        """
        faults = [
            f"{name} is missing"
            for name, parameter in self.parameters.items()
            if parameter.required and name not in variables
        ]
        arguments: dict[str, Any] = {}
        for name, value in variables.items():
            if name in self.parameters:
                arguments[name] = _converted(name, value, self.parameters[name], faults)
            elif self.takes_any and name != CONTEXT_PARAMETER:
                arguments[name] = value
            else:
                faults.append(f"{name} is not a parameter of the function")
        if faults:
            raise VariablesInvalidError(
                f"The variables don't fit {self.path}: {'; '.join(faults)}.",
                field="variables",
                faults=faults,
            )
        if self.wants_context:
            arguments[CONTEXT_PARAMETER] = context
        return arguments


def find_function(path: str, allowed_modules: Sequence[str]) -> AgentFunction:
    """Return the function at `path` (`module:function`); imports its module, which may take long.

    Imports only `allowed_modules`, which include the modules of allowed packages. Functions that
    are already registered with `@agent` in this process are found too. Raises
    AgentMisconfiguredError, and WorkerMisconfiguredError for what this worker lacks.
    """
    module_name, _, name = path.partition(":")
    if not is_allowed(module_name, allowed_modules) and path not in _registered.values():
        raise _lacks(
            path,
            f"{module_name} is not among the modules that agents may use. Add it, or its package, "
            "to CELERIAC_AGENT_MODULES and restart the workers",
        )
    function = _attribute(path, _import(path, module_name), name)
    if not callable(function) or inspect.isclass(function):
        raise _wrong(path, f"{name} is {type(function).__name__}, not a function")
    origin = getattr(function, "__module__", None) or ""
    if not is_registered(function) and not is_allowed(origin, allowed_modules):
        raise _wrong(
            path,
            f"{name} comes from {origin or 'an unknown module'}, which is not among the modules "
            "that agents may use. Register a function of your own with @celeriac.agent(…)",
        )
    return _prepare(path, function)


def declared_modules() -> tuple[str, ...]:
    """Return the modules that packages declare in the entry point group `celeriac.agents`."""
    from importlib.metadata import entry_points  # slow, and only programs ask, once

    return tuple(sorted({each.module for each in entry_points(group="celeriac.agents")}))


def is_allowed(module: str, allowed_modules: Sequence[str]) -> bool:
    """Whether a module is one of the allowed modules, or in one of the allowed packages."""
    return any(module == each or module.startswith(f"{each}.") for each in allowed_modules)


def _wrong(path: str, reason: str) -> AgentMisconfiguredError:
    return AgentMisconfiguredError(f"The agent's function {path!r}: {reason}.", field="function")


def _lacks(path: str, reason: str) -> WorkerMisconfiguredError:
    return WorkerMisconfiguredError(f"The agent's function {path!r}: {reason}.", field="function")


def _import(path: str, module_name: str) -> ModuleType:
    if module_name not in sys.modules:
        importlib.invalidate_caches()  # the file may be newer than the cached directory
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            reason = (
                f"the worker finds no module {error.name!r}. Install its package in the worker's "
                "environment, or put its directory on PYTHONPATH"
            )
            raise _lacks(path, reason) from None
        raise _lacks(path, f"importing {module_name} failed: {error}") from error
    except TimeLimitError:  # of the attempt, which ends here by chance
        raise
    except (Exception, SystemExit) as error:  # a user's module may raise anything
        reason = f"importing {module_name} failed: {type(error).__name__}: {error}"
        raise _lacks(path, reason) from error
    LOADED.note()
    return module


def _attribute(path: str, module: ModuleType, name: str) -> Any:
    try:
        return getattr(module, name)
    except AttributeError:
        near = difflib.get_close_matches(name, dir(module), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        if LOADED.is_stale(module.__name__):
            hint = f", but {module.__file__} has changed since it was imported: restart the worker"
        raise _lacks(path, f"the module {module.__name__} has no {name!r}{hint}") from None


def _prepare(path: str, function: Callable[..., Any]) -> AgentFunction:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise _wrong(path, "it is a generator; return one value, and report progress with ctx")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise _wrong(path, f"its parameters can't be read: {error}") from error
    parameters = dict(signature.parameters)
    wants_context = parameters.pop(CONTEXT_PARAMETER, None) is not None
    for parameter in parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise _wrong(path, f"variables are passed by name, but {parameter} can't be")
    named = {name: each for name, each in parameters.items() if each.kind in _NAMED}
    try:
        hints = type_hints(function, named.values())
    except TimeLimitError:
        raise
    except Exception as error:
        reason = f"its type hints can't be evaluated: {type(error).__name__}: {error}"
        raise _wrong(path, reason) from error
    return AgentFunction(
        path=path,
        call=function,
        is_coroutine=inspect.iscoroutinefunction(function),
        wants_context=wants_context,
        takes_any=len(named) < len(parameters),
        parameters={
            name: _Parameter(
                required=each.default is each.empty, convert=_converter(path, name, hints.get(name))
            )
            for name, each in named.items()
        },
    )


def type_hints(
    function: Callable[..., Any], parameters: Iterable[inspect.Parameter]
) -> dict[str, Any]:
    """Evaluate the annotations of `parameters`; may raise anything.

    `ctx` is not among them: its annotation may be imported for type checkers only.
    """
    annotations = {
        each.name: each.annotation for each in parameters if each.annotation is not each.empty
    }
    return typing.get_type_hints(
        SimpleNamespace(__annotations__=annotations),
        globalns=getattr(inspect.unwrap(function), "__globals__", {}),
        include_extras=True,
    )


def _converter(path: str, name: str, hint: Any) -> Callable[[Any], Any] | None:
    if hint is None or hint is Any:
        return None
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError

    try:
        return TypeAdapter(hint).validate_python
    except PydanticUserError as error:
        reason = f"the type of {name} can't be converted from JSON: {str(error).splitlines()[0]}"
        raise _wrong(path, reason) from error


def _converted(name: str, value: Any, parameter: _Parameter, faults: list[str]) -> Any:
    if parameter.convert is None:
        return value
    from pydantic import ValidationError

    try:
        return parameter.convert(value)
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_context=False, include_input=False):
            place = ".".join((name, *map(str, fault["loc"])))
            faults.append(f"{place}: {fault['msg']}")
        return None
