"""Read the specifications and cassettes that a test passes, as mappings or files."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

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
