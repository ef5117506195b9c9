"""Workflows: creation, reading, changes and deletion."""

from functools import partial
from uuid import UUID

import structlog

from celeriac.db import limits
from celeriac.db.catalog import WORKFLOWS, task_specs, workflow_specs
from celeriac.db.engine import Connection, Database
from celeriac.db.executions import pauses
from celeriac.db.workflows import runs
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.errors import ConflictError, WorkflowInvalidError
from celeriac.domain.paging import Page
from celeriac.domain.workflows.model import WorkflowSpec
from celeriac.domain.workflows.records import Workflow, WorkflowVersion
from celeriac.domain.workflows.validation import (
    Catalog,
    Targets,
    TaskFacts,
    spec_faults,
    targets,
)
from celeriac.services.catalog import versioned
from celeriac.services.reading import read_page

logger = structlog.get_logger(__name__)


class Workflows:
    """The workflows of all workspaces. Safe to share between threads.

    A `reference` is an id, or a name in the actor's workspace.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self, actor: Actor, *, name: str, spec: WorkflowSpec, description: str = ""
    ) -> Workflow:
        """Store a workflow at version 1.

        Raises ForbiddenError, NameTakenError, and WorkflowInvalidError with all faults.
        """
        actor.require(Role.OPERATOR)
        with self._database.transaction() as connection:
            check_workflow(connection, actor, spec)
            made = versioned.add(
                connection, WORKFLOWS, actor, name=name, spec=spec, description=description
            )
        logger.info("workflow.created", workflow_id=made.id, name=name)
        return made

    def get(self, actor: Actor, reference: str) -> Workflow:
        """Return a workflow that the actor may see. Raises NotFoundError."""
        with self._database.autocommit() as connection:
            return versioned.get(connection, WORKFLOWS, actor, reference)

    def resolve(self, actor: Actor, reference: str) -> UUID:
        """Return the id that `reference` means; see `Tasks.resolve`."""
        return versioned.resolve(self._database, WORKFLOWS, actor, reference)

    def find(self, actor: Actor, *, cursor: str | None = None, limit: int = 50) -> Page[Workflow]:
        """Return a page of the workflows that the actor may see. Raises CursorInvalidError."""
        find = partial(WORKFLOWS.find, workspace=actor.workspace_id)
        return read_page(self._database, "workflows", cursor, limit, find)

    def versions(
        self, actor: Actor, reference: str, *, cursor: str | None = None, limit: int = 50
    ) -> Page[WorkflowVersion]:
        """Return a page of a workflow's versions, the newest first. Raises NotFoundError."""
        key = self.get(actor, reference).id

        def find(
            connection: Connection, *, before: UUID | None, limit: int
        ) -> list[WorkflowVersion]:
            found = WORKFLOWS.versions(connection, key, before=before, limit=limit)
            return [
                WorkflowVersion(
                    row.id, key, row.version, WorkflowSpec.model_validate(row.spec), row.created_at
                )
                for row in found
            ]

        return read_page(self._database, "workflow_versions", cursor, limit, find)

    def change(
        self,
        actor: Actor,
        reference: str,
        *,
        description: str | None = None,
        spec: WorkflowSpec | None = None,
    ) -> Workflow:
        """Change a workflow; runs that are started from now on follow the changed one.

        None keeps a value. Raises what `create` raises, and NotFoundError.
        """
        actor.require(Role.OPERATOR)
        with self._database.transaction() as connection:
            before = versioned.get(connection, WORKFLOWS, actor, reference, lock=True)
            if spec is not None:
                check_workflow(connection, actor, spec)
            changed = versioned.change(
                connection, WORKFLOWS, actor, before, spec=spec, description=description
            )
        logger.info("workflow.changed", workflow_id=changed.id, version=changed.version)
        return changed

    def delete(self, actor: Actor, reference: str) -> None:
        """Delete a workflow; its versions and runs stay.

        Raises ForbiddenError, NotFoundError, and ConflictError if runs have not ended.
        """
        actor.require(Role.OPERATOR)
        with self._database.transaction() as connection:
            found = versioned.get(connection, WORKFLOWS, actor, reference, lock=True)
            if runs.unfinished_of(connection, found.id):
                raise ConflictError(
                    f"The workflow {found.name!r} has runs that have not ended. Wait for them, or "
                    "cancel them.",
                )
            versioned.delete(connection, WORKFLOWS, actor, found)
            pauses.remove_of_workflow(connection, found.id)
            pauses.remove_of_limits(connection, limits.delete_of(connection, found.id))
        logger.info("workflow.deleted", workflow_id=found.id, name=found.name)


def check_workflow(connection: Connection, actor: Actor, spec: WorkflowSpec) -> None:
    """Raise WorkflowInvalidError with all faults of a workflow that can't run in a workspace."""
    wanted = targets(spec)
    known = catalog_of(connection, wanted, workspace=actor.workspace_id)
    faults = [
        (each.field, each.message) for each in spec_faults(spec, known=spec.steps, catalog=known)
    ]
    if faults:
        raise WorkflowInvalidError([(f"spec.{field}", message) for field, message in faults])


def catalog_of(connection: Connection, wanted: Targets, *, workspace: UUID) -> Catalog:
    """Return what a workspace has of the tasks and workflows that steps name."""
    facts = task_specs(connection, wanted.tasks, workspace=workspace)
    inputs = workflow_specs(connection, wanted.workflows, workspace=workspace)
    return Catalog(
        {
            name: TaskFacts(body.get("variables_schema") or {}, body.get("output_schema"))
            for name, body in facts.items()
        },
        {name: body.get("input") or {} for name, body in inputs.items()},
    )
