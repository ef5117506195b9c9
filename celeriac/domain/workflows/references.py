"""What expressions may refer to, by the place where they are written."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from typing import Final

from celeriac.domain.expressions import (
    Expression,
    ExpressionSyntaxError,
    Reference,
    compiled,
)
from celeriac.domain.limits import RUN_KEY_FIELDS
from celeriac.domain.schemas.fields import schema_lacks
from celeriac.domain.workflows.model import WorkflowSpec
from celeriac.kit.json_types import JsonObject
from celeriac.kit.text import clip

ROOTS: Final = ("input", "steps", "run", "item", "index", "result")
STEP_FIELDS: Final = ("status", "result", "results", "errors", "error")
RUN_FIELDS: Final = (
    "id", "workflow", "version", "owner", "workspace", "created_at", "status", "error", "schedule",
)  # fmt: skip
_SHOWN = 60


class Place(Enum):
    """Where an expression is, with the roots that have values there and the kinds it may give."""

    WHEN = ("input steps run", "bool")
    MAP = ("input steps run", "list")
    KEY = ("input steps run item index", "string number")
    UNTIL = ("input steps run index result", "bool")
    TEMPLATE = ("input steps run", "")
    WITH_OF_MAP = ("input steps run item index", "")
    WITH_OF_REPEAT = ("input steps run index result", "")
    LIMIT = ("input run", "string number")

    @property
    def roots(self) -> frozenset[str]:
        """The roots that have values."""
        return frozenset(self.value[0].split())

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of value that are wanted; none: all."""
        return tuple(self.value[1].split())


_WANTED: Final = {
    ("bool",): "a condition must give true or false: write a comparison",
    ("list",): "map needs a list",
    ("string", "number"): "a key must be a text or a number",
}
_CURES: Final = {
    "item": "only with and key of a step with map have items",
    "index": "only with and key of a map, and with and until of a repeat have it",
    "result": "only until and with of a repeat have it; write steps.ID.result",
    "steps": "no step has run yet; use input and run",
}


@dataclass(frozen=True, slots=True)
class Sources:
    """What there is to refer to."""

    spec: WorkflowSpec
    known: Collection[str]
    """The ids of all steps, also of those that are left out of `spec`."""
    results: Mapping[str, JsonObject]
    """The output schemas of steps, where they are known."""


def expression_faults(
    text: str, place: Place, sources: Sources, *, step: str | None = None
) -> Iterator[tuple[int, str]]:
    """Yield the offset and the message of each fault of an expression in a step."""
    if text.lstrip().startswith("${{"):
        yield 0, "this field is an expression: write it without ${{ }}"
        return
    try:
        expression = compiled(text)
    except ExpressionSyntaxError as error:
        yield error.offset, error.message
        return
    if place.kinds and expression.kind not in {None, *place.kinds}:
        yield 0, _WANTED[place.kinds]
    elif place is Place.WHEN and text.strip() == "false":
        yield 0, "the step never runs; remove it"
    yield from template_faults(expression, place, sources, step=step)


def template_faults(
    expression: Expression, place: Place, sources: Sources, *, step: str | None = None
) -> Iterator[tuple[int, str]]:
    """Yield the offset and the message of each reference of an expression that can't be right."""
    for reference in expression.references:
        message = _fault(reference, place, sources, step)
        if message is not None:
            yield reference.offset, message


def _fault(reference: Reference, place: Place, sources: Sources, step: str | None) -> str | None:
    root, rest = reference.path[0], reference.path[1:]
    if root not in ROOTS:
        return _unknown(root, place, sources)
    if root not in place.roots:
        return f"{root} has no value here: {_CURES[root]}"
    match root:
        case "input":
            return schema_lacks(sources.spec.input, rest, "the input")
        case "run":
            return _run_fault(rest, RUN_KEY_FIELDS if place is Place.LIMIT else RUN_FIELDS)
        case "steps":
            return _step_fault(rest, sources, step)
    return None


def _unknown(root: str, place: Place, sources: Sources) -> str:
    near = get_close_matches(root, [*sources.known, *ROOTS], 1)
    if near and near[0] in sources.known:
        return f"there is no {clip(root, _SHOWN)}; write steps.{near[0]}.result"
    cure = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(place.roots))}"
    return f"there is no {clip(root, _SHOWN)}; {cure}"


def _run_fault(path: tuple[str, ...], fields: Sequence[str]) -> str | None:
    if path and path[0] in fields:
        return None
    if path and path[0] in RUN_FIELDS:
        return f"run.{path[0]} is no key for a limit; there are {', '.join(fields)}"
    what = f"run has no {clip(path[0], _SHOWN)}" if path else "name a field of run"
    near = get_close_matches(path[0], fields, 1) if path else []
    return f"{what}; did you mean {near[0]}?" if near else f"{what}: {', '.join(fields)}"


def _step_fault(path: tuple[str, ...], sources: Sources, step: str | None) -> str | None:
    if not path:
        return "name the step: write steps.ID.result"
    id_, rest = path[0], path[1:]
    if id_ == step:
        return "a step can't refer to itself; in a repeat, write result for that of the last round"
    if id_ not in sources.known:
        near = get_close_matches(id_, sources.known, 1)
        return f"there is no step {clip(id_, _SHOWN)}" + (
            f"; did you mean {near[0]}?" if near else ""
        )
    return _field_fault(id_, rest, sources)


def _field_fault(id_: str, path: tuple[str, ...], sources: Sources) -> str | None:
    other = sources.spec.steps.get(id_)
    if not path or path[0] not in STEP_FIELDS:
        what = f"a step has no {clip(path[0], _SHOWN)}" if path else "name what of the step"
        wanted = "results" if other is not None and other.map is not None else "result"
        return f"{what}: write steps.{id_}.{wanted}, or one of {', '.join(STEP_FIELDS)}"
    if other is None:
        return None
    name = path[0]
    if other.map is not None and name in {"result", "error"}:
        return f"{id_} is a map: write steps.{id_}.{name}s, a list"
    if other.map is None and name in {"results", "errors"}:
        return f"{id_} is no map: write steps.{id_}.{name.removesuffix('s')}"
    if name == "result" and id_ in sources.results:
        return schema_lacks(sources.results[id_], path[1:], f"the result of {id_}")
    return None
