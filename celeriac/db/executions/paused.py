"""Whether executions are paused, as parts of the statements that choose and claim them.

A pause is a row of `pauses`. It holds for each statement that begins after its commit. The table
has few rows, and none as a rule: then a part costs one look at an empty table.

A paused queue is left out where executions are chosen, and so are all queues while the system is
paused. Their rows stay as they are, in their order, so a resumed queue continues at once, however
much waits in it. The rows of a paused task, workflow or workspace are among others of their queues:
those at the head are set aside (`pauses.set_aside`), so that nobody reads them again and again. So
are those of a paused queue that have limits by key: they must not keep slots that others need. A
paused limit, or key, has no slots: who gives them looks here, and what waits stands in its line.
"""

from celeriac.domain.executions.pauses import PauseScope

_SYSTEM = "EXISTS (SELECT FROM pauses WHERE scope = 'system')"


def _among(value: str, column: str, scope: PauseScope) -> str:
    # an array is read once for a statement, a subquery for each row; and each partition has one
    return f"{value} = ANY (ARRAY(SELECT {column} FROM pauses WHERE scope = '{scope.value}'))"


def queue_paused(queue: str) -> str:
    """Return whether `queue` is paused, or the system, as SQL."""
    return f"""EXISTS (
            SELECT FROM pauses p
            WHERE p.scope = 'system' OR p.scope = 'queue' AND p.queue = {queue}
            OFFSET 0)"""  # so it is not joined: where nothing may run nothing is read


def work_paused(row: str) -> str:
    """Return whether the task, workflow or workspace of `row` is paused, as SQL."""
    task = _among(f"{row}.task_id", "task_id", PauseScope.TASK)
    workflow = _among(f"{row}.workflow_id", "workflow_id", PauseScope.WORKFLOW)
    workspace = _among(f"{row}.workspace_id", "workspace_id", PauseScope.WORKSPACE)
    return f"({task} OR {workspace} OR coalesce({workflow}, false))"


def paused(row: str) -> str:
    """Return whether any pause is about `row`, as SQL."""
    queue = _among(f"{row}.queue", "queue", PauseScope.QUEUE)
    return f"({_SYSTEM} OR {queue} OR {work_paused(row)})"


def slots_useless(row: str) -> str:
    """Return whether `row` has limits by key, and a pause of its work or its queue, as SQL.

    It must not keep slots that others could use.
    """
    queue = _among(f"{row}.queue", "queue", PauseScope.QUEUE)
    return f"({work_paused(row)} OR {row}.limit_keys IS NOT NULL AND ({_SYSTEM} OR {queue}))"


def slots_paused(workspace: str, key: str, limit: str) -> str:
    """Return whether slots of `key`, perhaps of a row `limit`, are given to nobody, as SQL."""
    return f"""EXISTS (
            SELECT FROM pauses p
            WHERE p.workspace_id = {workspace}
              AND (p.scope = 'key' AND p.key = {key}
                   OR p.scope = 'limit' AND p.limit_id = {limit})
            OFFSET 0)"""
