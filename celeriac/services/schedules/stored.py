"""Schedules stored and changed in the transaction of a caller."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import UUID

from celeriac.db import audit
from celeriac.db.engine import Connection
from celeriac.db.schedules import fires
from celeriac.db.schedules import schedules as rows
from celeriac.domain.accounts import Actor
from celeriac.domain.audit import changes
from celeriac.domain.errors import ConflictError, NameTakenError
from celeriac.domain.schedules.model import Schedule, SkipReason, Timing, counted_before
from celeriac.domain.schedules.policies import Policies, jittered
from celeriac.kit.ids import parse_uuid, uuid7
from celeriac.services.reading import present
from celeriac.services.schedules.fire import skip
from celeriac.services.schedules.start import Target

MOST_SCHEDULES = 1_000
"""How many a workspace may have."""

_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSchedule:
    """A schedule to create; `target` is checked before it is stored."""

    name: str
    target: Target
    timing: Timing
    policies: Policies = field(default_factory=Policies)
    active: bool = True


def add(connection: Connection, actor: Actor, new: NewSchedule, now: datetime) -> Schedule:
    """Store a schedule whose target the caller has checked.

    Raises InvalidInputError for a timing that never fires, ConflictError if the workspace has too
    many, NameTakenError.
    """
    schedule_id = uuid7()
    new.timing.check(now)
    if rows.count(connection, actor.workspace_id) >= MOST_SCHEDULES:
        raise ConflictError(
            f"The workspace has {MOST_SCHEDULES} schedules, which is the most; delete one first."
        )
    values: dict[str, object] = {
        "id": schedule_id,
        "workspace_id": actor.workspace_id,
        "owner_id": actor.user_id,
        "name": new.name,
        "task_id": new.target.task_id,
        "workflow_id": new.target.workflow_id,
        "input": new.target.input,
        "active": new.active,
        **_timed(schedule_id, new.timing, now, new.policies.jitter_seconds),
        **policy_values(new.policies),
    }
    if not rows.add(connection, values):
        raise NameTakenError(
            f"The workspace already has a schedule named {new.name!r}; choose another name or "
            "change that one.",
            field="name",
        )
    record(connection, actor, "create", schedule_id)
    return found(connection, actor, str(schedule_id))


def change(
    connection: Connection,
    actor: Actor,
    before: Schedule,
    given: Mapping[str, object],
    now: datetime,
) -> Schedule:
    """Change the columns in `given` of a locked schedule; with another timing it fires after `now`.

    Raises InvalidInputError for a timing that never fires.
    """
    values = dict(given)
    wanted = replace(before, **values)  # type: ignore[arg-type] # checked by the caller
    if wanted.timing != before.timing:
        wanted.timing.check(now)
        values |= _timed(before.id, wanted.timing, now, wanted.jitter_seconds)
    elif before.next_fire_at is not None:
        values["due_at"] = wanted.starts_at(before.next_fire_at)
    rows.change(connection, before.id, values)
    after = found(connection, actor, str(before.id))
    # not the input, which may hold secrets
    fields = sorted(changes(before, after))
    record(connection, actor, "change", before.id, fields=list(fields))
    return after


def pause(connection: Connection, actor: Actor, locked: Schedule) -> None:
    """Let a locked schedule not fire; its fires that wait are skipped."""
    skipped = fires.skip_waiting(connection, locked.id, SkipReason.PAUSED)
    if locked.active or skipped:
        rows.change(connection, locked.id, {"active": False})
        record(connection, actor, "pause", locked.id, skipped=skipped)


def resume(
    connection: Connection, actor: Actor, locked: Schedule, now: datetime, *, catch_up: bool = False
) -> None:
    """Let a locked schedule fire again; with `catch_up` its policy decides about the missed fires.

    Otherwise they are skipped, as one row.
    """
    if locked.active:
        return
    values: dict[str, object] = {"active": True}
    if not catch_up and locked.next_fire_at is not None and locked.next_fire_at <= now:
        gone = counted_before(locked, now + _MICROSECOND)
        if gone is not None:
            skip(connection, locked, gone, SkipReason.PAUSED)
        values |= _next(locked, now)
    rows.change(connection, locked.id, values)
    record(connection, actor, "resume", locked.id, catch_up=catch_up)


def _timed(
    schedule_id: UUID, timing: Timing, now: datetime, jitter_seconds: int
) -> dict[str, object]:
    """Return the values of a timing that begins now."""
    following = next(timing.fires(now, now), None)
    return {
        "cron": timing.cron,
        "every_seconds": timing.every_seconds,
        "at": timing.at,
        "zone": timing.zone,
        "anchor_at": now,
        "next_fire_at": following,
        "due_at": None if following is None else jittered(schedule_id, following, jitter_seconds),
    }


def _next(schedule: Schedule, now: datetime) -> dict[str, object]:
    following = next(schedule.fires(now), None)
    return {
        "next_fire_at": following,
        "due_at": None if following is None else schedule.starts_at(following),
    }


def policy_values(policies: Policies) -> dict[str, object]:
    """Return the columns of policies."""
    return {
        "overlap": policies.overlap.value,
        "misfire": policies.misfire.value,
        "catch_up": policies.catch_up,
        "window_seconds": policies.window_seconds,
        "jitter_seconds": policies.jitter_seconds,
        "late_seconds": policies.late_seconds,
    }


def found(connection: Connection, actor: Actor, reference: str, *, lock: bool = False) -> Schedule:
    """Return a schedule by its id or name, locked if wanted. Raises NotFoundError."""
    workspace = actor.workspace_id
    key = parse_uuid(reference) or rows.id_of_name(connection, reference, workspace=workspace)
    stored = None if key is None else rows.get(connection, key, workspace=workspace, lock=lock)
    return present(stored, "schedule", reference)


def record(
    connection: Connection, actor: Actor, verb: str, schedule_id: UUID, **details: object
) -> None:
    """Write what was done to the audit trail."""
    audit.record(
        connection,
        actor,
        f"schedule.{verb}",
        [schedule_id],
        details=details,
        workspace_id=actor.workspace_id,
    )
