"""Tells webhooks that a schedule fires late."""

from datetime import datetime
from enum import StrEnum

import structlog

from celeriac.db.engine import Connection
from celeriac.db.webhooks import deliveries
from celeriac.domain.schedules.model import Schedule
from celeriac.domain.webhooks import WebhookEvent

logger = structlog.get_logger(__name__)


class Cause(StrEnum):
    """Why a fire is late."""

    KEEPER = "keeper"
    """No keeper, or no database, was there."""
    OVERLAP = "overlap"
    """It has waited for what the schedule had started before."""


def tell_if_late(
    connection: Connection,
    schedule: Schedule,
    at: datetime,
    now: datetime,
    cause: Cause,
    *,
    started: int = 1,
    missed: int = 0,
) -> None:
    """Write the event `schedule.late` if the fire for `at` is later than the schedule tolerates.

    `started` and `missed` count the fires that are handled with it. A schedule that was changed or
    resumed could not fire before that.
    """
    seconds = (now - max(schedule.starts_at(at), schedule.updated_at)).total_seconds()
    if seconds <= schedule.late_seconds:
        return
    logger.warning("schedule.late", schedule_id=schedule.id, seconds=int(seconds), cause=cause)
    deliveries.add_once(
        connection,
        schedule.workspace_id,
        event=WebhookEvent.SCHEDULE_LATE,
        once=f"late:{schedule.id}:{at.isoformat()}:{cause}",
        data={
            "schedule_id": str(schedule.id),
            "schedule": schedule.name,
            "scheduled_at": at.isoformat(),
            "seconds": int(seconds),
            "cause": cause.value,
            "started": started,
            "missed": missed,
        },
    )
