"""Documents of workflows: the name, the description and the specification in one object.

`check` takes any JSON value. It never fails on the content: what is wrong is a list of faults.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import Any, Final

from pydantic import Field, TypeAdapter, ValidationError

from celeriac.domain.base import Name
from celeriac.domain.errors import WorkflowInvalidError
from celeriac.domain.workflows.model import MAX_STEPS, Step, StepId, WorkflowSpec
from celeriac.domain.workflows.validation import Catalog, Fault, Path, spec_faults
from celeriac.kit.json_types import MAX_DEPTH, JsonObject, JsonValue, storable
from celeriac.kit.text import clip
from celeriac.kit.words import counted

MAX_BYTES: Final = 256_000
"""Limit of a document as JSON, and as a file."""

MAX_FAULTS: Final = 100

_MOST = 2 * MAX_FAULTS
_SHOWN = 60
_STAND_IN = {"steps": {"x": {"task": "x"}}}


class WorkflowDocument(WorkflowSpec):
    """A workflow as it is written, in YAML or JSON (docs/workflows.md)."""

    workflow: Name
    """The name of the workflow."""
    description: str = Field(default="", max_length=2_000)


@dataclass(frozen=True, slots=True)
class Workflow:
    """A valid document."""

    name: str
    description: str
    spec: WorkflowSpec


def parse(document: JsonValue, catalog: Catalog | None = None) -> Workflow:
    """Return a valid document's workflow. Raises WorkflowInvalidError with all faults.

    With a `catalog` the steps are also checked against the tasks and workflows that they run.
    """
    workflow, faults = check(document, catalog)
    if workflow is None:
        raise invalid(faults)
    return workflow


def invalid(faults: Sequence[Fault]) -> WorkflowInvalidError:
    """Return the error of a document with these faults."""
    return WorkflowInvalidError([(fault.field, fault.message) for fault in faults])


def check(
    document: JsonValue, catalog: Catalog | None = None
) -> tuple[Workflow | None, list[Fault]]:
    """Return the workflow of a document, or None and all its faults, at most `MAX_FAULTS`."""
    if not isinstance(document, Mapping):
        return None, [Fault((), "a workflow must be an object with workflow and steps")]
    if unstorable := _unstorable(document):
        return None, [unstorable]
    # finding the nearest name of each of thousands of faults would take long
    faults = list(islice(_shape_faults(document), _MOST))
    steps = _valid_steps(document)
    rest = _valid_rest(document)
    written = document.get("steps")
    ids = [*written] if isinstance(written, Mapping) else []
    if steps and rest is not None and len(ids) <= MAX_STEPS:
        spec = rest.model_copy(update={"steps": steps})
        faults += islice(spec_faults(spec, known=frozenset(ids), catalog=catalog), _MOST)
    if faults:
        return None, _bounded(_in_order(faults, document))
    whole = WorkflowDocument.model_validate(document)
    values = {name: getattr(whole, name) for name in WorkflowSpec.model_fields}
    spec = WorkflowSpec.model_construct(_fields_set=None, **values)
    return Workflow(whole.workflow, whole.description, spec), []


def _unstorable(document: JsonObject) -> Fault | None:
    try:
        size = len(storable(document, depth=MAX_DEPTH).encode())
    except (TypeError, ValueError, RecursionError) as error:
        return Fault((), f"it can't be stored: {clip(str(error), 200)}")
    if size > MAX_BYTES:
        return Fault((), f"it has {counted(size, 'byte')} as JSON; the limit is {MAX_BYTES:,}")
    return None


def _shape_faults(document: JsonObject) -> Iterator[Fault]:
    if "order" in document:
        yield Fault(("order",), "there is no field order: steps are shown as they are written")
    yield from _faults(WorkflowDocument, {**document, **_STAND_IN}, ())
    steps = document.get("steps")
    if not isinstance(steps, Mapping):
        yield Fault(("steps",), "there must be an object of steps, each with its id as its name")
        return
    if not steps:
        yield Fault(("steps",), "there must be at least one step")
    if len(steps) > MAX_STEPS:
        yield Fault(
            ("steps",),
            f"there are {counted(len(steps), 'step')}; the limit is {MAX_STEPS}: move some to a "
            "workflow of their own",
        )
        return
    for id_, step in steps.items():
        for fault in _faults(_STEP_ID, id_, ()):
            yield Fault(("steps", id_), f"this can't be the id of a step: {fault.message}")
        yield from _faults(Step, step, ("steps", id_))


_STEP_ID = TypeAdapter[str](StepId)


_DECISIVE = frozenset({"task", "workflow", "approve", "map", "repeat", "run"})
"""Fields on which the other faults of a step depend."""


def _valid_steps(document: JsonObject) -> dict[str, Step]:
    """Return the steps without the fields that are wrong, as far as the rest has a meaning."""
    steps = document.get("steps")
    found: dict[str, Step] = {}
    for id_, step in steps.items() if isinstance(steps, Mapping) else ():
        wrong = {fault.path[0] if fault.path else "task" for fault in _faults(Step, step, ())}
        if wrong & _DECISIVE or any(True for _ in _faults(_STEP_ID, id_, ())):
            continue
        read = Step.model_validate({name: step[name] for name in step if name not in wrong})
        if read.target or not wrong:
            found[id_] = read
    return found


def _valid_rest(document: JsonObject) -> WorkflowSpec | None:
    """Return the document without its steps, and without the fields that are wrong."""
    known = {
        name: document[name]
        for name in WorkflowSpec.model_fields
        if name in document and name != "steps"
    }
    for wrong in [name for name in known if _is_wrong(name, known[name])]:
        del known[wrong]
    try:
        return WorkflowSpec.model_validate({**known, **_STAND_IN})
    except ValidationError:
        return None


def _is_wrong(name: str, value: JsonValue) -> bool:
    return any(True for _ in _faults(WorkflowSpec, {name: value, **_STAND_IN}, ()))


def _faults(
    kind: type[WorkflowSpec | Step] | TypeAdapter[str], value: Any, at: Path
) -> Iterator[Fault]:
    try:
        if isinstance(kind, TypeAdapter):
            kind.validate_python(value)
        else:
            kind.model_validate(value)
    except ValidationError as error:
        known = () if isinstance(kind, TypeAdapter) else _names(kind)
        for each in error.errors(include_url=False, include_input=False):
            yield Fault(
                (*at, *(part for part in each["loc"] if part != "[key]")), _said(each, known)
            )


def _names(kind: type[WorkflowSpec | Step]) -> tuple[str, ...]:
    return tuple(field.alias or name for name, field in kind.model_fields.items())


def _said(error: Any, names: Sequence[str]) -> str:
    kind, loc = error["type"], error["loc"]
    if kind == "extra_forbidden":
        name = str(loc[-1])
        near = get_close_matches(name, names, 1) if len(loc) == 1 else []
        cure = f"did you mean {near[0]}?" if near else "remove it"
        if len(loc) == 1 and not near:
            cure = f"there are {', '.join(names)}"
        return f"there is no field {clip(name, _SHOWN)}: {cure}"
    if kind == "missing":
        return "it is missing: add it"
    if kind == "model_type":
        return "it must be an object with fields"
    message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = message.replace("Input should be", "it must be")
    if kind == "string_type":
        message += "; put it in quotes if it is one"
    return message


def _in_order(faults: Sequence[Fault], document: JsonObject) -> list[Fault]:
    """Return the faults in the order of the document's parts."""
    top = {name: index for index, name in enumerate(document)}
    steps = document.get("steps")
    below = {name: index for index, name in enumerate(steps)} if isinstance(steps, Mapping) else {}

    def place(fault: Fault) -> tuple[int, int]:
        first = top.get(str(fault.path[0]), len(top)) if fault.path else -1
        second = below.get(fault.path[1], 0) if len(fault.path) > 1 else -1
        return first, second if fault.path[:1] == ("steps",) else 0

    return sorted(faults, key=place)


def _bounded(faults: list[Fault]) -> list[Fault]:
    unique = list(dict.fromkeys(faults))
    if len(unique) <= MAX_FAULTS:
        return unique
    return [*unique[: MAX_FAULTS - 1], Fault((), "there are more faults: correct these first")]
