"""`celeriac maintenance`: the system's own periodic work."""

from celeriac.cli.core.context import CommandContext, open_client


@open_client
def maintenance(context: CommandContext) -> None:
    """List what beat does by itself: when each job ran, what failed, and when it runs next.

    A job is late if its next run has not ended in time: no beat runs, or the job hangs.
    For administrators.

    Examples:
      celeriac maintenance
      celeriac maintenance --json
    """
    context.output.write_list(
        context.client.maintenance_jobs(),
        ("NAME", "STATUS", "ENDED", "NEXT", "DONE", "HOST", "ERROR"),
        lambda each: (
            each.name,
            "late" if each.late else "failing" if each.failures else "ok",
            each.ended_at,
            each.next_at,
            each.done,
            each.host,
            each.error,
        ),
        limit=None,
        cut=("ERROR",),
        drop=("HOST", "DONE"),
    )
