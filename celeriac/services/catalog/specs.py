"""The specifications that executions run with, from a cache: a version never changes."""

from functools import lru_cache
from uuid import UUID

from celeriac.db import catalog
from celeriac.db.engine import Database
from celeriac.domain.errors import NotFoundError, TaskInactiveError
from celeriac.domain.executions.model import ExecutionSpec

_CACHED = 2048


class SpecCache:
    """Finds specifications. Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._current: dict[UUID, ExecutionSpec] = {}
        self._of_versions = lru_cache(maxsize=_CACHED)(self._read_versions)

    def current(self, task_id: UUID, *, workspace: UUID, fresh: bool = False) -> ExecutionSpec:
        """Return a task's current specification; may be outdated unless `fresh`.

        The insert of an execution checks that it is still current, so the hot path needs no query
        here. Raises NotFoundError, also for a task of another workspace, and, if it is read,
        TaskInactiveError.
        """
        spec = None if fresh else self._current.get(task_id)
        if spec is None:
            return self._read_current(task_id, workspace)
        if spec.workspace_id != workspace:
            raise NotFoundError("task", task_id)
        return spec

    def of_versions(self, task_version_id: UUID, agent_version_id: UUID) -> ExecutionSpec:
        """Return the specification that an execution was submitted with.

        Raises NotFoundError, and SpecificationUnreadableError for one of a newer release.
        """
        return self._of_versions(task_version_id, agent_version_id)

    def _read_current(self, task_id: UUID, workspace: UUID) -> ExecutionSpec:
        with self._database.autocommit() as connection:
            found = catalog.current_spec(connection, task_id)
        if found is None:
            self._current.pop(task_id, None)
            raise NotFoundError("task", task_id)
        spec, active = found
        if spec.workspace_id != workspace:  # before anything is said about the task
            raise NotFoundError("task", task_id)
        if not active:
            self._current.pop(task_id, None)
            raise TaskInactiveError(
                f"The task {spec.task_name!r} is inactive; activate it to run it.",
                task_id=str(task_id),
            )
        if len(self._current) >= _CACHED:
            self._current.clear()
        self._current[task_id] = spec
        return spec

    def _read_versions(self, task_version_id: UUID, agent_version_id: UUID) -> ExecutionSpec:
        with self._database.autocommit() as connection:
            spec = catalog.spec_of_versions(connection, task_version_id, agent_version_id)
        if spec is None:
            raise NotFoundError("specification", f"{task_version_id}/{agent_version_id}")
        return spec
