"""Reads documents of workflows from files and modules, and draws their graphs."""

import importlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from celeriac.cli.core.arguments import STDIN, read_text
from celeriac.cli.core.output import CommandError, ExitCode, UsageProblemError, duration, short
from celeriac.domain.workflows.builder import Workflow as BuiltWorkflow
from celeriac.domain.workflows.document import MAX_BYTES, Workflow, check
from celeriac.domain.workflows.graph import Graph
from celeriac.domain.workflows.model import DEFAULT_HARD_SECONDS, RunOn, Step, StepFailure, StepKind
from celeriac.domain.workflows.validation import Fault
from celeriac.kit.words import counted
from celeriac.kit.yaml_text import ReadText
from celeriac.kit.yaml_text import read_text as read_yaml

_LONG = 60
_ANY_NAME = "workflow"
_NOT_OF_SPEC = ("workflow", "description")


@dataclass(frozen=True, slots=True)
class FaultInFile:
    """A fault and its place; lines and columns count from 1, and are None without a file."""

    file: str
    line: int | None
    column: int | None
    workflow: str | None
    step: str | None
    field: str
    message: str

    @property
    def shown(self) -> str:
        """The fault on one line."""
        place = self.file if self.line is None else f"{self.file}:{self.line}:{self.column}"
        inner = self.field
        if self.step is not None:
            below = inner.split(".")[2:]
            inner = ", ".join([f"step {self.step}", *([".".join(below)] if below else [])])
        return ": ".join([place, *([inner] if inner else []), self.message])


@dataclass(frozen=True, slots=True)
class Checked:
    """A document: its workflow, or its faults."""

    workflow: Workflow | None
    faults: list[FaultInFile] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Source:
    file: str
    value: Any
    read: ReadText | None = None
    """Knows the places; None if a module has built the value."""


def documents(given: str) -> Iterator[Checked]:
    """Yield the documents of a file, of standard input, or of MODULE:NAME.

    Raises UsageProblemError if there is nothing to read.
    """
    source = _source(given)
    if faults := _unreadable(source):
        yield Checked(None, faults)
    elif (entries := _entries(source.value)) is not None:
        for index, entry in enumerate(entries):
            yield _checked(source, entry, ("workflows", index))
    else:
        yield _checked(source, source.value, ())


def specification(given: str, name: str | None) -> tuple[dict[str, Any], str | None]:
    """Return the specification of a document, and its description, None without one.

    `given` is as for `documents`. The document may leave out its name; None accepts any. Raises
    UsageProblemError for another name, and CommandError for faults.
    """
    source = _source(given)
    if faults := _unreadable(source):
        raise faulty(faults)
    if _entries(source.value) is not None:
        raise UsageProblemError(
            f"{source.file} has a list of workflows.",
            cure=f"`celeriac apply -f {given}` creates and changes all of them.",
        )
    document = source.value
    if isinstance(document, dict):
        document = {"workflow": name or _ANY_NAME, **document}
    checked = _checked(source, document, ())
    if checked.workflow is None:
        raise faulty(checked.faults)
    if name is not None and checked.workflow.name != name:
        raise UsageProblemError(
            f"{source.file} is the workflow {checked.workflow.name}, not {name}.",
            cure="Give the same name, or leave out the field workflow.",
        )
    spec = {field: value for field, value in document.items() if field not in _NOT_OF_SPEC}
    return spec, document.get("description")


def faulty(faults: Sequence[FaultInFile]) -> CommandError:
    """Return the error that lists faults."""
    lines = "\n".join(f"  {fault.shown}" for fault in faults)
    return CommandError(
        f"There are faults.\n{lines}", exit_code=ExitCode.USAGE, problem="workflow_invalid"
    )


def _source(given: str) -> _Source:
    module, colon, name = given.rpartition(":")
    if colon and not Path(given).exists() and all(map(str.isidentifier, module.split("."))):
        return _Source(given, _built(module, name).to_dict())
    if given.endswith(".py"):
        raise UsageProblemError(
            f"{given} is a program, and isn't run.",
            cure=f"Name a workflow that it builds: {Path(given).stem}:NAME.",
        )
    text = read_text(given)
    file = "(standard input)" if given == STDIN else given
    if len(text) > MAX_BYTES:
        raise UsageProblemError(f"{file} has more than {MAX_BYTES:,} characters; split it.")
    read = read_yaml(text, file)
    return _Source(file, read.value, read)


def _unreadable(source: _Source) -> list[FaultInFile]:
    found = () if source.read is None else source.read.faults
    return [
        FaultInFile(source.file, place.line, place.column, None, None, "", message)
        for place, message in found
    ]


def _entries(value: Any) -> list[Any] | None:
    """Return the workflows of a file for `celeriac apply`; None if it is none."""
    entries = value.get("workflows") if isinstance(value, dict) else None
    return entries if isinstance(entries, list) and "workflow" not in value else None


def _checked(source: _Source, document: Any, before: tuple[str | int, ...]) -> Checked:
    workflow, faults = check(document)
    name = document.get("workflow") if isinstance(document, dict) else None
    named = name if isinstance(name, str) else None
    return Checked(workflow, [_placed(source, fault, before, named) for fault in faults])


def _placed(
    source: _Source, fault: Fault, before: tuple[str | int, ...], name: str | None
) -> FaultInFile:
    read = source.read
    place = read.place((*before, *fault.path), fault.offset) if read is not None else None
    line, column = (None, None) if place is None else (place.line, place.column)
    return FaultInFile(source.file, line, column, name, fault.step, fault.field, fault.message)


def _built(module: str, name: str) -> BuiltWorkflow:
    if (directory := str(Path.cwd())) not in sys.path:
        sys.path.append(directory)
    try:
        found = getattr(importlib.import_module(module), name)
    except AttributeError:
        raise UsageProblemError(f"The module {module} has no {name}.") from None
    except (Exception, SystemExit) as error:
        raise UsageProblemError(
            f"The module {module} can't be imported: {type(error).__name__}: {error}.",
            cure="Run the command in a directory from which the module can be imported.",
        ) from error
    if not isinstance(found, BuiltWorkflow):
        raise UsageProblemError(f"{module}:{name} is no celeriac.Workflow.")
    return found


def described(workflow: Workflow) -> dict[str, Any]:
    """Return a workflow with its graph, for programs."""
    graph = Graph.of(workflow.spec)
    return {
        "name": workflow.name,
        "levels": graph.levels,
        "needs": graph.needs,
        "spec": workflow.spec.model_dump(mode="json", exclude_defaults=True),
    }


def drawn(workflow: Workflow) -> str:
    """Return a workflow's graph as text: a block for each level, a line for each step."""
    graph = Graph.of(workflow.spec)
    steps = workflow.spec.steps
    lines = [f"{workflow.name}: {counted(len(steps), 'step')}, {_levels(graph)}"]
    given = ", ".join(workflow.spec.input.get("properties", {}))
    lines += [f"input: {given}"] if given else []
    lines += [
        f"limit: {counted(limit.max, 'run')} for each {short(limit.key, _LONG)}; "
        f"policy: {limit.policy.value}"
        for limit in workflow.spec.limits
    ]
    width = max(map(len, steps))
    for number, level in enumerate(graph.levels, 1):
        for index, id_ in enumerate(level):
            mark = f"{number}." if index == 0 else ""
            lines.append(f"{mark:>4} {id_:<{width}}  {'; '.join(_words(graph, id_))}".rstrip())
    return "\n".join(lines)


def _levels(graph: Graph) -> str:
    widest = max(map(len, graph.levels))
    deep = counted(len(graph.levels), "level")
    return deep if widest == 1 else f"{deep}, up to {widest} at a time"


def _words(graph: Graph, id_: str) -> Iterator[str]:
    step = graph.steps[id_]
    yield {
        StepKind.TASK: f"task {step.target}",
        StepKind.WORKFLOW: f"workflow {step.target}",
        StepKind.APPROVE: f"approve {short(step.target, _LONG)!r}",
    }[step.kind]
    if graph.needs[id_]:
        yield f"needs {', '.join(graph.needs[id_])}"
    if step.when is not None:
        yield f"when {short(step.when, _LONG)}"
    yield from _runs(step)


def _runs(step: Step) -> Iterator[str]:
    if step.map is not None:
        parallel = f", {step.parallel} at a time" if step.parallel else ""
        yield f"for each of {short(step.map, _LONG)}{parallel}"
    if step.repeat is not None:
        rounds = counted(step.repeat.max, "round")
        yield f"until {short(step.repeat.until, _LONG)}, at most {rounds}"
    if step.run is not RunOn.SUCCESS:
        yield f"run: {step.run.value}"
    if step.on_failure is StepFailure.CONTINUE:
        yield "on failure: continue"
    if step.undo is not None:
        yield f"undo {step.undo.task}"
    if step.kind is StepKind.TASK and step.timeout.hard != DEFAULT_HARD_SECONDS:
        yield f"timeout {duration(step.timeout.hard)}"
