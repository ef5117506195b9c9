"""Groups of failures as people read and change them. The keeper's fold makes and counts them."""

from dataclasses import replace
from uuid import UUID

import structlog

from celeriac.db import audit, failures
from celeriac.db.engine import Database
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.audit import changes
from celeriac.domain.errors import ConflictError, InvalidInputError
from celeriac.domain.executions.model import FailureKey
from celeriac.domain.failure_states import SETTABLE
from celeriac.domain.failures import LONGEST_NOTE, FailureChange, FailureFilter, FailureGroup
from celeriac.domain.paging import Page, read_cursor
from celeriac.kit.json_types import storable_text
from celeriac.services.reading import present

logger = structlog.get_logger(__name__)

_KIND = "failure_groups"


class Failures:
    """The groups of failures of workspaces. Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(
        self, actor: Actor, wanted: FailureFilter, *, cursor: str | None = None, limit: int = 50
    ) -> Page[FailureGroup]:
        """Return a page of the workspace's groups; the one with the newest execution first.

        A group that recurs meanwhile moves to the front and is not repeated on a later page. Raises
        CursorInvalidError.
        """
        before = read_cursor(_KIND, cursor)
        wanted = replace(wanted, workspace_id=actor.workspace_id)
        with self._database.autocommit() as connection:
            found = failures.find(connection, wanted, before=before, limit=limit + 1)
        return Page.cut(found, limit=limit, kind=_KIND, key=lambda each: each.last_execution_id)

    def get(self, actor: Actor, group_id: UUID) -> FailureGroup:
        """Return a group. Raises NotFoundError."""
        with self._database.autocommit() as connection:
            found = failures.get(connection, group_id, workspace=actor.workspace_id)
        return present(found, "failure group", group_id)

    def key(self, actor: Actor, group_id: UUID) -> FailureKey:
        """Return what the executions of a group have. Raises NotFoundError."""
        return self.get(actor, group_id).key

    def change(self, actor: Actor, group_id: UUID, wanted: FailureChange) -> FailureGroup:
        """Set the state or the note of a group; nothing is stored if they are so already.

        What failed before a group was resolved does not make it regress. Raises InvalidInputError,
        ForbiddenError, NotFoundError, and ConflictError if it has another version than `wanted`.
        """
        actor.require(Role.OPERATOR)
        if wanted.state is not None and wanted.state not in SETTABLE:
            raise InvalidInputError(
                f"state must be one of {', '.join(SETTABLE)}; {wanted.state} is set by Celeriac.",
                field="state",
            )
        if wanted.note is not None:
            if len(wanted.note) > LONGEST_NOTE:
                raise InvalidInputError(
                    f"note must have at most {LONGEST_NOTE:,} characters.", field="note"
                )
            wanted = replace(wanted, note=storable_text(wanted.note))
        with self._database.transaction() as connection:
            before = failures.get(connection, group_id, workspace=actor.workspace_id, lock=True)
            before = present(before, "failure group", group_id)
            if wanted.version is not None and wanted.version != before.version:
                raise ConflictError(
                    f"The failure group has version {before.version}, not {wanted.version}: it was "
                    "changed meanwhile. Read it again.",
                    version=before.version,
                )
            same_state = wanted.state in (None, before.state)
            if same_state and wanted.note in (None, before.note):
                return before
            failures.change(connection, group_id, wanted)
            after = failures.get(connection, group_id, workspace=actor.workspace_id)
            after = present(after, "failure group", group_id)
            details = changes(before, after)
            audit.record(connection, actor, "failure_group.change", [group_id], details=details)
        logger.info("failure_group.changed", group_id=group_id, state=after.state)
        return after
