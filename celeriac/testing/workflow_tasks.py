"""The tasks of a workflow under test: stand-ins, tasks of a project's file, and functions."""

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from celeriac.agents.python.functions import registered_agents
from celeriac.client.documents import Document, DocumentError
from celeriac.domain.cassettes import Cassette, Header
from celeriac.domain.errors import (
    CassetteMismatchError,
    CeleriacError,
    InvalidInputError,
    WorkflowInvalidError,
)
from celeriac.domain.workflows.document import Workflow, parse
from celeriac.domain.workflows.model import Step, Timeout
from celeriac.kit.json_types import JsonObject, JsonValue, loads, storable
from celeriac.services.catalog.schemas import check_variables, violations
from celeriac.testing.running import Answers, run_replayed
from celeriac.testing.specs import function_spec, read_cassette, read_task

StandIns = Mapping[str, Callable[[dict[str, Any]], Any]]
"""By the task's name, what gets the variables of an execution and returns its result."""


class ToDocument(Protocol):
    """A workflow that is built in Python: `celeriac.Workflow`."""

    def to_dict(self) -> dict[str, Any]: ...  # noqa: D102 - the contract is the class's


WorkflowSource = str | Path | Mapping[str, Any] | ToDocument
"""A document, its text or file, a workflow built in Python, or the name of one of the project."""


def read_project_file(path: str | Path | None) -> Mapping[str, Any]:
    """Return the content of a file for `celeriac apply`; nothing for None.

    Raises InvalidInputError.
    """
    return {} if path is None else _read(Path(path), "project")


def read_workflow(source: WorkflowSource, project: Mapping[str, Any]) -> Workflow:
    """Return a checked workflow. Raises WorkflowInvalidError and InvalidInputError."""
    if isinstance(source, Mapping):
        return parse(dict(source))
    if isinstance(source, str) and "\n" in source:
        return parse(_content(lambda: Document.parse(source, "workflow"), "workflow"))
    if isinstance(source, str) and project:
        return workflow_of(project, source)
    if isinstance(source, str | Path):
        return parse(_read(Path(source), "workflow"))
    return parse(source.to_dict())


def workflow_of(project: Mapping[str, Any], name: str) -> Workflow:
    """Return a workflow of a project's file. Raises WorkflowInvalidError and InvalidInputError."""
    found = _entry(project, "workflows", "workflow", name)
    if found is None:
        raise InvalidInputError(
            f"There is no workflow {name!r} in the project's file. Add it there, or give "
            "run_workflow its document.",
            field="workflow",
        )
    return parse(dict(found))


def joined_cassettes(given: str | Path | Iterable[str | Path]) -> Cassette:
    """Return one cassette with the answers of all files; of a directory, its `*.jsonl`.

    Raises InvalidInputError.
    """
    paths = [given] if isinstance(given, str | Path) else [*given]
    files = [
        file
        for path in map(Path, paths)
        for file in (sorted(path.glob("*.jsonl")) if path.is_dir() else [path])
    ]
    interactions = [each for file in files for each in read_cassette(file).interactions]
    return Cassette(Header(celeriac_cassette=1), tuple(interactions))


class Tasks:
    """Runs the tasks of one workflow under test.

    `mistake` is the first error of the test itself, such as an answer that is missing: agents may
    catch it, so the run raises it once the execution has ended.
    """

    def __init__(
        self,
        project: Mapping[str, Any],
        stand_ins: StandIns,
        cassette: Cassette,
        answer: Answers | None,
    ) -> None:
        self.mistake: Exception | None = None
        self.step_results: dict[str, list[JsonValue]] = {}
        """What `ctx.results` gives to agents."""
        self._project = project
        self._stand_ins = stand_ins
        self._cassette = cassette
        self._answer = answer

    def run(self, name: str, variables: JsonObject, step: Step | None = None) -> JsonValue:
        """Return the result of an execution; raises the error that it fails with."""
        try:
            return self._run(name, variables, step)
        except Exception as error:
            if self.mistake is None and _is_mistake(error):
                self.mistake = error
            raise

    def _run(self, name: str, variables: JsonObject, step: Step | None) -> JsonValue:
        entry = _entry(self._project, "tasks", "name", name)
        spec: dict[str, Any] = {} if entry is None else dict(entry.get("spec", {}))
        if name in self._stand_ins:
            return self._stood_in(name, variables, spec)
        agent_name = name if entry is None else str(entry.get("agent"))
        if step is not None and step.timeout != Timeout():
            limits = {"soft_seconds": step.timeout.soft, "hard_seconds": step.timeout.hard}
            spec["limits"] = {**spec.get("limits", {}), **limits}
        done = run_replayed(
            self._agent(name, agent_name),
            spec,
            variables,
            self._cassette,
            answer=self._answer,
            children=self.run,
            step_results=self.step_results,
        )
        return done.result

    def _agent(self, task: str, name: str) -> Mapping[str, Any]:
        entry = _entry(self._project, "agents", "name", name)
        if entry is not None:
            spec: Mapping[str, Any] = entry.get("spec", {})
            return spec
        path = registered_agents().get(name)
        if path is None:
            raise InvalidInputError(
                f"There is no task {task!r}: neither in the project's file, nor as a function with "
                f"@celeriac.agent in a module that the test has imported. Import it, or give "
                f"run_workflow tasks={{{task!r}: …}}.",
                field="tasks",
            )
        module, _, function = path.partition(":")
        return function_spec(getattr(import_module(module), function))

    def _stood_in(self, name: str, variables: JsonObject, spec: JsonObject) -> JsonValue:
        """Return what a stand-in returns; variables and result fit the schemas of the task."""
        task = read_task(spec)
        check_variables(task.variables_schema, variables)
        result = loads(storable(self._stand_ins[name](dict(variables))))
        if task.output_schema is not None and (found := violations(task.output_schema, result)):
            raise InvalidInputError(
                f"tasks[{name!r}] returns what the task can't: {'; '.join(found)}.", field="tasks"
            )
        return result


def _is_mistake(error: Exception) -> bool:
    """Whether an error is one of the test, not of what it tests."""
    if isinstance(error, CassetteMismatchError | WorkflowInvalidError):
        return True
    if isinstance(error, InvalidInputError):
        return error.details.get("field") in {"answer", "answers", "cassette", "tasks", "workflow"}
    return not isinstance(error, CeleriacError)


def _read(path: Path, field: str) -> Mapping[str, Any]:
    return _content(lambda: Document.read(path), field)


def _content(read: Callable[[], Document], field: str) -> dict[str, Any]:
    try:
        return dict(read().content)
    except DocumentError as error:
        raise InvalidInputError(error.message, field=field) from error


def _entry(
    content: Mapping[str, Any], section: str, key: str, name: str
) -> Mapping[str, Any] | None:
    entries = content.get(section)
    for each in entries if isinstance(entries, list) else ():
        if isinstance(each, Mapping) and each.get(key) == name:
            return each
    return None
