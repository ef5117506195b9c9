"""Steps of a workflow that is built in Python."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Union

from celeriac.domain.workflows.builder.terms import Term, owner_of, written
from celeriac.domain.workflows.model import Step
from celeriac.kit.json_types import JsonValue

if TYPE_CHECKING:
    from celeriac.domain.workflows.builder import Workflow

_OWN: Final = frozenset({"task", "workflow", "approve", "with", "needs", "show", "undo", "repeat"})
_SETTABLE: Final = tuple(
    name for name in (field.alias or key for key, field in Step.model_fields.items())
    if name not in _OWN
)  # fmt: skip
_EXPRESSIONS: Final = frozenset({"when", "map", "key"})


class BuiltStep:
    """A step; its outcome in the run is there as terms: result, results, errors, error, status."""

    def __init__(self, workflow: "Workflow", id_: str, fields: dict[str, Any]) -> None:
        """`fields` are those of the document, with terms in the places of expressions."""
        self._workflow = workflow
        self._fields = fields
        self._after: list[str] = []
        self.id: Final = id_

    @property
    def result(self) -> Term:
        """What the step returned; null if it was skipped or failed."""
        return self._term("result")

    @property
    def results(self) -> Term:
        """What each item of a map returned, in the order of the items."""
        return self._term("results")

    @property
    def errors(self) -> Term:
        """The errors of a map's failed items."""
        return self._term("errors")

    @property
    def error(self) -> Term:
        """The error of a failed step, else null."""
        return self._term("error")

    @property
    def status(self) -> Term:
        """The status as a text, such as `completed`."""
        return self._term("status")

    def _term(self, name: str) -> Term:
        return Term(f"steps.{self.id}.{name}", owner=self._workflow)

    def when(self, condition: Term | str) -> "BuiltStep":
        """Skip the step if the condition is false when it is ready."""
        self._fields["when"] = condition
        return self

    def over(self, items: Term | str | Sequence[Any]) -> "BuiltStep":
        """Run the step once for each item of a list; `w.item` and `w.index` are in `with`."""
        self._fields["map"] = items
        return self

    def repeat(self, *, until: Term | str, max: int) -> "BuiltStep":  # noqa: A002 - as in documents
        """Run the step again until the condition on `w.result` holds, at most `max` rounds."""
        self._fields["repeat"] = {"until": until, "max": max}
        return self

    def undo(self, task: str, *, on: str = "completed") -> "BuiltStep":
        """Run this task if the run fails or is cancelled after the step completed, or `started`."""
        self._fields["undo"] = task if on == "completed" else {"task": task, "on": on}
        return self

    def with_(self, variables: Mapping[str, Any]) -> "BuiltStep":
        """Add variables, also those whose names are words of the builder, such as `after`."""
        self._fields["with"] = {**self._fields.get("with", {}), **variables}
        return self

    def after(self, *steps: "Steps") -> "BuiltStep":
        """Run the step after others whose results it doesn't use."""
        for step in _flat(steps):
            if step._workflow is not self._workflow:  # noqa: SLF001 - of the same class
                raise ValueError(f"step {self.id} can't need a step of another workflow")
            if step.id not in self._after:
                self._after.append(step.id)
        return self

    def set(self, **fields: Any) -> "BuiltStep":
        """Set fields of the document, such as retry, timeout, run, on_failure or parallel.

        Raises TypeError for a field that there isn't.
        """
        for name in fields:
            if name not in _SETTABLE:
                raise TypeError(
                    f"step {self.id} has no field {name}: there are {', '.join(_SETTABLE)}"
                )
        self._fields.update(fields)
        return self

    def __rshift__(self, following: "Steps") -> "Steps":
        for step in _flat([following]):
            step.after(self)
        return following

    def __rrshift__(self, earlier: "Steps") -> "BuiltStep":
        return self.after(*_flat([earlier]))

    def to_dict(self) -> dict[str, Any]:
        """Return the step as it is in the document. Raises TypeError for values without JSON."""
        made: dict[str, Any] = {}
        for name, value in self._fields.items():
            made[name] = self._written(name, value)
        if self._after:
            made["needs"] = list(self._after)
        return made

    def _written(self, name: str, value: Any) -> JsonValue:
        if name in _EXPRESSIONS:
            self._own(value)
            return value if isinstance(value, str) else written(value)
        if name == "repeat":
            until = value["until"]
            self._own(until)
            return {**value, "until": until if isinstance(until, str) else written(until)}
        return plain(value, f"step {self.id}, {name}", self._workflow)

    def _own(self, value: object) -> None:
        if owner_of(value) not in {None, self._workflow}:
            raise ValueError(f"step {self.id} can't use a step of another workflow")

    def __repr__(self) -> str:
        return f"<step {self.id}>"


Steps = Union[BuiltStep, Sequence["Steps"]]  # noqa: UP007 - recursive


def _flat(steps: Iterable[Steps]) -> Iterator[BuiltStep]:
    for each in steps:
        if isinstance(each, BuiltStep):
            yield each
        else:
            yield from _flat(each)


def plain(value: Any, place: str, owner: object) -> JsonValue:
    """Return a value of JSON in which terms are written as `${{ }}`. Raises TypeError."""
    if isinstance(value, Term):
        if owner_of(value) not in {None, owner}:
            raise ValueError(f"{place}: it belongs to another workflow")
        return str(value)
    if isinstance(value, BuiltStep):
        raise TypeError(f"{place}: give what the step returned: {value.id}.result")
    if isinstance(value, Mapping):
        return {_name(name, place): plain(inner, place, owner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, place, owner) for inner in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{place}: {type(value).__name__} is no value of JSON")


def _name(name: object, place: str) -> str:
    if not isinstance(name, str):
        raise TypeError(f"{place}: the names of fields are texts, not {type(name).__name__}")
    return name
