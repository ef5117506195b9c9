"""Whether running executions are silent (`celeriac.domain.executions.flags`), as SQL."""

from celeriac.domain.executions.flags import SILENT_SECONDS


def is_silent(row: str) -> str:
    """Return whether a running row is silent: `id`, `active_at` and `attempt_started_at` are read.

    Questions are looked for last, and for each row: never by a hash of all that are open.
    """
    return f"""coalesce(
        now() - greatest({row}.active_at, {row}.attempt_started_at)
            > make_interval(secs => {SILENT_SECONDS:g})
        AND NOT EXISTS (SELECT FROM approvals a
                        WHERE a.execution_id = {row}.id AND a.status || '' = 'open' OFFSET 0),
        false)"""
