"""Read the specifications and cassettes that a test passes, as mappings or files."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from celeriac.agents.python.functions import function_path, is_durable, is_registered
from celeriac.client.documents import Document, DocumentError
from celeriac.domain.agents import AgentSpec
from celeriac.domain.cassettes import Cassette, parse
from celeriac.domain.errors import InvalidInputError
from celeriac.domain.executions.model import agent_spec
from celeriac.domain.tasks import TaskSpec
from celeriac.kit.json_types import loads
from celeriac.kit.validation import first_fault

T = TypeVar("T")

Spec = Mapping[str, Any] | str | Path
"""A specification as a mapping, or the path of its JSON file (`--spec FILE`)."""


def read_agent(spec: Spec) -> AgentSpec:
    """Return an agent's specification. Raises InvalidInputError."""
    return _checked(agent_spec, spec, "agent")


def read_task(spec: Spec) -> TaskSpec:
    """Return a task's specification. Raises InvalidInputError."""
    return _checked(TaskSpec.model_validate, spec, "task")


def read_cassette(path: Path) -> Cassette:
    """Return the cassette of a file. Raises InvalidInputError."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise InvalidInputError(
            f"There is no cassette {path}. Record it: `celeriac run TASK --record-to {path}`, or "
            "run_agent(…, record=True).",
            field="cassette",
        ) from error
    return parse(content)


def read_project(path: Path, name: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the specifications of the agent and of the task `name` of a file for `apply`.

    Raises InvalidInputError.
    """
    try:
        content = Document.read(path).content
    except DocumentError as error:
        raise InvalidInputError(error.message, field="project") from error
    task = _entry(content, "tasks", name, path)
    return (
        _entry(content, "agents", str(task.get("agent")), path).get("spec", {}),
        task.get("spec", {}),
    )


def _entry(content: Mapping[str, Any], section: str, name: str, path: Path) -> Mapping[str, Any]:
    entries = content.get(section)
    for each in entries if isinstance(entries, list) else ():
        if isinstance(each, Mapping) and each.get("name") == name:
            return each
    raise InvalidInputError(
        f"{path} has no {section.removesuffix('s')} {name!r}. Add it there, or call run_agent with "
        "the specifications.",
        field="project",
    )


def function_spec(function: Callable[..., object]) -> Mapping[str, Any]:
    """Return the specification of an agent for a decorated function. Raises InvalidInputError."""
    if not is_registered(function):
        raise InvalidInputError(
            f"{getattr(function, '__qualname__', function)} is no agent; decorate it with "
            '@celeriac.agent("name").',
            field="function",
        )
    path = function_path(function)
    return {"runner": "python", "function": path, "durable": is_durable(path)}


def _checked(check: Callable[[Mapping[str, Any]], T], spec: Spec, field: str) -> T:
    try:
        found = spec if isinstance(spec, Mapping) else loads(Path(spec).read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{spec} holds no {field}: {error}", field=field) from error
    try:
        return check(found)
    except ValidationError as error:
        place, fault = first_fault(error)
        place = f"{field}.{place}" if place else field
        raise InvalidInputError(f"{place}: {fault}", field=place) from error
