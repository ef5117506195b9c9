"""`celeriac maintenance`: the system's own periodic work."""

from typing import TYPE_CHECKING

from celeriac.cli.core.context import CommandContext, open_client

if TYPE_CHECKING:
    from celeriac import wire

_STORED_SECONDS = 60
"""Jobs that run more often have run since: of their runs one a minute is stored."""


@open_client
def maintenance(context: CommandContext) -> None:
    """List what beat does by itself: when each job ran, how often it does, and what failed.

    NEXT is `-` for a job that runs every minute or more often, unless it is late.
    A job is late if its next run has not ended in time: no beat runs, or the job hangs.
    For administrators.

    Examples:
      celeriac maintenance
      celeriac maintenance --json
    """
    context.output.write_list(
        context.client.maintenance_jobs(),
        ("NAME", "STATUS", "ENDED", "EVERY", "NEXT", "DONE", "HOST", "ERROR"),
        cells,
        limit=None,
        cut=("ERROR",),
        drop=("HOST", "DONE"),
    )


def cells(job: "wire.MaintenanceJob") -> tuple[object, ...]:
    """Return the row of a job."""
    return (
        job.name,
        "late" if job.late else "failing" if job.failures else "ok",
        job.ended_at,
        f"{job.interval_seconds:g} s",
        job.next_at if job.late or job.interval_seconds > _STORED_SECONDS else None,
        job.done,
        job.host,
        job.error,
    )
