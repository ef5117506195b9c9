"""The graph of a workflow: which steps each step needs, and what follows from it.

A step needs the steps that it lists in `needs`, and those that its expressions refer to.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter

from celeriac.domain.expressions import Expression, ExpressionSyntaxError, compiled
from celeriac.domain.expressions.templates import text_template, texts_of
from celeriac.domain.workflows.model import Step, WorkflowSpec

_ROOT = "steps"


def referred(expressions: Iterable[Expression]) -> list[str]:
    """Return the ids of the steps that expressions refer to, in their order, each once."""
    return list(
        dict.fromkeys(
            reference.path[1]
            for expression in expressions
            for reference in expression.references
            if reference.path[0] == _ROOT and len(reference.path) > 1
        )
    )


def expressions_of(step: Step) -> Iterator[Expression]:
    """Yield the expressions of a step that can be parsed."""
    for text in (step.when, step.map, step.key, step.repeat.until if step.repeat else None):
        if text is not None:
            yield from _parsed(text)
    for value in (step.with_, step.show):
        yield from template_expressions(value)


def template_expressions(value: object) -> Iterator[Expression]:
    """Yield the expressions in the texts of a value that can be parsed."""
    for _, text in texts_of(value):
        try:
            pieces = text_template(text).pieces
        except ExpressionSyntaxError:
            continue
        yield from (piece.expression for piece in pieces)


def _parsed(text: str) -> Iterator[Expression]:
    try:
        yield compiled(text)
    except ExpressionSyntaxError:
        return


def needs_of(step: Step) -> tuple[str, ...]:
    """Return the ids of the steps that a step needs: those it lists, then those it refers to."""
    return tuple(dict.fromkeys([*step.needs, *referred(expressions_of(step))]))


@dataclass(frozen=True)
class Graph:
    """The steps of a workflow and what each needs. Immutable."""

    steps: Mapping[str, Step]
    needs: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, spec: WorkflowSpec) -> "Graph":
        """Return the graph of a valid specification; unknown steps are left out."""
        return cls(
            spec.steps,
            {
                id_: tuple(need for need in needs_of(step) if need in spec.steps)
                for id_, step in spec.steps.items()
            },
        )

    @cached_property
    def dependents(self) -> Mapping[str, tuple[str, ...]]:
        """The steps that need a step, by its id, in the order of the document."""
        found: dict[str, list[str]] = {id_: [] for id_ in self.steps}
        for id_, needs in self.needs.items():
            for need in needs:
                found[need].append(id_)
        return {id_: tuple(each) for id_, each in found.items()}

    @cached_property
    def first(self) -> tuple[str, ...]:
        """The ordinary steps that need nothing: they are ready when a run begins."""
        return tuple(id_ for id_ in self.ordinary if not self.needs[id_])

    @cached_property
    def ordinary(self) -> tuple[str, ...]:
        """The steps with `run: success`."""
        return tuple(id_ for id_, step in self.steps.items() if not step.is_last)

    @cached_property
    def last(self) -> tuple[str, ...]:
        """The steps with `run: failure` and `run: always`."""
        return tuple(id_ for id_, step in self.steps.items() if step.is_last)

    @cached_property
    def order(self) -> tuple[str, ...]:
        """All steps, each after what it needs; raises graphlib.CycleError."""
        return tuple(id_ for level in self.levels for id_ in level)

    @cached_property
    def levels(self) -> tuple[tuple[str, ...], ...]:
        """The steps by level; those of one level can run at the same time.

        The last steps have the last levels. Raises graphlib.CycleError.
        """
        return (*self._levels(self.ordinary), *self._levels(self.last))

    def _levels(self, ids: Collection[str]) -> Iterator[tuple[str, ...]]:
        chosen = set(ids)
        sorter = TopologicalSorter(
            {id_: [need for need in self.needs[id_] if need in chosen] for id_ in ids}
        )
        sorter.prepare()
        place = {id_: index for index, id_ in enumerate(self.steps)}
        while ready := sorter.get_ready():
            yield tuple(sorted(ready, key=place.__getitem__))
            sorter.done(*ready)

    def cycle(self) -> tuple[str, ...] | None:
        """Return a cycle as a path, each step needed by the next, back to the first; or None."""
        try:
            TopologicalSorter(dict(self.needs.items())).prepare()
        except CycleError as error:
            return tuple(error.args[1])
        return None

    def below(self, start: str) -> frozenset[str]:
        """Return the steps that need a step, directly or through others."""
        found: set[str] = set()
        stack = [*self.dependents[start]]
        while stack:
            id_ = stack.pop()
            if id_ not in found:
                found.add(id_)
                stack.extend(self.dependents[id_])
        return frozenset(found)
