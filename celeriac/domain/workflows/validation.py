"""What must hold between the fields and steps of a specification. All faults are found, not one."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Final

from celeriac.domain.errors import SchemaInvalidError
from celeriac.domain.expressions import ExpressionSyntaxError
from celeriac.domain.expressions.templates import text_template, texts_of
from celeriac.domain.expressions.tokens import RESERVED, WORDS
from celeriac.domain.schemas import check_schema, validate
from celeriac.domain.workflows.graph import Graph, needs_of
from celeriac.domain.workflows.model import Step, StepKind, WorkflowSpec
from celeriac.domain.workflows.references import (
    Place,
    Sources,
    expression_faults,
    template_faults,
)
from celeriac.domain.workflows.undo import VARIABLES
from celeriac.kit.json_types import JsonObject, JsonValue
from celeriac.kit.text import clip

Path = tuple[str | int, ...]
"""The place of a field in a document, such as `("steps", "draft", "when")`."""

_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a document; the message names the cure."""

    path: Path
    message: str
    offset: int | None = None
    """Of the fault in the text of the field, from 0."""

    @property
    def field(self) -> str:
        """The place as a dotted path, such as `steps.draft.when`; empty for the whole."""
        return ".".join(map(str, self.path))

    @property
    def step(self) -> str | None:
        """The id of its step, if it is in one."""
        return str(self.path[1]) if len(self.path) > 1 and self.path[0] == "steps" else None

    def __str__(self) -> str:
        if self.step is None:
            return f"{self.field}: {self.message}" if self.path else self.message
        rest = ".".join(map(str, self.path[2:]))
        return f"step {self.step}{f', {rest}' if rest else ''}: {self.message}"


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """What is known of a task."""

    variables_schema: JsonObject = field(default_factory=dict)
    output_schema: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class Catalog:
    """The tasks and workflows that steps may run, by name.

    It needs to hold only those that the document names (`targets`), where they exist.
    """

    tasks: Mapping[str, TaskFacts]
    workflows: Mapping[str, JsonObject]
    """Input schemas."""


@dataclass(frozen=True, slots=True)
class Targets:
    """The names of the tasks and workflows that a specification runs."""

    tasks: frozenset[str]
    workflows: frozenset[str]


def targets(spec: WorkflowSpec) -> Targets:
    """Return the names of the tasks, undo tasks included, and of the workflows of all steps."""
    steps = spec.steps.values()
    undo = {step.undo.task for step in steps if step.undo is not None}
    return Targets(
        frozenset({step.task for step in steps if step.task is not None} | undo),
        frozenset(step.workflow for step in steps if step.workflow is not None),
    )


def spec_faults(
    spec: WorkflowSpec, *, known: Collection[str], catalog: Catalog | None = None
) -> Iterator[Fault]:
    """Yield the faults between the fields and steps of a specification.

    `known` are the ids of all steps of the document, also of those that `spec` leaves out because
    their own fields are wrong.
    """
    yield from _input_faults(spec.input)
    sources = Sources(spec, known, _results(spec, catalog))
    for id_, step in spec.steps.items():
        at: Path = ("steps", id_)
        yield from _step_faults(at, id_, step)
        yield from _need_faults(at, id_, step, spec, known)
        for path, place, text in _expressions(step):
            yield from _at((*at, *path), expression_faults(text, place, sources, step=id_))
        for path, place, value in _templates(step):
            yield from _template_faults((*at, *path), value, place, sources, id_)
        if catalog is not None:
            yield from _target_faults(at, step, catalog)
    for index, limit in enumerate(spec.limits):
        found = expression_faults(limit.key, Place.LIMIT, sources)
        yield from _at(("limits", index, "key"), found)
    yield from _template_faults(("returns",), spec.returns, Place.TEMPLATE, sources, None)
    yield from _cycle_faults(spec)


def _at(path: Path, faults: Iterable[tuple[int, str]]) -> Iterator[Fault]:
    for offset, message in faults:
        yield Fault(path, message, offset)


def _results(spec: WorkflowSpec, catalog: Catalog | None) -> Mapping[str, JsonObject]:
    """Return the output schemas of the steps whose tasks have one."""
    if catalog is None:
        return {}
    facts = {id_: catalog.tasks.get(step.task or "") for id_, step in spec.steps.items()}
    return {
        id_: found.output_schema
        for id_, found in facts.items()
        if found is not None and found.output_schema is not None
    }


def _expressions(step: Step) -> Iterator[tuple[Path, Place, str]]:
    if step.when is not None:
        yield ("when",), Place.WHEN, step.when
    if step.map is not None:
        yield ("map",), Place.MAP, step.map
    if step.key is not None:
        yield ("key",), Place.KEY, step.key
    if step.repeat is not None:
        yield ("repeat", "until"), Place.UNTIL, step.repeat.until


def _templates(step: Step) -> Iterator[tuple[Path, Place, JsonValue]]:
    place = Place.TEMPLATE
    if step.map is not None:
        place = Place.WITH_OF_MAP
    elif step.repeat is not None:
        place = Place.WITH_OF_REPEAT
    yield ("with",), place, step.with_
    yield ("show",), Place.TEMPLATE, step.show


def _template_faults(
    at: Path, value: JsonValue, place: Place, sources: Sources, step: str | None
) -> Iterator[Fault]:
    for path, text in texts_of(value):
        try:
            template = text_template(text)
        except ExpressionSyntaxError as error:
            yield Fault((*at, *path), error.message, error.offset)
            continue
        for piece in template.pieces:
            found = template_faults(piece.expression, place, sources, step=step)
            yield from _at((*at, *path), ((piece.offset + at_, said) for at_, said in found))


def _input_faults(schema: JsonObject) -> Iterator[Fault]:
    try:
        check_schema(schema, field="input")
    except SchemaInvalidError as error:
        yield Fault(("input",), error.message)
        return
    if schema.get("type", "object") != "object":
        yield Fault(("input",), "the input of a run is an object: write type: object")
    properties = schema.get("properties")
    for name, part in properties.items() if isinstance(properties, Mapping) else ():
        if isinstance(part, Mapping) and "default" in part:
            faults = validate(part, part["default"]) if "$ref" not in str(part) else []
            if isinstance(faults, list) and faults:
                yield Fault(("input", name), f"its default doesn't fit: {faults[0].message}")


# One step

_OF_APPROVALS = ("show", "expires", "on_expiry", "on_denial")
_OF_MAPS = ("key", "parallel", "max_failures")
_NOT_OF: Final = {
    StepKind.TASK: _OF_APPROVALS,
    StepKind.WORKFLOW: (*_OF_APPROVALS, "retry", "timeout", "queue"),
    StepKind.APPROVE: (
        "with_", "map", *_OF_MAPS, "repeat", "undo", "retry", "timeout", "priority", "queue",
    ),
}  # fmt: skip
_WHY: Final = {
    StepKind.TASK: "it belongs to a step with approve",
    StepKind.WORKFLOW: "give it to the steps of that workflow",
    StepKind.APPROVE: "an approval runs nothing: remove it",
}


def _step_faults(at: Path, id_: str, step: Step) -> Iterator[Fault]:
    if id_ in RESERVED | WORDS:
        yield Fault(at, f"{id_} is a word of CEL: choose another id")
    kinds = [name for name in ("task", "workflow", "approve") if getattr(step, name) is not None]
    if len(kinds) != 1:
        yield Fault(at, "a step has exactly one of task, workflow and approve"
                    + (f", not {' and '.join(kinds)}" if kinds else ": add one"))  # fmt: skip
        return
    given = step.model_fields_set
    for name in _NOT_OF[step.kind]:
        if name in given:
            why = _WHY[step.kind]
            if step.kind is StepKind.WORKFLOW and name in _OF_APPROVALS:
                why = _WHY[StepKind.TASK]
            yield Fault((*at, name.rstrip("_")), f"a step with {step.kind} can't have it; {why}")
    if step.approve is not None and "${{" in step.approve:
        yield Fault(
            (*at, "approve"),
            "the question is shown as it is written: it can't have expressions; put the values "
            "that the person needs into show",
        )
    if step.kind is not StepKind.APPROVE:
        yield from _run_faults(at, step)
    if step.timeout.soft > step.timeout.hard:
        yield Fault(
            (*at, "timeout"), "soft must not be more than hard: lower it, or raise the hard limit"
        )


def _run_faults(at: Path, step: Step) -> Iterator[Fault]:
    """Yield the faults of how a step runs."""
    given = step.model_fields_set
    if step.map is None:
        for name in _OF_MAPS:
            if name in given:
                yield Fault((*at, name), "only a map has it: add map, or remove it")
    elif step.repeat is not None:
        yield Fault(
            (*at, "repeat"),
            "a map can't be repeated: move the repeat to a workflow, and map over that",
        )
    if step.undo is not None and step.is_last:
        yield Fault((*at, "undo"), f"a step with run: {step.run} isn't undone; remove undo, or run")


def _need_faults(
    at: Path, id_: str, step: Step, spec: WorkflowSpec, known: Collection[str]
) -> Iterator[Fault]:
    for index, need in enumerate(step.needs):
        place = (*at, "needs", index)
        if need == id_:
            yield Fault(place, "a step can't need itself; remove it")
        elif need not in known:
            yield Fault(place, f"there is no step {need}{_near(need, known)}")
        elif step.needs.index(need) != index:
            yield Fault(place, f"{need} is there twice; remove one of them")
    if not step.is_last:
        for need in needs_of(step):
            other = spec.steps.get(need)
            if other is not None and other.is_last and need != id_:
                yield Fault(
                    at,
                    f"it needs {need}, which runs after all ordinary steps (run: {other.run}); "
                    f"give it the same run, or remove that of {need}",
                )


def _near(name: str, known: Collection[str]) -> str:
    near = get_close_matches(name, known, 1)
    return f"; did you mean {near[0]}?" if near else ""


def _cycle_faults(spec: WorkflowSpec) -> Iterator[Fault]:
    # a step that names itself has a fault already
    graph = Graph.of(spec)
    others = {id_: tuple(n for n in needs if n != id_) for id_, needs in graph.needs.items()}
    cycle = Graph(spec.steps, others).cycle()
    if cycle is not None:
        yield Fault(
            ("steps", cycle[0]),
            f"the steps wait for each other: {clip(' → '.join(cycle), 1_000)}; remove one of these "
            "needs or references",
        )


# Tasks and workflows


def _target_faults(at: Path, step: Step, catalog: Catalog) -> Iterator[Fault]:
    if step.undo is not None:
        yield from _undo_faults((*at, "undo", "task"), step.undo.task, catalog)
    if step.task is not None:
        facts = catalog.tasks.get(step.task)
        if facts is None:
            yield Fault((*at, "task"), _missing("task", step.task, catalog.tasks))
        else:
            yield from _variable_faults(at, step, facts.variables_schema, f"task {step.task}")
    elif step.workflow is not None:
        schema = catalog.workflows.get(step.workflow)
        if schema is None:
            yield Fault((*at, "workflow"), _missing("workflow", step.workflow, catalog.workflows))
        else:
            yield from _variable_faults(at, step, schema, f"workflow {step.workflow}")


def _undo_faults(at: Path, task: str, catalog: Catalog) -> Iterator[Fault]:
    """Yield why a task can't undo a step: its variables are given."""
    facts = catalog.tasks.get(task)
    if facts is None:
        yield Fault(at, _missing("task", task, catalog.tasks))
        return
    schema = facts.variables_schema
    takes = f"an undo task gets the variables {', '.join(VARIABLES)}"
    for name in needed(schema):
        if name not in VARIABLES:
            yield Fault(
                at, f"{takes}; the task {task} needs {clip(name, _SHOWN)}: give it a default"
            )
    missing = [name for name in VARIABLES if name not in _parts(schema)]
    if _closed(schema) and missing:
        yield Fault(
            at, f"{takes}; the schema of the task {task} has no {', '.join(missing)}: add it there"
        )


def _parts(schema: JsonObject) -> JsonObject:
    properties = schema.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def needed(schema: JsonObject) -> Iterator[str]:
    """Yield the variables that a schema requires, and gives no default."""
    parts, required = _parts(schema), schema.get("required")
    for name in required if isinstance(required, list) else ():
        part = parts.get(name)
        if not (isinstance(part, Mapping) and "default" in part):
            yield name


def _closed(schema: JsonObject) -> bool:
    return schema.get("additionalProperties") is False and "patternProperties" not in schema


def _missing(kind: str, name: str, known: Collection[str]) -> str:
    return f"there is no {kind} {name}{_near(name, known)}"


def _variable_faults(at: Path, step: Step, schema: JsonObject, whose: str) -> Iterator[Fault]:
    """Yield what a `with` lacks, has too much, or has wrong, as far as it is known without data."""
    for name in needed(schema):
        if name not in step.with_:
            yield Fault((*at, "with"), f"the {whose} needs {name}: add it to with")
    yield from value_faults((*at, "with"), step.with_, schema, whose)


def value_faults(at: Path, values: JsonObject, schema: JsonObject, whose: str) -> Iterator[Fault]:
    """Yield which values a schema does not have, and which constant ones don't fit it."""
    parts = _parts(schema)
    for name, value in values.items():
        part = parts.get(name)
        if part is None and _closed(schema):
            cure = _near(name, parts) or "; remove it"
            yield Fault((*at, name), f"the {whose} has no {clip(name, _SHOWN)}{cure}")
        elif isinstance(part, Mapping) and not any(True for _ in texts_of(value)):
            yield from _constant_faults((*at, name), part, value, whose)


def _constant_faults(at: Path, part: JsonObject, value: JsonValue, whose: str) -> Iterator[Fault]:
    if "$ref" in str(part):
        return  # it refers to another place of the whole schema
    try:
        faults = validate(part, value)
    except SchemaInvalidError:
        return
    if isinstance(faults, list):
        for fault in faults[:3]:
            yield Fault(at, f"it doesn't fit the {whose}: {fault}")
