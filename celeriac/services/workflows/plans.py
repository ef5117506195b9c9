"""The versions of workflows that runs follow, from a cache: a version never changes."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from uuid import UUID

from celeriac.db import catalog
from celeriac.db.engine import Connection, Database
from celeriac.domain.errors import NotFoundError
from celeriac.domain.workflows.graph import Graph, referred, template_expressions
from celeriac.domain.workflows.model import Step, WorkflowSpec

_CACHED = 256


@dataclass(frozen=True)
class Plan:
    """A version of a workflow. Steps have numbers, from 1, in the order of the document."""

    version_id: UUID
    workflow_id: UUID
    workflow: str
    """The name of the workflow."""
    version: int
    spec: WorkflowSpec

    @cached_property
    def graph(self) -> Graph:
        """What each step needs."""
        return Graph.of(self.spec)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The steps in the order of the document."""
        return tuple(self.spec.steps)

    @cached_property
    def numbers(self) -> Mapping[str, int]:
        """The number of each step."""
        return {name: no for no, name in enumerate(self.names, 1)}

    @cached_property
    def returned(self) -> tuple[str, ...]:
        """The steps to which the result of a run refers."""
        return tuple(referred(template_expressions(self.spec.returns)))

    @cached_property
    def undone(self) -> tuple[int, ...]:
        """The numbers of the steps that have an undo task."""
        return tuple(no for no, step in enumerate(self.spec.steps.values(), 1) if step.undo)

    def is_undo(self, number: int) -> bool:
        """Whether a number is that of an undo step: they are numbered after all others."""
        return number > len(self.names)

    def step(self, number: int) -> Step:
        """Return the step with a number."""
        return self.spec.steps[self.names[number - 1]]

    def undoes(self, number: int) -> Step:
        """Return the step that the undo step with a number undoes."""
        return self.step(number - len(self.names))

    def needs(self, number: int) -> tuple[str, ...]:
        """Return the steps that a step needs."""
        return self.graph.needs[self.names[number - 1]]


class Plans:
    """Finds plans. Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.of_version = lru_cache(maxsize=_CACHED)(self._read)

    def _read(self, version_id: UUID) -> Plan:
        """Return the plan of a version. Raises NotFoundError."""
        with self._database.autocommit() as connection:
            return read_plan(connection, version_id)


def read_plan(connection: Connection, version_id: UUID) -> Plan:
    """Return the plan of a version, inside a transaction. Raises NotFoundError."""
    found = catalog.workflow_version(connection, version_id)
    if found is None:
        raise NotFoundError("workflow version", version_id)
    name = catalog.workflow_name(connection, found.workflow_id)
    return Plan(version_id, found.workflow_id, name, found.version, found.spec)
