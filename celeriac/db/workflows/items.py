"""Items of steps: their rows, results and counters."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, text

from celeriac.db.executions.guards import with_guards
from celeriac.db.executions.run_items import COUNT_DOWN, noting_ends
from celeriac.domain.workflows.records import ItemsPage, StepItem
from celeriac.domain.workflows.states import ItemStatus, StepStatus
from celeriac.kit.json_types import JsonValue, storable, storable_text


@dataclass(frozen=True, slots=True)
class NewItem:
    """An item of a step to insert."""

    item_no: int
    execution_id: UUID | None = None
    child_run_id: UUID | None = None
    approval_id: UUID | None = None
    status: StepStatus | None = None
    """Of an item that has no execution and no run."""
    result: JsonValue = None
    code: str | None = None
    message: str | None = None


_ADD_ITEMS = text("""
INSERT INTO step_items (run_id, step_no, item_no, round, execution_id, child_run_id, approval_id,
                        status, result, error_code, error_message)
SELECT :run_id, :step_no, i.item_no, :round, i.execution_id, i.child_run_id, i.approval_id,
       i.status, CAST(i.result AS json), i.code, i.message
FROM unnest(CAST(:item_nos AS int[]), CAST(:execution_ids AS uuid[]),
            CAST(:child_run_ids AS uuid[]), CAST(:approval_ids AS uuid[]),
            CAST(:statuses AS text[]), CAST(:results AS text[]), CAST(:codes AS text[]),
            CAST(:messages AS text[]))
     AS i (item_no, execution_id, child_run_id, approval_id, status, result, code, message)
""")


def add_items(
    connection: Connection, run_id: UUID, step_no: int, round_no: int, items: Sequence[NewItem]
) -> None:
    """Insert items of a step. A unique key over run, step, item and round forbids a second one."""
    connection.execute(_ADD_ITEMS, item_parameters(run_id, step_no, round_no, items))


def item_parameters(
    run_id: UUID, step_no: int, round_no: int, items: Sequence[NewItem]
) -> dict[str, object]:
    """Return the parameters of a statement that writes items of a step: an array for each value."""
    return {
        "run_id": run_id,
        "step_no": step_no,
        "round": round_no,
        "item_nos": [each.item_no for each in items],
        "execution_ids": [each.execution_id for each in items],
        "child_run_ids": [each.child_run_id for each in items],
        "approval_ids": [each.approval_id for each in items],
        "statuses": [each.status for each in items],
        "results": [None if each.result is None else storable(each.result) for each in items],
        "codes": [each.code for each in items],
        "messages": [
            None if each.message is None else storable_text(each.message) for each in items
        ],
    }


_PARTS = {
    **COUNT_DOWN,
    **noting_ends("child_run_id", " AND item_no <> ALL (CAST(:shared AS int[]))"),
}
_COUNT_DOWN = with_guards(
    """
WITH ended AS (
    SELECT *, CAST(:child_run_id AS uuid) AS id
    FROM unnest(CAST(:run_ids AS uuid[]), CAST(:step_nos AS smallint[]),
                         CAST(:item_nos AS int[]), CAST(:statuses AS text[]))
                  AS e (run_id, step_no, item_no, status)
){count_down}
SELECT count(*) FROM items_counted
""",
    {"count_down": "".join(f", {name} AS ({part})" for name, part in _PARTS.items())},
)


def count_down(
    connection: Connection,
    run_id: UUID,
    step_no: int,
    ended: Mapping[int, StepStatus],
    *,
    shared: Collection[int] = (),
    child_run_id: UUID | None = None,
) -> None:
    """Count items down that end without an execution: what can't begin, or one run of a workflow.

    `child_run_id` is that of the run. Also the items that share the execution of another one
    (`shared`): they have no end to note.
    """
    if not ended:
        return
    parameters = {
        "run_ids": [run_id] * len(ended),
        "step_nos": [step_no] * len(ended),
        "item_nos": list(ended),
        "statuses": [status.value for status in ended.values()],
        "shared": list(shared),
        "child_run_id": child_run_id,
    }
    connection.execute(_COUNT_DOWN, parameters)


_ITEMS_OF = """
SELECT i.run_id, i.step_no, i.item_no, i.round,
       coalesce(i.status, e.status, r.status, 'deleted') AS status, i.execution_id, i.child_run_id,
       i.approval_id, {result} AS result,
       coalesce(i.error_code, e.error_code, r.error_code) AS error_code,
       coalesce(i.error_message, e.error_message, r.error_message) AS error_message
FROM step_items i
LEFT JOIN executions e ON e.id = i.execution_id
LEFT JOIN execution_results x ON x.execution_id = i.execution_id
LEFT JOIN workflow_runs r ON r.id = i.child_run_id
WHERE i.run_id = :run_id AND i.step_no = :step_no AND i.round = :round
  AND i.item_no > :after {only}
ORDER BY i.item_no
LIMIT :limit
"""
RESULT = "coalesce(i.result, x.result, r.result)"
"""The result of an item `i`, with `x` of `execution_results` and `r` of `workflow_runs`."""
_NO_RESULT = "NULL::json"
_ITEMS = with_guards(_ITEMS_OF, {"result": _NO_RESULT, "only": ""})
_ITEMS_WITH_RESULTS = with_guards(_ITEMS_OF, {"result": RESULT, "only": ""})
_FAILED_ITEMS = with_guards(
    _ITEMS_OF,
    {"result": _NO_RESULT, "only": "AND coalesce(i.status, e.status, r.status) = 'failed'"},
)


def items(
    connection: Connection,
    run_id: UUID,
    step_no: int,
    round_no: int,
    *,
    after: int,
    limit: int,
    results: bool,
) -> list[StepItem]:
    """Return up to `limit` items numbered above `after`, with their results if wanted."""
    parameters = {
        "run_id": run_id,
        "step_no": step_no,
        "round": round_no,
        "after": after,
        "limit": limit,
    }
    rows = connection.execute(_ITEMS_WITH_RESULTS if results else _ITEMS, parameters)
    return [StepItem(*row) for row in rows]


_LOOKED_AT = 5_000
"""Items that one search for those with a status reads."""

_WITH_STATUS = {
    "only": """AND i.item_no <= :last
  AND coalesce(i.status, e.status, r.status, 'deleted') = :status"""
}
_FOUND = with_guards(_ITEMS_OF, {"result": _NO_RESULT, **_WITH_STATUS})
_FOUND_WITH_RESULTS = with_guards(_ITEMS_OF, {"result": RESULT, **_WITH_STATUS})
_LAST = text("""
SELECT max(item_no), count(*) FROM (
    SELECT item_no FROM step_items
    WHERE run_id = :run_id AND step_no = :step_no AND round = :round AND item_no > :after
    ORDER BY item_no LIMIT :looked_at
) AS looked_at
""")


def with_status(
    connection: Connection,
    run_id: UUID,
    step_no: int,
    round_no: int,
    *,
    status: ItemStatus,
    after: int,
    limit: int,
    results: bool,
) -> ItemsPage:
    """Return items with a status among the next ones above `after`.

    Reads a bounded number of items: a page may have few or none, and others follow.
    """
    parameters = {
        "run_id": run_id,
        "step_no": step_no,
        "round": round_no,
        "after": after,
        "looked_at": _LOOKED_AT,
    }
    last, count = connection.execute(_LAST, parameters).one()
    if not count:
        return ItemsPage((), None)
    more = {"last": last, "status": status.value, "limit": limit}
    rows = connection.execute(_FOUND_WITH_RESULTS if results else _FOUND, parameters | more)
    found = [StepItem(*row) for row in rows]
    if len(found) == limit:
        return ItemsPage(found, found[-1].item_no)
    return ItemsPage(found, last if count == _LOOKED_AT else None)


def first_failed(
    connection: Connection, run_id: UUID, step_no: int, round_no: int
) -> StepItem | None:
    """Return the first of the items that have failed, or None."""
    parameters = {
        "run_id": run_id, "step_no": step_no, "round": round_no, "after": -1, "limit": 1
    }  # fmt: skip
    row = connection.execute(_FAILED_ITEMS, parameters).first()
    return None if row is None else StepItem(*row)


_EXECUTIONS_OF = text("""
SELECT item_no, execution_id FROM step_items
WHERE run_id = :run_id AND step_no = :step_no AND round = :round
  AND item_no = ANY(CAST(:item_nos AS int[])) AND execution_id IS NOT NULL
""")


def executions_of_items(
    connection: Connection, run_id: UUID, step_no: int, round_no: int, item_nos: Sequence[int]
) -> dict[int, UUID]:
    """Return the executions of items by their numbers."""
    parameters = {
        "run_id": run_id,
        "step_no": step_no,
        "round": round_no,
        "item_nos": list(item_nos),
    }
    return {row[0]: row[1] for row in connection.execute(_EXECUTIONS_OF, parameters)}


_RUN_OF = text("""
SELECT child_run_id FROM step_items
WHERE run_id = :run_id AND step_no = :step_no AND item_no = :item_no AND round = 1
""")


def run_of_item(connection: Connection, run_id: UUID, step_no: int, item_no: int) -> UUID | None:
    """Return the run of a workflow that an item of a step without rounds is, or None."""
    parameters = {"run_id": run_id, "step_no": step_no, "item_no": item_no}
    return connection.execute(_RUN_OF, parameters).scalar_one_or_none()


_SIZE = with_guards(
    """
SELECT sum(octet_length(CAST({result} AS text))), max(i.item_no)
FROM (SELECT * FROM step_items
      WHERE run_id = :run_id AND step_no = :step_no AND round = :round AND item_no > :after
      ORDER BY item_no LIMIT :limit) AS i
LEFT JOIN LATERAL (
    SELECT result FROM execution_results WHERE execution_id = i.execution_id OFFSET 0) x ON true
LEFT JOIN LATERAL (
    SELECT result FROM workflow_runs WHERE id = i.child_run_id OFFSET 0) r ON true
""",
    {"result": RESULT},
)
_MEASURED_FIRST = 50
_MEASURED_AT_ONCE = 1_000


def results_exceed(
    connection: Connection, run_id: UUID, step_no: int, round_no: int, *, most_bytes: int
) -> bool:
    """Whether the results of a step's items have more bytes of JSON together.

    Reads no more of them than that takes: 50 first, then 1,000 at a time.
    """
    parameters = {"run_id": run_id, "step_no": step_no, "round": round_no}
    size, after, limit = 0, -1, _MEASURED_FIRST
    while size <= most_bytes:
        place = {"after": after, "limit": limit}
        row = connection.execute(_SIZE, parameters | place).one()
        if row[1] is None:
            return False
        size += row[0] or 0
        after, limit = row[1], _MEASURED_AT_ONCE
    return True


_LIVE_EXECUTIONS = text("""
SELECT id FROM executions
WHERE run_id = :run_id AND completed_at IS NULL AND cancel_requested_at IS NULL
  AND (CAST(:step_no AS smallint) IS NULL OR step_no = :step_no)
  AND (CAST(:started AS boolean) OR status IN ('pending', 'queued'))
LIMIT :limit
""")


def live_executions(
    connection: Connection, run_id: UUID, *, step_no: int | None, started: bool, limit: int
) -> list[UUID]:
    """Return executions of a run, or of a step, whose cancellation is possible.

    Without `started` only those that have not begun.
    """
    parameters = {"run_id": run_id, "step_no": step_no, "started": started, "limit": limit}
    return list(connection.execute(_LIVE_EXECUTIONS, parameters).scalars())


_RUNS_OF = text("""
SELECT DISTINCT run_id FROM executions WHERE id = ANY(CAST(:ids AS uuid[])) AND run_id IS NOT NULL
""")


def runs_of(connection: Connection, execution_ids: Sequence[UUID]) -> list[UUID]:
    """Return the runs of workflows that executions belong to."""
    return list(connection.execute(_RUNS_OF, {"ids": list(execution_ids)}).scalars())


_LACKS = text("""
SELECT EXISTS (
    SELECT FROM step_items i
    LEFT JOIN LATERAL (SELECT id FROM executions WHERE id = i.execution_id OFFSET 0) e ON true
    LEFT JOIN LATERAL (SELECT id FROM workflow_runs WHERE id = i.child_run_id OFFSET 0) r ON true
    WHERE i.run_id = :run_id AND i.status IS NULL AND e.id IS NULL AND r.id IS NULL)
""")


def lacks_results(connection: Connection, run_id: UUID) -> bool:
    """Whether an execution or a run to which an item of a run refers is deleted."""
    return bool(connection.execute(_LACKS, {"run_id": run_id}).scalar_one())


_TAKE_OVER_ITEMS = text("""
INSERT INTO step_items (run_id, step_no, item_no, round, execution_id, child_run_id, status, result,
                        taken_over)
SELECT :run_id, i.step_no, i.item_no, i.round, i.execution_id, i.child_run_id, i.status, i.result,
       true
FROM step_items i
-- one by one, by their keys, whatever the planner thinks of their numbers
LEFT JOIN LATERAL (
    SELECT status FROM executions WHERE id = i.execution_id OFFSET 0) e ON true
LEFT JOIN LATERAL (
    SELECT status FROM workflow_runs WHERE id = i.child_run_id OFFSET 0) r ON true
WHERE i.run_id = :origin_id AND i.step_no = :step_no AND i.round = 1
  AND coalesce(i.status, e.status, r.status) = 'completed'
  AND i.item_no <> ALL (CAST(:again AS int[]))
  AND NOT EXISTS (
      SELECT FROM step_items a
      WHERE a.run_id = :origin_id AND a.step_no = :step_no AND a.round = 1
        AND a.item_no = ANY (CAST(:again AS int[])) AND a.execution_id = i.execution_id)
RETURNING item_no
""")


def take_over_items(
    connection: Connection, run_id: UUID, origin_id: UUID, step_no: int, *, again: Sequence[int]
) -> list[int]:
    """Let a step of a new run begin with the completed items of another run, except `again`.

    Also except those that share an execution with one of `again`, because they have its key.
    Returns the numbers of the items that it begins with, in any order.
    """
    parameters = {
        "run_id": run_id, "origin_id": origin_id, "step_no": step_no, "again": list(again)
    }  # fmt: skip
    return list(connection.execute(_TAKE_OVER_ITEMS, parameters).scalars())


_GIVE = text("""
UPDATE step_runs
SET status = 'completed', width = 1, spawned = 1, round = 1, completed_at = now()
WHERE run_id = :run_id AND step_no = :step_no
""")


def give_result(connection: Connection, run_id: UUID, step_no: int, result: JsonValue) -> None:
    """Let a step of a new run, which is no map, have a result without running."""
    connection.execute(_GIVE, {"run_id": run_id, "step_no": step_no})
    item = NewItem(0, status=StepStatus.COMPLETED, result=result)
    add_items(connection, run_id, step_no, 1, [item])
