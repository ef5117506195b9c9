"""Results of the items of a step, read in pages by an execution of the same run or one below."""

from uuid import UUID

from sqlalchemy import Connection, text

from celeriac.db.executions.guards import with_guards
from celeriac.db.paging import reader
from celeriac.db.workflows.items import RESULT
from celeriac.domain.workflows.records import ResultsPage, SettledStep

_ITEMS = 500
_BYTES = 1_000_000
"""A page has results up to this size, as JSON, or one."""

_settled_step = reader(SettledStep)

_STEP = text("""
WITH RECURSIVE runs AS (
    SELECT run_id AS id, 0 AS distance FROM executions
    WHERE id = :execution_id AND run_id IS NOT NULL
    UNION
    SELECT r.parent_run_id, runs.distance + 1 FROM runs JOIN workflow_runs r ON r.id = runs.id
    WHERE r.parent_run_id IS NOT NULL AND CAST(:run_id AS uuid) IS NOT NULL
)
SELECT runs.id AS run_id, s.step_no, s.round, s.status FROM runs
LEFT JOIN step_runs s ON s.run_id = runs.id AND s.step = :step
WHERE runs.id = CAST(:run_id AS uuid) OR CAST(:run_id AS uuid) IS NULL AND runs.distance = 0
""")


def step_of(
    connection: Connection, execution_id: UUID, *, step: str, run_id: UUID | None
) -> SettledStep | None:
    """Return a step of the run that an execution belongs to, or of one of the runs above it.

    None if `run_id` is none of them, or without it if the execution belongs to no run.
    """
    parameters = {"execution_id": execution_id, "step": step, "run_id": run_id}
    row = connection.execute(_STEP, parameters).first()
    return None if row is None else _settled_step(row)


# the size as it is stored comes first: it is known without reading the result
_PAGE = with_guards(
    """
WITH found AS (
    SELECT i.item_no, {result} AS result
    FROM step_items i
    LEFT JOIN execution_results x ON x.execution_id = i.execution_id
    LEFT JOIN workflow_runs r ON r.id = i.child_run_id
    WHERE i.run_id = :run_id AND i.step_no = :step_no AND i.round = :round AND i.item_no > :after
    ORDER BY i.item_no LIMIT :limit
), kept AS (
    SELECT item_no, result, row_number() OVER w AS place,
           sum(coalesce(pg_column_size(result), 0)) OVER w AS bytes
    FROM found WINDOW w AS (ORDER BY item_no)
), page AS (
    SELECT item_no, result, place,
           sum(coalesce(octet_length(CAST(result AS text)), 0)) OVER (ORDER BY item_no) AS bytes
    FROM kept WHERE place = 1 OR bytes <= :bytes
)
SELECT item_no, result FROM page WHERE place = 1 OR bytes <= :bytes ORDER BY item_no
""",
    {"result": RESULT},
)


def page(connection: Connection, step: SettledStep, *, after: int) -> ResultsPage:
    """Return results of items numbered above `after`, as many as fit into a page."""
    parameters = {
        "run_id": step.run_id,
        "step_no": step.step_no,
        "round": step.round,
        "after": after,
        "limit": _ITEMS,
        "bytes": _BYTES,
    }
    rows = connection.execute(_PAGE, parameters).all()
    return ResultsPage([row.result for row in rows], rows[-1].item_no if rows else None)
