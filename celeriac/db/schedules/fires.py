"""Fires of schedules: those that have happened, that wait, and that have not happened and why."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, TextClause, func, text, update
from sqlalchemy.dialects.postgresql import insert

from celeriac.db import spans
from celeriac.db.paging import columns, given, newest, read_all, reader
from celeriac.db.schema.schedules import schedule_fires as table
from celeriac.domain.executions.states import Status
from celeriac.domain.schedules.model import Fire, FireKind, FireStatus, Schedule, SkipReason
from celeriac.domain.schedules.policies import Overlap
from celeriac.domain.workflows.states import RunStatus
from celeriac.kit.ids import uuid7

_SELECT = columns(Fire, table)
_fire = reader(Fire)

_OPEN_AT_ONCE = 1_000


@dataclass(slots=True)
class Unended:
    """What a schedule has started and has not ended, of the oldest that were looked at."""

    executions: list[UUID] = field(default_factory=list)
    runs: list[UUID] = field(default_factory=list)
    more: bool = False
    """Whether there are more, which were not looked at."""

    @property
    def number(self) -> int:
        """How many are known, at least one if there may be any."""
        return len(self.executions) + len(self.runs) or int(self.more)


def add(
    connection: Connection,
    schedule: Schedule,
    scheduled_at: datetime,
    *,
    owner_id: UUID,
    kind: FireKind = FireKind.SCHEDULED,
    status: FireStatus = FireStatus.SKIPPED,
    reason: SkipReason | None = None,
    error: str | None = None,
    number: int = 1,
    last_at: datetime | None = None,
    execution_id: UUID | None = None,
    run_id: UUID | None = None,
) -> UUID | None:
    """Insert a fire, a skipped one with its `reason`; return its id.

    None if the schedule has fired for this time before: nothing is inserted then.
    """
    started = status is FireStatus.STARTED
    statement = (
        insert(table)
        .values(
            id=uuid7(),
            workspace_id=schedule.workspace_id,
            schedule_id=schedule.id,
            owner_id=owner_id,
            kind=kind.value,
            scheduled_at=scheduled_at,
            overlap=schedule.overlap.value,
            status=status.value,
            reason=None if reason is None else reason.value,
            error=error,
            count=number,
            last_at=last_at,
            execution_id=execution_id,
            run_id=run_id,
            open=started,
            started_at=func.now() if started else None,
        )
        .on_conflict_do_nothing()
        .returning(table.c.id)
    )
    found: UUID | None = connection.execute(statement).scalar_one_or_none()
    return found


_ADD_WAITING = text("""
INSERT INTO schedule_fires (id, workspace_id, schedule_id, owner_id, kind, scheduled_at, overlap,
                            status)
SELECT made.id, :workspace_id, :schedule_id, :owner_id, 'backfill', made.at, :overlap, 'waiting'
FROM unnest(CAST(:ids AS uuid[]), CAST(:times AS timestamptz[])) AS made(id, at)
ON CONFLICT DO NOTHING
""")


def add_waiting(
    connection: Connection,
    schedule: Schedule,
    times: Sequence[datetime],
    *,
    owner_id: UUID,
    overlap: Overlap,
) -> int:
    """Insert the fires of a backfill, which wait; return how many.

    Those for times that have fired, or wait already, are left out.
    """
    parameters = {
        "workspace_id": schedule.workspace_id,
        "schedule_id": schedule.id,
        "owner_id": owner_id,
        "overlap": overlap.value,
        "ids": [uuid7() for _ in times],
        "times": list(times),
    }
    return connection.execute(_ADD_WAITING, parameters).rowcount


def get(connection: Connection, fire_id: UUID) -> Fire:
    """Return a fire that exists."""
    return _fire(connection.execute(_SELECT.where(table.c.id == fire_id)).one())


def find(
    connection: Connection,
    *,
    schedule_id: UUID,
    status: FireStatus | None,
    before: UUID | None,
    limit: int,
) -> list[Fire]:
    """Return up to `limit` fires of a schedule older than `before`, the newest first."""
    query = given(_SELECT.where(table.c.schedule_id == schedule_id), (table.c.status, status))
    return read_all(connection, newest(query, table.c.id, before=before, limit=limit), _fire)


_HAPPENING = text("""
SELECT scheduled_at FROM schedule_fires
WHERE schedule_id = :schedule_id AND scheduled_at = ANY (CAST(:times AS timestamptz[]))
  AND kind <> 'manual' AND status <> 'skipped'
""")


def happening(
    connection: Connection, schedule_id: UUID, times: Collection[datetime]
) -> set[datetime]:
    """Return those of `times` for which the schedule has fired, or a fire waits."""
    parameters = {"schedule_id": schedule_id, "times": list(times)}
    return set(connection.execute(_HAPPENING, parameters).scalars())


_COUNT_WAITING = text("""
SELECT count(*) FILTER (WHERE kind <> 'backfill'), count(*) FROM schedule_fires
WHERE schedule_id = :schedule_id AND status = 'waiting'
""")


def count_waiting(connection: Connection, schedule_id: UUID) -> tuple[int, int]:
    """Return how many fires of a schedule wait: without those of backfills, and all."""
    row = connection.execute(_COUNT_WAITING, {"schedule_id": schedule_id}).one()
    return int(row[0]), int(row[1])


_WAITING_SCHEDULES = text("""
WITH RECURSIVE found AS (
    (SELECT schedule_id FROM schedule_fires
     WHERE status = 'waiting' AND schedule_id > :after ORDER BY schedule_id LIMIT 1)
    UNION ALL
    SELECT (SELECT f.schedule_id FROM schedule_fires f
            WHERE f.status = 'waiting' AND f.schedule_id > found.schedule_id
            ORDER BY f.schedule_id LIMIT 1)
    FROM found WHERE found.schedule_id IS NOT NULL
)
SELECT schedule_id FROM found WHERE schedule_id IS NOT NULL LIMIT :limit
""")


def waiting_schedules(connection: Connection, *, after: UUID, limit: int) -> list[UUID]:
    """Return up to `limit` schedules of which fires wait, in the order of their ids."""
    parameters = {"after": after, "limit": limit}
    return list(connection.execute(_WAITING_SCHEDULES, parameters).scalars())


def waiting(connection: Connection, schedule_id: UUID, *, limit: int) -> list[Fire]:
    """Return the fires of a schedule that wait, in the order in which they start.

    First those by the schedule, then those by hand, then those of backfills.
    """
    query = (
        _SELECT.where(
            table.c.schedule_id == schedule_id, table.c.status == text(f"'{FireStatus.WAITING}'")
        )
        .order_by(table.c.kind.desc(), table.c.id)
        .limit(limit)
    )
    return read_all(connection, query, _fire)


_BEGIN = text("""
UPDATE schedule_fires
SET status = 'started', open = true, started_at = now(), execution_id = :execution_id,
    run_id = :run_id
WHERE id = :id AND status = 'waiting'
RETURNING id
""")


def begin(
    connection: Connection, fire_id: UUID, *, execution_id: UUID | None, run_id: UUID | None
) -> bool:
    """Note what a fire that waits has started; False if it does not wait any more."""
    parameters = {"id": fire_id, "execution_id": execution_id, "run_id": run_id}
    return connection.execute(_BEGIN, parameters).first() is not None


_SKIP = text("""
UPDATE schedule_fires SET status = 'skipped', reason = :reason, error = :error
WHERE id = :id AND status = 'waiting'
""")


def refuse(connection: Connection, fire_id: UUID, error: str) -> None:
    """Note why a fire that waits can't start."""
    parameters = {"id": fire_id, "reason": SkipReason.REFUSED.value, "error": error}
    connection.execute(_SKIP, parameters)


_SKIP_ALL = text("""
UPDATE schedule_fires SET status = 'skipped', reason = :reason
WHERE schedule_id = :schedule_id AND status = 'waiting'
""")


def skip_waiting(connection: Connection, schedule_id: UUID, reason: SkipReason) -> int:
    """Skip all fires of a schedule that wait; return how many."""
    parameters = {"schedule_id": schedule_id, "reason": reason.value}
    return connection.execute(_SKIP_ALL, parameters).rowcount


_ENDED = ", ".join(f"'{each.value}'" for each in Status if each.terminal)
_RUN_ENDED = ", ".join(f"'{each.value}'" for each in RunStatus if each.terminal)

_OPEN = text("""
SELECT f.schedule_id, f.id, f.execution_id, f.run_id
FROM unnest(CAST(:schedule_ids AS uuid[])) AS s(id), LATERAL (
    SELECT schedule_id, id, execution_id, run_id FROM schedule_fires
    WHERE schedule_id = s.id AND open ORDER BY id LIMIT :each) AS f
""")
_LIVE_EXECUTIONS = text(
    f"SELECT id FROM executions WHERE {spans.given('id')} AND status NOT IN ({_ENDED})"  # noqa: S608
)
_LIVE_RUNS = text(
    "SELECT id FROM workflow_runs"  # noqa: S608
    f" WHERE id = ANY (CAST(:ids AS uuid[])) AND status NOT IN ({_RUN_ENDED})"
)


def unended(
    connection: Connection, schedule_ids: Sequence[UUID], *, each: int = _OPEN_AT_ONCE
) -> dict[UUID, Unended]:
    """Return what each schedule has started and has not ended, of its oldest `each`.

    Notes which have ended, so that they are not looked at again.
    """
    found = connection.execute(_OPEN, {"schedule_ids": list(schedule_ids), "each": each}).all()
    live = _live(connection, [row[2] for row in found if row[2] is not None], _LIVE_EXECUTIONS)
    live |= _live(connection, [row[3] for row in found if row[3] is not None], _LIVE_RUNS)
    ended = [row[1] for row in found if row[2] not in live and row[3] not in live]
    if ended:
        connection.execute(update(table).where(table.c.id.in_(ended)).values(open=False))
    of = {schedule_id: Unended() for schedule_id in schedule_ids}
    looked = dict.fromkeys(schedule_ids, 0)
    for schedule_id, _, execution_id, run_id in found:
        looked[schedule_id] += 1
        of[schedule_id].more = looked[schedule_id] >= each
        if execution_id in live:
            of[schedule_id].executions.append(execution_id)
        if run_id in live:
            of[schedule_id].runs.append(run_id)
    return of


def _live(connection: Connection, ids: Sequence[UUID], query: TextClause) -> set[UUID]:
    if not ids:
        return set()
    return set(connection.execute(query, spans.of(ids)).scalars())
