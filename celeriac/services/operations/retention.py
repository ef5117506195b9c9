"""Deletes rows and files older than their retention; never touches live executions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from uuid import UUID

import structlog

from celeriac.db import (
    artifacts,
    failures,
    partitions,
    plain_tasks,
    retention,
    rollups,
    sessions,
    workers,
)
from celeriac.db.engine import Connection, Database, clock
from celeriac.db.partitions import Period
from celeriac.domain.artifacts import object_key
from celeriac.domain.rollups import Grain
from celeriac.kit.files import remove_tree
from celeriac.services.audit import AuditTrail
from celeriac.services.files.objects import ObjectStore
from celeriac.services.operations.home_files import HomeFiles, run_step, unlink
from celeriac.services.storage_paths import StoragePaths

logger = structlog.get_logger(__name__)

_DAY = 86_400
_MINUTES_KEPT_DAYS = 2.0
_PLAIN_RUNS_KEPT_DAYS = 1.0
_WORKERS_KEPT_SECONDS = 86_400.0
_BEFORE_ALL = UUID(int=0)
_MOST_NAMED = 10

_GRACE_SECONDS = 86_400.0
"""How long an object stays that nothing names: longer than the save of a working directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """Days after which rows and files are deleted; 0 keeps them for ever."""

    executions: float
    sessions: float
    files: float
    logs: float
    audit: float
    idempotency_keys: float
    deliveries: float
    rollups: float


class Retention:
    """Deletes expired rows and files."""

    def __init__(
        self,
        database: Database,
        places: StoragePaths,
        policy: RetentionPolicy,
        audit_trail: AuditTrail | None,
        objects: ObjectStore,
        *,
        batch: int,
    ) -> None:
        """Work on `database`, `objects` and the files in `places`, `batch` of them at a time.

        Without an `audit_trail` its entries are kept for ever.
        """
        self._objects = objects
        self._database = database
        self._places = places
        self._policy = policy
        self._audit_trail = audit_trail
        self._batch = batch
        self._home = HomeFiles(
            database,
            places,
            executions=policy.executions,
            files=policy.files,
            logs=policy.logs,
            batch=batch,
        )

    def __call__(self) -> int:
        """Delete everything that has expired; return how much that was."""
        policy = self._policy
        steps: list[tuple[str, Callable[[], int], float | bool]] = [
            ("sessions", self._rows(_end_sessions, policy.sessions), policy.sessions),
            # those of deleted sessions, in any case
            ("session_files", self._session_files, True),
            ("executions", self._executions, policy.executions),
            (
                "workflow_runs",
                self._rows(retention.delete_runs, policy.executions),
                policy.executions,
            ),
            ("workdirs", self._home.workdirs, True),
            ("saved_files", self._rows(_expire_files, policy.files), policy.files),
            ("artifacts", self._rows(_purge_files, 0), True),
            ("objects", self._unreferenced_objects, True),
            ("saved_markers", self._home.saved_markers, True),
            ("log_files", self._home.log_files, True),
            (
                "session_rows",
                self._rows(retention.delete_sessions, policy.executions),
                policy.executions,
            ),
            ("audit", partial(self._repeat, self._audit), policy.audit),
            (
                "idempotency_keys",
                self._rows(retention.delete_idempotency_keys, policy.idempotency_keys),
                policy.idempotency_keys,
            ),
            (
                "celery_calls",
                self._rows(retention.delete_calls, policy.idempotency_keys),
                policy.idempotency_keys,
            ),
            (
                "deliveries",
                self._rows(retention.delete_deliveries, policy.deliveries),
                policy.deliveries,
            ),
            (
                "hook_deliveries",
                self._rows(retention.delete_hook_deliveries, policy.deliveries),
                policy.deliveries,
            ),
            (
                "schedule_fires",
                self._rows(retention.delete_fires, policy.executions),
                policy.executions,
            ),
            (
                "failure_groups",
                self._rows(failures.delete_old, policy.executions),
                policy.executions,
            ),
            (
                "bulk_jobs",
                self._rows(retention.delete_bulk_jobs, policy.executions),
                policy.executions,
            ),
            (
                "plain_task_runs",
                self._rows(plain_tasks.delete_old_runs, _PLAIN_RUNS_KEPT_DAYS),
                True,
            ),
            ("minute_sums", self._sums(Grain.MINUTE, _MINUTES_KEPT_DAYS), True),
            ("hour_sums", self._sums(Grain.HOUR, policy.rollups), policy.rollups),
            ("day_sums", self._sums(Grain.DAY, policy.rollups), policy.rollups),
            ("workers", self._workers, True),
        ]
        return sum(run_step(kind, step) for kind, step, wanted in steps if wanted)

    def _repeat(self, step: Callable[[], int]) -> int:
        """Repeat a step while it finds a whole batch; return the total count."""
        total = 0
        while count := step():
            total += count
            if count < self._batch:
                break
        return total

    def _rows(self, delete: Callable[..., int], days: float) -> Callable[[], int]:
        """Return the step that deletes all rows older than `days`, a batch in a transaction."""
        batch = partial(self._deleted, partial(delete, days=days, limit=self._batch))
        return partial(self._repeat, batch)

    def _sums(self, grain: Grain, days: float) -> Callable[[], int]:
        """Return the step that deletes sums of what ended that are older than `days`."""

        def delete(connection: Connection, *, days: float, limit: int) -> int:
            deleted = rollups.delete_old(connection, grain, days=days, limit=limit)
            plain = plain_tasks.delete_old(connection, grain, days=days, limit=limit)
            return deleted + plain

        return self._rows(delete, days)

    def _session_files(self) -> int:
        def find(after: UUID) -> list[UUID]:
            with self._database.autocommit() as connection:
                found = retention.deleted_sessions(connection, after=after, limit=self._batch)
            if found:
                self._repeat(partial(self._conversations, found))
            return found

        def mark(gone: list[UUID]) -> int:
            with self._database.autocommit() as connection:
                sessions.files_removed(connection, gone)
            return len(gone)

        done, _ = self._with_files(
            "sessions", find, lambda each: remove_tree(self._places.session(each)), mark
        )
        return done

    def _executions(self) -> int:
        """Drop the partitions of periods that are over for so long, or delete most of their rows.

        A partition stays while an execution in it lives, or has not ended so long ago, or has files
        that can't be removed. All others in it are deleted one by one. So is what is older than a
        retention that is shorter than a period.
        """
        kept = timedelta(days=self._policy.executions)
        with self._database.autocommit() as connection:
            oldest = clock(connection) - kept
            interrupted = partitions.left_over(connection)
            there = partitions.periods(connection)
        for period in interrupted:
            self._dropped(period)
        over = [each for each in there if each.until <= oldest]
        partly = [
            each
            for each in there
            if each.since <= oldest < each.until and kept < each.until - each.since
        ]
        return sum(map(self._expired, over)) + sum(
            self._executions_of(each, retention.delete_executions)[0] for each in partly
        )

    def _expired(self, period: Period) -> int:
        """Remove the executions of a period that is over for long; return how many."""
        with self._database.autocommit() as connection:
            whole = not partitions.has_stragglers(connection, period, days=self._policy.executions)
        if whole:
            count, stay, missed = self._executions_of(period, retention.delete_rest, say=False)
            if missed or (not stay and self._dropped(period)):
                return count
        return self._executions_of(period, retention.delete_executions)[0]

    def _executions_of(
        self,
        period: Period,
        delete: Callable[[Connection, Sequence[UUID]], int],
        *,
        say: bool = True,
    ) -> tuple[int, int, int]:
        """Remove files of executions that ended long ago, then `delete` them.

        Returns how many were deleted, how many have files that stay, and how many were not deleted
        because another keeper was deleting.
        """
        missed = 0

        def find(after: UUID) -> list[UUID]:
            with self._database.autocommit() as connection:
                return retention.old_executions(
                    connection,
                    days=self._policy.executions,
                    after=max(after, UUID(int=max(period.least.int - 1, 0))),
                    bound=period.above,
                    limit=self._batch,
                )

        def finish(gone: list[UUID]) -> int:
            nonlocal missed
            count = self._deleted(lambda connection: delete(connection, gone))
            missed += 0 if count else len(gone)
            return count

        done, stay = self._with_files("executions", find, self._removed_files, finish, say=say)
        return done, stay, missed

    def _dropped(self, period: Period) -> bool:
        """Drop the partitions of a period; False if something in it has turned up that lives.

        A transaction of its own holds the lock against other keepers: to detach beside all other
        work, a statement must not be in one.
        """
        with (
            self._database.transaction() as lock,
            self._database.autocommit() as connection,
        ):
            if not retention.single_instance(lock):
                return False
            if period.end > period.begin:
                partitions.detach(connection, period)
                days = self._policy.executions
                if not days or partitions.has_stragglers(connection, period, days=days):
                    partitions.attach(connection, period)
                    return False
            partitions.drop(connection, period)
        logger.info("partitions.dropped", since=period.since, until=period.until)
        return True

    def _with_files(
        self,
        kind: str,
        find: Callable[[UUID], list[UUID]],
        remove: Callable[[UUID], bool],
        finish: Callable[[list[UUID]], int],
        *,
        say: bool = True,
    ) -> tuple[int, int]:
        """Remove files and then the rows that name them, page by page.

        Files that can't be removed stay for the next round and don't block others. Returns the sum
        of what `finish` returns, and how many stay, which are logged if `say`.
        """
        done, stay, after = 0, list[UUID](), _BEFORE_ALL
        while found := find(after):
            gone = [each for each in found if remove(each)]
            stay += [each for each in found if each not in set(gone)]
            done += finish(gone) if gone else 0
            if len(found) < self._batch:
                break
            after = found[-1]
        if stay and say:
            logger.warning(
                "retention.files_stay", kind=kind, count=len(stay), ids=stay[:_MOST_NAMED]
            )
        return done, len(stay)

    def _removed_files(self, execution_id: UUID) -> bool:
        # both are tried, even if one fails
        removed = [
            unlink(self._places.log_file(execution_id)),
            remove_tree(self._places.workdir(execution_id)),
        ]
        return all(removed)

    def _conversations(self, session_ids: Sequence[UUID]) -> int:
        with self._database.autocommit() as connection:
            return retention.delete_conversations(connection, session_ids, limit=self._batch)

    def _unreferenced_objects(self) -> int:
        """Delete objects that no artifact has named for the grace time; return how many.

        Their rows are locked meanwhile: a save of the same content waits, and uploads it again.
        """
        deleted, examined = 0, self._batch
        while examined == self._batch:
            with self._database.transaction() as connection:
                if not retention.single_instance(connection):
                    break
                marked = artifacts.mark_objects(
                    connection, seconds=_GRACE_SECONDS, limit=self._batch
                )
            examined = marked.examined
            deleted += self._delete_objects(marked.unreferenced) if marked.unreferenced else 0
        return deleted

    def _delete_objects(self, marked: Sequence[tuple[UUID, bytes]]) -> int:
        with self._database.transaction() as connection:
            found = artifacts.unreferenced_objects(connection, marked, seconds=_GRACE_SECONDS)
            if found:
                self._objects.delete([object_key(*each) for each in found])
                artifacts.forget_objects(connection, found)
        return len(found)

    def _audit(self) -> int:
        if self._audit_trail is None:
            return 0
        return self._audit_trail.expire(days=self._policy.audit, limit=self._batch)

    def _workers(self) -> int:
        """Delete the rows of workers that ended long ago."""
        with self._database.autocommit() as connection:
            return workers.forget(connection, older_than_seconds=_WORKERS_KEPT_SECONDS)

    def _deleted(self, delete: Callable[[Connection], int]) -> int:
        with self._database.transaction() as connection:
            return delete(connection) if retention.single_instance(connection) else 0


def _expire_files(connection: Connection, *, days: float, limit: int) -> int:
    return artifacts.expire(connection, seconds=days * _DAY, limit=limit)


def _purge_files(connection: Connection, *, days: float, limit: int) -> int:
    del days  # at once
    return artifacts.purge(connection, limit=limit)


def _end_sessions(connection: Connection, *, days: float, limit: int) -> int:
    return len(retention.mark_idle_sessions_deleted(connection, days=days, limit=limit))
